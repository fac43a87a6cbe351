"""From words to objects: the schema, the checks after composing, and the only place where a name becomes a thing.

Names are keys of explicit dictionaries of functions and their options are checked against the functions' signatures;
no configuration can name code. Everything below this module takes plain typed arguments.
"""

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from cnntrain.bounds import Bounds, Count, Fraction, Natural, NonNegative
from cnntrain.data.augmentation import AUGMENTATIONS, Part
from cnntrain.data.datasets import DATASETS, describe, load
from cnntrain.data.sources import Card, Dataset
from cnntrain.devices import Precision
from cnntrain.errors import InputError, nearest, unknown
from cnntrain.models import MODELS
from cnntrain.models.stages import Build
from cnntrain.optim import OPTIMIZERS, SCHEDULES, learning_rates

Options = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Trainer:
    """How long, in what steps and in what precision a network learns."""

    epochs: Count
    batch_size: Count
    accumulate: Count
    precision: Precision
    label_smoothing: Fraction
    clip: NonNegative
    ema: Fraction
    validate_every: Count
    patience: Natural
    log_every: Count
    eval_batch_size: Count


@dataclass(frozen=True)
class Selection:
    """Which images of a dataset are used, and how they are read."""

    root: str | None
    train_size: int | float | None  # a number of images, or a fraction of them
    val_size: int | float
    classes: list[str | int] | None
    balance: Literal["none", "weights", "sampling"]
    workers: Natural


@dataclass(frozen=True)
class Shared:
    """What every command takes."""

    device: str
    data_root: str
    plugins: list[str]


@dataclass(frozen=True)
class Fit(Shared):
    """`cnntrain fit`."""

    model: Options
    dataset: Options
    augmentation: Options
    optimizer: Options
    schedule: Options
    trainer: Trainer
    seed: Natural
    deterministic: bool
    output_dir: str | None
    init_from: str | None


@dataclass(frozen=True)
class Eval(Shared):
    """`cnntrain eval`."""

    run: str
    dataset: Options | None
    split: Literal["train", "val", "test"]
    weights: Literal["best", "last"]
    tta: Literal["none", "flip", "shift", "flip_shift"]
    precision: Precision
    batch_size: Count
    output_dir: str | None


@dataclass(frozen=True)
class Predict(Shared):
    """`cnntrain predict`."""

    run: str
    images: list[str] | str
    weights: Literal["best", "last"]
    precision: Precision
    batch_size: Count
    output_dir: str | None


@dataclass(frozen=True)
class Describe(Shared):
    """`cnntrain describe`."""

    run: str | None
    model: Options
    dataset: Options
    table: Literal["text", "markdown", "csv"]


# From the composed configuration to a checked one.


def read(schema: type[T], composed: DictConfig | Mapping[str, Any]) -> T:
    """Return the composed configuration as an instance of `schema`, every key and value checked, plugins imported.

    Raises `InputError` naming the first key that is unknown, missing, of the wrong type or out of range.
    """
    values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True) if isinstance(composed, DictConfig) else composed
    assert isinstance(values, Mapping)  # noqa: S101 - a command's configuration is a mapping
    import_plugins(values.get("plugins") or [])
    reject_unknown(values, known_keys(schema, values))
    return build_schema(schema, values)


def import_plugins(names: Sequence[str]) -> None:
    """Import modules of the user's own, which may add to the dictionaries of models, datasets and the rest."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        for name in names:
            importlib.import_module(name)
            print(f"plugin {name} imported", file=sys.stderr)
    except ImportError as error:
        raise InputError(f"plugins: {error}") from error
    finally:
        sys.path.pop(0)


def build_schema(schema: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Fill a schema from values whose keys are known."""
    hints, filled = get_type_hints(schema, include_extras=True), {}
    for field in fields(schema):  # type: ignore[arg-type]
        if field.name not in values:
            raise InputError(f"{where}{field.name} is missing")
        filled[field.name] = conform(values[field.name], hints[field.name], f"{where}{field.name}")
    return schema(**filled)


