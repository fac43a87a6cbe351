"""How well boxes are found: average precision as PASCAL VOC and COCO compute it, with intervals over images.

Detections are float32 [N, D, 6] of images: class, score, left, top, right, bottom; objects [N, M, 6]: class, box, and
whether it is difficult. The class -1 is none. No score is too small to count. A difficult object is neither found nor
missed, and a detection of one is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnntrain.runtime.seeding import generator
from cnntrain.stats.paired_tests import PairedScores

DRAWS = 500
COCO_IOUS = tuple(np.arange(10) * 0.05 + 0.5)


@dataclass(frozen=True)
class Ranked:
    """The detections of a class over all images, the likeliest first, and its objects in each image."""

    image: np.ndarray  # int64 [D]
    score: np.ndarray  # float64 [D]
    right: np.ndarray  # truth values [D]
    objects: np.ndarray  # int64 [N], without difficult ones


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU [A, B] of boxes [A, 4] with others [B, 4], in pixels from edge to edge."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(each[:, 2:] - each[:, :2], 0, None), axis=1) for each in (boxes, others)]
    return np.asarray(both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-12))


def ranked(detections: np.ndarray, objects: np.ndarray, label: int, iou: float, *, coco: bool = False) -> Ranked:
    """Match the detections of a class with its objects: each object is found once, by the likeliest.

    A detection is of the object that it overlaps most, and wrong where that is found already (VOC); with `coco` of the
    one that it overlaps most among those not found yet.
    """
    images, scores, hits = list[int](), list[float](), list[bool]()
    counts = np.zeros(len(objects), dtype=np.int64)
    for image, (found, there) in enumerate(zip(detections, objects, strict=True)):
        mine, truth = found[found[:, 0] == label], there[there[:, 0] == label]
        mine = mine[np.argsort(-mine[:, 1], kind="stable")]
        difficult = truth[:, 5] > 0
        counts[image] = int((~difficult).sum())
        shared, taken = overlaps(mine[:, 2:], truth[:, 1:5]), np.zeros(len(truth), dtype=bool)
        for row, detection in zip(shared, mine, strict=True):
            free = np.where(taken & ~difficult, -1.0, row) if coco else row
            best = int(free.argmax()) if len(free) else -1
            if best >= 0 and free[best] >= iou:
                if difficult[best]:
                    continue
                hit = not taken[best]
                taken[best] = True
            else:
                hit = False
            images.append(image)
            scores.append(float(detection[1]))
            hits.append(hit)
    order = np.argsort(-np.array(scores), kind="stable")
    return Ranked(
        np.array(images, dtype=np.int64)[order], np.array(scores)[order], np.array(hits, dtype=bool)[order], counts
    )


def precisions(rank: Ranked, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and the largest precision at it or beyond [D], of images that count so many times [N]."""
    weights = np.ones(len(rank.objects)) if weights is None else weights
    each = weights[rank.image]
    hits, seen = np.cumsum(each * rank.right), np.cumsum(each)
    precision = hits / np.maximum(seen, 1e-12)
    total = float(weights @ rank.objects)
    return hits / max(total, 1e-12), np.maximum.accumulate(precision[::-1])[::-1]


def average_precision(rank: Ranked, weights: np.ndarray | None = None) -> float:
    """Return the area under the precision as a function of recall (VOC 2010 and after); nan without objects."""
    if (weights if weights is not None else np.ones(len(rank.objects))) @ rank.objects == 0:
        return float("nan")
    recall, precision = precisions(rank, weights)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def at_points(rank: Ranked, points: int) -> float:
    """Return the mean of the precision at so many even recalls: 11 of VOC 2007, 101 of COCO; nan without objects."""
    if rank.objects.sum() == 0:
        return float("nan")
    recall, precision = precisions(rank)
    places = np.searchsorted(recall, np.linspace(0, 1, points) - 1e-9)
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())


def detection(
    detections: np.ndarray, objects: np.ndarray, classes: Sequence[str], groups: np.ndarray | None = None
) -> Mapping[str, Any]:
    """Return every number of an evaluation but its loss; intervals are over images, or over `groups` [N] of them.

    Keys: n (images), groups (null without), objects, map50 with its interval, map50_11 (11 points), map (COCO's mean
    over IoUs), per_class.
    """
    ranks = [ranked(detections, objects, label, 0.5) for label in range(len(classes))]
    drawn = resampled(ranks, len(objects), groups)
    aps = np.array([average_precision(rank) for rank in ranks])
    eleven = np.array([at_points(rank, 11) for rank in ranks])
    coco = np.array([coco_precision(detections, objects, label) for label in range(len(classes))])
    lows, highs = ends(drawn)
    low, high = ends(mean(drawn))
    return {
        "n": len(objects),
        "groups": None if groups is None else len(np.unique(groups)),
        "objects": int((objects[..., 0] >= 0).sum()),
        "map50": number(mean(aps)),
        "map50_low": number(low),
        "map50_high": number(high),
        "map50_11": number(mean(eleven)),
        "map": number(mean(coco)),
        "per_class": [
            {
                "class": name,
                "n": int(rank.objects.sum()),
                "ap50": number(aps[k]),
                "ap50_low": number(lows[k]),
                "ap50_high": number(highs[k]),
                "ap50_11": number(eleven[k]),
            }
            for k, (name, rank) in enumerate(zip(classes, ranks, strict=True))
        ],
    }


