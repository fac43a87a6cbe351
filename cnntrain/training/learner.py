"""What learns: a network, its optimizer, its moving average, and the update of one step."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cnntrain import ranks
from cnntrain.data.feeds import Feed
from cnntrain.devices import autocast
from cnntrain.draws import generator
from cnntrain.errors import NonFiniteError
from cnntrain.models.heads import Heads


class Learner:
    """A network in training; `update` takes one optimizer step, and all sums stay on the device until `read`.

    `rates` holds the learning rate of every step. `ema` is the decay of the weights' moving average, 0 for none;
    `clip` the largest norm of the gradient, 0 for any; `class_weights` multiply each class's loss. A `companion` adds
    the losses of auxiliary heads on `net` to what is trained; the average, the evaluated network and the loss that
    `read` returns are those of `net` alone.

    Of several processes each steps through its share of every batch; after a step all hold the same state.
    """

    def __init__(
        self,
        net: nn.Sequential,
        optimizer: Optimizer,
        rates: Sequence[float],
        *,
        precision: Literal["fp32", "bf16"],
        seed: int,
        companion: Heads | None = None,
        accumulate: int = 1,
        label_smoothing: float = 0.0,
        clip: float = 0.0,
        ema: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        self.net, self.optimizer, self.rates, self.precision = net, optimizer, rates, precision
        self.companion, self.weight = companion, companion.weight if companion else 0.0
        self.seed, self.accumulate, self.label_smoothing, self.clip = seed, accumulate, label_smoothing, clip
        self.device = next(net.parameters()).device
        self.class_weights = class_weights.to(self.device) if class_weights is not None else None
        self.parameters = list((companion or net).parameters())
        self.running = running(companion or net)
        self.decay = ema
        self.average = copy.deepcopy(net).requires_grad_(False).eval() if ema else None
        self.averaged = floating(self.average) if self.average else []
        self.live = floating(net) if self.average else []
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.right = torch.zeros((), dtype=torch.int64, device=self.device)
        self.count = 0
        # The first step whose loss or gradient is no number; from then on the optimizer's kernels skip every update.
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)
        self.optimizer.found_inf = torch.zeros((), device=self.device)  # type: ignore[attr-defined]
        self.reseeds: tuple[int, list[int]] = (-1, [])

    @property
    def evaluated(self) -> nn.Sequential:
        """The network to evaluate: the moving average where one is kept."""
        return self.average or self.net

    def start_alike(self) -> None:
        """Give every process the weights of the first: made from images, they differ on another kind of processor."""
        whole = self.companion or self.net
        whole.load_state_dict(ranks.told({key: tensor.cpu() for key, tensor in whole.state_dict().items()}))
        if self.average:
            self.average.load_state_dict(self.net.state_dict())

    def update(self, feed: Feed, step: int) -> None:
        """Take optimizer step number `step` (from 0) on the next `accumulate` batches of the feed."""
        per_epoch = feed.batches // self.accumulate
        epoch, turn = divmod(step, per_epoch)
        self.reseed(epoch, turn, per_epoch)
        self.net.train()
        sound = torch.ones((), dtype=torch.bool, device=self.device)
        alone = ranks.WORLD == 1
        loss_sum, right = (t if alone else torch.zeros_like(t) for t in (self.loss_sum, self.right))
        for place in range(turn * self.accumulate, (turn + 1) * self.accumulate):
            feed.seek(epoch, place)
            x, target, labels = feed.batch()
            with autocast(self.precision, self.device):
                logits, heads = self.answers(x)
            loss = total = self.loss(logits, target)
            for answer in heads.values():
                total = total + self.weight * self.loss(answer, target)
            self.backward(total / self.accumulate if self.accumulate > 1 else total)
            sound = sound & total.detach().isfinite()
            loss_sum += loss.detach() * len(labels)
            right += (logits.detach().argmax(dim=1) == labels).sum()
            self.count += len(labels) * ranks.WORLD
        if not alone:
            sound = self.combine(loss_sum, right, sound)
        self.guard(sound & self.norm().isfinite(), step)
        self.set_rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            decay = min(self.decay, (1 + step) / (10 + step))  # the first averages would remember the initial weights
            torch._foreach_lerp_(self.averaged, self.live, 1 - decay)

    def answers(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the network's logits and those of its auxiliary heads."""
        return self.companion(x) if self.companion else (self.net(x), {})

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch with class numbers or probabilities as its target."""
        loss = F.cross_entropy(logits.float(), target, self.class_weights, label_smoothing=self.label_smoothing)
        if self.class_weights is None or target.is_floating_point() or ranks.WORLD == 1:
            return loss
        weight = self.class_weights[target].sum()  # by which the mean divides: a heavier share of the batch counts more
        whole = weight.clone()
        ranks.add_up([whole])
        return loss * (weight / whole * ranks.WORLD)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the step."""
        loss.backward()

    def combine(self, loss_sum: Tensor, right: Tensor, sound: Tensor) -> Tensor:
        """Make the gradients those of the whole batch, and batch norm's running statistics the means over its shares;
        take in the loss and hits of all processes, and return whether every one of them is `sound`.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        measured = torch.stack((loss_sum, right, ~sound)).float()
        shares = [*gradients, *self.running]
        torch._foreach_div_(shares, ranks.WORLD)
        ranks.add_up([*shares, measured])
        self.loss_sum += measured[0]
        self.right += measured[1].long()
        return measured[2] == 0

    def norm(self) -> Tensor:
        """Return the norm of the gradient as it came, and scale the gradient down to the largest one allowed."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        return norm

    def guard(self, sound: Tensor, step: int) -> None:
        """Note the first step that is not `sound`, and make the optimizer skip it and all that follow."""
        self.bad_step.copy_(torch.where((self.bad_step < 0) & ~sound, step, self.bad_step))
        self.optimizer.found_inf.copy_(self.bad_step >= 0)  # type: ignore[attr-defined]

    def reseed(self, epoch: int, turn: int, per_epoch: int) -> None:
        """Make dropout's masks a function of (seed, step), so that no generator state has to be kept."""
        if self.reseeds[0] != epoch:
            words = ("dropout", epoch, ranks.RANK) if ranks.RANK else ("dropout", epoch)
            self.reseeds = epoch, generator(self.seed, *words).integers(2**32, size=per_epoch).tolist()
        if self.device.type == "cuda":
            torch.cuda.manual_seed(self.reseeds[1][turn])
        else:
            torch.default_generator.manual_seed(self.reseeds[1][turn])

    def set_rate(self, step: int) -> None:
        """Give every group its factor of the learning rate of `step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[step] * group.get("factor", 1.0)

    def read(self, step: int) -> dict[str, float]:
        """Return the learning rate, mean loss and top-1 of the batches since the last reading, after `step` steps.

        The loss is that of the network's own logits, without auxiliary heads. It is the one look at the device's
        numbers. Raises `NonFiniteError`, which knows the step, when a loss or a gradient was no number; the weights are
        those before that step.
        """
        if (bad := int(self.bad_step)) >= 0:
            raise NonFiniteError(
                f"the loss or its gradient is no number at step {bad + 1}; a smaller optimizer.lr, trainer.clip=1 or a "
                "longer schedule.warmup usually helps",
                bad,
            )
        found = {
            "lr": self.rates[step - 1],
            "loss": float(self.loss_sum) / self.count,
            "top1": int(self.right) / self.count,
        }
        self.loss_sum.zero_()
        self.right.zero_()
        self.count = 0
        return found

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on but the data: tensors (live ones) and plain numbers."""
        kept = {
            "model": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],  # its settings are the configuration's
            "sums": {"loss": self.loss_sum, "right": self.right, "count": self.count},
        }
        if self.companion:
            kept["heads"] = self.companion.heads.state_dict()
        return kept | {"ema": self.average.state_dict()} if self.average else kept

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.net.load_state_dict(state["model"])
        if self.companion:
            self.companion.heads.load_state_dict(state["heads"])
        if self.average:
            self.average.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state["optimizer"]})
        for parameter, kept in self.optimizer.state.items():
            for name, tensor in kept.items():
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    # Fused optimizers walk memory without regard to strides: state must lie as its parameter does.
                    kept[name] = torch.empty_like(parameter).copy_(tensor)
        self.loss_sum.copy_(state["sums"]["loss"])
        self.right.copy_(state["sums"]["right"])
        self.count = state["sums"]["count"]


def running(net: nn.Module) -> list[Tensor]:
    """Return the running means and variances of batch norm."""
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [t for module in norms for t in (module.running_mean, module.running_var) if t is not None]


def floating(net: nn.Module) -> list[Tensor]:
    """Return the tensors that a moving average averages: weights and batch norm's statistics, no counters."""
    return [t.detach() for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
