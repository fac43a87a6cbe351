"""The jackknife: 95 % intervals of any number over images, and Student's t intervals over seeds.

The image is the unit: all that was measured of one image, at every amount and stage and for every network, stays
together. Row 0 of every array is computed from all images, and each other row from all but one image, or a small block
of images (Tukey 1958). So any number derived from such arrays has its band by the same line of code.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from cnntrain.runtime.seeding import generator

BLOCKS = 1000  # at most
LEVEL = 0.95
Z = 1.959963984540054
FURTHER = 1.5  # times as far as the furthest image: with less, bands of long-tailed distances are too narrow


class Support(NamedTuple):
    """Between which values a number lies whatever the images, and how many images it is about."""

    low: np.ndarray | float
    high: np.ndarray | float
    n: np.ndarray | float


def blocks(n: int, most: int = BLOCKS, seed: int = 0) -> np.ndarray:
    """Return the block of each of `n` images, drawn at random and as even as can be; at best one an image."""
    places = np.arange(n)
    return places if n <= most else np.asarray(generator(seed, "blocks", n).permutation(places % most))


def means(blocks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the means of values [..., N] over all images, and without each block: [1 + blocks, ...].

    Values that are nan are left out.
    """
    order = np.argsort(blocks, kind="stable")
    starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
    flat = values.reshape(-1, values.shape[-1])[:, order].astype(np.float64)
    there = np.isfinite(flat)

    def sums(parts: np.ndarray) -> np.ndarray:
        total = parts.sum(axis=1, keepdims=True)
        return np.concatenate([total, total - np.add.reduceat(parts, starts, axis=1)], axis=1)

    with np.errstate(invalid="ignore"):
        ratios = sums(np.where(there, flat, 0)) / sums(there.astype(np.float64))
    return np.asarray(ratios.T.reshape(-1, *values.shape[:-1]))


def band(replicates: np.ndarray, support: Support | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval at 95 % of numbers [1 + blocks, ...].

    Of a number with a support, the range that it lies in, it is the interval of Agresti and Coull (1998) for a share,
    with what images contribute in place of 0 and 1: the variance grows as the number moves towards where single images
    pull it, by the third moment of their contributions over the second, so that one end lies further out and the other
    nearer. One image that was not seen is added at the end of the range, so that the interval has a width where all
    images agree. Without a support it is added half as far again as the furthest image, and no end comes nearer. A
    number that is not finite may lie anywhere in its range.
    """
    theta = replicates[0]
    moves = (theta - replicates[1:]) * (1 - 1 / (len(replicates) - 1))
    moves[~np.isfinite(moves)] = 0
    variance, third = (moves**2).sum(axis=0), (moves**3).sum(axis=0)

    def growth(third: np.ndarray, unseen: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nan_to_num((third + unseen**3) / (variance + unseen**2)))

    def end(growth: np.ndarray) -> np.ndarray:
        shift = Z**2 * growth / 2
        return np.asarray(shift + np.sqrt(2 * shift**2 + Z**2 * variance))

    if support is None:
        down, up = growth(-third, -FURTHER * moves.min(axis=0)), growth(third, FURTHER * moves.max(axis=0))
        return theta - end(np.maximum(down, 0)), theta + end(np.maximum(up, 0))
    below, above = (np.maximum(room, 0) for room in (theta - support.low, support.high - theta))
    down, up = growth(-third, below / (support.n + Z**2)), growth(third, above / (support.n + Z**2))
    there = np.isfinite(theta)
    low = np.where(there, theta - np.minimum(end(down), below), support.low)
    return low, np.where(there, theta + np.minimum(end(up), above), support.high)


def mean_band(values: np.ndarray, support: tuple[float, float] | None = None) -> tuple[float, float, float]:
    """Return the mean of one number an image [N] and its interval at 95 %; `support` is the range of its mean."""
    replicates = means(blocks(len(values)), values[None])
    low, high = band(replicates, None if support is None else Support(*support, len(values)))
    return float(replicates[0, 0]), float(low[0]), float(high[0])


def seed_band(points: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the t interval at 95 % of the mean over networks that differ in their seed, element by element."""
    values, n = np.stack(points), len(points)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return values.mean(axis=0) - half, values.mean(axis=0) + half
