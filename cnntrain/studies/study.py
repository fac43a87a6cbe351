"""Studies of variants under several seeds: planned, made cell by cell, and answered by paired tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cnntrain.config.build import read_dataset
from cnntrain.config.compose import command_line
from cnntrain.config.schema import Fit, Study
from cnntrain.data.datasets.splits import changes
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.runs import records
from cnntrain.runs.folder import RESULTS, create_folder, provenance
from cnntrain.runs.images import noted
from cnntrain.runtime import disk
from cnntrain.runtime.errors import IncompleteError, InputError, listed
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import clock, say
from cnntrain.runtime.tables import render
from cnntrain.stats import looks
from cnntrain.stats.paired_tests import LEVEL, seeds_needed
from cnntrain.studies import pool, sizes
from cnntrain.studies.answer import (
    Answer,
    answer,
    count_comparisons,
    label,
    significant,
    sum_of,
)
from cnntrain.studies.answer_report import flat
from cnntrain.studies.cells import Cell, finished_scores
from cnntrain.studies.progress import CellProgress
from cnntrain.studies.results import Results, read_results
from cnntrain.studies.variants import SizedVariant, info_of, training_facts
from cnntrain.tasks import task_for
from cnntrain.tasks.task import Headline

C = TypeVar("C", bound=Study)
STUDY, LOOKS = "study.json", "looks.json"
LEAST_SEEDS = 8  # where their number is left open


@dataclass(frozen=True)
class PlannedStudy(Generic[C]):
    """A study before its cells are made."""

    cfg: C
    folder: Path
    variants: list[SizedVariant]  # a reference first
    seeds: list[int]
    cells: list[Cell]
    left: list[Cell]  # that are not finished
    seconds: dict[str, float] | None  # that a run of each variant takes, about; None where nothing is trained
    jobs: int  # cells at a time
    prospects: str  # what can be concluded, a sentence

    @property
    def headline(self) -> Headline:
        """The number that stands for the score of a cell."""
        return task_for(self.info).headline

    @property
    def info(self) -> DatasetInfo:
        """What is known of the images that the first variant learns from."""
        return info_of(self.variants[0].variant.settings)


@dataclass(frozen=True)
class AnsweredStudy:
    """A study with what its finished cells say, and every look that was had at it."""

    answer: Answer
    looks: list[looks.Look]
    about: list[str]  # sentences on what looking more than once means
    results: Results  # what the finished cells measured

    def as_json(self) -> dict[str, Any]:
        """Return the answer and the looks with their stable keys."""
        return self.answer.as_json() | looks_json(self.looks)


# The plan.


def chosen_seeds(cfg: Study, comparisons: int) -> list[int]:
    """Return the seeds of a study: those named, or so many from `seed` on.

    Where their number is left open, it is one with which the comparisons can be significant. Raises `InputError` for a
    repeated seed.
    """
    count = cfg.seeds or max(LEAST_SEEDS, seeds_needed(comparisons, LEVEL / cfg.looks) or 0)
    seeds = count if isinstance(count, list) else list(range(cfg.seed, cfg.seed + count))
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={cfg.seeds}: each seed once, at least one")
    return seeds


def planned(
    cfg: C,
    folder: Path,
    variants: list[SizedVariant],
    seeds: list[int],
    cells: list[Cell],
    timed: Callable[[], dict[str, float]] | None,
) -> PlannedStudy[C]:
    """Return a study of these cells; `timed` says how long a run of each variant takes, and is asked if any is left."""
    left = [cell for cell in cells if not finished_scores(cell.folder)]
    seconds = timed() if timed and (left or cfg.plan) else None
    comparisons = count_comparisons(variants)
    prospects = sizes.prospects(looks.take_look(earlier_looks(folder), seeds, comparisons, cfg.looks), comparisons)
    jobs = cfg.jobs or pool.default_jobs(cfg.device)
    return PlannedStudy(cfg, folder, variants, seeds, cells, left, seconds, jobs, prospects)


def plan_words(study: PlannedStudy[C]) -> list[str]:
    """Say how many runs a study is, how long they take, and what can be concluded."""
    total, left, seeds = len(study.cells), study.left, len(study.seeds)
    done = f", {total - len(left)} of them finished" if len(left) < total else ""
    what = f"{len(study.variants)} variants × {seeds} seed{'s' if seeds > 1 else ''}: {total} runs{done}"
    if study.seconds and left:
        jobs = min(study.jobs, len(left))
        what += f"; about {clock(sum(study.seconds[cell.variant.name] for cell in left) / jobs)} with {jobs} at a time"
    return [what, study.prospects]


def plan_table(study: PlannedStudy[C]) -> dict[str, Any]:
    """Return the plan with the keys of the answer, without results."""
    table = [
        {
            "variant": variant.name,
            "removed": list(variant.removed),
            "n_seeds": len(study.seeds),
            "params": variant.params,
            "params_removed": variant.params_removed,
            "macs": variant.macs,
            "receptive_field": variant.receptive_field,
            "replumbed": list(variant.replumbed),
        }
        for variant in study.variants
    ]
    return {"study_dir": str(study.folder), "rows": [], "table": table, "complete": False}


# The cells.


def make_cells(study: PlannedStudy[C], settings: Mapping[str, Any], command: str) -> list[str]:
    """Make the cells that are left, and return the names of those that failed.

    `settings` and the `command` go into the study's record. Raises `InputError` where cells are finished and
    `resume=never`.
    """
    begin_study(study.cfg, study.folder, study.cells, study.left, settings, command)
    if not study.left:
        warn_of_changed_images(study.cells[0])
        return []
    seconds = [study.seconds[cell.variant.name] if study.seconds else 0.0 for cell in study.left]
    return make_left(study.cfg, study.left, seconds, study.jobs, study.headline)


def begin_study(
    cfg: Fit, folder: Path, cells: Sequence[Cell], left: Sequence[Cell], settings: Mapping[str, Any], command: str
) -> None:
    """Make the folder of a study, with its record.

    Raises `InputError` where cells are finished and `resume=never`.
    """
    if cfg.resume == "never" and len(left) < len(cells):
        raise InputError(f"{folder} already holds cells of this study; leave out resume=never to resume it")
    create_folder(folder)
    write_json(folder / STUDY, {"settings": settings, **provenance(command_line(command))})


def make_left(cfg: Fit, left: Sequence[Cell], seconds: Sequence[float], jobs: int, headline: Headline) -> list[str]:
    """Make cells that each take about so many seconds, `jobs` at a time, and return the names of those that failed."""
    progress = CellProgress(left, seconds, jobs, headline)
    pool.make_all(left, min(jobs, len(left)), progress.hear, plugins=cfg.plugins, deterministic=cfg.deterministic)
    return progress.failed


def warn_of_changed_images(cell: Cell) -> None:
    """Say when the images of a finished cell are no longer as they were: nothing is measured on them again."""
    files = noted(cell.folder)
    if files and (wrong := changes(read_dataset(cell.settings["dataset"], cell.settings["data_root"]), files)):
        say(
            f"warning: the images have changed since these cells were made: {listed(wrong, 1)}; name another output_dir"
        )


# The answer.


def answer_study(study: PlannedStudy[C]) -> AnsweredStudy:
    """Read the finished cells and test the differences; the look is recorded before anything of the answer is seen."""
    earlier, results = earlier_looks(study.folder), read_results(study.cells)
    now = looks.take_look(earlier, study.seeds, count_comparisons(study.variants), study.cfg.looks)
    others = [look for look in earlier if look.seeds != now.seeds]
    again = looks.next_level([*others, now], study.cfg.looks)
    known = [name for look in others for name in look.found]
    verdicts = answer(study.variants, results, study.seeds, study.headline, now.level, again, known, study.info.noun)
    answered = AnsweredStudy(verdicts, earlier, [], results)
    if any(test.p is not None for test in verdicts.tests):
        now = now._replace(found=tuple(significant(verdicts)))
        answered = AnsweredStudy(verdicts, [*others, now], looks.look_words(earlier, now, again), results)
    write_json(study.folder / LOOKS, looks_json(answered.looks))
    return answered


def looks_json(every: Sequence[looks.Look]) -> dict[str, Any]:
    """Return the looks at a study as they are recorded."""
    return {"looks": [look._asdict() for look in every]}


def earlier_looks(folder: Path) -> list[looks.Look]:
    """Return the looks at a study so far; where none is recorded, the one that left its results."""
    if (folder / LOOKS).is_file():
        return [
            looks.Look(tuple(look["seeds"]), look["level"], look["spent"], tuple(look.get("found", ())))
            for look in records.read_record(folder / LOOKS, records.LooksRecord)["looks"]
        ]
    if not (folder / RESULTS).is_file():
        return []
    results = records.read_record(folder / RESULTS, records.StudyRecord)
    first, tested = results["table"][0]["variant"], [*results["table"][1:], *results.get("interactions", [])]
    if all(row["p"] is None for row in tested):
        return []
    names = [
        label(row["variant"], sum_of(*row["parts"]) if "parts" in row else first) for row in tested if row["believable"]
    ]
    look = looks.take_look([], list({row["seed"] for row in results["rows"]}), len(tested))
    return [look._replace(found=tuple(names))]


def refuse_incomplete(study: PlannedStudy[C], result: dict[str, Any], failed: Sequence[str]) -> None:
    """Say when cells are missing; raise `IncompleteError` with the result when some of them have failed."""
    if not result["complete"]:
        say(
            "the study is not complete: some runs are missing; the same command makes those that no other process "
            "is making"
        )
    if failed:
        again = "the same command makes them again"
        raise IncompleteError(f"{len(failed)} of {len(study.cells)} runs failed ({listed(failed)}); {again}", result)


def write_tables(folder: Path, result: Mapping[str, Any]) -> None:
    """Write what `--json` prints of a study, and its rows and table as CSV."""
    for name in ("rows", "table"):
        disk.write(folder / f"{name}.csv", render(flat(result[name]), "csv") + "\n")
    write_json(folder / RESULTS, result)


def setting(study: PlannedStudy[C], command: str) -> dict[str, str]:
    """Return what a reader must know of how the cells were made."""
    facts = {"command": " ".join(command_line(command))}
    facts |= training_facts(study.variants[0].variant.settings, [cell.folder for cell in study.cells])
    return facts | {"seeds": ", ".join(map(str, study.seeds))}
