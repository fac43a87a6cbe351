"""Maxout: Goodfellow, Warde-Farley, Mirza, Courville and Bengio, "Maxout Networks", ICML 2013, section 5.1 (the
convolutional network for MNIST, narrower), pooling over filters as well as over space.

With `rotated` the four filters under a maximum are one kernel in its four directions. The kernels that see a quarter
turn of the image then see the same as before, and so the global average makes the answer the same for it, wherever the
windows of the poolings tile the maps.
"""

from torch import nn

from cnntrain.nn.blocks import dropout, global_average, linear, pooling
from cnntrain.nn.convolutions import maxout_conv
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, StageError, assemble
from cnntrain.runtime.ranges import Count


def maxout(
    in_shape: Shape, num_classes: int, build: BuildOptions, *, pieces: Count = 4, rotated: bool = False
) -> nn.Sequential:
    """Three convolutions whose units are each the largest of `pieces` filters, global average, dropout, linear."""
    if rotated and pieces != 4:
        raise StageError(f"model.pieces={pieces}: a kernel has four directions; leave it at 4 with model.rotated=true")
    return assemble(
        {
            "conv1": maxout_conv(24, 5, padding=2, pieces=pieces, rotated=rotated),
            "pool1": pooling("max", 2),
            "conv2": maxout_conv(48, 5, padding=2, pieces=pieces, rotated=rotated),
            "pool2": pooling("max", 2),
            "conv3": maxout_conv(48, 3, padding=1, pieces=pieces, rotated=rotated),
            "pool3": global_average(),
            "dropout": dropout(0.5),
            "fc": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )
