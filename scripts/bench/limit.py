"""The limits: the same step on one batch that lies ready, by a few bare lines, by the learner and by the loop."""

import torch
from torch import nn
from torch.nn import functional as F

from cnntrain.data.augment.augmentations import Plan
from cnntrain.data.loading.batch import Batch
from cnntrain.data.loading.loader import plan_epoch
from cnntrain.nn.precision import precision_for
from cnntrain.runtime.devices import Precision, autocast, choose_device, prepare
from cnntrain.tasks.classification import Classification
from cnntrain.training.loop import TrainProgress, train
from cnntrain.training.optimizers import sgd
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState
from scripts.bench.work import DATA, Clock, Task, network, parameters


class Fixed:
    """A loader of one batch that lies ready."""

    plan: Plan

    def __init__(self, task: Task, device: torch.device) -> None:
        data, random = DATA[task.data], torch.Generator().manual_seed(0)
        images = torch.randn(task.batch_size, *data.shape, generator=random).to(memory_format=torch.channels_last)
        labels = torch.randint(data.classes, (task.batch_size,), generator=random).to(device)
        self.ready = Batch(images.to(device), labels, labels)
        self.batches, self.batch_size = task.steps, task.batch_size
        self.plan = plan_epoch(labels.cpu().numpy(), task.batch_size, 0, 0, balanced=False)

    def seek(self, epoch: int, place: int) -> None:
        """Stay."""

    def batch(self) -> Batch:
        """Return the batch."""
        return self.ready

    def close(self) -> None:
        """Nothing to let go of."""


def train_step(task: Task, device: torch.device) -> TrainStep:
    """Return the learner that `cnntrain fit` would train."""
    net: nn.Sequential = network(task).to(device).to(memory_format=torch.channels_last)
    rates = [task.lr] * (task.steps * (1 + task.epochs))
    settings = StepSettings(precision=precision_for("auto", device, (net, DATA[task.data].shape)), seed=0)
    return TrainStep(TrainState(net, sgd(net, lr=task.lr)), rates, Classification(()), settings)


def wait(device: torch.device) -> None:
    """Wait until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps(task: Task, clock: Clock, deterministic: bool = False, equivalents: bool = True) -> None:
    """Take the learner's steps, nothing around them; without `equivalents` every layer is left to torch's kernels."""
    prepare(deterministic=deterministic)
    device = choose_device("auto")
    student, loader = train_step(task, device), Fixed(task, device)
    if not equivalents:
        student.program.equivalents = {}
    clock.note(parameters=parameters(student.trained.net))
    for epoch in range(1 + task.epochs):
        clock.begin()
        for step in range(task.steps):
            student.update(loader, epoch * task.steps + step)
        wait(device)
        clock.end(task.steps * task.batch_size)


def loop(task: Task, clock: Clock) -> None:
    """Take the same steps in the training loop, which counts, reads sums and yields records."""
    prepare(deterministic=False)
    device = choose_device("auto")
    student, loader = train_step(task, device), Fixed(task, device)
    clock.note(parameters=parameters(student.trained.net))
    clock.begin()
    for record in train(student, loader, None, at=TrainProgress(), epochs=1 + task.epochs, save=lambda which: None):
        if "seconds" in record:
            clock.end(task.steps * task.batch_size)
            clock.begin()


def bare(task: Task, clock: Clock, precision: Precision = "fp32", channels_last: bool = False) -> None:
    """Take the step that nothing can be left out of: forward, backward, torch's fused SGD."""
    prepare(deterministic=False)
    device = choose_device("auto")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = network(task).to(device).to(memory_format=layout).train()
    chosen = precision_for(precision, device, (net, DATA[task.data].shape))
    optimizer = torch.optim.SGD(
        net.parameters(), lr=task.lr, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    x, y, _ = Fixed(task, device).ready
    x = x.contiguous(memory_format=layout)
    clock.note(parameters=parameters(net))
    for _ in range(1 + task.epochs):
        clock.begin()
        for _ in range(task.steps):
            with autocast(chosen, device):
                logits = net(x)
            F.cross_entropy(logits.float(), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait(device)
        clock.end(task.steps * task.batch_size)
