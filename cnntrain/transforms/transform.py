"""A transformation of images in many amounts, with what is needed to judge it: motion, protocol, controls."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.augment.resize import Size
from cnntrain.transforms.resampling import Border, Interpolation, Motion, Sampling, sample, sampling

ImageShape = tuple[int, int, int]  # channels, height, width
Amount = tuple[float, ...]  # one number, or (dx, dy)
Frame = Literal["zero", "reflect", "edge", "circular", "crop"]
Changes = Callable[[Tensor, Tensor, np.ndarray], Iterator[Tensor]]
Logits = Callable[[Tensor], Tensor]  # of pixels [B, C, H, W] in 0..255


@dataclass(frozen=True)
class Transform:
    """A family of transformations of images of `size`: `amounts` of it in `unit`, of which `neutral` does nothing.

    `change(pixels, amount, places)` takes float32 [B, C, H, W], larger by `margin` on every side, and the places of the
    images in their split. `move` is there where positions move: the motion of an amount. `attack` takes the place of
    `change` where the network decides, and `goals` is there where it wants images taken for certain classes.
    """

    name: str
    unit: str
    neutral: Amount
    amounts: tuple[Amount, ...]
    size: Size
    change: Callable[[Tensor, Amount, np.ndarray], Tensor]
    move: Callable[[Amount], Motion] | None = None
    protocol: Mapping[str, object] = field(default_factory=dict)
    margin: int = 0
    border: Border = "zero"
    interpolation: Interpolation = "bilinear"
    attack: Callable[[Logits, Tensor, Tensor, np.ndarray], Iterator[Tensor]] | None = None
    goals: Callable[[Logits, Tensor, Tensor], Tensor] | None = None  # of pixels and labels, classes [B]

    @property
    def axes(self) -> int:
        """Numbers that an amount has: 1, or 2 of a grid."""
        return len(self.neutral)

    def against(self, logits: Logits) -> Changes:
        """Return what yields a batch under each amount, from its pixels, labels and places.

        An attack changes the pixels by what the network says of them, through `logits`; others do not ask.
        """
        if self.attack is not None:
            return partial(self.attack, logits)
        return lambda pixels, labels, places: (self.change(pixels, amount, places) for amount in self.amounts)


def moved(
    name: str,
    unit: str,
    shape: ImageShape,
    neutral: Amount,
    amounts: Sequence[Amount],
    move: Callable[[Amount], Motion],
    border: Frame,
    interpolation: Interpolation,
    **protocol: object,
) -> Transform:
    """Return a warp that moves positions; with `border="crop"` the frame moves over images that are larger."""
    size = (shape[1], shape[2])
    margin = max(math.ceil(max(map(abs, amount))) for amount in amounts) if border == "crop" else 0
    outside: Border = "zero" if border == "crop" else border

    @cache
    def how(amount: Amount, device: torch.device) -> Sampling:
        source = (size[0] + 2 * margin, size[1] + 2 * margin)
        return sampling(move(amount), source, size, border=outside, interpolation=interpolation, device=device)

    return Transform(
        name,
        unit,
        neutral,
        tuple(amounts),
        size,
        lambda pixels, amount, places: sample(pixels, how(amount, pixels.device)),
        move,
        {"border": border, "interpolation": interpolation, **protocol},
        margin,
        outside,
        interpolation,
    )


def floor_of(transform: Transform, amount: Amount, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what warps pixels and undoes it on a canvas that loses nothing: what interpolation alone changes."""
    assert transform.move is not None
    motion = transform.move(amount)
    reach = (
        max(motion.reach(transform.size), motion.back().reach(transform.size)) + 2
    )  # room for the taps of interpolation
    canvas = (transform.size[0] + 2 * reach, transform.size[1] + 2 * reach)
    options = {"border": transform.border, "interpolation": transform.interpolation, "device": device}
    there = sampling(motion, transform.size, canvas, **options)  # type: ignore[arg-type]
    back = sampling(motion.back(), canvas, transform.size, **options)  # type: ignore[arg-type]
    return lambda pixels: sample(sample(pixels, there), back)


def padding_of(transform: Transform, amount: Amount, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what leaves pixels where they are and puts the border where the warped image shows it."""
    assert transform.move is not None
    how = sampling(
        transform.move(amount),
        transform.size,
        border=transform.border,
        interpolation=transform.interpolation,
        device=device,
    )
    inside = how.inside.view(transform.size)
    return lambda pixels: torch.where(inside, pixels, sample(pixels, how))
