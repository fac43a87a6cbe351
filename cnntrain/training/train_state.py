"""What a training changes: a network, its auxiliary classifiers, its optimizer and the average of its weights."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnntrain.nn.auxiliary import AuxiliaryClassifiers
from cnntrain.nn.shapes import Shape
from cnntrain.runtime.distributed import broadcast
from cnntrain.training.evaluate import evaluating
from cnntrain.training.moving_average import MovingAverage


class TrainState:
    """A network in training with all that its weights depend on from step to step.

    `auxiliary` holds classifiers on `net` that are trained with it and absent at evaluation. `ema` is the decay of the
    weights' moving average, 0 for none.
    """

    def __init__(
        self,
        net: nn.Sequential,
        optimizer: Optimizer,
        *,
        auxiliary: AuxiliaryClassifiers | None = None,
        ema: float = 0.0,
    ) -> None:
        self.net, self.optimizer, self.auxiliary = net.train(), optimizer, auxiliary
        self.average = MovingAverage(net, ema) if ema else None
        self.module: nn.Module = auxiliary or net  # all that has parameters
        self.parameters = list(self.module.parameters())
        self.auxiliary_weight = auxiliary.weight if auxiliary else 0.0
        self.device = self.parameters[0].device
        self.skip = torch.zeros((), device=self.device)  # where it is not zero, the optimizer's kernels change nothing
        optimizer.found_inf = self.skip  # type: ignore[attr-defined]

    @property
    def evaluated(self) -> nn.Sequential:
        """The network to evaluate: the moving average where there is one."""
        return self.average.net if self.average else self.net

    def answers(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the network's answer to a batch, and those of its auxiliary classifiers."""
        if self.auxiliary is None:
            return self.net(x), []
        answer, by_head = self.auxiliary(x)
        return answer, list(by_head.values())

    def running_statistics(self) -> list[Tensor]:
        """Return the running means and variances of batch norm, where it follows its inputs."""
        norms = [m for m in self.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        return [t for module in norms for t in (module.running_mean, module.running_var) if t is not None]

    def share_weights(self) -> None:
        """Give every process the weights of the first: made from images, they differ on another kind of processor."""
        weights = {key: tensor.cpu() for key, tensor in self.module.state_dict().items()}
        self.module.load_state_dict(broadcast(weights))
        if self.average:
            self.average.net.load_state_dict(self.net.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the live tensors by the keys of a checkpoint."""
        state = {"model": self.net.state_dict(), "optimizer": self.optimizer.state_dict()["state"]}
        if self.auxiliary:
            state["heads"] = self.auxiliary.heads.state_dict()
        return state | ({"ema": self.average.net.state_dict()} if self.average else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, which must have the structure of this state."""
        self.net.load_state_dict(state["model"])
        if self.auxiliary:
            self.auxiliary.heads.load_state_dict(state["heads"])
        if self.average:
            self.average.net.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state["optimizer"]})
        for parameter, loaded in self.optimizer.state.items():
            for name, tensor in loaded.items():
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    # Fused optimizers walk memory without regard to strides: state must lie as its parameter does.
                    loaded[name] = torch.empty_like(parameter).copy_(tensor)

    def reached(self, shape: Shape) -> set[Tensor]:
        """Return the parameters that the gradient of images of a shape reaches, as stages are frozen now."""
        with evaluating(self.module):
            answer, auxiliary = self.answers(torch.zeros(2, *shape, device=self.device))
        return set(leaves([answer, *auxiliary]))

    def prime(self, parameters: Collection[Tensor]) -> None:
        """Make all that the optimizer keeps once it has stepped with gradients of these parameters.

        `state_dict` then has the structure of every later one.

        Others have no state. The weights may move: load some after this.
        """
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.skip.fill_(1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def leaves(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters that a gradient of some outputs reaches."""
    waiting, seen = [output.grad_fn for output in outputs], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]
