"""A classifier as a fully convolutional network: the same weights, on images of any size from its own on.

Full connections become convolutions: the first takes the maps that arrive as its window, later ones are 1×1
(Sermanet et al., "OverFeat", ICLR 2014, section 3.5; Long, Shelhamer and Darrell, CVPR 2015, section 3.1).
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from cnntrain.nn.attention import SpatialAttention
from cnntrain.nn.geometry import stage_spans
from cnntrain.nn.shapes import Shape, describe_shape, shape_after
from cnntrain.nn.stages import StageError

Head = Literal["map", "global"]


def fully_convolutional(net: nn.Sequential, in_shape: Shape, head: Head = "map") -> nn.Sequential:
    """Return a network of the same stages that gives a map of logits [N, classes, H, W]; weights are shared.

    Where `net` ends with a global average pooling, `head=map` averages over windows of the size that its own images
    have there, and `head=global` over the whole of larger maps, so that one answer [N, classes, 1, 1] is left.

    Raises `StageError`, naming the stage and why, for a network that cannot be converted.
    """
    made, shape = OrderedDict[str, nn.Module](), tuple(in_shape)
    window: Shape | None = None  # the maps that a full connection reads, once they have been flattened
    for name, stage in net.named_children():
        try:
            made[name], window = converted(stage, shape, window, head)
        except TypeError as error:
            raise StageError(f"stage {name!r} cannot be converted: {error}") from error
        shape = shape_after(stage, shape)
    result = nn.Sequential(made)
    result.training = net.training
    return result


def converted(module: nn.Module, shape: Shape, window: Shape | None, head: Head) -> tuple[nn.Module, Shape | None]:
    """Return a module as convolutions, and the maps that a full connection after it would read.

    `shape` arrives at the module; `window` are the maps that were flattened before it, None where maps arrive.
    """
    if isinstance(module, nn.Sequential):
        parts = OrderedDict[str, nn.Module]()
        for name, part in module.named_children():
            parts[name], window = converted(part, shape, window, head)
            shape = shape_after(part, shape)
        chain = nn.Sequential(parts)
        chain.training = module.training
        return chain, window
    if isinstance(module, nn.Flatten):
        return nn.Identity(), shape if window is None else window
    if isinstance(module, nn.Linear):
        return as_convolution(module, (module.in_features, 1, 1) if window is None else window), (
            module.out_features,
            1,
            1,
        )
    if isinstance(module, nn.AdaptiveAvgPool2d):
        if module.output_size not in (1, (1, 1)):
            raise TypeError(f"it pools to {module.output_size} whatever arrives, which no window does")
        return (nn.AvgPool2d((shape[1], shape[2]), 1) if head == "map" else module), None
    if isinstance(module, SpatialAttention) and head == "map":
        raise TypeError("its attention is over the whole image; head=global keeps it")
    if any(isinstance(part, nn.Flatten | nn.Linear | nn.AdaptiveAvgPool2d) for part in module.modules()):
        raise TypeError(f"a full connection lies within {type(module).__name__}")
    if len(shape) == 1 and not pointwise(module):
        raise TypeError(f"{type(module).__name__} reads {describe_shape(shape)} numbers and has no form for maps")
    return module, window


def pointwise(module: nn.Module) -> bool:
    """Say whether a module does the same to every number, wherever it stands."""
    x = torch.linspace(-1, 1, 8)
    try:
        was = module.training
        flat, square = module.eval()(x.view(1, 8)), module(x.view(1, 8, 1, 1))
        module.train(was)
    except (RuntimeError, ValueError, IndexError):
        return False
    return flat.shape == (1, 8) and square.shape == (1, 8, 1, 1) and torch.equal(flat.flatten(), square.flatten())


def as_convolution(linear: nn.Linear, window: Shape) -> nn.Conv2d:
    """Return a full connection over maps of shape `window` as a convolution that shares its weights."""
    channels, height, width = window
    layer = nn.Conv2d(channels, linear.out_features, (height, width), bias=linear.bias is not None, device="meta")
    layer.weight = nn.Parameter(linear.weight.detach().view(layer.weight.shape), linear.weight.requires_grad)
    if linear.bias is not None:
        layer.bias = linear.bias
    return layer


def cell_step(net: nn.Sequential, in_shape: Shape) -> tuple[int, int]:
    """Return how many pixels lie between two cells of a fully convolutional network's map, down and across.

    Raises `StageError` where the layers' windows are not known.
    """
    spans = list(stage_spans(net, in_shape).values())
    if not spans or len(spans) < sum(1 for _ in net.named_children()):
        raise StageError("the windows of this network are not known, so that its map cannot be placed")
    down, across = (span.jump for span in spans[-1])
    assert down is not None and across is not None
    return down, across


def by_windows(net: nn.Sequential, images: Tensor, size: tuple[int, int], step: tuple[int, int]) -> Tensor:
    """Return the logits of every window of images [N, C, H, W], `step` pixels apart, as a map [N, classes, H', W'].

    It is what the map of the fully convolutional network stands for, each cell computed by itself.
    """
    (height, width), (down, across) = size, step
    tops = range(0, images.shape[2] - height + 1, down)
    lefts = range(0, images.shape[3] - width + 1, across)
    rows = [
        torch.stack([net(images[:, :, t : t + height, left : left + width]) for left in lefts], dim=-1) for t in tops
    ]
    return torch.stack(rows, dim=-2)
