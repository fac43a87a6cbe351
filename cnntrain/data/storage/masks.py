"""Image files with a mask beside each, a file that says of which class every pixel is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnntrain.data.storage.decode import covering_size, opened, upright_size
from cnntrain.data.storage.images import IGNORED, Files, central, nearest_positions
from cnntrain.runtime.errors import InputError, as_text

NO_CLASS = 256  # in a table of classes: what a value stands for that a mask must not hold


class MaskedFiles(Files):
    """Image files that bring their label map as their last channel, read from `masks`, one a path, below `mask_root`.

    `values` are those of the classes in the masks, in their order; `ignore` is the value of pixels without a class.
    With `resize` a mask is scaled and cut as its image is, each pixel to the nearest. A mask of another size than its
    image, or with a value that is no class, is an InputError that names the file.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        mask_root: Path,
        masks: Sequence[str],
        values: Sequence[int],
        ignore: int,
        **options: Any,
    ) -> None:
        super().__init__(root, paths, **options)
        self.mask_root, self.masks, self.values, self.ignore = mask_root, masks, tuple(values), ignore
        self.numbers = np.full(256, NO_CLASS)
        self.numbers[ignore] = IGNORED
        self.numbers[list(values)] = np.arange(len(values))

    @property
    def shape(self) -> tuple[int, int, int]:
        return *self.size, self.channels + 1

    def mask(self, position: int) -> Path:
        """Return the mask of the image at `position`."""
        return self.mask_root / self.masks[int(self.index[position])]

    def parts(self, position: int) -> list[tuple[str, Path]]:
        mask = self.mask(position)
        return [*super().parts(position), (f"mask {mask.relative_to(self.mask_root)}", mask)]

    def made(self) -> list[object]:
        return [*super().made(), self.values, self.ignore]

    def decode(self, position: int) -> np.ndarray:
        image, labels = super().decode(position), self.labels(position)
        return np.concatenate((image, labels[..., None]), axis=2)

    def labels(self, position: int) -> np.ndarray:
        """Return the label map of the image at `position`, uint8 [H, W]."""
        path, mask = self.path(position), self.mask(position)
        values = read_mask(mask)
        size = upright_size(path) if self.resize else self.size
        if values.shape != size:
            (height, width), (tall, wide) = values.shape, size
            raise InputError(f"{as_text(mask)} has {width}×{height} pixels and its image {wide}×{tall}")
        labels = self.numbers[values]
        if (labels == NO_CLASS).any():
            value = int(values[labels == NO_CLASS][0])
            known = ", ".join(map(str, self.values))
            hint = "; JPEG changes values, PNG does not" if mask.suffix.lower() in (".jpg", ".jpeg") else ""
            raise InputError(
                f"{as_text(mask)} holds the value {value}, which is no class: they are {known}, and {self.ignore} is "
                f"ignored{hint}"
            )
        return covered(labels.astype(np.uint8), self.size) if self.resize else labels.astype(np.uint8)


def read_mask(path: Path) -> np.ndarray:
    """Return the values of a mask, uint8 [H, W]: its grey values, or the numbers of its palette's colours.

    Raises `InputError` for a file that cannot be read or has colours of its own.
    """
    with opened(path) as image:
        if image.mode == "1":
            return np.asarray(image.convert("L"))
        if image.mode in ("P", "L"):
            return np.asarray(image)
        values = np.asarray(image.convert("RGB"))
        if image.mode in ("RGB", "RGBA") and (values == values[..., :1]).all():
            return values[..., 0]
        mode = image.mode
    raise InputError(
        f"{as_text(path)} has {mode} pixels; a mask has a number for each pixel, as a grey value or a palette's colour"
    )


def covered(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale label maps [H, W] until they just cover `size` and cut out the centre, as `decode.cover` does of images."""
    whole, corner = covering_size((labels.shape[0], labels.shape[1]), size)
    rows, cols = (
        nearest_positions(have, covering).numpy()[first : first + want]
        for have, covering, first, want in zip(labels.shape, whole, corner, size, strict=True)
    )
    return np.asarray(labels[np.ix_(rows, cols)])


def in_file(labels: np.ndarray, file: tuple[int, int], stored: Sequence[int], seen: Sequence[int]) -> np.ndarray:
    """Return a label map, uint8 [h, w], as it lies in a `file` of so many (height, width) pixels, uint8 of these.

    The file was scaled until it just covered `stored`, of which a network sees the centre at the size `seen`; the map
    is about the middle of that. Each pixel of the file is of the nearest of the map, and `IGNORED` beyond it.
    """
    covered_size, corner = covering_size(file, (stored[0], stored[1]))
    windows, places = central(stored, seen), []
    for axis, (begin, end) in enumerate(windows):
        pixels = (np.arange(file[axis]) + 0.5) * covered_size[axis] / file[axis] - corner[axis]
        view = (pixels - begin) * seen[axis] / (end - begin)
        places.append(np.floor(view).astype(np.int64) - (seen[axis] - labels.shape[axis]) // 2)
    framed = np.pad(labels, 1, constant_values=IGNORED)
    rows, cols = (np.clip(each + 1, 0, side - 1) for each, side in zip(places, framed.shape, strict=True))
    return np.asarray(framed[np.ix_(rows, cols)])


def write_mask(labels: np.ndarray, path: Path, colours: np.ndarray) -> None:
    """Write a label map, uint8 [H, W], as a PNG whose palette has the `colours`, uint8 [K, 3], of its values."""
    image = Image.fromarray(labels, mode="P")
    image.putpalette(colours.tobytes())
    image.save(path)
