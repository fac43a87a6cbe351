"""`cnntrain report`: a run as one page that needs nothing beside itself."""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.report import html, svg
from cnntrain.report.page import (
    MOST_ROWS,
    again,
    changed,
    class_rows,
    confusion,
    curves,
    facts,
    filters,
    mistakes,
    provenance,
    stages,
    title,
)
from cnntrain.runs import records
from cnntrain.runs.evaluation import ensure_evaluation
from cnntrain.runs.folder import find_run, read_metrics, refuse_unwritable
from cnntrain.runs.images import run_images
from cnntrain.runs.load import load_run
from cnntrain.runtime import disk
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.tables import interval, percent


def run(composed: DictConfig) -> dict[str, Any]:
    """Write the page as configured; return what `--json` prints."""
    cfg = read_config(schema.Report, composed)
    folder = find_run(cfg.run)
    target = Path(cfg.output) if cfg.output else folder / "report.html"
    if not target.parent.is_dir():
        raise InputError(f"output={cfg.output}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise InputError(f"output={cfg.output} is a folder; name a file")
    refuse_unwritable(target.parent, word="output=" if cfg.output else "")
    net, info, settings = load_run(folder, cfg.weights)
    record = records.record(folder)
    measured = ensure_evaluation(folder, cfg, checksums=True)
    data_root = cfg.data_root or settings["data_root"]
    split = run_images(folder, settings, info, data_root, cfg.split, cache="none").split  # a few images are shown

    found = measured.results
    page = {
        "title": title(settings, info),
        "folder": str(folder),
        "split": cfg.split,
        "weights": cfg.weights,
        "accuracy": interval(found["top1"], found["top1_low"], found["top1_high"], found["n"]),
        "facts": facts(net, found, record),
        "changed": changed(settings, record),
        "settings": json.dumps(settings, indent=2, ensure_ascii=False),
        "curves": curves(read_metrics(folder), settings),
        "calibration": svg.reliability(measured.probabilities, measured.labels),
        "few": svg.FEW,
        "most_rows": MOST_ROWS,
        "ece": percent(found["ece"]),
        "classes": class_rows(found["per_class"]),
        "confusion": confusion(found["confusion"], info.classes),
        "mistakes": mistakes(measured, split, info),
        "small": max(info.shape[1:]) < 100,  # pixels a side: shown enlarged
        "filters": filters(net, info),
        "stages": stages(settings, info),
        "provenance": provenance(record, found["record"]),
        "typed": shlex.join(record["argv"]),
        "again": again(record, cfg),
    }
    disk.write(target, html.render("report", page))
    print(f"{cfg.split} top-1  {page['accuracy']}")
    print(f"report      {target}")
    return {"run_dir": str(folder), "report": str(target), "split": cfg.split, "weights": cfg.weights} | {
        key: found[key] for key in ("n", "top1", "top1_low", "top1_high")
    }


check = partial(read_config, schema.Report)  # of a sweep's jobs, before any of them


# Setting.


# Curves.


# What was found.


# Where it comes from.
