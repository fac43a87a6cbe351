"""A run as a document: what it reached, how it came about, and where it errs."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cnntrain.config import schema
from cnntrain.config.build import build_rates
from cnntrain.config.compose import compose, plain_config, usual_choices
from cnntrain.data.datasets.fingerprint import checksums
from cnntrain.data.storage.images import DatasetInfo, Split
from cnntrain.data.storage.words import as_numbers, written
from cnntrain.nn.geometry import count_parameters, describe
from cnntrain.report import boxes, maps, svg
from cnntrain.report.document import (
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Facts,
    Figure,
    Gallery,
    Mark,
    Matrix,
    Panels,
    Paragraph,
    Picture,
    Section,
    Share,
    Table,
)
from cnntrain.report.epochs import epoch_means
from cnntrain.report.gradients import gradient_blocks
from cnntrain.report.stages import network, stage_row
from cnntrain.runs.evaluation import Evaluation
from cnntrain.runs.folder import read_metrics
from cnntrain.runs.load import rebuild
from cnntrain.runtime.devices import machine
from cnntrain.runtime.errors import InputError, setting
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.progress import clock
from cnntrain.runtime.tables import cell, percent
from cnntrain.stats.intervals import wilson
from cnntrain.stats.metrics import TOP5_FROM, confusions
from cnntrain.tasks import kind_of
from cnntrain.tasks.task import Headline
from cnntrain.training import pictures

MOST_CELLS, MOST_FILTERS = 25, 128  # classes of a confusion matrix in numbers; filters shown
FEW_PIXELS = 100  # a side: smaller images are enlarged without blur

JsonRow = dict[str, Any]


def run_document(
    folder: Path,
    cfg: schema.Report,
    net: nn.Sequential,
    info: DatasetInfo,
    settings: Mapping[str, Any],
    record: Mapping[str, Any],
    measured: Evaluation,
    split: Split,
) -> Document:
    """Return the document of a run's network and its evaluation on `split`.

    Raises `InputError` for an image that is not the one that was evaluated.
    """
    results, headline, training = measured.results, measured.headline, read_metrics(folder)
    sections = [
        Section("Setting", setting_blocks(settings, record)),
        Section("Training", curves(training, settings, headline)),
        Section("Gradients", gradient_blocks(training)),
        *SECTIONS[kind_of(info).name](net, measured, split, info),
        Section("First stage", filter_blocks(net, info)),
        Section("Layers", layer_blocks(settings, info)),
        Section("Provenance", provenance_blocks(record, results["record"], cfg)),
    ]
    return Document(
        title(settings, info),
        (Mark(f"{cfg.split} {headline.label}", "strong"), f" {headline.interval(results)}"),
        [
            Paragraph((f"{cfg.weights} weights of ", Mark(str(folder))), quiet=True),
            Facts(facts(net, results, record, info.noun)),
        ],
        [section for section in sections if section.blocks],
    )


def class_sections(net: nn.Module, measured: Evaluation, split: Split, info: DatasetInfo) -> list[Section]:
    """Return what a classifier answers, class by class, and where it errs."""
    return [
        Section("Classes", class_blocks(measured.results["per_class"], info.noun)),
        Section("Confusion", confusion_blocks(measured.results["confusion"], info.classes)),
        Section("Calibration", calibration_blocks(measured, info.noun)),
        Section("Worst mistakes", mistake_blocks(measured, split, info)),
    ]


def map_sections(net: nn.Module, measured: Evaluation, split: Split, info: DatasetInfo) -> list[Section]:
    """Return which classes a network gives pixels, and the images of which it gives most wrongly."""
    names = [name_of(measured, place, info.noun) for place in range(measured.results["n"])]
    return [
        Section("Classes", maps.class_blocks(measured.results)),
        Section("Confusion", confusion_blocks(measured.results["confusion"], info.classes)),
        Section("Worst images", maps.worst_blocks(net, measured, split, info, names)),
    ]


def box_sections(net: nn.Module, measured: Evaluation, split: Split, info: DatasetInfo) -> list[Section]:
    """Return how well a network finds each class, and the images in which it misses most."""
    return [
        Section("Classes", boxes.class_blocks(measured.results)),
        Section("Worst images", boxes.worst_blocks(measured, split, info)),
    ]


# By task: what a network answers.
SECTIONS = {"classification": class_sections, "segmentation": map_sections, "detection": box_sections}


def title(settings: Mapping[str, Any], info: DatasetInfo) -> str:
    """Return what the page is about: a network and its images."""
    return f"{network(settings['model'])} on {info}"


def facts(net: nn.Module, results: Mapping[str, Any], record: Mapping[str, Any], noun: str) -> JsonRow:
    """Return the few numbers beside the accuracy."""
    images = record["data"]["images"]
    shares = {
        "map50_11": "VOC 2007, 11 points",
        "map": "COCO",
        "top5": "top-5",
        "pixel_accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy",
    }
    few = len(results["per_class"]) < TOP5_FROM
    named = {
        word: percent(results[key]) for key, word in shares.items() if key in results and not (few and key == "top5")
    }
    f1 = {"macro F1": f"{results['macro_f1']:.4f}"} if "macro_f1" in results else {}
    return {
        **named,
        "loss": f"{results['loss']:.4f}",
        **f1,
        "parameters": f"{count_parameters(net):,}",
        f"training {noun}s": f"{images['train']:,}",
        "training took": clock(record["seconds"]) if record.get("seconds") else record.get("exit", "not finished"),
    }


# Setting.


def setting_blocks(settings: Mapping[str, Any], record: Mapping[str, Any]) -> list[Block]:
    """Return what differs from the defaults, and the whole configuration."""
    rows = changed(settings, record)
    blocks: list[Block] = [Paragraph(("These are the defaults of ", Mark("cnntrain fit"), "."))]
    if rows:
        blocks = [Paragraph(("What differs from the defaults of ", Mark("cnntrain fit"), "."), quiet=True), Table(rows)]
    return [*blocks, Details("The whole configuration", [Code(json.dumps(settings, indent=2, ensure_ascii=False))])]


def changed(settings: Mapping[str, Any], record: Mapping[str, Any]) -> list[JsonRow]:
    """Return the settings that are not the defaults of `cnntrain fit` with the chosen model, dataset and so on."""
    recipes = [word for word in record["argv"] if word.startswith("augmentation=")]
    named = [f"{group}={settings[group]['name']}" for group in ("model", "dataset", "optimizer", "schedule")]
    standard = flat(plain_config(compose("fit")))
    try:
        default = flat(plain_config(compose("fit", [*named, *recipes])))
    except InputError:  # an option of the user's own that is not available here
        default, recipes = standard, []
    usual_recipe = usual_choices("fit")["augmentation"]
    rows = [{"key": Mark("augmentation"), "value": word.partition("=")[2], "default": usual_recipe} for word in recipes]
    for key, value in flat(settings).items():
        usual = (standard if key.endswith(".name") else default).get(key)
        if value != usual and key not in ("output_dir", "resume"):
            rows.append({"key": Mark(key), "value": words(value), "default": words(usual)})
    return rows


def words(value: object) -> str:
    """Write a setting as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Curves.


