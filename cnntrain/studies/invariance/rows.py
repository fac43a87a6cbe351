"""What was measured of each image to numbers with bands: curves, areas under them, the worst classes, aliasing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnntrain.stats.bootstrap import Support, band, means, seed_band
from cnntrain.studies.invariance.measure import Clean, Controls, Moved
from cnntrain.transforms.transform import Amount, Transform

Row = dict[str, Any]
BY_STAGE = ("distance", "distance_same_class", "distance_cosine", "equivariance", "euclidean", "cosine")
BY_AMOUNT = ("p_true", "top1", "consistency", "consistency_right", "consistency_corrected", "flip_rate", "p_change")


@dataclass(frozen=True)
class Curves:
    """One network under one warp: [1 + blocks, amounts, stages] or [1 + blocks, amounts] by what was measured.

    `n` [amounts, stages] counts the images whose features are numbers; `kept` are the ranges [amounts] of what is kept
    within one. The controls are `distance` and `p_true` without bands; they are there where positions move.
    """

    name: str
    stages: tuple[str, ...]
    amounts: tuple[Amount, ...]
    values: dict[str, np.ndarray]
    n: np.ndarray
    kept: dict[str, Support]
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
    right, kept = moved.predicted == clean.labels, moved.predicted == clean.predicted
    before, top1, agree = means(blocks, right_before), means(blocks, right), means(blocks, kept)
    chance = agreement_by_chance(before[:, None], top1, num_classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "distance": euclidean / other[:, None],
            "distance_same_class": euclidean / same[:, None],
            "distance_cosine": cosine / cosine_other[:, None],
            "equivariance": means(blocks, moved.equivariance) / other[:, None],
            "euclidean": euclidean,
            "cosine": cosine,
            "p_true": means(blocks, moved.p_true),
            "top1": top1,
            "consistency": agree,
            "consistency_right": means(blocks, kept & right_before) / before[:, None],
            "consistency_corrected": (agree - chance) / (1 - chance),
            "flip_rate": 1 - agree,
            "p_change": means(blocks, np.abs(moved.p_first - clean.p_first)),
        }
    if (clean.goal >= 0).all():
        values["target_rate"] = means(blocks, moved.predicted == clean.goal)
    images = np.full(len(amounts), float(len(clean.labels)))
    kept_within = {
        key: Support(0 * images, 0 * images + 1, images) for key in (*BY_AMOUNT, "target_rate") if key in values
    }
    kept_within["consistency_right"] = Support(0 * images, 0 * images + 1, images * before[0])
    kept_within["consistency_corrected"] = corrected_range(before[0], top1[0], images, num_classes)
    held: list[dict[str, np.ndarray]] = []
    if controls is not None:
        to_other = clean.to_other[:, controls.places]
        held = [
            {"distance": ratio(found.euclidean, to_other), "p_true": found.p_true.mean(axis=-1)}
            for found in (controls.floor, controls.padding)
        ]
    n = np.isfinite(moved.euclidean).sum(axis=-1)
    return Curves(name, tuple(stages), tuple(amounts), values, n, kept_within, *held)


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
        {key: np.mean([part[key] for part in found], axis=0) for key in found[0]}
        for found in ([member.floor for member in members], [member.padding for member in members])
    ]
    values = {key: np.mean([member.values[key] for member in members], axis=0) for key in first.values}
    kept = {key: pooled_range([member.kept[key] for member in members]) for key in first.kept}
    n = np.min([member.n for member in members], axis=0)
    return Curves(name, first.stages, first.amounts, values, n, kept, *controls)


def pooled_range(members: Sequence[Support]) -> Support:
    """Return the range of a mean over networks."""
    lows, highs, counts = (np.array(parts) for parts in zip(*members, strict=True))
    return Support(lows.mean(axis=0), highs.mean(axis=0), counts.min(axis=0))


def bands(found: Curves) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the band over images of every curve."""
    return {key: band(values, found.kept.get(key)) for key, values in found.values.items()}


