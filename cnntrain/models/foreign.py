"""Models of torchvision and timm by name, flattened to named stages where that can be proved right.

A trace with the model's own parts as leaves (nested Sequentials opened) is a chain if each call reads only what the
call before it gave. The chain is then held to the original, in output and input gradient, in evaluation and training; a
model that is none, or differs, comes as one stage, `network`, which can be trained and observed but not taken apart.
"""

import importlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from cnntrain.draws import generator
from cnntrain.errors import InputError, unknown
from cnntrain.models.stages import Build, Shape, StageError, describe_shape, walk

# torchvision's two models with auxiliary heads, which come without, and without a slow and warning initialisation.
WITHOUT_HEADS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}


class Preprocessing(NamedTuple):
    """What a pretrained model expects of its images: pixels a side, and the mean and deviation of channels in 0..1."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class ChainError(Exception):
    """A model that is not one stage after another, and why."""


def torchvision(
    in_shape: Shape, num_classes: int, *, arch: str = "resnet18", weights: str | None = None, **build: Unpack[Build]
) -> nn.Sequential:
    """A classifier of torchvision; `weights` are null, default (downloaded once), or a file with a state dict."""
    models = importlib.import_module("torchvision.models")
    if arch not in (known := models.list_models(module=models)):
        raise unknown("model.arch", arch, known)

    def make() -> nn.Module:
        net: nn.Module = models.get_model(arch, weights=None, num_classes=num_classes, **WITHOUT_HEADS.get(arch, {}))
        if weights == "default":
            fill(net, arch, download(lambda: models.get_model_weights(arch).DEFAULT.get_state_dict(progress=False)))
        return net

    return stages_of(make, f"torchvision's {arch}", in_shape, num_classes, weights, build)


def timm(
    in_shape: Shape, num_classes: int, *, arch: str = "resnet18", weights: str | None = None, **build: Unpack[Build]
) -> nn.Sequential:
    """A classifier of timm, which is an optional package; `weights` as for torchvision."""
    library = import_timm()
    if arch.partition(".")[0] not in (known := library.list_models()):
        raise unknown("model.arch", arch, known)

    def make() -> nn.Module:
        options = {"num_classes": num_classes, "in_chans": in_shape[0], "pretrained": weights == "default"}
        made: nn.Module = download(lambda: library.create_model(arch, **options))
        return made

    return stages_of(make, f"timm's {arch}", in_shape, num_classes, weights, build)


def import_timm() -> Any:
    """Return the package timm, or raise an `InputError` that says how to get it."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"model=timm needs the package timm ({error}): pip install 'cnntrain[timm]'") from error


def preprocessing(library: str, arch: str) -> Preprocessing:
    """Return the images that the pretrained weights of a model of `torchvision` or `timm` expect."""
    if library == "torchvision":
        models = importlib.import_module("torchvision.models")
        wants = models.get_model_weights(arch).DEFAULT.transforms()
        return Preprocessing(wants.crop_size[0], tuple(wants.mean), tuple(wants.std))
    wants = import_timm().get_pretrained_cfg(arch)
    return Preprocessing(wants.input_size[-1], tuple(wants.mean), tuple(wants.std))


def download(get: Callable[[], Any]) -> Any:
    """Return what `get` brings, or raise an `InputError` where neither disk nor network has it."""
    try:
        return get()
    except (OSError, RuntimeError) as error:  # no network, no such file there, a checksum that differs
        reason = (str(error) or type(error).__name__).splitlines()[-1]
        raise InputError(f"model.weights=default cannot be had ({reason}); name a file, or leave it null") from error


def fill(model: nn.Module, arch: str, state: Mapping[str, Tensor]) -> None:
    """Load the tensors of a state dict that fit; those of another shape are the head, for other classes.

    Raises `InputError` when tensors are missing, or more than a head has another shape.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    other = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or len({key.rpartition(".")[0] for key in other}) > 1:
        raise InputError(f"model.weights are not those of {arch}: {', '.join([*missing, *other][:5])} differ")
    model.load_state_dict({key: state[key] for key in own if key not in other}, strict=False)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file: safetensors, or torch's format without code."""
    if not path.is_file():
        raise InputError(f"model.weights={path} does not exist; give null, default or a file")
    try:
        if path.suffix == ".safetensors":
            found: Mapping[str, Tensor] = importlib.import_module("safetensors.torch").load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file or one of another kind leads to
        raise InputError(f"model.weights={path} holds no state dict: {type(error).__name__}") from error
    return found


