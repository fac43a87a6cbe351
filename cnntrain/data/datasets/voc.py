"""PASCAL VOC 2007 and 2012 (Everingham et al., IJCV 2010): downloaded once, as boxes or as a class for every pixel."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from cnntrain.data.datasets.archives import Archive, bring
from cnntrain.data.datasets.boxes import BoxFolder, lines_of
from cnntrain.data.datasets.downloads import absent, once
from cnntrain.data.storage.images import Dataset, DatasetInfo, Split
from cnntrain.data.storage.masks import MaskedFiles
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.ranges import Count

# fmt: off
OBJECTS = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
PLACE = "https://thor.robots.ox.ac.uk/pascal/VOC"
FOLDERS = {"voc2007": "VOCdevkit/VOC2007", "voc2012": "VOCdevkit/VOC2012"}
ARCHIVES = {  # addresses and checksums are torchvision's
    "voc2007": (
        Archive(
            f"{PLACE}/voc2007/VOCtrainval_06-Nov-2007.tar",
            FOLDERS["voc2007"],
            460_032_000,
            "md5:c52e279531787c972589f7e41ab4ae64",
            most_files=60_000,
        ),
        Archive(
            f"{PLACE}/voc2007/VOCtest_06-Nov-2007.tar",
            FOLDERS["voc2007"],
            451_020_800,
            "md5:b6e924de25625d8de591ea690078ad9f",
            most_files=60_000,
        ),
    ),
    "voc2012": (
        Archive(
            f"{PLACE}/voc2012/VOCtrainval_11-May-2012.tar",
            FOLDERS["voc2012"],
            1_999_639_040,
            "md5:6cd6e144f989b92b3379bac3b3de84fd",
            most_files=120_000,
        ),
    ),
}


@dataclass(frozen=True)
class Voc:
    """Photographs of twenty kinds of objects with boxes, or those that are segmented with a class for every pixel.

    Of 2012 the test set is not public: its validation images are the test set, as they mostly are in papers. Images
    with boxes are scaled to `image_size` whatever their shape, those with a label map until they cover it. Pixels that
    nobody labelled (borders of objects) have no class.
    """

    name: str
    root: Path
    targets: Literal["boxes", "maps"] = "boxes"
    image_size: Count = 448

    def info(self) -> DatasetInfo:
        """Return the classes; mean and standard deviation are 0 and 1 until `divide` measures them."""
        classes = OBJECTS if self.targets == "boxes" else ("background", *OBJECTS)
        shape = (3, self.image_size, self.image_size)
        return DatasetInfo(self.name, classes, shape, (0.0,) * 3, (1.0,) * 3, self.targets)

    def read(self) -> Dataset:
        """Return the images still in their files; downloaded if need be.

        Raises `InputError` for a copy that is none, or when it cannot be downloaded.
        """
        folder = located(self.name, self.root) or fetched(self.name, self.root)
        if self.targets == "boxes":
            boxes = BoxFolder(folder, "voc", OBJECTS, self.image_size, bad_boxes="skip").read()
            dataset = replace(boxes, info=self.info())
        else:
            lists = {part: folder / "ImageSets" / "Segmentation" / f"{part}.txt" for part in ("train", "val", "test")}
            splits = {part: self.masked(folder, file) for part, file in lists.items() if file.is_file()}
            dataset = Dataset(self.info(), splits["train"], splits.get("val"), splits.get("test"))
        return dataset if dataset.test else replace(dataset, val=None, test=dataset.val)

    def masked(self, folder: Path, listed: Path) -> Split:
        """Return the segmented images of a list with their label maps."""
        names = lines_of(listed)
        files = MaskedFiles(
            folder / "JPEGImages",
            [f"{name}.jpg" for name in names],
            folder / "SegmentationClass",
            [f"{name}.png" for name in names],
            range(len(OBJECTS) + 1),
            255,
            size=(self.image_size, self.image_size),
            channels=3,
            resize=True,
        )
        return Split(files, torch.zeros(len(names), 0, dtype=torch.int64))


def located(name: str, root: Path) -> Path | None:
    """Return the folder with Annotations and JPEGImages: below `root`, or `root` itself; None where neither is one."""
    for folder in (root / FOLDERS[name], root):
        if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
            return folder
    return None


def fetched(name: str, root: Path) -> Path:
    """Return the folder of `name` below `root` once it is there, complete."""
    archives = ARCHIVES[name]
    try:
        once(name, root, lambda: located(name, root) is not None, partial(bring, archives, root))
    except (InputError, OSError) as error:
        raise InputError(absent(name, root, [archive.name for archive in archives], error)) from error
    if (folder := located(name, root)) is None:
        raise InputError(f"{root / FOLDERS[name]} holds no folders Annotations and JPEGImages")
    return folder
