"""How a long piece of work shows itself: a bar on a terminal, plain lines elsewhere, always on standard error."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
QUIET_SECONDS = 30.0  # a log without a terminal hears of a long epoch this often


def follow(
    records: Iterable[dict[str, Any]], *, start: int = 0, steps: int, epochs: int, samples_per_step: int
) -> Iterator[dict[str, Any]]:
    """Pass on the records of a training of so many `steps` from `start` on, and show them as they come."""
    terminal = sys.stderr.isatty()
    bar = tqdm(
        total=steps,
        initial=start,
        unit="step",
        file=sys.stderr,
        disable=not terminal,
        dynamic_ncols=True,
        smoothing=0.1,
    )
    began = spoke = time.perf_counter()
    shown = ""
    unsaid = False  # an epoch's end without a line: its validation says it, if there is one
    with bar:
        for record in records:
            now, step = time.perf_counter(), record["step"]
            left = clock((steps - step) * (now - began) / max(step - start, 1))
            if record["kind"] == "train":
                if unsaid:
                    bar.write(shown, file=sys.stderr)
                speed = f"{(step - start) * samples_per_step / (now - began):,.0f} images/s"
                shown = (
                    f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.4f}  top-1 {100 * record['top1']:.1f} %"
                )
                bar.set_description_str(f"epoch {record['epoch']}/{epochs}", refresh=False)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, {speed}", refresh=False)
                bar.update(step - bar.n)
                if not terminal and "seconds" not in record and now - spoke > QUIET_SECONDS:
                    spoke = now
                    print(f"{shown}  {speed}  {left} left", file=sys.stderr, flush=True)
                elif "seconds" in record:
                    shown += f"  {record['samples_per_second']:,.0f} images/s"
                unsaid = "seconds" in record
            else:
                spoke, unsaid = now, False
                best = "  best" if record["best"] else ""
                line = f"{shown}  val {100 * record['top1']:.2f} %{best}"
                bar.write(line, file=sys.stderr) if terminal else print(
                    f"{line}  {left} left", file=sys.stderr, flush=True
                )
            yield record
        if unsaid:
            bar.write(shown, file=sys.stderr)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass on `items` under a bar on a terminal."""
    yield from tqdm(items, total=total, desc=what, file=sys.stderr, disable=None, dynamic_ncols=True, leave=False)


@contextlib.contextmanager
def counting(total: int, what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Give what is called with the number of things done: a bar on a terminal, a line now and then elsewhere."""
    began = spoke = time.perf_counter()
    with tqdm(total=total, desc=what, unit=unit, file=sys.stderr, disable=None, dynamic_ncols=True, leave=False) as bar:
        done = 0

        def add(count: int) -> None:
            nonlocal done, spoke
            done += count
            bar.update(count)
            now = time.perf_counter()
            if bar.disable and now - spoke > QUIET_SECONDS:
                spoke = now
                say(f"{what}: {100 * done / total:.0f} %, {clock((total - done) * (now - began) / done)} left")

        yield add


def clock(seconds: float) -> str:
    """Write a duration as h:mm:ss or m:ss."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def say(text: str) -> None:
    """Tell the person something that is no result, above the bars that are on the terminal."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