def stages_of(
    make: Callable[[], nn.Module], label: str, in_shape: Shape, num_classes: int, weights: str | None, build: Build
) -> nn.Sequential:
    """Build a foreign model under the seed, flatten and prove it, remove stages that leave the shapes as they are."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(int(generator(build.get("seed", 0), label).integers(2**32)))
    try:
        model = make()
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, InputError) else StageError(f"{label} cannot be built: {error}") from error
    finally:
        torch.default_generator.set_state(before)
    if weights not in (None, "default"):
        fill(model, label, read_weights(Path(str(weights)).expanduser()))
    for module in model.modules():
        if getattr(module, "inplace", False) is True:  # it would overwrite what a walk has yielded
            module.inplace = False  # type: ignore[assignment]
    try:
        net = nn.Sequential(flatten(model))
        prove(model, net, in_shape)
    except ChainError as reason:
        net = nn.Sequential(OrderedDict(network=model))
        net.observe_only = str(reason)  # type: ignore[assignment]
    shapes = follow(net, label, in_shape)
    if (out := list(shapes.values())[-1]) != (num_classes,):
        raise StageError(f"{label} gives {describe_shape(out)}, not {num_classes} numbers: it is no classifier")
    return without(net, label, shapes, in_shape, build.get("remove", ())).to(build.get("device", "cpu"))


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
        raise ChainError("it calls other parts in training than in evaluation")
    first, *nodes = traces[0]
    stages, previous = OrderedDict[str, nn.Module](), first
    for node in nodes:
        if node.all_input_nodes != [previous] or node.args[:1] != (previous,):
            raise ChainError(
                f"{node.name} reads {', '.join(map(str, node.all_input_nodes)) or 'nothing'}, not {previous}"
            )
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
        raise ChainError(f"{node.name} is no call of a part")
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
            found = []
            for candidate in (model, net):
                candidate.train(training)
                torch.default_generator.manual_seed(0)
                given = x.clone().requires_grad_()
                out = candidate(given)
                found.append((out, torch.autograd.grad(out.square().sum(), given)[0]))
            if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found, strict=True)):
                raise ChainError(
                    f"one part after another gives another result in {'training' if training else 'evaluation'}"
                )
    except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
        raise ChainError(f"it cannot be held to the original: {str(error).splitlines()[0]}") from error
    finally:
        torch.default_generator.set_state(state)
        model.train(was_training)
        net.train(was_training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def follow(net: nn.Sequential, label: str, in_shape: Shape) -> dict[str, Shape]:
    """Return the shape that leaves each stage, from a pass of one image in evaluation."""
    was_training = net.training
    try:
        with torch.no_grad():
            return {name: tuple(out.shape[1:]) for name, out in walk(net.eval(), torch.zeros(1, *in_shape))}
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = (str(error) or "its sizes do not fit").splitlines()[0]
        raise StageError(f"{label} cannot take {describe_shape(in_shape)} images: {reason}") from error
    finally:
        net.train(was_training)


def without(
    net: nn.Sequential, label: str, shapes: Mapping[str, Shape], in_shape: Shape, remove: Sequence[str]
) -> nn.Sequential:
    """Return the chain without some stages, which must leave the shape that reaches them."""
    names = list(shapes)
    for name in remove:
        if name not in names:
            raise StageError(str(unknown("stage", name, names)))
        position = names.index(name)
        arrives = shapes[names[position - 1]] if position else in_shape
        if shapes[name] != arrives or math.prod(shapes[name]) == 0:
            raise StageError(
                f"stage {name!r} turns {describe_shape(arrives)} into {describe_shape(shapes[name])}, and {label} "
                "comes ready-made: only stages that keep the shape can be removed; cnntrain's own networks fit the rest"
            )
    if not remove:
        return net
    return nn.Sequential(OrderedDict((name, stage) for name, stage in net.named_children() if name not in remove))
