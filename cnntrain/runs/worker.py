"""A training in a process of non-zero rank: its share of every batch, and no writing."""

from pathlib import Path
from typing import Any

from cnntrain.data.datasets.fingerprint import fingerprint
from cnntrain.data.storage.images import Dataset
from cnntrain.runs import resume
from cnntrain.runs.setup import TrainingSetup, plain_errors
from cnntrain.runtime import distributed
from cnntrain.runtime.distributed import all_or_none, broadcast
from cnntrain.runtime.errors import EchoError, InputError, NonFiniteError
from cnntrain.runtime.signals import Signals


def train_rank(built: TrainingSetup, folder: Path) -> dict[str, Any]:
    """Train along with the first process, which keeps the run in `folder`; there is no result to return."""
    at, _ = resume.restore(built, folder)
    try:
        with Signals() as signals, plain_errors(built):
            for _ in built.train(at, signals, lambda which: None, lambda: between_steps(signals)):
                pass
            distributed.wait()  # for the first to save
    except NonFiniteError as error:
        raise EchoError(error.exit_code) from error
    finally:
        built.loader.close()
    if signals.stop(last=True) and signals.stopped_by:
        signals.pass_on(signals.stopped_by)
        raise EchoError(128 + signals.stopped_by)
    return {}


def between_steps(signals: Signals) -> bool:
    """Pass on a signal to save, which the first process does, and say whether to stop."""
    stopping = signals.stop()
    if number := signals.save_asked_by:
        signals.save_asked_by = None
        signals.pass_on(number)
    return stopping


def refuse_differing_images(dataset: Dataset) -> None:
    """Raise `InputError` when a process has read other images than the first."""
    if distributed.WORLD > 1:
        mine = fingerprint(dataset)
        first = broadcast(mine)
        with all_or_none():
            if mine != first:
                raise InputError("this process finds other images than the first; every machine needs the same")
