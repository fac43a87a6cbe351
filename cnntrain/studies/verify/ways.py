"""Ways to compute what the lectures show: through this package's layers, and by counting in plain Python and numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.models import MODELS
from cnntrain.nn.blocks import conv
from cnntrain.nn.geometry import StageGeometry, geometry
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble

SHAPES_ONLY = BuildOptions(device="meta")
Grid = Sequence[Sequence[float]] | np.ndarray


def maps(image: Grid | Sequence[Grid]) -> Tensor:
    """Return an image [H, W] or [C, H, W] as a batch of one, [1, C, H, W], or a batch as it is, in float64."""
    pixels = torch.tensor(np.array(image), dtype=torch.float64)
    return pixels[(None,) * (4 - pixels.dim())]


def listed(x: Tensor) -> Any:
    """Return the numbers of a batch of one as nested lists, whole ones as integers, one map without its channel."""
    values = x.detach()[0]
    values = values[0] if values.dim() == 3 and len(values) == 1 else values
    whole = bool((values == values.round()).all())
    return (values.long() if whole else values).tolist()


def layer(image: Grid | Sequence[Grid], kernel: Any, stride: int = 1, padding: int = 0) -> Tensor:
    """Apply this package's convolution layer with weights [out, in, k, k] or [k, k], without bias or activation."""
    x, weight = maps(image), torch.tensor(np.array(kernel), dtype=torch.float64)
    weight = weight if weight.dim() == 4 else weight[None, None]
    made = conv(weight.shape[0], weight.shape[2], stride=stride, padding=padding, bias=False, activation="none")
    stage = made(tuple(x.shape[1:])).double()
    first = next(module for module in stage.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight.copy_(weight)
        out: Tensor = stage(x)
    return out


def by_hand(image: Grid, kernel: Grid, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> list[list[int]]:
    """Return the same for one map and one filter, window by window in plain Python."""
    pixels, weights = np.pad(np.array(image), padding), np.array(kernel)
    reach = dilation * (len(weights) - 1) + 1
    return [
        [
            int((pixels[top : top + reach : dilation, left : left + reach : dilation] * weights).sum())
            for left in range(0, pixels.shape[1] - reach + 1, stride)
        ]
        for top in range(0, pixels.shape[0] - reach + 1, stride)
    ]


def starts(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Return at how many places a window fits, by counting them."""
    reach = dilation * (kernel - 1) + 1
    return len(range(-padding, size + padding - reach + 1, stride))


def stages(shape: Shape, out: Shape, **makers: Maker) -> list[StageGeometry]:
    """Return the table of a small network that these makers build; it has no memory."""
    return geometry(assemble(makers, shape, out_shape=out, build=SHAPES_ONLY), shape)


def network(
    name: str, shape: Shape = (3, 224, 224), classes: int = 1000, build: BuildOptions = SHAPES_ONLY, **options: Any
) -> list[StageGeometry]:
    """Return the table of one of this package's networks; by default it has no memory."""
    return geometry(MODELS[name](shape, classes, build, **options), shape)


def params(rows: Sequence[StageGeometry]) -> int:
    """Return the parameters of a network's table."""
    return sum(row.params for row in rows)


def macs(rows: Sequence[StageGeometry]) -> int:
    """Return the multiplications of a network's table."""
    return sum(row.macs for row in rows)


def weights_of(*layers: tuple[int, int, int, int], dense: Sequence[tuple[int, int]] = ()) -> int:
    """Return the parameters of convolutions (kernel, inputs, outputs, groups) and full connections, by formula."""
    return sum(k * k * c // g * f + f for k, c, f, g in layers) + sum(n * f + f for n, f in dense)
