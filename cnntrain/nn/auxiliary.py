"""Auxiliary classifiers: they read inner stages in training and are no part of the network."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from cnntrain.nn.geometry import count_parameters
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import DEFAULT, BuildOptions, Initialiser, Maker, StageError, assemble, stage_shapes, walk


class AuxiliaryClassifiers(nn.Module):
    """A network with classifiers on some of its stages: images to (logits, {head: logits}).

    Train with the cross-entropy of the logits plus `weight` times that of each head; evaluate, analyse and store the
    best weights of `net` alone. The heads' parameters are those of `heads`.
    """

    def __init__(self, net: nn.Sequential, heads: Mapping[str, nn.Module], at: Mapping[str, str], weight: float):
        super().__init__()
        self.net, self.heads, self.at, self.weight = net, nn.ModuleDict(heads), dict(at), weight

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits: dict[str, Tensor] = {}
        for stage, x in walk(self.net, x):  # noqa: B020 - the last activation is the logits
            logits |= {head: self.heads[head](x) for head, place in self.at.items() if place == stage}
        return x, logits

    @property
    def params(self) -> int:
        """The heads' parameters, without the network's."""
        return count_parameters(self.heads)

    def summary(self) -> str:
        """Say in one line where the heads stand, what they hold and what they are for."""
        counts = f"{self.params:,} parameters, loss weight {self.weight:g}"
        return f"auxiliary classifiers after {', '.join(self.at.values())}: {counts}, gone at evaluation"


def attach(
    net: nn.Sequential,
    in_shape: Shape,
    num_classes: int,
    order: Sequence[str],
    places: Mapping[str, tuple[str, Maker]],
    weight: float,
    build: BuildOptions = DEFAULT,
    *,
    init: Initialiser | None = None,
) -> AuxiliaryClassifiers:
    """Build the heads of `places`, {head: (stage, maker)}, on a network that may lack some stages of `order`.

    A head whose stage was removed reads the nearest stage before it that is left; with `weight` 0 there are no heads.
    Raises `StageError` where a head cannot take the shape there, or no stage before it is left.
    """
    if weight == 0:
        return AuxiliaryClassifiers(net, {}, {}, weight)
    shapes = stage_shapes(net, in_shape)
    at, heads = {}, {}
    for head, (stage, maker) in places.items():
        left = [name for name in order[: order.index(stage) + 1] if name in shapes]
        if not left:
            raise StageError(
                f"{head} needs {stage} or a stage before it, and none is left; train without them (model.auxiliary=0)"
            )
        at[head] = left[-1]
        heads[head] = assemble({head: maker}, shapes[left[-1]], out_shape=(num_classes,), build=build, init=init)[0]
    return AuxiliaryClassifiers(net, heads, at, weight)
