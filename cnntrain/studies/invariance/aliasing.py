"""Whether a network that subsamples tells shifts by multiples of its stride from others."""

from collections.abc import Sequence

import numpy as np

from cnntrain.stats.jackknife import Support, band, means
from cnntrain.studies.invariance.measure import Clean, Moved
from cnntrain.studies.invariance.rows import AliasingRow, Estimate, LagRow, PhaseRow
from cnntrain.transforms.transform import Transform


def total_stride(strides: Sequence[int | None]) -> int:
    """Return the largest stride of a network's spatial stages, 1 without any."""
    return max((stride for stride in strides if stride), default=1)


def lags(transform: Transform, name: str, moved: Moved, blocks: np.ndarray, stride: int) -> list[LagRow]:
    """Return how often predictions agree at two shifts that lie so many pixels apart, by that distance.

    A network that subsamples by `stride` sees shifts by its multiples alike but for the border: `phase` is the distance
    modulo it.
    """
    pairs = len(transform.amounts)
    return [
        LagRow(name, transform.name, lag, lag % stride, pairs - lag, share_of(blocks, agree))
        for lag, agree in enumerate(agreement(transform, moved), 1)
    ]


def aliasing(transform: Transform, name: str, moved: Moved, blocks: np.ndarray, stride: int) -> list[AliasingRow]:
    """Return by how much predictions agree more at shifts a multiple of the stride apart than a pixel less or more.

    The mean of the two neighbours is what distance alone would give; without subsampling the excess is about 0.
    """
    agree = agreement(transform, moved)
    places = list(range(stride, len(agree), stride)) if stride > 1 else []
    if not places:
        return []
    excess = [agree[lag - 1] - (agree[lag - 2] + agree[lag]) / 2 for lag in places]  # lag 1 stands at place 0
    mean = means(blocks, np.mean(excess, axis=0))
    low, high = band(mean, Support(-1.0, 1.0, len(blocks)))
    return [AliasingRow(name, transform.name, stride, tuple(places), Estimate(float(mean[0]), float(low), float(high)))]


def share_of(blocks: np.ndarray, values: np.ndarray) -> Estimate:
    """Return the mean of values [N] in 0..1 over images, with its band."""
    mean = means(blocks, values)
    low, high = band(mean, Support(0.0, 1.0, len(blocks)))
    return Estimate(float(mean[0]), float(low), float(high))


def agreement(transform: Transform, moved: Moved) -> list[np.ndarray]:
    """Return for lags 1, 2, … the share of pairs of shifts so far apart at which each image [N] is taken alike.

    Nothing for shifts that are not whole and one pixel apart.
    """
    steps = np.array([amount[0] for amount in transform.amounts])
    if transform.axes != 1 or transform.unit != "pixels" or transform.move is None or len(steps) < 3:
        return []
    if (np.diff(steps) != 1).any() or steps[0] % 1:
        return []
    return [(moved.predicted[lag:] == moved.predicted[:-lag]).mean(axis=0) for lag in range(1, len(steps))]


def phases(
    transform: Transform, name: str, clean: Clean, moved: Moved, blocks: np.ndarray, stride: int
) -> list[PhaseRow]:
    """Return how often a whole shift keeps the prediction, by the shift modulo the network's total stride."""
    whole_shifts = [
        a for a, amount in enumerate(transform.amounts) if all(part % 1 == 0 for part in amount) and any(amount)
    ]
    if transform.unit != "pixels" or transform.move is None or not whole_shifts:
        return []
    same = moved.predicted == clean.predicted
    groups: dict[tuple[int, ...], list[int]] = {}
    for a in whole_shifts:
        groups.setdefault(tuple(int(part) % stride for part in transform.amounts[a]), []).append(a)
    return [
        PhaseRow(name, transform.name, stride, phase, len(places), share_of(blocks, same[places].mean(axis=0)))
        for phase, places in sorted(groups.items())
    ]
