"""Auxiliary classifiers: a companion for training, outside the chain of stages, which it reads by walking."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cnntrain.models.stages import Initialise, Maker, Shape, assemble, walk


class Heads(nn.Module):
    """A network with classifiers on some of its stages: images to (logits, {head: logits}).

    Train with the cross-entropy of the logits plus `weight` times that of each head; evaluate, analyse and store the
    best weights of `net` alone. The heads' parameters are those of `heads`.
    """

    def __init__(self, net: nn.Sequential, heads: Mapping[str, nn.Module], at: Mapping[str, str], weight: float):
        super().__init__()
        self.net, self.heads, self.at, self.weight = net, nn.ModuleDict(heads), dict(at), weight

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        found: dict[str, Tensor] = {}
        for stage, x in walk(self.net, x):  # noqa: B020 - the last activation is the logits
            found |= {head: self.heads[head](x) for head, place in self.at.items() if place == stage}
        return x, found


def attach(
    net: nn.Sequential,
    in_shape: Shape,
    num_classes: int,
    order: Sequence[str],
    places: Mapping[str, tuple[str, Maker]],
    weight: float,
    *,
    init: Initialise | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Heads:
    """Build the heads of `places`, {head: (stage, maker)}, on a network that may lack some stages of `order`.

    A head whose stage was removed reads the nearest stage before it that is left. Raises `StageError` where a head
    cannot take the shape there, and `ValueError` where no stage before it is left.
    """
    shapes = shapes_of(net, in_shape)
    at, heads = {}, {}
    for head, (stage, maker) in places.items():
        left = [name for name in order[: order.index(stage) + 1] if name in shapes]
        if not left:
            raise ValueError(f"{head}: neither {stage} nor any stage before it is left")
        at[head] = left[-1]
        built = assemble({head: maker}, shapes[left[-1]], out_shape=(num_classes,), init=init, seed=seed, device=device)
        heads[head] = built[0]
    return Heads(net, heads, at, weight)


def shapes_of(net: nn.Sequential, in_shape: Shape) -> dict[str, Shape]:
    """Return the shape that leaves each stage, from a pass of zeros in evaluation."""
    was_training, held = net.training, next(net.parameters())
    with torch.no_grad():
        x = torch.zeros(1, *in_shape, device=held.device, dtype=held.dtype)
        shapes = {name: tuple(out.shape[1:]) for name, out in walk(net.eval(), x)}
    net.train(was_training)
    return shapes
