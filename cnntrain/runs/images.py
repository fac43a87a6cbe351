"""The images to measure a run on: its own, by the files that it noted when it was trained, or others."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from cnntrain.config import pretrained, schema
from cnntrain.config.build import dataset_root, divide_dataset, fit_images, load_dataset, select_dataset
from cnntrain.data.datasets.fingerprint import fingerprint
from cnntrain.data.datasets.folder import lone_split
from cnntrain.data.datasets.registry import SelectedDataset
from cnntrain.data.datasets.splits import PARTS, UNUSED, Member, added, changes, members, read_members, write_members
from cnntrain.data.storage.images import Dataset, DatasetInfo, Split, files_of, splits_of
from cnntrain.runs import records
from cnntrain.runs.folder import SPLITS
from cnntrain.runs.load import naming_plugins
from cnntrain.runtime import disk
from cnntrain.runtime.errors import InputError, listed
from cnntrain.runtime.jsonfile import as_plain
from cnntrain.runtime.progress import say

# Options of a dataset that change no evaluation, and those that change pixels but not which images there are.
READING = {"workers", "cache", "balance", "on_error", "max_skipped"}
PIXELS = {"image_size", "stored_size", "channels", "invert"}
FOLDS = {"folds", "fold", "groups"}  # which a choice without folds does not know, as none before there were folds did
OTHERS = "name others with dataset.root=…"  # what helps when a run's images have changed


class RunImages(NamedTuple):
    """The images to measure a run on."""

    split: Split
    name: str  # train, val or test; all for others that are not divided
    dataset: str
    workers: int
    other: str  # names images that are not the run's own, or lie in another place; else empty


@dataclass(frozen=True)
class ImageRequest:
    """The split of a dataset with these options that a run is to be measured on."""

    folder: Path | None  # of the run; None for an untrained network
    info: DatasetInfo  # what the network knows
    seed: int
    data_root: str
    split: schema.SplitName
    options: schema.Options
    label: str  # of images that are not the run's own, or lie in another place; else empty

    def selected(self) -> SelectedDataset:
        """Return the dataset, its classes in the network's order; there may be more of them now."""
        return select_dataset(self.options | {"classes": list(self.info.classes)}, self.data_root).knowing(self.info)

    def noted(self) -> list[Member] | None:
        """Return which file the run had in which split; None where its images are not files, or were not noted."""
        return None if self.folder is None else noted(self.folder)

    def divide(self, undivided: Dataset, split: schema.SplitName, files: Sequence[Member] | None = None) -> Dataset:
        """Divide the dataset as its options say, or as its `files` are listed; only one split may be complete."""
        return divide_dataset(undivided, self.options, self.data_root, self.seed, only=split, listed=files)

    def images(self, dataset: Dataset, split: schema.SplitName, name: str = "") -> RunImages:
        """Return the images of a split under its name or another.

        Raises `InputError` when there are none.
        """
        images: Split | None = getattr(dataset, split)
        if images is None:
            raise InputError(f"split={split}: {dataset.info} has no such {dataset.info.noun}s here")
        return RunImages(images, name or split, dataset.info.name, self.options["workers"], self.label)


def run_images(
    folder: Path | None,
    settings: Mapping[str, Any],
    info: DatasetInfo,
    data_root: str,
    split: schema.SplitName,
    *,
    other: schema.Options | None = None,
    cache: str | None = None,
) -> RunImages:
    """Return a split of the images of the run in `folder` (None: of an untrained network), or of those of `other`.

    `other` changes or replaces the options of the run's dataset.

    Raises `InputError` for files of the run that are missing or have changed, and for classes or an image shape that
    the network does not know.
    """
    before, given = settings["dataset"], (other or {}) | ({"cache": cache} if cache else {})
    with naming_plugins(settings):
        renamed = given.get("name", before["name"]) != before["name"]
        options = fit_images(given, info) if renamed else before | given
        label, own_label = (images_label(each, data_root) for each in (options, before))
        request = ImageRequest(
            folder, info, settings["seed"], data_root, split, options, "" if label == own_label else label
        )
        alike = image_choice(options) == image_choice(before)
        if alike and resolved_root(options, data_root) == resolved_root(before, data_root):
            return own_images(request)
        return other_images(replace(request, label=label), alike=alike)


