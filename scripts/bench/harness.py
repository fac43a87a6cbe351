"""Rounds of fresh processes: every contender of a line once a round, in turns, on an idle machine or not counted."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench.lines import Line
from scripts.bench.load import BUSY, Patience, watched
from scripts.bench.work import Task
from scripts.bench.worker import CONTENDERS

ROOT = Path(__file__).parents[2]
SANE = 2.0  # how many times the loss of one contender may be that of another over the same epochs

Run = dict[str, Any]  # what one process reported, with its clocks
Round = dict[str, Run]


class UnequalWorkError(Exception):
    """Two contenders did not do the same work."""


def missing(contenders: Sequence[str]) -> dict[str, str]:
    """Return what has to be installed for each of the contenders that cannot run."""
    needed = {name: [need for need in CONTENDERS[name].needs if not find_spec(need)] for name in contenders}
    return {name: "pip install " + " ".join(needs) for name, needs in needed.items() if needs}


def run(contender: str, task: Task, *, quiet: bool = True) -> Run:
    """Have a fresh process do a task; return its report with its clocks and the load of others meanwhile.

    `cold` is from the start of the process to its end, `first` the first epoch, which warms up and compiles, `warm` the
    median of the others, in seconds; `extra` is how much longer the first one took. Raises `RuntimeError` with the end
    of what the process said when it fails.
    """
    asked = json.dumps({"contender": contender, "task": asdict(task)})
    command = [sys.executable, "-m", "scripts.bench.worker", asked]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with watched() as others:
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None,
        )  # fmt: skip
        cold = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{contender} ended with {done.returncode}: {(done.stderr or '')[-2000:]}")
    found = clocks(json.loads(done.stdout.splitlines()[-1]))
    if "part" in found:  # its time was multiplied to that of the whole work
        cold = found["first"]
    return found | {"cold": cold, "others": others.share}


def clocks(report: Run) -> Run:
    """Return a report with its epochs summed up."""
    seconds = [epoch["seconds"] for epoch in report["epochs"]]
    if not seconds:
        return report
    losses = [epoch["loss"] for epoch in report["epochs"] if epoch["loss"] is not None]
    warm = median(seconds[1:] or seconds)
    found = {"first": seconds[0], "warm": warm, "extra": seconds[0] - warm, "samples": report["epochs"][-1]["samples"]}
    return {key: value for key, value in report.items() if key != "epochs"} | found | {"loss": losses[-1:]}


def check_equal(subject: Run, rival: Run, name: str) -> None:
    """Raise `UnequalWorkError` unless two contenders saw as many samples, train as many parameters and learnt alike."""
    for key in ("samples", "parameters"):
        if key in subject and key in rival and subject[key] != rival[key]:
            raise UnequalWorkError(f"{name} has {rival[key]:,} {key} and not {subject[key]:,}")
    if subject.get("loss") and rival.get("loss"):
        mine, theirs = subject["loss"][0], rival["loss"][0]
        if not mine / SANE - 0.1 <= theirs <= mine * SANE + 0.1:
            raise UnequalWorkError(f"{name} has a loss of {theirs:.3f} and not about {mine:.3f}")


def rounds(line: Line, task: Task, patience: Patience, *, most_foreign: float = BUSY) -> Iterator[tuple[Round, bool]]:
    """Yield each round and whether it counts, until enough count or patience with others' load has ended.

    Every other round goes the other way round, so that a machine that slows down favours nobody.
    """
    absent = missing([line.subject, *line.rivals])
    names = [name for name in (line.subject, *line.rivals) if name not in absent]
    counted = 0
    while counted < line.rounds and (most_foreign >= 1 or patience.wait()):
        order = names if counted % 2 == 0 else names[::-1]
        found = {name: run(name, task) for name in order}
        for name in names[1:]:
            check_equal(found[line.subject], found[name], name)
        counts = all(one["others"] <= most_foreign for one in found.values())
        counted += counts
        patience.left -= 0 if counts else sum(one["cold"] for one in found.values())
        yield found, counts


def measure(name: str, line: Line, root: Path, patience: Patience, *, smoke: bool = False) -> dict[str, Any]:
    """Return what a line came to: the rounds that count, how many were discarded, what is not installed.

    `smoke` takes one tiny round whatever the load: it shows that the line runs, and is no measurement.
    """
    task = replace(line.task, root=str(root.resolve()))
    if smoke:
        task = replace(task, images=min(task.images, 4 * task.batch_size), epochs=1)
        line = replace(line, rounds=1)
    kept: list[Round] = []
    discarded = 0
    for found, counts in rounds(line, task, patience, most_foreign=1.0 if smoke else BUSY):
        kept += [found] * counts
        discarded += not counts
        shown = ", ".join(f"{who} {one.get(line.clock, one.get('value', 0)):.3g}" for who, one in found.items())
        load = max(one["others"] for one in found.values())
        verdict = f"round {len(kept)} of {line.rounds}" if counts else "discarded"
        print(f"{name}: {verdict}, others used up to {load:.0%}: {shown}", file=sys.stderr, flush=True)
    absent = missing(list(line.rivals))
    return {
        "line": name,
        "rounds": kept,
        "discarded": discarded,
        "missing": absent,
        "smoke": smoke,
        "task": asdict(task),
    }
