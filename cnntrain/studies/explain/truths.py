"""Where it is written what lies where in images: boxes in lists, masks in files; brought to what a network sees."""

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cnntrain.data.storage.decode import covering_size, suffixes, upright_size
from cnntrain.data.storage.images import IGNORED, Source, central, files_of, nearest_positions, stored
from cnntrain.data.storage.masks import covered, read_mask
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, as_text, listed
from cnntrain.studies.explain.localisation import Boxes, Mask

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


def seen_boxes(boxes: Mapping[str, np.ndarray], source: Source, size: tuple[int, int]) -> list[Boxes]:
    """Return the boxes of each image of `source`, in the pixels of what is seen at `size` (height, width).

    Raises `InputError` for images that are no files, or have no box.
    """
    files = paths_of(source, "boxes")
    if without := [file.name for file in files if file.name not in boxes]:
        raise InputError(f"dataset.boxes= has no box for {listed([as_text(name) for name in without])}")
    kept = stored(source).shape[:2]
    return [Boxes(as_seen(boxes[file.name], file, kept, size)) for file in files]


def paths_of(source: Source, key: str) -> list[Path]:
    """Return the files of images.

    Raises `InputError` for images that are no files, which `key` cannot name.
    """
    files = files_of(source)
    if files is None:
        raise InputError(f"dataset.{key}= names files, and this run's images lie in no files of their own")
    return [files.path(i) for i in range(len(files))]


def as_seen(boxes: np.ndarray, path: Path, kept: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return boxes [B, 4] of a file that is scaled to cover `kept`, and whose middle is seen at `size`."""
    have, moved = upright_size(path), boxes.copy()
    covered, begin = covering_size(have, kept)
    for axis, (first, end) in enumerate(central(kept, size)):
        edges = slice(1 - axis, None, 2)  # top and bottom, left and right
        places = boxes[:, edges] * covered[axis] / have[axis] - begin[axis] - first
        moved[:, edges] = (places * size[axis] / (end - first)).clip(0, size[axis])
    return moved


def find_masks(where: str) -> dict[str, list[Path]]:
    """Return the mask files below a folder by their names without the ending.

    Raises `InputError` for a folder without any.
    """
    folder, masks = expanded(where), defaultdict[str, list[Path]](list)
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in suffixes():
            masks[file.stem].append(file)
    if not masks:
        raise InputError(f"dataset.masks={where} is no folder with masks; they are pictures, one for each image")
    return masks


def seen_masks(masks: Mapping[str, Sequence[Path]], source: Source, size: tuple[int, int]) -> list[Mask]:
    """Return the mask of each image of `source`, in the pixels of what is seen at `size` (height, width).

    Each is scaled and cut as its image is, to the nearest pixel. Raises `InputError` for images that are no files, for
    a mask that is missing or of another size, and for one that is empty in what is seen.
    """
    files = paths_of(source, "masks")
    if without := [file.name for file in files if file.stem not in masks]:
        raise InputError(f"dataset.masks= has no mask for {listed([as_text(name) for name in without])}")
    kept = stored(source).shape[:2]
    return [Mask(mask_as_seen(namesake(file, masks[file.stem]), file, kept, size)) for file in files]


def namesake(file: Path, others: Sequence[Path]) -> Path:
    """Return the one of some files of the same name whose folders are most like those of `file`.

    Raises `InputError` where several are.
    """

    def alike(other: Path) -> int:
        pairs = zip(reversed(file.parent.parts), reversed(other.parent.parts), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    best = max(map(alike, others))
    first, *more = [other for other in others if alike(other) == best]
    if more:
        raise InputError(f"dataset.masks=: {as_text(first)} and {as_text(more[0])} may both be of {as_text(file)}")
    return first


def mask_as_seen(mask: Path, image: Path, kept: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return which pixels belong to what an image shows, bool [H, W].

    They are those that are not 0; in a label map, which has other numbers than 0 and 255, 255 has no class.
    """
    values = read_mask(mask)
    if values.shape != upright_size(image):
        (tall, wide), (height, width) = upright_size(image), values.shape
        raise InputError(f"{as_text(mask)} has {width}×{height} pixels, and {as_text(image.name)} {wide}×{tall}")
    inside = (values != 0) & ((values != IGNORED) | np.isin(values, (0, IGNORED)).all())
    rows, columns = (
        first + nearest_positions(end - first, side).numpy()
        for (first, end), side in zip(central(kept, size), size, strict=True)
    )
    seen: np.ndarray = covered(inside, kept)[np.ix_(rows, columns)]
    if not seen.any():
        raise InputError(f"{as_text(mask)} marks nothing of what the network sees of {as_text(image.name)}")
    return seen