def curves(records: Sequence[JsonRow], settings: Mapping[str, Any], headline: Headline) -> list[Block]:
    """Draw loss and headline over the epochs, and the learning rate over the steps."""
    if not records:
        return []
    trained, validated = ([row for row in records if row["kind"] == kind] for kind in ("train", "val"))
    figures = []
    scales: list[tuple[str, svg.AxisScale, str]] = [
        ("loss", "log", "Loss"),
        (headline.key, "share", headline.label.capitalize() if headline.label.islower() else headline.label),
    ]
    for key, scale, caption in scales:
        lines = {} if key == headline.key and not headline.of_steps else {"training": epoch_means(trained, key)}
        if validated:
            lines["validation"] = [(row["epoch"], row[key]) for row in validated if row[key] is not None]
        alternative = f"{caption} over the epochs: {' and '.join(lines)}"
        figures.append(Figure(svg.curves(lines, caption, "epoch", scale), alternative, caption))
    drawing = svg.curves({"": rates(trained, settings)}, "Learning rate", "step")
    return [Panels([*figures, Figure(drawing, "Learning rate over the steps", "Learning rate")])]


def rates(trained: Sequence[JsonRow], settings: Mapping[str, Any], most: int = 1000) -> list[tuple[int, float]]:
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


# Where it is right and where it errs.


