"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, table 1 and figure 3, with real 5×5 branches.

Below 80 pixels a side the first pooling is left out, and below 48 the first convolution is a 3×3 with stride 1, so the
modules see 16×16 maps where the paper's see 28×28. Deviation: initial weights after He et al. 2015.
"""

from typing import Literal

from torch import nn

from cnntrain.nn.auxiliary import AuxiliaryClassifiers, attach
from cnntrain.nn.blocks import by_size, conv, dense, dropout, global_average, linear, lrn, pooling, sequence, spatial
from cnntrain.nn.composite import Concat, chain
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble
from cnntrain.runtime.ranges import NonNegative

Stem = Literal["plain", "separable"]
Inception = Literal["naive"] | None

# 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}

# The last two columns of the paper's table: weights in thousands (of 1024), multiplications in millions.
PUBLISHED = {
    "conv1": (2.7, 34),
    "conv2": (112, 360),
    "inception_3a": (159, 128),
    "inception_3b": (380, 304),
    "inception_4a": (364, 73),
    "inception_4b": (437, 88),
    "inception_4c": (463, 100),
    "inception_4d": (580, 119),
    "inception_4e": (840, 170),
    "inception_5a": (1072, 54),
    "inception_5b": (1388, 71),
    "fc": (1000, 1),
}

# The auxiliary classifiers and the stages that they read.
HEADS = {"head_4a": "inception_4a", "head_4d": "inception_4d"}


def googlenet(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    stem: Stem = "plain",
    module: Inception = None,
) -> nn.Sequential:
    """Nine Inception modules, global average, linear: 6,998,552 parameters at 224 pixels and 1000 classes.

    `stem=separable` is the first convolution that the paper's table counts: eight 7×7 kernels a colour, then 1×1.
    `module=naive` leaves out the 1×1 reductions (figure 2a).
    """
    makers = stages(in_shape, num_classes, stem, module)
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal_inputs, build=build)


def stages(in_shape: Shape, num_classes: int, stem: Stem = "plain", module: Inception = None) -> dict[str, Maker]:
    """Return the makers of all stages."""
    kernel, stride = by_size(in_shape, small=(3, 1), medium=(7, 2), large=(7, 2))
    first = {"pool1": pooling("max", 3, 2, ceil=True)}
    make = naive_inception if module == "naive" else inception
    modules = {name: make(*widths) for name, widths in MODULES.items()}
    return {
        "conv1": conv(64, kernel, stride=stride, padding=kernel // 2)
        if stem == "plain"
        else separable_stem(kernel, stride),
        **by_size(in_shape, small={}, medium={}, large=first),
        "norm1": lrn(),
        "conv2_reduce": conv(64, 1),
        "conv2": conv(192, 3, padding=1),
        "norm2": lrn(),
        "pool2": pooling("max", 3, 2, ceil=True),
        "inception_3a": modules["3a"],
        "inception_3b": modules["3b"],
        "pool3": pooling("max", 3, 2, ceil=True),
        "inception_4a": modules["4a"],
        "inception_4b": modules["4b"],
        "inception_4c": modules["4c"],
        "inception_4d": modules["4d"],
        "inception_4e": modules["4e"],
        "pool4": pooling("max", 3, 2, ceil=True),
        "inception_5a": modules["5a"],
        "inception_5b": modules["5b"],
        "pool5": global_average(),
        "dropout": dropout(0.4),
        "fc": linear(num_classes),
    }


def separable_stem(kernel: int, stride: int) -> Maker:
    """Eight kernels in each colour, then 64 mixtures of them."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        return chain(
            depthwise=nn.Conv2d(channels, 8 * channels, kernel, stride, kernel // 2, groups=channels, bias=False),
            pointwise=nn.Conv2d(8 * channels, 64, 1),
            act=nn.ReLU(),
        )

    return make


def inception(one: int, reduce3: int, three: int, reduce5: int, five: int, projected: int) -> Maker:
    """Windows of one, three and five positions and a pooling side by side, joined (figure 2b)."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]

        def convolution(before: int, after: int, kernel: int) -> nn.Sequential:
            return chain(conv=nn.Conv2d(before, after, kernel, padding=kernel // 2), act=nn.ReLU())

        return Concat(
            one=convolution(channels, one, 1),
            three=chain(reduce=convolution(channels, reduce3, 1), conv=convolution(reduce3, three, 3)),
            five=chain(reduce=convolution(channels, reduce5, 1), conv=convolution(reduce5, five, 5)),
            pooled=chain(pool=nn.MaxPool2d(3, 1, 1), conv=convolution(channels, projected, 1)),
        )

    return make


def naive_inception(one: int, reduce3: int, three: int, reduce5: int, five: int, projected: int) -> Maker:
    """The module without its 1×1 reductions: the pooled maps pass as they are (figure 2a)."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        return Concat(
            one=chain(conv=nn.Conv2d(channels, one, 1), act=nn.ReLU()),
            three=chain(conv=nn.Conv2d(channels, three, 3, padding=1), act=nn.ReLU()),
            five=chain(conv=nn.Conv2d(channels, five, 5, padding=2), act=nn.ReLU()),
            pooled=nn.MaxPool2d(3, 1, 1),
        )

    return make


def googlenet_heads(
    net: nn.Sequential, in_shape: Shape, num_classes: int, build: BuildOptions, *, auxiliary: NonNegative = 0.3
) -> AuxiliaryClassifiers:
    """Return the two auxiliary classifiers that `net` is trained with, after 4a and 4d (section 5).

    `auxiliary` is the weight of each one's loss, 0 for none.
    """
    order = list(stages(in_shape, num_classes))
    places = {head: (stage, auxiliary_head(num_classes)) for head, stage in HEADS.items()}
    return attach(net, in_shape, num_classes, order, places, auxiliary, init=he_normal_inputs, build=build)


def auxiliary_head(num_classes: int) -> Maker:
    """Average pooling to 4×4, a 1×1 convolution, and two fully connected layers."""

    def pool(shape: Shape) -> nn.Module:
        published = spatial(shape)[1:] == (14, 14)
        return nn.AvgPool2d(5, 3) if published else nn.AdaptiveAvgPool2d(4)

    return sequence(pool=pool, conv=conv(128, 1), fc1=dense(1024, dropout=0.7), fc2=linear(num_classes))