def coco_precision(detections: np.ndarray, objects: np.ndarray, label: int) -> float:
    """Return COCO's average precision of a class: the mean over ten IoUs, each at 101 recalls."""
    return float(np.mean([at_points(ranked(detections, objects, label, iou, coco=True), 101) for iou in COCO_IOUS]))


def members(images: int, groups: np.ndarray | None) -> tuple[int, np.ndarray]:
    """Return how many groups there are, and that of each image, int64 [N]; without groups each is its own."""
    if groups is None:
        return images, np.arange(images)
    names, member = np.unique(groups, return_inverse=True)
    return len(names), member


def resampled(
    ranks: Sequence[Ranked], images: int, groups: np.ndarray | None = None, *, draws: int = DRAWS
) -> np.ndarray:
    """Return the average precision of each class [draws, classes] on images, or groups, drawn with replacement."""
    n, member = members(images, groups)
    times = generator(0, "bootstrap", n).multinomial(n, np.full(n, 1 / n), size=draws)[:, member]
    return np.array([[average_precision(rank, weights.astype(float)) for rank in ranks] for weights in times])


def paired(
    first: np.ndarray, second: np.ndarray, objects: np.ndarray, groups: np.ndarray | None = None
) -> PairedScores:
    """Compare the mean average precision of two networks by their detections in the same images, or groups of them.

    The interval is of a bootstrap that draws the same images for both. Of p: were the networks alike, each image's
    detections could be exchanged; it is the share of such changes that move the difference as far.
    """
    labels, n = range(int(objects[..., 0].max(initial=0)) + 1), len(objects)

    def ranks(found: np.ndarray) -> list[Ranked]:
        return [ranked(found, objects, label, 0.5) for label in labels]

    both = [ranks(first), ranks(second)]
    one, two = (mean(np.array([average_precision(rank) for rank in each])) for each in both)
    low, high = ends(mean(resampled(both[1], n, groups)) - mean(resampled(both[0], n, groups)))
    count, member = members(n, groups)
    joined = [joint(*pair) for pair in zip(*both, strict=True)]
    swaps, as_far = generator(0, "swap", count).integers(0, 2, size=(DRAWS - 1, count))[:, member], 0
    for swap in swaps:
        weights = np.concatenate((1 - swap, swap)).astype(float)
        other = mean(np.array([average_precision(rank, weights) for rank in joined]))
        back = mean(np.array([average_precision(rank, 1 - weights) for rank in joined]))
        as_far += abs(other - back) >= abs(two - one) - 1e-12
    alone = [per_image_hits(each, n) for each in both]
    better, worse = int((alone[1] > alone[0]).sum()), int((alone[1] < alone[0]).sum())
    return PairedScores(n, worse, better, float(two - one), float(low), float(high), (as_far + 1) / DRAWS)


def joint(one: Ranked, other: Ranked) -> Ranked:
    """Return the detections of two networks as of twice as many images."""
    score = np.concatenate((one.score, other.score))
    order = np.argsort(-score, kind="stable")
    image = np.concatenate((one.image, other.image + len(one.objects)))[order]
    right = np.concatenate((one.right, other.right))[order]
    return Ranked(image, score[order], right, np.concatenate((one.objects, other.objects)))


def per_image_hits(ranks: Sequence[Ranked], images: int) -> np.ndarray:
    """Return how many objects of each image are found [N]."""
    return np.asarray(sum(np.bincount(rank.image[rank.right], minlength=images) for rank in ranks))


def mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over classes [..., K] that have a value; nan where none has."""
    there = np.isfinite(values)
    total = np.where(there, values, 0).sum(axis=-1)
    return np.asarray(np.where(there.any(axis=-1), total / np.maximum(there.sum(axis=-1), 1), np.nan))


def ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5th and 97.5th percentile of bootstrap values [draws, ...]; nan where none is a number."""
    none = ~np.isfinite(values).any(axis=0)
    low, high = np.nanpercentile(np.where(none, 0.0, values), (2.5, 97.5), axis=0)
    return np.where(none, np.nan, low), np.where(none, np.nan, high)


def number(value: float | np.ndarray) -> float | None:
    """Return a value, None where it is no number."""
    return float(value) if np.isfinite(value) else None
