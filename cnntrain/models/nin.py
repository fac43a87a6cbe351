"""Network in Network: Lin, Chen and Yan, ICLR 2014, figure 2.

The paper states no widths: those for CIFAR and for ImageNet (from 80 pixels a side) are of the authors' published
configurations, whose poolings let the last window reach over the border. Images of 48 to 79 pixels take the CIFAR
network with stride 2 in its first convolution. Deviation: initial weights after He et al. 2015.
"""

from typing import Literal

from torch import nn

from cnntrain.nn.blocks import by_size, conv, dropout, global_average, linear, pooling
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble

NinClassifier = Literal["average", "dense", "dense_dropout"]


def nin(
    in_shape: Shape, num_classes: int, build: BuildOptions, *, classifier: NinClassifier = "average"
) -> nn.Sequential:
    """Convolutions each followed by two 1×1 convolutions; the last gives a map a class, which `classifier` scores.

    `average` is the paper's: the mean of each map. `dense` and `dense_dropout` are what table 5 compares it with: a
    fully connected layer, without and with dropout before it.
    """
    makers = by_size(in_shape, small=cifar(num_classes, 1), medium=cifar(num_classes, 2), large=imagenet(num_classes))
    last = list(makers)[-1]
    if classifier == "average":
        makers["pool"] = global_average()
    else:
        makers |= {"dropout": dropout(0.5)} if classifier == "dense_dropout" else {}
        makers["fc"] = linear(num_classes)
    keep = (last,) if classifier == "average" else ()
    return assemble(makers, in_shape, out_shape=(num_classes,), keep=keep, init=he_normal_inputs, build=build)


def cifar(num_classes: int, stride: int) -> dict[str, Maker]:
    """Three micro-networks: 966,986 parameters for ten classes."""
    return {
        "conv1": conv(192, 5, stride=stride, padding=2),
        "cccp1": conv(160, 1),
        "cccp2": conv(96, 1),
        "pool1": pooling("max", 3, 2, ceil=True),
        "dropout1": dropout(0.5),
        "conv2": conv(192, 5, padding=2),
        "cccp3": conv(192, 1),
        "cccp4": conv(192, 1),
        "pool2": pooling("avg", 3, 2, ceil=True),
        "dropout2": dropout(0.5),
        "conv3": conv(192, 3, padding=1),
        "cccp5": conv(192, 1),
        "cccp6": conv(num_classes, 1),
    }


def imagenet(num_classes: int) -> dict[str, Maker]:
    """Four micro-networks: 7,595,176 parameters for 1000 classes."""
    return {
        "conv1": conv(96, 11, stride=4),
        "cccp1": conv(96, 1),
        "cccp2": conv(96, 1),
        "pool1": pooling("max", 3, 2, ceil=True),
        "conv2": conv(256, 5, padding=2),
        "cccp3": conv(256, 1),
        "cccp4": conv(256, 1),
        "pool2": pooling("max", 3, 2, ceil=True),
        "conv3": conv(384, 3, padding=1),
        "cccp5": conv(384, 1),
        "cccp6": conv(384, 1),
        "pool3": pooling("max", 3, 2, ceil=True),
        "dropout3": dropout(0.5),
        "conv4": conv(1024, 3, padding=1),
        "cccp7": conv(1024, 1),
        "cccp8": conv(num_classes, 1),
    }
