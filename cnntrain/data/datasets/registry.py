"""The datasets by name: each with its options, what is known of it, and its images as they lie."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from cnntrain.data.datasets.boxes import BoxFolder
from cnntrain.data.datasets.builtin import Digits, Synthetic
from cnntrain.data.datasets.divide import TEST_SIZE, divide
from cnntrain.data.datasets.downloads import DOWNLOADS, Download
from cnntrain.data.datasets.folder import ImageFolder
from cnntrain.data.datasets.folds import HeldOut
from cnntrain.data.datasets.grammar import Grammar
from cnntrain.data.datasets.imagenet import FOLDERS, ImageNet, located
from cnntrain.data.datasets.segmentation import MaskedFolder, camvid
from cnntrain.data.datasets.sentences import Sentences
from cnntrain.data.datasets.shapes import Shapes
from cnntrain.data.datasets.splits import counts_of, keep_classes, keep_info, wanted_classes
from cnntrain.data.datasets.voc import Voc
from cnntrain.data.storage.cache import centred
from cnntrain.data.storage.images import Dataset, DatasetInfo, Split, splits_of
from cnntrain.runtime.errors import InputError, unknown
from cnntrain.runtime.ranges import NonNegative, Positive

SIZES = {  # training and test images of datasets whose number never changes
    "digits": (1_437, 360),
    **dict.fromkeys(("mnist", "fashion_mnist"), (60_000, 10_000)),
    **dict.fromkeys(("cifar10", "cifar100"), (50_000, 10_000)),
    "imagenet": (1_281_167, 50_000),
    "imagenette": (9_469, 3_925),
    "imagewoof": (9_025, 3_929),
    "tiny_imagenet": (100_000, 10_000),
}
ALIKE = ("digits", "synthetic", "shapes", "grammar", *DOWNLOADS)  # hold the same images wherever they lie


class DatasetReader(Protocol):
    """A dataset of which nothing is read yet. Its fields are the folder `root` and its options.

    One with a field `classes` is given those that are kept, and need not look at others.
    """

    def info(self) -> DatasetInfo:
        """Return what is known before any pixel is read."""
        ...

    def read(self) -> Dataset:
        """Return the splits that the dataset brings; images of files stay in their files."""
        ...


DATASETS: dict[str, Callable[..., DatasetReader]] = {
    "digits": Digits,
    **{name: partial(Download, name) for name in DOWNLOADS},
    "folder": ImageFolder,
    "imagenet": partial(ImageNet, "imagenet"),
    "imagenette": partial(ImageNet, "imagenette"),
    "imagewoof": partial(ImageNet, "imagewoof"),
    "tiny_imagenet": partial(ImageNet, "tiny_imagenet", image_size=64),
    "synthetic": Synthetic,
    "shapes": Shapes,
    "segmentation_folder": MaskedFolder,
    "camvid": camvid,
    "sentences": Sentences,
    "grammar": Grammar,
    "boxes": BoxFolder,
    "voc2007": partial(Voc, "voc2007"),
    "voc2012": partial(Voc, "voc2012"),
}


@dataclass(frozen=True)
class SelectedDataset:
    """A dataset of which only some `classes` may be kept, by name or so many; None keeps all."""

    reader: DatasetReader
    classes: Sequence[str] | int | None

    def knowing(self, info: DatasetInfo) -> "SelectedDataset":
        """Return the dataset as a network reads it that was trained on `info`: sentences by the words that it knows."""
        if not (info.words and isinstance(self.reader, Sentences)):
            return self
        return replace(self, reader=self.reader.knowing(info.words, info.shape[1]))

    @cached_property
    def info(self) -> DatasetInfo:
        """What is known before any pixel is read; mean and standard deviation of `folder` are 0 and 1 until then.

        Raises `InputError` for an unknown class, or a folder that cannot be a dataset.
        """
        info = self.reader.info()
        return checked_classes(keep_info(info, wanted_classes(info.classes, self.classes)))

    def read(self) -> Dataset:
        """Return the splits that the dataset brings, the images of files not yet read.

        Raises `InputError` for anything in the data that training would stumble over.
        """
        dataset = centred(self.reader.read())
        names = wanted_classes(dataset.info.classes, self.classes)
        info = checked_classes(keep_info(dataset.info, names))
        if names is not None:
            dataset = filtered(dataset, names)
        refuse_unusable(dataset, info)
        return replace(dataset, info=info)


def select(
    name: str, root: Path, options: Mapping[str, Any], classes: Sequence[str] | int | None = None
) -> SelectedDataset:
    """Return the dataset of this name with its options, of which `classes` are kept; nothing is read yet.

    Raises `InputError` for an unknown name.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    narrowed = {"classes": classes} if "classes" in inspect.signature(DATASETS[name]).parameters else {}
    return SelectedDataset(DATASETS[name](Path(root), **options, **narrowed), classes)


