"""The processor beside other programs: how OpenMP's threads wait for each other, and how long ours wait for a core.

The standard library only, since what OpenMP is told has to be said before torch is imported.
"""

import os
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import NamedTuple

SPINS = "1000"  # turns of libgomp's waiting loop before a thread sleeps; its own default is 300,000
LOOKS, PAUSE = 3, 0.002  # at the running processes, and seconds between two looks
LEAST = 2.0  # seconds that a measurement needs to say something


def spin_briefly(environment: MutableMapping[str, str], statistics: Path = Path("/proc/stat")) -> None:
    """Where other programs use the processor, have OpenMP's threads sleep instead of turning in a waiting loop.

    A turning thread holds a core that the thread it waits for may need. On an idle machine it is faster, so that
    libgomp's own setting stays; and so does what the environment says.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys() and is_busy(statistics):
        environment["GOMP_SPINCOUNT"] = SPINS


def is_busy(statistics: Path = Path("/proc/stat")) -> bool:
    """Say whether other processes leave this one fewer cores than it may use, at each of a few looks; on Linux only."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for look in range(LOOKS):
        time.sleep(PAUSE if look else 0)
        try:
            lines = statistics.read_text().splitlines()
        except OSError:
            return False
        running = [int(line.split()[1]) for line in lines if line.startswith("procs_running ")]
        if not running or running[0] - 1 + usable <= (os.cpu_count() or 1):
            return False
    return True


class Times(NamedTuple):
    """Seconds on the clock, on a core, and waiting for a core, of all threads (0 where the system counts none)."""

    clock: float
    core: float
    queue: float

    @classmethod
    def now(cls) -> "Times":
        """Return the times of this process so far."""
        return cls(time.perf_counter(), time.process_time(), queued())


def queued(threads: Path = Path("/proc/self/task")) -> float:
    """Return the seconds that the threads of this process were ready to run and had no core; only Linux counts them."""
    total = 0
    for path in threads.glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, ValueError, IndexError):  # a thread that has just ended
            continue
    return total / 1e9


def slowed(start: Times, end: Times) -> str | None:
    """Return a line that says what kept a piece of work from the CPU, and what helps; None if nothing did."""
    clock, core, queue = (after - before for before, after in zip(start, end, strict=True))
    if queue > clock / 2:
        return (
            f"other processes use the processor: in {clock:.0f} s this training's threads waited {queue:.0f} s for "
            f"a core (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores); end other programs, or set "
            "OMP_NUM_THREADS to the number of free cores, or to 1 where none is free"
        )
    if clock > 3 * core:
        return (
            f"the processor had little to do: in {clock:.0f} s this training used {core:.0f} s of it, and "
            "waited for the disk or for memory; dataset.cache=ram or dataset.cache=pack reads images once"
        )
    return None


class Watch:
    """Watches a piece of work, and says once that other programs slow it down."""

    def __init__(self) -> None:
        self.start: Times | None = Times.now()

    def slowed(self) -> str | None:
        """Return the line of `slowed` for the time since it was asked last, which has to be `LEAST`; one line ever."""
        if self.start is None or (now := Times.now()).clock - self.start.clock < LEAST:
            return None
        line = slowed(self.start, now)
        self.start = None if line else now
        return line
