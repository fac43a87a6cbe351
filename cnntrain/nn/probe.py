"""A linear classifier behind a stage, in place of all that follows it."""

from collections import OrderedDict

import torch
from torch import nn

from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import Reduction, StageError, materialise, require, stage_shapes

PROBE = "probe"  # the name of the stage


def vector_of(reduction: Reduction, shape: Shape) -> nn.Module:
    """Return what makes a vector of what leaves a stage, its maps reduced.

    `max` and `avg` leave one number of each map; a number is the side to which larger maps are averaged.
    """
    if len(shape) != 3 or reduction == "none" or (isinstance(reduction, int) and max(shape[1:]) <= reduction):
        return nn.Flatten()
    side = reduction if isinstance(reduction, int) else 1
    pool = nn.AdaptiveMaxPool2d(side) if reduction == "max" else nn.AdaptiveAvgPool2d(side)
    return nn.Sequential(pool, nn.Flatten())


def ended_by_probe(
    net: nn.Sequential, stage: str, reduction: Reduction, in_shape: Shape, num_classes: int, *, seed: int, device: str
) -> nn.Sequential:
    """Return the stages of a network up to one, and behind it a linear classifier, the stage `probe`.

    Raises `StageError` for an unknown stage.
    """
    stages = OrderedDict(net.named_children())
    require([stage], stages, "model.probe: ")
    if PROBE in stages:
        raise StageError(f"model.probe: the network has a stage {PROBE!r} already")
    shape = stage_shapes(net, in_shape)[stage]
    vector = vector_of(reduction, shape)
    with torch.device("meta"):
        width = vector(torch.empty(1, *shape)).shape[1]
        probe = nn.Sequential(OrderedDict(vector=vector, linear=nn.Linear(width, num_classes)))
    if device != "meta":
        materialise(probe, PROBE, seed, None)
    names = list(stages)
    kept = {name: stages[name] for name in names[: names.index(stage) + 1]}
    return nn.Sequential(OrderedDict(**kept, **{PROBE: probe})).to(device)
