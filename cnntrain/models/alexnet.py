"""AlexNet: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS
2012, section 3.5 and figure 2.

The stem follows the images: 11×11 windows with stride 4 as published, padded by 2 where they do not tile the image
(the paper says 224, its sizes need 227 or this); 7×7 with stride 2 for images of 48 to 79 pixels; 5×5 with stride 2
from 32 pixels on and with stride 1 below, where pool5 would find nothing to pool. All later stages are the same, so a
study of them carries over. Deviation: initial weights after He et al. 2015, since the paper's (deviation 0.01, some
biases 1) start slowly.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from cnntrain.nn.blocks import by_size, check_count, conv, dense, linear, lrn, pooling
from cnntrain.nn.initialisers import he_normal_inputs
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble
from cnntrain.runtime.ranges import Count

Order = Literal["norm_pool", "pool_norm"]


def alexnet(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    widths: Sequence[Count] = (96, 256, 384, 384, 256),
    hidden: Count = 4096,
    groups: Count = 2,
    order: Order = "norm_pool",
) -> nn.Sequential:
    """Five convolutions and three fully connected layers; 60,965,224 parameters at 227 pixels and 1000 classes.

    `groups=2` are the two GPUs of the paper; 1 connects all maps (62,378,344 parameters). `order=pool_norm`
    normalises after pooling, as Caffe's variant does.
    """
    check_count(widths, 5, "widths")
    w1, w2, w3, w4, w5 = widths
    padding = 0 if (in_shape[-1] - 11) % 4 == 0 else 2
    small_stride = 2 if min(in_shape[1:]) >= 32 else 1
    makers: dict[str, Maker] = {
        "conv1": by_size(
            in_shape,
            small=conv(w1, 5, stride=small_stride, padding=2),
            medium=conv(w1, 7, stride=2, padding=3),
            large=conv(w1, 11, stride=4, padding=padding),
        ),
        **norm_and_pool(1, order),
        "conv2": conv(w2, 5, padding=2, groups=groups),
        **norm_and_pool(2, order),
        "conv3": conv(w3, 3, padding=1),
        "conv4": conv(w4, 3, padding=1, groups=groups),
        "conv5": conv(w5, 3, padding=1, groups=groups),
        "pool5": pooling("max", 3, 2),
        "fc6": dense(hidden, dropout=0.5),
        "fc7": dense(hidden, dropout=0.5),
        "fc8": linear(num_classes),
    }
    return assemble(makers, in_shape, out_shape=(num_classes,), init=he_normal_inputs, build=build)


def norm_and_pool(number: int, order: Order) -> dict[str, Maker]:
    """Return local response normalisation and overlapping pooling in the order asked for."""
    norm, pool = (f"norm{number}", lrn()), (f"pool{number}", pooling("max", 3, 2))
    return dict([norm, pool] if order == "norm_pool" else [pool, norm])
