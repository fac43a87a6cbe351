"""YOLO v1: Redmon, Divvala, Girshick and Farhadi, "You Only Look Once", CVPR 2016 (arXiv:1506.02640), figure 3, and the
small network of darknet's yolov1-tiny.cfg.

Of each cell of a grid a network answers five numbers a box (the middle within the cell, the roots of width and height
as parts of the image, the confidence) and one a class: maps of 5 × boxes + classes channels, boxes first. Deviations:
a `backbone` of any other chain is followed by a convolution of 3×3 and one of 1×1 in place of full connections.
"""

from torch import nn

from cnntrain.models.backbones import Backbone, body, made
from cnntrain.nn.blocks import conv, dense, linear, pooling, sequence
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape, shape_after
from cnntrain.nn.stages import BuildOptions, Maker, StageError, assemble
from cnntrain.runtime.ranges import Count

# Kernel and maps of convolutions, the numbers of which follow each other; 0 pools.
PAPER = (
    *((7, 64), (0, 0), (3, 192), (0, 0), (1, 128), (3, 256), (1, 256), (3, 512), (0, 0)),
    *((1, 256), (3, 512)) * 4,
    *((1, 512), (3, 1024), (0, 0)),
    *((1, 512), (3, 1024)) * 2,
    *((3, 1024), (3, 1024), (3, 1024), (3, 1024)),
)
STRIDED = (1, 22)  # of these convolutions, counted from 1
TINY = (*(layer for width in (16, 32, 64, 128, 256, 512) for layer in ((3, width), (0, 0))), (3, 1024), (3, 256))


def yolo_v1(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    grid: Count = 7,
    boxes: Count = 2,
    backbone: Backbone | None = None,
    width: Count = 256,
    hidden: Count = 4096,
    batch_norm: bool = False,
) -> nn.Sequential:
    """24 convolutions and two full connections, the first of `hidden` units, or a `backbone` and a head of `width`."""
    if backbone:
        return on_backbone(in_shape, num_classes, build, grid, boxes, backbone, width)
    makers = convolutions(PAPER, STRIDED, batch_norm)
    makers["fc25"] = dense(hidden, activation="leaky_relu_0.1", dropout=0.5)
    return answering(makers, in_shape, num_classes, build, grid, boxes)


def yolo_tiny(
    in_shape: Shape, num_classes: int, build: BuildOptions, *, grid: Count = 7, boxes: Count = 2
) -> nn.Sequential:
    """Eight convolutions with batch norm, six poolings and one full connection."""
    return answering(convolutions(TINY, (), True), in_shape, num_classes, build, grid, boxes)


def convolutions(layers: tuple[tuple[int, int], ...], strided: tuple[int, ...], batch_norm: bool) -> dict[str, Maker]:
    """Return the stages of convolutions and poolings, numbered by the convolutions."""
    makers, number = dict[str, Maker](), 0
    for kernel, maps in layers:
        if not kernel:
            makers[f"pool{number}"] = pooling("max", 2)
            continue
        number += 1
        makers[f"conv{number}"] = conv(
            maps,
            kernel,
            stride=2 if number in strided else 1,
            padding=kernel // 2,
            norm=batch_norm,
            activation="leaky_relu_0.1",
        )
    return makers


def answering(
    makers: dict[str, Maker], in_shape: Shape, num_classes: int, build: BuildOptions, grid: int, boxes: int
) -> nn.Sequential:
    """Build stages with a full connection that gives the grid."""
    out = (5 * boxes + num_classes, grid, grid)
    makers["cells"] = sequence(fc=linear(out[0] * grid * grid), grid=lambda shape: nn.Unflatten(1, out))
    return assemble(makers, in_shape, out_shape=out, init=he_normal_inputs, build=build)


def on_backbone(
    in_shape: Shape, num_classes: int, build: BuildOptions, grid: int, boxes: int, backbone: Backbone, width: int
) -> nn.Sequential:
    """Build a backbone, a pooling to the grid where its maps are larger, and two convolutions.

    Raises `StageError` where the maps are no multiple of the grid.
    """
    stages = dict(body(backbone, in_shape, connected=False).named_children())
    shape = tuple(in_shape)
    for stage in stages.values():
        shape = shape_after(stage, shape)
    if shape[1] != shape[2] or shape[1] % grid:
        raise StageError(
            f"model.backbone={backbone} gives maps of {shape[1]}×{shape[2]}, which are no multiple of model.grid={grid}"
        )
    makers = {name: made(stage) for name, stage in stages.items()}
    if shape[1] > grid:
        makers["pool"] = pooling("max", shape[1] // grid)
    makers["head"] = conv(width, 3, padding=1, norm=True, activation="leaky_relu_0.1")
    out = (5 * boxes + num_classes, grid, grid)
    makers["cells"] = conv(out[0], 1, activation="none")
    return assemble(makers, in_shape, out_shape=out, init=he_normal_inputs, build=build)
