"""Whether a map finds what an image shows: the pointing game and the box around its largest region.

Zhang, Lin, Brandt, Shen and Sclaroff, "Top-down Neural Attention by Excitation Backprop", ECCV 2016, section 4.1 (the
pointing game); Zhou et al., CVPR 2016, section 3.2, and Choe, Oh, Lee, Chun, Akata and Shim, "Evaluating Weakly
Supervised Object Localization Methods Right", CVPR 2020 (boxes and thresholds).
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

TOLERANCE = 15 / 500  # of the image's longer side, by which the point may miss: 15 pixels of a photograph of 500
THRESHOLDS = np.arange(0, 1, 0.02)  # as shares of the way from a map's smallest value to its largest
TOUCHING = np.ones((3, 3))  # pixels that touch at a corner are of one region


def points_inside(values: np.ndarray, boxes: np.ndarray) -> float:
    """Return 1 where the largest value of a map [H, W] lies in one of the boxes [B, 4], or nearly; else 0.

    Of several largest values it is the share that does: of a map without any preference, that of all points.
    """
    slack = TOLERANCE * max(values.shape)
    rows, columns = np.nonzero(values == values.max())
    x, y = columns[:, None] + 0.5, rows[:, None] + 0.5
    left, top, right, bottom = boxes.T
    inside = (x >= left - slack) & (x <= right + slack) & (y >= top - slack) & (y <= bottom + slack)
    return float(inside.any(axis=1).mean())


def region_box(values: np.ndarray, threshold: float) -> np.ndarray:
    """Return the box [4] around the largest region of a map [H, W] that reaches a share of its range."""
    low, high = float(values.min()), float(values.max())
    regions, count = ndimage.label(values >= low + threshold * (high - low), TOUCHING)
    largest = 1 + int(np.bincount(regions.ravel(), minlength=count + 1)[1:].argmax())
    rows, columns = ndimage.find_objects(regions)[largest - 1]
    return np.array([columns.start, rows.start, columns.stop, rows.stop], dtype=np.float64)


def overlap(box: np.ndarray, boxes: np.ndarray) -> float:
    """Return the intersection of a box [4] with the best of others [B, 4], as a share of their union."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return float((shared / (areas - shared)).max())


def overlaps(maps: np.ndarray, boxes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the overlap [N, T] of each map's [N, H, W] box at each threshold with the best box of its image."""
    return np.array(
        [
            [overlap(region_box(values, float(threshold)), some) for threshold in THRESHOLDS]
            for values, some in zip(maps, boxes, strict=True)
        ]
    )
