"""`cnntrain transfer`: take a trained network to other images in several ways, and say what each is worth."""

from typing import Any

from omegaconf import DictConfig

from cnntrain.config.compose import plain_config
from cnntrain.config.read import read_config
from cnntrain.config.schema import Transfer
from cnntrain.report.files import PAGE
from cnntrain.report.text import as_text
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import say
from cnntrain.runtime.tables import folded, render, terminal_width
from cnntrain.studies.study import answer_study, make_cells, plan_table, plan_words, refuse_incomplete
from cnntrain.studies.transfer.regimes import regimes_of, source_of
from cnntrain.studies.transfer.report import answer_tables, plan_rows, sentences, with_regimes, write_answer
from cnntrain.studies.transfer.study import keep_speedups, plan_study


def run(composed: DictConfig) -> dict[str, Any]:
    """Plan a study, make its cells and answer; return what `--json` prints."""
    cfg = read_transfer(composed)
    prepare(deterministic=cfg.deterministic)
    planned = plan_study(cfg)
    study = planned.study
    print(render(plan_rows(planned), cfg.table, terminal_width()))
    say("\n" + "\n".join(plan_words(study)))
    if cfg.plan:
        return with_regimes(plan_table(study), planned.regimes)
    keep_speedups(planned)
    failed = make_cells(study, plain_config(composed), "transfer")
    answered = answer_study(study)
    print(f"\n{as_text(answer_tables(answered.answer, planned.regimes), cfg.table, terminal_width())}")
    lines = (*sentences(answered.answer, planned.regimes), *answered.about)
    print("", *(folded(line, terminal_width(), 2) for line in lines), sep="\n")
    result = write_answer(planned, answered)
    print(f"\nstudy  {study.folder}\nreport {study.folder / PAGE}")
    refuse_incomplete(study, result, failed)
    return result


def check(composed: DictConfig) -> None:
    """Find what is wrong with a configuration before anything is read or made."""
    cfg = read_transfer(composed)
    regimes_of(cfg, source_of(cfg))


def read_transfer(composed: DictConfig) -> Transfer:
    """Return the configuration; an `InputError` for keys of a single training."""
    cfg = read_config(Transfer, composed)
    if cfg.check_resume or cfg.init_from:
        raise InputError("check_resume and init_from are keys of fit; a transfer takes its trained network with run=")
    if cfg.trainer.freeze:
        raise InputError("trainer.freeze is what the regimes set: regimes=[extract,upto=conv2]")
    return cfg
