"""A cross-validation: planned, made cell by cell, and answered; the first round of a nested one chooses."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnntrain.config.build import build_model, divide_dataset, read_dataset
from cnntrain.config.schema import Crossval
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.geometry import count_parameters, describe
from cnntrain.runs import records
from cnntrain.runs.folder import RECORD, RESULTS
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import say
from cnntrain.studies import duration, grid
from cnntrain.studies import pool as processes
from cnntrain.studies.cells import Cell, Variant, finished_scores
from cnntrain.studies.crossval.answer import Choice, PooledAnswer, chosen, pool
from cnntrain.studies.crossval.variants import FoldVariant, in_fold, variants_of
from cnntrain.studies.results import CellResult, read_results
from cnntrain.studies.study import begin_study, make_left
from cnntrain.studies.variants import fit_words, info_of
from cnntrain.tasks import task_for
from cnntrain.tasks.task import Headline

CHOSEN = "chosen"  # the row of a nested search: whatever the inner folds chose


@dataclass(frozen=True)
class PlannedFolds:
    """A cross-validation before its cells are made."""

    cfg: Crossval
    folder: Path
    variants: list[Variant]  # the one that the others are compared with first
    seeds: list[int]
    cells: list[Cell]  # of the first round: inner folds of a nested search, else all
    seconds: dict[str, float] | None  # that a run of each variant takes, about; None where nothing is left
    jobs: int  # cells at a time

    @property
    def headline(self) -> Headline:
        """The number that stands for the score of a cell."""
        return task_for(self.info).headline

    @property
    def info(self) -> DatasetInfo:
        """What is known of the images that the first variant learns from."""
        return info_of(self.variants[0].settings)

    @property
    def names(self) -> list[str]:
        """The variants' names."""
        return [variant.name for variant in self.variants]

    @property
    def seconds_left(self) -> float | None:
        """How long the cells of the first round that are left take one after another, about."""
        seconds = self.seconds
        return None if seconds is None else sum(seconds[variant_of(cell).of] for cell in self.left)

    @property
    def left(self) -> list[Cell]:
        """The cells of the first round that are not finished."""
        return [cell for cell in self.cells if not finished_scores(cell.folder)]


@dataclass(frozen=True)
class OuterChoice:
    """What inner folds chose for an outer fold."""

    fold: int
    seed: int
    variant: str
    score: float  # pooled over the inner folds


def plan_folds(cfg: Crossval) -> PlannedFolds:
    """Find the variants, folds and seeds, and time a run of each variant.

    Raises `InputError` for what cannot be built, for folds that lack a class, and where the folder holds other cells.
    """
    variants = variants_of(cfg)
    seeds = cfg.seeds if isinstance(cfg.seeds, list) else list(range(cfg.seed, cfg.seed + cfg.seeds))
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={cfg.seeds}: each seed once, at least one")
    folder = Path(cfg.output_dir) if cfg.output_dir else default_folder(cfg, variants)
    inner = [(number,) for number in range(cfg.inner_folds)] if cfg.nested else [()]
    folds = (cfg.folds, cfg.inner_folds) if cfg.nested else (cfg.folds,)
    places = [(fold, *rest) for fold in range(cfg.folds) for rest in inner]
    cells = cells_of([in_fold(each, folds, place) for place in places for each in variants], seeds, folder)
    study = PlannedFolds(cfg, folder, variants, seeds, cells, None, cfg.jobs or processes.default_jobs(cfg.device))
    if not study.left:
        return study
    if not cfg.plan:
        refuse_lacking_folds(study)
    say("timing a few steps of each variant on noise …")
    return replace(study, seconds={each.name: run_seconds(each) for each in variants})


def default_folder(cfg: Crossval, variants: Sequence[Variant]) -> Path:
    """Return the folder of a study for which none is named."""
    what = {"folds": cfg.folds, "inner_folds": cfg.inner_folds if cfg.nested else None}
    return grid.study_folder("crossval", (cfg.study or {}).get("name") or "folds", variants[0].settings, what)


def cells_of(variants: Sequence[FoldVariant], seeds: Sequence[int], folder: Path) -> list[Cell]:
    """Return the cells of variants in folds, all of the first seed first."""
    return grid.cells_of(variants, dict.fromkeys(seeds), folder, fit_words(Crossval))


def refuse_lacking_folds(study: PlannedFolds) -> None:
    """Raise `InputError` where the images cannot be divided into the folds; none is decoded."""
    settings = study.cells[0].settings
    options = settings["dataset"] | {"cache": "none"}
    dataset = read_dataset(options, settings["data_root"])
    for seed in study.seeds:
        divide_dataset(dataset, options, settings["data_root"], seed, only="test")


def run_seconds(variant: Variant) -> float:
    """Return about how long a run of a variant takes on one job."""
    info = info_of(variant.settings)
    net = build_model(variant.settings["model"], info, device="meta")
    stages, lacking = describe(net, info.shape)
    multiplications = count_parameters(net) if lacking else sum(stage.macs for stage in stages)
    return duration.seconds_of(in_fold(variant, (2,), (0,)).settings, multiplications, threads=1)


