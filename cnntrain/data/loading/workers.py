"""Processes that read images ahead: what they report, how they fail, and how they end."""

import atexit
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cnntrain.data.storage.images import Source, stored
from cnntrain.runtime.errors import CnntrainError, InputError

HUNG_SECONDS = 300  # without a batch, until a worker counts as hung


class Reading(Dataset[Tensor]):
    """A source as `DataLoader` workers read it: a whole batch at once, or the error of a bad file.

    An error that crossed the process as an exception would come out wrapped in the worker's traceback.
    """

    def __init__(self, source: Source, workers: int) -> None:
        self.source = source
        # Of each worker its process, the image it read last, and whether it is still at it.
        self.reading = torch.full((max(workers, 1), 3), -1).share_memory_()

    def __getitems__(self, index: Sequence[int]) -> Tensor | InputError:
        worker, images = get_worker_info(), []
        mine = self.reading[worker.id if worker else 0]
        try:
            if worker is None:
                return self.source.read(index)
            for position in index:
                mine.copy_(torch.tensor([os.getpid(), position, 1]))
                images.append(self.source.read([position]))
        except InputError as error:
            return error
        finally:
            mine[2] = 0
        return torch.cat(images)

    def suspects(self, complaint: str) -> str:
        """Name the workers that a complaint of the loader names (or else those still at it) and their last images."""
        rows = [row for row in self.reading.tolist() if row[1] >= 0]
        named = [row for row in rows if str(row[0]) in complaint] or [row for row in rows if row[2]] or rows
        path = getattr(stored(self.source), "path", lambda position: f"image {position}")
        return ", ".join(f"worker {process} was reading {path(position)}" for process, position, _ in named)


def as_read(batch: Any) -> Any:
    """Take a batch, or the error instead of it, as it was read."""
    return batch


def ignore_signals(worker: int) -> None:
    """Leave signals to the main process: a terminal or a scheduler sends them to the whole group."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def read_batches(torch_loader: DataLoader) -> Iterator[Tensor]:
    """Yield what the workers read; raise what they could not.

    Raises `CnntrainError` naming the image at which a worker died or hung.
    """
    assert isinstance(torch_loader.dataset, Reading)
    try:
        for batch in torch_loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        complaint = str(error).splitlines()[0]
        raise CnntrainError(f"{complaint}; {torch_loader.dataset.suspects(complaint)}") from error
    finally:
        del torch_loader  # an error's traceback keeps this frame, and with it the workers would live


def end_workers(seconds: float = 5.0) -> None:
    """Wait for worker processes that were told to end, and kill those that do not: they ignore signals.

    Python would wait for them for ever when it ends itself.
    """
    deadline = time.monotonic() + seconds
    for child in multiprocessing.active_children():
        child.join(max(0.0, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()
            child.join()


# However a process ends, its workers end before Python starts to wait for them.
atexit.register(end_workers, 0.0)


def torch_loader(source: Source, rows: Any, workers: int, *, persistent: bool = False, pin: bool = False) -> DataLoader:
    """Return the loader whose workers read the batches of `rows`, lists of image numbers."""
    return DataLoader(
        Reading(source, workers),
        batch_sampler=rows,
        num_workers=workers,
        collate_fn=as_read,
        persistent_workers=persistent and workers > 0,
        pin_memory=pin,
        worker_init_fn=ignore_signals,
        timeout=HUNG_SECONDS if workers else 0,
        generator=torch.Generator(),  # the default one belongs to dropout
    )
