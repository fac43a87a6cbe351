"""A run as one page that needs nothing beside itself."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cnntrain.config import schema
from cnntrain.config.build import build_rates
from cnntrain.config.compose import compose, plain_config, usual_choices
from cnntrain.data.datasets.registry import checksums
from cnntrain.data.storage.images import DatasetInfo, Split
from cnntrain.nn.geometry import count_parameters, describe
from cnntrain.report import svg
from cnntrain.report.stages import network, short, stage_row, totals
from cnntrain.runs.evaluation import Evaluation
from cnntrain.runs.load import rebuild
from cnntrain.runtime.devices import machine
from cnntrain.runtime.errors import InputError, setting
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.progress import clock
from cnntrain.runtime.tables import percent
from cnntrain.stats.intervals import wilson
from cnntrain.stats.metrics import TOP5_FROM, confusions
from cnntrain.training import pictures

MOST_CELLS, MOST_FILTERS = 25, 128  # classes of a confusion matrix in numbers; filters shown

MOST_ROWS = 30  # of a table that is shown whole; a longer one scrolls in a box

Row = dict[str, Any]


def title(settings: Mapping[str, Any], info: DatasetInfo) -> str:
    """Return what the page is about: a network and its images, of a folder by that folder's name."""
    root = settings["dataset"].get("root") if info.name == "folder" else None
    return f"{network(settings['model'])} on {(root and Path(root).name) or info.name}"


def facts(net: nn.Module, found: Mapping[str, Any], record: Mapping[str, Any]) -> Row:
    """Return the few numbers beside the accuracy."""
    images = record["data"]["images"]
    top5 = {"top-5": percent(found["top5"])} if len(found["per_class"]) >= TOP5_FROM else {}
    return top5 | {
        "loss": f"{found['loss']:.4f}",
        "macro F1": f"{found['macro_f1']:.4f}",
        "parameters": f"{count_parameters(net):,}",
        "training images": f"{images['train']:,}",
        "training took": clock(record["seconds"]) if record.get("seconds") else record.get("exit", "not finished"),
    }


def changed(settings: Mapping[str, Any], record: Mapping[str, Any]) -> list[Row]:
    """Return the settings that are not the defaults of `cnntrain fit` with the chosen model, dataset and so on."""
    recipes = [word for word in record["argv"] if word.startswith("augmentation=")]
    named = [f"{group}={settings[group]['name']}" for group in ("model", "dataset", "optimizer", "schedule")]
    standard = flat(plain_config(compose("fit")))
    try:
        default = flat(plain_config(compose("fit", [*named, *recipes])))
    except InputError:  # an option of the user's own that is not available here
        default, recipes = standard, []
    rows = [{"key": "augmentation", "value": word.partition("=")[2]} for word in recipes]
    rows = [row | {"default": usual_choices("fit")["augmentation"]} for row in rows]
    for key, value in flat(settings).items():
        usual = (standard if key.endswith(".name") else default).get(key)
        if value != usual and key not in ("output_dir", "resume"):
            rows.append({"key": key, "value": words(value), "default": words(usual)})
    return rows


