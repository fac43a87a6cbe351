"""Small makers that the networks are written with: each takes the shape that arrives and returns a module."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar, get_args

from torch import nn

from cnntrain.nn.composite import Fitting, Level, Unpool, chain
from cnntrain.nn.layers import (
    ACTIVATIONS,
    Activation,
    FractionalMaxPool2d,
    LocalContrastNorm,
    LocalResponseNorm,
    StochasticPool2d,
)
from cnntrain.nn.shapes import Shape, describe_shape, shape_after
from cnntrain.nn.stages import Maker, StageError, nested, widenable

T = TypeVar("T")
NormLayer = Callable[[int], nn.Module]  # the normalisation of so many maps
Pool = Literal["max", "avg", "none"]

assert tuple(ACTIVATIONS) == get_args(Activation)


def sequence(**makers: Maker) -> Maker:
    """One stage of several makers, each for the shape that leaves the one before it."""

    def make(shape: Shape) -> nn.Module:
        parts = {}
        for name, maker in makers.items():
            parts[name] = maker(shape)
            shape = shape_after(parts[name], shape)
        return chain(**parts)

    return make


def by_size(in_shape: Shape, *, small: T, medium: T, large: T) -> T:
    """Choose for CIFAR's images (below 48 pixels a side), Tiny ImageNet's (below 80), or ImageNet's."""
    side = min(in_shape[1:])
    return small if side < 48 else medium if side < 80 else large


def check_count(values: Sequence[int], number: int, option: str) -> None:
    """Refuse a list that does not have one value for each of `number` layers."""
    if len(values) != number:
        raise StageError(f"model.{option} needs {number} numbers, one a layer, not {len(values)}")


def spatial(shape: Shape) -> Shape:
    """Return a (channels, height, width) shape as it is; raise `ValueError` for any other."""
    if len(shape) != 3:
        raise ValueError(f"needs maps (channels × height × width), but {describe_shape(shape)} numbers arrive")
    return shape


def check_groups(channels: int, out: int, groups: int) -> None:
    """Raise `ValueError` where groups divide the channels unevenly; fewer groups would change a second thing."""
    if channels % groups or out % groups:
        raise ValueError(
            f"{channels} channels arrive, {groups} groups do not divide them; "
            "keep an earlier convolution or set groups=1"
        )


@widenable
def conv(
    out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    norm: bool | NormLayer = False,
    norm_last: bool = False,
    bias: bool | None = None,
    activation: Activation = "relu",
    dropout: float = 0.0,
) -> Maker:
    """Convolution, batch norm if asked for (before the activation or last), activation, dropout of what it gives.

    `norm` may also be another normalisation. A convolution followed by one needs no bias; `bias=True` keeps it where a
    paper has it.
    """

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        check_groups(channels, out, groups)
        bare = bool(norm) and not norm_last
        layer = nn.Conv2d(
            channels, out, kernel, stride, padding, dilation, groups, bias=not bare if bias is None else bias
        )
        act = ACTIVATIONS[activation]() if activation != "none" else None
        last = (nn.BatchNorm2d if norm is True else norm)(out) if norm else None
        after = {"act": act, "norm": last} if norm_last else {"norm": last, "act": act}
        return chain(conv=layer, **after, dropout=nn.Dropout(dropout) if dropout else None)

    return make


def norm_act(norm: NormLayer = nn.BatchNorm2d, activation: Activation = "relu") -> Maker:
    """A normalisation and an activation as a stage of their own: batch norm and ReLU close a pre-activation network."""
    return lambda shape: chain(norm=norm(spatial(shape)[0]), act=ACTIVATIONS[activation]())


def batch_norm(channels: int, *, momentum: float = 0.1, scale: bool = True) -> nn.BatchNorm2d:
    """Batch norm whose running statistics move by `momentum` a step; without `scale` it trains its bias alone."""
    layer = nn.BatchNorm2d(channels, momentum=momentum)
    layer.weight.requires_grad_(scale)
    return layer


def linear(out: int, *, bias: bool = True) -> Maker:
    """One weight from every number that arrives to each of `out` outputs."""

    def make(shape: Shape) -> nn.Module:
        return chain(flatten=nn.Flatten() if len(shape) > 1 else None, linear=nn.Linear(math.prod(shape), out, bias))

    return make


@widenable
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


def dropout(share: float) -> Maker:
    """Dropout as a stage of its own, after a pool."""
    return lambda shape: nn.Dropout(share)


def check_window(kernel: int, padding: int, shape: Shape) -> None:
    """Raise `ValueError` where a window is larger than the maps that arrive."""
    if min(shape[1:]) + 2 * padding < kernel:
        raise ValueError(f"windows of {kernel}×{kernel} do not fit into maps of {describe_shape(shape[1:])}")


def pooling(kind: Pool, kernel: int, stride: int | None = None, *, padding: int = 0, ceil: bool = False) -> Maker:
    """Max or average pooling; "none" keeps one position of each window, so that the shapes stay the same.

    With `ceil` a last window may reach over the border, as in cuda-convnet and Caffe.
    """

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        step = stride or kernel
        if not ceil:
            check_window(kernel, padding, shape)
        if kind == "max":
            return nn.MaxPool2d(kernel, step, padding, ceil_mode=ceil)
        if kind == "avg":
            return nn.AvgPool2d(kernel, step, padding, ceil_mode=ceil)
        low = (shape[1] - kernel) % step, (shape[2] - kernel) % step
        if kernel > step or any(low):  # a window of one would reach positions that the pooled map does not have
            raise ValueError(f"pool=none keeps shapes only where windows of {kernel} tile {describe_shape(shape)}")
        return nn.MaxPool2d(1, step)

    return make


def stochastic_pool(kernel: int, stride: int | None = None) -> Maker:
    """Pooling that draws one value of each window."""

    def make(shape: Shape) -> nn.Module:
        check_window(kernel, 0, spatial(shape))
        return StochasticPool2d(kernel, stride or kernel)

    return make


def fractional_pool() -> Maker:
    """Max pooling by a factor of √2."""

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        return FractionalMaxPool2d()

    return make


def level(
    join: Literal["channels", "sum"], makers: Mapping[str, Maker], *, fit: Fitting = "crop", offset: int | None = None
) -> Maker:
    """A stage of named stages in a chain, past which `skip` leads: it may be removed by path, as any of them."""

    def build(shape: Shape, inner: Mapping[str, Maker]) -> nn.Module:
        spatial(shape)
        stages, arriving = dict[str, nn.Module](), shape
        for name, maker in inner.items():
            if name != "skip":
                stages[name] = maker(arriving)
                arriving = shape_after(stages[name], arriving)
        skip = inner["skip"](shape) if "skip" in inner else None
        return Level(stages, skip, join=join, fit=fit, offset=offset)

    return nested(build, makers)


def unpooled(kernel: int, body: Maker) -> Maker:
    """Max pooling, `body` on the pooled maps, unpooling to where the maxima were."""

    def make(shape: Shape) -> nn.Module:
        check_window(kernel, 0, spatial(shape))
        channels, height, width = shape
        return Unpool(kernel, body((channels, height // kernel, width // kernel)))

    return make


def global_average() -> Maker:
    """The mean of each map."""

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        return chain(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())

    return make


def lrn() -> Maker:
    """Local response normalisation with AlexNet's constants."""

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        return LocalResponseNorm()

    return make


def local_contrast(size: int = 9) -> Maker:
    """Local contrast normalisation."""

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        return LocalContrastNorm(size)

    return make
