"""Small makers that the networks are written with: each is told the shape that arrives and returns a module."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cnntrain.models.stages import Add, Maker, Shape, describe_shape

Activation = Literal["relu", "tanh", "scaled_tanh", "sigmoid", "leaky_relu", "none"]
Pool = Literal["max", "avg", "none"]
Shortcut = Literal["A", "B"]


class ScaledTanh(nn.Module):
    """1.7159 tanh(2x/3), which maps ±1 to ±1 (LeCun et al. 1998, appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "scaled_tanh": ScaledTanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "none": nn.Identity,
}
assert tuple(ACTIVATIONS) == get_args(Activation)


def chain(**parts: nn.Module | None) -> nn.Sequential:
    """Name the parts of a stage; None leaves a part out."""
    return nn.Sequential(OrderedDict((name, part) for name, part in parts.items() if part is not None))


def spatial(shape: Shape) -> Shape:
    """Return a (channels, height, width) shape as it is; raise `ValueError` for any other."""
    if len(shape) != 3:
        raise ValueError(f"needs maps (channels × height × width), but {describe_shape(shape)} numbers arrive")
    return shape


def conv(
    out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    norm: bool = False,
    activation: Activation = "relu",
) -> Maker:
    """Convolution, batch norm if asked for (the convolution then needs no bias), activation."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        if channels % groups or out % groups:
            raise ValueError(
                f"{channels} channels arrive, {groups} groups do not divide them; "
                "keep an earlier convolution or set groups=1"
            )
        return chain(
            conv=nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=not norm),
            norm=nn.BatchNorm2d(out) if norm else None,
            act=ACTIVATIONS[activation]() if activation != "none" else None,
        )

    return make


def linear(out: int) -> Maker:
    """One weight from every number that arrives to each of `out` outputs."""

    def make(shape: Shape) -> nn.Module:
        return chain(flatten=nn.Flatten() if len(shape) > 1 else None, linear=nn.Linear(math.prod(shape), out))

    return make


def dense(out: int, *, activation: Activation = "relu", dropout: float = 0.0) -> Maker:
    """A fully connected stage: linear, activation, dropout of what it gives."""

    def make(shape: Shape) -> nn.Module:
        return chain(
            flatten=nn.Flatten() if len(shape) > 1 else None,
            linear=nn.Linear(math.prod(shape), out),
            act=ACTIVATIONS[activation](),
            dropout=nn.Dropout(dropout) if dropout else None,
        )

    return make


def pooling(kind: Pool, kernel: int, stride: int | None = None) -> Maker:
    """Max or average pooling; "none" keeps one position of each window, so that the shapes stay the same."""

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        step = stride or kernel
        if kind == "max":
            return nn.MaxPool2d(kernel, step)
        if kind == "avg":
            return nn.AvgPool2d(kernel, step)
        low = (shape[1] - kernel) % step, (shape[2] - kernel) % step
        if kernel > step or any(low):  # a window of one would reach positions that the pooled map does not have
            raise ValueError(f"pool=none keeps shapes only where windows of {kernel} tile {describe_shape(shape)}")
        return nn.MaxPool2d(1, step)

    return make


def global_average() -> Maker:
    """The mean of each map."""

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        return chain(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())

    return make


class PadShortcut(nn.Module):
    """Every `stride`-th position, and zero channels appended: no parameters (He et al. 2016, option A)."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return torch.cat([x, x.new_zeros(x.shape[0], self.extra, *x.shape[2:])], dim=1) if self.extra else x


def shortcut(kind: Shortcut, channels: int, out: int, stride: int) -> nn.Module:
    """The identity where shapes allow it, else option A (pad) or B (1×1 convolution and batch norm)."""
    if channels == out and stride == 1:
        return nn.Identity()
    if kind == "B":
        return chain(conv=nn.Conv2d(channels, out, 1, stride, bias=False), norm=nn.BatchNorm2d(out))
    if out < channels:
        raise ValueError(f"shortcut=A cannot narrow {channels} channels to {out}; use shortcut=B")
    return PadShortcut(stride, out - channels)


def basic_block(out: int, *, stride: int = 1, kind: Shortcut = "A") -> Maker:
    """Two 3×3 convolutions with batch norm beside a shortcut, ReLU after the sum (He et al. 2016, fig. 2)."""

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        return Add(
            main=chain(
                conv1=nn.Conv2d(channels, out, 3, stride, 1, bias=False),
                norm1=nn.BatchNorm2d(out),
                act1=nn.ReLU(),
                conv2=nn.Conv2d(out, out, 3, 1, 1, bias=False),
                norm2=nn.BatchNorm2d(out),
            ),
            skip=shortcut(kind, channels, out, stride),
            after=nn.ReLU(),
        )

    return make


def he_normal(leaf: nn.Module) -> None:
    """Normal weights of variance 2 / (outputs × kernel area) for convolutions (He et al. 2015, section 2.2)."""
    if isinstance(leaf, nn.Conv2d):
        nn.init.kaiming_normal_(leaf.weight, mode="fan_out", nonlinearity="relu")
