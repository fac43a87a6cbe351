"""How a long piece of work shows itself: a bar on a terminal, plain lines elsewhere, always on standard error."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
QUIET_SECONDS = 30.0  # a log without a terminal hears of a long epoch this often


class Seldom:
    """Says every `QUIET_SECONDS` that a line is due."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Wait that long from now on."""
        self.since = time.perf_counter()

    def due(self) -> bool:
        """Say whether it is time for a line, and wait for the next."""
        if time.perf_counter() - self.since <= QUIET_SECONDS:
            return False
        self.restart()
        return True


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass on `items` under a bar on a terminal."""
    yield from tqdm(items, total=total, desc=what, file=sys.stderr, disable=None, dynamic_ncols=True, leave=False)


@contextlib.contextmanager
def counting(total: int, what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Give what is called with the number of things done: a bar on a terminal, a line now and then elsewhere."""
    began, seldom = time.perf_counter(), Seldom()
    with tqdm(total=total, desc=what, unit=unit, file=sys.stderr, disable=None, dynamic_ncols=True, leave=False) as bar:
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            bar.update(count)
            if bar.disable and seldom.due():
                left = (total - done) * (time.perf_counter() - began) / done
                say(f"{what}: {100 * done / total:.0f} %, {clock(left)} left")

        yield add


def clock(seconds: float) -> str:
    """Write a duration: 1:02:05, 12:31, 48 s or 0.8 s."""
    if seconds < 59.5:
        return f"{seconds:.{1 if seconds < 9.95 else 0}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(text: str) -> None:
    """Tell the person something that is no result, above the bars that are on the terminal."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
