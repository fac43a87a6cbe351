"""From the checked options of a group to its object: the only place where a name becomes a thing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from cnntrain.config.groups import BUILD_HINTS, GROUPS, ConfigGroup
from cnntrain.config.schema import Options, Selection, SplitName
from cnntrain.config.validate import build_schema, validated, validated_options
from cnntrain.data.augment.augmentations import Augmentation
from cnntrain.data.datasets.divide import divide
from cnntrain.data.datasets.registry import SelectedDataset, image_counts, select
from cnntrain.data.datasets.splits import Member
from cnntrain.data.storage.images import Dataset, DatasetInfo
from cnntrain.models import GIVES, TEXT
from cnntrain.nn.added import ADDABLE
from cnntrain.nn.attention import SpatialAttention
from cnntrain.nn.auxiliary import AuxiliaryClassifiers
from cnntrain.nn.layers import BlurPool2d
from cnntrain.nn.probe import ended_by_probe
from cnntrain.nn.shapes import Shape, describe_shape, shape_after
from cnntrain.nn.stages import AddedStage, BuildOptions, refuse_shared_stages
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, unknown
from cnntrain.runtime.ranges import NonNegative
from cnntrain.tasks import TASKS, task_for
from cnntrain.training.lr_schedules import learning_rates
from cnntrain.training.optimizers import split_by_stage, stage_factors
from cnntrain.transforms.transform import Transform

# Datasets that lie nowhere unless it is said where.
WHERE = {
    "folder": "the folder that holds the class folders, or train, val and test",
    "sentences": "a file of labelled sentences, or a folder of such files",
}
# What a dataset's options mean where they do not say it.
SELECTION: Options = {"cache": "auto", "folds": None, "fold": None, "groups": None}


def own_options(group: ConfigGroup, options: Options) -> Options:
    """Return the values of the options that only the function chosen has, checked; shared and auxiliary keys are not.

    Raises `InputError` for an unknown name or a value that the function's annotations exclude.
    """
    name = str(options.get("name"))
    if name not in group.functions:
        raise unknown(group.name, name, group.functions)
    others = {"name", *group.shared, *group.auxiliary_keys(options)}
    given = {key: value for key, value in options.items() if key not in others}
    return validated_options(group.name, group.functions[name], given)


def bind(group: ConfigGroup, options: Options) -> Callable[..., Any]:
    """Return the function that `options` choose in a group, with its own options bound.

    Raises `InputError` as `own_options` does.
    """
    given = own_options(group, options)
    return partial(group.functions[options["name"]], **given)


def bind_several(group: ConfigGroup, options: Options) -> dict[str, Callable[..., Any]]:
    """Return by name the functions that `options` list, in their order, with their options bound; not those of null."""
    named = {name: (group.functions[name], given) for name, given in options.items() if given is not None}
    return {
        name: partial(function, **validated_options(f"{group.name}.{name}", function, given))
        for name, (function, given) in named.items()
    }


def build_model(options: Options, info: DatasetInfo, *, seed: int = 0, device: str = "cpu") -> nn.Sequential:
    """Build the network for the dataset's images and classes, with initial weights of `seed`."""
    build = replace(build_options(options, seed, device), words=info.words)
    name = str(options["name"])
    refuse_other_input(name, info)
    if name in GIVES:
        refuse_other_answers(name, None, info)
    function = bind(GROUPS["model"], options)
    net: nn.Sequential = function(info.shape, len(info.classes), build=build)
    if not isinstance(net, nn.Sequential):
        raise InputError(
            f"model={options['name']} gives a plain {type(net).__name__}, and a network is a chain of named stages: "
            "return assemble(…), or finished(drawn(…), …) of cnntrain.models.external"
        )
    refuse_shared_stages(net)
    if name not in GIVES:
        refuse_other_answers(name, shape_after(net, info.shape), info)
    for stage, reduction in build.probe.items():
        net = ended_by_probe(net, stage, reduction, info.shape, len(info.classes), seed=seed, device=device)
    if build.antialias and not any(isinstance(module, BlurPool2d) for module in net.modules()):
        raise InputError(
            f"model.antialias=true: {options['name']} has no stage that strides, so nothing can be blurred"
        )
    if build.attention and not any(isinstance(module, SpatialAttention) for module in net.modules()):
        raise InputError(
            f"model.attention=true: {options['name']} has no global average pooling that attention could replace"
        )
    return net


