"""All-CNN-C: Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity: The All Convolutional Net", ICLR
2015 workshop, table 2: convolutions with stride 2 in place of pooling.

Deviation: initial weights after He et al. 2015.
"""

from torch import nn

from cnntrain.nn.blocks import conv, dropout, global_average
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble


def all_cnn(in_shape: Shape, num_classes: int, build: BuildOptions) -> nn.Sequential:
    """Nine convolutions and a global average: 1,369,738 parameters for ten classes."""
    return assemble(
        {
            "dropout0": dropout(0.2),
            "conv1": conv(96, 3, padding=1),
            "conv2": conv(96, 3, padding=1),
            "conv3": conv(96, 3, stride=2, padding=1, dropout=0.5),
            "conv4": conv(192, 3, padding=1),
            "conv5": conv(192, 3, padding=1),
            "conv6": conv(192, 3, stride=2, padding=1, dropout=0.5),
            "conv7": conv(192, 3),
            "conv8": conv(192, 1),
            "conv9": conv(num_classes, 1),
            "pool": global_average(),
        },
        in_shape,
        out_shape=(num_classes,),
        keep=("conv9",),
        init=he_normal_inputs,
        build=build,
    )
