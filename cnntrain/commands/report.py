"""`cnntrain report`: a run as one page that needs nothing beside itself."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig
from torch import nn

from cnntrain import config, disk, runs, schema
from cnntrain.analysis import figures, pictures
from cnntrain.analysis.geometry import geometry
from cnntrain.commands.describe import row as stage_row
from cnntrain.commands.eval import Evaluation, confusions, evaluation, images_digest
from cnntrain.commands.loading import load_run, run_dataset
from cnntrain.data.sources import Card, Split
from cnntrain.devices import machine
from cnntrain.errors import InputError
from cnntrain.progress import clock
from cnntrain.tables import cell, interval, percent, wilson

MOST_CELLS, MOST_FILTERS = 25, 128  # classes of a confusion matrix in numbers; filters shown
Row = dict[str, Any]


def run(composed: DictConfig) -> dict[str, Any]:
    """Write the page as configured; return what `--json` prints."""
    cfg = config.read(schema.Report, composed)
    folder = runs.find(cfg.run)
    target = Path(cfg.output) if cfg.output else folder / "report.html"
    if not target.parent.is_dir():
        raise InputError(f"output={cfg.output}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise InputError(f"output={cfg.output} is a folder; name a file")
    runs.refuse_unwritable(target.parent, word="output=" if cfg.output else "")
    net, card, settings = load_run(folder, cfg.weights)
    record = runs.read_json(folder / runs.RECORD)
    measured = evaluation(folder, cfg)
    data_root = cfg.data_root or settings["data_root"]
    dataset, _ = run_dataset(settings, card, {"cache": "none"}, data_root, cfg.split)  # a few images are shown
    split = getattr(dataset, cfg.split)
    if split is None or images_digest(split) != measured.found["record"]["images"]:
        raise InputError(f"the images have changed since {measured.folder}; evaluate again: cnntrain eval run={folder}")

    found = measured.found
    page = {
        "title": f"{settings['model']['name']} on {card.name}",
        "folder": str(folder),
        "split": cfg.split,
        "weights": cfg.weights,
        "accuracy": interval(found["top1"], found["top1_low"], found["top1_high"], found["n"]),
        "facts": facts(net, found, record),
        "changed": changed(settings, record),
        "settings": json.dumps(settings, indent=2, ensure_ascii=False),
        "curves": curves(runs.read_metrics(folder)),
        "calibration": figures.reliability(measured.probabilities, measured.labels),
        "ece": percent(found["ece"]),
        "classes": class_rows(found["per_class"]),
        "confusion": confusion(found["confusion"], card.classes),
        "mistakes": mistakes(measured, split, card),
        "filters": filters(net, card),
        "stages": stages(net, card),
        "provenance": provenance(record, found["record"]),
        "typed": shlex.join(record["argv"]),
        "again": again(record, cfg),
    }
    disk.write(target, render(page))
    print(f"{cfg.split} top-1  {page['accuracy']}")
    print(f"report      {target}")
    return {"run_dir": str(folder), "report": str(target), "split": cfg.split, "weights": cfg.weights} | {
        key: found[key] for key in ("n", "top1", "top1_low", "top1_high")
    }


def render(page: Mapping[str, Any]) -> str:
    """Fill the template; whatever is no drawing of ours is escaped."""
    from jinja2 import Environment, StrictUndefined

    text = (resources("cnntrain.analysis") / "report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = cell
    return environment.from_string(text).render(page)


def facts(net: nn.Module, found: Mapping[str, Any], record: Mapping[str, Any]) -> Row:
    """Return the few numbers beside the accuracy."""
    images = record["data"]["images"]
    return {
        "top-5": percent(found["top5"]),
        "loss": f"{found['loss']:.4f}",
        "macro F1": f"{found['macro_f1']:.4f}",
        "parameters": f"{sum(parameter.numel() for parameter in net.parameters()):,}",
        "training images": f"{images['train']:,}",
        "training took": clock(record["seconds"]) if record.get("seconds") else record.get("exit", "not finished"),
    }


# Setting.


def changed(settings: Mapping[str, Any], record: Mapping[str, Any]) -> list[Row]:
    """Return the settings that are not the defaults of `cnntrain fit` with the chosen model, dataset and so on."""
    usual_choices = compose("fit", return_hydra_config=True).hydra.runtime.choices
    recipes = [word for word in record["argv"] if word.startswith("augmentation=")]
    named = [f"{group}={settings[group]['name']}" for group in ("model", "dataset", "optimizer", "schedule")]
    standard = runs.flat(config.plain(compose("fit")))
    try:
        default = runs.flat(config.plain(compose("fit", overrides=[*named, *recipes])))
    except HydraException:  # an option of the user's own that is not to be had here
        default, recipes = standard, []
    rows = [{"key": "augmentation", "value": word.partition("=")[2]} for word in recipes]
    rows = [row | {"default": usual_choices["augmentation"]} for row in rows]
    for key, value in runs.flat(settings).items():
        usual = (standard if key.endswith(".name") else default).get(key)
        if value != usual and key not in ("output_dir", "resume"):
            rows.append({"key": key, "value": words(value), "default": words(usual)})
    return rows


def words(value: object) -> str:
    """Write a setting as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Curves.


