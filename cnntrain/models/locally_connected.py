"""Locally connected layers beside convolutions of the same windows: LeCun, "Generalization and Network Design
Strategies", 1989, whose Net-3 has kernels of its own at every position and whose Net-5 shares them.
"""

from torch import nn

from cnntrain.nn.blocks import conv, dense, linear
from cnntrain.nn.convolutions import locally_connected as local
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble


def locally_connected(in_shape: Shape, num_classes: int, build: BuildOptions, *, shared: bool = False) -> nn.Sequential:
    """Two layers of 5×5 windows with stride 2, then fully connected; `shared` makes them convolutions."""

    def layer(out: int) -> Maker:
        return conv(out, 5, stride=2) if shared else local(out, 5, stride=2)

    return assemble(
        {"conv1": layer(8), "conv2": layer(16), "fc3": dense(64), "fc4": linear(num_classes)},
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )
