"""LeNet-5, as it is built today and as it was published: LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning
Applied to Document Recognition", Proceedings of the IEEE 86(11), 1998, section II.B.

Deviations of `lenet5_1998`: the loss is cross-entropy over the negated penalties of the output units instead of the
paper's criterion (eq. 8 and 9, whose constant j is left out); the bitmaps of the ten digits are drawn after figure 3.
"""

from torch import nn

from cnntrain.nn.blocks import Pool, conv, dense, linear, pooling, spatial
from cnntrain.nn.composite import chain
from cnntrain.nn.convolutions import partial_conv
from cnntrain.nn.layers import BITMAPS, Activation, RadialBasis, ScaledTanh, Subsample
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble


def lenet5(
    in_shape: Shape, num_classes: int, build: BuildOptions, *, activation: Activation = "relu", pool: Pool = "max"
) -> nn.Sequential:
    """The modern LeNet-5: full second convolution, parameter-free pooling, linear output (61,706 parameters)."""
    padding = 2 if in_shape[-1] < 32 else 0  # the paper's 32×32 field around a 28×28 digit
    return assemble(
        {
            "conv1": conv(6, 5, padding=padding, activation=activation),
            "pool1": pooling(pool, 2),
            "conv2": conv(16, 5, activation=activation),
            "pool2": pooling(pool, 2),
            "fc3": dense(120, activation=activation),
            "fc4": dense(84, activation=activation),
            "fc5": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )


# The maps of pool2 that each map of conv3 reads (table I).
CONV3_TABLE = (
    *((i, (i + 1) % 6, (i + 2) % 6) for i in range(6)),
    *((i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6) for i in range(6)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


def lenet5_1998(in_shape: Shape, num_classes: int, build: BuildOptions) -> nn.Sequential:
    """LeNet-5 as published: 60,000 trainable parameters, 340,908 connections.

    A 28×28 image is enlarged to 32×32 by repeating its border, which is the background of a digit.
    """
    return assemble(
        {
            "conv1": bordered_conv(6, 5, padding=2 if in_shape[-1] == 28 else 0),
            "pool2": subsample(),
            "conv3": partial_conv(CONV3_TABLE, 5),
            "pool4": subsample(),
            "conv5": conv(120, 5, activation="scaled_tanh"),
            "fc6": dense(84, activation="scaled_tanh"),
            "rbf": radial_basis(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        init=lecun_uniform,
        build=build,
    )


def bordered_conv(out: int, kernel: int, *, padding: int) -> Maker:
    """Convolution over maps enlarged by repeating their border, then the squashing function."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        return chain(conv=nn.Conv2d(channels, out, kernel, padding=padding, padding_mode="replicate"), act=ScaledTanh())

    return make


def subsample() -> Maker:
    """Trainable subsampling by two, then the squashing function."""

    def make(shape: Shape) -> nn.Module:
        return chain(pool=Subsample(spatial(shape)[0]), act=ScaledTanh())

    return make


def radial_basis(num_classes: int) -> Maker:
    """The output layer: one unit a class, its code drawn as a bitmap of 7×12."""

    def make(shape: Shape) -> nn.Module:
        length = len(BITMAPS[0].replace(" ", ""))
        if shape != (length,):
            raise ValueError(f"the fixed codes are {length} long, {'×'.join(map(str, shape))} arrive")
        if num_classes != len(BITMAPS):
            raise ValueError(f"there are codes for {len(BITMAPS)} digits, not for {num_classes} classes")
        return RadialBasis(num_classes, length)

    return make


def lecun_uniform(leaf: nn.Module) -> None:
    """Uniform in ±2.4 / inputs of the unit (LeCun et al. 1998, appendix A)."""
    if isinstance(leaf, nn.Conv2d | nn.Linear):
        bound = 2.4 / leaf.weight[0].numel()
        nn.init.uniform_(leaf.weight, -bound, bound)
        assert leaf.bias is not None
        nn.init.uniform_(leaf.bias, -bound, bound)
