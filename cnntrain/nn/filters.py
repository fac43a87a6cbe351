"""Filters that people designed, as layers with nothing to train: convolutions with fixed kernels, and what is made of
their responses.

Kernels are buffers: they lie in the state dict and count as no parameters. Everything is computed in fp32, whatever the
precision of a training: which response is the largest must not depend on it.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.layers import BlurPool2d, Pointwise
from cnntrain.nn.measures import Cost, Windows, sliding, units_cost
from cnntrain.nn.shapes import Shape

Votes = Literal["linear", "hard"]
Kernels = Callable[[], Tensor]  # [kernels, side, side]

CLIP = 0.2  # largest share of a descriptor's norm that one number may have (Lowe 2004; Dalal and Triggs 2005)
EPSILON = 1e-5  # added to norms, so that an empty window stays zero
DEVIATION = 0.56  # of a Gabor filter's Gaussian, in wavelengths
SMALLEST = 1e-12  # under a root: its slope at zero is infinite


def in_fp32(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Compute in fp32 as long as the context lasts, where x is, whatever the precision outside."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class FixedFilters(nn.Module):
    """The same kernels over every map that arrives; all responses of the first map come first.

    `draw` makes the kernels, [kernels, side, side]. Borders are mirrored without repeating the outermost position, so a
    central difference is zero there; a bank that strides reads no border at all.
    """

    kernels: Tensor

    def __init__(self, draw: Kernels, count: int, side: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.draw, self.side, self.stride, self.padding = draw, side, stride, padding
        self.register_buffer("kernels", torch.empty(count, side, side))

    def reset_parameters(self) -> None:
        self.kernels.copy_(self.draw())

    def forward(self, x: Tensor) -> Tensor:
        with in_fp32(x):
            x, channels = x.float(), x.shape[1]
            if self.padding:
                x = F.pad(x, (self.padding,) * 4, mode="reflect")
            kernels = self.kernels[:, None].repeat(channels, 1, 1, 1)
            return F.conv2d(x, kernels, None, self.stride, groups=channels)

    def windows(self) -> Windows:
        return sliding(self.side, self.stride, self.padding)

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return units_cost(out_shape, self.side**2, bias=False)

    def antialiased(self) -> list[nn.Module]:
        blur, self.stride = BlurPool2d(self.stride), 1
        return [self, blur]

    def extra_repr(self) -> str:
        return f"{len(self.kernels)} of {self.side}×{self.side}, stride={self.stride}, padding={self.padding}"


class Orientations(Pointwise):
    """Maps of gradient length by orientation, [N, bins, H, W], from horizontal and vertical differences [N, 2C, H, W].

    Of several channels the one with the longest gradient counts at each position (Dalal and Triggs 2005, section 4).
    Orientations go from 0 to 180° (`signed`: 360°); bin i is centred at (i + ½) · 180° / bins. With linear votes a
    gradient is divided between the two nearest bins, with hard ones the nearest gets all.
    """

    def __init__(self, bins: int, *, signed: bool = False, votes: Votes = "linear") -> None:
        super().__init__()
        self.bins, self.signed, self.votes = bins, signed, votes

    def forward(self, x: Tensor) -> Tensor:
        horizontal, vertical = strongest(*x.unflatten(1, (-1, 2)).unbind(2))
        length = (horizontal.square() + vertical.square()).clamp(min=SMALLEST).sqrt()
        circle = 2 * math.pi if self.signed else math.pi
        place = torch.atan2(vertical, horizontal) * (self.bins / circle) - 0.5  # 0 at the centre of the first bin
        if self.votes == "hard":
            place = (place + 0.5).floor()
        centres = torch.arange(self.bins, device=x.device, dtype=x.dtype).view(-1, 1, 1)
        away = (place - centres).remainder(self.bins)  # positions after a bin's centre, round the circle
        share = (1 - torch.minimum(away, self.bins - away)).clamp(min=0)
        return share * length

    def extra_repr(self) -> str:
        return f"{self.bins}, signed={self.signed}, votes={self.votes}"


def strongest(horizontal: Tensor, vertical: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences [N, 1, H, W] of the channel with the longest gradient at each position of [N, C, H, W]."""
    if horizontal.shape[1] == 1:
        return horizontal, vertical
    channel = (horizontal.square() + vertical.square()).argmax(1, keepdim=True)
    return horizontal.gather(1, channel), vertical.gather(1, channel)


class BothSigns(Pointwise):
    """The positive part of every map, then the negative part of every map, as lengths."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=1).relu()


class Magnitude(Pointwise):
    """√(a² + b²) of consecutive maps a and b: how strong a wave is, whatever its phase."""

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[:, ::2], x[:, 1::2]
        return (even.square() + odd.square()).clamp(min=SMALLEST).sqrt()


class Root(Pointwise):
    """The square root of shares: a product of two such roots is Hellinger's similarity of the histograms."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=SMALLEST).sqrt()


