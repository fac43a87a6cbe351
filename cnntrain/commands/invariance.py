"""`cnntrain invariance`: what networks stay invariant to, stage by stage."""

from functools import partial
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.report.files import FIGURES, PAGE
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.tables import folded, terminal_width
from cnntrain.studies.invariance import crossings
from cnntrain.studies.invariance.report import write_study
from cnntrain.studies.invariance.study import InvarianceStudy, measure_networks
from cnntrain.studies.invariance.text import crossing_words, line_words


def run(composed: DictConfig) -> dict[str, Any]:
    """Measure as configured; return what `--json` prints."""
    cfg = read_config(schema.Invariance, composed)
    prepare(deterministic=False)
    study = measure_networks(cfg)
    weights = "the untrained network" if cfg.init == "random" else f"the {cfg.weights} weights"
    about = (
        f"{len(study.images.split):,} {study.images.name} images of {study.images.dataset}, {weights}. A distance of 0 "
        "is unmoved, 1 is as far as an image of another class. Numbers in brackets are 95 % bands over images like "
        "these."
    )
    results = write_study(study, about, figures=cfg.figures, tensorboard=cfg.tensorboard)
    show(study)
    return results


check = partial(read_config, schema.Invariance)  # of a sweep's jobs, before any of them


def show(study: InvarianceStudy) -> None:
    """Print what was measured, in sentences, and where everything lies."""
    for each in study.transforms:
        print(f"{each.transform.name} ({each.transform.unit})")
        for line in each.lines(study.groups):
            print(f"  {line.curves.name}")
            for sentence in line_words(each.transform, line):
                print(folded(f"    {sentence}", terminal_width(), 4))
        if (place := each.lecture_place()) is not None:
            pixels = crossing_words(crossings.pixel_rows(each.transform, each.counts)[place])
            print(folded(f"  {pixels}", terminal_width(), 2))
        print()
    print(f"report        {study.folder / PAGE}")
    if (study.folder / FIGURES).is_dir():
        print(f"figures       {study.folder / FIGURES}")