def seed_bands(members: Sequence[Curves]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the t band over networks that differ in their seed, of every curve."""
    return {key: seed_band([member.values[key][0] for member in members]) for key in members[0].values}


def rows(transform: str, found: Curves, members: Sequence[Curves] = ()) -> list[Row]:
    """Return one row an amount and stage, with bands over images, and over seeds where `members` were pooled."""
    ends = {"": bands(found)} | ({"seed_": seed_bands(members)} if len(members) > 1 else {})
    lines = []
    for a, amount in enumerate(found.amounts):
        for s, stage in enumerate(found.stages):
            line: Row = {
                "run": found.name,
                "warp": transform,
                **spelled(amount),
                "stage": stage,
                "n": int(found.n[a, s]),
            }
            for key, values in found.values.items():
                at = (a, s) if values.ndim == 3 else (a,)
                line[key] = float(values[0][at])
                for kind, limits in ends.items():
                    line |= {f"{key}_{kind}{end}": float(limits[key][i][at]) for i, end in enumerate(("low", "high"))}
            for key, control in (("floor", found.floor), ("padding_only", found.padding)):
                line[key] = float(control["distance"][a, s]) if control else None
                line[f"{key}_p_true"] = float(control["p_true"][a]) if control else None
            lines.append(line)
    return lines


def spelled(amount: Amount) -> Row:
    """Return an amount as columns; that of a pair is its length."""
    if len(amount) == 1:
        return {"amount": amount[0], "dx": None, "dy": None}
    return {"amount": math.hypot(*amount), "dx": amount[0], "dy": amount[1]}


# Whole curves in one number.


def areas(transform: Transform, found: Curves) -> list[Row]:
    """Return the mean height of each curve over the range of amounts, or over a grid, with its band."""
    lines = []
    for key in ("distance", "distance_cosine", "equivariance", *BY_AMOUNT):
        heights = mean_height(found.values[key], found.amounts)
        low, high = band(heights, range_of_height(found, key) if key in found.kept else None)
        for s, stage in enumerate(found.stages if heights.ndim == 2 else ("",)):
            at = (s,) if heights.ndim == 2 else ()
            line = {"run": found.name, "warp": transform.name, "curve": key, "stage": stage}
            lines.append(
                line | {"area": float(heights[0][at]), "area_low": float(low[at]), "area_high": float(high[at])}
            )
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


def range_of_height(found: Curves, key: str) -> Support:
    """Return the range of the mean height of a curve that is kept within one."""
    low, high, n = found.kept[key]
    parts = np.stack([low, high, 1 / np.maximum(n, 1e-9)])
    low, high, share = mean_height(parts, found.amounts)
    return Support(low, high, 1 / share)


def worst_classes(transform: Transform, name: str, clean: Clean, moved: Moved, classes: Sequence[str]) -> list[Row]:
    """Return each class with its mean consistency and accuracy over the amounts, and its worst amount; worst first."""
    lines = []
    for label, word in enumerate(classes):
        members = clean.labels == label
        if not members.any():
            continue
        right = (moved.predicted[:, members] == label).mean(axis=1)
        kept = (moved.predicted[:, members] == clean.predicted[members]).mean(axis=1)
        worst = int(right.argmin())
        line = {"run": name, "warp": transform.name, "class": word, "n": int(members.sum())}
        line |= {"consistency": float(kept.mean()), "top1": float(right.mean())}
        line |= {f"worst_{key}": value for key, value in spelled(transform.amounts[worst]).items() if value is not None}
        lines.append(line | {"worst_top1": float(right[worst])})
    return sorted(lines, key=lambda line: line["consistency"])


# Networks against each other.


def differences(
    transform: Transform, groups: Sequence[Sequence[Curves]], names: Sequence[str], seeds: Sequence[Sequence[int]]
) -> list[Row]:
    """Return how the areas under the curves of each group of networks differ from the first's.

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
            one, two = heights[0][key], heights[other][key]
            over_images = np.mean(two, axis=0) - np.mean(one, axis=0)
            first, second = (
                pooled_range([range_of_height(member, key) for member in groups[place]]) for place in (0, other)
            )
            kept = Support(second.low - first.high, second.high - first.low, np.minimum(first.n, second.n))
            low, high = band(over_images, kept)
            line: Row = {"warp": transform.name, "curve": key, "name": names[other], "against": names[0]}
            line |= {"delta": float(over_images[0]), "delta_low": float(low), "delta_high": float(high)}
            line |= {"n_seeds": len(shared), "seed_delta": None, "seed_low": None, "seed_high": None}
            if len(shared) > 1:
                deltas = [two[seeds[other].index(seed)][0] - one[seeds[0].index(seed)][0] for seed in shared]
                seed_low, seed_high = seed_band([np.asarray(delta) for delta in deltas])
                line |= {
                    "seed_delta": float(np.mean(deltas)),
                    "seed_low": float(seed_low),
                    "seed_high": float(seed_high),
                }
            lines.append(line)
    return lines
