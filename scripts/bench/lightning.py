"""Lightning's Trainer, as its introduction uses it."""

import tempfile
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.runtime.devices import choose_device, choose_precision
from scripts.bench.plain import loader
from scripts.bench.work import Clock, Task, network, parameters


class Classifier(L.LightningModule):  # type: ignore[misc]
    """A network with its loss and optimizer."""

    def __init__(self, net: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Return the loss of a batch."""
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


class Timer(L.Callback):  # type: ignore[misc]
    """Reports epochs to the clock."""

    def __init__(self, clock: Clock, samples: int) -> None:
        self.clock, self.samples = clock, samples

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """An epoch starts."""
        self.clock.begin()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """An epoch ends."""
        self.clock.end(self.samples, float(trainer.callback_metrics["loss"]))


def fit(task: Task, clock: Clock, workers: int, best: bool = False) -> None:
    """Train with the Trainer's defaults, or with `best` in channels_last, without bar, logger and saves, and in
    bf16-mixed on a machine with bf16.
    """
    net = network(task)
    clock.note(parameters=parameters(net))
    if best:
        net = net.to(memory_format=torch.channels_last)
    options: dict[str, Any] = {}
    if best:
        options = {"logger": False, "enable_checkpointing": False}
        if choose_precision("auto", choose_device("auto")) == "bf16":
            options["precision"] = "bf16-mixed"
        options |= {"enable_progress_bar": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as scratch:
        timer = Timer(clock, task.steps * task.batch_size)
        trainer = L.Trainer(max_epochs=1 + task.epochs, callbacks=[timer], default_root_dir=scratch, **options)
        trainer.fit(Classifier(net, task.lr), loader(task, workers))
