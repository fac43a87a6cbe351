"""What a training sums on the device between two readings: the loss, and what its task counts."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Sums:
    """The loss, float64 [], and the counts of a task by name, int64, of the images since the last reading."""

    def __init__(self, counts: Mapping[str, Tensor], device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.counts = {name: torch.zeros_like(count, device=device) for name, count in counts.items()}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The sums by name."""
        return {"loss": self.loss, **self.counts}

    def add(self, loss: Tensor, counts: Mapping[str, Tensor]) -> None:
        """Add those of a batch or a step."""
        self.loss += loss
        for name, count in counts.items():
            self.counts[name] += count


def flattened(*tensors: Tensor) -> Tensor:
    """Return the numbers of some tensors as float64 [n]."""
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def unflattened(numbers: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `numbers` [n] in the shapes and types of some tensors by name."""
    pieces = numbers.split([tensor.numel() for tensor in like.values()])
    return {
        name: piece.view(tensor.shape).to(tensor.dtype)
        for (name, tensor), piece in zip(like.items(), pieces, strict=True)
    }
