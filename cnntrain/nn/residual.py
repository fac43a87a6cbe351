"""The blocks of the residual networks: two branches and their sum, each block one stage.

He, Zhang, Ren and Sun: "Deep Residual Learning for Image Recognition", CVPR 2016 (v1), and "Identity Mappings in Deep
Residual Networks", ECCV 2016 (pre-activation). A block decides from the shape that arrives whether its shortcut needs
to change it.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from cnntrain.nn.blocks import spatial
from cnntrain.nn.composite import Add, Branches, chain
from cnntrain.nn.layers import PadShortcut
from cnntrain.nn.measures import Cost, LayerGeometry, Measure, Spans, measure_branches
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import Maker, widenable

Shortcut = Literal["A", "B", "none"]


def shortcut(kind: Shortcut, channels: int, out: int, stride: int, *, norm: bool = True) -> nn.Module:
    """The identity where shapes allow it, else option A (pad) or B (1×1 convolution, with batch norm in v1)."""
    if channels == out and stride == 1:
        return nn.Identity()
    if kind == "B":
        projection = nn.Conv2d(channels, out, 1, stride, bias=False)
        return chain(conv=projection, norm=nn.BatchNorm2d(out)) if norm else projection
    if out < channels:
        raise ValueError(f"shortcut=A cannot narrow {channels} channels to {out}; use shortcut=B")
    return PadShortcut(stride, out - channels)


class MultistepBlock(Branches):
    """A residual block that also adds the state before the last: [N, 2C, H, W] to [N, 2C', H', W'].

    x(t+1) = (1 - k) x(t) + k x(t-1) + F(x(t)) with one trainable k (Lu et al., ICML 2018, equation 3).
    """

    def __init__(self, main: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.main, self.skip = main, skip
        self.step = nn.Parameter(torch.empty(()))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.step, -0.1, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        now, last = x.chunk(2, dim=1)
        now_skipped = self.skip(now)
        states = (1 - self.step) * now_skipped + self.step * self.skip(last)
        return torch.cat([(self.main(now) + states).relu(), now_skipped], dim=1)

    def measured(self, measure: Measure, shape: Shape, spans: Spans) -> LayerGeometry:
        state = (shape[0] // 2, *shape[1:])
        (out, _), spans, inside = measure_branches(measure, (self.main, self.skip), state, spans)
        both = (2 * out[0], *out[1:])
        return both, spans, inside + Cost(activations=math.prod(both))


def conv3(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps the size but for its stride; batch norm makes a bias pointless."""
    return nn.Conv2d(channels, out, 3, stride, 1, bias=False)


def basic_body(channels: int, out: int, stride: int) -> nn.Sequential:
    """Two 3×3 convolutions, each with batch norm, ReLU between."""
    return chain(
        conv1=conv3(channels, out, stride),
        norm1=nn.BatchNorm2d(out),
        act1=nn.ReLU(),
        conv2=conv3(out, out),
        norm2=nn.BatchNorm2d(out),
    )


@widenable
def basic_block(out: int, *, stride: int = 1, kind: Shortcut = "A") -> Maker:
    """Two 3×3 convolutions with batch norm beside a shortcut, ReLU after the sum (CVPR, fig. 5 left).

    `kind="none"` leaves out the shortcut: the plain networks that the paper compares with (section 4.1).
    """

    def make(shape: Shape) -> nn.Module:
        channels = spatial(shape)[0]
        if kind == "none":
            return chain(main=basic_body(channels, out, stride), after=nn.ReLU())
        return Add(main=basic_body(channels, out, stride), skip=shortcut(kind, channels, out, stride), after=nn.ReLU())

    return make


@widenable
def bottleneck_block(out: int, *, stride: int = 1, late_stride: bool = False) -> Maker:
    """1×1, 3×3 and 1×1 convolutions beside a shortcut (CVPR, fig. 5 right); the first strides, or the 3×3 (v1.5)."""

    def make(shape: Shape) -> nn.Module:
        channels, inner = spatial(shape)[0], out // 4
        first, second = (1, stride) if late_stride else (stride, 1)
        return Add(
            main=chain(
                conv1=nn.Conv2d(channels, inner, 1, first, bias=False),
                norm1=nn.BatchNorm2d(inner),
                act1=nn.ReLU(),
                conv2=conv3(inner, inner, second),
                norm2=nn.BatchNorm2d(inner),
                act2=nn.ReLU(),
                conv3=nn.Conv2d(inner, out, 1, bias=False),
                norm3=nn.BatchNorm2d(out),
            ),
            skip=shortcut("B", channels, out, stride),
            after=nn.ReLU(),
        )

    return make


def preactivated(shape: Shape, out: int, stride: int, kind: Shortcut, share: bool, body: nn.Sequential) -> nn.Module:
    """Batch norm and ReLU, then the body, plus a shortcut (ECCV, fig. 1b).

    Where the shortcut is a projection, or with `share`, both branches read what batch norm and ReLU give (section 4.1
    of the paper, on the first block); else the body alone does and the shortcut is the identity.
    """
    channels = spatial(shape)[0]
    first = chain(norm1=nn.BatchNorm2d(channels), act1=nn.ReLU())
    if kind == "none":
        return chain(before=first, main=body)
    skip = shortcut(kind, channels, out, stride, norm=False)
    if share or not isinstance(skip, nn.Identity):
        return Add(before=first, main=body, skip=skip)
    return Add(main=chain(**dict(first.named_children()), **dict(body.named_children())), skip=skip)


@widenable
def preact_basic_block(
    out: int, *, stride: int = 1, kind: Shortcut = "B", share: bool = False, dropout: float = 0.0
) -> Maker:
    """Pre-activation with two 3×3 convolutions; dropout, if any, before the second (Zagoruyko and Komodakis 2016)."""

    def make(shape: Shape) -> nn.Module:
        body = chain(
            conv1=conv3(spatial(shape)[0], out, stride),
            norm2=nn.BatchNorm2d(out),
            act2=nn.ReLU(),
            dropout=nn.Dropout(dropout) if dropout else None,
            conv2=conv3(out, out),
        )
        return preactivated(shape, out, stride, kind, share, body)

    return make


@widenable
def preact_bottleneck_block(out: int, *, stride: int = 1, share: bool = False) -> Maker:
    """Pre-activation with 1×1, 3×3 and 1×1 convolutions; the 3×3 strides, as in the authors' code."""

    def make(shape: Shape) -> nn.Module:
        inner = out // 4
        body = chain(
            conv1=nn.Conv2d(spatial(shape)[0], inner, 1, bias=False),
            norm2=nn.BatchNorm2d(inner),
            act2=nn.ReLU(),
            conv2=conv3(inner, inner, stride),
            norm3=nn.BatchNorm2d(inner),
            act3=nn.ReLU(),
            conv3=nn.Conv2d(inner, out, 1, bias=False),
        )
        return preactivated(shape, out, stride, "B", share, body)

    return make