def refuse_other_input(name: str, info: DatasetInfo) -> None:
    """Raise `InputError` for a network of words where there are images, and the reverse."""
    if name in GIVES and (name in TEXT) != bool(info.words):
        reads, given, others = ("words", "images", "dataset=sentences or dataset=grammar")
        if info.words:
            reads, given, others = "images", "sentences", " or ".join(f"model={other}" for other in TEXT)
        raise InputError(f"model={name} reads {reads}, and {info} has {given}: take {others}")


def refuse_other_answers(name: str, answer: Shape | None, info: DatasetInfo) -> None:
    """Raise `InputError` for a network that answers another question than the dataset has answers to.

    Of our own networks this is known by their names, of a plugin's by the shape of its `answer`.
    """
    task = task_for(info)
    if answer is not None:
        fits, gives = task.reads(answer), f"answers {describe_shape(answer)} to an image"
    else:
        fits = task.targets == GIVES[name]
        gives = f"gives {next(other.gives for other in TASKS.values() if other.targets == GIVES[name])}"
    if not fits:
        fitting = [other for other, what in GIVES.items() if what == task.targets]
        named = ", ".join(fitting) if len(fitting) < 10 else "lenet5, resnet20, …"
        raise InputError(
            f"model={name} {gives}, and {info} has {task.gives}: take one of {named}, or a dataset that has what it "
            "gives"
        )


def build_options(options: Options, seed: int = 0, device: str = "cpu") -> BuildOptions:
    """Return how a model's options say that it is built; null stands for the default.

    Raises `InputError` for a stage that is removed twice and for a value that the annotations exclude.
    """
    values = {key: options[key] for key in BUILD_HINTS if options.get(key) is not None}
    checked = {key: validated(value, BUILD_HINTS[key], f"model.{key}") for key, value in values.items()}
    checked["append"] = {name: added_stage(name, given) for name, given in checked.get("append", {}).items()}
    build = BuildOptions(seed=seed, device=device, **checked)
    if len(build.probe) > 1:
        raise InputError(f"model.probe names {' and '.join(build.probe)}; a network ends behind one of them")
    if twice := next((name for name in build.remove if build.remove.count(name) > 1), None):
        raise InputError(f"model.remove names {twice} twice")
    return build


def added_stage(name: str, options: Options) -> AddedStage:
    """Return the stage that an entry of `model.append` describes: one kind with its options, and where it stands.

    Raises `InputError` for an unknown kind or option.
    """
    where = f"model.append.{name}"
    kinds = {key: value for key, value in options.items() if key != "after"}
    if len(kinds) != 1:
        example = f"'model.append={{{name}: {{linear: {{out: 64}}}}}}'"
        raise InputError(f"{where} should name one of {', '.join(ADDABLE)} with its options: {example}")
    ((kind, given),) = kinds.items()
    if kind not in ADDABLE:
        raise unknown(where, kind, ADDABLE)
    after = validated(options.get("after"), str | None, f"{where}.after")
    return AddedStage(after, ADDABLE[kind](**validated_options(f"{where}.{kind}", ADDABLE[kind], given or {})))


def build_auxiliary(
    options: Options, net: nn.Sequential, info: DatasetInfo, *, seed: int = 0, device: str = "cpu"
) -> AuxiliaryClassifiers | None:
    """Build a network's auxiliary classifiers; None where it has none or is to be trained without."""
    group = GROUPS["model"]
    if options["name"] not in group.auxiliary:
        return None
    function = group.auxiliary[options["name"]]
    values = {key: options[key] for key in group.auxiliary_keys(options) if key in options}
    build = BuildOptions(seed=seed, device=device)
    auxiliary = function(
        net, info.shape, len(info.classes), build=build, **validated_options("model", function, values)
    )
    return auxiliary if auxiliary.at else None


def selection(options: Options) -> Selection:
    """Return the part of a dataset's options that all datasets share."""
    return build_schema(Selection, SELECTION | options, "dataset.")


