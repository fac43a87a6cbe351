"""`cnntrain explain`: what a network sees in images, and what it decides by."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config.read import read_config
from cnntrain.report.files import PAGE
from cnntrain.runs.folder import RESULTS, find_run, new_folder, refuse_existing, refuse_unwritable
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.tables import folded, render, terminal_width
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.report import check_output, write_picture, write_study
from cnntrain.studies.explain.sanity import sanity_rows
from cnntrain.studies.explain.study import ExplainStudy, chosen_methods, explain
from cnntrain.studies.explain.worth import score_table


def run(composed: DictConfig) -> dict[str, Any]:
    """Explain as configured; return what `--json` prints."""
    cfg = read_explain(composed)
    prepare(deterministic=False)
    target = Path(cfg.output or cfg.output_dir or new_folder("explain", find_run(cfg.run).name))
    refuse_unwritable(target.parent if cfg.output else target)
    if (target / RESULTS).exists():
        raise InputError(f"output_dir={target} already holds results; name another folder")
    refuse_existing(target)
    study = explain(cfg)
    if cfg.output:
        results = write_picture(study, target, cfg.figures)
        print(f"picture {target}")
        return results
    results = write_study(study, target)
    show(study)
    print(f"report  {target / PAGE}")
    return results


def read_explain(composed: DictConfig) -> Explain:
    """Return the configuration, checked."""
    cfg = read_config(Explain, composed)
    chosen_methods(cfg.what)
    check_output(cfg.output)
    if cfg.output and cfg.output_dir:
        raise InputError("output= writes one picture, output_dir= a folder of all: name one of them")
    return cfg


check = read_explain  # of a sweep's jobs, before any of them


def show(study: ExplainStudy) -> None:
    """Print what each method says, and its table."""
    for name, answer in study.answers.items():
        print(name, *(folded(remark, terminal_width()) for remark in answer.remarks), sep="\n")
        if answer.rows:
            print(f"\n{render(list(answer.rows), width=terminal_width())}")
        print()
    for rows in (score_table(study.scores.each) if study.scores else [], sanity_rows(study.sanity)):
        if rows:
            print(f"{render(rows, width=terminal_width())}\n")
