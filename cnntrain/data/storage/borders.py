"""U-Net's border weights (Ronneberger et al. 2015, section 3): pixels between two close objects count more in the loss.

A pixel of the first class whose distances to the nearest and the second nearest object are d1 and d2 gets a weight of
w0 × exp(-(d1 + d2)² / (2 sigma²)) besides. An object is a connected region of any other class (by its sides, not its
corners); distances are between the centres of pixels.

The weight is written into the label map, in place of the first class: as one of the numbers that are no class. So it
moves with its pixel wherever the label map moves, and is computed once, on the host.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.storage.images import IGNORED, Pixels, Source, on_stored
from cnntrain.runtime.progress import counting

MOST_CLASSES = 128  # so that at least 127 weights can be told apart


@dataclass(frozen=True)
class Bordered:
    """The images of a `source` with label maps of so many `classes` that hold border weights of a `sigma` in pixels."""

    source: Source
    classes: int
    sigma: float

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: Sequence[int] | np.ndarray) -> Tensor:
        images = self.source.read(index).clone()
        for image in images.numpy():
            image[..., -1] = with_weights(image[..., -1], self.classes, self.sigma)
        return images

    def take(self, index: np.ndarray) -> "Bordered":
        return Bordered(self.source.take(index), self.classes, self.sigma)


def bordered(source: Source, classes: int, sigma: float) -> Source:
    """Return `source` with border weights in its label maps; those of images in memory are computed now."""

    def change(stored: Source) -> Source:
        changed = Bordered(stored, classes, sigma)
        if not isinstance(stored, Pixels):
            return changed
        with counting(len(stored), "border weights", "image") as add:
            images = torch.empty_like(stored.images)
            for place in range(len(stored)):
                images[place] = changed.read([place])[0]
                add(1)
        return Pixels(images, stored.files)

    return on_stored(source, change)


def weight_levels(classes: int) -> int:
    """Return how many weights above zero the label maps of so many classes can hold."""
    return IGNORED - classes


def split_weights(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the classes that label maps say (`IGNORED` for none), int64 […], and their border weights, in parts of w0.

    Nothing here synchronises with the device.
    """
    labels = labels.long()
    above = (labels >= classes) & (labels != IGNORED)
    weights = torch.where(above, labels - (classes - 1), 0).float() / weight_levels(classes)
    return torch.where(above, 0, labels), weights


def with_weights(labels: np.ndarray, classes: int, sigma: float) -> np.ndarray:
    """Return a label map, uint8 [H, W], whose first class holds the nearest of the weights that it can hold."""
    levels = weight_levels(classes)
    reach = sigma * math.sqrt(2 * math.log(2 * levels))  # d1 + d2 from which on the nearest weight is zero
    nearest, second = np.full((2, *labels.shape), np.inf)
    for window, distance in distances(labels, classes, math.ceil(reach)):
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    level = np.rint(levels * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))).astype(np.uint8)
    return np.where((labels == 0) & (level > 0), classes - 1 + level, labels)


def distances(labels: np.ndarray, classes: int, reach: int) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Yield for each object of a label map the window that lies within `reach` of it, and the distances in it to it."""
    from scipy import ndimage  # it takes half a second to import

    for label in range(1, classes):
        regions, _ = ndimage.label(labels == label)
        for number, box in enumerate(ndimage.find_objects(regions), 1):
            window = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
            yield window, ndimage.distance_transform_edt(regions[window] != number)
