"""How far a number would move on other images like these, by the bootstrap (Efron 1979), and with other seeds.

The image is the unit: all that was measured of one image, at every amount and stage and for every network, is drawn
together. Row 0 of every array holds the images as they are, and the other rows the images drawn anew.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from cnntrain.draws import generator
from cnntrain.tables import wilson

DRAWS = 1000
LEVEL = 0.95


def resamples(n: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Return how often each of `n` images counts: float64 [1 + draws, n], ones and then the counts of each drawing."""
    rng = generator(seed, "bootstrap", n)
    counts = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(draws)]
    return np.stack([np.ones(n), *counts]).astype(np.float64)


def means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the weighted means [R, …] of values [..., N] under weights [R, N]; values that are nan are left out."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    there = np.isfinite(flat)
    if there.all():
        found = weights @ flat.T / weights.sum(axis=1, keepdims=True)
    else:
        with np.errstate(invalid="ignore"):
            found = (weights @ np.where(there, flat, 0).T) / (weights @ there.T.astype(np.float64))
    return np.asarray(found.reshape(len(weights), *values.shape[:-1]))


def band(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval at 95 % of numbers [R, …] whose first row is no drawing.

    Drawings in which a number has no meaning (a ratio to nothing) are left out.
    """
    tails, drawn = ((1 - LEVEL) / 2, (1 + LEVEL) / 2), found[1:]
    there = np.isfinite(drawn)
    if there.all():
        low, high = np.quantile(drawn, tails, axis=0)
        return low, high
    ends = np.full((2, *found.shape[1:]), np.nan)
    some = there.any(axis=0)
    ends[:, some] = np.nanquantile(np.where(there, drawn, np.nan)[:, some], tails, axis=0)
    return ends[0], ends[1]


def share_band(found: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of proportions over `n` images each; where all images agree, Wilson's end takes over.

    There every drawing is the same, and a band of no width would promise too much.
    """
    low, high = (np.atleast_1d(end).copy() for end in band(found))
    for place in np.argwhere((found[0] == 0) | (found[0] == 1)):
        at = tuple(place)
        count = int(np.broadcast_to(n, found[0].shape)[at])
        if count:
            low[at], high[at] = wilson(round(float(found[0][at]) * count), count)
    return low.reshape(found.shape[1:]), high.reshape(found.shape[1:])


def seed_band(points: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the t interval at 95 % of the mean over networks that differ in their seed, element by element."""
    values, n = np.stack(points), len(points)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return values.mean(axis=0) - half, values.mean(axis=0) + half
