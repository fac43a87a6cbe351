"""From a composed configuration to a checked one; which keys there are, for the names chosen in it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from cnntrain.config.compose import overrides, plain_config
from cnntrain.config.schema import Options, Selection
from cnntrain.config.typed import restored, typed_values
from cnntrain.config.validate import ANY, build_schema, option_hints, reject_unknown, signature, validated
from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.datasets.registry import DATASETS
from cnntrain.models import AUXILIARY, MODELS
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.ranges import NonNegative, Positive
from cnntrain.training.lr_schedules import SCHEDULES
from cnntrain.training.optimizers import OPTIMIZERS
from cnntrain.transforms.families import TRANSFORMS

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
    if left := [f"{key}=<value>" for key, value in flat(values).items() if value == "???"]:
        raise InputError(f"{' and '.join(left)} {'is' if len(left) == 1 else 'are'} missing")
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
            kinds = get_type_hints(hint, include_extras=True)
            keys |= {f"{name}.{inner}": kind for inner, kind in kinds.items()}
            keys |= {f"{name}.{inner}.{ANY}": Any for inner, kind in kinds.items() if may_be_mapping(kind)}
        options = values.get(name)
        if name in GROUPS and isinstance(options, Mapping):
            keys |= {f"{name}.{option}": kind for option, kind in GROUPS[name](options).items()}
    return keys


def may_be_mapping(hint: Any) -> bool:
    """Say whether an annotation takes a mapping, alone or among other kinds."""
    return any(get_origin(kind) is dict for kind in (hint, *get_args(hint)))


def require_names(schema: type, values: Mapping[str, Any]) -> None:
    """Raise `InputError` for a group without which a command cannot be and that names no function."""
    hints = get_type_hints(schema)
    for group, functions in named_functions().items():
        options = values.get(group)
        name = options.get("name") if isinstance(options, Mapping) else None
        if name is not None:
            validated(name, str, f"{group}.name")
        elif hints.get(group) == Options:
            raise InputError(f"{group}=<name> is missing; choose from {', '.join(functions)}")


def named_functions() -> dict[str, Mapping[str, Callable[..., Any]]]:
    """Return the functions that the name in a group chooses from; plugins may have added some."""
    readers = {name: entry.read for name, entry in DATASETS.items()}
    return {"model": MODELS, "dataset": readers, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}


def reject_misplaced(values: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that its group's chosen function lacks and another one has."""
    for group, functions in named_functions().items():
        options = values.get(group)
        if not isinstance(options, Mapping) or options.get("name") not in functions:
            continue
        for key in options.keys() - GROUPS[group](options).keys():
            if holders := [f"{group}={name}" for name, function in functions.items() if key in signature(function)]:
                others = ", ".join(holders[:4]) + (" and others" if len(holders) > 4 else "")
                raise InputError(f"{group}.{key} is no option of {group}={options['name']}, but of {others}")


def model_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    shared = {"name": str, "remove": list[str], "widen": dict[str, Positive], f"widen.{ANY}": Positive}
    return {**shared, "antialias": bool, **own_options(MODELS, options), **auxiliary_options(options)}


def dataset_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    shared = get_type_hints(Selection, include_extras=True)
    return {"name": str, **shared, **own_options(named_functions()["dataset"], options)}


def optimizer_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": str, **own_options(OPTIMIZERS, options)}


def schedule_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": str, "warmup": NonNegative, **own_options(SCHEDULES, options)}


def study_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    variants = {"variants": Any, f"variants.{ANY}": Any, "printed": Any, f"printed.{ANY}": Any}
    return {"name": str, "source": str, **variants}


def part_keys(makers: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """Return the keys of a group in which several functions are named at once."""
    keys: dict[str, Any] = {}
    for name, maker in makers.items():
        keys |= {name: Any, **{f"{name}.{option}": hint for option, hint in option_hints(maker).items()}}
    return keys


GROUPS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "model": model_keys,
    "dataset": dataset_keys,
    "augmentation": lambda _: part_keys(AUGMENTATIONS),
    "warp": lambda _: part_keys(TRANSFORMS),
    "optimizer": optimizer_keys,
    "schedule": schedule_keys,
    "study": study_keys,
}


def own_options(functions: Mapping[str, Callable[..., Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the function that a group names, with their annotations; without a name, those of all."""
    name = options.get("name")
    chosen = [functions[name]] if isinstance(name, str) and name in functions else functions.values()
    return {option: hint for function in chosen for option, hint in option_hints(function).items()}


def auxiliary_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a model's auxiliary heads, with their annotations, where it has any."""
    name = options.get("name")
    return option_hints(AUXILIARY[name]) if isinstance(name, str) and name in AUXILIARY else {}
