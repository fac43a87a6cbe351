"""The datasets by name: what is known of each, and its splits ready for training."""

import hashlib
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.datasets.downloads import DOWNLOADS, info_of, reader_of
from cnntrain.data.datasets.folder import folder_info, read_folder
from cnntrain.data.datasets.imagenet import SIDES, imagenet_info, imagenet_reader, located
from cnntrain.data.datasets.splits import (
    Member,
    carve,
    chosen,
    class_weights,
    counts_of,
    divided,
    keep_classes,
    keep_info,
    subset,
)
from cnntrain.data.storage.cache import Cache, centred, in_memory, in_pack
from cnntrain.data.storage.decode import resized
from cnntrain.data.storage.images import (
    Dataset,
    DatasetInfo,
    Files,
    Pixels,
    Progress,
    Split,
    files_of,
    splits_of,
    statistics,
    stored,
)
from cnntrain.data.storage.pack import Packed
from cnntrain.runtime.errors import InputError, unknown
from cnntrain.runtime.ranges import Count, NonNegative, Positive
from cnntrain.runtime.seeding import generator

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetEntry",
    "DatasetInfo",
    "Split",
    "class_weights",
    "describe",
    "fingerprint",
    "load",
]

SIZES = {  # training and test images of datasets whose number never changes
    "digits": (1_437, 360),
    **dict.fromkeys(("mnist", "fashion_mnist"), (60_000, 10_000)),
    **dict.fromkeys(("cifar10", "cifar100"), (50_000, 10_000)),
    "imagenet": (1_281_167, 50_000),
    "imagenette": (9_469, 3_925),
    "imagewoof": (9_025, 3_929),
    "tiny_imagenet": (100_000, 10_000),
}
ALIKE = ("digits", "synthetic", *DOWNLOADS)  # hold the same images wherever they lie
TEST_SIZE = 0.2  # of a folder that brings no test images


class DatasetEntry(NamedTuple):
    """A dataset: its card and its splits, as functions of the root and the same options.

    Where they take `classes`, they are given those that are kept, and need not look at others.
    """

    info: Callable[..., DatasetInfo]
    read: Callable[..., Dataset]


def digits_info(root: Path, *, image_size: Count = 28) -> DatasetInfo:
    """Return the card of scikit-learn's handwritten digits, enlarged from 8 to `image_size` pixels a side."""
    return DatasetInfo("digits", tuple("0123456789"), (1, image_size, image_size), (0.3055,), (0.3251,))


def read_digits(root: Path, *, image_size: Count = 28) -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits (values 0 to 16), 360 of them as the test set."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).float().reshape(-1, 8, 8, 1) * (255 / 16)
    everything = Split(Pixels(resized(pixels, image_size)), torch.from_numpy(labels).long())
    info = digits_info(root, image_size=image_size)
    train, test = carve(everything, info, 360, "test", "the test set")
    return Dataset(info, train, None, test)


def synthetic_info(
    root: Path,
    *,
    image_size: Count = 28,
    channels: Literal[1, 3] = 1,
    num_classes: Count = 10,
    train_images: Count = 512,
    test_images: Count = 256,
) -> DatasetInfo:
    """Return the card of the drawn gratings, whose mean and standard deviation follow from how they are drawn."""
    classes = tuple(f"grating{number}" for number in range(num_classes))
    shape = (channels, image_size, image_size)
    return DatasetInfo("synthetic", classes, shape, (0.5,) * channels, (math.sqrt(0.25**2 / 2 + 0.1**2),) * channels)


def read_synthetic(
    root: Path,
    *,
    image_size: Count = 28,
    channels: Literal[1, 3] = 1,
    num_classes: Count = 10,
    train_images: Count = 512,
    test_images: Count = 256,
) -> Dataset:
    """Return gratings in noise whose direction and frequency tell the class: the same images on every call."""
    info = synthetic_info(root, image_size=image_size, channels=channels, num_classes=num_classes)
    return Dataset(info, gratings(info, train_images, "train"), None, gratings(info, test_images, "test"))


def gratings(info: DatasetInfo, number: int, part: str) -> Split:
    """Draw `number` images 0.5 + 0.25 sin(wave + phase) + 0.1 noise, the classes in turn."""
    channels, size, _ = info.shape
    rng = generator(0, info.name, part)
    labels = np.arange(number) % len(info.classes)
    angle, cycles = np.pi * labels / len(info.classes), 2 + labels % 3
    y, x = np.mgrid[:size, :size] / size
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    # The phase varies by an eighth of a wave only: with all phases each class would average to grey.
    phase = rng.uniform(-np.pi / 4, np.pi / 4, (number, 1, 1))
    wave = 0.25 * np.sin(2 * np.pi * cycles[:, None, None] * along + phase)
    noise = 0.1 * rng.standard_normal((number, size, size, channels))
    images = ((0.5 + wave[..., None] + noise) * 255).round().clip(0, 255).astype(np.uint8)
    return Split(Pixels(torch.from_numpy(images)), torch.from_numpy(labels))


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(digits_info, read_digits),
    **{name: DatasetEntry(info_of(name), reader_of(name)) for name in DOWNLOADS},
    "folder": DatasetEntry(folder_info, read_folder),
    **{name: DatasetEntry(imagenet_info(name), imagenet_reader(name)) for name in SIDES},
    "synthetic": DatasetEntry(synthetic_info, read_synthetic),
}


