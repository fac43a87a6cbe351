"""`cnntrain invariance`: what networks stay invariant to, stage by stage."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import nn

from cnntrain import config, disk, runs, schema
from cnntrain.analysis import crossings
from cnntrain.analysis import invariance as measure
from cnntrain.analysis.aliasing import total_stride
from cnntrain.analysis.bands import blocks
from cnntrain.analysis.invariance_rows import curves
from cnntrain.analysis.invariance_words import crossing_words, line_words
from cnntrain.commands import pretrained
from cnntrain.commands.compare import by_experiment, find_runs, short_names
from cnntrain.commands.invariance_report import FIGURES, REPORT, write
from cnntrain.commands.invariance_study import Group, Study, grouped
from cnntrain.commands.loading import load_run
from cnntrain.commands.run_images import Images, run_images, warn_of_seen
from cnntrain.data.sources import Card, Split, spread
from cnntrain.data.transformations import Warp
from cnntrain.devices import choose_device, choose_precision, hardware, prepare
from cnntrain.errors import InputError, unknown_stage
from cnntrain.models.shapes import describe_shape
from cnntrain.models.stages import StageError
from cnntrain.progress import counting

RAW = "raw"


@dataclass(frozen=True)
class Entry:
    """A network to measure, by its short name."""

    name: str
    folder: Path | None  # None: an untrained network that belongs to no run
    net: nn.Sequential
    card: Card
    settings: dict[str, Any]


def run(composed: DictConfig) -> dict[str, Any]:
    """Measure as configured; return what `--json` prints."""
    cfg = config.read(schema.Invariance, composed)
    prepare(deterministic=False)
    device = choose_device(cfg.device)
    precision = choose_precision(cfg.precision, device)
    entries = networks(cfg)
    check_alike(entries)
    warps = config.build_warps(cfg.warp, entries[0].card)
    if not warps:
        raise InputError("warp={} leaves nothing to measure; name one: warp=translate_y")
    subjects = [
        measure.subject(entry.net, entry.card, stages=stages, precision=precision, device=device)
        for entry, stages in zip(entries, stages_of(cfg.stages, entries), strict=True)
    ]
    shown = [images(cfg, entries[0], warp) for warp in warps]
    splits = [each.split for each in shown]
    for entry in entries[1:]:
        if entry.folder is not None:
            warn_of_seen(entry.folder, splits[0], "these")
    target = new_target(cfg, entries)
    studies = follow(cfg, entries, subjects, warps, splits, target)
    groups = grouped(
        [entry.name for entry in entries],
        [entry.settings["seed"] for entry in entries],
        by_experiment([runs.flat(entry.settings) for entry in entries]),
    )
    head = {
        "run_dir": None if entries[0].folder is None else str(entries[0].folder),
        "output_dir": str(target),
        "split": shown[0].name,
    }
    record = runs.provenance(config.command_line("invariance")) | {
        "device": str(device),
        "precision": precision,
        "hardware": hardware(),
        "warps": {warp.name: dict(warp.protocol) for warp in warps},
    }
    weights = "the untrained network" if cfg.init == "random" else f"the {cfg.weights} weights"
    about = (
        f"{len(splits[0]):,} {shown[0].name} images of {shown[0].dataset}, {weights}. A distance of 0 is unmoved and 1 "
        "is as far as an image of another class; numbers in brackets are 95 % bands over images like these."
    )
    found = write(target, studies, groups, head, record, about, figures=cfg.figures, tensorboard=cfg.tensorboard)
    show(studies, groups, target)
    return found


check = partial(config.read, schema.Invariance)  # of a sweep's jobs, before any of them


# What is measured.


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
        card = config.load_dataset(
            cfg.dataset, root, cfg.seed, only=cfg.split
        ).card  # a folder's is known by its images
        net = config.build_model(pretrained.rebuilt(cfg.model), card, seed=cfg.seed)
        return [Entry(f"{cfg.model['name']} untrained", None, net, card, settings)]
    folders = find_runs(cfg.runs, least=1) if cfg.runs is not None else [runs.find(str(cfg.run))]
    entries = []
    for folder, name in zip(folders, names_of(folders), strict=True):
        net, card, settings = load_run(folder, cfg.weights)
        if cfg.init == "random":
            net, name = (
                config.build_model(pretrained.rebuilt(settings["model"]), card, seed=cfg.seed),
                f"{name} untrained",
            )
        entries.append(Entry(name, folder, net, card, settings))
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
        if entry.card.shape != first.card.shape:
            one, other = (describe_shape(found.card.shape) for found in (first, entry))
            raise InputError(f"{entry.name} takes {other} images, {first.name} {one}: they cannot see the same")
        if entry.card.classes != first.card.classes:
            lacking = sorted(set(entry.card.classes) ^ set(first.card.classes))
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
    for name in wanted:
        if name not in known:
            raise StageError(str(unknown_stage(name, known)))
    chosen: list[list[str] | None] = [[name for name in names if name in wanted] for names in own]
    for entry, names in zip(entries, chosen, strict=True):
        if not names:
            raise StageError(f"stages=[{', '.join(wanted)}]: {entry.name} has none of them")
    return chosen


def images(cfg: schema.Invariance, entry: Entry, warp: Warp) -> Images:
    """Return the images of a warp, larger than the network's by its margin."""
    channels, height, width = entry.card.shape
    card = replace(entry.card, shape=(channels, height + 2 * warp.margin, width + 2 * warp.margin))
    root = cfg.data_root or entry.settings["data_root"]
    other = cfg.dataset if entry.folder else None
    if warp.margin:
        own, given = entry.settings["dataset"], other or {}
        other = config.fit_images(given if given.get("name", own["name"]) != own["name"] else own | given, card)
    found = run_images(entry.folder, entry.settings, card, root, cfg.split, other=other)
    if cfg.images is None:
        return found
    return found._replace(split=found.split.take(spread(len(found.split), cfg.images)))