class Grey(Pointwise):
    """The mean of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


class Contrast(Pointwise):
    """(x - mean) / √(variance + 0.0025) over the channels of each position (Coates et al. 2011, section 3.1.1).

    The constant is their ten squared grey values, for pixels with a standard deviation of 63.
    """

    def forward(self, x: Tensor) -> Tensor:
        centred = x.float() - x.float().mean(1, keepdim=True)
        return centred * (centred.square().mean(1, keepdim=True) + 10 / 63**2).rsqrt()


class ClippedNorm(Pointwise):
    """Channels of length one at each position, clipped at 0.2 and brought to length one again: "L2-Hys"."""

    def forward(self, x: Tensor) -> Tensor:
        return of_length_one(of_length_one(x.float()).clamp(max=CLIP))


def of_length_one(x: Tensor) -> Tensor:
    """Divide the channels of each position by their Euclidean length."""
    return x / (x.square().sum(1, keepdim=True) + EPSILON**2).sqrt()


# Kernels, in the orientation of a correlation, as torch computes it.


def differences() -> Tensor:
    """Central differences to the right and downwards, without smoothing: [-1, 0, 1]."""
    right = torch.zeros(3, 3)
    right[1] = torch.tensor([-1.0, 0.0, 1.0])
    return torch.stack([right, right.T])


def patches(side: int) -> Tensor:
    """One kernel for each position of a window: the responses are the window itself."""
    return torch.eye(side**2).view(side**2, side, side)


BANKS: dict[str, list[list[list[float]]]] = {  # by name: kernels of 3×3
    "blur": [[[1 / 9] * 3] * 3],
    "binomial": [[[1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]]],
    "edges": [[[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]], [[-1, -1, -1], [0, 0, 0], [1, 1, 1]]],
    "sobel": [[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]],
    "corners": [[[1, 0, -1], [0, 0, 0], [-1, 0, 1]]],  # the mixed derivative: no straight edge along an axis has one
}


def bank(names: Sequence[str]) -> Tensor:
    """The kernels of `BANKS` with these names."""
    return torch.tensor([kernel for name in names for kernel in BANKS[name]])


def gabor_waves(scales: int, orientations: int) -> Tensor:
    """Waves under Gaussians, cosine and sine of each in turn, by scale and then by orientation.

    Wavelengths are 3 · √2^scale pixels; the Gaussian's deviation of 0.56 wavelengths is a bandwidth of one octave
    (Daugman 1985). Cosines have their mean taken off, so that a constant image gives nothing; all are divided by the
    Gaussian's sum, so that each answers its own wave with half of the wave's amplitude.
    """
    radius = gabor_radius(scales)
    y, x = torch.meshgrid(*2 * [torch.arange(-radius, radius + 1, dtype=torch.float64)], indexing="ij")
    kernels = []
    for scale, turn in itertools.product(range(scales), range(orientations)):
        length, angle = wavelength(scale), math.pi * turn / orientations
        bell = torch.exp(-0.5 * (x.square() + y.square()) / (DEVIATION * length) ** 2)
        phase = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / length)
        even, odd = phase.cos() * bell, phase.sin() * bell
        kernels += [even / bell.sum() - bell * (even.sum() / bell.sum() ** 2), odd / bell.sum()]
    return torch.stack(kernels).float()


def gabor_radius(scales: int) -> int:
    """Return how far the longest waves reach: two deviations."""
    return math.ceil(2 * DEVIATION * wavelength(scales - 1))


def wavelength(scale: int) -> float:
    """Return the pixels of a wave."""
    return 3 * math.sqrt(2) ** scale


def cells(side: int, cell: int, deviation: float, *, votes: Votes = "linear") -> Tensor:
    """Sums over the side² cells of a window, each a square of `cell` positions, under a Gaussian about its middle.

    With linear votes a position counts for the four nearest cells by its distance from their centres, and what would go
    to a cell outside of the window is lost. An infinite deviation leaves out the Gaussian.
    """
    positions = torch.arange(side * cell, dtype=torch.float64) + 0.5
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) * cell
    away = (positions - centres[:, None]).abs() / cell  # [side, positions]
    weight = (1 - away).clamp(min=0) if votes == "linear" else (away < 0.5).double()
    weight = weight * torch.exp(-0.5 * ((positions - side * cell / 2) / deviation) ** 2)
    kernels = weight[:, None, :, None] * weight[None, :, None, :]  # [row, column of a cell, row, column of a position]
    return kernels.flatten(0, 1).float()
