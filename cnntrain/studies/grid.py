"""The grid of a study: every variant under every seed, where each of these cells lies, and whether it may go there."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnntrain.config.build import dataset_info, divide_dataset, read_dataset
from cnntrain.config.schema import Options
from cnntrain.data.datasets.registry import ALIKE
from cnntrain.data.datasets.splits import changes
from cnntrain.runs import records, resume
from cnntrain.runs.evaluation import evaluation_folder, is_evaluation_of, read_evaluation
from cnntrain.runs.folder import CONFIG, RECORD, RESULTS, RUNS
from cnntrain.runs.images import noted, resolved_root
from cnntrain.runs.load import weights_digest
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import as_plain, flat
from cnntrain.studies.cells import Cell, Variant
from cnntrain.training import checkpoints

# What may differ between a cell that is there and the one that is asked for; its images are compared apart.
FREE = resume.FREE - {"trainer.precision", "trainer.compile"}


def study_folder(command: str, name: str, settings: Options, what: Mapping[str, object]) -> Path:
    """Return the folder of a study: the same for the same training, whatever its variants and seeds.

    `settings` are those of its first variant; `what` else tells two studies of the same training apart.
    """
    shared = {key: value for key, value in flat(settings).items() if key not in FREE | {"trainer.compile"}}
    shared |= {"seed": None, **what}
    if images := folder_of_images(settings):
        shared |= {"images": images}
    digest = hashlib.sha256(json.dumps(as_plain(shared), sort_keys=True).encode()).hexdigest()[:8]
    model, dataset = (settings[group]["name"] for group in ("model", "dataset"))
    return RUNS / command / f"{model}-{dataset}" / f"{name}_{digest}"


def cells_of(
    variants: Sequence[Variant], starts: Mapping[int, Path | None], folder: Path, words: Sequence[str]
) -> list[Cell]:
    """Return the cells of a study, all variants of the first seed first, so that pairs are complete early.

    `starts` are the seeds, each with the trained run that its cells start from; `words` are those of the command line
    that all cells share. Raises `InputError` where a cell's folder holds a run with other settings.
    """
    cells, compared = list[Cell](), set[tuple[str, str]]()
    for seed, start in starts.items():
        for variant in variants:
            target = folder / "cells" / variant.name / str(seed)
            settings = variant.settings | {"seed": seed, "output_dir": str(target), "resume": "auto"}
            if start and not variant.change:
                settings |= {"init_from": str(start)}
            line = [*words, *variant.overrides, f"seed={seed}", f"output_dir={target}"]
            command = ("cnntrain", "fit", *(word.removeprefix("++") for word in line))
            cell = Cell(variant, seed, target, settings, command, start)
            if (target / CONFIG).exists():
                refuse_other(cell, compared)
            cells.append(cell)
    return cells


def folder_of_images(settings: Options) -> str | None:
    """Return the folder of a configuration's images; None for a dataset that is the same wherever it lies."""
    alike = settings["dataset"]["name"] in ALIKE
    return None if alike else str(resolved_root(settings["dataset"], settings["data_root"]))


def refuse_other(cell: Cell, compared: set[tuple[str, str]]) -> None:
    """Raise `InputError` when what a cell's folder holds was made with other settings, images or weights.

    `compared` gathers pairs of folders that hold the same images.
    """
    old = records.settings(cell.folder)
    resume.refuse_changes(old, cell.settings, FREE)
    before, now = folder_of_images(old), folder_of_images(cell.settings)
    if before and now and before != now and (before, now) not in compared:
        if not has_same_images(cell):
            noun = dataset_info(cell.settings["dataset"], cell.settings["data_root"]).noun
            raise InputError(f"{cell.folder} was made of the {noun}s in {before}, not {now}; name another output_dir")
        compared.add((before, now))
    which = "last" if cell.variant.change else "best"
    if cell.start is None or not checkpoints.path_of(cell.start, which).is_file():
        return
    record = records.record(cell.folder) if (cell.folder / RECORD).is_file() else {}
    made_from = record.get("made_from_weights", (record.get("init_from") or {}).get("weights"))
    if made_from and made_from != weights_digest(cell.start, which):
        raise InputError(
            f"{cell.start} has other weights than those that {cell.folder} was made of; name another output_dir"
        )


def has_same_images(cell: Cell) -> bool:
    """Say whether a cell's configuration names the files that it was made of; of the test images, the same pixels."""
    options, data_root = cell.settings["dataset"] | {"cache": "none"}, cell.settings["data_root"]
    dataset, files = read_dataset(options, data_root), noted(cell.folder)
    if files is None or changes(dataset, files):
        return False
    test = divide_dataset(dataset, options, data_root, cell.seed, only="test", listed=files).test
    measured = evaluation_folder(cell.folder, "test", "last")
    return test is None or not (measured / RESULTS).is_file() or is_evaluation_of(read_evaluation(measured), test)