def dataset_options(options: Options) -> tuple[str, Options]:
    """Return a dataset's name and the options of its own, checked."""
    return str(options["name"]), own_options(GROUPS["dataset"], options)


def dataset_root(options: Options, data_root: str) -> Path:
    """Return the folder that holds a dataset: its own root, else the common one, in which only named datasets lie.

    Raises `InputError` for an image folder that is not named.
    """
    if options.get("name") in WHERE and not options.get("root"):
        raise InputError(f"dataset.root is missing: {WHERE[options['name']]}")
    return expanded(options.get("root") or data_root)


def select_dataset(options: Options, data_root: str) -> SelectedDataset:
    """Return the dataset that a configuration names; nothing is read yet."""
    name, given = dataset_options(options)
    return select(name, dataset_root(options, data_root), given, selection(options).class_names)


def dataset_info(options: Options, data_root: str) -> DatasetInfo:
    """Return what is known of the dataset without reading its images."""
    return select_dataset(options, data_root).info


def fit_images(options: Options, info: DatasetInfo) -> Options:
    """Return a dataset's options with image size and channels set to those of `info`, where the dataset has them."""
    _, known = dataset_options(options)
    wanted = {"image_size": info.shape[1], "channels": info.shape[0]} if not info.words else {}
    return options | {key: value for key, value in wanted.items() if key in known}


def read_dataset(options: Options, data_root: str) -> Dataset:
    """Read a dataset as it lies, with the splits that it brings, the images of files not yet decoded."""
    return select_dataset(options, data_root).read()


def divide_dataset(
    undivided: Dataset,
    options: Options,
    data_root: str,
    seed: int,
    *,
    only: SplitName | None = None,
    listed: Sequence[Member] | None = None,
) -> Dataset:
    """Divide a dataset as the configuration says, or as its files are `listed`; `only` one split may be needed."""
    chosen = selection(options)
    return divide(
        undivided,
        packs=expanded(data_root) / ".cnntrain",
        train_size=chosen.train_size,
        val_size=chosen.val_size,
        folds=chosen.held_out,
        groups=chosen.groups,
        root=dataset_root(options, data_root),
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
    (name, given), chosen = dataset_options(options), selection(options)
    return image_counts(
        name,
        dataset_root(options, data_root),
        given,
        train_size=chosen.train_size,
        val_size=chosen.val_size,
        folds=chosen.held_out,
        classes=chosen.class_names,
    )


def build_augmentations(options: Options) -> dict[str, Augmentation]:
    """Return the augmentations in the order of the configuration; a null one is left out."""
    return {name: make() for name, make in bind_several(GROUPS["augmentation"], options).items()}


def build_transforms(options: Options, info: DatasetInfo) -> list[Transform]:
    """Return the families of transformations of the configuration for the dataset's images; a null one is left out.

    Raises `InputError` for sentences.
    """
    if info.words:
        raise InputError(
            f"warp= changes the pixels of images, and {info} has words: a word has no neighbour to be moved or "
            "turned into; what=ngrams of explain shows which words decide"
        )
    return [make(info.shape) for make in bind_several(GROUPS["warp"], options).values()]


def build_optimizer(options: Options, net: nn.Sequential, auxiliary: nn.Module | None = None) -> Optimizer:
    """Return the optimizer of a network's parameters, and of those of its auxiliary classifiers.

    Its parameter groups are split by stage where stages learn with their own rates.
    """
    group = GROUPS["optimizer"]
    optimizer: Optimizer = bind(group, options)(auxiliary or net)
    rates = {key: options[key] for key in group.shared if key in options}
    split_by_stage(optimizer, net, stage_factors(net, **validated_options("optimizer", stage_factors, rates)))
    return optimizer


def build_rates(options: Options, peak: float, epochs: int, per_epoch: int) -> list[float]:
    """Return the learning rate of every step of a run."""
    schedule: Callable[[np.ndarray, int], np.ndarray] = bind(GROUPS["schedule"], options)
    warmup = validated(options.get("warmup", 0), NonNegative, "schedule.warmup")
    return learning_rates(peak, epochs * per_epoch, schedule, warmup=round(warmup * per_epoch))
