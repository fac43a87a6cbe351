"""The stages that see content and style: those of the paper, found by their place in any chain."""

from collections.abc import Sequence

import torch
from torch import nn

from cnntrain.nn.geometry import on_meta
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import walk

LEVELS = 5  # resolutions whose first layer is one of style: conv1_1, conv2_1 … conv5_1 of VGG-19
CONTENT = (3, 1)  # the layer of content, by its resolution and place there from 0: conv4_2 of VGG-19


def map_shapes(net: nn.Sequential, in_shape: Shape) -> dict[str, Shape]:
    """Return the shape that leaves each stage, as long as maps leave that are larger than one position."""
    shapes: dict[str, Shape] = {}
    try:
        for name, maps in walk(on_meta(net).eval(), torch.empty(1, *in_shape, device="meta")):
            if maps.ndim != 4 or maps.shape[2] * maps.shape[3] == 1:
                break
            shapes[name] = tuple(maps.shape[1:])
    except (RuntimeError, ValueError):  # a full connection that takes maps of another size, or nothing left to pool
        pass
    return shapes


def paper_stages(net: nn.Sequential, shapes: dict[str, Shape]) -> tuple[str, list[str]]:
    """Return the stage of content and those of style that stand where VGG-19's do in the paper.

    A layer is a stage that mixes positions or channels, and the stages after it that only normalise or rectify what it
    gives; the last of them stands for it. A new resolution begins where the size of the maps changes.
    """
    levels: list[list[str]] = []
    size: Sequence[int] = ()
    for name, shape in shapes.items():
        mixes = any(parameter.ndim > 1 for parameter in net.get_submodule(name).parameters())
        if mixes and shape[1:] != size:
            levels, size = [*levels, [name]], shape[1:]
        elif mixes:
            levels[-1].append(name)
        elif levels and shape == shapes[levels[-1][-1]]:
            levels[-1][-1] = name
    level, place = CONTENT
    deep = levels[min(level, len(levels) - 1)]
    return deep[min(place, len(deep) - 1)], [layers[0] for layers in levels[:LEVELS]]
