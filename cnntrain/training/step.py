"""One optimizer step: what the host does, and the program that it has the device run."""

import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from cnntrain.data.loading.loader import Loader
from cnntrain.nn.shapes import Shape
from cnntrain.runtime import distributed
from cnntrain.runtime.errors import NonFiniteError
from cnntrain.runtime.progress import say
from cnntrain.runtime.seeding import generator
from cnntrain.tasks.task import Task
from cnntrain.training.cuda_graph import CudaGraph
from cnntrain.training.schedule_events import freeze_schedule, resize_schedule
from cnntrain.training.step_program import NEVER, StepProgram, StepSettings
from cnntrain.training.sums import flattened, unflattened
from cnntrain.training.train_state import TrainState


class TrainStep:
    """Takes the optimizer steps of a training whose learning rate at every step is in `rates`.

    The host says a step's number, dropout's seed and the loader's place; everything else is a program of the device,
    which a GPU may capture and replay. All sums stay on the device until `read`.
    """

    def __init__(self, trained: TrainState, rates: Sequence[float], task: Task, settings: StepSettings) -> None:
        self.trained, self.task, self.settings = trained, task, settings
        self.program = StepProgram(trained, rates, task, settings)
        events = [
            *freeze_schedule(trained.net, settings.freeze, len(rates), settings.frozen_mode),
            *resize_schedule(self.program.scale, settings.resize, len(rates)),
        ]
        self.events = sorted(events, key=itemgetter(0))
        self.graph = CudaGraph(trained.device, required=settings.graph is True) if settings.graph else None
        self.images = 0  # since the last reading
        self.uncompiled = bool(settings.compile)
        self.seeds: tuple[int, list[int]] = (-1, [])  # dropout's, of the steps of an epoch

    @property
    def accumulate(self) -> int:
        """Batches a step."""
        return self.settings.accumulate

    @property
    def evaluated(self) -> nn.Sequential:
        """The network to evaluate."""
        return self.trained.evaluated

    def update(self, loader: Loader, step: int) -> None:
        """Take optimizer step number `step` (from 0) on the next `accumulate` batches of the loader."""
        self.prepare(loader, step)
        self.run(loader)

    def prepare(self, loader: Loader, step: int) -> None:
        """Do the host's part of a step: nothing here depends on what the device has computed."""
        per_epoch = loader.batches // self.accumulate
        epoch, turn = divmod(step, per_epoch)
        self.seed_dropout(epoch, turn, per_epoch)
        self.program.go_to(step)
        self.apply_events(step)
        loader.seek(epoch, turn * self.accumulate)
        self.images += self.accumulate * loader.batch_size

    def apply_events(self, step: int) -> None:
        """Freeze stages and resize images as the schedules say for this step and those before it."""
        while self.events and self.events[0][0] <= step:
            self.events.pop(0)[1]()
            self.program.see_frozen()
            if self.graph:
                self.graph.reset()

    def run(self, loader: Loader) -> None:
        """Run the device's program, by replaying it where it can be captured."""
        if self.uncompiled:
            self.uncompiled, begun = False, time.perf_counter()
            self.program(loader)
            say(f"trainer.compile: compiled in {time.perf_counter() - begun:.0f} s")
        elif self.graph is None:
            self.program(loader)
        elif reason := self.graph(self.program, loader):
            self.graph = None
            self.trained.optimizer.zero_grad(set_to_none=True)  # of the attempt, which has computed nothing
            say(f"trainer.graph=auto: steps are not captured as a CUDA graph, {reason}")
            self.program(loader)

    def seed_dropout(self, epoch: int, turn: int, per_epoch: int) -> None:
        """Make dropout's masks a function of (seed, step), so that no generator state has to be kept."""
        if self.seeds[0] != epoch:
            words = ("dropout", epoch, distributed.RANK) if distributed.RANK else ("dropout", epoch)
            drawn = generator(self.settings.seed, *words).integers(2**32, size=per_epoch)
            self.seeds = epoch, drawn.tolist()
        if self.trained.device.type == "cuda":
            torch.cuda.manual_seed(self.seeds[1][turn])
        else:
            torch.default_generator.manual_seed(self.seeds[1][turn])

    def read(self, step: int) -> dict[str, float]:
        """Return the learning rate, mean loss and the task's score since the last reading, after `step` steps.

        The loss is that of the network's own answers, without auxiliary classifiers. Where `gradients` are noted, the
        mean norm of every stage's gradient comes with them. Nothing else in a training's steps synchronises with the
        device. Raises `NonFiniteError`, which knows the step, when a loss or a gradient was not
        finite; the weights are those before that step.
        """
        program, images = self.program, self.images
        numbers = flattened(program.bad_step, *program.summed.values()).cpu()
        bad = int(numbers[0])
        if bad < NEVER:
            raise NonFiniteError(
                f"the loss or its gradient is NaN or infinite at step {bad + 1}; a smaller optimizer.lr, "
                "trainer.clip=1 or a longer schedule.warmup usually helps",
                bad,
            )
        sums = unflattened(numbers[1:], program.summed)
        for tensor in program.summed.values():
            tensor.zero_()  # at the same address
        self.images = 0
        norms = {"gradients": program.gradients.means(sums["gradients"])} if program.gradients else {}
        return {
            "lr": program.rates[step - 1],
            "loss": sums["loss"].item() / images,
            **self.task.score(sums, images),
            **norms,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on but the data: tensors (live ones) and plain numbers."""
        state = self.trained.state_dict()
        sums = {**self.program.summed, "count": self.images}
        return {"model": state["model"], "optimizer": state["optimizer"], "sums": sums} | state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, which must have the structure of a state of this training."""
        if self.graph:
            self.graph.reset()  # the optimizer's tensors will lie elsewhere
        self.trained.load_state_dict(state)
        for name, tensor in self.program.summed.items():
            tensor.copy_(state["sums"][name])  # at the same address
        self.images = state["sums"]["count"]

    def prime(self, shape: Shape, steps: int) -> None:
        """Give `state_dict` the structure that it has after so many steps on images of a shape.

        Load weights after this. A stage that learns from a later step on has a place in it once that step is taken.
        """
        self.apply_events(0)
        reached = self.trained.reached(shape)
        while self.events and self.events[0][0] < steps:
            self.apply_events(self.events[0][0])
            reached |= self.trained.reached(shape)
        self.trained.prime(reached)
