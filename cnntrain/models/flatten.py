"""A ready-made model as named stages, where that can be proved right.

A trace with the model's own parts as leaves (nested Sequentials opened) is a chain if each call reads only what the
call before it gave. The chain is then compared with the original, in output and input gradient, in evaluation and
training; a model that is none, or differs, comes as one stage, `network`, which can be trained and observed but not
taken apart.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from cnntrain.nn.shapes import Shape, describe_shape, shape_after
from cnntrain.nn.stages import (
    BuildOptions,
    Maker,
    StageError,
    appended,
    initialise,
    materialise,
    require,
    scaled,
    stage_shapes,
    with_weights,
    without,
)


class ChainError(Exception):
    """A model that is not one stage after another, and why."""


def chain_of(
    model: nn.Module, label: str, in_shape: Shape, num_classes: int, build: BuildOptions
) -> tuple[nn.Sequential, list[str]]:
    """Flatten a model and prove it, remove, add and widen stages; return it and the stages that are new.

    A model that comes as one stage says why in the attribute `observe_only`. Raises `StageError` when it cannot take
    the images or gives something else than `num_classes` numbers, or a stage cannot be removed, added or widened.
    """
    for module in model.modules():
        if getattr(module, "inplace", False) is True:  # it would overwrite what a walk has yielded
            module.inplace = False  # type: ignore[assignment]
    try:
        net = nn.Sequential(flatten(model))
        prove(model, net, provable(net, in_shape))
    except ChainError as reason:
        net = nn.Sequential(OrderedDict(network=model))
        net.observe_only = str(reason)  # type: ignore[assignment]
    refuse_other_output(net, label, in_shape, num_classes)
    if not (build.remove or build.append or build.widen):
        return net, []
    if hasattr(net, "observe_only"):
        raise StageError(f"{label} comes as one stage, so no part can be removed, added or widened: {net.observe_only}")
    net, new = edited(net, label, in_shape, build)
    refuse_other_output(net, label, in_shape, num_classes)
    return net, new


def refuse_other_output(net: nn.Sequential, label: str, in_shape: Shape, num_classes: int) -> None:
    """Raise `StageError` for a network that gives anything else than a number for each class."""
    if (out := list(shapes_of(net, label, in_shape).values())[-1]) != (num_classes,):
        raise StageError(f"{label} gives {describe_shape(out)}, not {num_classes} numbers: it is not a classifier")


def flatten(model: nn.Module) -> "OrderedDict[str, nn.Module]":
    """Return the parts of a model in the order of their calls; raise `ChainError` where a call reads anything else."""

    class Parts(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return not isinstance(m, nn.Sequential)

    was_training, traces = model.training, []
    for training in (False, True):
        try:
            traces.append(list(Parts().trace(model.train(training)).nodes))
        except Exception as error:  # control flow on values, unknown types: whatever tracing cannot follow
            raise ChainError(f"it cannot be traced ({str(error).splitlines()[0]})") from error
    model.train(was_training)
    if [(n.op, n.target, str(n.args)) for n in traces[0]] != [(n.op, n.target, str(n.args)) for n in traces[1]]:
        raise ChainError("it calls other submodules in training than in evaluation")
    first, *nodes = traces[0]
    stages, previous = OrderedDict[str, nn.Module](), first
    for node in nodes:
        inputs = list[fx.Node]()
        fx.node.map_arg((node.args, node.kwargs), inputs.append)  # one that is read twice stands there twice
        if inputs != [previous] or node.args[:1] != (previous,):
            raise ChainError(f"{node.name} reads {', '.join(map(str, inputs)) or 'nothing'}, not {previous} alone")
        if node.op == "output":
            return stages
        name = str(node.target if node.op == "call_module" else node.name).replace(".", "_")
        if name in stages:
            raise ChainError(f"{node.target} runs twice")
        stages[f"{name}_" if hasattr(nn.Sequential(), name) else name] = part(model, node)
        previous = node
    raise ChainError("it gives nothing")


class Call(nn.Module):
    """A function of a tensor and constants, as a module."""

    def __init__(self, function: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, tuple(args), dict(kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.args, **self.kwargs)


def part(model: nn.Module, node: fx.Node) -> nn.Module:
    """Return the module that a traced call stands for."""
    rest, target = node.args[1:], node.target
    options = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    if node.op == "call_module" and not rest and not options:
        return model.get_submodule(str(target))
    if node.op == "call_method":
        target = getattr(torch.Tensor, str(target))
    if not callable(target) or isinstance(target, str):
        raise ChainError(f"{node.name} is not a call of a submodule")
    if target in (torch.flatten, torch.Tensor.flatten) and (rest, options) in (((1,), {}), ((), {"start_dim": 1})):
        return nn.Flatten()
    if target in (F.relu, torch.relu):
        return nn.ReLU()
    if target is F.adaptive_avg_pool2d and not options:
        return nn.AdaptiveAvgPool2d(rest[0])  # type: ignore[arg-type]
    return Call(target, rest, options)


def prove(model: nn.Module, net: nn.Sequential, in_shape: Shape) -> None:
    """Raise `ChainError` unless the chain gives the model's output and input gradient, in evaluation and in training.

    What batch norm counted on the way is put back.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    state, was_training = torch.default_generator.get_state(), model.training
    x = torch.randn(2, *in_shape, generator=torch.Generator().manual_seed(0))
    try:
        for training in (False, True):
            results = []
            for candidate in (model, net):
                candidate.train(training)
                torch.default_generator.manual_seed(0)
                images = x.clone().requires_grad_()
                out = candidate(images)
                results.append((out, torch.autograd.grad(out.square().sum(), images)[0]))
            if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*results, strict=True)):
                raise ChainError(
                    f"its parts in sequence give another result in {'training' if training else 'evaluation'}"
                )
    except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
        raise ChainError(f"it cannot be compared with the original: {str(error).splitlines()[0]}") from error
    finally:
        torch.default_generator.set_state(state)
        model.train(was_training)
        net.train(was_training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def provable(net: nn.Sequential, in_shape: Shape) -> Shape:
    """Return the size of images to prove a chain on: 64 pixels a side cost a tenth of 224, where the model takes them.

    The stages are the model's own parts, and what they are given does not depend on the size.
    """
    smaller = (in_shape[0], *(min(side, 64) for side in in_shape[1:]))
    try:
        shapes_of(net, "", smaller)
    except StageError:
        return in_shape
    return smaller


def shapes_of(net: nn.Sequential, label: str, in_shape: Shape) -> dict[str, Shape]:
    """Return the shape that leaves each stage; raise `StageError` for images that the model cannot take."""
    try:
        return stage_shapes(net, in_shape)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = (str(error) or "its sizes do not fit").splitlines()[0]
        raise StageError(f"{label} cannot take {describe_shape(in_shape)} images: {reason}") from error


def edited(net: nn.Sequential, label: str, in_shape: Shape, build: BuildOptions) -> tuple[nn.Sequential, list[str]]:
    """Return a ready-made chain without some stages, with others added and others wider, and which stages are new.

    A single layer that gives or takes other numbers than before is made anew; blocks stay as they are. Raises
    `StageError` for a stage that cannot take what reaches it then, or has no width of its own.
    """
    stages, shape, new = dict(net.named_children()), tuple(in_shape), list(build.append)
    require(build.remove, stages)
    refuse_fixed_widths(stages, label, build)
    makers = {name: (added.after, added.maker) for name, added in build.append.items()}
    ready: dict[str, Maker] = {name: partial(same, stage) for name, stage in stages.items()}
    edited_stages = OrderedDict[str, nn.Module]()
    for name, maker in appended(ready, makers).items():
        if name in build.remove:
            continue
        try:
            stage = maker(shape)
            if name in makers:
                materialise(stage, name, build.seed, None)
            elif other := resized(stage, shape, build.widen.get(name, 1.0)):
                stage = other
                initialise(stage, name, build.seed)
                new.append(name)
            shape = shape_after(stage, shape)
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            ready_made = "" if name in makers else f"; {label} comes ready-made, so its blocks cannot adapt"
            raise StageError(
                f"stage {name!r} cannot take the {describe_shape(shape)} numbers that arrive{changed(build)}: "
                f"{str(error).splitlines()[0]}{ready_made}"
            ) from error
        edited_stages[name] = stage
    return nn.Sequential(edited_stages), new


def refuse_fixed_widths(stages: Mapping[str, nn.Module], label: str, build: BuildOptions) -> None:
    """Raise `StageError` for a stage to widen that is unknown, removed, a block, or the classifier."""
    require(build.widen, [name for name in stages if name not in build.remove], "model.widen: ")
    *_, classifier = with_weights(stages)
    for name in build.widen:
        if name == classifier:
            raise StageError(f"model.widen: stage {name!r} gives a number for each class")
        if not isinstance(stages[name], nn.Conv2d | nn.Linear):
            raise StageError(
                f"model.widen: stage {name!r} of {label}, a {type(stages[name]).__name__}, has no width of its own; "
                "single convolutions and linear layers have, and most stages of cnntrain's own networks"
            )


def resized(stage: nn.Module, shape: Shape, factor: float) -> nn.Module | None:
    """Return a layer with memory for what reaches it, `factor` times as wide; None for one that fits, or a block.

    Its weights have no values yet.
    """
    match stage:
        case nn.Conv2d(groups=1):
            sizes = {"in_channels": shape[0], "out_channels": scaled(stage.out_channels, factor)}
            places = {"weight": (sizes["out_channels"], shape[0], *stage.kernel_size), "bias": (sizes["out_channels"],)}
        case nn.Linear():
            sizes = {"in_features": shape[-1], "out_features": scaled(stage.out_features, factor)}
            places = {"weight": (sizes["out_features"], shape[-1]), "bias": (sizes["out_features"],)}
        case nn.BatchNorm2d():
            sizes = {"num_features": shape[0]}
            places = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (shape[0],))
        case _:
            return None
    if all(getattr(stage, key) == size for key, size in sizes.items()):
        return None
    layer = copy.deepcopy(stage)
    for key, size in sizes.items():
        setattr(layer, key, size)
    for key, place in places.items():
        tensor = getattr(layer, key)
        if tensor is not None:
            memory = tensor.new_empty(place)
            setattr(layer, key, nn.Parameter(memory) if isinstance(tensor, nn.Parameter) else memory)
    return layer


def changed(build: BuildOptions) -> str:
    """Say which stages were removed and widened, or nothing."""
    wide = f", with wider {', '.join(build.widen)}" if build.widen else ""
    return f"{without(build.remove)}{wide}"


def same(stage: nn.Module, shape: Shape) -> nn.Module:
    """Return a stage that is there, whatever shape arrives."""
    return stage
