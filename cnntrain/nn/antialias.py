"""Any network with a blur wherever a stage leaves out positions: Zhang, "Making Convolutional Networks Shift-Invariant
Again", ICML 2019. No parameter is added, and every shape stays.

A strided convolution is computed everywhere, and blurred and thinned out after its activation; a pooling likewise,
after its maxima or means; a layer that only leaves out positions, or a 1×1 convolution, reads the blurred map.
"""

from torch import nn

from cnntrain.nn.composite import Add, Concat, MultistepBlock, chain
from cnntrain.nn.layers import ACTIVATIONS, BlurPool2d, PadShortcut

# What stands between a convolution and its blur.
FOLLOWERS: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, *{type(make()) for make in ACTIVATIONS.values()})
Parts = list[tuple[str, nn.Module]]


def antialiased(stage: nn.Module) -> nn.Module:
    """Return a stage with a blur wherever it strides; its convolutions keep their names.

    Raises `ValueError` for a layer that strides in a way of its own.
    """
    if isinstance(stage, nn.Sequential):
        return in_chain(list(stage.named_children()))
    if isinstance(stage, Add | Concat | MultistepBlock):
        for name, part in stage.named_children():
            setattr(stage, name, antialiased(part))
        return stage
    parts = thinned("layer", stage)
    return stage if parts is None else chain(**dict(parts))


def in_chain(parts: Parts) -> nn.Sequential:
    """Return the parts of a stage in their order, each that strides with its blur."""
    made: Parts = []
    waiting: Parts = []  # a blur that stands after the activation of its convolution
    for name, part in parts:
        if waiting and not isinstance(part, FOLLOWERS):
            made, waiting = made + waiting, []
        found = thinned(name, part)
        if found is None:
            made.append((name, antialiased(part)))
        elif isinstance(part, nn.Conv2d) and found[-1][1] is not part:
            made.append(found[0])
            waiting = found[1:]
        else:
            made += found
    return chain(**dict(made + waiting))


def thinned(name: str, layer: nn.Module) -> Parts | None:
    """Return a layer that strides as one that does not, and its blur, in the order in which they stand; None if not.

    The layer is changed in place: it has no memory yet.
    """
    stride = getattr(layer, "stride", 1)
    step = stride if isinstance(stride, int) else max(stride)
    if isinstance(layer, BlurPool2d) or step == 1:
        return None
    if isinstance(layer, PadShortcut):
        return [(f"{name}_blur", BlurPool2d(step)), (name, PadShortcut(1, layer.extra))]
    if isinstance(layer, nn.Conv2d):
        layer.stride = (1, 1)
        blur = (f"{name}_blur", BlurPool2d(step))
        return [blur, (name, layer)] if layer.kernel_size == (1, 1) else [(name, layer), blur]
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        blur = (f"{name}_blur", BlurPool2d(step, ceil=layer.ceil_mode))
        if layer.kernel_size == 1:
            return [blur]
        layer.stride = 1
        layer.ceil_mode = False
        return [(name, layer), blur]
    raise ValueError(f"antialias is not known for {type(layer).__name__}, which leaves out positions its own way")
