"""The ways back through a ReLU against a chain written by hand and captum, however a network asks for one."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.relu_rules import ReluRule, image_gradients, relu_rule

RULES: tuple[ReluRule, ...] = ("gradient", "deconvnet", "guided")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def passed_down(rule: ReluRule, arriving: Tensor, entered: Tensor, most: float = torch.inf) -> Tensor:
    """What a ReLU passes down, as the papers print it."""
    open_units = ((entered > 0) & (entered < most)).float()
    rectified = arriving.clamp(min=0)
    return {"gradient": arriving * open_units, "deconvnet": rectified, "guided": rectified * open_units}[rule]


class Functional(nn.Module):
    """Two convolutions with a ReLU of every spelling between them."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.rectify = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3), rectify
        with torch.no_grad():
            self.first.weight.copy_(3 * drawn(*self.first.weight.shape, seed=1))
            self.second.weight.copy_(drawn(*self.second.weight.shape, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.second(self.rectify(self.first(x))).sum(dim=(2, 3)))


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "ReLU6": nn.ReLU6(),
    "ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "Hardtanh": nn.Hardtanh(0, 6),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_relu_follows_the_rule(rule: ReluRule, spelling: str) -> None:
    net, x = Functional(SPELLINGS[spelling]), drawn(2, 3, 9, 9)
    most = 6 if spelling in ("ReLU6", "ReLU6 in place", "F.relu6", "Hardtanh") else torch.inf
    with torch.no_grad():
        entered = net.first(x)
        assert (entered > 6).any() and (entered < 0).any()
        one = torch.zeros(2, 4, 5, 5)
        one[:, 1] = 1
        arriving = F.conv_transpose2d(one, net.second.weight)
        expected = F.conv_transpose2d(passed_down(rule, arriving, entered, most), net.first.weight)
    before = net(x).detach()
    assert torch.equal(image_gradients(net, x, lambda out: out[:, 1], rule), expected)
    assert torch.equal(net(x), before)


def test_a_module_that_is_used_twice_follows_the_rule_at_both_places() -> None:
    relu, first, second = nn.ReLU(inplace=True), nn.Linear(6, 6), nn.Linear(6, 6)
    net, x = nn.Sequential(first, relu, second, relu), drawn(3, 6)
    lower = first(x)
    upper = second(lower.relu())
    arriving = passed_down("guided", torch.ones(3, 6), upper) @ second.weight
    expected = passed_down("guided", arriving, lower) @ first.weight
    assert torch.allclose(image_gradients(net, x, lambda out: out.sum(dim=1), "guided"), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution", "Saliency"])
def test_the_rules_agree_with_captum(name: str) -> None:
    captum = pytest.importorskip("captum.attr")
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(32, 3))
    x, rules = drawn(2, 3, 10, 10), {"GuidedBackprop": "guided", "Deconvolution": "deconvnet", "Saliency": "gradient"}
    options = {"abs": False} if name == "Saliency" else {}
    with contextlib.nullcontext() if name == "Saliency" else pytest.warns(UserWarning, match="hooks"):
        theirs = getattr(captum, name)(net).attribute(x.clone().requires_grad_(), target=1, **options)
    ours = image_gradients(net, x, lambda out: out[:, 1], rules[name])  # type: ignore[arg-type]
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_nothing_is_left_of_a_rule_after_an_exception() -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)), drawn(5, 4)
    plain = image_gradients(net, x, lambda out: out[:, 0], "gradient")
    with pytest.raises(ZeroDivisionError), relu_rule("guided"):
        net(x)
        raise ZeroDivisionError
    leaves = x.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(net(leaves).sum(), leaves)[0], plain)
    assert not torch.equal(image_gradients(net, x, lambda out: out[:, 0], "guided"), plain)
    assert all(not module._forward_hooks and not module._backward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        (nn.LeakyReLU(0.1), "leaky ReLU"),
        (nn.GELU(), "GELU"),
        (nn.Tanh(), "tanh"),
        (nn.SiLU(), "SiLU"),
        (nn.PReLU(), "PReLU"),
        (nn.ELU(), "ELU"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Hardswish(), "hardswish"),
        (nn.Softplus(), "softplus"),
        (nn.Hardtanh(-1, 1), "hardtanh"),
    ],
)
def test_units_that_no_rule_is_for_are_refused_by_name_and_have_a_gradient(unit: nn.Module, name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), unit, nn.Flatten(), nn.Linear(64, 2)).eval()
    x = drawn(2, 3, 6, 6)
    with pytest.raises(InputError, match=rf"{name}\b.*what=saliency"):
        image_gradients(net, x, lambda out: out[:, 0], "guided")
    leaves = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(net(leaves)[:, 0].sum(), leaves)
    assert torch.equal(image_gradients(net, x, lambda out: out[:, 0], "gradient"), slopes)
