"""`cnntrain invariance`: what networks stay invariant to, stage by stage."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.build import build_transforms
from cnntrain.config.compose import command_line
from cnntrain.config.read import read_config
from cnntrain.report.files import FIGURES, PAGE
from cnntrain.runs.folder import provenance
from cnntrain.runs.images import warn_of_seen
from cnntrain.runs.select import by_experiment
from cnntrain.runtime.devices import choose_device, choose_precision, hardware, prepare
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import flat
from cnntrain.studies.invariance import crossings, measure
from cnntrain.studies.invariance.report import write
from cnntrain.studies.invariance.study import (
    Group,
    Study,
    check_alike,
    follow,
    grouped,
    images,
    networks,
    new_target,
    stages_of,
)
from cnntrain.studies.invariance.text import crossing_words, line_words


def run(composed: DictConfig) -> dict[str, Any]:
    """Measure as configured; return what `--json` prints."""
    cfg = read_config(schema.Invariance, composed)
    prepare(deterministic=False)
    device = choose_device(cfg.device)
    precision = choose_precision(cfg.precision, device)
    entries = networks(cfg)
    check_alike(entries)
    transforms = build_transforms(cfg.warp, entries[0].info)
    if not transforms:
        raise InputError("warp={} leaves nothing to measure; name one: warp=translate_y")
    subjects = [
        measure.subject(entry.net, entry.info, stages=stages, precision=precision, device=device)
        for entry, stages in zip(entries, stages_of(cfg.stages, entries), strict=True)
    ]
    shown = [images(cfg, entries[0], transform) for transform in transforms]
    splits = [each.split for each in shown]
    for entry in entries[1:]:
        if entry.folder is not None:
            warn_of_seen(entry.folder, splits[0], "these")
    target = new_target(cfg, entries)
    studies = follow(cfg, entries, subjects, transforms, splits, target)
    groups = grouped(
        [entry.name for entry in entries],
        [entry.settings["seed"] for entry in entries],
        by_experiment([flat(entry.settings) for entry in entries]),
    )
    head = {
        "run_dir": None if entries[0].folder is None else str(entries[0].folder),
        "output_dir": str(target),
        "split": shown[0].name,
    }
    record = provenance(command_line("invariance")) | {
        "device": str(device),
        "precision": precision,
        "hardware": hardware(),
        "warps": {transform.name: dict(transform.protocol) for transform in transforms},
    }
    weights = "the untrained network" if cfg.init == "random" else f"the {cfg.weights} weights"
    about = (
        f"{len(splits[0]):,} {shown[0].name} images of {shown[0].dataset}, {weights}. A distance of 0 is unmoved, "
        "1 is as far as an image of another class. Numbers in brackets are 95 % bands over images like these."
    )
    found = write(target, studies, groups, head, record, about, figures=cfg.figures, tensorboard=cfg.tensorboard)
    show(studies, groups, target)
    return found


check = partial(read_config, schema.Invariance)  # of a sweep's jobs, before any of them


def show(studies: Sequence[Study], groups: Sequence[Group], target: Path) -> None:
    """Print what was found, in sentences, and where everything lies."""
    for study in studies:
        print(f"{study.transform.name} ({study.transform.unit})")
        for line in study.lines(groups):
            print(f"  {line.curves.name}")
            for sentence in line_words(study.transform, line):
                print(f"    {sentence}")
        if (place := study.lecture_place()) is not None:
            print(f"  {crossing_words(crossings.rows(study.transform, study.counts)[place])}")
        print()
    print(f"report        {target / PAGE}")
    if (target / FIGURES).is_dir():
        print(f"figures       {target / FIGURES}")
