"""Image files classified or segmented by a run's network, and the table that says so."""

import csv
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cnntrain.config import schema
from cnntrain.data.datasets.listing import IMAGE, image_files, is_seen, kind, left_out
from cnntrain.data.loading.loader import eval_batches
from cnntrain.data.storage.decode import upright_size
from cnntrain.data.storage.images import Centre, DatasetInfo, Files, Pixels, Split, decode_all
from cnntrain.data.storage.masks import in_file, write_mask
from cnntrain.nn.precision import precision_for
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, as_text
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import counting
from cnntrain.runtime.tables import percent
from cnntrain.tasks import kind_of, task_for
from cnntrain.tasks.classification import answer_columns
from cnntrain.tasks.detection import Detection
from cnntrain.tasks.segmentation import palette
from cnntrain.training.boxes import LIKELY, drawn
from cnntrain.training.evaluate import outputs

HELD = 256  # images that are in memory at once, or a batch

SHOWN = 100  # images on the page
MASKS, BOXES, PICTURES = "masks", "boxes.json", "pictures"  # beside the table

TableRow = dict[str, str]  # of the table, by column
TableParts = Iterator[tuple[list[TableRow], Tensor]]


@dataclass(frozen=True)
class Predictor:
    """What becomes of a network's answers to image files."""

    rows: Callable[[nn.Sequential, Files, DatasetInfo, schema.Predict, dict[str, str], Path], TableParts]
    words: Callable[[Mapping[str, str]], str]  # what a line of the table says, for the person
    done: str  # what was done to the images
    writes: Mapping[str, str]  # what lies in the folder beside the table, by the word for it
    stretch: bool = False  # whether images are scaled to the network's size, instead of until they cover it


def find_images(wanted: Sequence[str] | str) -> tuple[list[Path], Counter[str]]:
    """Return the files that a path, a folder, a pattern, or a list of these mean, in order, and what is none of them.

    In folders and patterns an image is what training takes for one; a file that is named is taken as it is. Raises
    `InputError` for what matches no image, or is not a regular file.
    """
    paths, others = list[Path](), Counter[str]()
    for text in [wanted] if isinstance(wanted, str) else wanted:
        path = expanded(text)
        if path.is_file() and text:
            paths.append(path)
            continue
        if path.is_dir() and text:
            names, left = image_files(path)
            matches = [path / name for name in names]
        elif path.exists():
            raise InputError(f"images={text} is not a regular file")
        else:
            matches, left = matching_files(path)
        if not matches:
            raise InputError(f"images={text}: there is no such image" + (f"; {left_out(left)}" if left else ""))
        paths += matches
        others += left
    if not paths:
        raise InputError("images names no file, folder or pattern")
    return paths, others


def matching_files(pattern: Path) -> tuple[list[Path], Counter[str]]:
    """Return the image files that match a pattern, sorted, and how many other files do.

    Raises `InputError` for what is no pattern.
    """
    fixed = Path(*itertools.takewhile(lambda part: not set(part) & set("*?["), pattern.parts))
    images, others = list[Path](), Counter[str]()
    try:
        matches = sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    except ValueError as error:
        raise InputError(f"images={pattern}: {error}") from error
    for path in matches:
        if path.is_dir() or not all(map(is_seen, path.relative_to(fixed).parts)):
            continue
        if (what := kind(path)) == IMAGE:
            images.append(path)
        else:
            others[what] += 1
    return images, others


def files_as_trained(
    paths: Sequence[Path], info: DatasetInfo, settings: schema.Options, *, invert: bool | None = None
) -> Files:
    """Return image files as a run with these settings stored its own; `invert` overrides what it did."""
    kept = settings["dataset"].get("stored_size")
    size = (kept, kept) if kept else info.shape[1:]
    inverted = settings["dataset"].get("invert", False) if invert is None else invert
    stretch = PREDICTORS[kind_of(info).name].stretch
    return Files(Path(), list(map(str, paths)), size, info.shape[0], resize=True, stretch=stretch, invert=inverted)


def classified(
    net: nn.Sequential, files: Files, info: DatasetInfo, cfg: schema.Predict, unreadable: dict[str, str], folder: Path
) -> TableParts:
    """Yield lines of the table with the pixels that the network saw, uint8 [N, H, W, C], some of the files at a time.

    The files that cannot be read go into `unreadable`, each with the reason; what is written besides lies in `folder`.
    """
    for paths, seen, logits in answered(net, files, info, cfg, unreadable):
        yield [table_row(*pair, info.classes) for pair in zip(paths, logits.softmax(dim=1), strict=True)], seen


