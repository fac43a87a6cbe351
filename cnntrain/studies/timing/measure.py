"""Seconds of a training step in its parts, of single stages, and of a matrix product to hold them against."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cnntrain.runtime.devices import autocast
from cnntrain.training.torch_workarounds import torch_timer

FixedPrecision = Literal["fp32", "bf16"]
T = TypeVar("T")
PRODUCT = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrix product


class StepTimes(NamedTuple):
    """Seconds of one training step: the forward pass with the loss, the backward pass, the optimizer."""

    forward: float
    backward: float
    update: float

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return sum(self)


class StageTimes(NamedTuple):
    """Seconds of one stage by itself, from what arrives to what leaves it, and of its gradients."""

    forward: float
    backward: float


@dataclass
class TimedSubject:
    """A network to be timed, with a batch of noise on its device; `optimizer` may be left out for stages alone."""

    net: nn.Sequential
    optimizer: Optimizer
    images: Tensor
    labels: Tensor
    precision: FixedPrecision

    @property
    def device(self) -> torch.device:
        """The device of the batch."""
        return self.images.device


def clock(device: torch.device) -> tuple[Callable[[], Any], Callable[[Any, Any], float]]:
    """Return what marks a moment of a device's work, and the seconds between two marks.

    On a GPU a mark is an event in its stream: the host does not wait until the marks are compared.
    """
    if device.type != "cuda":
        return time.perf_counter, lambda start, end: float(end - start)

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000

    return mark, between


def time_step(subject: TimedSubject) -> StepTimes:
    """Take one training step and return the seconds of its parts.

    A backward pass needs the forward pass before it, so both are timed within one step.
    """
    mark, between = clock(subject.device)
    marks = [mark()]
    with autocast(subject.precision, subject.device):
        logits = subject.net(subject.images)
    loss = F.cross_entropy(logits.float(), subject.labels)
    marks.append(mark())
    loss.backward()
    marks.append(mark())
    subject.optimizer.step()
    marks.append(mark())
    subject.optimizer.zero_grad(set_to_none=True)
    return StepTimes(*(between(start, end) for start, end in itertools.pairwise(marks)))


def time_stages(subject: TimedSubject) -> dict[str, StageTimes]:
    """Pass a batch through every stage by itself and return the seconds of each.

    What arrives is detached, so that a stage's backward pass ends where the stage begins. The first stage needs no
    gradient of the images, as in training.
    """
    mark, between = clock(subject.device)
    times, x = {}, subject.images
    for place, (name, stage) in enumerate(subject.net.named_children()):
        x = x.detach().requires_grad_(place > 0)
        start = mark()
        with autocast(subject.precision, subject.device):
            y = stage(x)
        middle = mark()
        reads = [part for part in (x, *stage.parameters()) if part.requires_grad]
        if reads:
            torch.autograd.grad(y, reads, torch.ones_like(y))
        end = mark()
        times[name] = StageTimes(between(start, middle), between(middle, end) if reads else 0.0)
        x = y
    return times


def interleaved(works: Mapping[str, Callable[[], T]], *, seconds: float, least: int = 5) -> Iterator[tuple[str, T]]:
    """Do works in turns until so many seconds have passed, each at least `least` times; yield what they return.

    In turns, so that other work on the machine slows all of them alike. Each is done once before, uncounted.
    """
    for work in works.values():
        work()
    began, rounds = time.perf_counter(), 0
    while rounds < least or time.perf_counter() - began < seconds:
        for name, work in works.items():
            yield name, work()
        rounds += 1


def product_rate(device: torch.device, precision: FixedPrecision) -> float:
    """Return the multiplications a second of a large matrix product: what the device can do at most."""
    size = PRODUCT.get(device.type, PRODUCT["cpu"])
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    product = torch_timer("a @ b", {"a": a, "b": b})
    seconds: float = product.blocked_autorange(min_run_time=0.3).median
    return size**3 / seconds


class Spread(NamedTuple):
    """The median and the interquartile range of repeats, and their number."""

    median: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of repeats."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0], len(values))
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


def peak_memory(subject: TimedSubject, activations: int) -> int:
    """Return the bytes at the peak of a training step.

    On a GPU as torch counts them; elsewhere weights, gradients and the optimizer's state, and `activations` numbers an
    image in fp32, which training keeps for the backward pass.
    """
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(subject.device)
        time_step(subject)
        return int(torch.cuda.max_memory_allocated(subject.device))
    states = [v for state in subject.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    weights = list(subject.net.parameters())
    held = sum(t.numel() * t.element_size() for t in (*weights, *weights, *states))
    return held + 4 * activations * len(subject.images)
