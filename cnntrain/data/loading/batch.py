"""Stored pixels to the batches that a network sees: one gather, then what acts on pixels and on the batch."""

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from cnntrain.data.augment.augmentations import Augmentation
from cnntrain.data.augment.boxes import clipped, windowed
from cnntrain.data.augment.resize import nearest, resized_at_once, resized_one_by_one, runs_of
from cnntrain.data.loading.normalise import Normalise
from cnntrain.data.storage.images import IGNORED, DatasetInfo, central, has_map


class Batch(NamedTuple):
    """What one step learns from."""

    images: Tensor  # float32 [B, C, H, W], normalised, channels_last
    target: Tensor  # [B, …] to learn: as the labels, or mixed (float32 [B, classes])
    labels: (
        Tensor  # to score against: class numbers, int64 [B], or label maps that moved as the images, uint8 [B, H, W]
    )


class Store:
    """Pixels in one flat tensor, so that any mixture of shuffling, cropping and flipping is a single gather.

    Three channels lie as RGBX in one int32 a pixel, and a label map as the X of its image or beside grey. The last
    pixel is black, without a class: positions outside an image point there.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.stored, self.device = images, device
        self.count, self.height, self.width, self.channels = images.shape
        self.black = self.count * self.height * self.width
        self.has_map = has_map(self.channels)
        self.rows = torch.arange(self.height, device=device)
        self.cols = torch.arange(self.width, device=device)

    @cached_property
    def flat(self) -> Tensor:
        """All pixels, one an element; laid out when they are first asked for."""
        if self.channels == 1:
            flat = torch.zeros(self.black + 1, dtype=torch.uint8, device=self.device)
            flat[: self.black] = self.stored.reshape(self.black).to(self.device)
            return flat
        packed = torch.zeros(self.black + 1, 4, dtype=torch.uint8, device=self.device)
        packed[: self.black, : self.channels] = self.stored.reshape(self.black, self.channels).to(self.device)
        if self.has_map:
            packed[self.black, self.channels - 1] = IGNORED
        return packed.view(torch.int32).view(-1)

    def images(self, index: Tensor) -> Tensor:
        """Return the images at `index` [B] as uint8 [B, H, W, C]."""
        pixels = self.flat[: self.black].view(self.count, self.height * self.width)
        return self.unpack(pixels.index_select(0, index).view(-1, self.height, self.width))

    def gather(self, index: Tensor, rows: Tensor, cols: Tensor, *, outside: bool) -> Tensor:
        """Return uint8 [B, H', W', C] from rows [B, H'] and columns [B, W'] of the images at `index` [B].

        Where positions can fall `outside` the image, black stands there.
        """
        lines = (index * (self.height * self.width))[:, None] + rows * self.width
        if outside:  # of two terms that are each beyond the last pixel, or of one and a place inside, the sum is too
            lines = torch.where((rows >= 0) & (rows < self.height), lines, self.black)
            cols = torch.where((cols >= 0) & (cols < self.width), cols, self.black)
        place = lines[:, :, None] + cols[:, None, :]
        return self.unpack(torch.take(self.flat, place.clamp_(max=self.black) if outside else place))

    def windows(
        self, index: Tensor, rows: Tensor, cols: Tensor, drawn: Tensor, size: tuple[int, int], *, outside: bool
    ) -> Tensor:
        """Return windows `drawn` [B, 4] of what `gather` would return, in another `size`: uint8 [B, *size, C].

        A CPU reads nothing but the windows, as long as positions are only mirrored. A label map is what its pixels
        nearest to the new ones say.
        """
        if self.has_map:
            image = resized_at_once(self.gather(index, rows, cols, outside=outside)[..., :-1], drawn, size)
            places = [
                positions.gather(1, nearest(first, length, side))
                for positions, first, length, side in zip((rows, cols), *drawn.T.view(2, 2, -1), size, strict=True)
            ]
            return torch.cat((image, self.gather(index, *places, outside=outside)[..., -1:]), dim=3)
        if self.device.type == "cpu":
            runs = None if outside else (runs_of(rows), runs_of(cols))
            if runs and runs[0] and runs[1]:
                return resized_one_by_one(self.stored, index, runs[0], runs[1], drawn, size)
        return resized_at_once(self.gather(index, rows, cols, outside=outside), drawn, size)

    def unpack(self, pixels: Tensor) -> Tensor:
        """Return packed pixels [B, H, W] as bytes [B, H, W, C]."""
        if self.channels == 1:
            return pixels.unsqueeze(-1)
        return pixels.view(torch.uint8).view(*pixels.shape, 4)[..., : self.channels]


def wholes(index: Tensor, size: tuple[int, int]) -> Tensor:
    """Return for each image the window [B, 4] that is all of its `size` (height, width), filled in on the device."""
    return torch.stack([torch.full_like(index, value) for value in (0, 0, *size)], 1)


def middle(labels: Tensor, stored: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return for each image [B] the window [B, 4] of its middle that is looked at."""
    (top, bottom), (left, right) = central(stored, size)
    ends = (top, left, bottom - top, right - left)
    return torch.stack([labels.new_full((len(labels),), value) for value in ends], 1)  # filled in on the device


