"""What plugins of version 0.0 build models with, whose functions take the build options as keywords; goes with 0.2."""

from collections.abc import Callable, Mapping

from torch import nn

from cnntrain.models import external
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions


def options_of(build: BuildOptions | Mapping[str, BuildOptions]) -> BuildOptions:
    """Return the build options that a model function has, or has among its keywords (**build)."""
    return build["build"] if isinstance(build, Mapping) else build


def drawn(make: Callable[[], nn.Module], label: str, build: BuildOptions | Mapping[str, BuildOptions]) -> nn.Module:
    """`external.drawn` for a model function that takes the build options as keywords."""
    return external.drawn(make, label, options_of(build))


def finished(
    model: nn.Module,
    label: str,
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions | Mapping[str, BuildOptions],
) -> nn.Sequential:
    """`external.finished` for a model function that takes the build options as keywords."""
    return external.finished(model, label, in_shape, num_classes, options_of(build))
