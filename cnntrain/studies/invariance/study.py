"""An invariance study: networks measured under one warp, gathered by what they differ in, and all rows of it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.config import pretrained, schema
from cnntrain.config.build import build_model, fit_images, load_dataset
from cnntrain.data.storage.images import DatasetInfo, Split, spread
from cnntrain.nn.shapes import describe_shape
from cnntrain.nn.stages import StageError, require
from cnntrain.runs.folder import RESULTS, create_folder, find_run, new_folder, refuse_existing, refuse_unwritable
from cnntrain.runs.images import RunImages, run_images
from cnntrain.runs.load import load_run
from cnntrain.runs.select import find_runs, short_names
from cnntrain.runtime import disk
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import counting
from cnntrain.stats.bootstrap import blocks
from cnntrain.studies.comparison import letters
from cnntrain.studies.invariance import aliasing, crossings, measure
from cnntrain.studies.invariance.aliasing import total_stride
from cnntrain.studies.invariance.figures import Attacked, Line, Samples, line_of
from cnntrain.studies.invariance.measure import Clean, Moved, Subject, pixels_of
from cnntrain.studies.invariance.rows import Curves, Row, areas, curves, differences, pooled, rows, worst_classes
from cnntrain.transforms.transform import Transform

SHOWN_IMAGES, SHOWN_AMOUNTS = 3, 9
LECTURE_SHIFT = 2.0  # pixels, as in the lectures' example
MOST_TRIED = 100  # images to find some that an attack turns


@dataclass(frozen=True)
class Group:
    """Networks that differ in their seed only, by their places among all."""

    name: str
    members: Sequence[int]
    seeds: Sequence[int]


class Study:
    """What was measured under one warp, network by network in their order."""

    def __init__(self, transform: Transform, split: Split, info: DatasetInfo, blocks: np.ndarray) -> None:
        self.transform, self.split, self.info, self.blocks = transform, split, info, blocks
        self.curves: list[Curves] = []
        self.tables: dict[str, list[Row]] = {"classes": [], "lags": [], "phases": [], "aliasing": []}
        self.kept: dict[str, np.ndarray] = {}  # at the lecture's shift: truth values [N]
        self.stride = 1
        self.first: Subject | None = None  # the network that samples are shown to
        self.counts = self.count()

    def count(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Count the pixels that each whole shift turns white and black, in all images."""
        places = np.arange(len(self.split))
        if not crossings.counted(self.transform):
            return []
        batches = np.split(places, range(500, len(places), 500))
        found = [crossings.count(self.transform, pixels_of(self.split, at, torch.device("cpu")), at) for at in batches]
        return [
            (np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs]))
            for pairs in zip(*found, strict=True)
        ]

    def add(self, curves: Curves, clean: Clean, moved: Moved, stride: int, subject: Subject) -> None:
        """Add what was measured of one network."""
        self.first = self.first or subject
        self.curves.append(curves)
        name, self.stride = curves.name, max(self.stride, stride)
        self.tables["classes"] += worst_classes(self.transform, name, clean, moved, self.info.classes)
        self.tables["lags"] += aliasing.lags(self.transform, name, moved, self.blocks, stride)
        self.tables["phases"] += aliasing.phases(self.transform, name, clean, moved, self.blocks, stride)
        self.tables["aliasing"] += aliasing.aliasing(self.transform, name, moved, self.blocks, stride)
        if (place := self.lecture_place()) is not None:
            at = self.transform.amounts.index(crossings.counted(self.transform)[place])
            self.kept[name] = moved.predicted[at] == clean.predicted

    def lecture_place(self) -> int | None:
        """Return the place among the counted amounts of the shift of the lectures' example, if it is there."""
        shifts = [amount[0] for amount in crossings.counted(self.transform)]
        return next((shifts.index(shift) for shift in (LECTURE_SHIFT, -LECTURE_SHIFT) if shift in shifts), None)

    def lines(self, groups: Sequence[Group]) -> list[Line]:
        """Return one line a group of networks."""
        lines = []
        for group in groups:
            members = [self.curves[i] for i in group.members]
            lines.append(line_of(pooled(group.name, members), members))
        return lines

    def samples(self) -> Samples:
        """Return a few images, of other classes each where there are so many, under a few amounts."""
        labels, first = np.unique(self.split.labels.numpy(), return_index=True)
        places = first[spread(len(labels), SHOWN_IMAGES)]
        shown = spread(len(self.transform.amounts), SHOWN_AMOUNTS)
        pixels = pixels_of(self.split, places, torch.device("cpu"))
        assert self.first is not None
        labels_here = self.split.labels[places].to(self.first.device)
        changed = list(self.transform.against(self.first.logits)(pixels.to(self.first.device), labels_here, places))
        stack = torch.stack([changed[i] for i in shown], dim=1).permute(0, 1, 3, 4, 2).cpu()
        classes = [self.info.classes[int(label)] for label in self.split.labels[places]]
        as_bytes = stack.round().clamp(0, 255).to(torch.uint8).numpy()
        return Samples(as_bytes, [self.transform.amounts[i] for i in shown], classes)

    def attacked(self) -> list[Attacked]:
        """Return a few images that the first network has right and an attack turns, each within its smallest budget."""
        subject = self.first
        assert subject is not None
        places = np.arange(min(len(self.split), MOST_TRIED))
        labels = self.split.labels[places].to(subject.device)
        pixels = pixels_of(self.split, places, subject.device)
        with torch.no_grad():
            before = subject.logits(pixels).float().softmax(dim=1)
        left = (before.argmax(dim=1) == labels).cpu()
        found = []
        for amount, changed in zip(
            self.transform.amounts, self.transform.against(subject.logits)(pixels, labels, places), strict=True
        ):
            with torch.no_grad():
                after = subject.logits(changed).float().softmax(dim=1)
            turned = left & (after.argmax(dim=1) != labels).cpu()
            for i in torch.nonzero(turned).flatten().tolist():
                old, new = int(labels[i]), int(after[i].argmax())
                names = self.info.classes[old], self.info.classes[new]
                shares = tuple(float(p[i, at]) for p in (before, after) for at in (old, new))
                found.append(Attacked(to_picture(pixels[i]), to_picture(changed[i]), amount[0], *names, shares))
            left &= ~turned
        return found[:: max(1, len(found) // SHOWN_IMAGES)][:SHOWN_IMAGES]


def to_picture(pixels: Tensor) -> np.ndarray:
    """Return pixels [C, H, W] in 0..255 as float32 [H, W, C]."""
    return np.asarray(pixels.permute(1, 2, 0).cpu())


def grouped(names: Sequence[str], seeds: Sequence[int], gathered: Sequence[Sequence[int]]) -> list[Group]:
    """Name each group of networks: a single one by itself, several by the folder they share, or else by a letter."""
    groups = []
    shared = [{names[i].rpartition("/")[0].rpartition("/")[2] for i in members} for members in gathered]
    for number, members in enumerate(gathered):
        own = shared[number]
        unique = len(own) == 1 and "" not in own and sum(own == other for other in shared) == 1
        name = names[members[0]] if len(members) == 1 else next(iter(own)) if unique else letters(number)
        groups.append(Group(name, members, [seeds[i] for i in members]))
    return groups


# Results.


def results(studies: Sequence[Study], groups: Sequence[Group]) -> dict[str, list[Row]]:
    """Return all rows of a study: of each network, of networks pooled over seeds, of areas, differences, counts."""
    found: dict[str, list[Row]] = {key: [] for key in ("rows", "pooled", "areas", "differences", "pixels")}
    for study in studies:
        name = study.transform.name
        for part in study.curves:
            found["rows"] += rows(name, part)
        lines = study.lines(groups)
        for line in lines:
            found["pooled"] += rows(name, line.curves, line.members) if len(line.members) > 1 else []
            found["areas"] += areas(study.transform, line.curves)
        members = [line.members for line in lines]
        found["differences"] += differences(
            study.transform, members, [group.name for group in groups], [group.seeds for group in groups]
        )
        found["pixels"] += crossings.rows(study.transform, study.counts)
        for key, table in study.tables.items():
            found.setdefault(key, []).extend(table)
    return found


RAW = "raw"


@dataclass(frozen=True)
class Entry:
    """A network to measure, by its short name."""

    name: str
    folder: Path | None  # None: an untrained network that belongs to no run
    net: nn.Sequential
    info: DatasetInfo
    settings: dict[str, Any]


def networks(cfg: schema.Invariance) -> list[Entry]:
    """Return the networks that are meant, in evaluation mode.

    Raises `InputError` unless exactly one of run, runs and model says which.
    """
    if sum(given is not None for given in (cfg.run, cfg.runs, cfg.model)) != 1:
        raise InputError("name what to measure: run=<folder>, runs=[<folder>,…], or model=<name> with init=random")
    if cfg.model is not None:
        if cfg.init != "random" or cfg.dataset is None:
            raise InputError("model= names an untrained network: it needs init=random and dataset=<name>")
        root = cfg.data_root or os.environ.get("CNNTRAIN_DATA", "data")
        settings: dict[str, Any] = {"model": cfg.model, "dataset": cfg.dataset, "seed": cfg.seed, "data_root": root}
        info = load_dataset(cfg.dataset, root, cfg.seed, only=cfg.split).info  # a folder's is known by its images
        net = build_model(pretrained.without_weights(cfg.model), info, seed=cfg.seed)
        return [Entry(f"{cfg.model['name']} untrained", None, net, info, settings)]
    folders = find_runs(cfg.runs, least=1) if cfg.runs is not None else [find_run(str(cfg.run))]
    entries = []
    for folder, name in zip(folders, names_of(folders), strict=True):
        net, info, settings = load_run(folder, cfg.weights)
        if cfg.init == "random":
            net, name = (
                build_model(pretrained.without_weights(settings["model"]), info, seed=cfg.seed),
                f"{name} untrained",
            )
        entries.append(Entry(name, folder, net, info, settings))
    return entries


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return short names of runs; a number alone, as a sweep or a study names its jobs, is no name."""
    names = short_names(folders)
    if any(name.isdigit() for name in names):
        return ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    return names


def check_alike(entries: Sequence[Entry]) -> None:
    """Raise `InputError` naming the first network that takes other images or knows other classes than the first."""
    first = entries[0]
    for entry in entries[1:]:
        if entry.info.shape != first.info.shape:
            one, other = (describe_shape(found.info.shape) for found in (first, entry))
            raise InputError(f"{entry.name} takes {other} images, {first.name} {one}: they cannot see the same")
        if entry.info.classes != first.info.classes:
            lacking = sorted(set(entry.info.classes) ^ set(first.info.classes))
            why = f"{', '.join(lacking[:5])} differ" if lacking else "their order differs"
            raise InputError(f"{entry.name} knows other classes than {first.name}: {why}")


def stages_of(wanted: Sequence[str] | None, entries: Sequence[Entry]) -> list[list[str] | None]:
    """Return each network's stages to measure, None for all; one that only some networks have is left out elsewhere.

    Raises `StageError` naming the nearest for a stage that none has.
    """
    if wanted is None:
        return [None] * len(entries)
    own = [[measure.INPUT, *(name for name, _ in entry.net.named_children())] for entry in entries]
    known = list(dict.fromkeys(name for names in own for name in names))
    require(wanted, known)
    chosen: list[list[str] | None] = [[name for name in names if name in wanted] for names in own]
    for entry, names in zip(entries, chosen, strict=True):
        if not names:
            raise StageError(f"stages=[{', '.join(wanted)}]: {entry.name} has none of them")
    return chosen


def images(cfg: schema.Invariance, entry: Entry, transform: Transform) -> RunImages:
    """Return the images of a warp, larger than the network's by its margin."""
    channels, height, width = entry.info.shape
    info = replace(entry.info, shape=(channels, height + 2 * transform.margin, width + 2 * transform.margin))
    root = cfg.data_root or entry.settings["data_root"]
    other = cfg.dataset if entry.folder else None
    if transform.margin:
        own, given = entry.settings["dataset"], other or {}
        other = fit_images(given if given.get("name", own["name"]) != own["name"] else own | given, info)
    found = run_images(entry.folder, entry.settings, info, root, cfg.split, other=other)
    if cfg.images is None:
        return found
    return found._replace(split=found.split.take(spread(len(found.split), cfg.images)))


def new_target(cfg: schema.Invariance, entries: Sequence[Entry]) -> Path:
    """Return the folder of the study, made.

    Raises `InputError` when it holds a study already, or is a file.
    """
    first = entries[0].folder
    target = Path(cfg.output_dir) if cfg.output_dir else new_folder("invariance", first.name if first else "untrained")
    if (target / RESULTS).exists():
        raise InputError(f"output_dir={target} already holds results; name another folder")
    refuse_existing(target)
    refuse_unwritable(target)
    return create_folder(target)


def follow(
    cfg: schema.Invariance,
    entries: Sequence[Entry],
    subjects: Sequence[measure.Subject],
    transforms: Sequence[Transform],
    splits: Sequence[Split],
    target: Path,
) -> list[Study]:
    """Pass all images through all networks under all warps; the raw rows go to the study's folder."""
    parts, classes = blocks(len(splits[0])), entries[0].info.classes
    studies = [
        Study(transform, split, entries[0].info, parts) for transform, split in zip(transforms, splits, strict=True)
    ]
    few = spread(len(splits[0]), cfg.control_images)
    total = sum(
        len(parts) * (1 + len(transform.amounts)) + 2 * len(few) * len(transform.amounts) for transform in transforms
    )
    with counting(total * len(entries), "invariance", "image") as progress:
        for entry, subject in zip(entries, subjects, strict=True):
            stride = total_stride([spans[0].jump for spans in subject.spans.values()])
            for study in studies:
                transform, split = study.transform, study.split
                batches = measure.in_batches(split, np.arange(len(split)), cfg.batch_size, subject.device)
                clean = measure.clean(subject, split, cfg.batch_size, transform, progress=progress)
                changed = transform.against(subject.logits)
                moved = measure.moves(
                    subject,
                    batches,
                    changed,
                    transform.amounts,
                    move=transform.move,
                    crop=transform.margin,
                    progress=progress,
                )
                held = measure.controls(subject, split, few, cfg.batch_size, transform, progress=progress)
                keep_raw(target / RAW / f"{safe(entry.name)}_{transform.name}.npz", subject, transform, clean, moved)
                stages = subject.stages
                found = curves(entry.name, stages, transform.amounts, clean, moved, held, parts, len(classes))
                study.add(found, clean, moved, stride, subject)
    return studies


def keep_raw(
    path: Path, subject: measure.Subject, transform: Transform, clean: measure.Clean, moved: measure.Moved
) -> None:
    """Write what was measured of each image."""
    arrays = {f"clean_{key}": value for key, value in clean._asdict().items()} | moved._asdict()
    with disk.replacing(path) as partial:
        np.savez(partial, stages=np.array(subject.stages), amounts=np.array(transform.amounts), **arrays)


def safe(name: str) -> str:
    """Return a network's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name)
