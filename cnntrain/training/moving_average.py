"""The moving average of a network's weights, which is evaluated in their place."""

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """A copy of a network in evaluation mode whose weights and batch norm statistics follow those of the network.

    `decay` is what a step keeps of the average; it is smaller in the first steps, or the average would remember the
    initial weights.
    """

    def __init__(self, net: nn.Sequential, decay: float) -> None:
        self.net, self.decay = copy.deepcopy(net).requires_grad_(False).eval(), decay
        self.averaged, self.live = floating(self.net), floating(net)

    def share(self, step: int) -> float:
        """Return the share of the network's weights in the average after step number `step`."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    def follow(self, share: float | Tensor) -> None:
        """Move the average towards the weights by a share of the way; one that is a tensor is not synchronised for."""
        if isinstance(share, Tensor):
            way = torch._foreach_sub(self.live, self.averaged)
            torch._foreach_mul_(way, share)
            torch._foreach_add_(self.averaged, way)
        else:
            torch._foreach_lerp_(self.averaged, self.live, share)


def floating(net: nn.Module) -> list[Tensor]:
    """Return the tensors that an average follows: weights and batch norm's statistics, no counters."""
    return [t.detach() for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
