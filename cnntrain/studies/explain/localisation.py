"""Whether a map finds what an image shows: the pointing game, and how far its largest region overlaps the truth.

Zhang, Lin, Brandt, Shen and Sclaroff, "Top-down Neural Attention by Excitation Backprop", ECCV 2016, section 4.1 (the
pointing game); Zhou et al., CVPR 2016, section 3.2, and Choe, Oh, Lee, Chun, Akata and Shim, "Evaluating Weakly
Supervised Object Localization Methods Right", CVPR 2020 (boxes, thresholds, and the average precision of pixels).

The truth is a box for each object, or a mask. The region of a map is compared as the truth is: as the box around it, or
pixel by pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import ndimage

TOLERANCE = 15 / 500  # of the image's longer side, by which the point may miss: 15 pixels of a photograph of 500
THRESHOLDS = np.arange(0, 1, 0.02)  # as shares of the way from a map's smallest value to its largest
TOUCHING = np.ones((3, 3))  # pixels that touch at a corner are of one region


class Truth(Protocol):
    """Where in an image lies what it shows."""

    def holds(self, rows: np.ndarray, columns: np.ndarray, slack: float) -> np.ndarray:
        """Say of pixels [P] whether they lie within, or miss it by at most `slack` pixels."""
        ...

    def overlap(self, region: np.ndarray) -> float:
        """Return what a region [H, W] has in common with it, as a share of their union."""
        ...


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes around objects: their left, top, right and bottom edges, float [B, 4]."""

    edges: np.ndarray

    def holds(self, rows: np.ndarray, columns: np.ndarray, slack: float) -> np.ndarray:
        """Say whether pixels lie in one of the boxes, or nearly."""
        x, y = columns[:, None] + 0.5, rows[:, None] + 0.5
        left, top, right, bottom = self.edges.T
        inside = (x >= left - slack) & (x <= right + slack) & (y >= top - slack) & (y <= bottom + slack)
        return np.asarray(inside.any(axis=1))

    def overlap(self, region: np.ndarray) -> float:
        """Compare the box around a region with the best of the boxes."""
        box = box_around(region)
        sides = np.minimum(box[2:], self.edges[:, 2:]) - np.maximum(box[:2], self.edges[:, :2])
        shared = sides.clip(min=0).prod(axis=1)
        areas = (self.edges[:, 2:] - self.edges[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
        return float((shared / (areas - shared)).max())


@dataclass(frozen=True, eq=False)
class Mask:
    """The pixels that belong to what an image shows, bool [H, W], at least one."""

    pixels: np.ndarray

    def holds(self, rows: np.ndarray, columns: np.ndarray, slack: float) -> np.ndarray:
        """Say whether pixels belong to it, or lie near one that does."""
        distances = ndimage.distance_transform_edt(~self.pixels)[rows, columns] - 0.5  # to the edge of a pixel of it
        return np.asarray(distances <= slack)

    def overlap(self, region: np.ndarray) -> float:
        """Compare pixel by pixel."""
        return float((region & self.pixels).sum() / (region | self.pixels).sum())


def points_inside(values: np.ndarray, truth: Truth) -> float:
    """Return 1 where the largest value of a map [H, W] lies where the truth is, or nearly; else 0.

    Of several largest values it is the share that does: of a map without any preference, that of all points.
    """
    rows, columns = np.nonzero(values == values.max())
    return float(truth.holds(rows, columns, TOLERANCE * max(values.shape)).mean())


def largest_region(values: np.ndarray, threshold: float) -> np.ndarray:
    """Return the largest region [H, W] of a map that reaches a share of its range."""
    low, high = float(values.min()), float(values.max())
    regions, count = ndimage.label(values >= low + threshold * (high - low), TOUCHING)
    return np.asarray(regions == 1 + int(np.bincount(regions.ravel(), minlength=count + 1)[1:].argmax()))


def box_around(region: np.ndarray) -> np.ndarray:
    """Return the edges [4] of the box around a region [H, W]."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def overlaps(maps: np.ndarray, truths: Sequence[Truth]) -> np.ndarray:
    """Return the overlap [N, T] of each map's [N, H, W] largest region at each threshold with the truth."""
    return np.array(
        [
            [truth.overlap(largest_region(values, float(threshold))) for threshold in THRESHOLDS]
            for values, truth in zip(maps, truths, strict=True)
        ]
    )


def pixel_precision(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the average precision of a map's values [H, W] for the pixels of a mask [H, W]; equal values are one.

    It is the mean over the mask's pixels of the share of the mask among all pixels that have such a value or a larger.
    """
    levels, places = np.unique(-values.ravel(), return_inverse=True)
    found = np.bincount(places, weights=mask.ravel(), minlength=len(levels))
    precision = found.cumsum() / np.bincount(places, minlength=len(levels)).cumsum()
    return float((precision * found).sum() / found.sum())
