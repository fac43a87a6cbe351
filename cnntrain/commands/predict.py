"""`cnntrain predict`: classify image files with a run's network."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from cnntrain import config, runs, schema
from cnntrain.commands.loading import load_run
from cnntrain.data.feeds import sweep
from cnntrain.data.images import decode, pillow_rules, suffixes
from cnntrain.data.sources import Centre, Pixels, Split
from cnntrain.devices import choose_device, choose_precision, prepare
from cnntrain.errors import InputError
from cnntrain.files import expanded
from cnntrain.progress import say, track
from cnntrain.training.evaluate import outputs


def run(composed: DictConfig) -> dict[str, Any]:
    """Classify as configured; return what `--json` prints."""
    cfg = config.read(schema.Predict, composed)
    prepare(deterministic=False)
    device = choose_device(cfg.device)
    folder = runs.find(cfg.run)
    net, card, settings = load_run(folder, cfg.weights)
    paths = find_images(cfg.images)
    target = Path(cfg.output_dir) if cfg.output_dir else runs.new_folder("predict", folder.parent.name)
    table = target / "predictions.csv"
    if table.exists():
        raise InputError(f"{table} exists already; name another output_dir")

    kept = settings["dataset"].get("stored_size")
    images, read, unreadable = decode_files(paths, (card.shape[0], kept, kept) if kept else card.shape)
    if not read:
        raise InputError(f"none of the {len(paths)} files can be read; the first: {next(iter(unreadable.values()))}")
    split = Split(Centre(Pixels(images), card.shape[1:]), torch.zeros(len(read), dtype=torch.int64))
    batches = sweep(split, card, batch_size=cfg.batch_size, device=device)
    result = outputs(net.to(device), batches, precision=choose_precision(cfg.precision, device))
    rows = [row(path, logits, card.classes) for path, logits in zip(read, result.logits.softmax(dim=1), strict=True)]

    target.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as sink:
        writer = csv.DictWriter(sink, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for reason in unreadable.values():
        say(reason)
    for line in rows[:10]:
        print(f"{line['file']}  {line['class']}  {float(line['probability']):.3f}")
    print(f"{len(rows):,} images classified, {len(unreadable):,} unreadable: {table}")
    return {"run_dir": str(folder), "output": str(table), "n": len(rows), "unreadable": [str(p) for p in unreadable]}


def find_images(wanted: Sequence[str] | str) -> list[Path]:
    """Return the files that a path, a folder, a pattern, or a list of these mean, in order.

    Raises `InputError` for a path or pattern that matches nothing.
    """
    found: list[Path] = []
    for text in [wanted] if isinstance(wanted, str) else wanted:
        path = expanded(text)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes())
        elif path.is_file():
            matches = [path]
        else:
            anchor = Path(path.anchor) if path.is_absolute() else Path()
            matches = sorted(p for p in anchor.glob(str(path.relative_to(path.anchor))) if p.is_file())
        if not matches:
            raise InputError(f"images={text}: there is no such image")
        found += matches
    return found


def decode_files(paths: Sequence[Path], shape: tuple[int, int, int]) -> tuple[Tensor, list[Path], dict[Path, str]]:
    """Return the pixels uint8 [N, H, W, C] of the files that can be read, their paths, and why others cannot."""
    channels, height, width = shape
    images, read, unreadable = [], [], {}
    with pillow_rules():
        for path in track(paths, len(paths), "decoding"):
            try:
                images.append(torch.from_numpy(decode(path, (height, width), channels, resize=True).copy()))
                read.append(path)
            except InputError as error:
                unreadable[path] = str(error)
    return torch.stack(images) if images else torch.empty(0), read, unreadable


def row(path: Path, probabilities: Tensor, classes: Sequence[str]) -> dict[str, str]:
    """Return a line of the table: file, class, probability, and the five likeliest."""
    likely = likeliest(probabilities, classes)
    return {"file": str(path), "class": likely["top1"], "probability": likely["top1_probability"], **likely}


def likeliest(probabilities: Tensor, classes: Sequence[str]) -> dict[str, str]:
    """Return the five likeliest classes of an image and their probabilities, as columns of a table."""
    line: dict[str, str] = {}
    for rank, (value, index) in enumerate(zip(*probabilities.topk(min(5, len(classes))), strict=True), 1):
        line |= {f"top{rank}": classes[int(index)], f"top{rank}_probability": f"{value:.6f}"}
    return line
