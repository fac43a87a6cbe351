"""Where the time of a training's steps goes, on request: a table of a step's parts, and a trace of its operators.

The parts are timed from outside, by wrappers before the methods of one training step and its loader, which are removed
after a few steps: a training that is not profiled has none of them, and one that is computes the same.
"""

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
from cnntrain.training.torch_workarounds import WrappedMethods, silence_kineto

WARM_UP = 5  # steps that find buffers, algorithms and workers unready
TIMED = 20
TRACED = 5  # steps after the timed ones, which tracing would slow down
OPERATORS = 10
TRACE = "trace.json"
PARTS = ("input", "forward", "backward", "exchange", "optimizer", "other")

Profile = dict[str, Any]


class Profiler:
    """Times the parts of a training's first steps, traces a few more into `folder`, and calls `done` with the profile.

    On a GPU it synchronises after each part, so that its time is its own, and steps are not captured as a CUDA graph;
    they take longer than without a profile.
    """

    def __init__(self, train_step: TrainStep, loader: Loader, folder: Path, done: Callable[[Profile], None]) -> None:
        program = train_step.program
        self.device, self.samples = program.device, loader.batch_size * train_step.accumulate
        self.folder, self.done, self.seen = folder, done, 0
        self.parts: dict[str, float] = defaultdict(float)  # seconds of the step under way
        self.steps: list[dict[str, float]] = []
        self.tracer: profile | None = None
        self.methods = WrappedMethods()
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
                self.methods.put(owner, name, self.timed(part, getattr(owner, name)))
        self.methods.put(train_step, "update", self.counted(train_step.update))
        self.methods.put(train_step, "run", train_step.program)  # a replayed graph has no parts

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
                result = call(*args, **settings)
            self.parts[part] += self.now() - began
            return result

        return wrapper

    def counted(self, update: Callable[[Loader, int], None]) -> Callable[[Loader, int], None]:
        """Return an `update` that knows which of the profile's steps it is."""

        def wrapper(loader: Loader, step: int) -> None:
            if self.seen == WARM_UP + TIMED:
                gpu = [ProfilerActivity.CUDA] if self.device.type == "cuda" else []
                silence_kineto()
                self.tracer = profile(activities=[ProfilerActivity.CPU, *gpu])
                self.tracer.start()
            self.parts.clear()
            began = self.now()
            update(loader, step)
            seconds = self.now() - began
            self.seen += 1
            if WARM_UP < self.seen <= WARM_UP + TIMED:
                self.steps.append({**self.parts, "other": seconds - sum(self.parts.values())})
            if self.seen == WARM_UP + TIMED + TRACED:
                self.close()

        return wrapper

    def close(self) -> bool:
        """Take the wrappers away, write the trace and report, once; say whether there was anything to report."""
        if not self.methods.remove():
            return True
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
            self.done(self.summary(operators))
        return bool(self.steps)

    def summary(self, operators: list[dict[str, Any]]) -> Profile:
        """Return the mean milliseconds of a step and of its parts, with their shares."""
        timed = [part for part in PARTS if part in self.steps[0]]
        mean = {part: sum(step[part] for step in self.steps) / len(self.steps) for part in timed}
        total = sum(mean.values())
        return {
            "steps": len(self.steps),
            "step_ms": 1000 * total,
            "samples_per_second": self.samples / total,
            "parts": [{"part": part, "ms": 1000 * s, "share": s / total} for part, s in mean.items()],
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


def show(profile: Profile, noun: str) -> str:
    """Write a profile as the table of parts and that of operators; a person calls an image of these by the noun."""
    parts = [{**row, "share": percent(row["share"], 1)} for row in profile["parts"]]
    text = (
        f"a step takes {profile['step_ms']:.2f} ms ({profile['samples_per_second']:,.0f} {noun}s/s), the mean of "
        f"{profile['steps']}\n\n{render(parts)}"
    )
    if profile["operators"]:
        text += f"\n\nms and calls a step of the operators that take most\n\n{render(profile['operators'])}"
        text += f"\n\ntrace    {profile['trace']} (ui.perfetto.dev, chrome://tracing)"
    return text
