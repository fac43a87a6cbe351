"""What was measured of each image to numbers with bands: curves, areas under them, the worst classes, differences.

Every number of the results is a row of this file; its JSON has the stable keys of `--json`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cnntrain.stats.jackknife import Support, band, means, seed_band
from cnntrain.studies.invariance.measure import Clean, Controls, Moved
from cnntrain.tasks.classification import Classification
from cnntrain.transforms.transform import Amount, Transform

ACCURACY = Classification.headline.key
BY_STAGE = ("distance", "distance_same_class", "distance_cosine", "equivariance", "euclidean", "cosine")
BY_AMOUNT = ("p_true", ACCURACY, "consistency", "consistency_right", "consistency_corrected", "flip_rate", "p_change")


# Rows.


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval: over images, or over seeds."""

    value: float
    low: float
    high: float

    def as_json(self, key: str) -> dict[str, float]:
        """Return the number by its key, and the ends."""
        return {key: self.value, f"{key}_low": self.low, f"{key}_high": self.high}


@dataclass(frozen=True)
class InvarianceRow:
    """A network, or several pooled over seeds, at one stage under one amount of a transform."""

    run: str
    transform: str
    amount: Amount
    stage: str
    n: int  # images whose features are numbers
    estimates: Mapping[str, Estimate]  # of each curve, `BY_STAGE` and `BY_AMOUNT`, over images
    over_seeds: Mapping[str, Estimate]  # the same over seeds; empty for a single network
    floor: float | None  # the distance that interpolation alone moves; None where positions do not move
    floor_p_true: float | None
    padding_only: float | None  # the distance that the border alone moves
    padding_only_p_true: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        row: dict[str, Any] = {"run": self.run, "warp": self.transform, **amount_json(self.amount)}
        row |= {"stage": self.stage, "n": self.n}
        for key, estimate in self.estimates.items():
            row |= estimate.as_json(key)
            if over := self.over_seeds.get(key):
                row |= {f"{key}_seed_low": over.low, f"{key}_seed_high": over.high}
        row |= {"floor": self.floor, "floor_p_true": self.floor_p_true}
        return row | {"padding_only": self.padding_only, "padding_only_p_true": self.padding_only_p_true}


@dataclass(frozen=True)
class AreaRow:
    """The mean height of a curve over the amounts, at one stage; of a curve of all stages together the stage is ""."""

    run: str
    transform: str
    curve: str
    stage: str
    area: Estimate

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        row = {"run": self.run, "warp": self.transform, "curve": self.curve, "stage": self.stage}
        return row | self.area.as_json("area")


@dataclass(frozen=True)
class DifferenceRow:
    """How much higher the mean of a curve is for one group of networks than for the first."""

    transform: str
    curve: str
    name: str
    reference: str
    delta: Estimate  # over images
    n_seeds: int  # that both groups have
    over_seeds: Estimate | None  # of the pairs of these seeds; None for fewer than two

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        row = {"warp": self.transform, "curve": self.curve, "name": self.name, "against": self.reference}
        over = self.over_seeds
        return {
            **row,
            **self.delta.as_json("delta"),
            "n_seeds": self.n_seeds,
            "seed_delta": over.value if over else None,
            "seed_low": over.low if over else None,
            "seed_high": over.high if over else None,
        }


@dataclass(frozen=True)
class ClassRow:
    """A class over all amounts of a transform, and the amount under which it is recognised least."""

    run: str
    transform: str
    label: str
    n: int  # images
    consistency: float  # share of predictions that stay
    accuracy: float
    worst: Amount
    worst_accuracy: float

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        row = {"run": self.run, "warp": self.transform, "class": self.label, "n": self.n}
        row |= {"consistency": self.consistency, ACCURACY: self.accuracy}
        row |= {f"worst_{key}": value for key, value in amount_json(self.worst).items() if value is not None}
        return row | {f"worst_{ACCURACY}": self.worst_accuracy}


@dataclass(frozen=True)
class LagRow:
    """How often predictions agree at two shifts that lie `lag` pixels apart."""

    run: str
    transform: str
    lag: int
    phase: int  # the lag modulo the network's total stride
    pairs: int  # of shifts
    consistency: Estimate

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        return flat_json(self, "consistency")


@dataclass(frozen=True)
class PhaseRow:
    """How often a whole shift keeps the prediction, by the shift modulo the network's total stride."""

    run: str
    transform: str
    stride: int
    phase: tuple[int, ...]
    shifts: int
    consistency: Estimate

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        return flat_json(self, "consistency")