def centred_boxes(labels: Tensor, stored: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return boxes, float32 [B, M, 6], of stored images where their middle at `size` shows them."""
    return clipped(labels, windowed(labels[..., 1:5], middle(labels, stored, size), size), size)


class Collate:
    """Stored pixels to a normalised, augmented batch; parts act in the order of their mapping.

    A label map goes wherever its image goes: through the same gather, then through what parts do to `maps`.
    """

    def __init__(self, info: DatasetInfo, parts: Mapping[str, Augmentation], device: torch.device) -> None:
        self.normalise, self.classes = Normalise(info, device), len(info.classes)
        self.size = info.shape[1:]
        # Output positions are traced back to the image, so the part that acts last maps them first.
        self.places = [(name, part.place) for name, part in reversed(list(parts.items())) if part.place]
        self.outside = any(part.outside for part in parts.values())
        self.pixels = [(name, part.pixels) for name, part in parts.items() if part.pixels]
        self.maps = [(name, part.maps) for name, part in parts.items() if part.maps]
        self.window = next((name for name, part in parts.items() if part.window), None)
        self.moves = parts if info.targets == "boxes" else None
        self.mixers = [(name, part.batch) for name, part in parts.items() if part.batch]

    def __call__(self, store: Store, index: Tensor, labels: Tensor, drawn: Mapping[str, Tensor]) -> Batch:
        pixels = self.gathered(store, index, drawn)
        if store.has_map:
            pixels, labels = pixels[..., :-1], pixels[..., -1]
            for name, move in self.maps:
                labels = move(labels, drawn[name])
        elif self.moves is not None:
            labels = self.moved(self.moves, store, labels, drawn)
        if self.pixels:
            values = pixels.float().permute(0, 3, 1, 2)
            for name, change in self.pixels:
                values = change(values, drawn[name])
            pixels = values.permute(0, 2, 3, 1).contiguous()
        x, target = self.normalise(pixels), labels
        for name, mix in self.mixers:
            x, target = mix(x, target, drawn[name], self.classes)
        return Batch(x.contiguous(memory_format=torch.channels_last), target, labels)

    def moved(
        self, parts: Mapping[str, Augmentation], store: Store, labels: Tensor, drawn: Mapping[str, Tensor]
    ) -> Tensor:
        """Return boxes, float32 [B, M, 6], where the images of a batch show what they are around."""
        boxes, stored = labels[..., 1:5], (store.height, store.width)
        for name, part in parts.items():
            if part.place and part.boxes:
                boxes = part.boxes(boxes, drawn[name], *stored)
        boxes = windowed(boxes, drawn[self.window] if self.window else middle(labels, stored, self.size), self.size)
        for name, part in parts.items():
            if part.pixels and part.boxes:
                boxes = part.boxes(boxes, drawn[name], *self.size)
        return clipped(labels, boxes, self.size)

    def gathered(self, store: Store, index: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
        """Return the pixels of the images at `index` [B] that a batch shows: uint8 [B, *size, C]."""
        if not self.places and not self.window and self.size == (store.height, store.width):
            return store.images(index)
        rows, cols = self.positions(store, index, drawn)
        shown = rows.shape[1], cols.shape[1]
        if self.window or shown != self.size:
            windows = drawn[self.window] if self.window else wholes(index, shown)
            return store.windows(index, rows, cols, windows, self.size, outside=self.outside)
        return store.gather(index, rows, cols, outside=self.outside)

    def positions(self, store: Store, index: Tensor, drawn: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the rows [B, H'] and columns [B, W'] of the stored images that a batch shows, before its windows."""
        rows, cols = store.rows, store.cols
        if not self.window:
            rows, cols = (
                line[slice(*ends)]
                for line, ends in zip((rows, cols), central((store.height, store.width), self.size), strict=True)
            )
        rows, cols = rows.expand(len(index), -1), cols.expand(len(index), -1)
        for name, place in self.places:
            rows, cols = place(rows, cols, store.height, store.width, drawn[name])
        return rows, cols
