"""What the pretrained weights of a model ask of a configuration: the size of its images and their normalisation."""

from dataclasses import replace
from typing import TypeVar

from cnntrain.config.build import dataset_options
from cnntrain.config.compose import overrides
from cnntrain.config.schema import Describe, Fit, Options
from cnntrain.config.validate import signature, validated_options
from cnntrain.data.datasets.registry import DATASETS
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.models import PRETRAINED, TEXT
from cnntrain.models.external import Preprocessing

N = TypeVar("N", bound=Fit | Describe)


def expected_preprocessing(options: Options) -> Preprocessing | None:
    """Return what a model's pretrained weights expect of their images; None for random weights."""
    if options.get("name") not in PRETRAINED:
        return None
    function = PRETRAINED[options["name"]]
    given = {key: options[key] for key in signature(function) if key in options}
    return function(**validated_options("model", function, given))


def with_expected_statistics(info: DatasetInfo, options: Options) -> DatasetInfo:
    """Return a dataset's information with the mean and deviation that a model's pretrained weights expect."""
    wanted = expected_preprocessing(options)
    if wanted is None:
        return info
    _, mean, std = wanted.for_channels(info.shape[0])
    return replace(info, mean=mean, std=std)


def with_expected_size(cfg: N) -> N:
    """Return a configuration whose images have the size that pretrained weights expect, where nobody chose one."""
    return replace(cfg, dataset=with_image_size(cfg.dataset, cfg.model))


def with_image_size(options: Options, model: Options) -> Options:
    """Return a dataset's options with the image size that a model's weights expect, where nobody chose one."""
    wanted = expected_preprocessing(model)
    if wanted is None or is_typed("dataset.image_size"):
        return options
    name, given = dataset_options(options)
    size = signature(DATASETS[name]).get("image_size")
    if size is None or given.get("image_size") != size.default:
        return options
    return options | {"image_size": wanted.size}


def without_weights(options: Options) -> Options:
    """Return a run's model options without the weights that its training started from: it has its own."""
    named = {**dict.fromkeys(PRETRAINED, "weights"), **dict.fromkeys(TEXT, "vectors")}
    return {key: value for key, value in options.items() if key != named.get(options["name"])}


def is_typed(key: str) -> bool:
    """Say whether a key stands on the command line."""
    return any(word.lstrip("+").partition("=")[0] == key for word in overrides())