def curves(records: Sequence[Row]) -> dict[str, str]:
    """Draw loss, top-1 and learning rate over the epochs, as SVG by caption."""
    if not records:
        return {}
    trained, validated = ([row for row in records if row["kind"] == kind] for kind in ("train", "val"))
    per_epoch = max(row["step"] for row in records) / max(row["epoch"] for row in records)
    drawn = {}
    for key, caption, log in (("loss", "Loss (logarithmic)", True), ("top1", "Top-1", False)):
        lines = {"training": epoch_means(trained, key)}
        if validated:
            lines["validation"] = [(row["epoch"], row[key]) for row in validated if row[key] is not None]
        drawn[caption] = figures.curves(lines, key, log=log)
    drawn["Learning rate"] = figures.curves({"": [(row["step"] / per_epoch, row["lr"]) for row in trained]}, "lr")
    return drawn


def epoch_means(trained: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """Return (epoch, mean over its steps); a record speaks for the steps since the one before it."""
    sums: dict[int, tuple[float, int]] = {}
    before = 0
    for row in trained:
        steps, before = row["step"] - before, row["step"]
        if row[key] is not None:
            total, count = sums.get(row["epoch"], (0.0, 0))
            sums[row["epoch"]] = (total + row[key] * steps, count + steps)
    return [(float(epoch), total / count) for epoch, (total, count) in sums.items() if count > 0]


# What was found.


def class_rows(per_class: Sequence[Row]) -> list[Row]:
    """Return each class with its recall and the 95 % interval of that, the worst first."""
    rows = []
    for row in per_class:
        low, high = wilson(round(row["recall"] * row["n"]), row["n"]) if row["n"] else (0.0, 0.0)
        rows.append(row | {"low": low, "high": high})
    return sorted(rows, key=lambda row: (row["n"] == 0, row["recall"]))


def confusion(counts: list[list[int]], classes: Sequence[str]) -> Row:
    """Return the confusion matrix as cells of (count, share of the row), or as a picture of many classes."""
    matrix = np.array(counts)
    share = pictures.row_shares(matrix)
    few = len(classes) <= MOST_CELLS
    return {
        "classes": list(classes),
        "tall": max(map(len, classes)) > 3,
        "rows": [list(zip(a, b, strict=True)) for a, b in zip(counts, share.tolist(), strict=True)] if few else [],
        "picture": None if few else pictures.as_png(pictures.heat_picture(matrix)),
        "often": confusions(counts, list(classes), most=5 if few else 20),
    }


def mistakes(measured: Evaluation, split: Split, card: Card) -> list[Row]:
    """Return the most confident wrong predictions with their pictures."""
    places = pictures.worst_mistakes(measured.probabilities, measured.labels)
    rows = []
    for place, image in zip(places, split.source.read(places).numpy(), strict=True):
        p = measured.probabilities[place]
        rows.append(
            {
                "picture": pictures.as_png(image),
                "true": card.classes[int(measured.labels[place])],
                "predicted": card.classes[int(p.argmax())],
                "probability": percent(float(p.max()), 1),
                "place": place,
            }
        )
    return rows


def filters(net: nn.Sequential, card: Card) -> Row | None:
    """Return the first stage's weights as pictures, or None where they are no pictures."""
    found = pictures.first_filters(net, card.shape)
    if found is None:
        return None
    stage, kind, weights = found
    shown = [pictures.as_png(pictures.weight_picture(weight)) for weight in weights[:MOST_FILTERS]]
    labelled = kind == "templates" and len(weights) == len(card.classes)
    return {
        "kind": kind,
        "stage": stage,
        "count": len(weights),
        "pictures": list(zip(shown, card.classes if labelled else [""] * len(shown), strict=False)),
        "channels": card.shape[0],
    }


def stages(net: nn.Sequential, card: Card) -> Row:
    """Return the table of stages, or the reason why there is none."""
    try:
        rows = geometry(net, card.shape)
    except (TypeError, ValueError) as error:
        return {"rows": [], "reason": str(error)}
    total = {"parameters": sum(r.params for r in rows), "MACs": sum(r.macs for r in rows)}
    return {"rows": [stage_row(stage) for stage in rows], "reason": "", "total": total}


# Where it comes from.


def provenance(record: Mapping[str, Any], measured: Mapping[str, Any]) -> Row:
    """Return what is known of how the run came about, in words."""
    rows = {
        "started": record["started"],
        "ended": record.get("exit", "not finished"),
        "cnntrain": f"{record['cnntrain']}, commit {record['commit'] or 'not known'}",
        "Python": f"{record['python']} on {record['platform']}",
        "packages": ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
        "machine": machine(record["hardware"]),
        "computed on": f"{record['device']}, {record['precision']}",
        "environment": " ".join(f"{key}={value}" for key, value in record["environment"].items()) or "nothing set",
        "data": f"{record['data']['name']}, fingerprint {record['data']['fingerprint']}",
        "evaluated": f"{measured['started']} on {measured['device']}, {measured['precision']}",
    }
    if sessions := record.get("sessions"):
        starts = [f"{session['started']} (from step {session['from_step']:,})" for session in sessions]
        rows["sessions"] = f"{len(sessions)}: {'; '.join(starts)}"
    return rows


def again(record: Mapping[str, Any], cfg: schema.Report) -> str:
    """Return the commands that make the run once more, in a new folder, and evaluate it."""
    words = [word for word in record["argv"] if not word.startswith(("output_dir=", "resume="))]
    seeded = any(word.startswith("seed=") for word in words)
    words += [] if seeded else [f"seed={record['seed']}"]
    evaluate = ["cnntrain", "eval", "run=latest", f"split={cfg.split}", f"weights={cfg.weights}"]
    return f"{shlex.join(words)}\n{shlex.join(evaluate)}"
