"""Layers computed in another way, which gives the same in less time."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.conv_matmul import candidates, convolve

Forward = Callable[[Tensor], Tensor]


def equivalents(net: nn.Module, *, tapped: bool = False) -> dict[nn.Module, Forward]:
    """Return how layers of a network can be computed in less time, those for which there is a way.

    Of a `tapped` network something else reads what leaves its stages, which then has to be what it is.
    """
    products: dict[nn.Module, Forward] = {module: partial(convolve, module) for module in candidates(net)}
    return products if tapped else products | pooled_first(net)


def pooled_first(net: nn.Module) -> dict[nn.Module, Forward]:
    """Return how each ReLU before a max pooling, and that pooling, are computed the other way round.

    The largest value of a window is the same, and so is every gradient, to the bit: where it is positive it belongs to
    the same position, and where it is not there is none. But the ReLU has fewer values to change. Layers that stand
    in more than one place stay as they are.
    """
    places = Counter(module for _, module in net.named_modules(remove_duplicate=False))
    found: dict[nn.Module, Forward] = {}
    for module in net.modules():
        for act, pool in pairwise(chained(module)):
            if type(act) is not nn.ReLU or type(pool) is not nn.MaxPool2d or pool.return_indices:
                continue
            if places[act] == places[pool] == 1:
                found |= {act: unchanged, pool: partial(pooled, pool)}
    return found


def chained(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a chain in their order, those of the chains in it as well."""
    if type(module) is not nn.Sequential:
        yield module
        return
    for part in module:
        yield from chained(part)


def unchanged(x: Tensor) -> Tensor:
    """Return what a ReLU is given; the pooling after it takes its place."""
    return x


def pooled(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Return what max pooling makes of maps [N, C, H, W], then ReLU."""
    return F.relu(F.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode))


@contextmanager
def computed_as(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Have layers be computed in other ways as long as the context lasts."""
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.__dict__["forward"]
