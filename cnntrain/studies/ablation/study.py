"""A study of removals: which cells it has, where they lie, and how its answer is written."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cnntrain.config.schema import Ablate
from cnntrain.report.document import Figure
from cnntrain.report.files import filed_figure, write_report
from cnntrain.runs import records
from cnntrain.runs.folder import find_all_runs
from cnntrain.runs.load import naming_plugins
from cnntrain.runtime.drawing import Medium, styled
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import say
from cnntrain.studies import duration, grid
from cnntrain.studies.ablation import plan
from cnntrain.studies.ablation.controls import with_controls
from cnntrain.studies.ablation.figures import differences_figure
from cnntrain.studies.ablation.variants import TRAINING, Removal, variants_of
from cnntrain.studies.answer import Answer, count_comparisons
from cnntrain.studies.answer_report import study_document
from cnntrain.studies.study import AnsweredStudy, PlannedStudy, chosen_seeds, planned, setting, write_tables
from cnntrain.studies.variants import SizedVariant, fit_words


def plan_study(cfg: Ablate) -> PlannedStudy[Ablate]:
    """Find the variants, seeds and cells of a study, and time those that are not finished; no image is read.

    Raises `InputError` for what cannot be built, or where the study's folder holds other cells.
    """
    trained = trained_runs(cfg)
    with naming_plugins(records.settings(trained[0]) if trained else {}):
        removals = with_controls(variants_of(cfg, trained), cfg.control)
    variants = plan.sized_variants(removals)
    starts = seeds_of(cfg, trained, count_comparisons(variants))
    folder = Path(cfg.output_dir) if cfg.output_dir else default_folder(cfg, removals[0], trained)
    cells = grid.cells_of(removals, starts, folder, fit_words(Ablate))
    timed = partial(seconds_of, variants) if cfg.mode in TRAINING else None
    return planned(cfg, folder, variants, list(starts), cells, timed)


def seconds_of(variants: Sequence[SizedVariant]) -> dict[str, float]:
    """Return about how long a run of each variant takes."""
    say("timing a few steps of each variant on noise …")
    return {
        variant.name: duration.seconds_of(variant.variant.settings, variant.macs or variant.params, threads=1)
        for variant in variants
    }


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

    Raises `InputError` for a repeated seed, runs of different networks or data, and runs in the wrong mode.
    """
    if cfg.mode == "retrain":
        return dict.fromkeys(chosen_seeds(cfg, comparisons))
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


def write_answer(study: PlannedStudy[Ablate], answered: AnsweredStudy) -> dict[str, Any]:
    """Write the answer as tables of numbers, as a figure and as a report; return what `--json` prints."""
    folder, options = study.folder, study.cfg.study or {}
    result = {"study_dir": str(folder)} | answered.as_json()
    document = study_document(
        options.get("name") or "Removals",
        setting_of(study),
        plan.rows(study.variants, None),
        answered.answer,
        about=answered.about,
        figure=draw(study.cfg.figures, folder, answered.answer),
        printed=options.get("printed"),
        source=options.get("source") or (),
    )
    write_report(document, folder)
    write_tables(folder, result)
    return result


def setting_of(study: PlannedStudy[Ablate]) -> dict[str, str]:
    """Return what a reader must know of how the cells were made."""
    made = setting(study, "ablate") | {"mode": study.cfg.mode}
    return made | ({"trained runs": ", ".join(study.cfg.runs)} if study.cfg.runs else {})


def draw(medium: Medium, folder: Path, answered: Answer) -> Figure | None:
    """Write the figure of the differences, where it is wanted and there are some, and return it for the report."""
    if not medium or all(row.test.delta is None for row in answered.table[1:]):
        return None
    caption = f"Differences in {answered.headline.label} from {answered.first.variant} with their intervals, sorted"
    with styled(medium):
        return filed_figure(differences_figure(answered), folder, "differences", caption)
