"""Layers of the papers that torch does not have, each with its forward pass in plain tensor arithmetic.

Constants (a band, a Gaussian) are made where they are used, in the input's type and on its device: nothing to store.

A layer says what its positions read, what its weights cost, and how it is built without its stride (`measures.py`:
`Reads`, `Costs`, `Strides`).
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.measures import POINTWISE, Cost, Windows, sliding, units_cost
from cnntrain.nn.shapes import Shape


class Pointwise(nn.Module):
    """A layer whose every position reads that position of the maps, or all numbers where there are no maps."""

    def windows(self) -> Windows:
        return POINTWISE


class ScaledTanh(Pointwise):
    """1.7159 tanh(2x/3), which maps ±1 to ±1 (LeCun et al. 1998, appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class Absolute(Pointwise):
    """|x|: the rectification of Jarrett et al., ICCV 2009."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class GlobalMaxPool(nn.AdaptiveMaxPool2d):
    """The maximum of each map, [N, C, 1, 1].

    Positions that share it share its gradient; torch's kernel for that on a GPU does not repeat to the bit.
    """

    def __init__(self) -> None:
        super().__init__((1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3), keepdim=True)


class LocalResponseNorm(Pointwise):
    """x / (k + α · the sum of squares over `size` neighbouring maps)^(3/4) (Krizhevsky et al. 2012, section 3.3).

    Here α multiplies the sum, as in the paper; torch's multiplies the mean. The sum over channels is a 1×1 convolution
    with a band of ones: torch's own, a pooling in three dimensions, takes four times as long.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, k: float = 2.0) -> None:
        super().__init__()
        self.size, self.alpha, self.k = size, alpha, k

    def forward(self, x: Tensor) -> Tensor:
        index = torch.arange(x.shape[1], device=x.device)
        band = ((index[:, None] - index).abs() <= self.size // 2).to(x.dtype)
        total = F.conv2d(x.square(), band[:, :, None, None])
        root = (self.k + self.alpha * total).rsqrt()
        return x * root * root.sqrt()

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, k={self.k}"


class LocalContrastNorm(nn.Module):
    """(x - m) / σ over a Gaussian neighbourhood of `size`×`size` positions in all maps (Jarrett et al. 2009).

    Borders are repeated, so a constant image becomes zero. The paper floors σ at its mean over the image; here a small
    constant does, so that the layer stays local.
    """

    def __init__(self, size: int = 9, deviation: float = 1.591, floor: float = 0.01) -> None:
        super().__init__()
        self.size, self.deviation, self.floor = size, deviation, floor

    def local_mean(self, x: Tensor) -> Tensor:
        """Return the weighted mean over all maps and the neighbourhood, [N, 1, H, W]."""
        radius = self.size // 2
        steps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        bell = torch.exp(-0.5 * (steps / self.deviation) ** 2)
        bell = bell / bell.sum()
        mean = F.pad(x.mean(dim=1, keepdim=True), (radius,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(mean, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - self.local_mean(x)
        return centred / (self.local_mean(centred.square()) + self.floor**2).sqrt()

    def windows(self) -> Windows:
        reach = 2 * (self.size // 2)  # the deviation is that of centred values, which see as far again
        return sliding(2 * reach + 1, padding=reach)

    def extra_repr(self) -> str:
        return f"size={self.size}"


class StochasticPool2d(nn.Module):
    """One value of each window, drawn with probability proportional to it (Zeiler and Fergus, ICLR 2013).

    In evaluation the values weighted with their probabilities. Negative values count as zero, as after a ReLU.
    """

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        size, step = self.kernel_size, self.stride
        windows = x.relu().unfold(2, size, step).unfold(3, size, step).flatten(-2)
        total = windows.sum(-1, keepdim=True)
        if not self.training:
            return (windows.square() / total.clamp(min=torch.finfo(x.dtype).tiny)).sum(-1)
        mark = torch.rand_like(total) * total
        chosen = (windows.cumsum(-1) <= mark).sum(-1, keepdim=True).clamp(max=size * size - 1)
        return windows.gather(-1, chosen).squeeze(-1)

    def windows(self) -> Windows:
        return sliding(self.kernel_size, self.stride)


class FractionalMaxPool2d(nn.Module):
    """Max pooling by a factor between one and two over windows of drawn places (Graham 2014); fixed in evaluation."""

    def __init__(self, kernel_size: int = 2, ratio: float = math.sqrt(0.5)) -> None:
        super().__init__()
        self.kernel_size, self.ratio = kernel_size, ratio

    def forward(self, x: Tensor) -> Tensor:
        size = [int(side * self.ratio) for side in x.shape[2:]]
        if x.is_meta:  # torch has no shape rule for this layer
            return x.new_empty(*x.shape[:2], *size)
        draws = x.new_full((*x.shape[:2], 2), 0.5)
        if self.training:
            draws.uniform_()
        pooled: Tensor = F.fractional_max_pool2d(x, self.kernel_size, output_size=size, _random_samples=draws)
        return pooled


class Maxout(Pointwise):
    """The largest of each `pieces` consecutive channels (Goodfellow et al., ICML 2013)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        n, channels, *places = x.shape
        return x.reshape(n, channels // self.pieces, self.pieces, *places).amax(dim=2)


class RotatedConv2d(nn.Module):
    """A convolution whose every kernel also stands rotated by 90°, 180° and 270°: four consecutive maps a kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0) -> None:
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))

    def reset_parameters(self) -> None:
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.stack([torch.rot90(self.weight, turns, (2, 3)) for turns in range(4)], dim=1).flatten(0, 1)
        return F.conv2d(x, turned, self.bias.repeat_interleave(4), padding=self.padding)

    def windows(self) -> Windows:
        return sliding(self.kernel_size, padding=self.padding)

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return units_cost(out_shape, self.weight[0].numel(), bias=True)


class LocallyConnected2d(nn.Module):
    """A convolution without shared weights: every output position has kernels of its own (LeCun 1989, Net-3).

    The weight is [out, in × kernel × kernel, positions], the bias [out, positions].
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, out_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.out_size = kernel_size, stride, out_size
        positions = out_size[0] * out_size[1]
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels * kernel_size**2, positions))
        self.bias = nn.Parameter(torch.empty(out_channels, positions))

    def reset_parameters(self) -> None:
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.kernel_size, stride=self.stride)  # [N, in × kernel × kernel, positions]
        out = torch.einsum("nkp,okp->nop", patches, self.weight) + self.bias
        return out.reshape(*out.shape[:2], *self.out_size)

    def windows(self) -> Windows:
        return sliding(self.kernel_size, self.stride)

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return units_cost(out_shape, self.weight.shape[1], bias=True)


class PartialConv2d(nn.Module):
    """A convolution whose output maps each read only the input maps that a table lists.

    It holds one kernel for each connection of the table, [connections, kernel, kernel].
    """

    outputs: Tensor  # of each connection, the map that it leads to
    inputs: Tensor  # and the one that it reads

    def __init__(self, table: tuple[tuple[int, ...], ...], in_channels: int, kernel: int) -> None:
        super().__init__()
        self.table, self.in_channels, self.out_channels = table, in_channels, len(table)
        pairs = sum(map(len, table))
        self.register_buffer("outputs", torch.empty(pairs, dtype=torch.int64), persistent=False)
        self.register_buffer("inputs", torch.empty(pairs, dtype=torch.int64), persistent=False)
        self.kernel_size = kernel
        self.weight = nn.Parameter(torch.empty(pairs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(len(table)))

    def reset_parameters(self) -> None:
        pairs = [(out, read) for out, reads in enumerate(self.table) for read in reads]
        self.outputs.copy_(torch.tensor([out for out, _ in pairs]))
        self.inputs.copy_(torch.tensor([read for _, read in pairs]))
        area, first = self.weight[0].numel(), 0
        for out, reads in enumerate(self.table):
            bound = 2.4 / (len(reads) * area)
            nn.init.uniform_(self.weight[first : first + len(reads)], -bound, bound)
            nn.init.uniform_(self.bias[out], -bound, bound)
            first += len(reads)

    def dense_weight(self) -> Tensor:
        """Return the kernels as [outputs, inputs, kernel, kernel], zero where the table has no connection."""
        shape = (self.out_channels, self.in_channels, self.kernel_size, self.kernel_size)
        return self.weight.new_zeros(shape).index_put((self.outputs, self.inputs), self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.dense_weight(), self.bias)

    def windows(self) -> Windows:
        return sliding(self.kernel_size)

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        area = math.prod(out_shape[1:])
        macs = area * self.weight.numel()
        return Cost(macs, macs + area * self.bias.numel(), math.prod(out_shape))


class BlurPool2d(nn.Module):
    """Each map blurred by [1, 2, 1] / 4 on both axes, borders reflected, and every `stride`-th position of it kept.

    What would turn into other patterns by leaving out positions is damped first (Zhang, "Making Convolutional Networks
    Shift-Invariant Again", ICML 2019). With `ceil` a last position may stand beyond the border.
    """

    def __init__(self, stride: int, *, ceil: bool = False) -> None:
        super().__init__()
        self.stride, self.ceil = stride, ceil

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        beyond = [-(side - 1) % self.stride if self.ceil else 0 for side in (width, height)]
        kernel = 0.5 - 0.25 * torch.arange(-1, 2, dtype=x.dtype, device=x.device).abs()  # 1/4, 1/2, 1/4
        window = (kernel[:, None] * kernel).expand(channels, 1, 3, 3)
        mode = "reflect" if min(height, width) > 1 + max(beyond) else "replicate"
        return F.conv2d(
            F.pad(x, (1, 1 + beyond[0], 1, 1 + beyond[1]), mode=mode), window, None, self.stride, groups=channels
        )

    def windows(self) -> Windows:
        return sliding(3, self.stride, padding=1)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class Subsample(nn.Module):
    """The sum of each 2×2 window, times a trainable coefficient, plus a trainable bias: two parameters a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def reset_parameters(self) -> None:
        bound = 2.4 / 4  # four inputs a unit
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        mean = nn.functional.avg_pool2d(x, 2)  # times 4 is exact, and ONNX has no pooling that sums
        return mean * (4 * self.weight)[:, None, None] + self.bias[:, None, None]

    def windows(self) -> Windows:
        return sliding(2, stride=2)

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        outputs = math.prod(out_shape)
        return Cost(0, outputs * (4 + 1), outputs)


# Bitmaps of 7 columns and 12 rows, drawn after figure 3: each digit as printed, +1 for ink and -1 for paper.
BITMAPS = (
    "..###.. .##.##. ##...## ##...## ##...## ##...## ##...## ##...## ##...## .##.##. ..###.. .......",
    "...##.. ..###.. .####.. ...##.. ...##.. ...##.. ...##.. ...##.. ...##.. ...##.. .###### .......",
    ".#####. ##...## .....## .....## ....##. ...##.. ..##... .##.... ##..... ##..... ####### .......",
    "####### .....## ....##. ...##.. ..####. .....## .....## .....## .....## ##...## .#####. .......",
    "....##. ...###. ..####. .##.##. .##.##. ##..##. ##..##. ####### ....##. ....##. ....##. .......",
    "####### ##..... ##..... ##..... ######. ##...## .....## .....## .....## ##...## .#####. .......",
    "..####. .##.... ##..... ##..... ######. ##...## ##...## ##...## ##...## ##...## .#####. .......",
    "####### .....## .....## ....##. ....##. ...##.. ...##.. ..##... ..##... .##.... .##.... .......",
    ".#####. ##...## ##...## ##...## .#####. ##...## ##...## ##...## ##...## ##...## .#####. .......",
    ".#####. ##...## ##...## ##...## ##...## .###### .....## .....## .....## ....##. .####.. .......",
)


class RadialBasis(Pointwise):
    """Minus the squared distance from what arrives to the fixed ±1 code of each class."""

    codes: Tensor

    def __init__(self, num_classes: int, features: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.empty(num_classes, features))

    def reset_parameters(self) -> None:
        rows = [[1.0 if mark == "#" else -1.0 for mark in bitmap.replace(" ", "")] for bitmap in BITMAPS]
        self.codes.copy_(torch.tensor(rows))

    def forward(self, x: Tensor) -> Tensor:
        return -(x.unsqueeze(1) - self.codes).square().sum(dim=2)

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return units_cost(out_shape, self.codes.shape[1], bias=False)


class Twice(Pointwise):
    """The same maps twice: x(0) and x(-1)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], dim=1)


class FirstHalf(Pointwise):
    """The first half of the maps: x(t) alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(2, dim=1)[0]


class PadShortcut(nn.Module):
    """Every `stride`-th position, and zero channels appended: no parameters (He et al. 2016, option A)."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return torch.cat([x, x.new_zeros(x.shape[0], self.extra, *x.shape[2:])], dim=1) if self.extra else x

    def windows(self) -> Windows:
        return sliding(1, self.stride)

    def antialiased(self) -> list[nn.Module]:
        return [BlurPool2d(self.stride), PadShortcut(1, self.extra)]


Activation = Literal["relu", "gelu", "tanh", "scaled_tanh", "sigmoid", "leaky_relu", "leaky_relu_0.1", "none"]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "scaled_tanh": ScaledTanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "leaky_relu_0.1": functools.partial(nn.LeakyReLU, 0.1),
    "none": nn.Identity,
}
