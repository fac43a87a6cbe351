"""Optimizers and their parameter groups."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnntrain.nn.stages import matching_stages
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.ranges import Count, Decay, NonNegative, Positive, PositiveFraction
from cnntrain.training.torch_workarounds import SGD, Adam, AdamW, Uncompiled

Groups = list[dict[str, Any]]
NO_FACTORS: dict[str, float] = {}
CACHED = 2**17  # numbers of a parameter that a thread changes at once


def parameter_groups(
    net: nn.Module,
    weight_decay: float,
    *,
    decay_all: bool = False,
    bias_factor: float = 1.0,
    l1: float = 0.0,
    max_norm: float = 0.0,
) -> Groups:
    """Split the trained parameters into filters and matrices, which decay, and vectors (biases, norms), which do not.

    A group learns with its "factor" times the learning rate: 1, that of the vectors `bias_factor`. `decay_all` lets the
    vectors decay too, as older recipes do, by as much a step as the others. `l1` and `max_norm` are of filters and
    matrices (see `add_l1` and `bound_norms`).
    """
    trained = [p for p in net.parameters() if p.requires_grad]
    bounds = {key: value for key, value in {"l1": l1, "max_norm": max_norm}.items() if value}
    decay = weight_decay / bias_factor if decay_all else 0.0
    groups: Groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay, "factor": 1.0} | bounds,
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": decay, "factor": bias_factor},
    ]
    return [group for group in groups if group["params"]]


def stage_factors(
    net: nn.Sequential, *, layer_decay: PositiveFraction = 1.0, factors: dict[str, Positive] = NO_FACTORS
) -> dict[str, float]:
    """Return by how much the learning rate of each stage that learns is multiplied.

    The last one keeps its rate, and each one before it has `layer_decay` times that of the next (Howard and Ruder
    2018, section 3.1, "discriminative fine-tuning"). `factors` multiply those of stages by name or pattern; a name has
    priority over a pattern. Raises `InputError` for an unknown stage and for one without weights.
    """
    stages = dict(net.named_children())
    learning = [name for name, stage in stages.items() if any(p.requires_grad for p in stage.parameters())]
    multiplied = dict[str, float]()
    for word, factor in sorted(factors.items(), key=lambda entry: entry[0] in stages):  # names come after patterns
        named = [name for name in matching_stages(word, stages, "optimizer.factors") if name in learning]
        if not named:
            raise InputError(f"optimizer.factors: stage {word!r} has no weights that learn")
        multiplied |= dict.fromkeys(named, factor)
    return {name: layer_decay**depth * multiplied.get(name, 1.0) for depth, name in enumerate(reversed(learning))}


def split_by_stage(optimizer: Optimizer, net: nn.Sequential, factors: Mapping[str, float]) -> None:
    """Split the parameter groups of an optimizer that has not stepped, so that stages learn with their `factors`.

    Parameters of other modules (auxiliary classifiers) keep their rate.
    """
    stages = [(factor, net.get_submodule(name)) for name, factor in factors.items()]
    by_parameter = {p: factor for factor, stage in stages for p in stage.parameters()}
    groups: Groups = []
    for group in optimizer.param_groups:
        members: dict[float, list[nn.Parameter]] = defaultdict(list)
        for p in group["params"]:
            members[by_parameter.get(p, 1.0)].append(p)
        groups += [
            group | {"params": params, "factor": group.get("factor", 1.0) * factor}
            for factor, params in members.items()
        ]
    optimizer.param_groups = groups


@torch.no_grad()
def add_l1(optimizer: Optimizer) -> None:
    """Add the gradient of `l1` times the sum of absolute weights, in groups that have it (Tibshirani 1996)."""
    for group in optimizer.param_groups:
        if strength := group.get("l1"):
            weights = [p for p in group["params"] if p.grad is not None]
            torch._foreach_add_([p.grad for p in weights], torch._foreach_sign(weights), alpha=strength)


@torch.no_grad()
def bound_norms(optimizer: Optimizer) -> None:
    """Scale every filter, and every row of a matrix, down to the norm `max_norm`, in groups that have it.

    Kim 2014 (section 2.1) bounds the rows of the last matrix by 3. Zeiler and Fergus 2014 (section 3.1) bound the root
    mean square of a filter by 0.1, which is a norm of 0.1 √inputs.
    """
    for group in optimizer.param_groups:
        if largest := group.get("max_norm"):
            for p in group["params"]:
                norms = p.flatten(1).norm(dim=1).view(-1, *(1,) * (p.ndim - 1))
                p.mul_((largest / norms.clamp(min=torch.finfo(p.dtype).tiny)).clamp(max=1))


def sgd(
    net: nn.Module,
    *,
    lr: Positive = 0.05,
    momentum: Decay = 0.9,
    nesterov: bool = True,
    weight_decay: NonNegative = 5e-4,
    decay_all: bool = False,
    bias_factor: Positive = 1.0,
    l1: NonNegative = 0.0,
    max_norm: NonNegative = 0.0,
) -> Optimizer:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013 for Nesterov's)."""
    bounds = {"l1": l1, "max_norm": max_norm}
    groups = parameter_groups(net, weight_decay, decay_all=decay_all, bias_factor=bias_factor, **bounds)
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)


