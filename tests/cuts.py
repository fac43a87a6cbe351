"""How tests stop, kill and compare trainings; and how thorough the tests of the fault list are.

A fault is tested by a sample of its cases, since every change runs them; with `FAULTS=full`, as in `make test-all`, by
all of them. The names of these tests begin with a fault's number.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from cnntrain.cli.main import main
from cnntrain.runs import resume
from cnntrain.runtime import disk
from cnntrain.training import checkpoints, loop

FULL = os.environ.get("FAULTS") == "full"
Call = Callable[..., dict[str, Any]]
TIMES = ("seconds", "samples_per_second")
PROVENANCE = {"format", "classes", "made"}  # what a checkpoint holds besides the state


def last(run: Path) -> checkpoints.State:
    """Return the last state of a run."""
    return checkpoints.load(run / "checkpoints" / checkpoints.LAST)


def rows(run: Path) -> list[dict[str, Any]]:
    """Return a run's metrics without the times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def agree(one: Path, other: Path) -> None:
    """Hold the last and best checkpoints and the metrics of two runs against each other, to the bit."""
    for name in (checkpoints.LAST, checkpoints.BEST):
        a, b = (checkpoints.load(run / "checkpoints" / name) for run in (one, other))
        assert a.keys() == b.keys()
        for key in a.keys() - PROVENANCE:
            assert resume.same(a[key], b[key]), (name, key)
    assert rows(one) == rows(other)


def interrupt(patched: pytest.MonkeyPatch, owner: object, name: str, nth: int, number: signal.Signals) -> None:
    """Send this process a signal when `owner.name` is called for the `nth` time."""
    call, count = getattr(owner, name), itertools.count(1)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(count) == nth:
            os.kill(os.getpid(), number)
        return call(*args, **kwargs)

    patched.setattr(owner, name, interrupted)


def cut(
    *words: str,
    at: tuple[object, str] = (loop.TrainStep, "update"),
    nth: int = 1,
    number: signal.Signals = signal.SIGTERM,
) -> None:
    """Train, and be stopped by a signal at the `nth` call of a function: that of an optimizer step by default."""
    with pytest.MonkeyPatch.context() as patched:
        interrupt(patched, *at, nth, number)
        assert main(["fit", *words]) == 128 + number


def fill(patched: pytest.MonkeyPatch, name: str = "checkpoints") -> None:
    """Have the disk of every folder of this name be full."""
    usage = disk.shutil.disk_usage
    full = lambda path: usage(path)._replace(free=1000) if Path(path).name == name else usage(path)  # noqa: E731
    patched.setattr(disk.shutil, "disk_usage", full)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Train in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cnntrain", "fit", *words],
        cwd=folder, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for_steps(run: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a training has written its first record."""
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@contextlib.contextmanager
def at_once(count: int, function: Callable[..., None], *args: object) -> Iterator[list[BaseProcess]]:
    """Start a function of a module in several processes, which begin together; wait for their ends."""
    with each_at_once(function, [args] * count) as processes:
        yield processes


def forked(function: Callable[..., None], *args: object) -> BaseProcess:
    """Start a function of a module in a process of its own, forked from the server of `each_at_once`."""
    process = forkserver().Process(target=function, args=args)
    process.start()
    return process


def forkserver() -> Any:
    """Return what forks processes from a server that has imported torch once, and that no thread of pytest's is in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cnntrain.commands.fit", "cnntrain.cli.launcher", "pytest", "torchvision.datasets"])
    return context


@contextlib.contextmanager
def each_at_once(function: Callable[..., None], calls: Sequence[tuple]) -> Iterator[list[BaseProcess]]:
    """Do the same with arguments of its own for each process."""
    context = forkserver()
    barrier = context.Barrier(len(calls))
    processes = [context.Process(target=met, args=(barrier, function, *args), daemon=True) for args in calls]
    for process in processes:
        process.start()
    try:
        yield processes
        for process in processes:
            process.join(300)
    finally:
        for process in processes:
            process.kill()


def met(barrier: Any, function: Callable[..., None], *args: object) -> None:
    """Call a function once all who share the barrier have come to it."""
    barrier.wait()
    function(*args)
