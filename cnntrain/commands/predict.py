"""`cnntrain predict`: classify image files with a run's network, or give each of their pixels a class."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.data.datasets.listing import left_out
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.fully_convolutional import fully_convolutional
from cnntrain.report.html import as_html
from cnntrain.report.predictions import predictions_document
from cnntrain.runs.folder import find_run, new_folder, refuse_unwritable
from cnntrain.runs.load import load_run
from cnntrain.runs.predictions import (
    PREDICTORS,
    files_as_trained,
    find_images,
    table_size,
    warning_of_unlike,
    write_table,
)
from cnntrain.runs.sentences import classified_sentences, find_sentences, longer
from cnntrain.runtime import disk
from cnntrain.runtime.devices import choose_device, prepare
from cnntrain.runtime.errors import IncompleteError, InputError, as_text
from cnntrain.runtime.progress import say, track
from cnntrain.runtime.tables import counted, render, shortened, terminal_width
from cnntrain.studies.conversion.heatmaps import heatmap
from cnntrain.studies.conversion.report import places_document
from cnntrain.tasks import kind_of

MOST_HEATMAPS = 50  # images


def run(composed: DictConfig) -> dict[str, Any]:
    """Classify or segment as configured; return what `--json` prints."""
    cfg = read_predict(composed)
    prepare(deterministic=False)
    device = choose_device(cfg.device)
    folder = find_run(cfg.run)
    net, info, settings = load_run(folder, cfg.weights, any_task=True)
    if bool(info.words) != bool(cfg.sentences):
        reads, key = ("sentences", "sentences=<file>") if info.words else ("images", "images=<value>")
        raise InputError(f"run={cfg.run} reads {reads}: give {key}")
    if cfg.sentences:
        return predict_sentences(cfg, folder, net.to(device), info, settings)
    assert cfg.images is not None
    paths, others = find_images(cfg.images)
    target = Path(cfg.output_dir) if cfg.output_dir else new_folder("predict", folder.parent.name)
    refuse_unwritable(target)
    table, page = target / "predictions.csv", target / "predictions.html"
    if table.exists():
        raise InputError(f"{table} exists already; name another output_dir")

    files = files_as_trained(paths, info, settings, invert=cfg.invert)
    invert = files.invert
    task = kind_of(info)
    predictor = PREDICTORS[task.name]
    if cfg.heatmap and info.targets != "classes":
        raise InputError(f"heatmap=true is of networks that give one answer an image; this one gives {task.gives}")
    if cfg.heatmap:
        fully_convolutional(net, info.shape)  # what has no form for maps is said before anything is read
    unreadable = dict[str, str]()
    net = net.to(device)
    parts = predictor.rows(net, files, info, cfg, unreadable, target)
    first = next(parts, None)
    if first is None:
        raise InputError(f"none of the {len(unreadable)} files can be read: {next(iter(unreadable.values()))}")
    with disk.replacing(
        table, table_size(first[0], len(files))
    ) as partial:  # which comes last: where it lies, all is done
        shown, moments = write_table(partial, itertools.chain([first], parts))
        warning = warning_of_unlike(moments, info, inverted=invert)
        if cfg.report:
            document = predictions_document(folder, shown, len(moments), info, inverted=invert, warning=warning)
            disk.write(page, as_html(document))
    heatmaps = write_heatmaps(cfg, net, info, paths, target, invert=invert) if cfg.heatmap else None
    for reason in unreadable.values():
        say(reason)
    if others:
        say(left_out(others))
    if warning:
        say(f"warning: {warning}{'' if cfg.report else '; report=true shows what the network sees'}")
    for line, _ in shown[:10]:
        print(f"{line['file']}  {predictor.words(line)}")
    print(f"{counted(len(moments), 'image')} {predictor.done}, {len(unreadable):,} unreadable: {table}")
    written = {what: str(target / place) for what, place in predictor.writes.items()}
    for what, place in (written | ({"report": str(page)} if cfg.report else {})).items():
        print(f"{what:<8} {place}")
    result = {
        "run_dir": str(folder),
        "output": str(table),
        "n": len(moments),
        "unreadable": list(unreadable),
        "left_out": others.total(),
        "warning": warning,
        "report": str(page) if cfg.report else None,
        **written,
        "heatmaps": heatmaps,
    }
    if unreadable:
        raise IncompleteError(f"{len(unreadable)} of {len(files)} files cannot be read", result)
    return result


def predict_sentences(
    cfg: schema.Predict, folder: Path, net: nn.Sequential, info: DatasetInfo, settings: schema.Options
) -> dict[str, Any]:
    """Classify sentences; return what `--json` prints."""
    assert cfg.sentences is not None
    found = find_sentences(cfg.sentences, settings)
    table = Path(cfg.output_dir or new_folder("predict", folder.parent.name)) / "predictions.csv"
    refuse_unwritable(table.parent)
    if table.exists():
        raise InputError(f"{table} exists already; name another output_dir")
    rows = list(classified_sentences(net, found, info, settings, cfg))
    disk.write(table, render(rows, "csv") + "\n")
    if cut := longer(found, info, settings):
        say(f"warning: {counted(cut, 'sentence')} longer than the network reads: the words at their ends are not seen")
    if empty := sum(not words for _, words in found):
        say(f"warning: {counted(empty, 'sentence')} without words: their class is that of padding")
    for row in rows[:10]:
        print(shortened(f"{row['class']}  {float(row['probability']):.3f}  {row['sentence']}", terminal_width()))
    print(f"{counted(len(rows), 'sentence')} classified: {table}")
    return {"run_dir": str(folder), "output": str(table), "n": len(rows)}


def read_predict(composed: DictConfig) -> schema.Predict:
    """Return the configuration, checked."""
    cfg = read_config(schema.Predict, composed)
    if not (cfg.images or cfg.sentences):
        raise InputError("images=<value> is missing (for a network that reads sentences: sentences=<file>)")
    if cfg.images and cfg.sentences:
        raise InputError("images= and sentences= are of different networks: give one of them")
    for key in ("heatmap", "report", "invert"):
        if cfg.sentences and getattr(cfg, key):
            raise InputError(f"{key}=true is of images, and sentences={cfg.sentences} names words: leave it out")
    if cfg.heatmap and not cfg.scales:
        raise InputError("scales=[] leaves no size to look at; name some in sizes of the network: scales=[1,2]")
    return cfg


check = read_predict  # of a sweep's jobs, before any of them


def write_heatmaps(
    cfg: schema.Predict, net: nn.Sequential, info: DatasetInfo, paths: Sequence[Path], target: Path, *, invert: bool
) -> list[dict[str, Any]]:
    """Write class maps of the first images as pictures and a page; return the likeliest class of each."""
    whole = fully_convolutional(net.cpu(), info.shape)
    found = []
    for path in track(paths[:MOST_HEATMAPS], min(len(paths), MOST_HEATMAPS), "heat maps"):
        try:
            found.append(heatmap(whole, path, info, cfg.scales, most=cfg.k_max, least=cfg.k_min, invert=invert))
        except InputError as error:
            say(str(error))
    if len(paths) > MOST_HEATMAPS:
        say(f"heat maps of the first {MOST_HEATMAPS} of {len(paths):,} images")
    if found:
        disk.write(target / "heatmaps.html", as_html(places_document(found, info.classes, target)))
        print(f"heat maps: {target / 'heatmaps.html'}")
    likeliest = [int(one.scores.argmax()) for one in found]
    return [
        {"file": as_text(one.path), "class": info.classes[number], "score": float(one.scores[number])}
        for one, number in zip(found, likeliest, strict=True)
    ]