def adam(
    net: nn.Module,
    *,
    lr: Positive = 1e-3,
    beta1: Decay = 0.9,
    beta2: Decay = 0.999,
    weight_decay: NonNegative = 0.0,
    decay_all: bool = False,
    bias_factor: Positive = 1.0,
    l1: NonNegative = 0.0,
    max_norm: NonNegative = 0.0,
) -> Optimizer:
    """Adam (Kingma and Ba 2015); its weight decay is added to the gradient."""
    bounds = {"l1": l1, "max_norm": max_norm}
    groups = parameter_groups(net, weight_decay, decay_all=decay_all, bias_factor=bias_factor, **bounds)
    return Adam(groups, lr=lr, betas=(beta1, beta2), fused=True)


def adamw(
    net: nn.Module,
    *,
    lr: Positive = 1e-3,
    beta1: Decay = 0.9,
    beta2: Decay = 0.999,
    weight_decay: NonNegative = 1e-2,
    decay_all: bool = False,
    bias_factor: Positive = 1.0,
    l1: NonNegative = 0.0,
    max_norm: NonNegative = 0.0,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    bounds = {"l1": l1, "max_norm": max_norm}
    groups = parameter_groups(net, weight_decay, decay_all=decay_all, bias_factor=bias_factor, **bounds)
    return AdamW(groups, lr=lr, betas=(beta1, beta2), fused=True)


def adadelta(
    net: nn.Module,
    *,
    lr: Positive = 1.0,
    rho: Decay = 0.95,
    eps: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
    decay_all: bool = False,
    bias_factor: Positive = 1.0,
    l1: NonNegative = 0.0,
    max_norm: NonNegative = 0.0,
) -> Optimizer:
    """Adadelta (Zeiler 2012, algorithm 1); its weight decay is added to the gradient."""
    bounds = {"l1": l1, "max_norm": max_norm}
    groups = parameter_groups(net, weight_decay, decay_all=decay_all, bias_factor=bias_factor, **bounds)
    return Adadelta(groups, lr=lr, rho=rho, eps=eps)


class Adadelta(Uncompiled, torch.optim.Adadelta):
    """Torch's Adadelta in a step that changes nothing where the tensor `found_inf` of the optimizer is not zero."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        Optimizer.__setstate__(self, state)  # torch's own looks for a count of steps, which this step does without

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step; `closure` is not used."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state["square_avg"], state["acc_delta"] = torch.zeros_like(p), torch.zeros_like(p)
                skip = getattr(self, "found_inf", torch.zeros((), device=p.device)) > 0
                tensors = torch.atleast_1d(p, p.grad, state["square_avg"], state["acc_delta"])
                rows = rows_at_once(tensors[0])
                for part in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
                    change_by_adadelta(group, skip, *part)


def change_by_adadelta(
    group: dict[str, Any], skip: Tensor, p: Tensor, gradient: Tensor, squares: Tensor, steps: Tensor
) -> None:
    """Change some rows of a parameter and their averages of squared gradients and squared steps, unless `skip`."""
    rho, eps = group["rho"], group["eps"]
    if group["weight_decay"]:
        gradient = gradient.add(p, alpha=group["weight_decay"])
    mean_square = torch.addcmul(squares * rho, gradient, gradient, value=1 - rho)
    step = (steps + eps).sqrt_().div_((mean_square + eps).sqrt_()).mul_(gradient)
    mean_step = torch.addcmul(steps * rho, step, step, value=1 - rho)
    for old, new in ((p, p - step * group["lr"]), (squares, mean_square), (steps, mean_step)):
        torch.where(skip, old, new, out=old)


def rows_at_once(p: Tensor) -> int:
    """Return how many rows of a parameter change together: on a GPU all, on a CPU what its caches hold.

    A step has a dozen operations, each of which would go through memory. Rows come in multiples of 32, so that the
    processor's vectors end where they would end in the whole.
    """
    if p.device.type != "cpu":
        return len(p)
    return max(CACHED * torch.get_num_threads() // p[0].numel() // 32, 1) * 32


def muon(
    net: nn.Module,
    *,
    lr: Positive = 0.1,
    momentum: Decay = 0.6,
    iterations: Count = 3,
    renormalise: bool = True,
    sgd_lr: Positive = 0.02,
    sgd_momentum: Decay = 0.85,
    weight_decay: NonNegative = 5e-4,
    decay_all: bool = False,
    bias_factor: Positive = 1.0,
) -> Optimizer:
    """Muon for filters and matrices, SGD with Nesterov's momentum for the last matrix and all vectors (see `Muon`).

    `sgd_lr` is the peak of SGD's learning rate, `bias_factor` multiplies it for vectors.
    """
    matrices, *vectors = parameter_groups(net, weight_decay, decay_all=decay_all, bias_factor=bias_factor)
    *hidden, last = matrices["params"]
    by_sgd = [matrices | {"params": [last]}, *vectors]
    groups = [group | {"factor": group["factor"] * sgd_lr / lr, "orthogonal": False} for group in by_sgd]
    if hidden:
        settings = {"momentum": momentum, "iterations": iterations, "renormalise": renormalise}
        groups.insert(0, matrices | settings | {"params": hidden, "orthogonal": True})
    return Muon(groups, lr=lr, momentum=sgd_momentum, nesterov=sgd_momentum > 0, fused=True)


class Muon(SGD):
    """SGD whose groups that are "orthogonal" step by the orthogonal matrix nearest to Nesterov's momentum.

    A filter bank counts as a matrix of one row for each output. With "renormalise" the weights are brought to the norm
    √outputs before each step, so that the learning rate is a share of them; else they decay, decoupled from the
    gradient (Jordan et al. 2024, kellerjordan.github.io/posts/muon; torch's own takes two-dimensional weights alone).
    A step ends with those groups' gradients released.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step; where the tensor `found_inf` of the optimizer is not zero, it changes nothing."""
        for group in self.param_groups:
            if group["orthogonal"]:
                alike: dict[Any, list[Tensor]] = defaultdict(list)  # one batched product for all of a shape
                for p in group["params"]:
                    if p.grad is not None:
                        alike[p.shape].append(p)
                for parameters in alike.values():
                    self.turn(parameters, group)
        return super().step(closure)

    def turn(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step with parameters of one shape, and release their gradients so that SGD passes them by."""
        states = [self.state[p] for p in parameters]
        for p, state in zip(parameters, states, strict=True):
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
        last = [p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) for p in parameters]
        weights, gradients, buffers = (
            [in_memory_order(t) if at_end else t for t, at_end in zip(tensors, last, strict=True)]
            for tensors in (parameters, [p.grad for p in parameters], [state["momentum_buffer"] for state in states])
        )
        weight, gradient, buffer = (  # [parameters, outputs, inputs]
            torch.stack([t.flatten(1) for t in tensors]) for tensors in (weights, gradients, buffers)
        )
        buffer = torch.add(gradient, buffer, alpha=group["momentum"])
        step = orthogonalised(torch.add(gradient, buffer, alpha=group["momentum"]), group["iterations"])
        rate = torch.as_tensor(group["lr"], device=weight.device)
        if group["renormalise"]:
            scale = weight.shape[1] ** 0.5 / weight.norm(dim=(1, 2), keepdim=True)
        else:
            scale = 1 - rate * group["weight_decay"]
        weight.mul_(scale).addcmul_(step, rate, value=-1)
        skip = getattr(self, "found_inf", torch.zeros((), device=weight.device)) > 0
        for p, momentum, changed, moved in zip(weights, buffers, weight, buffer, strict=True):
            torch.where(skip, p, changed.view(p.shape), out=p)
            torch.where(skip, momentum, moved.view(p.shape), out=momentum)
        for p in parameters:
            p.grad = None


def in_memory_order(filters: Any) -> Tensor:
    """Return filters [outputs, C, h, w] that lie in channels_last as [outputs, h, w, C], without moving a number.

    The nearest orthogonal matrix does not depend on the order of the columns, but going through memory against its
    order takes as long as the products.
    """
    reordered: Tensor = filters.permute(0, 2, 3, 1)
    return reordered


def orthogonalised(x: Tensor, iterations: int) -> Tensor:
    """Return each matrix [..., rows, columns] with its singular values brought towards one, its singular vectors kept.

    A Newton–Schulz iteration with the coefficients of Jordan et al. 2024, which lift small values fastest and end in
    0.68 .. 1.14 rather than at one. Each iteration multiplies x from the left by a polynomial in x·xᵀ; the polynomials
    are multiplied first, since they are smaller than x.
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonalised(x.mT, iterations).mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # no singular value is above the Frobenius norm
    one = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)

    def polynomial(square: Tensor) -> Tensor:
        return 3.4445 * one - 4.7750 * square + 2.0315 * (square @ square)

    square = x @ x.mT
    product = factor = polynomial(square)
    for _ in range(iterations - 1):
        square = factor @ square @ factor
        factor = polynomial(square)
        product = factor @ product
    return product @ x


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "adadelta": adadelta,
    "muon": muon,
}
