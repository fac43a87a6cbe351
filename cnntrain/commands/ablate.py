"""`cnntrain ablate`: train with and without layers, seed by seed, and say what each is worth."""

from typing import Any

from omegaconf import DictConfig

from cnntrain.config.compose import plain_config
from cnntrain.config.read import read_config
from cnntrain.config.schema import Ablate
from cnntrain.report.files import PAGE
from cnntrain.report.text import as_text
from cnntrain.runs.check import check_fit
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import say
from cnntrain.runtime.tables import folded, render, terminal_width
from cnntrain.studies.ablation import plan
from cnntrain.studies.ablation.study import plan_study, write_answer
from cnntrain.studies.answer_report import answer_tables, sentences
from cnntrain.studies.study import (
    AnsweredStudy,
    PlannedStudy,
    answer_study,
    make_cells,
    plan_table,
    plan_words,
    refuse_incomplete,
)


def run(composed: DictConfig) -> dict[str, Any]:
    """Plan a study, make its cells and answer; return what `--json` prints."""
    cfg = read_config(Ablate, composed)
    if cfg.check_resume or cfg.init_from:
        raise InputError(
            "check_resume and init_from are keys of fit; a study takes trained networks with mode= and runs=[…]"
        )
    prepare(deterministic=cfg.deterministic)
    study = plan_study(cfg)
    show_plan(study)
    if cfg.plan:
        return plan_table(study)
    failed = make_cells(study, plain_config(composed), "ablate")
    answered = answer_study(study)
    show_answer(answered, study)
    result = write_answer(study, answered)
    print(f"\nstudy  {study.folder}\nreport {study.folder / PAGE}")
    refuse_incomplete(study, result, failed)
    return result


def check(composed: DictConfig) -> None:
    """Find what is wrong with a configuration before anything is read or made."""
    cfg = read_config(Ablate, composed)
    if cfg.mode == "retrain":
        check_fit(cfg)


def show_plan(study: PlannedStudy[Ablate]) -> None:
    """Print the variants with their sizes, the number of runs, the time they take and what can be concluded."""
    print(render(plan.rows(study.variants, study.seconds), study.cfg.table, terminal_width()))
    what, prospects = plan_words(study)
    say(f"\n{what}")
    say(prospects)


def show_answer(answered: AnsweredStudy, study: PlannedStudy[Ablate]) -> None:
    """Print the tables and sentences of the answer."""
    print(f"\n{as_text(answer_tables(answered.answer), study.cfg.table, terminal_width())}")
    words = [folded(line, terminal_width(), 2) for line in (*sentences(answered.answer), *answered.about)]
    print("", *words, sep="\n")
