"""The lectures' count: how many pixels of a binary image turn white, and how many black, when the image is shifted.

As long as no ink leaves the frame the two are equal: the number of white pixels stays.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.augment.ops import grey
from cnntrain.studies.invariance.rows import PixelRow
from cnntrain.transforms.transform import Amount, Transform

THRESHOLD = 127.5  # half of the range


def crossings(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many pixels of each image [B] turn from black to white and from white to black at the threshold."""
    white, then_white = (grey(pixels).flatten(1) >= THRESHOLD for pixels in (before, after))
    return (~white & then_white).sum(dim=1), (white & ~then_white).sum(dim=1)


def counted_amounts(transform: Transform) -> list[Amount]:
    """Return the amounts of a warp whose pixels are counted: whole shifts along one axis."""
    shifts = transform.axes == 1 and transform.unit == "pixels" and transform.move is not None
    return [amount for amount in transform.amounts if shifts and amount[0] % 1 == 0]


def pixel_rows(transform: Transform, counts: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[PixelRow]:
    """Return one row a counted amount from (black to white, white to black) [N] each, with their distribution."""
    lines = []
    for amount, (whitened, blackened) in zip(counted_amounts(transform), counts, strict=True):
        changed = whitened + blackened
        low, median, high = np.quantile(changed, (0.05, 0.5, 0.95))
        lines.append(
            PixelRow(
                transform.name,
                amount[0],
                len(changed),
                black_to_white=float(whitened.mean()),
                white_to_black=float(blackened.mean()),
                changed=float(changed.mean()),
                changed_5=float(low),
                changed_50=float(median),
                changed_95=float(high),
                equal=float((whitened == blackened).mean()),
            )
        )
    return lines


def count_crossings(transform: Transform, pixels: Tensor, places: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the counts of a batch for each counted amount."""
    counts = []
    base = transform.change(pixels, transform.neutral, places)
    for amount in counted_amounts(transform):
        pair = torch.stack(crossings(base, transform.change(pixels, amount, places))).cpu().numpy()
        counts.append((pair[0], pair[1]))
    return counts