def words(value: object) -> str:
    """Write a setting as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def curves(records: Sequence[Row], settings: Mapping[str, Any]) -> dict[str, str]:
    """Draw loss and top-1 over the epochs and the learning rate over the steps, as SVG by caption."""
    if not records:
        return {}
    trained, validated = ([row for row in records if row["kind"] == kind] for kind in ("train", "val"))
    drawn = {}
    scales: dict[str, svg.Scale] = {"loss": "log", "top1": "share"}
    for (key, scale), caption in zip(scales.items(), ("Loss", "Top-1"), strict=True):
        lines = {"training": epoch_means(trained, key)}
        if validated:
            lines["validation"] = [(row["epoch"], row[key]) for row in validated if row[key] is not None]
        drawn[caption] = svg.curves(lines, caption, "epoch", scale)
    drawn["Learning rate"] = svg.curves({"": rates(trained, settings)}, "Learning rate", "step")
    return drawn


def rates(trained: Sequence[Row], settings: Mapping[str, Any], most: int = 1000) -> list[tuple[int, float]]:
    """Return (step, learning rate) of up to `most` of the steps that were taken, by the schedule.

    It is what was recorded, which is less, where that differs: a run may have been resumed with another schedule.
    """
    recorded = [(row["step"], row["lr"]) for row in trained]
    epochs = [(row["step"], row["epoch"]) for row in trained if "seconds" in row]  # that were trained to their end
    try:
        step, epoch = epochs[0]
        peak, schedule, length = settings["optimizer"]["lr"], settings["schedule"], settings["trainer"]["epochs"]
        planned = build_rates(schedule, peak, length, step // epoch)
        followed = all(math.isclose(planned[at - 1], rate) for at, rate in recorded)
    except (IndexError, KeyError, InputError):  # less than an epoch; an optimizer or schedule of the user's own
        return recorded
    if not followed:
        return recorded
    places = np.unique(np.linspace(1, recorded[-1][0], most).round().astype(int)).tolist()
    return [(place, planned[place - 1]) for place in places]


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


def mistakes(measured: Evaluation, split: Split, info: DatasetInfo) -> list[Row]:
    """Return the most confident wrong predictions with their pictures.

    Raises `InputError` for an image that is not the one that was evaluated.
    """
    places = pictures.worst_mistakes(measured.probabilities, measured.labels)
    rows = []
    for place, image in zip(places, evaluated(measured, split, places), strict=True):
        p = measured.probabilities[place]
        rows.append(
            {
                "picture": pictures.as_png(image),
                "true": info.classes[int(measured.labels[place])],
                "predicted": info.classes[int(p.argmax())],
                "probability": percent(float(p.max()), 1),
                "file": name_of(measured, place),
            }
        )
    return rows


def evaluated(measured: Evaluation, split: Split, places: list[int]) -> np.ndarray:
    """Return images of a split, uint8 [N, H, W, C], each held against the checksum of the one that was evaluated."""
    if not np.array_equal(split.labels.numpy(), measured.labels):
        raise outdated("the images have", measured)
    images = split.source.read(places)
    assert measured.checksums is not None
    for place in np.array(places)[checksums(images) != measured.checksums[places]]:
        raise outdated(f"{name_of(measured, place)} has", measured)
    return images.numpy()


def outdated(what: str, measured: Evaluation) -> InputError:
    """Build the error for images that are not those that were evaluated."""
    words = [
        setting("run", measured.results["run_dir"]),
        *(f"{key}={measured.results[key]}" for key in ("split", "weights")),
    ]
    command = f"cnntrain eval {' '.join(words)}"
    return InputError(f"{what} changed since {measured.folder} was made; evaluate again: {command}")


def name_of(measured: Evaluation, place: int) -> str:
    """Return the file of an image, or its number among those that are no files."""
    return f"image {place}" if measured.files is None else str(measured.files[place])


def filters(net: nn.Sequential, info: DatasetInfo) -> Row | None:
    """Return the first stage's weights as pictures, or None where they are no pictures."""
    found = pictures.first_filters(net, info.shape)
    if found is None:
        return None
    stage, kind, weights = found
    shown = [pictures.as_png(pictures.weight_picture(weight)) for weight in weights[:MOST_FILTERS]]
    labelled = kind == "templates" and len(weights) == len(info.classes)
    return {
        "kind": kind,
        "stage": stage,
        "count": len(weights),
        "pictures": list(zip(shown, info.classes if labelled else [""] * len(shown), strict=False)),
        "channels": info.shape[0],
    }


def stages(settings: Mapping[str, Any], info: DatasetInfo) -> Row:
    """Return the table of stages without the columns of which nothing is known, and what it lacks."""
    net = rebuild(settings, info, device="meta")
    found, lacking = describe(net, info.shape)
    rows = [stage_row(stage) for stage in found]
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return {
        "columns": columns,
        "counts": list(short(totals(found))),
        "rows": [[row[name] for name in columns] for row in rows],
        "parameters": sum(stage.params for stage in found),
        "macs": sum(stage.macs for stage in found),
        "lacking": lacking,
        "one": getattr(net, "observe_only", None),
    }


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
