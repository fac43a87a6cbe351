"""The two-stage ConvNet that was trained on Caltech-101: Jarrett, Kavukcuoglu, Ranzato and LeCun, "What is the Best
Multi-Stage Architecture for Object Recognition?", ICCV 2009, with the sizes of LeCun's lectures (83×83 images).

Each of the 256 maps of the second convolution reads 16 of the 64 before it, by a fixed random table: 4,096 kernels. For
images of less than 80 pixels a side the windows shrink (table `WINDOWS`).
"""

from torch import nn

from cnntrain.nn.blocks import by_size, conv, linear, local_contrast, pooling
from cnntrain.nn.composite import chain
from cnntrain.nn.convolutions import partial_conv
from cnntrain.nn.layers import Absolute
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble
from cnntrain.runtime.seeding import generator

# First convolution, its pooling and stride; second convolution, its pooling and stride.
WINDOWS = {"large": (9, 10, 5, 9, 6, 4), "medium": (7, 6, 4, 7, 6, 4), "small": (5, 4, 2, 5, 6, 4)}


def caltech_convnet(in_shape: Shape, num_classes: int, build: BuildOptions) -> nn.Sequential:
    """Filters, rectification, local contrast normalisation and average pooling, twice; then a linear layer."""
    kernel1, size1, step1, kernel2, size2, step2 = by_size(
        in_shape, small=WINDOWS["small"], medium=WINDOWS["medium"], large=WINDOWS["large"]
    )
    return assemble(
        {
            "conv1": filters(conv(64, kernel1, activation="scaled_tanh")),
            "norm1": local_contrast(),
            "pool1": pooling("avg", size1, step1),
            "conv2": filters(partial_conv(random_table(64, 256, 16), kernel2)),
            "norm2": local_contrast(),
            "pool2": pooling("avg", size2, step2),
            "fc3": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )


def random_table(inputs: int, outputs: int, reads: int) -> tuple[tuple[int, ...], ...]:
    """Let every map read `reads` of the `inputs`, drawn once and for all."""
    draw = generator(0, "caltech", inputs, outputs, reads)
    return tuple(tuple(sorted(int(i) for i in draw.choice(inputs, reads, replace=False))) for _ in range(outputs))


def filters(layer: Maker) -> Maker:
    """A convolution with its squashing function, then the absolute value, which the paper calls rectification."""

    def make(shape: Shape) -> nn.Module:
        return chain(**dict(layer(shape).named_children()), rectify=Absolute())

    return make
