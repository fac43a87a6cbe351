"""Groups of images that belong together: those of one patient, one sequence, one photographer."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from cnntrain.data.storage.images import Files, Split, files_of
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, as_text, listed, unknown

COLUMN = "group"  # of a CSV file, unless another is named


def groups_of(split: Split, named: int | str, root: Path) -> np.ndarray:
    """Return the group of each image, text [N].

    `named` is a level of folders (1: those in the class folders; 2: those in them), or a CSV file with a column `file`
    and a column `group`, or another that is named behind a colon: patients.csv:patient. Its files are relative to
    `root`, or to the folder of the split. Raises `InputError` for images that are no files or have no group.
    """
    files = files_of(split.source)
    if files is None:
        raise InputError("dataset.groups needs a dataset of image files: elsewhere the groups are not known")
    return folder_groups(files, named) if isinstance(named, int) else listed_groups(files, named, root)


def folder_groups(files: Files, level: int) -> np.ndarray:
    """Return the name of the folder in which each image lies, `level` folders below that of its class."""
    names = []
    for place in files.index.tolist():
        folders = PurePosixPath(files.paths[place]).parent.parts
        if len(folders) <= level:
            raise InputError(
                f"dataset.groups={level}: {as_text(files.paths[place])} lies {len(folders) - 1} folders below its "
                f"class, not {level}"
            )
        names.append(folders[level])
    return np.array(names, dtype=object)


def listed_groups(files: Files, named: str, root: Path) -> np.ndarray:
    """Return the group that a CSV file gives each image."""
    table = read_groups(named)
    inside = files.root.relative_to(root).as_posix() if files.root.is_relative_to(root) else ""
    names, lacking = [], []
    for place in files.index.tolist():
        path = files.paths[place]
        group = table.get(path) or table.get(f"{inside}/{path}")
        names.append(group)
        if not group:
            lacking.append(as_text(path))
    if lacking:
        raise InputError(f"dataset.groups={named} gives {len(lacking):,} images no group: {listed(lacking, 2)}")
    return np.array(names, dtype=object)


def read_groups(named: str) -> Mapping[str, str]:
    """Return the group of each file that a CSV file names.

    Raises `InputError` for one that cannot be read or lacks a column.
    """
    path, column = expanded(named), COLUMN
    if not path.is_file() and ":" in named:
        head, _, column = named.rpartition(":")
        path = expanded(head)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"dataset.groups: {path} cannot be read: {reason}") from error
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for wanted in ("file", column):
        if wanted not in (rows.fieldnames or ()):
            raise unknown("column", wanted, rows.fieldnames or ())
    return {row["file"]: row[column] for row in rows}
