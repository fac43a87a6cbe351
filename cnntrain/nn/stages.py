"""The layer mechanism: a network is an ordered mapping of stage names to makers.

A maker takes the shape that reaches it and returns an ordinary module; `assemble` passes the shapes on from stage to
stage and returns a plain `nn.Sequential`. Removing a stage is building without it, and widening one is building it
wider: every later shape adapts. The name of a stage is its address everywhere: on the command line, in the state dict,
in a table's row.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from cnntrain.nn.antialias import antialiased
from cnntrain.nn.attention import attentive
from cnntrain.nn.geometry import count_parameters
from cnntrain.nn.shapes import Shape, describe_shape, shape_after
from cnntrain.runtime.errors import InputError, nearest, unknown
from cnntrain.runtime.ranges import Count, Positive
from cnntrain.runtime.seeding import generator

Maker = Callable[[Shape], nn.Module]  # runs on the meta device: it must not look at values
Reduction = Literal["none", "max", "avg"] | Count  # of maps, for a linear classifier (see `probe.py`)
P = ParamSpec("P")
T = TypeVar("T")
Initialiser = Callable[[nn.Module], None]  # sets the tensors of one leaf, after the leaf's own `reset_parameters`

BACKBONE = "backbone"  # every stage before the last one that has weights: all but the classifier
MOST_PARAMETERS = 2**28  # of one stage: 1 GiB of weights; YOLO's first full connection has 205,537,280


class StageError(InputError):
    """A network that cannot be built as asked, with the stage and the reason."""


class AddedStage(NamedTuple):
    """A stage to add to a network, behind the stage `after`; None adds it before the last one."""

    after: str | None
    maker: Maker


@dataclass(frozen=True)
class BuildOptions:
    """How any network is built; every model function passes it on to `assemble`.

    seed: of the initial weights.
    remove: stages to build without.
    widen: stages to build with more maps or units, each by a factor (see `widenable`).
    append: stages to add, by name (see `appended`).
    head: which stages keep their initial weights where others are loaded: None for none, "new" for the last one with
        weights, or the name of the first of them.
    antialias: blur wherever a stage strides (see `antialias.py`).
    attention: weight positions where maps are averaged globally (see `attention.py`).
    probe: the stage behind which a linear classifier ends the network, and how its maps are reduced (see `probe.py`).
    words: those whose numbers a network for sentences reads; none for images.
    device: where the network is; "meta" builds shapes without memory.
    """

    seed: int = 0
    remove: list[str] = field(default_factory=list)
    widen: dict[str, Positive] = field(default_factory=dict)
    append: dict[str, "AddedStage"] = field(default_factory=dict)
    head: str | None = None
    antialias: bool = False
    attention: bool = False
    probe: dict[str, Reduction] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    device: str = "cpu"


DEFAULT = BuildOptions()


def nested(build: Callable[[Shape, Mapping[str, Maker]], nn.Module], inner: Mapping[str, Maker]) -> Maker:
    """Return the maker of a stage that `build` makes of `inner` stages, which can be removed by path: `level2.skip`."""

    def make(shape: Shape) -> nn.Module:
        return build(shape, inner)

    setattr(make, "inner", inner)  # noqa: B010 - a function has no such attribute to a type checker
    setattr(make, "rebuilt", functools.partial(nested, build))  # noqa: B010
    return make


def paths(makers: Mapping[str, Maker]) -> Iterator[str]:
    """Yield the name of each stage and the paths of those within it, in order."""
    for name, maker in makers.items():
        yield name
        yield from (f"{name}.{path}" for path in paths(getattr(maker, "inner", {})))


def without_inner(makers: Mapping[str, Maker], remove: Sequence[str]) -> dict[str, Maker]:
    """Return the makers with the stages within them left out that `remove` names by path."""
    changed = dict(makers)
    for name, maker in makers.items():
        within = [path.removeprefix(f"{name}.") for path in remove if path.startswith(f"{name}.")]
        if within:
            inner = without_inner(getattr(maker, "inner", {}), within)
            changed[name] = getattr(maker, "rebuilt")(  # noqa: B009 - as in `nested`
                {key: value for key, value in inner.items() if key not in within}
            )
    return changed


def assemble(
    makers: Mapping[str, Maker],
    in_shape: Shape,
    *,
    out_shape: Shape,
    build: BuildOptions = DEFAULT,
    keep: Sequence[str] = (),
    init: Initialiser | None = None,
) -> nn.Sequential:
    """Build the stages of `makers` as `build` says, each for the shape that reaches it.

    Every leaf is initialised from `(seed, its path)`, so two variants share the initial weights of every leaf whose
    shape they share. The last stage and those named in `keep` cannot be removed.

    Raises `StageError` when a name is unknown or kept, a stage cannot take the shape that arrives, a stage with memory
    has more than `MOST_PARAMETERS`, or what comes out is not `out_shape`.
    """
    remove = build.remove
    makers = appended(makers, {name: (added.after, added.maker) for name, added in build.append.items()})
    check_names(makers, remove, keep)
    makers = widened(without_inner(makers, remove), build.widen, remove)
    shape, stages = tuple(in_shape), OrderedDict[str, nn.Module]()
    shapes: dict[tuple[Maker, Shape], Shape] = {}  # makers are pure: one pass serves all stages of a maker
    for name in (name for name in makers if name not in remove):
        try:
            with torch.device("meta"):
                stage = makers[name](shape)
                stage = antialiased(stage) if build.antialias else stage
                stage = attentive(stage, shape) if build.attention else stage
            if (makers[name], shape) not in shapes:
                shapes[makers[name], shape] = shape_after(stage, shape)
            after = shapes[makers[name], shape]
            if build.device != "meta":
                check_size(stage)
        except (ValueError, RuntimeError, IndexError) as error:
            raise StageError(f"stage {name!r}: {error} ({describe_shape(shape)} arrives{without(remove)})") from error
        if build.device != "meta":
            materialise(stage, name, build.seed, init)
        stages[name], shape = stage, after
    if shape != tuple(out_shape):
        raise StageError(f"the output is {describe_shape(shape)}, not {describe_shape(out_shape)}{without(remove)}")
    return nn.Sequential(stages).to(build.device)


def appended(stages: Mapping[str, T], added: Mapping[str, tuple[str | None, T]]) -> dict[str, T]:
    """Return the stages with others added, each behind the one that it names, or before the last stage.

    Several behind the same stage come in the order of `added`. Raises `StageError` for a name that is taken, and for
    an unknown or the last stage to stand behind.
    """
    order, last = list(stages), list(stages)[-1]
    behind: dict[str, str] = {}  # the last of those that were added behind a stage
    for name, (after, _) in added.items():
        if name in order:
            raise StageError(f"model.append: the network has a stage {name!r} already; give the new one another name")
        if after == last:
            raise StageError(f"model.append.{name}: {last!r} is the last stage, which gives one number for each class")
        before = order[-2] if after is None and len(order) > 1 else after
        if before is None:
            order.insert(0, name)
            continue
        require([before], order, f"model.append.{name}.after: ")
        order.insert(order.index(behind.get(before, before)) + 1, name)
        behind[before] = name
    every = {**stages, **{name: stage for name, (_, stage) in added.items()}}
    return {name: every[name] for name in order}


def check_names(makers: Mapping[str, Maker], remove: Sequence[str], keep: Sequence[str]) -> None:
    """Refuse names that a module already uses, unknown stages, and the removal of a stage that must stay."""
    for name in makers:
        if "." in name or hasattr(nn.Sequential(), name):
            raise StageError(f"a stage cannot be called {name!r}: modules use this name themselves")
    require(remove, paths(makers))
    for name in remove:
        if name == list(makers)[-1]:
            raise StageError(f"stage {name!r} is the last and cannot be removed: it gives one number for each class")
        if name in keep:
            raise StageError(f"stage {name!r} cannot be removed: the stages around it would no longer fit in meaning")


def require(names: Iterable[str], stages: Iterable[str], where: str = "") -> None:
    """Raise `StageError` for the first of `names` that is none of `stages`; `where` says what holds it."""
    stages = list(stages)
    for name in names:
        if name not in stages:
            match = nearest(name, stages)
            hint = f"; did you mean {match!r}?" if match else ""
            raise StageError(f"{where}unknown stage {name!r}{hint} (the stages: {', '.join(stages) or 'none'})")


def backbone(net: Mapping[str, nn.Module], where: str = "") -> list[str]:
    """Return the stages before the last one that has weights, the classifier.

    Raises `StageError` when none of them has weights.
    """
    *before, head = with_weights(net)
    if not before:
        raise StageError(f"{where}the network has no weights before its last stage, {head}")
    return [*net][: [*net].index(head)]


def with_weights(net: Mapping[str, nn.Module]) -> list[str]:
    """Return the stages that have weights."""
    return [name for name, stage in net.items() if any(True for _ in stage.parameters())]


def new_stages(net: Mapping[str, nn.Module], head: str | None) -> list[str]:
    """Return the stages that keep their initial weights where others are taken from elsewhere, as `model.head` says.

    Raises `StageError` for an unknown stage.
    """
    if head is None:
        return []
    first = with_weights(net)[-1] if head == "new" else head
    require([first], net, "model.head: ")
    return [*net][[*net].index(first) :]


def matching_stages(word: str, stages: Mapping[str, nn.Module], where: str) -> list[str]:
    """Return the stages that a name, a pattern (block*) or the word backbone means.

    Raises `StageError` when there are none; `where` says which key asks.
    """
    if word in stages:
        return [word]
    if word == BACKBONE:
        return backbone(stages, f"{where}=backbone: ")
    matching = [name for name in stages if fnmatchcase(name, word)]
    if not matching:
        require([word], stages, f"{where}: ")
    return matching


def widenable(factory: Callable[Concatenate[int, P], Maker]) -> Callable[Concatenate[int, P], Maker]:
    """Let a stage be built wider: the first argument of `factory` is the number of maps or units that it gives."""

    @functools.wraps(factory)
    def build(out: int, /, *args: P.args, **options: P.kwargs) -> Maker:
        maker = factory(out, *args, **options)

        def wider(factor: float) -> Maker:
            return build(scaled(out, factor), *args, **options)

        setattr(maker, "widened", wider)  # noqa: B010 - a function has no such attribute to a type checker
        return maker

    return build


def scaled(out: int, factor: float) -> int:
    """Return a number of maps or units `factor` times as large: even, so that two groups divide it, unless it stays."""
    return out if factor == 1 else max(2, 2 * round(out * factor / 2))


def widened(makers: Mapping[str, Maker], widen: Mapping[str, float], remove: Sequence[str]) -> dict[str, Maker]:
    """Return the makers with those named in `widen` made wider by a factor, rounded to an even number.

    Raises `StageError` for a stage that is unknown, removed, the last, or has no width of its own.
    """
    changed = dict(makers)
    require(widen, [name for name in makers if name not in remove], "model.widen: ")
    for name, factor in widen.items():
        wider = getattr(makers[name], "widened", None)
        if wider is None or name == list(makers)[-1]:
            raise StageError(f"model.widen: stage {name!r} has no width of its own to change")
        changed[name] = wider(factor)
    return changed


def check_size(stage: nn.Module) -> None:
    """Raise `ValueError` for a stage of more parameters than can be trained, before it has memory."""
    if (size := count_parameters(stage)) > MOST_PARAMETERS:
        raise ValueError(f"it would have {size:,} parameters, more than {MOST_PARAMETERS:,}")


def materialise(stage: nn.Module, name: str, seed: int, init: Initialiser | None) -> None:
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
        initialise(leaf, path, seed, init)


def initialise(leaf: nn.Module, path: str, seed: int, init: Initialiser | None = None) -> None:
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


def refuse_shared_stages(net: nn.Sequential) -> None:
    """Raise `StageError` for a module that is two stages: torch lists it once, and it runs twice."""
    names: dict[nn.Module, str] = {}
    for name, stage in net.named_modules(remove_duplicate=False):
        if name and "." not in name and (first := names.setdefault(stage, name)) != name:
            raise StageError(f"the stages {first!r} and {name!r} are one and the same module: make one for each")


def stage_shapes(net: nn.Sequential, in_shape: Shape) -> dict[str, Shape]:
    """Return the shape that leaves each stage in evaluation.

    Raises what a stage raises that cannot take the shape that reaches it.
    """
    shapes, shape = {}, tuple(in_shape)
    for name, stage in net.named_children():
        shapes[name] = shape = shape_after(stage, shape)
    return shapes


def walk(net: nn.Sequential, x: Tensor, upto: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield `(stage name, what leaves it)` in order, ending after the stage `upto`.

    Raises `StageError` when `upto` is no stage, `TypeError` when `net` is a wrapper around the stages.
    """
    if not isinstance(net, nn.Sequential):
        raise TypeError(f"walk reads the stages of a Sequential, not of {type(net).__name__}: pass the network itself")
    names = [name for name, _ in net.named_children()]
    require([] if upto is None else [upto], names)
    for name, stage in net.named_children():
        x = stage(x)
        yield name, x
        if name == upto:
            return


def tail(net: nn.Sequential, after: str) -> nn.Sequential:
    """Return the stages that follow `after` as a network that shares their modules and the training mode."""
    names = [name for name, _ in net.named_children()]
    require([after], names)
    following = nn.Sequential(OrderedDict(list(net.named_children())[names.index(after) + 1 :]))
    following.training = net.training
    return following


@contextlib.contextmanager
def record(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record what leaves the named modules (paths of `named_modules`) during the forward pass inside the context.

    The activations are clones, because a later in-place operation would overwrite them.

    Raises `StageError` for an unknown path, `RuntimeError` when a module runs twice.
    """
    modules = dict(model.named_modules())
    activations: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            if name in activations:
                raise RuntimeError(f"{name} ran twice: one name cannot stand for two activations")
            activations[name] = output.clone()

        return hook

    for name in names:
        if name not in modules:
            raise StageError(str(unknown("module", name, filter(None, modules))))
    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()
