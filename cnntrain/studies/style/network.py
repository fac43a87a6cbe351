"""Whose features are compared: a run's network or a pretrained one, up to the last stage that is looked at."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from cnntrain.config import pretrained
from cnntrain.config.build import build_model, dataset_info
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.stages import StageError, require
from cnntrain.runs.folder import find_run
from cnntrain.runs.load import load_run
from cnntrain.runtime.errors import InputError
from cnntrain.studies.style.layers import map_shapes, paper_stages
from cnntrain.studies.style.options import Style


class Features(NamedTuple):
    """A network's first stages, what it knows of its images, and the stages that see content and style."""

    net: nn.Sequential
    info: DatasetInfo
    content: Sequence[str]
    style: Sequence[str]


def find_features(cfg: Style) -> Features:
    """Return the features that are meant, fixed and in evaluation.

    Raises `InputError` unless exactly one of run and model says which network, and `StageError` for a stage that it
    does not have or that gives no maps.
    """
    net, info = find_network(cfg)
    side = max(cfg.size, *info.shape[1:])
    shapes = map_shapes(net, (info.shape[0], side, side))
    if not shapes:
        raise StageError("this network has no stage that gives maps, where content and style could be seen")
    content, styles = paper_stages(net, shapes)
    chosen = Features(net, info, cfg.content_stages or [content], cfg.style_stages or styles)
    stages = [name for name, _ in net.named_children()]
    for key in ("content", "style"):
        names = getattr(chosen, key)
        require(names, stages, f"{key}_stages: ")
        if blind := [name for name in names if name not in shapes]:
            raise StageError(f"{key}_stages: {blind[0]} gives no maps; the last that does is {[*shapes][-1]}")
    last = max(map(stages.index, (*chosen.content, *chosen.style)))
    short = nn.Sequential(OrderedDict(list(net.named_children())[: last + 1])).eval().requires_grad_(False)
    for module in short.modules():
        if "inplace" in module.__dict__:
            module.__dict__["inplace"] = False  # what leaves a stage is still compared after the next one
    return chosen._replace(net=short)


def find_network(cfg: Style) -> tuple[nn.Sequential, DatasetInfo]:
    """Return the network that is meant, and what it knows of its images."""
    if cfg.run is not None and cfg.model is None:
        net, info, _ = load_run(find_run(cfg.run), cfg.weights)
        if info.words:
            raise InputError(
                f"run={cfg.run} reads words, which have neither content nor style: name a network of images"
            )
        return net, info
    if cfg.run is None and cfg.model is not None:
        info = pretrained.with_expected_statistics(dataset_info(cfg.dataset, cfg.data_root), cfg.model)
        return build_model(cfg.model, info, seed=cfg.seed), info
    raise InputError(
        "name one network: run=<folder>, or a pretrained one such as model=timm model.arch=tf_efficientnet_lite0 "
        "model.weights=package"
    )
