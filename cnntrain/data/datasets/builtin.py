"""Datasets that need no download: scikit-learn's digits, and gratings that are drawn."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cnntrain.data.datasets.splits import carve
from cnntrain.data.storage.decode import resized
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split
from cnntrain.runtime.ranges import Count
from cnntrain.runtime.seeding import generator


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8 to `image_size` pixels a side; 360 are the test set."""

    root: Path
    image_size: Count = 28

    def info(self) -> DatasetInfo:
        """Return the ten digits, in one channel."""
        return DatasetInfo("digits", tuple("0123456789"), (1, self.image_size, self.image_size), (0.3055,), (0.3251,))

    def read(self) -> Dataset:
        """Return the digits, their values 0 to 16 scaled to 0 to 255."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        pixels = torch.from_numpy(images).float().reshape(-1, 8, 8, 1) * (255 / 16)
        everything = Split(Pixels(resized(pixels, self.image_size)), torch.from_numpy(labels).long())
        train, test = carve(everything, self.info(), 360, "test", "the test set")
        return Dataset(self.info(), train, None, test)


@dataclass(frozen=True)
class Synthetic:
    """Gratings in noise whose direction and frequency tell the class: the same images at every reading."""

    root: Path
    image_size: Count = 28
    channels: Literal[1, 3] = 1
    num_classes: Count = 10
    train_images: Count = 512
    test_images: Count = 256

    def info(self) -> DatasetInfo:
        """Return the classes, with the mean and standard deviation that follow from how the gratings are drawn."""
        classes = tuple(f"grating{number}" for number in range(self.num_classes))
        shape, deviation = (self.channels, self.image_size, self.image_size), math.sqrt(0.25**2 / 2 + 0.1**2)
        return DatasetInfo("synthetic", classes, shape, (0.5,) * self.channels, (deviation,) * self.channels)

    def read(self) -> Dataset:
        """Return the training and the test images, each drawn from a generator of its own."""
        train, test = (self.draw(*part) for part in ((self.train_images, "train"), (self.test_images, "test")))
        return Dataset(self.info(), train, None, test)

    def draw(self, number: int, part: str) -> Split:
        """Draw `number` images 0.5 + 0.25 sin(wave + phase) + 0.1 noise, the classes in turn."""
        size = self.image_size
        rng = generator(0, "synthetic", part)
        labels = np.arange(number) % self.num_classes
        angle, cycles = np.pi * labels / self.num_classes, 2 + labels % 3
        y, x = np.mgrid[:size, :size] / size
        along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
        # The phase varies by an eighth of a wave only: with all phases each class would average to grey.
        phase = rng.uniform(-np.pi / 4, np.pi / 4, (number, 1, 1))
        wave = 0.25 * np.sin(2 * np.pi * cycles[:, None, None] * along + phase)
        noise = 0.1 * rng.standard_normal((number, size, size, self.channels))
        images = ((0.5 + wave[..., None] + noise) * 255).round().clip(0, 255).astype(np.uint8)
        return Split(Pixels(torch.from_numpy(images)), torch.from_numpy(labels))