def conform(value: Any, hint: Any, key: str) -> Any:
    """Return `value` as the annotation wants it.

    Raises `InputError` naming `key` and what it may be.
    """
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return build_schema(hint, value, f"{key}.")
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        number, bounds = conform(value, args[0], key), args[1]
        if isinstance(bounds, Bounds) and number not in bounds:
            raise InputError(f"{key}={value} is out of range: it must be {bounds}")
        return number
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise InputError(str(unknown("value", f"{key}={value}", [f"{key}={arg}" for arg in args])))
        return value
    if origin in (Union, types.UnionType):
        for arg in args:
            if accepts(value, arg):
                return conform(value, arg, key)
        raise wrong_type(key, value, hint)
    if not accepts(value, hint):
        raise wrong_type(key, value, hint)
    if origin in (list, tuple, Sequence):
        return origin_of(origin)(conform(item, args[0], f"{key}[{i}]") for i, item in enumerate(value))
    return float(value) if hint is float else value


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
        return "a list" if origin in (list, tuple, Sequence) else WORDS.get(origin, str(part))

    return InputError(f"{key}={value} should be {word(hint)}")


# Which keys there are.


def known_keys(schema: type, values: Mapping[str, Any]) -> set[str]:
    """Return every dotted key that the composed configuration may hold, for the names chosen in it."""
    keys: set[str] = set()
    for field in fields(schema):
        hint = get_type_hints(schema)[field.name]
        keys.add(field.name)
        if hasattr(hint, "__dataclass_fields__"):
            keys |= {f"{field.name}.{inner.name}" for inner in fields(hint)}
        options = values.get(field.name)
        if field.name in GROUPS and isinstance(options, Mapping):
            keys |= {f"{field.name}.{option}" for option in GROUPS[field.name](options)}
    return keys


def model_keys(options: Mapping[str, Any]) -> Iterator[str]:
    yield from ("name", "remove", *own_options(MODELS, options))


def dataset_keys(options: Mapping[str, Any]) -> Iterator[str]:
    yield from ("name", *(field.name for field in fields(Selection)))
    yield from own_options({name: entry.read for name, entry in DATASETS.items()}, options)


def augmentation_keys(options: Mapping[str, Any]) -> Iterator[str]:
    for name, maker in AUGMENTATIONS.items():
        yield name
        yield from (f"{name}.{option}" for option in signature(maker))


def optimizer_keys(options: Mapping[str, Any]) -> Iterator[str]:
    yield from ("name", *own_options(OPTIMIZERS, options))


def schedule_keys(options: Mapping[str, Any]) -> Iterator[str]:
    yield from ("name", "warmup", *own_options(SCHEDULES, options))


GROUPS: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "model": model_keys,
    "dataset": dataset_keys,
    "augmentation": augmentation_keys,
    "optimizer": optimizer_keys,
    "schedule": schedule_keys,
}


def own_options(functions: Mapping[str, Callable[..., Any]], options: Mapping[str, Any]) -> list[str]:
    """Return the options of the function that a group names; without a name, those of all."""
    chosen = [functions[options["name"]]] if options.get("name") in functions else list(functions.values())
    return [option for function in chosen for option in signature(function)]


