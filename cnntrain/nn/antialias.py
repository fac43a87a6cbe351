"""Any network with a blur wherever a stage leaves out positions: Zhang, "Making Convolutional Networks Shift-Invariant
Again", ICML 2019. No parameter is added, and every shape stays.

A strided convolution is computed everywhere, and blurred and thinned out after its activation; a pooling likewise,
after its maxima or means; a layer that only leaves out positions, or a 1×1 convolution, reads the blurred map.
"""

from torch import nn

from cnntrain.nn.composite import Branches, chain
from cnntrain.nn.layers import ACTIVATIONS, BlurPool2d
from cnntrain.nn.measures import Strides

# What stands between a convolution and its blur.
FOLLOWERS: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, *{type(make()) for make in ACTIVATIONS.values()})
Named = list[tuple[str, nn.Module]]


def antialiased(stage: nn.Module) -> nn.Module:
    """Return a stage with a blur wherever it strides; its convolutions keep their names.

    Raises `ValueError` for a layer that strides in a way of its own.
    """
    if isinstance(stage, nn.Sequential):
        return in_chain(list(stage.named_children()))
    if isinstance(stage, Branches):
        for name, branch in stage.named_children():
            setattr(stage, name, antialiased(branch))
        return stage
    parts = named("layer", without_stride(stage))
    return stage if len(parts) == 1 and parts[0][1] is stage else chain(**dict(parts))


def in_chain(parts: Named) -> nn.Sequential:
    """Return the parts of a stage in their order, each that strides with its blur."""
    made: Named = []
    waiting: Named = []  # a blur that stands after the activation of its convolution
    for name, part in parts:
        if waiting and not isinstance(part, FOLLOWERS):
            made, waiting = made + waiting, []
        if isinstance(part, nn.Sequential | Branches):
            made.append((name, antialiased(part)))
            continue
        forms = named(name, without_stride(part))
        if isinstance(part, nn.Conv2d) and forms[0][1] is part:
            made.append(forms[0])
            waiting = forms[1:]
        else:
            made += forms
    return chain(**dict(made + waiting))


def named(name: str, forms: list[nn.Module]) -> Named:
    """Name a layer and its blur."""
    return [(f"{name}_blur" if isinstance(form, BlurPool2d) else name, form) for form in forms]


def without_stride(layer: nn.Module) -> list[nn.Module]:
    """Return a layer that strides as one that does not and its blur, in the order in which they stand; any other alone.

    The layer is changed in place: it has no memory yet. A layer of ours brings its form (`antialiased`).
    """
    stride = getattr(layer, "stride", 1)
    step = stride if isinstance(stride, int) else max(stride)
    if isinstance(layer, BlurPool2d) or step == 1:
        return [layer]
    if isinstance(layer, nn.Conv2d):
        layer.stride = (1, 1)
        return [BlurPool2d(step), layer] if layer.kernel_size == (1, 1) else [layer, BlurPool2d(step)]
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        blur = BlurPool2d(step, ceil=layer.ceil_mode)
        layer.stride, layer.ceil_mode = 1, False
        return [blur] if layer.kernel_size == 1 else [layer, blur]
    if isinstance(layer, Strides):
        return layer.antialiased()
    raise ValueError(f"antialias is not known for {type(layer).__name__}, which leaves out positions its own way")
