"""Convolutions over small maps as matrix products, on a CPU: torch's kernels for it are slow there.

They handle a map row by row and turn the filters over into a layout of their own at every call, which rows of a few
pixels do not pay back. One product of all windows [places of all images, height · width · inputs of a filter] with all
filters took a seventh of the time for 512 maps of 2×2 pixels (two cores, forward and backward, bf16 and fp32), and
takes as long where maps have more than about 16 pixels. The gradient of the filters is found faster by a product on
larger maps too, where the processor multiplies tiles of bf16 (AMX), and wherever maps are one pixel wide, as sentences
are: for 300 maps of 64 words in half the time in fp32 and a quarter in bf16 (one core, AVX512-BF16), of 300 words in
two thirds and a half.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.runtime.devices import cpu_multiplies_tiles

FEWEST_MAPS = 128  # with fewer a product has too little to do for what its windows cost
SMALL = 16  # pixels of a map up to which all is a product
SMALL_TILES = 49  # up to which the filters' gradient is, in tiles
MOST_VALUES = 2**27  # in the windows of a batch, for the sake of memory


class Filtering(NamedTuple):
    """How a filter walks, on both axes."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def places(self, size: int, kernel: int, axis: int) -> int:
        """Return how many places a filter visits on an axis."""
        reach = self.dilation[axis] * (kernel - 1) + 1
        return (size + 2 * self.padding[axis] - reach) // self.stride[axis] + 1


def candidates(net: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions of a network that can be products: those on a CPU that read enough maps."""
    return [
        module
        for module in net.modules()
        if type(module) is nn.Conv2d
        and module.weight.device.type == "cpu"
        and module.in_channels >= FEWEST_MAPS
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    ]


def convolve(module: nn.Conv2d, x: Tensor) -> Tensor:
    """Return what a convolution makes of maps [N, C, H, W], by a product where they are small."""
    weight, bias = module.weight, module.bias
    how = Filtering(module.stride, module.padding, module.dilation)  # type: ignore[arg-type] # no string: see candidates
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    height, width = (how.places(x.shape[2 + axis], weight.shape[2 + axis], axis) for axis in (0, 1))
    places = height * width
    pays = x.shape[3] == 1 or places <= small(kind)
    if min(height, width) < 1 or not pays or len(x) * places * weight[0].numel() > MOST_VALUES:
        return F.conv2d(x, weight, bias, *how)
    out: Tensor = Product.apply(x.to(kind), weight.to(kind), None if bias is None else bias.to(kind), how)
    return out


def small(kind: torch.dtype) -> int:
    """Return how many pixels a map wider than one may have for a product in a number format to pay."""
    return SMALL_TILES if kind == torch.bfloat16 and cpu_multiplies_tiles() else SMALL


class Product(torch.autograd.Function):
    """A convolution whose parts are matrix products where that is faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: Filtering) -> Tensor:
        """Return maps [N, outputs, H', W'] in channels_last of maps [N, C, H, W] and filters [outputs, C, h, w]."""
        ctx.save_for_backward(x, weight)
        ctx.how = how
        size = [how.places(x.shape[2 + axis], weight.shape[2 + axis], axis) for axis in (0, 1)]
        if size[0] * size[1] > SMALL:
            return F.conv2d(x, weight, bias, *how)
        return multiplied(windows(x, weight.shape[2:], size, how), matrix(weight).t(), bias, len(x), size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients for maps, filters and biases."""
        (x, weight), how, (gradient,) = ctx.saved_tensors, ctx.how, gradients
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        size = list(gradient.shape[2:])
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
        of_x = gradient_of_maps(gradient, x, weight, how) if for_x else None
        of_weight = None
        if for_weight:
            product = rows.t() @ windows(x, weight.shape[2:], size, how)
            of_weight = product.view(len(weight), *weight.shape[2:], -1).permute(0, 3, 1, 2)
        return of_x, of_weight, rows.sum(0) if for_bias else None, None


def gradient_of_maps(gradient: Tensor, x: Tensor, weight: Tensor, how: Filtering) -> Tensor:
    """Return the gradient for the maps x that a convolution read, given that for the maps it made.

    Where filters move by one pixel it is a convolution again, by the filters turned round, with inputs and outputs
    exchanged.
    """
    reach = [how.dilation[axis] * (weight.shape[2 + axis] - 1) for axis in (0, 1)]
    padding = (reach[0] - how.padding[0], reach[1] - how.padding[1])
    if x.shape[2] * x.shape[3] <= SMALL and how.stride == (1, 1) and min(padding) >= 0:
        back = Filtering((1, 1), padding, how.dilation)
        turned = weight.flip(2, 3).permute(2, 3, 0, 1).reshape(-1, weight.shape[1])
        size = list(x.shape[2:])
        return multiplied(windows(gradient, weight.shape[2:], size, back), turned, None, len(x), size)
    settings = (list(how.stride), list(how.padding), list(how.dilation), False, [0, 0], 1)
    of_x: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, None, *settings, [True, False, False])[0]
    return of_x


def windows(x: Tensor, kernel: torch.Size, size: list[int], how: Filtering) -> Tensor:
    """Return what filters of a kernel's size see of maps [N, C, H, W] at each place [N·H'·W', h·w·C]."""
    down, across = how.padding
    lines = F.pad(x.permute(0, 2, 3, 1), (0, 0, across, across, down, down)).contiguous()
    image, row, column, channel = lines.stride()
    step = (row * how.stride[0], column * how.stride[1], row * how.dilation[0], column * how.dilation[1])
    seen = lines.as_strided((len(x), *size, *kernel, x.shape[1]), (image, *step, channel))
    return seen.reshape(len(x) * size[0] * size[1], -1)


def matrix(weight: Tensor) -> Tensor:
    """Return filters [outputs, C, h, w] as rows [outputs, h·w·C]; in channels_last they lie like that."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def multiplied(seen: Tensor, filters: Tensor, bias: Tensor | None, images: int, size: list[int]) -> Tensor:
    """Return the product of windows [N·H'·W', K] and filters [K, outputs] as maps [N, outputs, H', W']."""
    out = seen @ filters if bias is None else torch.addmm(bias, seen, filters)
    return out.view(images, *size, -1).permute(0, 3, 1, 2)
