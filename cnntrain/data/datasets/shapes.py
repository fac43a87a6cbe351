"""Drawn shapes on noise: label maps and boxes that need no download, the same at every reading."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from cnntrain.data.augment.boxes import padded
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split
from cnntrain.runtime.ranges import Count
from cnntrain.runtime.seeding import generator

SEEN = 0.3  # of a shape: of one that others cover further there is no box
CLASSES = ("background", "disc", "square", "triangle")


class Drawing(NamedTuple):
    """An image with shapes."""

    image: np.ndarray  # uint8 [H, W, C]
    labels: np.ndarray  # uint8 [H, W]: a number of `CLASSES` for every pixel
    boxes: np.ndarray  # float32 [shapes, 6]: of each that is seen, number of its kind, left, top, right, bottom, and 0


@dataclass(frozen=True)
class Shapes:
    """Up to `shapes` discs, squares and triangles of any colour, size and angle; later ones cover earlier ones."""

    root: Path
    image_size: Count = 64
    channels: Literal[1, 3] = 3
    shapes: Count = 3
    train_images: Count = 512
    test_images: Count = 128
    targets: Literal["maps", "boxes"] = "maps"

    def info(self) -> DatasetInfo:
        """Return the classes; mean and standard deviation are 0 and 1 until `divide` measures them."""
        shape = (self.channels, self.image_size, self.image_size)
        classes = CLASSES if self.targets == "maps" else CLASSES[1:]
        return DatasetInfo("shapes", classes, shape, (0.0,) * self.channels, (1.0,) * self.channels, self.targets)

    def read(self) -> Dataset:
        """Return the training and the test images, each drawn from a generator of its own."""
        train, test = (self.draw(*part) for part in ((self.train_images, "train"), (self.test_images, "test")))
        return Dataset(self.info(), train, None, test)

    def draw(self, number: int, part: str) -> Split:
        """Draw `number` images, each with its label map as its last channel, or with its boxes."""
        rng = generator(0, "shapes", part)
        drawings = [drawing(rng, self.image_size, self.channels, self.shapes) for _ in range(number)]
        if self.targets == "boxes":
            images = np.stack([each.image for each in drawings])
            return Split(Pixels(torch.from_numpy(images)), padded([each.boxes for each in drawings]))
        images = np.stack([np.concatenate((each.image, each.labels[..., None]), axis=2) for each in drawings])
        return Split(Pixels(torch.from_numpy(images)), torch.zeros(number, 0, dtype=torch.int64))


def drawing(rng: np.random.Generator, size: int, channels: int, most: int) -> Drawing:
    """Draw an image of `size` pixels a side with one shape to `most`, whose grey values differ from what they cover."""
    rows, cols = np.mgrid[:size, :size] + 0.5
    image = np.broadcast_to(rng.uniform(60, 200, channels), (size, size, channels)).copy()
    labels, number = np.zeros((size, size), dtype=np.uint8), np.zeros((size, size), dtype=np.int64)
    boxes, whole = list[tuple[float, ...]](), list[int]()
    for _ in range(rng.integers(1, most, endpoint=True)):
        kind, radius = int(rng.integers(1, len(CLASSES))), rng.uniform(size / 9, size / 4)
        centre, turn = rng.uniform(radius / 2, size - radius / 2, 2), rng.uniform(0, 2 * np.pi)
        inside = covered(CLASSES[kind], (rows - centre[0]) / radius, (cols - centre[1]) / radius, turn)
        shade = rng.uniform(0, 255, channels)
        under = image[inside].mean(axis=0)
        shade = np.where(np.abs(shade - under).max() < 60, 255 * (under < 128), shade)
        image[inside], labels[inside], number[inside] = shade, kind, len(boxes) + 1
        whole.append(int(inside.sum()))
        down, across = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        boxes.append((kind - 1, across[0], down[0], across[-1] + 1, down[-1] + 1, 0))
    noisy = image + rng.normal(0, 12, image.shape)
    seen = np.bincount(number.ravel(), minlength=len(boxes) + 1)[1:] >= SEEN * np.array(whole)
    return Drawing(noisy.round().clip(0, 255).astype(np.uint8), labels, np.array(boxes, dtype=np.float32)[seen])


def covered(kind: str, down: np.ndarray, across: np.ndarray, turn: float) -> np.ndarray:
    """Return which positions [H, W], in radii from its centre, a shape covers that is turned by so many radians."""
    if kind == "disc":
        return np.asarray(down**2 + across**2 <= 1)
    sides = {"square": 4, "triangle": 3}[kind]
    angles = turn + 2 * np.pi * np.arange(sides) / sides
    inner = np.cos(np.pi / sides)  # how far a side lies from the centre of a polygon of radius 1
    return np.asarray(np.logical_and.reduce([np.cos(a) * across + np.sin(a) * down <= inner for a in angles]))
