"""Test-time augmentation: the changed copies of a normalised batch whose logits are averaged, with their weights."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

View = Callable[[Tensor], Tensor]  # float32 [B, C, H, W] to the same shape


def unchanged(x: Tensor) -> Tensor:
    """The image itself."""
    return x


def mirrored(x: Tensor) -> Tensor:
    """The image from left to right."""
    return x.flip(3)


def shifted(x: Tensor, pixels: int) -> Tensor:
    """The image moved down and right by `pixels` (up and left when negative), its border reflected."""
    size = abs(pixels)
    padded = F.pad(x, (size, size, size, size), mode="reflect")
    start = size - pixels
    return padded[:, :, start : start + x.shape[2], start : start + x.shape[3]]


def shifted_mirrored(x: Tensor, pixels: int) -> Tensor:
    """The moved image from left to right."""
    return mirrored(shifted(x, pixels))


down, up = partial(shifted, pixels=1), partial(shifted, pixels=-1)
down_mirrored, up_mirrored = partial(shifted_mirrored, pixels=1), partial(shifted_mirrored, pixels=-1)

WITHOUT_PIXELS = ("none", "dropout")  # that leave images as they are
MASKS = 30  # networks that dropout thins, for each batch

# Weights of the six views as in airbench (Jordan 2024, section 3.5).
TTA: dict[str, list[tuple[float, View]]] = {
    "none": [(1.0, unchanged)],
    "dropout": [(1 / MASKS, unchanged)] * MASKS,  # each under another mask: the geometric mean of thinned networks
    "flip": [(0.5, unchanged), (0.5, mirrored)],
    "shift": [(0.5, unchanged), (0.25, down), (0.25, up)],
    "flip_shift": [
        *((0.25, unchanged), (0.25, mirrored)),
        *((0.125, down), (0.125, up), (0.125, down_mirrored), (0.125, up_mirrored)),
    ],
}
