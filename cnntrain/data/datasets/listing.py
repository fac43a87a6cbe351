"""Which files are images: one rule for training and for prediction, and words for what it leaves out."""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cnntrain.data.storage.decode import suffixes
from cnntrain.runtime.errors import as_text, listed

SYSTEM = {  # what systems put beside images, in lower case
    *("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "desktop.ini", "thumbs.db"),
}
IMAGE, OURS = "image", "folder of cnntrain"
REPORTS = {"multirun.yaml", "predictions.csv", "predictions.npz", "results.json"}  # in folders without images


def is_seen(name: str) -> bool:
    """Say whether a file or folder counts by its name: it is not hidden, and none of a system's own."""
    return not name.startswith(".") and name.lower() not in SYSTEM


def walk(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield every file below `folder`, relative to it, and what it is: `IMAGE`, or why it is none.

    Links are followed, but not back to a folder that holds them. What is hidden or a system's own is passed over;
    folders that cnntrain wrote, or that cannot be read, are yielded and not looked into.
    """
    try:
        place = folder.stat()
        if (place.st_dev, place.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_seen(entry.name):
                    continue
                if not is_folder(entry):
                    yield entry.name, kind(entry)
                elif is_ours(Path(entry)):
                    yield entry.name, OURS
                else:
                    for name, what in walk(Path(entry), above | {(place.st_dev, place.st_ino)}):
                        yield f"{entry.name}/{name}", what
    except OSError:
        yield "", "folder that cannot be read"


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Say whether an entry is a folder or leads to one."""
    with suppress(OSError):  # of a link that leads to itself
        return entry.is_dir()
    return False


def kind(file: os.DirEntry[str] | Path) -> str:
    """Return what a file is: `IMAGE` by its suffix if it is a regular file, or a link that leads nowhere."""
    _, dot, suffix = file.name.rpartition(".")
    if not (dot and suffix):
        return "file without suffix"
    if f".{suffix.lower()}" not in suffixes():
        return f".{suffix.lower()}"
    with suppress(OSError):
        return IMAGE if file.is_file() or not Path(file).exists() else "pipe, socket or device"
    return IMAGE


def image_files(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the image files at any depth below `folder`, relative to it, sorted, and how many of what are none."""
    images, others = list[str](), Counter[str]()
    for name, what in walk(folder):
        if what == IMAGE:
            images.append(name)
        elif what != OURS:
            others[what] += 1
    return sorted(images), others


def left_out(others: Counter[str]) -> str:
    """Say how many files of what kinds are left out, the commonest first."""
    kinds = sorted(others, key=lambda what: (-others[what], what))
    return f"left out: {listed([f'{others[what]:,} × {as_text(what)}' for what in kinds], most=10)}"


def is_ours(folder: Path) -> bool:
    """Say whether cnntrain wrote a folder: a run, a study or an evaluation, which say so, or where it keeps packs."""
    for file in (folder / name for name in ("run.json", "study.json", "results.json")):
        with suppress(OSError, ValueError, RecursionError):  # it is another program's, in whatever shape
            written = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            record = written.get("record", written) if isinstance(written, dict) else None
            if isinstance(record, dict) and "cnntrain" in record:
                return True
    return (folder / ".cnntrain").exists()


def is_class(folder: Path) -> bool:
    """Say whether a folder beside others can be a class: it is none of those in which cnntrain leaves its files.

    These are its own folders, those into which it downloads, and those without images that hold any of them. A link
    to a folder that holds it is no class either.
    """
    leads_back = folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())
    if leads_back or is_ours(folder) or any(folder.glob(".*.lock")):
        return False
    ours = False
    for name, what in walk(folder):
        if what == IMAGE:
            return True
        ours |= what == OURS or name.rpartition("/")[2] in REPORTS
    return not ours


def composed(name: str) -> str:
    """Return a class's name as it is compared: systems write é as one character or as two."""
    return unicodedata.normalize("NFC", as_text(name))
