"""U-Net: Ronneberger, Fischer and Brox, MICCAI 2015, figure 1.

A level pools, convolves twice and comes back by a transposed convolution; what it was given passes it by and is joined
to what it gives. Levels are nested, and their stages have paths: `level2.level3.skip`. Deviations: `padded` (the paper
has none and answers for the centre of its image alone) keeps the image's size; batch norm is an option of later users.
Dropout stands at the end of the contracting path, where the paper puts it without a rate.
"""

from torch import nn

from cnntrain.nn import blocks
from cnntrain.nn.blocks import conv, level, pooling, sequence
from cnntrain.nn.convolutions import transposed_conv
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape, describe_shape
from cnntrain.nn.stages import BuildOptions, Maker, StageError, assemble
from cnntrain.runtime.ranges import Count, Fraction


def unet(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    width: Count = 64,
    depth: Count = 5,
    padded: bool = True,
    batch_norm: bool = False,
    dropout: Fraction = 0.5,
) -> nn.Sequential:
    """`depth` levels of two convolutions each, the first of `width` maps and each of twice as many as the one above."""
    padding = 1 if padded else 0
    sides = in_shape[1:] if padded else tuple(unpadded_side(side, depth) for side in in_shape[1:])
    if min(sides) < 1 or min(in_shape[1:]) < 2 ** (depth - 1):
        raise StageError(
            f"a U-Net of depth {depth} has nothing left of {describe_shape(in_shape[1:])} pixels; take larger images, "
            f"a smaller model.depth{'' if padded else ' or model.padded=true'}"
        )

    def two(maps: int, **rest: Maker) -> Maker:
        first, second = (conv(maps, 3, padding=padding, norm=batch_norm) for _ in range(2))
        return sequence(first=first, second=second, **rest)

    def inner(number: int) -> dict[str, Maker]:
        """Return the stages of level `number`, with the level below and without what leads up from it."""
        maps = width * 2 ** (number - 1)
        if number == depth:
            return {"convs": two(maps, **({"dropout": blocks.dropout(dropout)} if dropout else {}))}
        return {"convs": two(maps), f"level{number + 1}": below(number + 1), "merge": two(maps)}

    def below(number: int) -> Maker:
        stages = {"skip": as_it_is, "pool": pooling("max", 2), **inner(number)}
        up = transposed_conv(width * 2 ** (number - 2), 2, stride=2, activation="none")
        return level("channels", stages | {"up": up}, fit="pad" if padded else "crop")

    makers = inner(1) | {"score": conv(num_classes, 1, activation="none")}
    return assemble(makers, in_shape, out_shape=(num_classes, *sides), init=he_normal_inputs, build=build)


def as_it_is(shape: Shape) -> nn.Module:
    """What passes a level by without change."""
    return nn.Identity()


def unpadded_side(side: int, depth: int) -> int:
    """Return how many pixels a side are left by convolutions without padding."""
    side -= 4
    return side if depth == 1 else 2 * unpadded_side(side // 2, depth - 1) - 4
