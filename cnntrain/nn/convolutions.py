"""Makers of other convolutions: separable, transposed, locally connected, partial, the largest of several."""

from torch import nn

from cnntrain.nn.blocks import check_window, spatial
from cnntrain.nn.composite import chain
from cnntrain.nn.layers import (
    ACTIVATIONS,
    Activation,
    LocallyConnected2d,
    Maxout,
    PartialConv2d,
    RotatedConv2d,
    ScaledTanh,
)
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import Maker


def depthwise_separable(out: int, kernel: int, *, stride: int = 1) -> Maker:
    """A convolution in each map, then across maps, each with batch norm and ReLU (Howard et al. 2017, fig. 3)."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        return chain(
            depthwise=nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False),
            norm1=nn.BatchNorm2d(channels),
            act1=nn.ReLU(),
            pointwise=nn.Conv2d(channels, out, 1, bias=False),
            norm2=nn.BatchNorm2d(out),
            act2=nn.ReLU(),
        )

    return make


def spatially_separable(out: int, kernel: int, *, activation: Activation = "relu") -> Maker:
    """A column of `kernel` weights, then a row of as many, at the same size."""

    def make(shape: Shape) -> nn.Module:
        reach = kernel // 2
        return chain(
            column=nn.Conv2d(spatial(shape)[0], out, (kernel, 1), padding=(reach, 0)),
            row=nn.Conv2d(out, out, (1, kernel), padding=(0, reach)),
            act=ACTIVATIONS[activation](),
        )

    return make


def transposed_conv(
    out: int, kernel: int, *, stride: int = 1, padding: int = 0, activation: Activation = "relu"
) -> Maker:
    """The transpose of a convolution of that stride and padding, which makes maps larger by the stride."""

    def make(shape: Shape) -> nn.Module:
        layer = nn.ConvTranspose2d(spatial(shape)[0], out, kernel, stride, padding)
        return chain(conv=layer, act=ACTIVATIONS[activation]())

    return make


def maxout_conv(out: int, kernel: int, *, padding: int = 0, pieces: int = 4, rotated: bool = False) -> Maker:
    """The largest of `pieces` convolutions; with `rotated` they are one kernel in its four directions."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        if rotated:
            return chain(conv=RotatedConv2d(channels, out, kernel, padding), act=Maxout(4))
        return chain(conv=nn.Conv2d(channels, out * pieces, kernel, padding=padding), act=Maxout(pieces))

    return make


def locally_connected(out: int, kernel: int, *, stride: int = 1, activation: Activation = "relu") -> Maker:
    """A convolution without weight sharing."""

    def make(shape: Shape) -> nn.Module:
        channels, height, width = spatial(shape)
        check_window(kernel, 0, shape)
        size = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        return chain(conv=LocallyConnected2d(channels, out, kernel, stride, size), act=ACTIVATIONS[activation]())

    return make


def partial_conv(table: tuple[tuple[int, ...], ...], kernel: int) -> Maker:
    """Convolution with a connection table, then the scaled hyperbolic tangent."""

    def make(shape: Shape) -> nn.Module:
        channels, last = spatial(shape)[0], max(max(reads) for reads in table)
        if channels <= last:
            raise ValueError(f"the connection table reads map {last}, {channels} arrive")
        return chain(conv=PartialConv2d(table, channels, kernel), act=ScaledTanh())

    return make
