"""VGG: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1
(configurations A, B, D, E).

The same network takes every image of 32 pixels a side or more: five poolings by two need them. Deviations: dropout
stands after each hidden fully connected layer's ReLU; initial weights after He et al. 2015, in place of growing the
deeper networks from the shallower; `batch_norm` is torchvision's variant, whose convolutions keep their biases.
"""

from torch import nn

from cnntrain.nn.blocks import conv, dense, linear, pooling
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape, describe_shape
from cnntrain.nn.stages import BuildOptions, Maker, StageError, assemble
from cnntrain.runtime.ranges import Count

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(
    depth: int,
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    batch_norm: bool = False,
    hidden: Count = 4096,
) -> nn.Sequential:
    """Groups of 3×3 convolutions, each closed by a pooling, and three fully connected layers."""
    if min(in_shape[1:]) < 2 ** len(WIDTHS) and not build.remove:
        raise StageError(f"VGG halves images five times: {describe_shape(in_shape)} is too small, 32 pixels are needed")
    makers: dict[str, Maker] = {}
    for group, (width, convolutions) in enumerate(zip(WIDTHS, CONVOLUTIONS[depth], strict=True), 1):
        for number in range(1, convolutions + 1):
            makers[f"conv{group}_{number}"] = conv(width, 3, padding=1, norm=batch_norm, bias=True)
        makers[f"pool{group}"] = pooling("max", 2)
    makers |= {
        "fc6": dense(hidden, dropout=0.5),
        "fc7": dense(hidden, dropout=0.5),
        "fc8": linear(num_classes),
    }
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal_inputs, build=build)
