"""Boxes around what images show: read from lists, and brought to the pixels that a network sees."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cnntrain.data.storage.decode import covering_size, upright_size
from cnntrain.data.storage.images import Source, central, files_of, stored
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, as_text, listed

LISTS = (".txt", ".csv", ".tsv")


def read_boxes(where: str) -> dict[str, np.ndarray]:
    """Return the boxes of each file by its name, float [B, 4]: left, top, right and bottom edge in the file's pixels.

    Lists have a line for each box: the file, perhaps more words, and the first and last column and row of pixels that
    belong to it (x1 y1 x2 y2, counted from 0). Words are separated by tabs, commas or spaces.

    Raises `InputError` for a folder without lists, and for a line that is none of this.
    """
    path, boxes = expanded(where), defaultdict[str, list[list[float]]](list)
    lists = sorted(file for file in path.iterdir() if file.suffix in LISTS) if path.is_dir() else [path]
    if not lists:
        raise InputError(f"dataset.boxes={where}: the folder has no list of boxes ({', '.join(LISTS)})")
    for file in lists:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"dataset.boxes={where}: cannot read {as_text(file)}") from error
        for number, line in enumerate(lines, 1):
            words = [word.strip() for word in re.split(r"[\t,]", line)] if re.search(r"[\t,]", line) else line.split()
            if words and not (number == 1 and not words[-1].isdecimal()):  # a heading
                boxes[words[0]].append(edges_in(words, f"{as_text(file)}, line {number}"))
    return {name: np.array(some) for name, some in boxes.items()}


def edges_in(words: Sequence[str], place: str) -> list[float]:
    """Return the edges of the box that a line of words says."""
    try:
        left, top, right, bottom = (float(word) for word in words[1:][-4:])
    except ValueError as error:
        raise InputError(f"{place} is not a file and x1 y1 x2 y2: {' '.join(words)}") from error
    if right < left or bottom < top:
        raise InputError(f"{place}: the box ends before it begins ({left:g} {top:g} {right:g} {bottom:g})")
    return [left, top, right + 1, bottom + 1]


def seen_boxes(boxes: Mapping[str, np.ndarray], source: Source, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the boxes [B, 4] of each image of `source`, in the pixels of what is seen at `size` (height, width).

    Raises `InputError` for images that are no files, or have no box.
    """
    files = files_of(source)
    if files is None:
        raise InputError("dataset.boxes= names files, and this run's images lie in no files of their own")
    names = [files.path(i).name for i in range(len(files))]
    if without := [name for name in names if name not in boxes]:
        raise InputError(f"dataset.boxes= has no box for {listed([as_text(name) for name in without])}")
    kept = stored(source).shape[:2]
    return [as_seen(boxes[name], files.path(i), kept, size) for i, name in enumerate(names)]


def as_seen(boxes: np.ndarray, path: Path, kept: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return boxes [B, 4] of a file that is scaled to cover `kept`, and whose middle is seen at `size`."""
    have, moved = upright_size(path), boxes.copy()
    covered, begin = covering_size(have, kept)
    for axis, (first, end) in enumerate(central(kept, size)):
        edges = slice(1 - axis, None, 2)  # top and bottom, left and right
        places = boxes[:, edges] * covered[axis] / have[axis] - begin[axis] - first
        moved[:, edges] = (places * size[axis] / (end - first)).clip(0, size[axis])
    return moved