@dataclass(frozen=True)
class AliasingRow:
    """By how much predictions agree more at shifts a multiple of the stride apart than a pixel less or more."""

    run: str
    transform: str
    stride: int
    lags: tuple[int, ...]
    excess: Estimate

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        return flat_json(self, "excess")


@dataclass(frozen=True)
class PixelRow:
    """How many pixels of a binary image a shift turns white and black: means over the images, and quantiles."""

    transform: str
    amount: float  # pixels
    n: int  # images
    black_to_white: float
    white_to_black: float
    changed: float
    changed_5: float  # the quantile 5 %
    changed_50: float
    changed_95: float
    equal: float  # share of images in which as many turn white as black

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        row = asdict(self)
        return {"warp": row.pop("transform"), **row}


def flat_json(row: LagRow | PhaseRow | AliasingRow, key: str) -> dict[str, Any]:
    """Return a row with its estimate as three keys, the ends without a prefix."""
    plain = {
        "warp" if name == "transform" else name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(row).items()
        if name != key
    }
    estimate: Estimate = getattr(row, key)
    return plain | {key: estimate.value, "low": estimate.low, "high": estimate.high}


def amount_json(amount: Amount) -> dict[str, float | None]:
    """Return an amount as columns; that of a pair is its length."""
    if len(amount) == 1:
        return {"amount": amount[0], "dx": None, "dy": None}
    return {"amount": math.hypot(*amount), "dx": amount[0], "dy": amount[1]}


# Curves.


@dataclass(frozen=True)
class Curves:
    """One network under one warp: [1 + blocks, amounts, stages] or [1 + blocks, amounts] by what was measured.

    `n` [amounts, stages] counts the images whose features are numbers; `ranges` [amounts] are those of the curves that
    have one. The controls are `distance` and `p_true` without bands; they are there where positions move.
    """

    name: str
    stages: tuple[str, ...]
    amounts: tuple[Amount, ...]
    values: dict[str, np.ndarray]
    n: np.ndarray
    ranges: dict[str, Support]
    floor: dict[str, np.ndarray] = field(default_factory=dict)
    padding: dict[str, np.ndarray] = field(default_factory=dict)


def curves(
    name: str,
    stages: Sequence[str],
    amounts: Sequence[Amount],
    clean: Clean,
    moved: Moved,
    controls: Controls | None,
    blocks: np.ndarray,
    num_classes: int,
) -> Curves:
    """Return every curve of a network under a warp, over all images and without each block of them."""
    other, same = means(blocks, clean.to_other), means(blocks, clean.to_same)
    cosine_other = means(blocks, clean.cosine_other)
    euclidean, cosine = means(blocks, moved.euclidean), means(blocks, moved.cosine)
    right_before = clean.predicted == clean.labels
    right, same_answer = moved.predicted == clean.labels, moved.predicted == clean.predicted
    before, accuracy, agree = means(blocks, right_before), means(blocks, right), means(blocks, same_answer)
    chance = agreement_by_chance(before[:, None], accuracy, num_classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "distance": euclidean / other[:, None],
            "distance_same_class": euclidean / same[:, None],
            "distance_cosine": cosine / cosine_other[:, None],
            "equivariance": means(blocks, moved.equivariance) / other[:, None],
            "euclidean": euclidean,
            "cosine": cosine,
            "p_true": means(blocks, moved.p_true),
            ACCURACY: accuracy,
            "consistency": agree,
            "consistency_right": means(blocks, same_answer & right_before) / before[:, None],
            "consistency_corrected": (agree - chance) / (1 - chance),
            "flip_rate": 1 - agree,
            "p_change": means(blocks, np.abs(moved.p_first - clean.p_first)),
        }
    if (clean.goal >= 0).all():
        values["target_rate"] = means(blocks, moved.predicted == clean.goal)
    images = np.full(len(amounts), float(len(clean.labels)))
    ranges = {key: Support(0 * images, 0 * images + 1, images) for key in (*BY_AMOUNT, "target_rate") if key in values}
    ranges["consistency_right"] = Support(0 * images, 0 * images + 1, images * before[0])
    ranges["consistency_corrected"] = corrected_range(before[0], accuracy[0], images, num_classes)
    alone: list[dict[str, np.ndarray]] = []
    if controls is not None:
        to_other = clean.to_other[:, controls.places]
        alone = [
            {"distance": ratio(control.euclidean, to_other), "p_true": control.p_true.mean(axis=-1)}
            for control in (controls.floor, controls.padding)
        ]
    n = np.isfinite(moved.euclidean).sum(axis=-1)
    return Curves(name, tuple(stages), tuple(amounts), values, n, ranges, *alone)


