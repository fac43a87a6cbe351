"""Fully convolutional networks: Long, Shelhamer and Darrell, CVPR 2015 (arXiv:1411.4038); FCN-32s, 16s and 8s.

A classifier as convolutions gives a coarse map of scores. `16s` enlarges it twice and adds the scores of maps of half
the stride, `8s` of a quarter besides: of the pooling that has it, or else of the last stage that has. What is left is
enlarged at once. What follows such maps is nested:
`after_pool3.after_pool4.skip`. Maps are laid upon each other by the centres of what they see, as Caffe's crops do: by
19, by 5 and 27, by 5, 9 and 31 positions on VGG-16 with a border of 100.

Deviations: all enlarging is bilinear and fixed, as in the released networks; scores do not begin at zero, which makes
no difference (section 4.3).
"""

from collections.abc import Mapping

from torch import nn

from cnntrain.models.backbones import Backbone, body, made
from cnntrain.nn.blocks import conv, level, sequence
from cnntrain.nn.composite import chain
from cnntrain.nn.geometry import stage_spans
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.measures import Spans
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, StageError, assemble
from cnntrain.nn.upsampling import BilinearUp, Crop
from cnntrain.runtime.ranges import Count, Natural


def fcn(
    skips: int,
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    backbone: Backbone = "vgg16",
    backbone_size: Count | None = None,
    border: Natural = 0,
) -> nn.Sequential:
    """`backbone` as convolutions, with so many `skips`, for images with a `border` of zeros.

    Its full connections are those of images of `backbone_size`, or of the images themselves: at 224 VGG-16 has a
    window of 7×7, and needs a border of 100 as published.
    """
    side = (backbone_size,) * 2 if backbone_size else in_shape[1:]
    stages: dict[str, nn.Module] = {"border": nn.ZeroPad2d(border - 1)} if border > 1 else {}
    stages |= body(backbone, (in_shape[0], *side), connected=True).named_children()
    for pool in (part for stage in stages.values() for part in stage.modules() if isinstance(part, nn.MaxPool2d)):
        pool.ceil_mode = True  # as Caffe's
    spans = stage_spans(chain(**stages), in_shape)
    if len(spans) < len(stages):
        raise StageError(
            f"model.backbone={backbone}: images of {in_shape[1]}×{in_shape[2]} pixels leave no map; {HINT}"
        )
    if border == 1:
        raise StageError("model.border=1 is the border that the first convolution has itself; take 0 or more than 1")
    names = skipped(stages, spans, skips, backbone)

    def score() -> Maker:
        return conv(num_classes, 1, activation="none")

    parts = [list(stages)]  # the stages before, between and after those that are skipped from
    for name in names:
        place = parts[-1].index(name) + 1
        parts[-1:] = [parts[-1][:place], parts[-1][place:]]
    moving = strided(spans) | {"border", "up"}
    keep = [
        "".join(f"after_{level}." for level in names[:depth]) + name
        for depth, part in enumerate(parts)
        for name in moving & {*part, "up"}
    ]
    makers = {name: made(stages[name]) for name in parts[-1]} | {"score": score()}
    jump, centre = lies(spans[list(spans)[-1]])
    for name, before in zip(reversed(names), reversed(parts[:-1]), strict=True):
        finer, middle = lies(spans[name])
        moved = round(1.5 - (centre - middle) / finer)  # how far the enlarged map lies beyond the finer one's corner
        inner = {"skip": score()} | makers | {"up": lambda shape: BilinearUp(2)}
        outer = {each: made(stages[each]) for each in before}
        makers = outer | {f"after_{name}": level("sum", inner, offset=-moved)}
        jump, centre = finer, middle + finer * max(-moved, 0)
    offset = round(jump - 0.5 - centre)
    makers["up"] = sequence(bilinear=lambda shape: BilinearUp(jump), crop=lambda shape: Crop(in_shape[1:], offset))
    try:
        out = (num_classes, *in_shape[1:])
        return assemble(makers, in_shape, out_shape=out, init=he_normal_inputs, build=build, keep=keep)
    except StageError as error:
        raise StageError(f"{error}; {HINT}" if "does not cover" in str(error) else str(error)) from error


HINT = "take larger images, a smaller model.backbone_size or a model.border"


def skipped(stages: Mapping[str, nn.Module], spans: Mapping[str, Spans], skips: int, backbone: str) -> list[str]:
    """Return the stages of a quarter and of half the last stride that scores are given to, the finest first.

    Raises `StageError` where the strides do not double.
    """
    strides = {name: span[0].jump or 0 for name, span in spans.items()}
    last, names = list(strides.values())[-1], list[str]()
    for power in range(skips, 0, -1):
        alike = [name for name, stride in strides.items() if stride * 2**power == last]
        if not alike:
            raise StageError(f"model.backbone={backbone} has no maps of a stride of {last}/{2**power} to skip from")
        pools = [name for name in alike if isinstance(stages[name], nn.MaxPool2d)]
        names.append((pools or alike)[-1])
    return names


def strided(spans: Mapping[str, Spans]) -> set[str]:
    """Return the stages that stride: without one, maps would be enlarged to more than the image and lie elsewhere."""
    jumps = [1, *(span[0].jump for span in spans.values())]
    return {name for name, before, after in zip(spans, jumps, jumps[1:], strict=False) if before != after}


def lies(spans: Spans) -> tuple[int, float]:
    """Return the stride of a map and the middle of what its first position sees, in pixels of the image."""
    down, across = spans
    assert down.jump is not None
    if (down.jump, down.low, down.high) != (across.jump, across.low, across.high):
        raise StageError("a fully convolutional network has windows that are as high as wide")
    return down.jump, (down.low + down.high) / 2
