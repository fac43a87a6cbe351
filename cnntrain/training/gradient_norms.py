"""The norm of every stage's gradient during training: how much each learns, and whether gradients vanish."""

import torch
from torch import Tensor, nn


class GradientNorms:
    """The Euclidean norm of every stage's gradient, summed on the device over the steps since the last reading.

    A gradient is that of a whole step: of all its batches and processes, of the loss alone (without weight decay and
    L1), before it is clipped. A stage without parameters has none, and a frozen one 0.
    """

    def __init__(self, net: nn.Sequential, device: torch.device) -> None:
        stages = {name: list(stage.parameters()) for name, stage in net.named_children()}
        self.stages = {name: parameters for name, parameters in stages.items() if parameters}
        # The last number is that of the steps.
        self.sums = torch.zeros(len(self.stages) + 1, dtype=torch.float64, device=device)

    def add(self) -> None:
        """Add the norms of a step's gradients, which lie in the parameters."""
        zero = torch.zeros((), device=self.sums.device)
        one = torch.ones((), device=self.sums.device)
        norms = [self.norm(parameters, zero) for parameters in self.stages.values()]
        self.sums += torch.stack([*norms, one])

    def norm(self, parameters: list[nn.Parameter], zero: Tensor) -> Tensor:
        """Return the norm of the gradient of some parameters, `zero` where none reaches them."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients) if gradients else zero

    def means(self, sums: Tensor) -> dict[str, float]:
        """Return the mean norm of every stage over the steps of `sums`, by its name."""
        *norms, steps = sums.tolist()
        return {name: norm / steps for name, norm in zip(self.stages, norms, strict=True)}