def agreement_by_chance(before: np.ndarray, after: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how often two predictors of these accuracies agree that know nothing of each other.

    Their mistakes are spread over the other classes.
    """
    return np.asarray(before * after + (1 - before) * (1 - after) / max(num_classes - 1, 1))


def corrected_range(before: np.ndarray, after: np.ndarray, images: np.ndarray, num_classes: int) -> Support:
    """Return the range of the corrected consistency, 1 - flips / (1 - chance), of networks of these accuracies.

    It is a ratio to 1 - chance, and so about as many images as make that up if each counts as the image that counts
    most: one that is wrong both times, or right both times where accuracies are below chance. Where both are nearly
    always right that is only the few images with a mistake. Both right is the least agreement that there can be.
    """
    chance = agreement_by_chance(before, after, num_classes)
    by_before, by_after = (
        agreement_by_chance(np.ones_like(x), x, num_classes) - agreement_by_chance(np.zeros_like(x), x, num_classes)
        for x in (after, before)
    )
    wrong, right = by_before * before + by_after * after, -by_before * (1 - before) - by_after * (1 - after)
    apart = 1 - chance
    n = images * apart / (apart + np.maximum(wrong, right))
    with np.errstate(invalid="ignore", divide="ignore"):
        low = (np.maximum(before + after - 1, 0) - chance) / apart
    return Support(np.nan_to_num(np.minimum(low, 0)), 0 * images + 1, n)


def ratio(distances: np.ndarray, to_other: np.ndarray) -> np.ndarray:
    """Return mean distances [amounts, stages, M] as parts of the way of the same images to others [stages, M]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nanmean(distances, axis=-1) / np.nanmean(to_other, axis=-1))


def pooled(name: str, members: Sequence[Curves]) -> Curves:
    """Return the mean of several networks' curves, over all images and without each block of them."""
    first = members[0]
    controls = [
        {key: np.mean([control[key] for control in alone], axis=0) for key in alone[0]}
        for alone in ([member.floor for member in members], [member.padding for member in members])
    ]
    values = {key: np.mean([member.values[key] for member in members], axis=0) for key in first.values}
    ranges = {key: pooled_range([member.ranges[key] for member in members]) for key in first.ranges}
    n = np.min([member.n for member in members], axis=0)
    return Curves(name, first.stages, first.amounts, values, n, ranges, *controls)


def pooled_range(members: Sequence[Support]) -> Support:
    """Return the range of a mean over networks."""
    lows, highs, counts = (np.array(parts) for parts in zip(*members, strict=True))
    return Support(lows.mean(axis=0), highs.mean(axis=0), counts.min(axis=0))


def bands(network: Curves) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the band over images of every curve."""
    return {key: band(values, network.ranges.get(key)) for key, values in network.values.items()}


def seed_bands(members: Sequence[Curves]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the t band over networks that differ in their seed, of every curve."""
    return {key: seed_band([member.values[key][0] for member in members]) for key in members[0].values}


def invariance_rows(transform: str, network: Curves, members: Sequence[Curves] = ()) -> list[InvarianceRow]:
    """Return one row an amount and stage, with bands over images, and over seeds where `members` were pooled."""
    over_images = bands(network)
    over_seeds = seed_bands(members) if len(members) > 1 else {}

    def estimates(limits: Mapping[str, tuple[np.ndarray, np.ndarray]], a: int, s: int) -> dict[str, Estimate]:
        numbers = {}
        for key, (low, high) in limits.items():
            values = network.values[key]
            at = (a, s) if values.ndim == 3 else (a,)
            numbers[key] = Estimate(float(values[0][at]), float(low[at]), float(high[at]))
        return numbers

    floor, padding = network.floor, network.padding
    return [
        InvarianceRow(
            network.name,
            transform,
            amount,
            stage,
            int(network.n[a, s]),
            estimates(over_images, a, s),
            estimates(over_seeds, a, s),
            float(floor["distance"][a, s]) if floor else None,
            float(floor["p_true"][a]) if floor else None,
            float(padding["distance"][a, s]) if padding else None,
            float(padding["p_true"][a]) if padding else None,
        )
        for a, amount in enumerate(network.amounts)
        for s, stage in enumerate(network.stages)
    ]