def class_blocks(per_class: Sequence[JsonRow], noun: str) -> list[Block]:
    """Return the table of the classes, the worst first."""
    explained = (
        f"Recall is the share of a class's {noun}s that are recognised, with its 95 % interval. The worst come first."
    )
    return [Paragraph(explained, quiet=True), Table([class_row(row) for row in by_recall(per_class)])]


def by_recall(per_class: Sequence[JsonRow]) -> list[JsonRow]:
    """Return the classes with the lowest recall first, those without images last."""
    return sorted(per_class, key=lambda row: (row["n"] == 0, row["recall"]))


def class_row(row: JsonRow) -> JsonRow:
    """Return a class as a line of the table; of one without images nothing is known."""
    if not row["n"]:
        return {"class": row["class"], "n": 0} | dict.fromkeys(("recall", "interval", "precision", "F1"))
    low, high = wilson(round(row["recall"] * row["n"]), row["n"])
    return {
        "class": row["class"],
        "n": row["n"],
        "recall": Share(row["recall"]),
        "interval": f"{100 * low:.1f} … {100 * high:.1f}",
        "precision": percent(row["precision"], 1),
        "F1": f"{row['f1']:.3f}",
    }


def confusion_blocks(counts: list[list[int]], classes: Sequence[str]) -> list[Block]:
    """Return the confusion matrix, in numbers or as a picture of many classes, and the most frequent confusions."""
    few = len(classes) <= MOST_CELLS
    picture = "" if few else pictures.as_png(pictures.heat_picture(np.array(counts)))
    matrix = Matrix(list(classes), counts) if few else Figure(picture, "confusion matrix, each row's shares as opacity")
    frequent = confusions(counts, list(classes), most=5 if few else 20)
    order = "" if few else ", both in the order of the dataset"
    explained = f"Rows are the true classes, columns the predictions{order}."
    return [
        matrix,
        Paragraph(explained + (" Most often confused:" if frequent else ""), quiet=True),
        *([Bullets(frequent)] if frequent else []),
    ]


def calibration_blocks(measured: Evaluation, noun: str) -> list[Block]:
    """Return the calibration error and curve."""
    drawing, error = svg.reliability(measured.probabilities, measured.labels), percent(measured.results["ece"])
    return [
        Paragraph(f"The expected calibration error is {error}. On the diagonal accuracy and confidence are equal."),
        Panels([Figure(drawing, "Accuracy against confidence, in tenths of the confidence")]),
        Paragraph(
            f"The number of {noun}s stands above each tenth of the confidence. A bar through a point is the 95 % "
            f"interval; points of fewer than {svg.FEW} {noun}s are faint.",
            quiet=True,
        ),
    ]


def mistake_blocks(measured: Evaluation, split: Split, info: DatasetInfo) -> list[Block]:
    """Return the most confident wrong predictions with their pictures.

    Raises `InputError` for an image that is not the one that was evaluated.
    """
    places = pictures.worst_mistakes(measured.probabilities, measured.labels)
    if not places:
        return [Paragraph(f"None: every {info.noun} is recognised.")]
    if info.words:
        return [Table(sentence_mistakes(measured, evaluated(measured, split, places, info.noun), places, info))]
    shown = []
    for place, image in zip(places, evaluated(measured, split, places, info.noun), strict=True):
        p = measured.probabilities[place]
        file = name_of(measured, place, info.noun)
        lines = (
            percent(float(p.max()), 1),
            f"true: {info.classes[int(measured.labels[place])]}",
            Path(file).name,
        )
        shown.append(Picture(pictures.as_png(image), file, info.classes[int(p.argmax())], lines))
    return [
        Paragraph("The wrong predictions with the highest probability, each over the true class.", quiet=True),
        Gallery(shown, few_pixels=max(info.shape[1:]) < FEW_PIXELS),
    ]


def sentence_mistakes(
    measured: Evaluation, pixels: np.ndarray, places: Sequence[int], info: DatasetInfo
) -> list[JsonRow]:
    """Return the most confident wrong predictions of sentences, uint8 [N, length, 1, 3], as lines of a table."""
    sentences = [written(numbers, info.words) for numbers in as_numbers(torch.from_numpy(pixels))]
    shares = measured.probabilities[places]
    return [
        {
            "sentence": text,
            "predicted": info.classes[int(p.argmax())],
            "probability": float(p.max()),
            "true": info.classes[int(measured.labels[place])],
        }
        for text, p, place in zip(sentences, shares, places, strict=True)
    ]