def signature(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function that have a default: the options that a configuration may give."""
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.default is not parameter.empty}


def reject_unknown(values: Mapping[str, Any], known: set[str], where: str = "") -> None:
    """Raise `InputError` for the first key that is not known, with the nearest that is."""
    for name, value in values.items():
        key = f"{where}{name}"
        if key not in known:
            match = nearest_key(key, known)
            siblings = sorted(k for k in known if k.startswith(where) and "." not in k[len(where) :])
            hint = f"did you mean {match!r}?" if match else f"choose from {', '.join(siblings)}"
            raise InputError(f"unknown key {key!r}; {hint}")
        if isinstance(value, Mapping):
            reject_unknown(value, known, f"{key}.")


def nearest_key(key: str, known: set[str]) -> str | None:
    """Return the key that was most likely meant: the same word elsewhere, a sibling, or what looks like it."""
    group, _, word = key.rpartition(".")
    leaves = {name.rpartition(".")[2]: name for name in sorted(known, reverse=True)}
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    if sibling := nearest(word, siblings):
        return siblings[sibling]
    if word in leaves:
        return leaves[word]
    if match := nearest(key, known):
        return match
    leaf = nearest(word, leaves)
    return leaves[leaf] if leaf else None


# From names to objects.


def bind(
    group: str, functions: Mapping[str, Callable[..., Any]], options: Mapping[str, Any], *, apart: Sequence[str] = ()
) -> Callable[..., Any]:
    """Return the function that `options` name, with their other values bound; keys in `apart` belong to the caller.

    Raises `InputError` for an unknown name or a value that the function's annotations exclude.
    """
    name = options.get("name")
    if name not in functions:
        raise InputError(str(unknown(group, str(name), functions)))
    function = functions[str(name)]
    given = {key: value for key, value in options.items() if key not in ("name", *apart)}
    return partial(function, **conform_options(group, function, given))


def conform_options(where: str, function: Callable[..., Any], given: Mapping[str, Any]) -> Options:
    """Check values against the annotations of a function's options."""
    target = function.func if isinstance(function, partial) else function
    hints, own = get_type_hints(target, include_extras=True), signature(function)
    for key in given:
        if key not in own:
            raise InputError(f"unknown key '{where}.{key}'; choose from {', '.join(own)}")
    return {key: conform(value, hints[key], f"{where}.{key}") for key, value in given.items()}


def build_model(options: Options, card: Card, **build: Any) -> nn.Sequential:
    """Build the network for the dataset's images and classes; `build` says seed and device."""
    remove = conform(options.get("remove") or [], list[str], "model.remove")
    function = bind("model", MODELS, options, apart=("remove",))
    settings: Build = {"remove": remove, **build}  # type: ignore[typeddict-item]
    net: nn.Sequential = function(card.shape, len(card.classes), **settings)
    return net


def selection(options: Options) -> Selection:
    """Return the part of a dataset's options that all datasets share."""
    chosen = build_schema(Selection, options, "dataset.")
    # Digits are typed as numbers and named in words.
    return replace(chosen, classes=[str(name) for name in chosen.classes]) if chosen.classes is not None else chosen


def dataset_options(options: Options) -> tuple[str, Options]:
    """Return a dataset's name and the options of its own, checked."""
    readers = {name: entry.read for name, entry in DATASETS.items()}
    shared = [field.name for field in fields(Selection)]
    bound = bind("dataset", readers, options, apart=shared)
    assert isinstance(bound, partial)  # noqa: S101 - bind returns one
    return str(options["name"]), dict(bound.keywords)


def dataset_root(options: Options, data_root: str) -> Path:
    """Return the folder that holds a dataset: its own root, else the common one, in which only named datasets lie.

    Raises `InputError` for an image folder that is not named.
    """
    if options.get("name") == "folder" and not options.get("root"):
        raise InputError("dataset.root is missing: the folder that holds the class folders, or train, val and test")
    return Path(options.get("root") or data_root).expanduser()


def dataset_card(options: Options, data_root: str) -> Card:
    """Return what is known of the dataset without reading its images."""
    name, own = dataset_options(options)
    return describe(name, dataset_root(options, data_root), own, classes=selection(options).classes)


def fit_images(options: Options, card: Card) -> Options:
    """Return a dataset's options with image size and channels set to those of `card`, where the dataset has them."""
    _, own = dataset_options(options)
    wanted = {"image_size": card.shape[1], "channels": card.shape[0]}
    return options | {key: value for key, value in wanted.items() if key in own}


def load_dataset(options: Options, data_root: str, seed: int) -> Dataset:
    """Read the dataset, divided as the configuration says."""
    (name, own), chosen = dataset_options(options), selection(options)
    return load(
        name,
        dataset_root(options, data_root),
        own,
        train_size=chosen.train_size,
        val_size=chosen.val_size,
        classes=chosen.classes,
        workers=chosen.workers,
        seed=seed,
    )


def build_parts(options: Options) -> dict[str, Part]:
    """Return the augmentations in the order of the configuration; a null one is left out."""
    parts = {}
    for name, given in options.items():
        if given is not None:
            maker = AUGMENTATIONS[name]
            parts[name] = maker(**conform_options(f"augmentation.{name}", maker, given))
    return parts


def build_optimizer(options: Options, net: nn.Module) -> Optimizer:
    """Return the optimizer of a network's parameters."""
    optimizer: Optimizer = bind("optimizer", OPTIMIZERS, options)(net)
    return optimizer


def build_rates(options: Options, peak: float, epochs: int, per_epoch: int) -> list[float]:
    """Return the learning rate of every step of a run."""
    schedule: Callable[[np.ndarray, int], np.ndarray] = bind("schedule", SCHEDULES, options, apart=("warmup",))
    warmup = conform(options.get("warmup", 0), NonNegative, "schedule.warmup")
    return learning_rates(peak, epochs * per_epoch, schedule, warmup=round(warmup * per_epoch))


def command_line(command: str) -> list[str]:
    """Return the words that start this run again."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return ["cnntrain", command, *(word.removeprefix("++") for word in overrides)]
