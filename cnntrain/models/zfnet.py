"""ZFNet: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, figure 3.

Convolutions 1 and 2 are smaller than AlexNet's and see more positions; normalisation stands after pooling. For 64 and
for fewer than 48 pixels the stem shrinks (7×7 with stride 2, 5×5 with stride 1) and convolution 2
strides by one. Deviation: initial weights after He et al. 2015.
"""

from collections.abc import Sequence

from torch import nn

from cnntrain.nn.blocks import by_size, check_count, conv, dense, linear, lrn, pooling
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runtime.ranges import Count


def zfnet(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    widths: Sequence[Count] = (96, 256, 384, 384, 256),
    hidden: Count = 4096,
) -> nn.Sequential:
    """Five convolutions and three fully connected layers: 62,357,608 parameters at 224 pixels and 1000 classes.

    The wide variant of the paper's table 3 has `widths=[96,256,512,1024,512]`: 107,627,624 parameters.
    """
    check_count(widths, 5, "widths")
    w1, w2, w3, w4, w5 = widths
    near = conv(w2, 5, padding=2)
    return assemble(
        {
            "conv1": by_size(
                in_shape,
                small=conv(w1, 5, padding=2),
                medium=conv(w1, 7, stride=2, padding=3),
                large=conv(w1, 7, stride=2, padding=1),
            ),
            "pool1": pooling("max", 3, 2, padding=1),
            "norm1": lrn(),
            "conv2": by_size(in_shape, small=near, medium=near, large=conv(w2, 5, stride=2)),
            "pool2": pooling("max", 3, 2, padding=1),
            "norm2": lrn(),
            "conv3": conv(w3, 3, padding=1),
            "conv4": conv(w4, 3, padding=1),
            "conv5": conv(w5, 3, padding=1),
            "pool5": pooling("max", 3, 2),
            "fc6": dense(hidden, dropout=0.5),
            "fc7": dense(hidden, dropout=0.5),
            "fc8": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        init=he_normal_inputs,
        build=build,
    )
