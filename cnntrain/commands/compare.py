"""`cnntrain compare`: runs side by side, and which of their differences are significant."""

from functools import partial
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.runs.select import find_runs, short_names
from cnntrain.stats import paired_tests
from cnntrain.studies.comparison import (
    as_json,
    differing_keys,
    evaluated,
    group,
    group_json,
    over_images,
    over_seeds,
    read_entry,
    show,
)


def run(composed: DictConfig) -> dict[str, Any]:
    """Compare as configured; return what `--json` prints."""
    cfg = read_config(schema.Compare, composed)
    folders = find_runs(cfg.runs)
    evaluations = evaluated(folders, cfg)
    entries = [read_entry(*each) for each in zip(folders, short_names(folders), evaluations, strict=True)]
    groups = group(entries)
    differing = differing_keys(groups)
    group_of = {entry.folder: members for members in groups for entry in members.entries}
    by_image, by_seed = over_images(entries), over_seeds(groups)
    found = {"split": cfg.split, "weights": cfg.weights} | {
        "differing": differing,
        "runs": [as_json(entry, group_of[entry.folder], differing) for entry in entries],
        "groups": [group_json(found) for found in groups],
        "over_images": by_image,
        "over_seeds": by_seed,
        "verdict": paired_tests.conclude(by_seed or by_image),
    }
    show(found, cfg.table)
    return found


check = partial(read_config, schema.Compare)  # of a sweep's jobs, before any of them


# Reading.


# Comparing.


# Showing.