def image_choice(options: schema.Options) -> schema.Options:
    """Return the part of a dataset's options that says which of its images are used, and how they are divided."""
    chosen = {key: value for key, value in as_plain(options).items() if key not in READING | PIXELS | {"root"}}
    return {key: value for key, value in chosen.items() if key not in FOLDS or value is not None}


def resolved_root(options: schema.Options, data_root: str) -> Path:
    """Return the folder in which a dataset lies."""
    return dataset_root(options, data_root).resolve()


def images_label(options: schema.Options, data_root: str) -> str:
    """Return a name for images as a dataset's options say, as part of a folder's name."""
    root = resolved_root(options, data_root)
    said = image_choice(options) | {"root": str(root)} | {key: options[key] for key in PIXELS if key in options}
    name = re.sub(r"[^\w.-]+", "_", root.name if options.get("root") else options["name"])
    return f"{name}_{hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]}"


def own_images(request: ImageRequest) -> RunImages:
    """Return the images of a run as it noted them, whatever lies beside them now.

    Of a run that has noted no files the images are divided again, and compared with its fingerprint.
    """
    folder, options, data_root = request.folder, request.options, request.data_root
    selected = request.selected()
    refuse_unlike(selected.info, request.info)
    undivided, files = selected.read(), request.noted()
    are_files = files_of(undivided.train.source) is not None
    if files is not None:
        refuse_changed(undivided, files, request.split, OTHERS)
    elif folder is not None and are_files:  # before a pack is made of them
        refuse_unlike_record(folder, None, options, data_root, OTHERS)
    dataset = request.divide(undivided, request.split, files)
    if folder is not None and not are_files:
        refuse_unlike_record(folder, dataset, options, data_root, OTHERS)
    return request.images(dataset, request.split)


def other_images(request: ImageRequest, *, alike: bool) -> RunImages:
    """Return images that are not the run's own: all of them where they are not divided and nobody asks for a split.

    A copy of the run's own images, which the options choose `alike`, is divided as they are.
    """
    root = resolved_root(request.options, request.data_root)
    split, asked, lone = request.split, pretrained.is_typed("split"), None
    if request.options["name"] == "folder" and (only := lone_split(root)):
        lone, place = only
        request = replace(request, options=request.options | {"root": str(place)})
        if asked and split != lone:
            raise InputError(f"split={split}: {root} holds {lone} images only")
    refuse_unlike(select_dataset(request.options, request.data_root).knowing(request.info).info, request.info)
    undivided, files = request.selected().read(), request.noted()
    if alike and files is not None and not changes(undivided, files):
        say(f"{root} holds the run's own images: its {split} images are measured")
        refuse_changed(undivided, files, split, OTHERS)
        return request.images(request.divide(undivided, split, files), split)
    if undivided.val is None and undivided.test is None and (lone or not asked):
        every_image = replace(request, options=request.options | {"val_size": 0})
        dataset = every_image.divide(replace(undivided, test=undivided.train), "test")
        images = every_image.images(dataset, "test", lone or "all")
    else:
        images = request.images(request.divide(undivided, split), split)
    if request.folder is not None:
        warn_of_seen(request.folder, images.split, "these")
    return images


def refuse_unlike(data: DatasetInfo, info: DatasetInfo) -> None:
    """Raise `InputError` when classes or image shape are not those that a network knows."""
    if set(data.classes) != set(info.classes):
        lacking = sorted(set(info.classes) ^ set(data.classes))
        raise InputError(f"{data.name} has other classes than the run: {listed(lacking)} differ")
    if data.shape != info.shape:
        raise InputError(f"{data} has {data.examples}, the network takes {info.examples}")


# What a run knows of its images.


