"""The layer mechanism: a network is an ordered mapping of stage names to makers.

A maker is told the shape that reaches it and returns an ordinary module; `assemble` threads the shapes through and
returns a plain `nn.Sequential`. Removing a stage is building without it, and widening one is building it wider, so
everything after it infers its shapes anew.
The stage's name is its address everywhere: on the command line, in the state dict, in a table's row.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypedDict

import torch
from torch import Tensor, nn

from cnntrain.nn.shapes import Shape, describe_shape, shape_after
from cnntrain.runtime.errors import InputError, unknown, unknown_stage
from cnntrain.runtime.seeding import generator

Maker = Callable[[Shape], nn.Module]  # runs on the meta device: it must not look at values
P = ParamSpec("P")
Initialise = Callable[[nn.Module], None]  # sets the tensors of one leaf, after its own `reset_parameters`


class StageError(InputError):
    """A network that cannot be built as asked, with the stage and the reason."""


class Build(TypedDict, total=False):
    """What every model function passes on to `assemble`."""

    remove: Sequence[str]
    widen: Mapping[str, float]
    antialias: bool
    seed: int
    device: str
    max_stage_params: int


def assemble(
    makers: Mapping[str, Maker],
    in_shape: Shape,
    *,
    out_shape: Shape,
    keep: Sequence[str] = (),
    init: Initialise | None = None,
    remove: Sequence[str] = (),
    widen: Mapping[str, float] | None = None,
    antialias: bool = False,
    seed: int = 0,
    device: str = "cpu",
    max_stage_params: int = 200_000_000,
) -> nn.Sequential:
    """Build the stages of `makers` without those in `remove`, each for the shape that reaches it.

    Every leaf is initialised from `(seed, its path)`, so two variants share the initial weights of every leaf whose
    shape they share. `device="meta"` builds shapes without memory, and then no stage is too large. The last stage and
    those named in `keep` cannot be removed. `widen` multiplies the maps or units that a stage gives (see `widenable`),
    and `antialias` puts a blur wherever a stage strides (see `antialias.py`).

    Raises `StageError` when a name is unknown or kept, a stage cannot take the shape that arrives, a stage has more
    than `max_stage_params` parameters, or what comes out is not `out_shape`.
    """
    check_names(makers, remove, keep)
    makers = widened(makers, widen or {}, remove)
    shape, stages = tuple(in_shape), OrderedDict[str, nn.Module]()
    known: dict[tuple[Maker, Shape], Shape] = {}  # makers are pure: one pass serves all stages of a maker
    for name in (name for name in makers if name not in remove):
        try:
            with torch.device("meta"):
                stage = makers[name](shape)
                stage = blurred(stage) if antialias else stage
            if (makers[name], shape) not in known:
                known[makers[name], shape] = shape_after(stage, shape)
            after = known[makers[name], shape]
        except (ValueError, RuntimeError, IndexError) as error:
            raise StageError(f"stage {name!r}: {error} ({describe_shape(shape)} arrives{without(remove)})") from error
        if device != "meta":
            guard_size(name, stage, shape, remove, max_stage_params)
            materialise(stage, name, seed, init)
        stages[name], shape = stage, after
    if shape != tuple(out_shape):
        raise StageError(f"the output is {describe_shape(shape)}, not {describe_shape(out_shape)}{without(remove)}")
    return nn.Sequential(stages).to(device)


def blurred(stage: nn.Module) -> nn.Module:
    """Return a stage with a blur wherever it strides; the blocks that this knows are themselves made of stages."""
    from cnntrain.nn.antialias import antialiased

    return antialiased(stage)


def check_names(makers: Mapping[str, Maker], remove: Sequence[str], keep: Sequence[str]) -> None:
    """Refuse names that a module already uses, unknown stages, and the removal of a stage that must stay."""
    for name in makers:
        if "." in name or hasattr(nn.Sequential(), name):
            raise StageError(f"a stage cannot be called {name!r}: modules use this name themselves")
    for name in remove:
        if name not in makers:
            raise StageError(str(unknown_stage(name, makers)))
        if name == list(makers)[-1]:
            raise StageError(f"stage {name!r} is the last and cannot be removed: it gives one number for each class")
        if name in keep:
            raise StageError(f"stage {name!r} cannot be removed: the stages around it would no longer fit in meaning")


def widenable(factory: Callable[Concatenate[int, P], Maker]) -> Callable[Concatenate[int, P], Maker]:
    """Let a stage be built wider: the first argument of `factory` is the number of maps or units that it gives."""

    @functools.wraps(factory)
    def build(out: int, /, *args: P.args, **options: P.kwargs) -> Maker:
        maker = factory(out, *args, **options)

        def wider(factor: float) -> Maker:
            return build(max(2, 2 * round(out * factor / 2)), *args, **options)  # even: two groups must divide it

        setattr(maker, "widened", wider)  # noqa: B010 - a function has no such attribute to a type checker
        return maker

    return build


def widened(makers: Mapping[str, Maker], widen: Mapping[str, float], remove: Sequence[str]) -> dict[str, Maker]:
    """Return the makers with those named in `widen` made wider by a factor, rounded to an even number.

    Raises `StageError` for a stage that is unknown, removed, the last, or has no width of its own.
    """
    changed = dict(makers)
    for name, factor in widen.items():
        if name not in makers or name in remove:
            left = [stage for stage in makers if stage not in remove]
            raise StageError(f"model.widen: {unknown_stage(name, left)}")
        wider = getattr(makers[name], "widened", None)
        if wider is None or name == list(makers)[-1]:
            raise StageError(f"model.widen: stage {name!r} has no width of its own to change")
        changed[name] = wider(factor)
    return changed


def guard_size(name: str, stage: nn.Module, shape: Shape, remove: Sequence[str], limit: int) -> None:
    """Refuse a stage of more than `limit` parameters while it has no memory yet."""
    size = sum(parameter.numel() for parameter in stage.parameters())
    if size > limit:
        raise StageError(
            f"stage {name!r} would have {size:,} parameters, more than {limit:,} "
            f"({describe_shape(shape)} arrives{without(remove)})"
        )


def materialise(stage: nn.Module, name: str, seed: int, init: Initialise | None) -> None:
    """Give every leaf of a meta stage its memory and its initial values, drawn from `(seed, path of the leaf)`.

    Raises `TypeError` for a leaf that owns tensors and has no `reset_parameters` to set them.
    """
    for path, leaf in stage.named_modules(prefix=name):
        if not (list(leaf.parameters(recurse=False)) or list(leaf.buffers(recurse=False))):
            continue
        if not hasattr(leaf, "reset_parameters"):
            raise TypeError(f"{path} ({type(leaf).__name__}) owns tensors but has no reset_parameters")
        for key, tensor in [*leaf.named_parameters(recurse=False), *leaf.named_buffers(recurse=False)]:
            memory = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            setattr(
                leaf, key, nn.Parameter(memory, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else memory
            )
        draw(leaf, path, seed, init)


def draw(leaf: nn.Module, path: str, seed: int, init: Initialise | None = None) -> None:
    """Give a leaf its initial values, drawn from `(seed, path)`."""
    before = torch.default_generator.get_state()
    # The default generator alone: torch.manual_seed would also reseed every accelerator.
    torch.default_generator.manual_seed(int(generator(seed, path).integers(2**32)))
    leaf.reset_parameters()  # type: ignore[operator]
    if init is not None:
        init(leaf)
    torch.default_generator.set_state(before)


def without(remove: Sequence[str]) -> str:
    """Say which stages were removed, or nothing."""
    return f", without {', '.join(remove)}" if remove else ""


def walk(net: nn.Sequential, x: Tensor, upto: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield `(stage name, what leaves it)` in order, ending after the stage `upto`.

    Raises `StageError` when `upto` is no stage, `TypeError` when `net` is a wrapper around the stages.
    """
    if not isinstance(net, nn.Sequential):
        raise TypeError(f"walk reads the stages of a Sequential, not of {type(net).__name__}: pass the network itself")
    names = [name for name, _ in net.named_children()]
    if upto is not None and upto not in names:
        raise StageError(str(unknown_stage(upto, names)))
    for name, stage in net.named_children():
        x = stage(x)
        yield name, x
        if name == upto:
            return


def tail(net: nn.Sequential, after: str) -> nn.Sequential:
    """Return the stages that follow `after` as a network that shares their modules and the training mode."""
    names = [name for name, _ in net.named_children()]
    if after not in names:
        raise StageError(str(unknown_stage(after, names)))
    rest = nn.Sequential(OrderedDict(list(net.named_children())[names.index(after) + 1 :]))
    rest.training = net.training
    return rest


@contextlib.contextmanager
def record(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what leaves the named modules (paths of `named_modules`) during the forward pass inside the context.

    What is kept is cloned, because a later in-place operation would overwrite it.

    Raises `StageError` for an unknown path, `RuntimeError` when a module runs twice.
    """
    modules = dict(model.named_modules())
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            if name in kept:
                raise RuntimeError(f"{name} ran twice: one name cannot stand for two activations")
            kept[name] = output.clone()

        return hook

    for name in names:
        if name not in modules:
            raise StageError(str(unknown("module", name, filter(None, modules))))
    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
