"""Checkpoints: files of tensors and JSON types that are either whole or refused."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from cnntrain.errors import CheckpointError

State = dict[str, Any]  # tensors and JSON types only


def save(path: Path, state: State) -> None:
    """Write `state` so that `path` at any moment holds a whole checkpoint, the earlier or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder: replacing must not cross file systems
    try:
        with partial.open("wb") as sink:
            torch.save(state, sink)
            sink.flush()
            os.fsync(sink.fileno())
        verify(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def verify(path: Path) -> None:
    """Compare the file with its own checksums, which `torch.load` does not read.

    Raises `CheckpointError` naming the file and what is wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: {damaged} does not match its checksum")


def load(path: Path) -> State:
    """Return the state in `path`, on the CPU; nothing in the file can run code.

    Raises `CheckpointError` when the file is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    verify(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for one meaning
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path} cannot be read: {reason[0]}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no checkpoint")
    return state
