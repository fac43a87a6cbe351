"""Files that are whole or absent: each is written beside its place, forced to the disk and moved there.

A place that is a link is replaced, never written through.
"""

import contextlib
import glob
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from cnntrain.runtime.errors import DiskError

PARTIAL = ".tmp."  # how the name of a file begins that is not whole yet; the writer's process and its name follow
MOMENT = 60  # seconds


@contextlib.contextmanager
def replacing(path: Path, need: float = 0) -> Iterator[Path]:
    """Give a path beside `path`, with the same suffix; what is written there takes its place when the context ends.

    `need` is the file's size in bytes, where it is known. Missing folders are made. Raises `DiskError` when the disk is
    full or cannot be written; then, and after any other error, `path` is as it was and nothing lies beside it. What
    killed writers of `path` have left beside it is removed first.
    """
    make_folder(path.parent)
    for leftover in path.parent.glob(f"{PARTIAL}*.{glob.escape(path.name)}"):
        remove_abandoned(leftover)
    partial = path.with_name(f"{PARTIAL}{os.getpid()}.{path.name}")  # replacing must not cross file systems
    try:
        with explained(path, need):
            yield partial
            sync(partial)
            partial.replace(path)
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write(path: Path, data: str | bytes) -> None:
    """Write a file, text in UTF-8, whole or not at all.

    Raises `DiskError`.
    """
    content = data.encode() if isinstance(data, str) else data
    with replacing(path, len(content)) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[int]:
    """Give a descriptor that writes to the end of a file, which must be no link.

    Raises `OSError`.
    """
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, and have the disk know their names.

    Raises `DiskError`.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in missing:
            sync(place.parent)
    except OSError as error:
        raise DiskError(f"{folder} cannot be made: {error.strerror}") from error


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def clean(folder: Path) -> None:
    """Remove what processes that died while writing have left in a folder, which no other process writes to."""
    for leftover in folder.glob(f"{PARTIAL}*"):
        leftover.unlink(missing_ok=True)


def remove_abandoned(partial: Path) -> None:
    """Remove a file that is not whole yet, unless its writer runs here, or elsewhere and has written a moment ago."""
    writer = partial.name.removeprefix(PARTIAL).partition(".")[0]
    with contextlib.suppress(OSError, ValueError):  # it is gone, or not ours
        if not is_running(int(writer)) and time.time() - partial.stat().st_mtime > MOMENT:
            partial.unlink()


def is_running(process: int) -> bool:
    """Say whether a process of this machine runs; of Windows, which has no harmless way to ask, say that it does."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except OSError as error:  # or it is another user's
        return not isinstance(error, ProcessLookupError)
    return True


@contextlib.contextmanager
def explained(path: Path, need: float) -> Iterator[None]:
    """Raise `DiskError` before the context where `path` has no room, and for what the system refuses in it."""
    free = shutil.disk_usage(path.parent).free
    room = f"{f'{size(need)} are needed, ' if need else ''}{size(free)} are free"
    if free < need:
        raise DiskError(f"{path} cannot be written: the disk is full ({room})")
    try:
        yield
    except DiskError:
        raise
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else error.__context__  # torch hides it behind an error of its own
        if not isinstance(reason, OSError):
            raise
        raise DiskError(f"{path} cannot be written: {reason.strerror or reason} ({room})") from error


def size(count: float) -> str:
    """Write a number of bytes."""
    power = next((power for power in (4, 3, 2) if count >= 1024**power / 10), 1)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def expanded(text: str) -> Path:
    """Return the path that a text means: `~` and `~name` are homes where there are such, else plain names."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path's own raises where there is no such home
