"""The device's part of a training step: a program that never synchronises with the device.

It finds the learning rates, the average's share, the images' places and all that was drawn for them in the device's
memory, by the number of the step and at addresses that hold for the whole training, so that a CUDA graph can replay it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cnntrain.data.loading.loader import Loader
from cnntrain.nn.equivalents import computed_as, equivalents
from cnntrain.runtime import distributed
from cnntrain.runtime.devices import Compile, Graph, autocast
from cnntrain.runtime.distributed import all_reduce, together
from cnntrain.tasks.task import Task
from cnntrain.training.foreach import (
    converted_layers,
    converted_together,
    counted_layers,
    counted_together,
    total_norm,
)
from cnntrain.training.gradient_average import GradientAverage
from cnntrain.training.gradient_norms import GradientNorms
from cnntrain.training.optimizers import add_l1, bound_norms
from cnntrain.training.schedule_events import Freeze, FrozenMode, Scale
from cnntrain.training.sums import Sums, flattened, unflattened
from cnntrain.training.train_state import TrainState


@dataclass(frozen=True)
class StepSettings:
    """How steps are taken; the names are those of the options of `trainer`."""

    precision: Literal["fp32", "bf16"]
    seed: int
    accumulate: int = 1  # batches a step
    clip: float = 0.0  # the largest norm of the gradient, 0 for any
    freeze: Freeze = None  # which stages are frozen from which fraction of the steps on
    frozen_mode: FrozenMode = "evaluation"  # how they compute then
    resize: Mapping[int, float] = field(default_factory=dict)  # pixels a side of images until which fraction
    graph: Graph = False  # whether a GPU captures the steps and replays them
    compile: Compile = False  # whether the operators of the forward pass, the loss and their gradients are merged
    gradients: bool = False  # whether the norm of every stage's gradient is noted


NEVER = 2**53  # the number of no step; float64 holds it


class Tables(NamedTuple):
    """Numbers of every step, on the device."""

    rates: Tensor  # float32 [steps, parameter groups]: learning rates
    shares: Tensor  # float32 [steps]: of the weights in their moving average


class StepProgram:
    """Called with a loader it takes a step on the next `accumulate` batches: gradients, the update, the average.

    Of several processes each goes through its share of every batch, and all hold the same state afterwards: gradients
    travel while the backward pass goes on; losses, counts, batch norm's statistics and whether the step was finite
    follow in one message.
    """

    def __init__(self, trained: TrainState, rates: Sequence[float], task: Task, settings: StepSettings) -> None:
        self.trained, self.rates, self.task, self.device = trained, rates, task, trained.device
        self.precision, self.accumulate, self.clip = settings.precision, settings.accumulate, settings.clip
        # One batch of one process is all of its step: then its own mean is that of the step.
        self.weighted = task.weighted and (settings.accumulate > 1 or distributed.WORLD > 1)
        self.scale = Scale()
        self.sums = Sums(task.no_counts, self.device)
        self.gradients = GradientNorms(trained.net, self.device) if settings.gradients else None
        self.never = torch.full((), NEVER, device=self.device)
        self.bad_step = self.never.clone()  # the first step that was not finite
        self.step, self.at = 0, torch.zeros(1, dtype=torch.int64, device=self.device)  # for the host, for the device
        self.tables = self.tabulated() if self.device.type == "cuda" else None
        mode = "max-autotune-no-cudagraphs" if settings.compile == "max" else None
        self.compiled = torch.compile(self.losses, mode=mode, dynamic=False) if settings.compile else None
        self.equivalents = {} if settings.compile else equivalents(trained.module, tapped=trained.auxiliary is not None)
        # On a CPU a conversion costs what its numbers do; with several processes a gradient leaves as soon as it comes.
        at_once = self.device.type == "cuda" and self.precision == "bf16" and distributed.WORLD == 1
        self.converted = converted_layers(trained.module) if at_once else []
        self.gradient_average: GradientAverage | None = None
        self.see_frozen()

    def see_frozen(self) -> None:
        """Find what learns and which batch norms follow their inputs, now that stages may be frozen or set free."""
        self.running = self.trained.running_statistics()
        if distributed.WORLD > 1:
            if self.gradient_average:
                self.gradient_average.remove()
            self.gradient_average = GradientAverage(self.trained.parameters)
        self.counted = counted_layers(self.trained.module)

    @property
    def summed(self) -> dict[str, Tensor]:
        """All that is summed on the device between two readings, by its name."""
        return self.sums.tensors | ({"gradients": self.gradients.sums} if self.gradients else {})

    def go_to(self, step: int) -> None:
        """Say which step the program takes next."""
        self.step = step
        self.at.fill_(step)

    def __call__(self, loader: Loader) -> None:
        check: Any = 0  # finite as long as all losses are
        divisor: Any = 0  # of the step's mean: its images, or the sum of their weights
        apart = self.weighted or distributed.WORLD > 1
        sums = Sums(self.sums.counts, self.device) if apart else self.sums
        for left in reversed(range(self.accumulate)):
            x, target, own_target = loader.batch()
            loss, total, answer = self.forward(self.scale(x), target)
            weight = self.task.weight(target) if self.weighted else len(x)
            if self.weighted or self.accumulate > 1:
                total = total * (weight / (self.accumulate * len(x)))
            if self.gradient_average and left == 0:
                self.gradient_average.begin()
            self.backward(total)
            check = check + total.detach()
            sums.add(loss.detach() * weight, self.task.counts(answer.detach(), own_target))
            divisor = divisor + weight
        if apart:
            check = self.combine(sums, check, divisor, self.accumulate * loader.batch_size)
        if self.gradients:
            self.gradients.add()
        self.guard(check + self.clipped_norm())
        self.set_rates()
        add_l1(self.trained.optimizer)
        with autocast(self.precision, self.device):  # for the products of Muon; other optimizers have none
            self.trained.optimizer.step()
        bound_norms(self.trained.optimizer)
        self.trained.optimizer.zero_grad(set_to_none=True)
        if average := self.trained.average:
            average.follow(self.tables.shares.index_select(0, self.at)[0] if self.tables else average.share(self.step))

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the one with auxiliary classifiers, and the answer."""
        if self.compiled:
            return self.compiled(x, target)
        with counted_together(self.counted), converted_together(self.converted):
            return self.losses(x, target)

    def losses(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` does, operator by operator."""
        with autocast(self.precision, self.device), computed_as(self.equivalents):
            answer, auxiliary = self.trained.answers(x)
        loss = total = self.task.loss(answer, target)
        for other in auxiliary:
            total = total + self.trained.auxiliary_weight * self.task.loss(other, target)
        return loss, total, answer

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the step."""
        with together():
            loss.backward()

    def combine(self, sums: Sums, check: Tensor, divisor: Tensor | int, images: int) -> Tensor:
        """Make the gradients those of all of the step's `images`, and batch norm's running statistics the means over
        processes; add the sums of all processes, and return a number that is finite where every `check` was.

        Weighted losses arrive as sums, and `divisor` is the sum of the weights.
        """
        weights = [torch.as_tensor(divisor)] if self.weighted else []
        numbers = flattened(sums.loss, check, *weights, *sums.counts.values()).float()
        if self.gradient_average:
            self.gradient_average.finish()
            if self.running:
                torch._foreach_div_(self.running, distributed.WORLD)
            all_reduce([*self.running, numbers])
        if self.weighted:
            gradients = [p.grad for p in self.trained.parameters if p.grad is not None]
            torch._foreach_mul_([*gradients, numbers[0]], images / numbers[2])
        self.sums.add(numbers[0], unflattened(numbers[2 + len(weights) :], sums.counts))
        return numbers[1]

    def clipped_norm(self) -> Tensor:
        """Return the norm of the gradient as it came, and scale the gradient down to the largest one allowed."""
        norm = total_norm([p.grad for p in self.trained.parameters if p.grad is not None])
        if self.clip:
            nn.utils.clip_grads_with_norm_(self.trained.parameters, self.clip, norm)
        return norm

    def guard(self, check: Tensor) -> None:
        """Note the first step whose `check` is not finite, and make the optimizer skip it and all that follow."""
        finite = check.abs() < torch.inf  # false for NaN too
        torch.minimum(self.bad_step, torch.where(finite, self.never, self.at[0]), out=self.bad_step)
        torch.lt(self.bad_step, self.never, out=self.trained.skip)

    def tabulated(self) -> Tables:
        """Return the numbers of every step as tables on the device."""
        groups, average = self.trained.optimizer.param_groups, self.trained.average
        for group in groups:
            group |= {"capturable": True} if "capturable" in group else {}  # or Adam cannot be captured
        rates = torch.tensor([[rate * group.get("factor", 1.0) for group in groups] for rate in self.rates])
        shares = torch.tensor([average.share(step) for step in range(len(self.rates))] if average else [])
        return Tables(rates.to(self.device), shares.to(self.device))

    def set_rates(self) -> None:
        """Give every parameter group its factor of this step's learning rate."""
        groups = self.trained.optimizer.param_groups
        if self.tables:
            rates: Sequence[Any] = self.tables.rates.index_select(0, self.at)[0].unbind()
        else:  # fused optimizers synchronise for a tensor on a CPU
            rates = [self.rates[self.step] * group.get("factor", 1.0) for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
