"""Convolutions as matrix products: the same maps and gradients as torch's own kernels give, wherever they take over."""

import copy
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnntrain.nn import conv_matmul
from cnntrain.nn.conv_matmul import FEWEST_MAPS, SMALL, candidates, convolve
from cnntrain.nn.equivalents import computed_as

WALKS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 4},  # places that see nothing but the border
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "padding": 1},
    {"kernel_size": (3, 1), "padding": (1, 0)},
    {"kernel_size": 5, "padding": 2, "stride": (2, 1)},
]


def as_products(convolutions: list[nn.Conv2d]) -> AbstractContextManager[None]:
    return computed_as({module: partial(convolve, module) for module in convolutions})


def convolution(**settings: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(FEWEST_MAPS, 6, **settings).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def maps(size: tuple[int, int], kind: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, FEWEST_MAPS, *size, generator=generator, dtype=torch.float64)
    return x.to(kind).contiguous(memory_format=torch.channels_last).requires_grad_()


def learnt(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the maps that a convolution makes of x, and all gradients of a sum of them with fixed weights."""
    out = module(x)
    wanted = [t for t in (x, *module.parameters()) if t.requires_grad]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(out.dtype)
    return out, torch.autograd.grad(out, wanted, weights)


@pytest.mark.parametrize("walk", WALKS, ids=str)
@pytest.mark.parametrize("size", [(4, 4), (2, 3), (6, 7), (1, 1), (60, 1)], ids=str)
def test_products_are_the_convolutions_of_torch(
    walk: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, and for maps of either kind: those whose filters' gradient alone is a product too."""
    monkeypatch.setattr(conv_matmul, "small", lambda kind: 49)
    module, x = convolution(**walk).double(), maps(size)
    try:
        plain = learnt(module, x)
    except RuntimeError:  # the filter does not fit
        with as_products([module]), pytest.raises(RuntimeError, match="Kernel size"):
            module(x)
        return
    with as_products([module]):
        found = learnt(module, x)
    torch.testing.assert_close(found, plain)
    if plain[0].shape[2] * plain[0].shape[3] <= 49 or size[1] == 1:
        assert "Product" in type(found[0].grad_fn).__name__
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("without", ["weight", "bias", "x"])
def test_what_needs_no_gradient_gets_none(without: str) -> None:
    module, x = convolution(kernel_size=3, padding=1).double(), maps((3, 3))
    (x if without == "x" else getattr(module, without)).requires_grad_(False)
    plain = learnt(module, x)
    with as_products([module]):
        found = learnt(module, x)
    assert len(found[1]) == 2
    torch.testing.assert_close(found, plain)


def test_in_bf16_it_is_as_near_to_the_truth_as_torchs_kernels() -> None:
    module, x = convolution(kernel_size=3, padding=1), maps((4, 4), torch.float32)
    truth = learnt(copy.deepcopy(module).double(), maps((4, 4), torch.float32).double().detach().requires_grad_())
    apart = []
    for convolutions in ([], [module]):
        with torch.autocast("cpu", torch.bfloat16), as_products(convolutions):
            out = module(x)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        gradients = torch.autograd.grad(out, [x, *module.parameters()], weights.to(torch.bfloat16))
        assert out.dtype == torch.bfloat16 and all(g.dtype == torch.float32 for g in gradients)
        pairs = zip((out, *gradients), (truth[0], *truth[1]), strict=True)
        apart.append([float((one.double() - other).norm().detach() / other.norm().detach()) for one, other in pairs])
    assert all(product < 1.2 * kernel + 1e-4 and product < 0.02 for kernel, product in zip(*apart, strict=True))


def test_only_where_maps_are_small_and_many(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = nn.Conv2d(FEWEST_MAPS - 1, 4, 3), convolution(kernel_size=3, padding=1)
    others = [
        nn.Conv2d(FEWEST_MAPS, 4, 3, groups=2),
        nn.Conv2d(FEWEST_MAPS, 4, 3, padding="same"),
        nn.Conv2d(FEWEST_MAPS, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(FEWEST_MAPS, 4, 3),
    ]
    assert candidates(nn.Sequential(few, nn.Sequential(many), *others)) == [many]
    with as_products([many]):
        large, small = (many(torch.randn(1, FEWEST_MAPS, side, side)) for side in (8, 4))
    assert ["Product" in type(out.grad_fn).__name__ for out in (large, small)] == [False, True]
    assert SMALL == 4 * 4
    monkeypatch.setattr(conv_matmul, "MOST_VALUES", 2 * 4 * 4 * FEWEST_MAPS * 9)
    with as_products([many]):
        outs = [many(torch.randn(images, FEWEST_MAPS, 4, 4)) for images in (2, 3)]
    assert ["Product" in type(out.grad_fn).__name__ for out in outs] == [True, False]


def test_a_module_is_left_as_it_was_even_after_an_error() -> None:
    module = convolution(kernel_size=3)
    before = dict(module.__dict__)
    with pytest.raises(RuntimeError), as_products([module]):
        module(torch.randn(1, 5, 4, 4))
    assert module.__dict__ == before
