"""A study of removals: planned, made cell by cell, and answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnntrain.config.build import read_dataset
from cnntrain.config.compose import command_line
from cnntrain.config.schema import Ablate
from cnntrain.data.datasets.splits import changes
from cnntrain.report.document import Figure
from cnntrain.report.files import filed_figure, write_report
from cnntrain.runs import records
from cnntrain.runs.evaluation import Evaluation, evaluation_folder, read_evaluation
from cnntrain.runs.folder import RESULTS, create_folder, find_all_runs, provenance
from cnntrain.runs.images import PIXELS, noted
from cnntrain.runs.load import naming_plugins
from cnntrain.runtime import disk
from cnntrain.runtime.drawing import Medium, styled
from cnntrain.runtime.errors import InputError, listed
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import say
from cnntrain.runtime.tables import render
from cnntrain.stats import looks
from cnntrain.stats.paired_tests import LEVEL, seeds_needed
from cnntrain.studies import duration, grid, pool
from cnntrain.studies.ablation import plan
from cnntrain.studies.ablation.answer import (
    Answer,
    CellResult,
    answer,
    count_comparisons,
    label,
    significant,
    sum_of,
)
from cnntrain.studies.ablation.controls import with_controls
from cnntrain.studies.ablation.figures import differences_figure
from cnntrain.studies.ablation.report import flat, study_document
from cnntrain.studies.ablation.variants import TRAINING, Removal, SizedVariant, variants_of
from cnntrain.studies.cells import Cell, finished_scores
from cnntrain.studies.progress import CellProgress
from cnntrain.studies.variants import fit_words, info_of, training_facts
from cnntrain.tasks import task_for
from cnntrain.tasks.task import Headline

STUDY, LOOKS = "study.json", "looks.json"
LEAST_SEEDS = 8  # where their number is left open


@dataclass(frozen=True)
class PlannedStudy:
    """A study before its cells are made."""

    cfg: Ablate
    folder: Path
    variants: list[SizedVariant]  # the full network first
    seeds: list[int]
    cells: list[Cell]
    left: list[Cell]  # that are not finished
    seconds: dict[str, float] | None  # that a run of each variant takes, about; None where nothing is trained
    jobs: int  # cells at a time
    prospects: str  # what can be concluded, a sentence

    @property
    def headline(self) -> Headline:
        """The number that stands for the score of a cell."""
        return task_for(info_of(self.variants[0].variant.settings)).headline


@dataclass(frozen=True)
class AnsweredStudy:
    """A study with what its finished cells say, and every look that was had at it."""

    answer: Answer
    looks: list[looks.Look]
    about: list[str]  # sentences on what looking more than once means


# The plan.


def plan_study(cfg: Ablate) -> PlannedStudy:
    """Find the variants, seeds and cells of a study, and time those that are not finished; no image is read.

    Raises `InputError` for what cannot be built, or where the study's folder holds other cells.
    """
    trained = trained_runs(cfg)
    with naming_plugins(records.settings(trained[0]) if trained else {}):
        removals = with_controls(variants_of(cfg, trained), cfg.control)
    variants = plan.sized_variants(removals)
    comparisons = count_comparisons(variants)
    starts = seeds_of(cfg, trained, comparisons)
    folder = Path(cfg.output_dir) if cfg.output_dir else default_folder(cfg, removals[0], trained)
    cells = grid.cells_of(removals, starts, folder, fit_words(Ablate))
    left = [cell for cell in cells if not finished_scores(cell.folder)]
    seconds = None
    if cfg.mode in TRAINING and (left or cfg.plan):
        say("timing a few steps of each variant on noise …")
        seconds = {
            variant.name: duration.seconds_of(variant.variant.settings, variant.macs or variant.params, threads=1)
            for variant in variants
        }
    prospects = plan.prospects(
        looks.take_look(earlier_looks(folder), list(starts), comparisons, cfg.looks), comparisons
    )
    jobs = cfg.jobs or pool.default_jobs(cfg.device)
    return PlannedStudy(cfg, folder, variants, list(starts), cells, left, seconds, jobs, prospects)


def trained_runs(cfg: Ablate) -> list[Path]:
    """Return the trained runs that a mode needs.

    Raises `InputError` when there are none, or they are given where none are needed.
    """
    if cfg.mode == "retrain":
        if cfg.runs:
            raise InputError("mode=retrain trains from the start; runs=[…] is for finetune, lesion, reinit, …")
        return []
    if not cfg.runs:
        raise InputError(f"mode={cfg.mode} needs trained networks: runs=[…], one a seed")
    return find_all_runs(cfg.runs)


def seeds_of(cfg: Ablate, trained: Sequence[Path], comparisons: int) -> dict[int, Path | None]:
    """Return the seeds of a study, each with the trained run that it starts from.

    Where their number is left open, it is one with which the comparisons can be significant. Raises `InputError` for a
    repeated seed, runs of different networks or data, and runs in the wrong mode.
    """
    if cfg.mode == "retrain":
        count = cfg.seeds or max(LEAST_SEEDS, seeds_needed(comparisons, LEVEL / cfg.looks) or 0)
        seeds = count if isinstance(count, list) else list(range(cfg.seed, cfg.seed + count))
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError(f"seeds={cfg.seeds}: each seed once, at least one")
        return dict.fromkeys(seeds)
    settings = {path: records.settings(path) for path in trained}
    first = settings[trained[0]]
    for path, recorded in settings.items():
        changed = [key for key in ("model", "dataset") if recorded[key] != first[key]]
        if changed:
            raise InputError(f"{path} was trained with another {changed[0]} than {trained[0]}")
        if recorded.get("init_from") and cfg.mode == "reinit":
            raise InputError(f"{path} started from another run: mode=reinit needs initial weights of a seed")
    starts: dict[int, Path | None] = {recorded["seed"]: path for path, recorded in settings.items()}
    if len(starts) < len(trained):
        raise InputError("runs: two of them have the same seed; a study pairs its variants seed by seed")
    return starts


def default_folder(cfg: Ablate, full: Removal, trained: Sequence[Path]) -> Path:
    """Return the folder of a study for which none is named."""
    what = {"mode": cfg.mode, "runs": sorted(str(path) for path in trained)}
    return grid.study_folder("ablate", (cfg.study or {}).get("name") or "remove", full.settings, what)


def plan_json(study: PlannedStudy) -> dict[str, Any]:
    """Return the plan with the keys of the answer, without results."""
    table = [
        {
            "variant": variant.name,
            "removed": list(variant.variant.stages),
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


def make_cells(study: PlannedStudy, settings: Mapping[str, Any]) -> list[str]:
    """Make the cells that are left, and return the names of those that failed; `settings` go into the study's record.

    Raises `InputError` where cells are finished and `resume=never`.
    """
    cfg, left = study.cfg, study.left
    if cfg.resume == "never" and len(left) < len(study.cells):
        raise InputError(f"{study.folder} already holds cells of this study; leave out resume=never to resume it")
    create_folder(study.folder)
    write_json(study.folder / STUDY, {"settings": settings, **provenance(command_line("ablate"))})
    if not left:
        warn_of_changed_images(study.cells[0])
        return []
    jobs = min(study.jobs, len(left))
    expected = [study.seconds[cell.variant.name] if study.seconds else 0.0 for cell in left]
    progress = CellProgress(left, expected, study.jobs, study.headline)
    pool.make_all(left, jobs, progress.hear, plugins=cfg.plugins, deterministic=cfg.deterministic)
    return progress.failed


def warn_of_changed_images(cell: Cell) -> None:
    """Say when the images of a finished cell are no longer as they were: nothing is measured on them again."""
    files = noted(cell.folder)
    if files and (wrong := changes(read_dataset(cell.settings["dataset"], cell.settings["data_root"]), files)):
        say(
            f"warning: the images have changed since these cells were made: {listed(wrong, 1)}; name another output_dir"
        )


# The answer.


def answer_study(study: PlannedStudy) -> AnsweredStudy:
    """Read the finished cells and test the differences; the look is recorded before anything of the answer is seen."""
    earlier, results = earlier_looks(study.folder), read_results(study.cells)
    now = looks.take_look(earlier, study.seeds, count_comparisons(study.variants), study.cfg.looks)
    others = [look for look in earlier if look.seeds != now.seeds]
    again = looks.next_level([*others, now], study.cfg.looks)
    known = [name for look in others for name in look.found]
    verdicts = answer(study.variants, results, study.seeds, study.headline, now.level, again, known)
    answered = AnsweredStudy(verdicts, earlier, [])
    if any(test.p is not None for test in verdicts.tests):
        now = now._replace(found=tuple(significant(verdicts)))
        answered = AnsweredStudy(verdicts, [*others, now], looks.look_words(earlier, now, again))
    write_json(study.folder / LOOKS, looks_json(answered))
    return answered


def looks_json(answered: AnsweredStudy) -> dict[str, Any]:
    """Return the looks at a study as they are recorded."""
    return {"looks": [look._asdict() for look in answered.looks]}


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
    first, tested = results["table"][0]["variant"], [*results["table"][1:], *results["interactions"]]
    if all(row["p"] is None for row in tested):
        return []
    names = [
        label(row["variant"], sum_of(*row["parts"]) if "parts" in row else first) for row in tested if row["believable"]
    ]
    look = looks.take_look([], list({row["seed"] for row in results["rows"]}), len(tested))
    return [look._replace(found=tuple(names))]


def read_results(cells: Sequence[Cell]) -> dict[tuple[str, int], CellResult]:
    """Return what the finished cells measured, but of those whose test images are not those of the first."""
    results: dict[tuple[str, int], CellResult] = {}
    first: tuple[Cell, Evaluation] | None = None
    for cell in cells:
        if (scores := finished_scores(cell.folder)) is None:
            continue
        evaluation = read_evaluation(evaluation_folder(cell.folder, "test", "last"))
        first = first or (cell, evaluation)
        if not same_images(first, (cell, evaluation)):
            say(f"{cell.folder} was measured on other test images than {first[0].folder}, and is left out")
            continue
        results[cell.variant.name, cell.seed] = CellResult(scores, evaluation.correct)
    return results


def same_images(*measured: tuple[Cell, Evaluation]) -> bool:
    """Say whether two cells were measured on the same test images, by their pixels where both see them alike."""
    (_, first), (_, second) = measured
    seen = [{key: cell.settings["dataset"].get(key) for key in PIXELS} for cell, _ in measured]
    if seen[0] == seen[1] and (first.checksums is None) == (second.checksums is None):
        return bool(first.results["record"]["images"] == second.results["record"]["images"])
    files = [each.files for each in (first, second) if each.files is not None]
    return np.array_equal(first.labels, second.labels) and (len(files) < 2 or np.array_equal(files[0], files[1]))


def write_answer(study: PlannedStudy, answered: AnsweredStudy) -> dict[str, Any]:
    """Write the answer as tables of numbers, as a figure and as a report; return what `--json` prints."""
    folder, options = study.folder, study.cfg.study or {}
    result = {"study_dir": str(folder)} | answered.answer.as_json() | looks_json(answered)
    disk.write(folder / "rows.csv", render(flat(result["rows"]), "csv") + "\n")
    disk.write(folder / "table.csv", render(flat(result["table"]), "csv") + "\n")
    document = study_document(
        options.get("name") or "Removals",
        setting(study),
        plan.rows(study.variants, None),
        answered.answer,
        about=answered.about,
        figure=draw(study.cfg.figures, folder, answered.answer),
        printed=options.get("printed"),
        source=options.get("source") or (),
    )
    write_report(document, folder)
    write_json(folder / RESULTS, result)
    return result


def draw(medium: Medium, folder: Path, answered: Answer) -> Figure | None:
    """Write the figure of the differences, where it is wanted and there are some, and return it for the report."""
    if not medium or all(row.test.delta is None for row in answered.table[1:]):
        return None
    caption = f"Differences in {answered.headline.label} from {answered.first.variant} with their intervals, sorted"
    with styled(medium):
        return filed_figure(differences_figure(answered), folder, "differences", caption)


def setting(study: PlannedStudy) -> dict[str, str]:
    """Return what a reader must know of how the cells were made."""
    facts = {"command": " ".join(command_line("ablate")), "mode": study.cfg.mode}
    facts |= training_facts(study.variants[0].variant.settings, study.cells[0].folder)
    facts["seeds"] = ", ".join(map(str, study.seeds))
    if study.cfg.mode != "retrain":
        facts["trained runs"] = ", ".join(study.cfg.runs or [])
    return facts
