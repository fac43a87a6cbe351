"""Moving the pixels of images and of maps, by one motion for a whole batch.

Positions are found in float64 and pixels are gathered: where a position falls on a pixel its weight is exactly one, so
whole shifts move pixels, quarter turns permute them and the neutral motion changes nothing, all by the same code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.data.augment.resize import Size

Border = Literal["zero", "reflect", "edge", "circular"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Matrix2x2 = tuple[tuple[float, float], tuple[float, float]]

KEYS = -0.5  # the constant of cubic convolution that reproduces quadratics (Keys 1981)


@dataclass(frozen=True)
class Motion:
    """Where the content of an image goes: by `matrix` about `centre`, then by `shift`.

    Positions are (x, y) in pixels, x to the right and y down; `centre` counts from the middle of the image.
    """

    matrix: Matrix2x2 = ((1.0, 0.0), (0.0, 1.0))
    shift: tuple[float, float] = (0.0, 0.0)
    centre: tuple[float, float] = (0.0, 0.0)

    def back(self) -> "Motion":
        """Return the motion that undoes this one."""
        (a, b), (c, d) = self.matrix
        area = a * d - b * c
        inverse = ((d / area, -b / area), (-c / area, a / area))
        dx, dy = self.shift
        shift = (-(inverse[0][0] * dx + inverse[0][1] * dy), -(inverse[1][0] * dx + inverse[1][1] * dy))
        return replace(self, matrix=inverse, shift=shift)

    def on_map(self, stride: Size, middle: tuple[float, float]) -> "Motion":
        """Return the same motion of a map whose positions lie `stride` (height, width) pixels apart.

        `middle` (x, y) is where the middle of the map lies, in pixels from the middle of the image.
        """
        (a, b), (c, d) = self.matrix
        y, x = stride
        matrix = ((a, b * y / x), (c * x / y, d))
        centre = ((self.centre[0] - middle[0]) / x, (self.centre[1] - middle[1]) / y)
        return Motion(matrix, (self.shift[0] / x, self.shift[1] / y), centre)

    def reach(self, size: Size) -> int:
        """Return by how many pixels a canvas must surround an image of `size` to hold all of it once it has moved."""
        (a, b), (c, d) = self.matrix
        height, width = size
        most = 0.0
        for x in (-width / 2 - self.centre[0], width / 2 - self.centre[0]):
            for y in (-height / 2 - self.centre[1], height / 2 - self.centre[1]):
                across = abs(a * x + b * y + self.centre[0] + self.shift[0]) - width / 2
                down = abs(c * x + d * y + self.centre[1] + self.shift[1]) - height / 2
                most = max(most, across, down)
        return math.ceil(most - 1e-9)


def turn(degrees: float) -> Matrix2x2:
    """Return the matrix of a clockwise rotation, exact for quarter turns."""
    quarters, rest = divmod(degrees, 90.0)
    cos, sin = math.cos(math.radians(rest)), math.sin(math.radians(rest))
    for _ in range(int(quarters) % 4):
        cos, sin = -sin, cos
    return ((cos + 0.0, -sin + 0.0), (sin + 0.0, cos + 0.0))


class Sampling(NamedTuple):
    """The pixels that each position of a moved image shows: K of them with their weights, for P positions."""

    source: Tensor  # int64 [K, P], into the flattened image
    weight: Tensor  # float32 [K, P]
    inside: Tensor  # bool [P]: the position shows the image and not its border
    size: Size


def sampling(
    motion: Motion,
    size: Size,
    to: Size | None = None,
    *,
    border: Border = "zero",
    interpolation: Interpolation = "bilinear",
    device: torch.device | None = None,
) -> Sampling:
    """Return how to show images of `size` after `motion` in a frame of size `to` (their own), middle upon middle."""
    (height, width), (rows, columns) = size, to or size
    undone = motion.back()
    (a, b), (c, d) = undone.matrix
    x = (np.arange(columns) - (columns - 1) / 2 - motion.centre[0])[None, :]
    y = (np.arange(rows) - (rows - 1) / 2 - motion.centre[1])[:, None]
    across = a * x + b * y + (undone.shift[0] + motion.centre[0] + (width - 1) / 2)
    down = c * x + d * y + (undone.shift[1] + motion.centre[1] + (height - 1) / 2)
    inside = (across > -1e-9) & (across < width - 1 + 1e-9) & (down > -1e-9) & (down < height - 1 + 1e-9)
    taps = TAPS[interpolation]
    index, weight = [], []
    for row, row_weight in taps(down.ravel()):
        row, row_kept = BORDERS[border](row, height)
        for column, column_weight in taps(across.ravel()):
            column, column_kept = BORDERS[border](column, width)
            share = row_weight * column_weight * (row_kept & column_kept)
            if share.any():
                index.append(row * width + column)
                weight.append(share)
    if not index:  # nothing of the image is left
        index, weight = [np.zeros(rows * columns, dtype=np.int64)], [np.zeros(rows * columns)]
    return Sampling(
        torch.from_numpy(np.stack(index)).to(device),
        torch.from_numpy(np.stack(weight)).float().to(device),
        torch.from_numpy(inside.ravel()).to(device),
        (rows, columns),
    )


def sample(x: Tensor, how: Sampling) -> Tensor:
    """Return images or maps [B, C, H, W] as `how` shows them, in float32."""
    pixels = x.float().flatten(2).flatten(0, 1).t().contiguous()  # a position a row: sums then run over whole rows
    out = F.embedding_bag(how.source.t(), pixels, per_sample_weights=how.weight.t(), mode="sum")
    return out.t().reshape(*x.shape[:2], *how.size)


# Which pixels stand for a position on one axis, and with what weights.

Taps = list[tuple[np.ndarray, np.ndarray]]


def nearest(position: np.ndarray) -> Taps:
    """The closest pixel; of two the one after."""
    return [(np.floor(position + 0.5).astype(np.int64), np.ones_like(position))]


def bilinear(position: np.ndarray) -> Taps:
    """The two pixels around."""
    low = np.floor(position)
    share = position - low
    return [(low.astype(np.int64), 1 - share), (low.astype(np.int64) + 1, share)]


def bicubic(position: np.ndarray) -> Taps:
    """The four pixels around, by cubic convolution (Keys 1981)."""
    low = np.floor(position)
    t = position - low
    weights = (
        KEYS * t * (1 - t) ** 2,
        ((KEYS + 2) * t - (KEYS + 3)) * t * t + 1,
        ((KEYS + 2) * (1 - t) - (KEYS + 3)) * (1 - t) ** 2 + 1,
        KEYS * t * t * (1 - t),
    )
    # At t = 0 the third is a difference of equal numbers, which must be exactly zero.
    weights = (*weights[:2], np.where(t == 0, 0.0, weights[2]), weights[3])
    return [(low.astype(np.int64) + place, weight) for place, weight in zip((-1, 0, 1, 2), weights, strict=True)]


TAPS: dict[Interpolation, Callable[[np.ndarray], Taps]] = {
    "nearest": nearest,
    "bilinear": bilinear,
    "bicubic": bicubic,
}

# What stands for positions outside an axis of `size` pixels, and whether anything does.

Kept = tuple[np.ndarray, np.ndarray]


def zero(index: np.ndarray, size: int) -> Kept:
    """Nothing: black."""
    return index.clip(0, size - 1), (index >= 0) & (index < size)


def edge(index: np.ndarray, size: int) -> Kept:
    """The pixel at the edge."""
    return index.clip(0, size - 1), np.ones_like(index, dtype=bool)


def reflect(index: np.ndarray, size: int) -> Kept:
    """The image mirrored at the middle of its edge pixels, which are not repeated."""
    period = max(2 * (size - 1), 1)
    folded = np.abs(index) % period
    return np.minimum(folded, period - folded).clip(0, size - 1), np.ones_like(index, dtype=bool)


def circular(index: np.ndarray, size: int) -> Kept:
    """The image again."""
    return index % size, np.ones_like(index, dtype=bool)


BORDERS: dict[Border, Callable[[np.ndarray, int], Kept]] = {
    "zero": zero,
    "reflect": reflect,
    "edge": edge,
    "circular": circular,
}