# Whole curves in one number.


def area_rows(transform: Transform, network: Curves) -> list[AreaRow]:
    """Return the mean height of each curve over the range of amounts, or over a grid, with its band."""
    lines = []
    for key in ("distance", "distance_cosine", "equivariance", *BY_AMOUNT):
        heights = mean_height(network.values[key], network.amounts)
        low, high = band(heights, range_of_height(network, key) if key in network.ranges else None)
        for s, stage in enumerate(network.stages if heights.ndim == 2 else ("",)):
            at = (s,) if heights.ndim == 2 else ()
            area = Estimate(float(heights[0][at]), float(low[at]), float(high[at]))
            lines.append(AreaRow(network.name, transform.name, key, stage, area))
    return lines


def mean_height(values: np.ndarray, amounts: Sequence[Amount]) -> np.ndarray:
    """Return the area under curves [R, amounts, …] over their range, divided by it; of a grid the plain mean."""
    if len(amounts[0]) > 1 or len(amounts) == 1:
        return np.asarray(values.mean(axis=1))
    x = np.array([amount[0] for amount in amounts])
    order = np.argsort(x)
    x, heights = x[order], np.moveaxis(values[:, order], 1, -1)
    area = ((heights[..., 1:] + heights[..., :-1]) / 2 * np.diff(x)).sum(axis=-1)
    return np.asarray(area / (x[-1] - x[0]))


def range_of_height(network: Curves, key: str) -> Support:
    """Return the range of the mean height of a curve that is kept within one."""
    low, high, n = network.ranges[key]
    parts = np.stack([low, high, 1 / np.maximum(n, 1e-9)])
    low, high, share = mean_height(parts, network.amounts)
    return Support(low, high, 1 / share)


def class_rows(transform: Transform, name: str, clean: Clean, moved: Moved, classes: Sequence[str]) -> list[ClassRow]:
    """Return each class with its mean consistency and accuracy over the amounts, and its worst amount; worst first."""
    lines = []
    for label, word in enumerate(classes):
        members = clean.labels == label
        if not members.any():
            continue
        right = (moved.predicted[:, members] == label).mean(axis=1)
        same_answer = (moved.predicted[:, members] == clean.predicted[members]).mean(axis=1)
        worst = int(right.argmin())
        lines.append(
            ClassRow(
                name,
                transform.name,
                word,
                int(members.sum()),
                float(same_answer.mean()),
                float(right.mean()),
                transform.amounts[worst],
                float(right[worst]),
            )
        )
    return sorted(lines, key=lambda line: line.consistency)


# Networks against each other.


def difference_rows(
    transform: Transform, groups: Sequence[Sequence[Curves]], names: Sequence[str], seeds: Sequence[Sequence[int]]
) -> list[DifferenceRow]:
    """Return how the mean heights of the curves of each group of networks differ from the first's.

    Each with a band over images, which are the same for all, and a t band over the seeds that both groups have.
    """
    heights = [
        {key: [mean_height(member.values[key], member.amounts) for member in members] for key in BY_AMOUNT}
        for members in groups
    ]
    lines = []
    for other in range(1, len(groups)):
        shared = [seed for seed in seeds[0] if seed in seeds[other]]
        for key in BY_AMOUNT:
            reference, compared = heights[0][key], heights[other][key]
            over_images = np.mean(compared, axis=0) - np.mean(reference, axis=0)
            first, second = (
                pooled_range([range_of_height(member, key) for member in groups[place]]) for place in (0, other)
            )
            support = Support(second.low - first.high, second.high - first.low, np.minimum(first.n, second.n))
            low, high = band(over_images, support)
            delta, over_seeds = Estimate(float(over_images[0]), float(low), float(high)), None
            if len(shared) > 1:
                deltas = [compared[seeds[other].index(seed)][0] - reference[seeds[0].index(seed)][0] for seed in shared]
                low, high = seed_band([np.asarray(each) for each in deltas])
                over_seeds = Estimate(float(np.mean(deltas)), float(low), float(high))
            lines.append(DifferenceRow(transform.name, key, names[other], names[0], delta, len(shared), over_seeds))
    return lines
