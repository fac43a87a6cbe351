"""What learns: a network, its optimizer, its moving average, and the update of one step."""

import copy
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cnntrain.data.loading.loader import Loader
from cnntrain.nn.auxiliary import AuxiliaryClassifiers
from cnntrain.nn.conv_matmul import as_products, candidates
from cnntrain.nn.shapes import Shape
from cnntrain.runtime import distributed
from cnntrain.runtime.devices import autocast
from cnntrain.runtime.distributed import all_reduce, broadcast
from cnntrain.runtime.errors import NonFiniteError
from cnntrain.runtime.progress import say
from cnntrain.runtime.seeding import generator
from cnntrain.training.cuda_graph import Recorder
from cnntrain.training.evaluate import evaluating
from cnntrain.training.schedule_events import Freeze, Scale, freezing, resizing


class TrainStep:
    """A network in training; `update` takes one optimizer step, and all sums stay on the device until `read`.

    A step is what the host has to say (`prepare`: its number, dropout's seed, the loader's place) and a `program` of
    the device, which finds everything else in the device's memory. `graph` has a GPU record the program and repeat it,
    `compile` merges the operators of the forward pass, the loss and their gradients.

    `rates` holds the learning rate of every step. `ema` is the decay of the weights' moving average, 0 for none;
    `clip` the largest norm of the gradient, 0 for any; `class_weights` multiply each class's loss; `freeze` says which
    stages rest from which fraction of the steps on, `resize` until which one images have so few pixels a side. A
    `auxiliary` adds the losses of auxiliary heads on `net` to what is trained; the average, the evaluated network and
    the loss that `read` returns are those of `net` alone.

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
        auxiliary: AuxiliaryClassifiers | None = None,
        accumulate: int = 1,
        label_smoothing: float = 0.0,
        clip: float = 0.0,
        ema: float = 0.0,
        class_weights: Tensor | None = None,
        freeze: Freeze = None,
        resize: Mapping[int, float] | None = None,
        graph: Literal["auto"] | bool = False,
        compile: bool = False,
    ) -> None:
        self.net, self.optimizer, self.rates, self.precision = net, optimizer, rates, precision
        self.auxiliary, self.weight = auxiliary, auxiliary.weight if auxiliary else 0.0
        self.seed, self.accumulate, self.label_smoothing, self.clip = seed, accumulate, label_smoothing, clip
        self.device = next(net.parameters()).device
        net.train()
        self.class_weights = class_weights.to(self.device) if class_weights is not None else None
        self.weighs = class_weights is not None and (
            accumulate > 1 or distributed.WORLD > 1
        )  # else a batch is the step
        self.parameters = list((auxiliary or net).parameters())
        self.running = running(auxiliary or net)
        self.scale, total = Scale(), len(rates)
        changes = [*freezing(net, freeze, total), *resizing(self.scale, resize or {}, total)]
        self.changes = sorted(changes, key=itemgetter(0))
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
        self.step, self.at = 0, torch.zeros(1, dtype=torch.int64, device=self.device)  # for the host, for the device
        self.tables = self.tabulated() if self.device.type == "cuda" else None
        self.recorder = Recorder(self.device, required=graph is True) if graph else None
        mode = "max-autotune-no-cudagraphs" if self.device.type == "cuda" else None
        self.merged = torch.compile(self.losses, mode=mode, dynamic=False) if compile else None
        self.products = [] if compile else candidates(auxiliary or net)

    @property
    def evaluated(self) -> nn.Sequential:
        """The network to evaluate: the moving average where one is kept."""
        return self.average or self.net

    def start_alike(self) -> None:
        """Give every process the weights of the first: made from images, they differ on another kind of processor."""
        whole = self.auxiliary or self.net
        whole.load_state_dict(broadcast({key: tensor.cpu() for key, tensor in whole.state_dict().items()}))
        if self.average:
            self.average.load_state_dict(self.net.state_dict())

    def update(self, loader: Loader, step: int) -> None:
        """Take optimizer step number `step` (from 0) on the next `accumulate` batches of the loader."""
        self.prepare(loader, step)
        self.run(loader)

    def prepare(self, loader: Loader, step: int) -> None:
        """Do the host's part of a step: nothing here depends on what the device has computed."""
        per_epoch = loader.batches // self.accumulate
        epoch, turn = divmod(step, per_epoch)
        self.reseed(epoch, turn, per_epoch)
        self.step = step
        self.at.fill_(step)
        self.change(step)
        loader.seek(epoch, turn * self.accumulate)
        self.count += self.accumulate * loader.batch_size

    def change(self, step: int) -> None:
        """Make the changes whose step has come."""
        while self.changes and self.changes[0][0] <= step:
            self.changes.pop(0)[1]()
            self.running = running(self.auxiliary or self.net)
            if self.recorder:
                self.recorder.forget()

    def run(self, loader: Loader) -> None:
        """Have the device do its part, by a recording of it where there is one."""
        if self.recorder is None:
            self.program(loader)
        elif reason := self.recorder(self.program, loader):
            self.recorder = None
            self.optimizer.zero_grad(set_to_none=True)  # of the attempt, which has computed nothing
            say(f"trainer.graph=auto: steps are not recorded, {reason}")
            self.program(loader)

    def program(self, loader: Loader) -> None:
        """Compute a step's update: a device program without a look at any value."""
        sound = torch.ones((), dtype=torch.bool, device=self.device)
        whole: Any = 0  # what the step's mean divides by
        apart = self.weighs or distributed.WORLD > 1
        loss_sum, right = (torch.zeros_like(t) if apart else t for t in (self.loss_sum, self.right))
        for _ in range(self.accumulate):
            x, target, labels = loader.batch()
            loss, total, logits = self.forward(self.scale(x), target)
            weight = self.weight_of(target) if self.weighs else len(labels)
            if self.weighs or self.accumulate > 1:
                total = total * (weight / (self.accumulate * len(labels)))
            self.backward(total)
            sound = sound & total.detach().isfinite()
            loss_sum += loss.detach() * weight
            right += (logits.detach().argmax(dim=1) == labels).sum()
            whole = whole + weight
        if apart:
            sound = self.combine(loss_sum, right, sound, whole, self.accumulate * loader.batch_size)
        self.guard(sound & self.norm().isfinite())
        self.set_rate()
        with autocast(self.precision, self.device):  # for the products of Muon; other optimizers have none
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.follow()

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the one with auxiliary heads, and the logits."""
        return self.merged(x, target) if self.merged else self.losses(x, target)

    def losses(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` does, operator by operator."""
        with autocast(self.precision, self.device), as_products(self.products):
            logits, heads = self.auxiliary(x) if self.auxiliary else (self.net(x), {})
        loss = total = self.loss(logits, target)
        for answer in heads.values():
            total = total + self.weight * self.loss(answer, target)
        return loss, total, logits

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch with class numbers or probabilities as its target.

        With class weights it is divided by their sum over the images, for probabilities as for class numbers.
        """
        logits, weights, smoothing = logits.float(), self.class_weights, self.label_smoothing
        if weights is not None and smoothing and not target.is_floating_point():
            return smoothed(logits, target, weights, smoothing)
        loss = F.cross_entropy(logits, target, weights, label_smoothing=smoothing)
        if weights is None or not target.is_floating_point():
            return loss
        return loss * (len(target) / self.weight_of(target))  # torch divides by the number of images

    def weight_of(self, target: Tensor) -> Tensor:
        """Return the sum of the class weights of a batch: what its mean counts in that over the whole step."""
        assert self.class_weights is not None
        return (target @ self.class_weights if target.is_floating_point() else self.class_weights[target]).sum()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the step."""
        loss.backward()

    def combine(self, loss_sum: Tensor, right: Tensor, sound: Tensor, whole: Tensor, images: int) -> Tensor:
        """Make the gradients those of the step's images, and batch norm's running statistics the means over processes;
        take in the loss and hits of all processes, and return whether every one of them is `sound`.

        With class weights, sums of weighted terms arrive, and `whole` is the sum of the weights.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        measured = torch.stack((loss_sum, right, ~sound, *([whole] if self.weighs else []))).float()
        if distributed.WORLD > 1:
            shares = [*gradients, *self.running]
            torch._foreach_div_(shares, distributed.WORLD)
            all_reduce([*shares, measured])
        if self.weighs:
            torch._foreach_mul_([*gradients, measured[0]], images / measured[3])
        self.loss_sum += measured[0]
        self.right += measured[1].long()
        return measured[2] == 0

    def norm(self) -> Tensor:
        """Return the norm of the gradient as it came, and scale the gradient down to the largest one allowed."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        return norm

    def guard(self, sound: Tensor) -> None:
        """Note the first step that is not `sound`, and make the optimizer skip it and all that follow."""
        self.bad_step.copy_(torch.where((self.bad_step < 0) & ~sound, self.at[0], self.bad_step))
        self.optimizer.found_inf.copy_(self.bad_step >= 0)  # type: ignore[attr-defined]

    def reseed(self, epoch: int, turn: int, per_epoch: int) -> None:
        """Make dropout's masks a function of (seed, step), so that no generator state has to be kept."""
        if self.reseeds[0] != epoch:
            words = ("dropout", epoch, distributed.RANK) if distributed.RANK else ("dropout", epoch)
            self.reseeds = epoch, generator(self.seed, *words).integers(2**32, size=per_epoch).tolist()
        if self.device.type == "cuda":
            torch.cuda.manual_seed(self.reseeds[1][turn])
        else:
            torch.default_generator.manual_seed(self.reseeds[1][turn])

    def tabulated(self) -> tuple[Tensor, Tensor]:
        """Return each step's learning rate of every group [steps, groups], and its share in the moving average [steps],
        as tables on the device.
        """
        groups = self.optimizer.param_groups
        for group in groups:
            group |= {"capturable": True} if "capturable" in group else {}  # or Adam refuses to be recorded
        rates = torch.tensor([[rate * group.get("factor", 1.0) for group in groups] for rate in self.rates])
        shares = torch.tensor([1 - self.decay_at(step) for step in range(len(self.rates))])
        return rates.to(self.device), shares.to(self.device)

    def set_rate(self) -> None:
        """Give every group its factor of the learning rate of this step."""
        groups = self.optimizer.param_groups
        if self.tables:
            rates: Sequence[Any] = self.tables[0].index_select(0, self.at)[0].unbind()
        else:  # fused optimizers look at a tensor's value on a CPU
            rates = [self.rates[self.step] * group.get("factor", 1.0) for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def decay_at(self, step: int) -> float:
        """Return the moving average's decay: smaller in the first steps, or it would remember the initial weights."""
        return min(self.decay, (1 + step) / (10 + step))

    def follow(self) -> None:
        """Move the average towards the weights, where one is kept."""
        if self.average and self.tables:
            apart = torch._foreach_sub(self.live, self.averaged)
            torch._foreach_mul_(apart, self.tables[1].index_select(0, self.at)[0])
            torch._foreach_add_(self.averaged, apart)
        elif self.average:
            torch._foreach_lerp_(self.averaged, self.live, 1 - self.decay_at(self.step))

    def read(self, step: int) -> dict[str, float]:
        """Return the learning rate, mean loss and top-1 of the batches since the last reading, after `step` steps.

        The loss is that of the network's own logits, without auxiliary heads. It is the one look at the device's
        numbers. Raises `NonFiniteError`, which knows the step, when a loss or a gradient was no number; the weights are
        those before that step.
        """
        numbers = torch.stack((self.bad_step.double(), self.loss_sum, self.right.double())).tolist()
        bad, loss_sum, right = int(numbers[0]), numbers[1], int(numbers[2])
        if bad >= 0:
            raise NonFiniteError(
                f"the loss or its gradient is no number at step {bad + 1}; a smaller optimizer.lr, trainer.clip=1 or a "
                "longer schedule.warmup usually helps",
                bad,
            )
        found = {
            "lr": self.rates[step - 1],
            "loss": loss_sum / self.count,
            "top1": right / self.count,
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
        if self.auxiliary:
            kept["heads"] = self.auxiliary.heads.state_dict()
        return kept | {"ema": self.average.state_dict()} if self.average else kept

    def prime(self, shape: Shape) -> None:
        """Give the optimizer all that it keeps once a step on images of a shape is taken, whatever the values are, so
        that `state` has the structure of every later one.

        What is never reached by a gradient has no state there. The weights may move: load some after this.
        """
        self.change(0)
        x = torch.zeros(2, *shape, device=self.device)
        with evaluating(self.auxiliary or self.net):
            logits, heads = self.auxiliary(x) if self.auxiliary else (self.net(x), {})
        for parameter in leaves([logits, *heads.values()]):
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.found_inf.fill_(1)  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, which must have the structure of a state of this learner."""
        if self.recorder:
            self.recorder.forget()  # the optimizer's tensors will lie elsewhere
        self.net.load_state_dict(state["model"])
        if self.auxiliary:
            self.auxiliary.heads.load_state_dict(state["heads"])
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


def smoothed(logits: Tensor, target: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Return torch's cross-entropy with class weights and label smoothing, to the bit; torch's own looks at values."""
    logs = logits.log_softmax(dim=1)
    even = -(logs * weights).sum(dim=1).sum() / weights[target].sum()
    return (1 - smoothing) * F.nll_loss(logs, target, weights) + even * (smoothing / logits.shape[1])


def leaves(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters that a gradient of some outputs comes to."""
    waiting, seen = [output.grad_fn for output in outputs], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]


def running(net: nn.Module) -> list[Tensor]:
    """Return the running means and variances of batch norm, where it follows its inputs."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    return [t for module in norms for t in (module.running_mean, module.running_var) if t is not None]


def floating(net: nn.Module) -> list[Tensor]:
    """Return the tensors that a moving average averages: weights and batch norm's statistics, no counters."""
    return [t.detach() for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
