"""Rounds of fresh processes: every contender of a line once a round, in turns, on an idle machine or not counted."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from cnntrain.runtime.devices import choose_device, choose_precision
from scripts.bench.lines import BARE, Line
from scripts.bench.load import BUSY, Patience, watched
from scripts.bench.work import Task
from scripts.bench.worker import CONTENDERS

ROOT = Path(__file__).parents[2]
SANE = 2.0  # how many times the loss of one contender may be that of another over the same epochs

Run = dict[str, Any]  # what one process reported, with its clocks
Round = dict[str, Run]


class UnequalWorkError(Exception):
    """Two contenders did not do the same work."""


def contenders(rivals: Iterable[str]) -> list[str]:
    """Return who runs for the rivals: for the limit every bare step in a precision that the device computes in."""
    known = {"fp32", choose_precision("auto", choose_device("auto"))}
    steps = [step for step in BARE if step.split(", ")[1] in known]
    return [who for rival in rivals for who in (steps if rival == "limit" else [rival])]


def missing(names: Sequence[str]) -> dict[str, str]:
    """Return what has to be installed for each of the contenders `names` that cannot run."""
    needed = {name: [need for need in CONTENDERS[name].needs if not find_spec(need)] for name in names}
    return {name: f"`pip install {' '.join(needs)}`" for name, needs in needed.items() if needs}


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


def take_round(names: list[str], subject: str, task: Task, absent: dict[str, str]) -> Round:
    """Run each contender once; a rival that fails is noted in `absent` and left out from then on.

    Raises `RuntimeError` when the subject fails, `UnequalWorkError` when a rival did other work.
    """
    found: Round = {}
    for name in names:
        try:
            found[name] = run(name, task)
        except RuntimeError as error:
            if name == subject:
                raise
            print(error, file=sys.stderr, flush=True)
            absent[name] = "failed"
    for name in found:
        check_equal(found[subject], found[name], name)
    return found


def measure(name: str, line: Line, root: Path, patience: Patience, *, smoke: bool = False) -> Iterator[dict[str, Any]]:
    """Yield after each round what a line has come to: the rounds that count, how many were discarded, who is absent.

    Every other round goes the other way round, so that a machine that slows down favours nobody. Where some rivals have
    a target, those without run in the first round alone. `smoke` takes one tiny round whatever the load: it shows that
    the line runs, and is no measurement.
    """
    task, most = replace(line.task, root=str(root.resolve())), BUSY
    if smoke:
        task = replace(task, images=min(task.images, 4 * task.batch_size), epochs=1)
        line, most = replace(line, rounds=1), 1.0
    absent = missing([line.subject, *contenders(line.rivals)])
    kept: list[Round] = []
    discarded = 0
    while len(kept) < line.rounds and (smoke or patience.wait()):
        rivals = contenders(line.rivals if not kept else line.decisive)
        names = [who for who in (line.subject, *rivals) if who not in absent]
        order = names if len(kept) % 2 == 0 else names[::-1]
        found = take_round(order, line.subject, replace(task, seed=len(kept)), absent)
        load = max(one["others"] for one in found.values())
        if load <= most:
            kept.append(found)
        else:
            discarded += 1
            patience.left -= sum(one["cold"] for one in found.values())
        shown = ", ".join(f"{who} {one.get(line.clock, one.get('value', 0)):.3g}" for who, one in found.items())
        verdict = f"round {len(kept)} of {line.rounds}" if load <= most else "discarded"
        print(f"{name}: {verdict}, others used up to {load:.0%}: {shown}", file=sys.stderr, flush=True)
        state = {"rounds": kept, "discarded": discarded, "missing": dict(absent), "smoke": smoke}
        told = replace(line.task, reference=Path(line.task.reference).name)  # without this machine's folders
        yield {"line": name, "task": asdict(told), **state}
