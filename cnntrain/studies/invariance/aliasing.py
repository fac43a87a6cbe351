"""Whether a network that subsamples tells shifts by multiples of its stride from others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnntrain.stats.bootstrap import Support, band, means
from cnntrain.studies.invariance.measure import Clean, Moved
from cnntrain.transforms.transform import Transform

Row = dict[str, Any]


def total_stride(strides: Sequence[int | None]) -> int:
    """Return the largest stride of a network's spatial stages, 1 without any."""
    return max((stride for stride in strides if stride), default=1)


def lags(transform: Transform, name: str, moved: Moved, blocks: np.ndarray, stride: int) -> list[Row]:
    """Return how often predictions agree at two shifts that lie so many pixels apart, by that distance.

    A network that subsamples by `stride` sees shifts by its multiples alike but for the border: `phase` is the distance
    modulo it.
    """
    lines = []
    for lag, pairs in enumerate(agreement(transform, moved), 1):
        agree = means(blocks, pairs)
        low, high = band(agree, Support(0.0, 1.0, len(blocks)))
        line = {
            "run": name,
            "warp": transform.name,
            "lag": lag,
            "phase": lag % stride,
            "pairs": len(transform.amounts) - lag,
        }
        lines.append(line | {"consistency": float(agree[0]), "low": float(low), "high": float(high)})
    return lines


def aliasing(transform: Transform, name: str, moved: Moved, blocks: np.ndarray, stride: int) -> list[Row]:
    """Return by how much predictions agree more at shifts a multiple of the stride apart than a pixel less or more.

    The mean of the two neighbours is what distance alone would give; without subsampling the excess is about 0.
    """
    agree = agreement(transform, moved)
    places = list(range(stride, len(agree), stride)) if stride > 1 else []
    if not places:
        return []
    excess = [agree[lag - 1] - (agree[lag - 2] + agree[lag]) / 2 for lag in places]  # lag 1 stands at place 0
    found = means(blocks, np.mean(excess, axis=0))
    low, high = band(found, Support(-1.0, 1.0, len(blocks)))
    line = {"run": name, "warp": transform.name, "stride": stride, "lags": places}
    return [line | {"excess": float(found[0]), "low": float(low), "high": float(high)}]


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


def phases(transform: Transform, name: str, clean: Clean, moved: Moved, blocks: np.ndarray, stride: int) -> list[Row]:
    """Return how often a whole shift keeps the prediction, by the shift modulo the network's total stride."""
    whole = [a for a, amount in enumerate(transform.amounts) if all(part % 1 == 0 for part in amount) and any(amount)]
    if transform.unit != "pixels" or transform.move is None or not whole:
        return []
    kept = moved.predicted == clean.predicted
    groups: dict[tuple[int, ...], list[int]] = {}
    for a in whole:
        groups.setdefault(tuple(int(part) % stride for part in transform.amounts[a]), []).append(a)
    lines = []
    for phase, members in sorted(groups.items()):
        agree = means(blocks, kept[members].mean(axis=0))
        low, high = band(agree, Support(0.0, 1.0, len(blocks)))
        line = {"run": name, "warp": transform.name, "stride": stride, "phase": list(phase), "shifts": len(members)}
        lines.append(line | {"consistency": float(agree[0]), "low": float(low), "high": float(high)})
    return lines