def describe(
    name: str, root: Path, options: Mapping[str, Any], *, classes: Sequence[str] | int | None = None
) -> DatasetInfo:
    """Return what is known of a dataset before any pixel is read."""
    return select(name, root, options, classes).info


def load(
    name: str,
    root: Path,
    options: Mapping[str, Any],
    *,
    classes: Sequence[str] | int | None = None,
    packs: Path | None = None,
    **how: Any,
) -> Dataset:
    """Return a dataset with its images divided into training, validation and test.

    Packs lie in the folder `packs`, or else in `root/.cnntrain`.
    """
    dataset = select(name, root, options, classes).read()
    return divide(dataset, packs=packs or Path(root) / ".cnntrain", root=Path(root), **how)


def image_counts(
    name: str,
    root: Path,
    options: Mapping[str, Any],
    *,
    train_size: Positive | None = None,
    val_size: NonNegative = 0.1,
    folds: HeldOut | None = None,
    classes: Sequence[str] | int | None = None,
) -> tuple[int, int, int]:
    """Return about how many training, validation and test images `load` gives, without decoding any.

    Named datasets need not be on the disk; those of some `classes` only are counted in proportion.
    """
    if name in SIZES and not (name in FOLDERS and located(name, root)):
        train, test = SIZES[name]
        known = select(name, root, options).info.classes
        val, share = 0, len(wanted_classes(known, classes) or ()) / len(known) or 1.0
        train, test = round(train * share), round(test * share)
    else:
        dataset = select(name, root, options, classes).read()
        train, val, test = (len(split) if split else 0 for split in splits_of(dataset))
        if not test:
            val, test = 0, val
    if folds:
        test = 0
        for count in folds.folds:
            test = round(train / count)
            train -= test
    elif not test:
        test = round(train * TEST_SIZE)
    if not val:
        val = round(val_size if isinstance(val_size, int) else val_size * train)
        train -= val
    if train_size is not None:
        train = round(train_size if isinstance(train_size, int) else train_size * train)
    return train, val, test


def filtered(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Return the images of these classes only.

    Raises `InputError` where it is not images that have a class.
    """
    if dataset.info.targets != "classes":
        if list(classes) == list(dataset.info.classes):
            return dataset
        raise InputError(
            f"dataset.classes: an image of {dataset.info} shows several classes, and none can be left out; they "
            f"are {', '.join(dataset.info.classes)}"
        )

    def keep(split: Split) -> Split:
        return keep_classes(split, dataset.info.classes, classes)

    return replace(
        dataset,
        train=keep(dataset.train),
        val=dataset.val and keep(dataset.val),
        test=dataset.test and keep(dataset.test),
    )


def checked_classes(info: DatasetInfo) -> DatasetInfo:
    """Return `info`, or raise an InputError when there is nothing to tell apart."""
    least, what = (1, "a detector needs a class") if info.targets == "boxes" else (2, "a classifier needs two classes")
    if len(info.classes) < least:
        raise InputError(f"{what} or more; {info} is left with {len(info.classes)}")
    return info


def refuse_unusable(dataset: Dataset, info: DatasetInfo) -> None:
    """Raise an InputError for a split without images or boxes, and a label without a class or a class without images.

    Boxes that are difficult say nothing about a network, and so they do not count.
    """
    for name, split in zip(("training", "validation", "test"), splits_of(dataset), strict=True):
        if split is None:
            continue
        if len(split) == 0:
            raise InputError(f"the {name} set of {info} holds no {info.noun}s")
        if len(split) != len(split.source):
            raise InputError(f"the {name} set of {info} has {len(split.source)} {info.noun}s but {len(split)} labels")
        if info.targets == "boxes" and not ((split.labels[..., 0] >= 0) & (split.labels[..., 5] == 0)).any():
            raise InputError(f"none of the {len(split):,} {name} images of {info} has a box: there is nothing to find")
        if info.targets != "classes":
            continue
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= len(info.classes):
            wrong = low if low < 0 else high
            raise InputError(
                f"the {name} set of {info} has the label {wrong}; its {len(info.classes)} classes are numbered "
                f"0 to {len(info.classes) - 1}"
            )
    if info.targets != "classes":
        return
    counts = counts_of(dataset.train.labels, len(info.classes))
    if counts.min() == 0:
        raise InputError(f"class {info.classes[int(counts.argmin())]!r} of {info} has no training {info.noun}s")
