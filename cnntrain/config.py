"""From words to objects: the schema, the checks after composing, and the only place where a name becomes a thing.

Names are keys of explicit dictionaries of functions and their options are checked against the functions' signatures;
no configuration can name code. Everything below this module takes plain typed arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from cnntrain.bounds import NonNegative, Positive
from cnntrain.conform import ANY, build_schema, conform, conform_options, option_hints, reject_unknown, signature
from cnntrain.data.augmentation import AUGMENTATIONS, Part
from cnntrain.data.datasets import DATASETS, describe, divide, image_counts, read_whole
from cnntrain.data.families import WARPS
from cnntrain.data.sources import Card, Dataset
from cnntrain.data.splits import Member
from cnntrain.data.transformations import Warp
from cnntrain.errors import InputError, unknown
from cnntrain.files import expanded
from cnntrain.models import HEADS, MODELS
from cnntrain.models.heads import Heads
from cnntrain.models.layers import BlurPool2d
from cnntrain.models.stages import Build
from cnntrain.optim import OPTIMIZERS, SCHEDULES, learning_rates
from cnntrain.runs import flat
from cnntrain.schema import Options, Selection, Split
from cnntrain.typed import restored, typed_values

T = TypeVar("T")


# From the composed configuration to a checked one.


def read(schema: type[T], composed: DictConfig | Mapping[str, Any]) -> T:
    """Return the composed configuration as an instance of `schema`, every key and value checked.

    Keys of text get what was typed on the command line, in `composed` as well.

    Raises `InputError` naming the first key that is unknown, missing, of the wrong type or out of range.
    """
    values = keep_text(schema, composed, overrides()) if isinstance(composed, DictConfig) else plain(composed)
    require_names(schema, values)
    reject_misplaced(values)
    reject_unknown(values, set(known_keys(schema, values)))
    if left := [f"{key}=<value>" for key, value in flat(values).items() if value == "???"]:
        raise InputError(f"{' and '.join(left)} {'is' if len(left) == 1 else 'are'} missing")
    return build_schema(schema, values)


def plain(composed: DictConfig | Mapping[str, Any]) -> Options:
    """Return the composed configuration as dictionaries and lists, interpolations resolved."""
    if not isinstance(composed, DictConfig):
        return dict(composed)
    found = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def keep_text(schema: type, composed: DictConfig, words: Sequence[str]) -> Options:
    """Give every key of text in `composed` the characters that were typed; return the configuration as dictionaries."""
    for _ in range(2):  # a name that is text now tells which options there are
        values = plain(composed)
        for key, text in restored(values, typed_values(words), known_keys(schema, values)).items():
            OmegaConf.update(composed, key, text, merge=False)
    return plain(composed)


def overrides() -> list[str]:
    """Return the words of the command line that set the configuration of this job."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


# Which keys there are.


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
    for group, functions in named().items():
        options = values.get(group)
        name = options.get("name") if isinstance(options, Mapping) else None
        if name is not None:
            conform(name, str, f"{group}.name")
        elif hints.get(group) == Options:
            raise InputError(f"{group}=<name> is missing; choose from {', '.join(functions)}")


def named() -> dict[str, Mapping[str, Callable[..., Any]]]:
    """Return the functions that the name in a group chooses from; plugins may have added some."""
    readers = {name: entry.read for name, entry in DATASETS.items()}
    return {"model": MODELS, "dataset": readers, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}


def reject_misplaced(values: Mapping[str, Any]) -> None:
    """Raise `InputError` for an option that its group's chosen function lacks and another one has."""
    for group, functions in named().items():
        options = values.get(group)
        if not isinstance(options, Mapping) or options.get("name") not in functions:
            continue
        for key in options.keys() - GROUPS[group](options).keys():
            if holders := [f"{group}={name}" for name, function in functions.items() if key in signature(function)]:
                others = ", ".join(holders[:4]) + (" and others" if len(holders) > 4 else "")
                raise InputError(f"{group}.{key} is no option of {group}={options['name']}, but of {others}")


def model_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    shared = {"name": str, "remove": list[str], "widen": dict[str, Positive], f"widen.{ANY}": Positive}
    return {**shared, "antialias": bool, **own_options(MODELS, options), **heads_options(options)}


def dataset_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    shared = get_type_hints(Selection, include_extras=True)
    return {"name": str, **shared, **own_options(named()["dataset"], options)}


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
    "warp": lambda _: part_keys(WARPS),
    "optimizer": optimizer_keys,
    "schedule": schedule_keys,
    "study": study_keys,
}