def names_apart(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a name for what is made of each file: its own without suffix, or where two have one, its path's parts."""
    if len({path.stem for path in paths}) == len(paths):
        return {path: path.stem for path in paths}
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return {path: "_".join(path.absolute().relative_to(common).parts).replace(".", "_") for path in paths}


def segmented(
    net: nn.Sequential, files: Files, info: DatasetInfo, cfg: schema.Predict, unreadable: dict[str, str], folder: Path
) -> TableParts:
    """Do the same with masks: a PNG for each image in `folder`/masks, whose palette has a colour for each class.

    A mask has the pixels of its file; those beyond what the network sees have no class (255).
    """
    names = names_apart([files.path(position) for position in range(len(files))])
    masks = folder / MASKS
    masks.mkdir(parents=True, exist_ok=True)
    colours = palette(256)
    for paths, seen, logits in answered(net, files, info, cfg, unreadable):
        rows = []
        for path, labels in zip(paths, logits.argmax(dim=1).to(torch.uint8).numpy(), strict=True):
            mask = masks / f"{names[path]}.png"
            write_mask(in_file(labels, upright_size(path), files.size, info.shape[1:]), mask, colours)
            shares = np.bincount(labels.ravel(), minlength=len(info.classes)) / labels.size
            of_class = {f"share of {name}": f"{share:.6f}" for name, share in zip(info.classes, shares, strict=True)}
            rows.append({"file": as_text(path), "mask": as_text(mask), **of_class})
        yield rows, seen


def detected(
    net: nn.Sequential, files: Files, info: DatasetInfo, cfg: schema.Predict, unreadable: dict[str, str], folder: Path
) -> TableParts:
    """Do the same with boxes: `boxes.json` in `folder` has those of a score of 0.2 and more, and a picture shows them.

    Boxes are in pixels of the file.
    """
    task = task_for(info)
    assert isinstance(task, Detection)
    everything, names = list[dict[str, object]](), names_apart([files.path(place) for place in range(len(files))])
    folder.mkdir(parents=True, exist_ok=True)
    for paths, seen, answer in answered(net, files, info, cfg, unreadable):
        rows = []
        for path, image, found in zip(paths, seen.numpy(), task.detections(answer).numpy(), strict=True):
            likely = found[(found[:, 0] >= 0) & (found[:, 1] >= LIKELY)]
            shown = folder / PICTURES / f"{names[path]}.png"
            shown.parent.mkdir(exist_ok=True)
            Image.fromarray(drawn(image, likely, np.zeros((0, 6)), info.classes)).save(shown)
            height, width = upright_size(path)
            scale = [width / info.shape[2], height / info.shape[1]] * 2
            boxes = [
                {"class": info.classes[int(label)], "score": float(score), "box": [*map(float, np.array(box) * scale)]}
                for label, score, *box in likely
            ]
            everything.append({"file": as_text(path), "width": width, "height": height, "boxes": boxes})
            counts = Counter(info.classes[int(label)] for label in likely[:, 0])
            of_class = {f"{name} boxes": str(counts[name]) for name in info.classes}
            rows.append({"file": as_text(path), "picture": as_text(shown), **of_class})
        yield rows, seen
    write_json(folder / BOXES, everything)


def found_boxes(row: Mapping[str, str]) -> str:
    """Return how many boxes of each class an image has, from its line of the table."""
    counts = {key.removesuffix(" boxes"): int(value) for key, value in row.items() if key.endswith(" boxes")}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing"


def largest_classes(row: Mapping[str, str], most: int = 3) -> str:
    """Return the classes that fill most of an image, with their shares, from its line of the table."""
    shares = {key.removeprefix("share of "): float(value) for key, value in row.items() if key.startswith("share of ")}
    named = sorted(shares, key=lambda name: -shares[name])[:most]
    return ", ".join(f"{name} {percent(shares[name], 1)}" for name in named if shares[name])


def class_words(row: Mapping[str, str]) -> str:
    """Return the class of an image with its probability, from its line of the table."""
    return f"{row['class']}  {float(row['probability']):.3f}"


PREDICTORS: dict[str, Predictor] = {  # by task
    "classification": Predictor(classified, class_words, "classified", {}),
    "segmentation": Predictor(segmented, largest_classes, "segmented", {"masks": MASKS}),
    "detection": Predictor(detected, found_boxes, "searched", {"boxes": BOXES, "pictures": PICTURES}, stretch=True),
}


def answered(
    net: nn.Sequential, files: Files, info: DatasetInfo, cfg: schema.Predict, unreadable: dict[str, str]
) -> Iterator[tuple[list[Path], Tensor, Tensor]]:
    """Yield files with the pixels that the network saw, uint8 [N, H, W, C], and its answers, some at a time."""
    device = next(net.parameters()).device
    precision = precision_for(cfg.precision, device, (net, info.shape))
    at_once = cfg.batch_size * -(-HELD // cfg.batch_size)
    with counting(len(files), "predict", "image") as progress:
        for start in range(0, len(files), at_once):
            some = files.take(np.arange(start, min(start + at_once, len(files))))
            images, good = torch.empty(len(some), *some.shape, dtype=torch.uint8), np.ones(len(some), dtype=bool)
            with closing(decode_all(some, images.numpy().__setitem__, lambda *_: None)) as bad_files:
                for position, error in bad_files:
                    unreadable[as_text(some.path(position))], good[position] = str(error), False
            places = np.flatnonzero(good).tolist()
            seen = Centre(Pixels(images), info.shape[1:]).read(places)
            split = Split(Pixels(seen), torch.zeros(len(seen), dtype=torch.int64))
            batches = eval_batches(split, info, batch_size=cfg.batch_size, device=device)
            logits = outputs(net, batches, precision=precision).logits
            progress(len(some))
            if len(places):
                yield [some.path(place) for place in places], seen, logits


def write_table(
    table: Path, parts: Iterable[tuple[list[TableRow], Tensor]]
) -> tuple[list[tuple[TableRow, np.ndarray]], Tensor]:
    """Write the table; return its first lines with what the network saw, and `mean_and_contrast` of all images."""
    shown, moments = list[tuple[TableRow, np.ndarray]](), list[Tensor]()
    with table.open("w", newline="", encoding="utf-8") as sink:
        writer: csv.DictWriter[str] | None = None
        for lines, seen in parts:
            if writer is None:
                writer = csv.DictWriter(sink, lines[0], lineterminator="\n")
                writer.writeheader()
            writer.writerows(lines)
            moments.append(mean_and_contrast(seen))
            shown += list(zip(lines, seen.numpy(), strict=True))[: SHOWN - len(shown)]
    return shown, torch.cat(moments)


def table_size(rows: Sequence[TableRow], count: int) -> int:
    """Return about how many bytes a table of `count` rows like these has."""
    return count * sum(len(",".join(row.values()).encode()) + 1 for row in rows) // len(rows)


def table_row(path: Path, probabilities: Tensor, classes: Sequence[str]) -> TableRow:
    """Return a line of the table: file, class, probability, and the five likeliest."""
    return {"file": as_text(path), **answer_columns(probabilities, classes, "class")}


def mean_and_contrast(images: Tensor) -> Tensor:
    """Return the mean and the standard deviation of the pixels of each image uint8 [N, H, W, C], in 0..1: [N, 2]."""
    pixels = images.flatten(1, 2).float() / 255
    return torch.stack([pixels.mean(dim=(1, 2)), pixels.var(dim=1, correction=0).mean(dim=1).sqrt()], dim=1)


def warning_of_unlike(moments: Tensor, info: DatasetInfo, *, inverted: bool) -> str | None:
    """Say how images of these means and contrasts [N, 2] differ from those of the training, where they differ far.

    It goes by the medians, which a few odd images do not move. Of photographs (CIFAR-10, Tiny ImageNet) one in 300 has
    a mean that lies 1.5 standard deviations of the training pixels from theirs, of three photographs the median one in
    200 times lies one standard deviation away; one in 200 has less than a quarter of their contrast.
    """
    mean, contrast = moments.median(dim=0).values.tolist()
    usual, deviation = float(np.mean(info.mean)), float(np.sqrt(np.mean(np.square(info.std))))
    away = abs(mean - usual) / deviation
    if away <= (1.0 if len(moments) > 2 else 1.5) and deviation / 4 <= contrast <= 2 * deviation:
        return None
    mirrored = abs(1 - mean - usual) / deviation < away / 2
    hint = f"; if what is dark here was light there, take invert={str(not inverted).lower()}" if mirrored else ""
    return (
        f"these images are unlike those of the training: mean {mean:.2f} instead of {usual:.2f}, contrast "
        f"{contrast:.2f} instead of {deviation:.2f} (of 0 to 1){hint}"
    )