# The cells.


def make_cells(study: PlannedFolds, cells: Sequence[Cell], settings: Mapping[str, Any]) -> list[str]:
    """Make the cells that are not finished, and return the names of those that failed.

    Raises `InputError` where cells are finished and `resume=never`.
    """
    left = [cell for cell in cells if not finished_scores(cell.folder)]
    begin_study(study.cfg, study.folder, cells, left, settings, "crossval")
    seconds = [(study.seconds or {}).get(variant_of(cell).of, 0.0) for cell in left]
    return make_left(study.cfg, left, seconds, study.jobs, study.headline) if left else []


def variant_of(cell: Cell) -> FoldVariant:
    """Return what a cell trains, and which fold it holds out."""
    assert isinstance(cell.variant, FoldVariant)
    return cell.variant


def results_of(cells: Sequence[Cell]) -> dict[tuple[str, tuple[int, ...], int], CellResult]:
    """Return what finished cells measured, by variant, fold and seed; variants share the images of a fold."""
    found = read_results(cells, lambda cell: (variant_of(cell).fold, cell.seed))
    return {
        (variant_of(cell).of, variant_of(cell).fold, cell.seed): found[cell.variant.name, cell.seed]
        for cell in cells
        if (cell.variant.name, cell.seed) in found
    }


# The choice of a nested search.


def choose(study: PlannedFolds) -> list[OuterChoice]:
    """Return what the inner folds choose for every outer fold whose inner cells are all finished."""
    results, made = results_of(study.cells), list[OuterChoice]()
    for seed in study.seeds:
        for fold in range(study.cfg.folds):
            places = [(fold, number) for number in range(study.cfg.inner_folds)]
            if all((name, place, seed) in results for name in study.names for place in places):
                inner = {name: [results[name, place, seed].per_image for place in places] for name in study.names}
                made.append(OuterChoice(fold, seed, *chosen(study.names, inner)))
    return made


def outer_cells(study: PlannedFolds, choices: Sequence[OuterChoice]) -> list[Cell]:
    """Return the cells that measure what was chosen on the outer folds."""
    variants = {variant.name: variant for variant in study.variants}
    return [
        cell
        for choice in choices
        for cell in cells_of(
            [in_fold(variants[choice.variant], (study.cfg.folds,), (choice.fold,))], [choice.seed], study.folder
        )
    ]


# The answer.


def answer_folds(study: PlannedFolds, choices: Sequence[OuterChoice], outer: Sequence[Cell]) -> PooledAnswer:
    """Return what the finished cells say: of every variant, or in a nested search of what was chosen."""
    cells = outer if study.cfg.nested else study.cells
    results = results_of(cells)
    refuse_other_images(study, cells)
    names = [CHOSEN] if study.cfg.nested else study.names
    named = {
        (CHOSEN if study.cfg.nested else name, fold[0], seed): result for (name, fold, seed), result in results.items()
    }
    answer = pool(names, named, study.cfg.folds, study.seeds, held_out_ratio(cells), study.headline, study.info.noun)
    score = answer.table[0].score
    if not study.cfg.nested or score is None or not answer.complete:
        return answer
    often = ", ".join(f"{name} ({count} ×)" for name, count in Counter(each.variant for each in choices).most_common())
    return replace(answer, choice=Choice(often, float(np.mean([each.score for each in choices])), score, nested=True))


def refuse_other_images(study: PlannedFolds, cells: Sequence[Cell]) -> None:
    """Raise `InputError` where the folds of a repetition do not add up to the images that all cells have seen."""
    totals = set[int]()
    for seed in study.seeds:
        counts = {variant_of(cell).fold: image_counts(cell) for cell in cells if cell.seed == seed}
        known = {fold: count for fold, count in counts.items() if count}
        totals |= {sum(count.values()) for count in known.values()}
        predicted = sum(count["test"] for count in known.values())
        if len(totals) > 1 or (len(known) == study.cfg.folds and predicted not in totals):
            raise InputError(
                f"the {study.info.noun}s have changed between the cells of {study.folder}: its folds do not partition "
                "them; name another output_dir"
            )


def image_counts(cell: Cell) -> dict[str, int]:
    """Return how many images of each split a finished cell has seen; nothing of one that is not finished."""
    if not finished_scores(cell.folder) or not (cell.folder / RECORD).is_file():
        return {}
    counts: dict[str, int] = records.record(cell.folder)["data"]["images"]
    return counts


def held_out_ratio(cells: Sequence[Cell]) -> float:
    """Return the images held out by the images trained on, a mean over the finished cells; 1 where there are none."""
    counts = [count for cell in cells if (count := image_counts(cell))]
    return float(np.mean([count["test"] / count["train"] for count in counts])) if counts else 1.0


def write_results(study: PlannedFolds, result: Mapping[str, Any]) -> None:
    """Write what `--json` prints into the study's folder."""
    write_json(study.folder / RESULTS, result)