def new_target(cfg: schema.Invariance, entries: Sequence[Entry]) -> Path:
    """Return the folder of the study, made.

    Raises `InputError` when it holds a study already, or is a file.
    """
    first = entries[0].folder
    target = (
        Path(cfg.output_dir) if cfg.output_dir else runs.new_folder("invariance", first.name if first else "untrained")
    )
    if (target / runs.RESULTS).exists():
        raise InputError(f"output_dir={target} already holds results; name another folder")
    runs.refuse_existing(target)
    runs.refuse_unwritable(target)
    return runs.create(target)


# Measuring.


def follow(
    cfg: schema.Invariance,
    entries: Sequence[Entry],
    subjects: Sequence[measure.Subject],
    warps: Sequence[Warp],
    splits: Sequence[Split],
    target: Path,
) -> list[Study]:
    """Pass all images through all networks under all warps; the raw rows go to the study's folder."""
    parts, classes = blocks(len(splits[0])), entries[0].card.classes
    studies = [Study(warp, split, entries[0].card, parts) for warp, split in zip(warps, splits, strict=True)]
    few = spread(len(splits[0]), cfg.control_images)
    total = sum(len(parts) * (1 + len(warp.amounts)) + 2 * len(few) * len(warp.amounts) for warp in warps)
    with counting(total * len(entries), "invariance", "image") as progress:
        for entry, subject in zip(entries, subjects, strict=True):
            stride = total_stride([spans[0].jump for spans in subject.spans.values()])
            for study in studies:
                warp, split = study.warp, study.split
                batches = measure.in_batches(split, np.arange(len(split)), cfg.batch_size, subject.device)
                clean = measure.clean(subject, split, cfg.batch_size, warp, progress=progress)
                changed = warp.against(subject.logits)
                moved = measure.moves(
                    subject, batches, changed, warp.amounts, move=warp.move, crop=warp.margin, progress=progress
                )
                held = measure.controls(subject, split, few, cfg.batch_size, warp, progress=progress)
                keep_raw(target / RAW / f"{safe(entry.name)}_{warp.name}.npz", subject, warp, clean, moved)
                stages = subject.stages
                found = curves(entry.name, stages, warp.amounts, clean, moved, held, parts, len(classes))
                study.add(found, clean, moved, stride, subject)
    return studies


def keep_raw(path: Path, subject: measure.Subject, warp: Warp, clean: measure.Clean, moved: measure.Moved) -> None:
    """Write what was measured of each image."""
    arrays = {f"clean_{key}": value for key, value in clean._asdict().items()} | moved._asdict()
    with disk.replacing(path) as partial:
        np.savez(partial, stages=np.array(subject.stages), amounts=np.array(warp.amounts), **arrays)


def safe(name: str) -> str:
    """Return a network's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name)


# Showing.


def show(studies: Sequence[Study], groups: Sequence[Group], target: Path) -> None:
    """Print what was found, in sentences, and where everything lies."""
    for study in studies:
        print(f"{study.warp.name} ({study.warp.unit})")
        for line in study.lines(groups):
            print(f"  {line.curves.name}")
            for sentence in line_words(study.warp, line):
                print(f"    {sentence}")
        if (place := study.lecture_place()) is not None:
            print(f"  {crossing_words(crossings.rows(study.warp, study.counts)[place])}")
        print()
    print(f"report        {target / REPORT}")
    if (target / FIGURES).is_dir():
        print(f"figures       {target / FIGURES}")
