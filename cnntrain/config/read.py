"""From a composed configuration to a checked one; which keys there are, for the names chosen in it."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf

from cnntrain.config.compose import overrides, plain_config
from cnntrain.config.groups import CHOICES, GROUPS
from cnntrain.config.schema import Options
from cnntrain.config.typed import restored, typed_values
from cnntrain.config.validate import ANY, build_schema, kinds, may_be_mapping, reject_unknown, signature, validated
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import flat

T = TypeVar("T")


def read_config(schema: type[T], composed: DictConfig | Mapping[str, Any]) -> T:
    """Return the composed configuration as an instance of `schema`, every key and value checked.

    Keys of text get what was typed on the command line, in `composed` as well.

    Raises `InputError` naming the first key that is unknown, missing, of the wrong type or out of range.
    """
    values = keep_text(schema, composed, overrides()) if isinstance(composed, DictConfig) else plain_config(composed)
    require_names(schema, values)
    reject_misplaced(values)
    reject_unknown(values, set(known_keys(schema, values)))
    if missing := [key for key, value in flat(values).items() if value == "???"]:
        words = " and ".join(f"{key}=<value>" for key in missing)
        hint = "; run=latest is the training started last" if "run" in missing else ""
        raise InputError(f"{words} {'is' if len(missing) == 1 else 'are'} missing{hint}")
    return build_schema(schema, values)


def keep_text(schema: type, composed: DictConfig, words: Sequence[str]) -> Options:
    """Give every key of text in `composed` the characters that were typed; return the configuration as dictionaries."""
    for _ in range(2):  # a name that is text now tells which options there are
        values = plain_config(composed)
        for key, text in restored(values, typed_values(words), known_keys(schema, values)).items():
            OmegaConf.update(composed, key, text, merge=False)
    return plain_config(composed)


def known_keys(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return every key that a configuration may hold, for the names chosen in it, with its annotation."""
    keys: dict[str, Any] = {}
    for name, hint in get_type_hints(schema, include_extras=True).items():
        keys[name] = hint
        if hasattr(hint, "__dataclass_fields__"):
            inside = get_type_hints(hint, include_extras=True)
            keys |= {f"{name}.{inner}": kind for inner, kind in inside.items()}
            keys |= {f"{name}.{inner}.{ANY}": Any for inner, kind in inside.items() if may_be_mapping(kind)}
        elif may_be_mapping(hint) and Options not in kinds(hint):  # options have keys of their own
            keys[f"{name}.{ANY}"] = Any
        options = values.get(name)
        if name in GROUPS and isinstance(options, Mapping):
            keys |= {f"{name}.{option}": kind for option, kind in GROUPS[name].keys(options).items()}
    return keys


def require_names(schema: type, values: Mapping[str, Any]) -> None:
    """Raise `InputError` for a group without which a command cannot be and that names no function."""
    hints = get_type_hints(schema)
    for group in CHOICES.values():
        options = values.get(group.name)
        name = options.get("name") if isinstance(options, Mapping) else None
        if name is not None:
            validated(name, str, f"{group.name}.name")
        elif hints.get(group.name) == Options:
            raise InputError(f"{group.name}=<name> is missing; choose from {', '.join(group.functions)}")


def reject_misplaced(values: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that its group's chosen function lacks and another one has."""
    for name, group in CHOICES.items():
        options = values.get(name)
        if not isinstance(options, Mapping) or options.get("name") not in group.functions:
            continue
        for key in options.keys() - group.keys(options).keys():
            holders = [f"{name}={other}" for other, function in group.functions.items() if key in signature(function)]
            if holders:
                others = ", ".join(holders[:4]) + (" and others" if len(holders) > 4 else "")
                raise InputError(f"{name}.{key} is not an option of {name}={options['name']} but of {others}")
