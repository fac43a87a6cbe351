"""Where the time of a training's steps goes, on request: a table of a step's parts, and a trace of its operators.

The parts are watched from outside, by wrappers that stand before the methods of one learner and its loader for a few
steps and are then taken away: a training that is not profiled has nothing of this in it, and one that is computes the
same.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from cnntrain.data.loading.loader import Loader
from cnntrain.runtime import disk
from cnntrain.runtime.errors import DiskError
from cnntrain.runtime.progress import say
from cnntrain.runtime.tables import percent, render
from cnntrain.training.step import TrainStep

WARM_UP = 5  # steps that find buffers, algorithms and workers unready
TIMED = 20
TRACED = 5  # steps after the timed ones, which tracing would slow down
OPERATORS = 10
TRACE = "trace.json"
PARTS = ("input", "forward", "backward", "exchange", "optimizer", "other")

Profile = dict[str, Any]


class Profiler:
    """Times the parts of a learner's first steps, traces a few more into `folder`, and calls `done` with the report.

    On a GPU each part is waited for, so that its time is its own, and nothing is recorded (`trainer.graph`); the whole
    step takes longer than without a profile.
    """

    def __init__(self, train_step: TrainStep, loader: Loader, folder: Path, done: Callable[[Profile], None]) -> None:
        program = train_step.program
        self.device, self.samples = program.device, loader.batch_size * train_step.accumulate
        self.folder, self.done, self.seen = folder, done, 0
        self.parts: dict[str, float] = defaultdict(float)  # seconds of the step under way
        self.steps: list[dict[str, float]] = []
        self.tracer: profile | None = None
        self.watched: list[tuple[object, str]] = []
        optimizer = train_step.trained.optimizer
        for part, owner, names in (
            ("input", loader, ("seek", "batch")),
            ("forward", program, ("forward",)),
            ("backward", program, ("backward",)),
            ("exchange", program, ("combine",)),
            ("optimizer", program, ("clipped_norm", "guard", "set_rates")),
            ("optimizer", optimizer, ("step", "zero_grad")),
        ):
            for name in names:
                self.put(owner, name, self.timed(part, getattr(owner, name)))
        self.put(train_step, "update", self.counted(train_step.update))
        self.put(train_step, "run", train_step.program)  # a recorded step has no parts to see

    def put(self, owner: object, name: str, wrapper: Callable[..., Any]) -> None:
        """Set a wrapper before a method, of this object only."""
        setattr(owner, name, wrapper)
        self.watched.append((owner, name))

    def now(self) -> float:
        """Return the time at which all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with its time added to that of a part."""

        def wrapper(*args: Any, **settings: Any) -> Any:
            began = self.now()
            with record_function(part):
                found = call(*args, **settings)
            self.parts[part] += self.now() - began
            return found

        return wrapper

    def counted(self, update: Callable[[Loader, int], None]) -> Callable[[Loader, int], None]:
        """Return a learner's `update` that knows which of the profile's steps it is."""

        def wrapper(loader: Loader, step: int) -> None:
            if self.seen == WARM_UP + TIMED:
                gpu = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
                os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the tracer's library talks about its own stages
                self.tracer = profile(activities=[ProfilerActivity.CPU, *gpu])
                self.tracer.start()
            self.parts.clear()
            began = self.now()
            update(loader, step)
            whole = self.now() - began
            self.seen += 1
            if WARM_UP < self.seen <= WARM_UP + TIMED:
                self.steps.append({**self.parts, "other": whole - sum(self.parts.values())})
            if self.seen == WARM_UP + TIMED + TRACED:
                self.close()

        return wrapper

    def close(self) -> bool:
        """Take the wrappers away, write the trace and report, once; say whether there was anything to report."""
        if not self.watched:
            return True
        for owner, name in self.watched:
            delattr(owner, name)
        self.watched = []
        operators: list[dict[str, Any]] = []
        if self.tracer:
            self.tracer.stop()
            operators = self.operators(self.tracer)
            try:
                with disk.replacing(self.folder / TRACE) as partial:
                    self.tracer.export_chrome_trace(str(partial))
            except DiskError as error:
                say(f"warning: {error}")
                self.tracer = None
        if self.steps:
            self.done(self.report(operators))
        return bool(self.steps)

    def report(self, operators: list[dict[str, Any]]) -> Profile:
        """Return the mean milliseconds of a step and of its parts, with their shares."""
        known = [part for part in PARTS if part in self.steps[0]]
        mean = {part: sum(step[part] for step in self.steps) / len(self.steps) for part in known}
        whole = sum(mean.values())
        return {
            "steps": len(self.steps),
            "step_ms": 1000 * whole,
            "samples_per_second": self.samples / whole,
            "parts": [{"part": part, "ms": 1000 * s, "share": s / whole} for part, s in mean.items()],
            "operators": operators,
            "trace": str(self.folder / TRACE) if self.tracer else None,
        }

    def operators(self, tracer: profile) -> list[dict[str, Any]]:
        """Return the operators that took most of the device's time in the traced steps, without those they call."""
        steps = self.seen - WARM_UP - TIMED
        kind = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        events = [e for e in tracer.key_averages() if e.key not in PARTS and getattr(e, kind) > 0]
        events.sort(key=lambda event: -getattr(event, kind))
        return [
            {"operator": event.key, "ms": getattr(event, kind) / 1000 / steps, "calls": event.count / steps}
            for event in events[:OPERATORS]
        ]


def show(report: Profile) -> str:
    """Write a report as the table of parts and that of operators."""
    parts = [{**row, "share": percent(row["share"], 1)} for row in report["parts"]]
    text = (
        f"a step takes {report['step_ms']:.2f} ms ({report['samples_per_second']:,.0f} images/s), the mean of "
        f"{report['steps']}\n\n{render(parts)}"
    )
    if report["operators"]:
        text += f"\n\nms and calls a step of the operators that take most\n\n{render(report['operators'])}"
        text += f"\n\ntrace    {report['trace']} (ui.perfetto.dev, chrome://tracing)"
    return text
