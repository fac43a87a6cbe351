"""How well label maps are predicted, from the confusion matrix of each image: intersection over union, accuracy.

Pixels of one image are not independent, and neither are the frames of one sequence: intervals are over images, or over
groups of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cnntrain.runtime.seeding import generator
from cnntrain.stats.paired_tests import PairedScores

DRAWS = 2000


def ious(confusion: np.ndarray) -> np.ndarray:
    """Return intersection over union of each class [..., K] from confusion matrices [..., K, K]; rows are the truth.

    A class that is neither there nor predicted has none: nan.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(axis=-1) + confusion.sum(axis=-2) - right
    return np.asarray(np.where(union > 0, right / np.maximum(union, 1), np.nan))


def recalls(confusion: np.ndarray) -> np.ndarray:
    """Return the share of each class's pixels that are right [..., K]; nan for a class without pixels."""
    right, labelled = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1)
    return np.asarray(np.where(labelled > 0, right / np.maximum(labelled, 1), np.nan))


def mean_of_classes(values: np.ndarray) -> np.ndarray:
    """Return the mean over the classes [..., K] that have a value; nan where none has."""
    there = np.isfinite(values)
    count = there.sum(axis=-1)
    return np.asarray(np.where(count > 0, np.where(there, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan))


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """Return the mean over the classes of intersection over union [...], from confusion matrices [..., K, K]."""
    return mean_of_classes(ious(confusion))


def resampled(confusions: np.ndarray, groups: np.ndarray | None = None, *, draws: int = DRAWS) -> np.ndarray:
    """Return confusion matrices [draws, K, K] of as many images drawn with replacement from [N, K, K] (bootstrap).

    With `groups` [N] whole groups are drawn. The draws depend on their number alone: so two networks on the same images
    are drawn alike, and their differences are paired.
    """
    if groups is not None:
        confusions = by_group(confusions, groups)
    n, classes = len(confusions), confusions.shape[-1]
    times = generator(0, "bootstrap", n).multinomial(n, np.full(n, 1 / n), size=draws)
    return np.asarray((times @ confusions.reshape(n, -1).astype(np.float64)).reshape(draws, classes, classes))


def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> PairedScores:
    """Compare the mean IoU of two networks by their confusion matrices [N, K, K] of the same images, or groups of them.

    The interval is of a bootstrap that draws the same images for both. Of p: were the networks alike, each image could
    have the two matrices the other way round; it is the share of such changes that move the difference as far.
    """
    delta = float(mean_iou(second.sum(axis=0)) - mean_iou(first.sum(axis=0)))
    low, high = interval(mean_iou(resampled(second, groups)) - mean_iou(resampled(first, groups)))
    one, two = (mean_iou(each) for each in (first, second))
    if groups is not None:
        first, second = (by_group(each, groups) for each in (first, second))
    n, classes = len(first), first.shape[-1]
    swap = generator(0, "swap", n).integers(0, 2, size=(DRAWS - 1, n))
    change = swap @ (second - first).reshape(n, -1).astype(np.float64)
    swapped = [
        mean_iou((each.sum(axis=0).ravel() + sign * change).reshape(-1, classes, classes))
        for each, sign in ((first, 1), (second, -1))
    ]
    as_far = int((np.abs(swapped[1] - swapped[0]) >= abs(delta) - 1e-12).sum())
    better, worse = int((two > one).sum()), int((two < one).sum())
    return PairedScores(len(one), worse, better, delta, float(low), float(high), (as_far + 1) / DRAWS)


def by_group(confusions: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the sums of confusion matrices [N, K, K] over groups [N]."""
    _, members = np.unique(groups, return_inverse=True)
    summed = np.zeros((int(members.max()) + 1, *confusions.shape[1:]), dtype=np.int64)
    np.add.at(summed, members, confusions)
    return summed


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5th and 97.5th percentile of bootstrap values [draws, ...] that are no nan; nan of none."""
    none = ~np.isfinite(values).any(axis=0)
    low, high = np.nanpercentile(np.where(none, 0.0, values), (2.5, 97.5), axis=0)
    return np.where(none, np.nan, low), np.where(none, np.nan, high)


def segmentation(
    confusions: np.ndarray, losses: np.ndarray, classes: tuple[str, ...], groups: np.ndarray | None = None
) -> Mapping[str, Any]:
    """Return every number of an evaluation from the confusion matrices [N, K, K] and summed losses [N] of images.

    Keys: n (images), groups (null without), pixels, loss (mean over labelled pixels), miou, pixel_accuracy and
    mean_accuracy with their intervals, fw_iou (classes weighted by their pixels), per_class, confusion. Shares that
    rest on no pixel are null.
    """
    total, drawn = confusions.sum(axis=0), resampled(confusions, groups)
    pixels = int(total.sum())
    numbers: dict[str, Any] = {
        "n": len(confusions),
        "groups": None if groups is None else len(np.unique(groups)),
        "pixels": pixels,
        "loss": float(losses.sum() / max(pixels, 1)),
    }
    for key, measure in {"miou": mean_iou, "pixel_accuracy": pixel_accuracy, "mean_accuracy": mean_accuracy}.items():
        low, high = interval(measure(drawn))
        numbers |= {key: share(measure(total)), f"{key}_low": share(low), f"{key}_high": share(high)}
    iou, (lows, highs), recall = ious(total), interval(ious(drawn)), recalls(total)
    numbers["fw_iou"] = float(np.nansum(iou * total.sum(axis=1)) / max(pixels, 1))
    numbers["per_class"] = [
        {
            "class": name,
            "n": int(total[k].sum()),
            "images": int((confusions[:, k].sum(axis=1) > 0).sum()),
            "iou": share(iou[k]),
            "iou_low": share(lows[k]),
            "iou_high": share(highs[k]),
            "accuracy": share(recall[k]),
        }
        for k, name in enumerate(classes)
    ]
    return numbers | {"confusion": total.tolist()}


def pixel_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the share of labelled pixels that are right [...], from confusion matrices [..., K, K]."""
    right = np.trace(confusion, axis1=-2, axis2=-1)
    pixels = confusion.sum(axis=(-2, -1))
    return np.asarray(np.where(pixels > 0, right / np.maximum(pixels, 1), np.nan))


def mean_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the mean over the classes of the share of their pixels that are right [...]."""
    return mean_of_classes(recalls(confusion))


def share(value: float | np.ndarray) -> float | None:
    """Return a share as a number; None for one that rests on nothing."""
    return float(value) if np.isfinite(value) else None
