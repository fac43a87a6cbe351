"""Many cells at a time: processes of one thread, a core to each, that share a study by its locks."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from cnntrain.config.plugins import import_plugins
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.errors import CnntrainError, StoppedError
from cnntrain.runtime.signals import Signals
from cnntrain.runtime.streams import guarded
from cnntrain.studies.cells import Cell, Message, work

GRACE = 5.0  # seconds in which processes may end by themselves: a cluster signals them all


def default_jobs(device: str) -> int:
    """Return how many cells to make at a time: one a core that this process may use, or one on a GPU."""
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return 1 if on_gpu else len(cores())


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def make_all(
    cells: Sequence[Cell], jobs: int, hear: Callable[[Message], None], *, plugins: Sequence[str], deterministic: bool
) -> None:
    """Make all cells that can be made, `jobs` at a time, and pass on what is told of them.

    On a CPU every cell has one thread, so that its numbers do not depend on how many are made at a time.

    Raises `StoppedError` when a signal ended the work; what was begun is saved.
    """
    if jobs == 1:
        make_here(cells, hear)
        return
    context, ends, processes = multiprocessing.get_context("spawn"), list[Connection](), list[BaseProcess]()
    with one_thread():
        for number in range(jobs):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=worker, args=(cells, theirs, number, list(plugins), deterministic))
            process.start()
            theirs.close()
            ends.append(ours)
            processes.append(process)
    with Signals() as signals:
        listen(processes, ends, signals, hear)
    if signals.stop() and signals.stopped_by:
        signals.pass_on(signals.stopped_by)
        raise StoppedError(
            f"stopped by {signals.stopped_by.name}; the same command resumes the study", signals.stopped_by
        )


def make_here(cells: Sequence[Cell], hear: Callable[[Message], None]) -> None:
    """Make the cells one after another in this process."""
    stopped: list[Message] = []

    def tell(message: Message) -> None:
        if message.kind == "stopped":
            stopped.append(message)
        hear(message)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work(cells, tell)
    finally:
        torch.set_num_threads(threads)
    if stopped:
        number = signal.Signals(stopped[0].signal)
        raise StoppedError(f"stopped by {number.name}; the same command resumes the study", number)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have processes that are started here begin with one thread: OpenMP reads its variable once."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@guarded()
def worker(cells: Sequence[Cell], end: Connection, number: int, plugins: Sequence[str], deterministic: bool) -> None:
    """Make cells in a process of its own, which a Ctrl-C in the terminal does not reach but through its parent."""
    os.setpgrp()
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        usable = cores()
        os.sched_setaffinity(0, {usable[number % len(usable)]})
    prepare(deterministic=deterministic)
    import_plugins(plugins)
    with contextlib.suppress(BrokenPipeError):  # the parent has died
        work(cells, end.send)


def end_with_parent(parent: int) -> None:
    """Stop this process as a signal would, saving what it has, once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def listen(
    processes: Sequence[BaseProcess], ends: Sequence[Connection], signals: Signals, hear: Callable[[Message], None]
) -> None:
    """Pass on what the processes tell until all have ended; a process that dies is told of as its cell's failure.

    Raises `CnntrainError` when all have died before their first cell.
    """
    open_ends, making = dict(zip(ends, processes, strict=True)), dict[Connection, int]()
    asked, forwarded, stillborn = 0.0, False, 0
    while open_ends:
        for end in wait(list(open_ends), timeout=0.2):
            assert isinstance(end, Connection)
            try:
                message = end.recv()
            except (EOFError, ConnectionResetError):
                process = open_ends.pop(end)
                process.join()
                if process.exitcode and not signals.stop() and end not in making:
                    stillborn += 1
                elif process.exitcode and not signals.stop():
                    died = f"its process died ({'signal' if process.exitcode < 0 else 'code'} {abs(process.exitcode)})"
                    hear(Message("failed", making[end], reason=died))
                continue
            if message.kind == "began":
                making[end] = message.cell
            else:
                making.pop(end, None)
            hear(message)
        if signals.stop() and not forwarded:
            asked = asked or time.monotonic()
            if signals.stopped_by != signal.SIGTERM or time.monotonic() - asked > GRACE:
                forwarded = True
                for process in open_ends.values():
                    process.terminate()
    if stillborn == len(processes):
        raise CnntrainError(
            "the processes of the study died before their first run; standard error says why (a Python script that "
            'calls a study needs if __name__ == "__main__":)'
        )