def note_files(folder: Path, dataset: Dataset) -> None:
    """Write which file is in which split, where the images are files."""
    if files := members(dataset):
        disk.write(folder / SPLITS, write_members(files))


def noted(folder: Path) -> list[Member] | None:
    """Return which file a run has in which split; None where its images are no files, or were not noted."""
    path = folder / SPLITS
    if not path.exists():
        return None
    try:
        return read_members(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error


def refuse_changed(dataset: Dataset, files: Sequence[Member], split: schema.SplitName | None, advice: str) -> None:
    """Raise `InputError` naming a file of a split, or of any, that is missing or has changed; say how many were added.

    The training images include those that `train_size` left out: without them it would draw others.
    """
    wanted = {"train": ("train", UNUSED), None: (*PARTS, UNUSED)}.get(split, (split,))
    if wrong := changes(dataset, [member for member in files if member.split in wanted]):
        images = f"{split} images" if split else "images"
        raise InputError(f"the run's {images} have changed: {listed(wrong, 1)}; put them back, or {advice}")
    if new := added(dataset, files):
        were = "image was" if new == 1 else "images were"
        say(f"{new:,} {were} added since the training, and left out here")


def divide_noted(
    undivided: Dataset,
    options: schema.Options,
    data_root: str,
    seed: int,
    files: Sequence[Member] | None,
    advice: str,
) -> Dataset:
    """Divide a dataset as its options say, or, where a run has noted its files, as it did."""
    if files is not None:
        refuse_changed(undivided, files, None, advice)
    return divide_dataset(undivided, options, data_root, seed, listed=files)


def refuse_unlike_record(
    folder: Path, dataset: Dataset | None, options: schema.Options, data_root: str, advice: str
) -> None:
    """Raise `InputError` when the images of a run that noted no files are not those of its record.

    `dataset` spares reading them again where they are no files; their pixels may differ between versions and machines,
    and only bring a warning.
    """
    data, settings = records.record(folder)["data"], records.settings(folder)
    if dataset is None or dataset.undivided is not None:  # its fingerprint is of pixels in memory, or of paths
        then = settings["dataset"] | {"root": options.get("root"), "classes": data["classes"]}
        cache = then.get("cache", "auto")
        resident = cache == "ram" or (cache == "auto" and not then.get("workers"))
        then["cache"] = "ram" if resident else "none"
        dataset = load_dataset(then, data_root, settings["seed"])
    images = {name: len(split) for name, split in zip(PARTS, splits_of(dataset), strict=True) if split is not None}
    same, noun = fingerprint(dataset) == data["fingerprint"], dataset.info.noun
    exact = dataset.undivided is not None or dataset.info.words  # files and words are the same everywhere
    if images != data["images"] or (exact and not same):
        raise InputError(
            f"the {noun}s are not those that {folder} was trained on, so training {noun}s might be "
            f"evaluated as test {noun}s; put them back as they were, or {advice}"
        )
    if not same and dataset.info.shape == tuple(data["shape"]):
        say(f"warning: the pixels of {data['name']} here are not to the bit those that {folder} was trained on")


def warn_of_seen(folder: Path, images: Split, name: str) -> None:
    """Say how many images a run was trained on, as far as it noted them: by path, or elsewhere by name and size."""
    files, known = files_of(images.source), noted(folder)
    if files is None or known is None:
        return
    roots, root = records.record(folder)["data"]["folders"], files.root.resolve()
    trained = [member for member in known if member.split == "train"]
    if root.is_relative_to(Path(os.path.commonpath(roots.values()))):
        paths = {f"{roots[member.part]}/{member.file}" for member in trained}
        seen = sum(f"{root}/{files.paths[place]}" in paths for place in files.index.tolist())
        how = ""
    else:
        sizes = {member.file: member.size for member in trained}
        seen = sum(files.path(at).stat().st_size == sizes.get(files.paths[i]) for at, i in enumerate(files.index))
        how = ", by their names and sizes"
    if seen:
        say(f"warning: {seen:,} of {name} {len(images):,} images are training images of {folder}{how}")
