"""Checkpoints: files of tensors and JSON types that are either whole or refused.

`last.pt` is the newest, `previous.pt` the one before it, `best.pt` the weights with the best validation.
"""

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnntrain.runtime import disk
from cnntrain.runtime.errors import CheckpointError, DiskError

State = dict[str, Any]  # tensors and JSON types only
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
TRAINING_ONLY = ("optimizer", "heads", "sums")  # keys of a state that evaluation does not need


class Checkpoint(NamedTuple):
    """A whole checkpoint, and what was wrong with newer ones."""

    path: Path
    state: State
    problems: list[str]


def folder_of(run: Path) -> Path:
    """Return the folder of a run's checkpoints."""
    return run / "checkpoints"


def path_of(run: Path, which: str) -> Path:
    """Return where a run's checkpoint lies: "best", "last" or "epoch_0002"."""
    return folder_of(run) / f"{which}.pt"


def without_training(state: State) -> State:
    """Return what evaluation needs of a state."""
    return {key: value for key, value in state.items() if key not in TRAINING_ONLY}


def save(path: Path, state: State) -> None:
    """Write `state` so that `path` at any moment holds a whole checkpoint, the earlier or the new one.

    Raises `DiskError`; nothing half-written stays.
    """
    with written(path, state):
        pass


def save_last(folder: Path, state: State) -> None:
    """Write `last.pt` and keep the one before it as `previous.pt`: two whole checkpoints from the second save on."""
    last = folder / LAST
    with written(last, state):
        if last.exists():
            with disk.replacing(folder / PREVIOUS) as aside:
                os.link(last, aside)  # a second name for the old file, so that neither name is ever without one


@contextlib.contextmanager
def written(path: Path, state: State) -> Iterator[None]:
    """Write and verify `state` beside `path`, where it is put when the context ends."""
    with disk.replacing(path, size(state)) as partial:
        with partial.open("wb") as sink:
            torch.save(state, sink)
        try:
            verify(partial)
        except CheckpointError as error:
            raise DiskError(f"{path} cannot be written: {error}") from error
        yield


def size(state: State) -> float:
    """Return about how many bytes a state takes on the disk."""
    return 1.2 * sum(tensor.nbytes for tensor in tensors(state))


def tensors(state: object) -> Iterator[Tensor]:
    """Yield every tensor in nested containers."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors(value)


def verify(path: Path) -> None:
    """Compare the file with its own checksums, which `torch.load` does not read.

    Raises `CheckpointError` naming the file and what is wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged directory of the archive fails wherever its bytes stop making sense
        raise CheckpointError(f"{path} is damaged: {error or type(error).__name__}") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: {damaged} does not match its checksum")


def load(path: Path) -> State:
    """Return the state of a training in `path`, on the CPU; nothing in the file can run code.

    Raises `CheckpointError` when the file is missing, damaged, or holds anything but tensors and plain values.
    """
    state = load_state(path)
    if not isinstance(state.get("model"), dict):
        raise CheckpointError(f"{path} holds no checkpoint")
    return state


def load_state(path: Path) -> State:
    """Return what `save` has written to `path`, on the CPU, whatever its keys; otherwise as `load`."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    verify(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for one meaning
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path} was not loaded: {reason[0]}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no checkpoint")
    return state


def resumable(folder: Path) -> list[Path]:
    """Return the checkpoints that a run can resume from, the newest first; none of a run that never saved its state."""
    return [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]


def load_newest(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run, None if none was ever written.

    Raises `CheckpointError` when there are checkpoints and none is whole.
    """
    problems: list[str] = []
    for path in resumable(folder):
        try:
            return Checkpoint(path, load(path), problems)
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(f"no checkpoint is valid: {'; '.join(problems)}")
    return None


def saved_weights(folder: Path) -> str:
    """Say which weights a run's folder of checkpoints holds, and of which steps."""
    steps = {}
    for path in (folder / BEST, folder / LAST):
        with contextlib.suppress(CheckpointError):
            steps[path.name] = load(path).get("progress", {}).get("step", 0)
    return " and ".join(f"{name} of step {step:,}" for name, step in steps.items()) or "no weights"


def differences(state: object, expected: object, at: str = "") -> Iterator[str]:
    """Yield the dotted keys in which one state is built otherwise than another: names, kinds, shapes of tensors."""
    if isinstance(state, Mapping) and isinstance(expected, Mapping):
        for key in sorted(state.keys() | expected.keys(), key=str):
            name = f"{at}.{key}" if at else str(key)
            if key in state and key in expected:
                yield from differences(state[key], expected[key], name)
            else:
                yield name
    elif isinstance(state, Tensor) and isinstance(expected, Tensor):
        if state.shape != expected.shape:
            yield at
    elif type(state) is not type(expected):
        yield at