def evaluated(measured: Evaluation, split: Split, places: list[int], noun: str) -> np.ndarray:
    """Return images of a split, uint8 [N, H, W, C], each compared with the checksum of the one that was evaluated."""
    if not np.array_equal(split.labels.numpy(), measured.labels):
        raise outdated(f"the {noun}s have", measured)
    images = split.source.read(places)
    assert measured.checksums is not None
    for place in np.array(places)[checksums(images) != measured.checksums[places]]:
        raise outdated(f"{name_of(measured, place, noun)} has", measured)
    return images.numpy()


def outdated(what: str, measured: Evaluation) -> InputError:
    """Build the error for images that are not those that were evaluated."""
    words = [
        setting("run", measured.results["run_dir"]),
        *(f"{key}={measured.results[key]}" for key in ("split", "weights")),
    ]
    command = f"cnntrain eval {' '.join(words)}"
    return InputError(f"{what} changed since {measured.folder} was made; evaluate again: {command}")


def name_of(measured: Evaluation, place: int, noun: str) -> str:
    """Return the file of an image, or its number among those that are no files."""
    return f"{noun} {place}" if measured.files is None else str(measured.files[place])


# The network.


def filter_blocks(net: nn.Sequential, info: DatasetInfo) -> list[Block]:
    """Return the first stage's weights as pictures; nothing where they are no pictures."""
    first = pictures.first_filters(net, info.shape)
    if first is None:
        return []
    stage, kind, weights = first
    labelled = kind == "templates" and len(weights) == len(info.classes)
    names = info.classes if labelled else [""] * len(weights)
    shown = [
        Picture(pictures.as_png(pictures.weight_picture(weight)), f"{kind} {i}", lines=(name,) if name else ())
        for i, (weight, name) in enumerate(zip(weights[:MOST_FILTERS], names, strict=False))
    ]
    scale = "red is positive, blue negative, white 0" if info.shape[0] == 1 else "grey is 0 in every channel"
    part = f", the first {len(shown)} shown" if len(shown) < len(weights) else ""
    explained = (f"{len(weights):,} {kind} of ", Mark(stage), f"{part}, each scaled by its largest weight: {scale}.")
    return [Paragraph(explained, quiet=True), Gallery(shown, few_pixels=True, narrow=True)]


def layer_blocks(settings: Mapping[str, Any], info: DatasetInfo) -> list[Block]:
    """Return the table of stages without the columns of which nothing is known, and what it lacks."""
    net = rebuild(settings, info, device="meta")
    stages, lacking = describe(net, info.shape)
    parameters, macs = (cell(sum(getattr(stage, key) for stage in stages)) for key in ("params", "macs"))
    single = getattr(net, "observe_only", None)
    explained = [
        f"{parameters} parameters, {macs} multiplications (MACs) for each {info.noun}.",
        f"The network comes as one stage, since its parts are no chain: {single}." if single else "",
        f"The table is {lacking}."
        if lacking
        else f"Receptive field and stride are in {'words' if info.words else 'pixels of the image'}.",
    ]
    return [Paragraph(" ".join(filter(None, explained)), quiet=True), Table(known_columns(map(stage_row, stages)))]


def known_columns(rows: Iterable[JsonRow]) -> list[JsonRow]:
    """Return rows without the columns in which all are None."""
    table = list(rows)
    names = [name for name in table[0] if any(row[name] is not None for row in table)]
    return [{name: row[name] for name in names} for row in table]


# Where it comes from.


def provenance_blocks(record: Mapping[str, Any], measured: Mapping[str, Any], cfg: schema.Report) -> list[Block]:
    """Return how the run came about, and the commands that repeat it."""
    return [
        Facts(provenance(record, measured)),
        Paragraph("The command as it was typed:", quiet=True),
        Code(shlex.join(record["argv"])),
        Paragraph("To repeat it:", quiet=True),
        Code(again(record, cfg)),
    ]


def provenance(record: Mapping[str, Any], measured: Mapping[str, Any]) -> JsonRow:
    """Return what is known of how the run came about, in words."""
    rows = {
        "started": record["started"],
        "status": record.get("exit", "not finished"),
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
