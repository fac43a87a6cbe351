"""`cnntrain crossval`: predict every training image by networks that have not seen it, variant by variant."""

from typing import Any

from omegaconf import DictConfig

from cnntrain.config.compose import plain_config
from cnntrain.config.read import read_config
from cnntrain.config.schema import Crossval
from cnntrain.report.files import PAGE, write_report
from cnntrain.report.text import as_text
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.errors import IncompleteError, InputError, listed
from cnntrain.runtime.progress import clock, say
from cnntrain.runtime.tables import render, terminal_width
from cnntrain.studies.crossval.answer import PooledAnswer, as_json, claim, sentences
from cnntrain.studies.crossval.report import answer_document, answer_tables
from cnntrain.studies.crossval.study import (
    PlannedFolds,
    answer_folds,
    choose,
    make_cells,
    outer_cells,
    plan_folds,
    write_results,
)
from cnntrain.studies.crossval.variants import variants_of


def run(composed: DictConfig) -> dict[str, Any]:
    """Plan, make the cells and answer; return what `--json` prints."""
    cfg = read_config(Crossval, composed)
    if cfg.check_resume:
        raise InputError("check_resume is a key of fit")
    prepare(deterministic=cfg.deterministic)
    study = plan_folds(cfg)
    show_plan(study)
    if cfg.plan:
        table = [{"variant": name, "folds": cfg.folds, "seeds": len(study.seeds)} for name in study.names]
        return {"study_dir": str(study.folder), "rows": [], "table": table, "choice": None, "complete": False}
    settings = plain_config(composed)
    failed = make_cells(study, study.cells, settings)
    choices = choose(study) if cfg.nested else []
    outer = outer_cells(study, choices)
    if outer:
        say(f"the inner folds have chosen: {len(outer)} runs measure it on the outer folds")
        failed += make_cells(study, outer, settings)
    answer = answer_folds(study, choices, outer)
    result = {"study_dir": str(study.folder)} | as_json(answer)
    write_report(answer_document(study, answer, choices), study.folder)
    write_results(study, result)
    show_answer(answer, study)
    if not answer.complete:
        say("not complete: some runs are missing; the same command makes those that no other process is making")
    if failed:
        again = "the same command makes them again"
        total = len(study.cells) + len(outer)
        raise IncompleteError(f"{len(failed)} of {total} runs failed ({listed(failed)}); {again}", result)
    return result


def check(composed: DictConfig) -> None:
    """Find what is wrong with a configuration before anything is read or made."""
    variants_of(read_config(Crossval, composed))


def show_plan(study: PlannedFolds) -> None:
    """Print the variants, the number of runs and the time they take."""
    rows = [
        {"variant": each.name, "words": " ".join(each.overrides)}
        | ({"a run": clock(study.seconds[each.name])} if study.seconds else {})
        for each in study.variants
    ]
    print(render(rows, study.cfg.table, terminal_width()))
    cfg, total, left = study.cfg, len(study.cells), study.left
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    folds = f"{cfg.folds} folds" + (f" × {cfg.inner_folds} inner folds" if cfg.nested else "")
    done = f", {total - len(left)} of them finished" if len(left) < total else ""
    variants = f"{len(study.variants)} variant{'s' if len(study.variants) > 1 else ''}"
    what = f"{variants} × {folds} × {seeds}: {total} runs{done}"
    if cfg.nested:
        what += f", then {cfg.folds * len(study.seeds)} on the outer folds"
    if study.seconds_left:
        jobs = min(study.jobs, len(left))
        what += f"; about {clock(study.seconds_left / jobs)} with {jobs} at a time"
    say(f"\n{what}")


def show_answer(answer: PooledAnswer, study: PlannedFolds) -> None:
    """Print the tables and sentences of the answer."""
    print(f"\n{as_text(answer_tables(answer), study.cfg.table, terminal_width())}")
    print("", *sentences(answer), claim(answer), sep="\n")
    print(f"\nstudy  {study.folder}\nreport {study.folder / PAGE}")