def entry_of(name: str) -> DatasetEntry:
    """Return the dataset of this name, or raise the InputError that knows the nearest one."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]


def narrowed(
    function: Callable[..., Any], options: Mapping[str, Any], classes: Sequence[str] | int | None
) -> dict[str, Any]:
    """Return the options of a dataset's function, with the classes that are kept where it takes them."""
    takes = "classes" in inspect.signature(function).parameters
    return {**options, "classes": classes} if takes else dict(options)


def describe(
    name: str, root: Path, options: Mapping[str, Any], *, classes: Sequence[str] | int | None = None
) -> DatasetInfo:
    """Return the card of a dataset without reading its pixels; only `folder` needs its files for that.

    `options` are the keyword options of the dataset's card function. For `folder`, mean and standard deviation are 0
    and 1 until it is loaded. InputError for an unknown dataset or class, or a folder that cannot be one.
    """
    function = entry_of(name).info
    info: DatasetInfo = function(Path(root), **narrowed(function, options, classes))
    return checked_classes(keep_info(info, chosen(info.classes, classes)))


def load(
    name: str,
    root: Path,
    options: Mapping[str, Any],
    *,
    classes: Sequence[str] | int | None = None,
    packs: Path | None = None,
    **how: Any,
) -> Dataset:
    """Return a dataset with its images divided into training, validation and test: what `read_whole` and `divide` do.

    Packs lie in the folder `packs`, or else in `root/.cnntrain`.
    """
    return divide(read_whole(name, root, options, classes=classes), packs=packs or Path(root) / ".cnntrain", **how)


def read_whole(
    name: str, root: Path, options: Mapping[str, Any], *, classes: Sequence[str] | int | None = None
) -> Dataset:
    """Return a dataset as it lies, with the splits that it brings and the images of files not yet read.

    `classes` keeps those of these names, or so many. InputError for anything in the data that training would stumble
    over.
    """
    function = entry_of(name).read
    whole = centred(function(Path(root), **narrowed(function, options, classes)))
    kept = chosen(whole.info.classes, classes)
    info = checked_classes(keep_info(whole.info, kept))
    if kept is not None:
        whole = filtered(whole, kept)
    check(whole, info)
    return replace(whole, info=info)


def divide(
    whole: Dataset,
    *,
    packs: Path,
    train_size: Positive | None = None,
    val_size: NonNegative = 0.1,
    workers: int = 0,
    cache: Cache = "auto",
    seed: int = 0,
    only: Literal["train", "val", "test"] | None = None,
    listed: Sequence[Member] | None = None,
    on_progress: Progress | None = None,
) -> Dataset:
    """Return a dataset with its images divided into training, validation and test.

    Validation is carved from the training images, `val_size` of them (a number or a fraction), the same for every seed;
    0 carves none. A dataset that brings validation and test images keeps them; one that brings validation images only
    has them as its test set; one without either gives a fifth of its images as its test set. `train_size` then keeps
    that many of the training images, drawn by `seed`. Where the files of each split are `listed`, nothing is carved.

    `cache` says where the pixels of image files are kept: "ram" decodes those of all splits, or of the split that is
    `only` asked for; "pack" decodes them once for all runs, into the folder `packs`, whatever `train_size` draws;
    "none" leaves them in their files; "auto" is "ram" without `workers` and "none" with them. InputError for sizes that
    training would stumble over.
    """
    if cache == "auto":
        cache = "none" if workers else "ram"
    found = whole if listed is None else divided(whole, listed)
    whole, info = found.whole or whole, whole.info
    train, val, test = splits_of(found)
    if listed is None:
        if test is None:
            test, val = val, None
        if test is None:
            train, test = carve(train, info, TEST_SIZE, "test", "the test set")
        if val is None and val_size:
            train, val = carve(train, info, val_size, "validation", "dataset.val_size")
    if cache == "pack":
        train = in_pack(train, whole, packs, make=only in (None, "train"))
        val = val and in_pack(val, whole, packs, make=only in (None, "val"))
        test = test and in_pack(test, whole, packs, make=only in (None, "test"))
    pool = train  # before train_size, so that the images are normalised alike whatever it is
    if train_size is not None and (listed is None or only in (None, "train")):
        train = subset(train, info, train_size, seed)
    if cache == "ram":
        train = in_memory(train, on_progress) if only in (None, "train") else train
        val = in_memory(val, on_progress) if val and only in (None, "val") else val
        test = in_memory(test, on_progress) if test and only in (None, "test") else test
    if not any(info.mean) and (only is None or listed is None):  # of a folder: known by its pixels alone
        mean, std = statistics((train if train_size is None else pool).source)
        info = replace(info, mean=mean, std=std)
    kept = whole if files_of(whole.train.source) is not None else None
    return replace(whole, info=info, train=train, val=val, test=test, whole=kept)


