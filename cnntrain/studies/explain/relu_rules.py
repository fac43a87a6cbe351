"""The three ways back through a ReLU: the gradient, the deconvnet's and guided backpropagation's.

With g the gradient that arrives from above and x what entered the ReLU, what is passed down is

- `gradient`:  g · [x > 0] (Simonyan, Vedaldi and Zisserman, ICLR workshop 2014);
- `deconvnet`: g · [g > 0] (Zeiler and Fergus, ECCV 2014: a ReLU on the reconstruction);
- `guided`:    g · [g > 0] · [x > 0] (Springenberg, Dosovitskiy, Brox and Riedmiller, ICLR workshop 2015).

Rules act where torch is asked for a ReLU, whether by a module, a function or in place, once or many times. Networks are
not touched, so nothing is left of a rule after its context. A ReLU6 passes nothing at or above its upper end, but to
the deconvnet, which does not look at x.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cnntrain.runtime.errors import InputError

ReluRule = Literal["gradient", "deconvnet", "guided"]


class Rectified(Function):
    """x between zero and `most`, with a rule for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: ReluRule, most: float) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward((x > 0) & (x < most))
        return x.clamp(0, most)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (passed,) = gradients, ctx.saved_tensors
        if ctx.rule != "gradient":
            gradient = gradient.clamp(min=0)
        return gradient if ctx.rule == "deconvnet" else gradient * passed, None, None


class RuledRectifiers(TorchFunctionMode):
    """Answers every call of a ReLU or a ReLU6 with one that follows a rule on the way back."""

    def __init__(self, rule: ReluRule) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in COMPARISONS and self.rule != "gradient" and args[0].requires_grad:
            raise refusal(self.rule, "units that compare values")
        call = RECTIFIERS.get(func, no_rectifier)(*args, **kwargs)
        if call is None:
            return func(*args, **kwargs)
        x, most, inplace = call
        out = Rectified.apply(x, self.rule, most)
        return x.copy_(out) if inplace else out


Rectifier = tuple[Tensor, float, bool]  # what enters, its upper end, and whether it is overwritten


def no_rectifier(*args: Any, **kwargs: Any) -> None:
    """Say that a call is none of a ReLU."""


def relu(input: Tensor, inplace: bool = False) -> Rectifier:
    """Read the arguments of `F.relu`."""
    return input, torch.inf, inplace


def relu6(input: Tensor, inplace: bool = False) -> Rectifier:
    """Read the arguments of `F.relu6`."""
    return input, 6.0, inplace


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Rectifier | None:
    """Read the arguments of `F.hardtanh`, which torch's module for ReLU6 calls."""
    return (input, max_val, inplace) if min_val == 0 < max_val else None


def relu_(input: Tensor) -> Rectifier:
    """Read the arguments of the ReLUs that overwrite what they take."""
    return input, torch.inf, True


RECTIFIERS: dict[Callable[..., Any], Callable[..., Rectifier | None]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), relu),
    **dict.fromkeys((F.relu_, torch.relu_, Tensor.relu_), relu_),
    F.relu6: relu6,
    F.hardtanh: hardtanh,
}

# With these a network may write a ReLU of its own, x · (x > 0), which the way back does not show.
COMPARISONS = {
    *(torch.gt, torch.ge, torch.lt, torch.le, torch.greater, torch.less, torch.sign, torch.heaviside),
    *(Tensor.gt, Tensor.ge, Tensor.lt, Tensor.le, Tensor.greater, Tensor.less, Tensor.sign, Tensor.heaviside),
    *(Tensor.__gt__, Tensor.__ge__, Tensor.__lt__, Tensor.__le__),
}

# The steps of torch's way back that are linear, choose positions, or normalise: no rule concerns them.
PASSED = """
AccumulateGrad Rectified Convolution MkldnnConvolution CudnnConvolution ConvolutionOverride Im2Col Addmm Mm Bmm
Baddbmm T Transpose Permute Add Sub Rsub Neg Mul Div Pow Sqrt Rsqrt Mean Sum NativeBatchNorm CudnnBatchNorm
NativeGroupNorm NativeLayerNorm NativeDropout MaxPool2DWithIndices AvgPool2D AvgPool3D AdaptiveAvgPool2D
AdaptiveMaxPool2D MaxUnpool2D Amax View UnsafeView Reshape ReshapeAlias Unsqueeze Squeeze Expand Slice Select Split
SplitWithSizes Unbind Cat Stack Clone Copy CopySlices AsStrided Alias Gather Index ConstantPadNd ReflectionPad2D
ReplicationPad2D ToCopy UpsampleBilinear2D UpsampleNearest2D Softmax LogSoftmax
"""

# What other units are called by those who build networks.
UNITS = {
    **{"Gelu": "GELU", "Silu": "SiLU", "LeakyRelu": "leaky ReLU", "PreluKernel": "PReLU", "Elu": "ELU", "Tanh": "tanh"},
    **{"Sigmoid": "sigmoid", "Hardswish": "hardswish", "Hardsigmoid": "hardsigmoid", "Softplus": "softplus"},
}


@contextlib.contextmanager
def relu_rule(rule: ReluRule) -> Iterator[None]:
    """Let every ReLU that is called in the context follow a rule on the way back.

    The way back itself may come later. Where a network has units that no rule is for, `refuse_other_units` says so.
    """
    with RuledRectifiers(rule):
        yield


def refuse_other_units(output: Tensor, rule: ReluRule) -> None:
    """Raise `InputError` where the way back from `output` passes anything but ReLUs and what no rule concerns."""
    waiting, seen, names = [output.grad_fn], set[Any](), set[str]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(node.name().rpartition("::")[2].split("Backward")[0])
            waiting += [following for following, _ in node.next_functions]
    if others := names - set(PASSED.split()):
        name = min(others, key=lambda other: (other not in UNITS, other))
        raise refusal(rule, UNITS.get(name, name.lower()))


def refusal(rule: ReluRule, units: str) -> InputError:
    """Return the error for a network with units that a rule is not for."""
    return InputError(
        f"what={rule} changes the way back through ReLUs, and this network has {units}: no rule is defined for it; "
        "take what=saliency or what=integrated"
    )


def image_gradients(
    net: Callable[[Tensor], Tensor], images: Tensor, explained: Callable[[Tensor], Tensor], rule: ReluRule
) -> Tensor:
    """Return what comes back from the explained numbers to images [N, C, H, W] under a rule.

    `explained` takes what the network gives for the images, and gives one number [N] an image.

    Raises `InputError` for units that the rule is not for.
    """
    leaves = images.detach().clone().requires_grad_()
    with torch.enable_grad(), relu_rule(rule):
        values = explained(net(leaves.clone()))  # which it may overwrite
    if rule != "gradient":
        refuse_other_units(values, rule)
    return torch.autograd.grad(values.sum(), leaves)[0]
