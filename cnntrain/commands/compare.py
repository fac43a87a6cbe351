"""`cnntrain compare`: runs side by side, and which of their differences are significant."""

from functools import partial
from typing import Any, Literal

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.runtime.tables import render
from cnntrain.studies.comparison import (
    Comparison,
    compare,
    comparison_json,
    difference_row,
    experiment_rows,
    one_table,
    run_rows,
    sentences,
    setting_rows,
)


def run(composed: DictConfig) -> dict[str, Any]:
    """Compare as configured; return what `--json` prints."""
    cfg = read_config(schema.Compare, composed)
    comparison = compare(cfg)
    show(comparison, cfg.table)
    return comparison_json(comparison)


check = partial(read_config, schema.Compare)  # of a sweep's jobs, before any of them


def show(comparison: Comparison, style: Literal["text", "markdown", "csv"]) -> None:
    """Print tables and sentences, or for `csv` one table with everything known of each run."""
    if style == "csv":
        print(render(one_table(comparison), "csv"))
        return
    print(render(setting_rows(comparison), style) or "the runs differ in nothing but their seed", end="\n\n")
    print(render(run_rows(comparison), style), end="\n\n")
    if experiments := experiment_rows(comparison):
        print(render(experiments, style), end="\n\n")
    print(f"against {comparison.runs[0].name}, image by image ({comparison.split}, {comparison.weights} weights)\n")
    print(render([difference_row(test) for test in comparison.over_images], style), end="\n\n")
    if comparison.over_seeds:
        print(f"against {comparison.experiments[0].label}, seed by seed\n")
        print(render([difference_row(test) for test in comparison.over_seeds], style), end="\n\n")
    print(*sentences(comparison), sep="\n")
