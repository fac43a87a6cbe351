"""Values against annotations: what a key may hold is written where a function or a schema declares it."""

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cnntrain.runtime.errors import InputError, nearest
from cnntrain.runtime.ranges import Range

T = TypeVar("T")
MOST = 3  # keys that are offered instead of an unknown one
ANY = "*"  # the end of a known key below which any name may stand


def build_schema(schema: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Fill a schema from values whose keys are known."""
    if not isinstance(values, Mapping):
        raise wrong_type(where.removesuffix("."), values, dict)
    hints, filled = get_type_hints(schema, include_extras=True), {}
    for field in fields(schema):  # type: ignore[arg-type]
        if field.name not in values:
            raise InputError(f"{where}{field.name} is missing")
        filled[field.name] = validated(values[field.name], hints[field.name], f"{where}{field.name}")
    return schema(**filled)


def validated(value: Any, hint: Any, key: str) -> Any:
    """Return `value` as the annotation wants it.

    Raises `InputError` naming `key` and what it may be.
    """
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return build_schema(hint, value, f"{key}.")
    origin, args = get_origin(hint), get_args(hint)
    if origin is dict and value is None and not accepts(None, args[1]):
        return {}  # as null takes one entry away, it takes away all
    if origin is Annotated:
        number, bounds = validated(value, args[0], key), args[1]
        if isinstance(bounds, Range) and number not in bounds:
            raise InputError(f"{key}={value} is out of range: it must be {bounds}")
        return number
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            match = nearest(str(value), map(str, args))
            hint = f"did you mean {f'{key}={match}'!r}?" if match else f"choose from {', '.join(map(str, args))}"
            raise InputError(f"unknown value {f'{key}={value}'!r}; {hint}")
        return value
    if origin in (Union, types.UnionType):
        for arg in args:
            if accepts(value, arg):
                return validated(value, arg, key)
        raise wrong_type(key, value, hint)
    if not accepts(value, hint):
        raise wrong_type(key, value, hint)
    if origin in (list, tuple, Sequence):
        return origin_of(origin)(validated(item, args[0], f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict:  # of two entries that mean one name the later counts; null takes an entry away
        entries = {validated_name(name, args[0], key): (f"{key}.{name}", item) for name, item in value.items()}
        present = {name: entry for name, entry in entries.items() if entry[1] is not None or accepts(None, args[1])}
        return {name: validated(item, args[1], where) for name, (where, item) in present.items()}
    return float(value) if hint is float else value


def kinds(hint: Any) -> tuple[Any, ...]:
    """Return the annotations of which an annotation takes any one."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def validated_name(name: Any, hint: Any, key: str) -> Any:
    """Return what an entry of the mapping `key` is called as the annotation wants it; JSON keeps numbers as text."""
    return name if hint is str else validated(int(name) if str(name).isdecimal() else name, hint, key)


def origin_of(origin: Any) -> type:
    """Return the type to build for a sequence annotation."""
    return tuple if origin is tuple else list


def accepts(value: Any, hint: Any) -> bool:
    """Say whether the kind of `value` fits an annotation; whole numbers are numbers, truth values are not."""
    origin = get_origin(hint) or hint
    if origin is Annotated:
        return accepts(value, get_args(hint)[0])
    if origin is Literal:
        return value in get_args(hint)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is type(None):
        return value is None
    return origin is Any or isinstance(value, origin)


def may_be_mapping(hint: Any) -> bool:
    """Say whether an annotation takes a mapping, alone or among other kinds."""
    return any(get_origin(kind) is dict for kind in kinds(hint))


WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    dict: "options",
}


def wrong_type(key: str, value: Any, hint: Any) -> InputError:
    """Say what a key should have held."""

    def word(part: Any) -> str:
        origin = get_origin(part) or part
        if origin is Annotated:
            return word(get_args(part)[0])
        if origin in (Union, types.UnionType):
            return " or ".join(word(arg) for arg in get_args(part))
        if origin is Literal:
            return " or ".join(map(str, get_args(part)))
        if origin is dict and get_args(part)[1:] not in ((), (Any,)):
            name, item = get_args(part)
            return f"{{{'name' if name is str else word(name)}: {word(item)}, …}}"
        return "a list" if origin in (list, tuple, Sequence) else WORDS.get(origin, str(part))

    quotes = " (in a file, in quotes)" if isinstance(value, bool | float) and str in kinds(hint) else ""
    return InputError(f"{key}={value} should be {word(hint)}{quotes}")


def signature(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function that have a default: the options that a configuration may give."""
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.default is not parameter.empty}


def option_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a function with their annotations."""
    hints = get_type_hints(function.func if isinstance(function, partial) else function, include_extras=True)
    return {name: hints.get(name, Any) for name in signature(function)}


def validated_options(where: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values against the annotations of a function's options."""
    hints = option_hints(function)
    if not isinstance(given, Mapping):
        raise wrong_type(where, given, dict)
    for key in given:
        if key not in hints:
            raise InputError(f"unknown key '{where}.{key}'; choose from {', '.join(hints)}")
    return {key: validated(value, hints[key], f"{where}.{key}") for key, value in given.items()}


def reject_unknown(values: Mapping[str, Any], known: set[str], where: str = "") -> None:
    """Raise `InputError` for the first key that is not known, with those that may be meant."""
    for name, value in values.items():
        key = f"{where}{name}"
        if key not in known:
            siblings = sorted(k for k in known if k.startswith(where) and "." not in k[len(where) :])
            hint = did_you_mean(nearest_keys(key, known)) or f"choose from {', '.join(siblings)}"
            raise InputError(f"unknown key {key!r}; {hint}")
        if isinstance(value, Mapping) and f"{key}.{ANY}" not in known:
            reject_unknown(value, known, f"{key}.")


def did_you_mean(keys: Sequence[str]) -> str:
    """Ask whether one of a few keys is meant; nothing without any."""
    return f"did you mean {' or '.join(map(repr, keys))}?" if keys else ""


def nearest_keys(key: str, known: Iterable[str]) -> list[str]:
    """Return the keys that were most likely meant: the same word in other groups, else one that is near."""
    group, _, word = key.rpartition(".")
    places: dict[str, list[str]] = {}
    for name in sorted(known):
        places.setdefault(name.rpartition(".")[2], []).append(name)
    places.pop(ANY, None)
    siblings = {word: name for word, names in places.items() for name in names if name.rpartition(".")[0] == group}
    if word in places:
        return places[word][:MOST]
    if sibling := nearest(word, siblings):
        return [siblings[sibling]]
    groups = {name.rpartition(".")[0] for name in known} - {""}
    if group and group not in groups and (match := nearest(group, groups)):
        return nearest_keys(f"{match}.{word}", known)
    leaf = nearest(word, places)
    return places[leaf][:MOST] if leaf else []
