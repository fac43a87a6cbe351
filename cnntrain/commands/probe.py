"""`cnntrain probe`: what a linear classifier can read from each stage of a network."""

from typing import Any

from omegaconf import DictConfig

from cnntrain.config.read import read_config
from cnntrain.report.files import PAGE
from cnntrain.report.text import as_text
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.tables import terminal_width
from cnntrain.studies.probe.options import Probe
from cnntrain.studies.probe.report import about_words, probe_sections, write_study
from cnntrain.studies.probe.rows import tables_of
from cnntrain.studies.probe.saved import save_probes
from cnntrain.studies.probe.study import probe, study_folder


def run(composed: DictConfig) -> dict[str, Any]:
    """Probe as configured; return what `--json` prints."""
    cfg = read_probe(composed)
    folder = study_folder(cfg)
    prepare(deterministic=False)
    study = probe(cfg)
    tables = tables_of(study)
    results = write_study(study, tables, folder, cfg.figures)
    for caption, blocks in probe_sections(tables):
        print(caption, as_text(blocks, cfg.table, terminal_width()), sep="\n\n", end="\n\n")
    print(about_words(study))
    print(f"report  {folder / PAGE}")
    if cfg.save:
        for run in save_probes(study, cfg, folder):
            print(f"probe   {run}")
    return results


def read_probe(composed: DictConfig) -> Probe:
    """Return the configuration, checked."""
    cfg = read_config(Probe, composed)
    if not cfg.c:
        raise InputError("c=[] leaves no penalty to try; name some: c=[0.1,1,10]")
    return cfg


check = read_probe  # of a sweep's jobs, before any of them