def limited(dataset: Dataset, train_size: Positive | None, seed: int) -> Dataset:
    """Return a dataset that was loaded whole with `train_size` of its training images, those that `load` draws."""
    if train_size is None:
        return dataset
    return replace(dataset, train=subset(dataset.train, dataset.info, train_size, seed))


def image_counts(
    name: str,
    root: Path,
    options: Mapping[str, Any],
    *,
    train_size: Positive | None = None,
    val_size: NonNegative = 0.1,
    classes: Sequence[str] | int | None = None,
) -> tuple[int, int, int]:
    """Return about how many training, validation and test images `load` gives, without decoding any.

    Named datasets need not be on the disk; those of some `classes` only are counted in proportion.
    """
    if name in SIZES and not (name in SIDES and located(name, root)):
        train, test = SIZES[name]
        known = entry_of(name).info(root, **options).classes
        val, share = 0, len(chosen(known, classes) or ()) / len(known) or 1.0
        train, test = round(train * share), round(test * share)
    else:
        whole = read_whole(name, root, options, classes=classes)
        train, val, test = (len(split) if split else 0 for split in splits_of(whole))
        if not test:
            val, test = 0, val or round(train * TEST_SIZE)
    if not val:
        val = round(val_size if isinstance(val_size, int) else val_size * train)
        train -= val
    if train_size is not None:
        train = round(train_size if isinstance(train_size, int) else train_size * train)
    return train, val, test


def filtered(whole: Dataset, classes: Sequence[str]) -> Dataset:
    """Return the images of these classes only."""

    def kept(split: Split) -> Split:
        return keep_classes(split, whole.info.classes, classes)

    return replace(
        whole, train=kept(whole.train), val=whole.val and kept(whole.val), test=whole.test and kept(whole.test)
    )


def checked_classes(info: DatasetInfo) -> DatasetInfo:
    """Return `info`, or raise an InputError when there is nothing to tell apart."""
    if len(info.classes) < 2:
        raise InputError(f"a classifier needs at least two classes; {info.name} is left with {len(info.classes)}")
    return info


def check(dataset: Dataset, info: DatasetInfo) -> None:
    """Raise an InputError for a split without images, a label without a class, or a class without training images."""
    for name, split in zip(("training", "validation", "test"), splits_of(dataset), strict=True):
        if split is None:
            continue
        if len(split) == 0:
            raise InputError(f"the {name} set of {info.name} holds no images")
        if len(split) != len(split.source):
            raise InputError(f"the {name} set of {info.name} has {len(split.source)} images but {len(split)} labels")
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= len(info.classes):
            wrong = low if low < 0 else high
            raise InputError(
                f"the {name} set of {info.name} has the label {wrong}; its {len(info.classes)} classes are numbered "
                f"0 to {len(info.classes) - 1}"
            )
    counts = counts_of(dataset.train.labels, len(info.classes))
    if counts.min() == 0:
        raise InputError(f"class {info.classes[int(counts.argmin())]!r} of {info.name} has no training images")


def fingerprint(dataset: Dataset) -> str:
    """Return a short digest of the labels and the pixels, or, of files, their relative paths and sizes in bytes."""
    digest = hashlib.sha256()
    for name, split in zip(("train", "val", "test"), splits_of(dataset), strict=True):
        if split is None:
            continue
        source = stored(split.source)
        digest.update(f"{name} {len(split)} {source.shape}".encode())
        digest.update(split.labels.numpy().tobytes())
        files = source.files if isinstance(source, Packed) else source
        if isinstance(files, Pixels):
            digest.update(files.images.contiguous().numpy().data)
        elif isinstance(files, Files):
            for position in range(len(split)):
                path = files.path(position)
                digest.update(os.fsencode(f"{path.relative_to(files.root)} {path.stat().st_size}\n"))
    return digest.hexdigest()[:16]


def checksums(images: Tensor) -> np.ndarray:
    """Return a checksum of each image's pixels, uint8 [N, H, W, C], as uint64 [N]."""
    sums = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images.contiguous().numpy()]
    return np.frombuffer(b"".join(sums), dtype="<u8")
