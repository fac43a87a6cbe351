"""What the machine does besides: the share of it that others use, from /proc/stat and what our own processes took."""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

STAT = Path("/proc/stat")
BUSY = 0.1  # the share of the machine that others may use


def ticks(text: str) -> tuple[float, float]:
    """Return all clock ticks of the machine and the busy ones, from the text of /proc/stat.

    The last two columns, guests, are counted among the first two as well. Ticks stolen by other machines are busy ones.
    """
    counts = [float(word) for word in text.split("\n", 1)[0].split()[1:9]]
    return sum(counts), sum(counts) - counts[3] - counts[4]


def foreign(before: str, after: str, own: float, hertz: float) -> float:
    """Return the share of the machine that others used between two texts of /proc/stat, `own` seconds being ours."""
    (total, busy), (total_then, busy_then) = ticks(after), ticks(before)
    spent = total - total_then
    return max(busy - busy_then - own * hertz, 0.0) / spent if spent else 0.0


def own_seconds() -> float:
    """Return the processor time of this process and of all its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@dataclass
class Watched:
    """The share that others used while something ran; known when it has ended."""

    share: float = 0.0


@contextmanager
def watched() -> Iterator[Watched]:
    """Measure what others use of the machine meanwhile; children count as ours once they have ended."""
    found, before, own = Watched(), STAT.read_text(), own_seconds()
    yield found
    hertz = float(os.sysconf("SC_CLK_TCK"))
    found.share = foreign(before, STAT.read_text(), own_seconds() - own, hertz)


def others() -> float:
    """Return the share of the machine that others use in the second to come."""
    with watched() as found:
        time.sleep(1)
    return found.share


@dataclass
class Patience:
    """Seconds that may be waited for an idle machine, in all."""

    left: float
    measure: Callable[[], float] = field(default=others)

    def wait(self) -> bool:
        """Wait until others use less than `BUSY` of the machine; return whether they did before patience ended."""
        said = False
        while (share := self.measure()) > BUSY:
            if self.left <= 0:
                return False
            if not said:
                print(f"others use {share:.0%} of the machine: waiting", file=sys.stderr, flush=True)
                said = True
            self.left -= 1
        return True
