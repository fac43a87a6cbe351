"""MobileNet: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
table 1. A depthwise and a pointwise convolution are one stage. Below 48 pixels a side the first has stride 1.
"""

from torch import nn

from cnntrain.nn.blocks import by_size, conv, global_average, linear
from cnntrain.nn.convolutions import depthwise_separable
from cnntrain.nn.initialisers import he_normal
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble

# Width and stride of each depthwise separable block.
# fmt: off
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1),
)
# fmt: on


def mobilenet_v1(in_shape: Shape, num_classes: int, build: BuildOptions) -> nn.Sequential:
    """A convolution and 13 depthwise separable blocks: 4,231,976 parameters for 1000 classes."""
    stride = by_size(in_shape, small=1, medium=2, large=2)
    makers: dict[str, Maker] = {"conv1": conv(32, 3, stride=stride, padding=1, norm=True)}
    for number, (width, step) in enumerate(BLOCKS, 1):
        makers[f"block{number}"] = depthwise_separable(width, 3, stride=step)
    makers |= {"pool": global_average(), "fc": linear(num_classes)}
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal, build=build)
