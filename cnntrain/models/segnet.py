"""SegNet and SegNet-Basic: Badrinarayanan, Kendall and Cipolla, PAMI 2017 (arXiv:1511.00561), as released.

A level pools, convolves, and puts what comes back to the places where the maxima were. Levels are nested, so that no
indices cross a stage: `level2.level3.conv3_1`. Batch norm follows every convolution but the last, and ReLU it, which
the decoder of SegNet-Basic has not.
"""

from collections.abc import Mapping

from torch import nn

from cnntrain.models.vgg import CONVOLUTIONS
from cnntrain.nn.blocks import conv, lrn, sequence
from cnntrain.nn.composite import Unpool
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape, describe_shape
from cnntrain.nn.stages import BuildOptions, Maker, StageError, assemble, nested
from cnntrain.runtime.ranges import Count


def segnet(
    in_shape: Shape, num_classes: int, build: BuildOptions, *, width: Count = 64, depth: Count = 5
) -> nn.Sequential:
    """The convolutions of VGG-16 in `depth` groups of `width` maps to 8 times as many, and their mirror image."""
    if depth > 5:
        raise StageError(f"SegNet has the five groups of VGG-16, not model.depth={depth}")
    refuse_small(in_shape, depth)
    maps = [width * 2 ** min(group, 3) for group in range(5)]

    def layer(out: int) -> Maker:
        return conv(out, 3, padding=1, norm=True, bias=True)

    def group(number: int) -> dict[str, Maker]:
        """Return the stages of group `number` with all below it; what leaves is what reached its pooling or the image.

        The last convolution of a group on the way up has the maps of the group above; of the first there is `score`.
        """
        count, own = CONVOLUTIONS[16][number - 1], maps[number - 1]
        down = {f"conv{number}_{place}": layer(own) for place in range(1, count + 1)}
        if number > 1:
            up = {f"up{number}_{place}": layer(own) for place in range(count, 1, -1)}
            up[f"up{number}_1"] = layer(maps[number - 2])
        else:
            up = {f"up1_{place}": layer(own) for place in range(count, 1, -1)}
        below = group(number + 1) if number < depth else {}
        return down | {f"level{number + 1}": nested(unpooling, below)} | up

    makers = group(1) | {"score": conv(num_classes, 3, padding=1, activation="none")}
    out = (num_classes, *in_shape[1:])
    return assemble(makers, in_shape, out_shape=out, init=he_normal_inputs, build=build)


def segnet_basic(
    in_shape: Shape, num_classes: int, build: BuildOptions, *, width: Count = 64, depth: Count = 4
) -> nn.Sequential:
    """`depth` convolutions of 7×7 with a pooling each, and as many after the unpoolings; all have `width` maps."""
    refuse_small(in_shape, depth)

    def level(number: int) -> Maker:
        inner: dict[str, Maker] = {}
        if number < depth:
            inner[f"conv{number + 1}"] = conv(width, 7, padding=3, norm=True, bias=True)
            inner[f"level{number + 1}"] = level(number + 1)
            inner[f"up{number + 1}"] = conv(width, 7, padding=3, norm=True, bias=True, activation="none")
        return nested(unpooling, inner)

    makers = {
        "norm": lrn(),
        "conv1": conv(width, 7, padding=3, norm=True, bias=True),
        "level1": level(1),
        "up1": conv(width, 7, padding=3, norm=True, bias=True, activation="none"),
        "score": conv(num_classes, 1, activation="none"),
    }
    out = (num_classes, *in_shape[1:])
    return assemble(makers, in_shape, out_shape=out, init=he_normal_inputs, build=build)


def unpooling(shape: Shape, inner: Mapping[str, Maker]) -> nn.Module:
    """Max pooling by two, the stages of `inner`, and unpooling."""
    channels, height, width = shape
    return Unpool(2, sequence(**inner)((channels, height // 2, width // 2)))


def refuse_small(in_shape: Shape, poolings: int) -> None:
    """Raise `StageError` for images that so many poolings leave nothing of."""
    if min(in_shape[1:]) < 2**poolings:
        raise StageError(
            f"{poolings} poolings leave nothing of {describe_shape(in_shape[1:])} pixels; take larger images or a "
            "smaller model.depth"
        )
