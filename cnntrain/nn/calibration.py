"""The pass over a network in which layers make their numbers from images, before training begins."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

IMAGES = 100  # that pass through the network at once …
NUMBERS = IMAGES * 3 * 32 * 32  # … as long as they have no more pixels than these of CIFAR


class Reached(Exception):  # noqa: N818 - it is no error: the pass ends here
    """What reaches a layer."""


def calibrate(net: nn.Sequential, images: Callable[[], Tensor]) -> None:
    """Have every layer with a method `calibrate` make its numbers from what reaches it, in their order.

    The method is given an iterator over what reaches the layer, [N, …], some images at a time: it must not keep all.
    `images` gives normalised images, [N, C, H, W]; it is asked only where there is such a layer.
    """
    waiting = [layer for layer in net.modules() if calibrates(layer)]
    if not waiting:
        return
    x, was_training = images(), net.training
    try:
        net.eval()
        with torch.no_grad():
            for layer in waiting:
                layer.calibrate(arriving(net, layer, x))  # type: ignore[operator]
    finally:
        net.train(was_training)


def arriving(net: nn.Sequential, layer: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Yield what reaches a layer, for some images at a time; the layer itself and what follows it do not run."""

    def stop(module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(inputs[0])
        raise Reached

    seen: list[Tensor] = []
    device = next(net.parameters()).device
    for part in images.split(max(1, min(IMAGES, NUMBERS // images[0].numel()))):
        handle = layer.register_forward_pre_hook(stop)
        with contextlib.suppress(Reached):
            net(part.to(device))
        handle.remove()
        yield seen.pop()


def calibrates(layer: nn.Module) -> bool:
    """Say whether a layer makes its numbers from images."""
    return hasattr(layer, "calibrate")
