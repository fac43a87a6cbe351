"""What learns: a network, its optimizer, its moving average, and the update of one step."""

import copy
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cnntrain.data.feeds import Feed
from cnntrain.devices import autocast
from cnntrain.draws import generator
from cnntrain.errors import NonFiniteError


class Learner:
    """A network in training; `update` takes one optimizer step, and all sums stay on the device until `read`.

    `rates` holds the learning rate of every step. `ema` is the decay of the weights' moving average, 0 for none;
    `clip` the largest norm of the gradient, 0 for any; `class_weights` multiply each class's loss.
    """

    def __init__(
        self,
        net: nn.Sequential,
        optimizer: Optimizer,
        rates: Sequence[float],
        *,
        precision: Literal["fp32", "bf16"],
        seed: int,
        accumulate: int = 1,
        label_smoothing: float = 0.0,
        clip: float = 0.0,
        ema: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        self.net, self.optimizer, self.rates, self.precision = net, optimizer, rates, precision
        self.seed, self.accumulate, self.label_smoothing, self.clip = seed, accumulate, label_smoothing, clip
        self.device = next(net.parameters()).device
        self.class_weights = class_weights.to(self.device) if class_weights is not None else None
        self.parameters = list(net.parameters())
        self.decay = ema
        self.average = copy.deepcopy(net).requires_grad_(False).eval() if ema else None
        self.averaged = floating(self.average) if self.average else []
        self.live = floating(net) if self.average else []
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.right = torch.zeros((), dtype=torch.int64, device=self.device)
        self.count = 0
        self.reseeds: tuple[int, list[int]] = (-1, [])

    @property
    def evaluated(self) -> nn.Sequential:
        """The network to evaluate: the moving average where one is kept."""
        return self.average or self.net

    def update(self, feed: Feed, step: int) -> None:
        """Take optimizer step number `step` (from 0) on the next `accumulate` batches of the feed."""
        per_epoch = feed.batches // self.accumulate
        epoch, turn = divmod(step, per_epoch)
        self.reseed(epoch, turn, per_epoch)
        self.net.train()
        for place in range(turn * self.accumulate, (turn + 1) * self.accumulate):
            feed.seek(epoch, place)
            x, target, labels = feed.batch()
            with autocast(self.precision, self.device):
                logits = self.net(x)
            loss = F.cross_entropy(logits.float(), target, self.class_weights, label_smoothing=self.label_smoothing)
            (loss / self.accumulate if self.accumulate > 1 else loss).backward()
            self.loss_sum += loss.detach() * len(labels)
            self.right += (logits.detach().argmax(dim=1) == labels).sum()
            self.count += len(labels)
        if self.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.set_rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            decay = min(self.decay, (1 + step) / (10 + step))  # the first averages would remember the initial weights
            torch._foreach_lerp_(self.averaged, self.live, 1 - decay)

    def reseed(self, epoch: int, turn: int, per_epoch: int) -> None:
        """Make dropout's masks a function of (seed, step), so that no generator state has to be kept."""
        if self.reseeds[0] != epoch:
            self.reseeds = epoch, generator(self.seed, "dropout", epoch).integers(2**32, size=per_epoch).tolist()
        if self.device.type == "cuda":
            torch.cuda.manual_seed(self.reseeds[1][turn])
        else:
            torch.default_generator.manual_seed(self.reseeds[1][turn])

    def set_rate(self, step: int) -> None:
        """Give every group the learning rate of `step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[step]

    def read(self) -> dict[str, float]:
        """Return mean loss and top-1 of the batches since the last reading: the one look at the device's numbers.

        Raises `NonFiniteError` when the loss is not a number.
        """
        loss, top1 = float(self.loss_sum) / self.count, int(self.right) / self.count
        self.loss_sum.zero_()
        self.right.zero_()
        self.count = 0
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"the training loss became {loss}; a smaller optimizer.lr, trainer.clip=1 or a longer "
                "schedule.warmup usually helps"
            )
        return {"loss": loss, "top1": top1}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return the state dicts to keep: of the network, and of its moving average where there is one."""
        kept = {"model": self.net.state_dict()}
        return kept | {"ema": self.average.state_dict()} if self.average else kept


def floating(net: nn.Module) -> list[Tensor]:
    """Return the tensors that a moving average averages: weights and batch norm's statistics, no counters."""
    return [t.detach() for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