def own_options(functions: Mapping[str, Callable[..., Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the function that a group names, with their annotations; without a name, those of all."""
    name = options.get("name")
    chosen = [functions[name]] if isinstance(name, str) and name in functions else functions.values()
    return {option: hint for function in chosen for option, hint in option_hints(function).items()}


def heads_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a model's auxiliary heads, with their annotations, where it has any."""
    name = options.get("name")
    return option_hints(HEADS[name]) if isinstance(name, str) and name in HEADS else {}


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


def build_model(options: Options, card: Card, **build: Any) -> nn.Sequential:
    """Build the network for the dataset's images and classes; `build` says seed and device."""
    remove = conform(options.get("remove") or [], list[str], "model.remove")
    if twice := next((name for name in remove if remove.count(name) > 1), None):
        raise InputError(f"model.remove names {twice} twice")
    widen = conform(options.get("widen") or {}, dict[str, Positive], "model.widen")
    blurred = conform(options.get("antialias", False), bool, "model.antialias")
    function = bind("model", MODELS, options, apart=("remove", "widen", "antialias", *heads_options(options)))
    settings: Build = {"remove": remove, "widen": widen, "antialias": blurred, **build}  # type: ignore[typeddict-item]
    net: nn.Sequential = function(card.shape, len(card.classes), **settings)
    if not isinstance(net, nn.Sequential):
        raise InputError(
            f"model={options['name']} gives a plain {type(net).__name__}, and a network is a chain of named stages: "
            "return assemble(…), or finished(drawn(…), …) of cnntrain.models.foreign"
        )
    if blurred and not any(isinstance(module, BlurPool2d) for module in net.modules()):
        raise InputError(f"model.antialias=true: {options['name']} has no stage that strides and could be blurred")
    return net


def build_heads(options: Options, net: nn.Sequential, card: Card, **build: Any) -> Heads | None:
    """Build the companion that trains a network with auxiliary heads; None where it has none or is to go without."""
    if options["name"] not in HEADS:
        return None
    function = HEADS[options["name"]]
    given = {key: options[key] for key in heads_options(options) if key in options}
    companion = function(net, card.shape, len(card.classes), **conform_options("model", function, given), **build)
    return companion if companion.at else None


def selection(options: Options) -> Selection:
    """Return the part of a dataset's options that all datasets share."""
    return build_schema(Selection, {"cache": "auto", **options}, "dataset.")


def dataset_options(options: Options) -> tuple[str, Options]:
    """Return a dataset's name and the options of its own, checked."""
    shared = [field.name for field in fields(Selection)]
    bound = bind("dataset", named()["dataset"], options, apart=shared)
    assert isinstance(bound, partial)
    return str(options["name"]), dict(bound.keywords)


def dataset_root(options: Options, data_root: str) -> Path:
    """Return the folder that holds a dataset: its own root, else the common one, in which only named datasets lie.

    Raises `InputError` for an image folder that is not named.
    """
    if options.get("name") == "folder" and not options.get("root"):
        raise InputError("dataset.root is missing: the folder that holds the class folders, or train, val and test")
    return expanded(options.get("root") or data_root)


def dataset_card(options: Options, data_root: str) -> Card:
    """Return what is known of the dataset without reading its images."""
    name, own = dataset_options(options)
    return describe(name, dataset_root(options, data_root), own, classes=selection(options).class_names)


def fit_images(options: Options, card: Card) -> Options:
    """Return a dataset's options with image size and channels set to those of `card`, where the dataset has them."""
    _, own = dataset_options(options)
    wanted = {"image_size": card.shape[1], "channels": card.shape[0]}
    return options | {key: value for key, value in wanted.items() if key in own}


def read_dataset(options: Options, data_root: str) -> Dataset:
    """Read a dataset as it lies, with the splits that it brings, the images of files not yet decoded."""
    name, own = dataset_options(options)
    return read_whole(name, dataset_root(options, data_root), own, classes=selection(options).class_names)


def divide_dataset(
    whole: Dataset,
    options: Options,
    data_root: str,
    seed: int,
    *,
    only: Split | None = None,
    listed: Sequence[Member] | None = None,
) -> Dataset:
    """Divide a dataset as the configuration says, or as its files are `listed`; `only` one split may be needed."""
    chosen = selection(options)
    return divide(
        whole,
        packs=expanded(data_root) / ".cnntrain",
        train_size=chosen.train_size,
        val_size=chosen.val_size,
        workers=chosen.workers,
        cache=chosen.cache,
        seed=seed,
        only=only,
        listed=listed,
    )


def load_dataset(options: Options, data_root: str, seed: int, **how: Any) -> Dataset:
    """Read a dataset and divide it; `how` says what `divide_dataset` takes besides."""
    return divide_dataset(read_dataset(options, data_root), options, data_root, seed, **how)


def count_images(options: Options, data_root: str) -> tuple[int, int, int]:
    """Return about how many training, validation and test images a dataset has, without reading them."""
    (name, own), chosen = dataset_options(options), selection(options)
    return image_counts(
        name,
        dataset_root(options, data_root),
        own,
        train_size=chosen.train_size,
        val_size=chosen.val_size,
        classes=chosen.class_names,
    )


def build_parts(options: Options) -> dict[str, Part]:
    """Return the augmentations in the order of the configuration; a null one is left out."""
    parts = {}
    for name, given in options.items():
        if given is not None:
            maker = AUGMENTATIONS[name]
            parts[name] = maker(**conform_options(f"augmentation.{name}", maker, given))
    return parts


def build_warps(options: Options, card: Card) -> list[Warp]:
    """Return the families of transformations of the configuration for the dataset's images; a null one is left out."""
    return [
        WARPS[name](card.shape, **conform_options(f"warp.{name}", WARPS[name], given))
        for name, given in options.items()
        if given is not None
    ]


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
    return ["cnntrain", command, *(word.removeprefix("++") for word in overrides())]
