"""Models of torchvision and timm: flattened and equal to the original, or one stage that says why."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchvision.models
from made import create_model
from torch import nn

from cnntrain.models.flatten import ChainError, chain_of, flatten, provable, prove
from cnntrain.nn.stages import BuildOptions, StageError, stage_shapes, walk
from cnntrain.runtime.errors import InputError

SMALL = (3, 40, 40)
foreign = partial(create_model, "torchvision")


def values(net: nn.Module) -> list[torch.Tensor]:
    return list(net.state_dict().values())


@pytest.mark.parametrize(
    "arch", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_0", "shufflenet_v2_x0_5", "googlenet"]
)
def test_a_flattened_model_is_the_original(arch: str) -> None:
    net = foreign(SMALL, 7, arch=arch)
    extra: dict[str, Any] = {"aux_logits": False, "init_weights": False} if arch == "googlenet" else {}
    original = torchvision.models.get_model(arch, num_classes=7, **extra)
    original.load_state_dict(dict(zip(original.state_dict(), values(net), strict=True)))
    assert len(net) > 10 and not hasattr(net, "observe_only")
    x = torch.randn(2, *SMALL)
    torch.testing.assert_close(net.eval()(x), original.eval()(x))
    assert [name for name, _ in walk(net, x)] == [name for name, _ in net.named_children()]
    net.train()(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_what_a_walk_yields_is_not_overwritten_later() -> None:
    net = foreign(SMALL, 7).eval()
    kept = {name: (out, out.clone()) for name, out in walk(net, torch.randn(2, *SMALL))}
    assert all(torch.equal(out, copy) for out, copy in kept.values())
    assert (kept["bn1"][0] < 0).any()


def test_torchvisions_alexnet_has_its_own_size() -> None:
    net = foreign((3, 224, 224), 1000, arch="alexnet", device="meta")
    assert sum(p.numel() for p in net.parameters()) == 61_100_840
    assert next(net.parameters()).is_meta


def test_the_seed_draws_the_weights_and_nothing_else() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (foreign(SMALL, 3, arch="squeezenet1_0", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(values(one), values(same), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(values(one), values(other), strict=True))


def test_proving_leaves_no_trace_in_batch_norm() -> None:
    buffers = dict(foreign(SMALL, 3).named_buffers())
    assert not buffers["bn1.running_mean"].any() and buffers["bn1.num_batches_tracked"] == 0


class Skip(nn.Module):
    """A model that is no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x)) + x


class Whole(Skip):
    """A classifier that is no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(super().forward(x).mean((2, 3)))


class Moody(Skip):
    """A model that does something else in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) if self.training else self.two(x)


class Twice(Skip):
    """A model that runs a part twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(self.one(x))


class Lonely(Skip):
    """A model that decides on values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) if x.sum() > 0 else self.two(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Skip, "reads two, x"), (Moody, "in training than"), (Twice, "runs twice"), (Lonely, "cannot be traced")],
)
def test_a_model_that_is_no_chain_is_refused_with_the_reason(kind: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(ChainError, match=reason):
        flatten(kind())


def test_a_chain_that_differs_is_found_out() -> None:
    right, wrong = nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Sequential(nn.Conv2d(3, 3, 1))
    prove(right, right, (3, 4, 4))
    with pytest.raises(ChainError, match="evaluation"):
        prove(right, wrong, (3, 4, 4))
    with pytest.raises(ChainError, match="training"):
        prove(right, nn.Sequential(right[0], nn.Dropout(0.5)), (3, 4, 4))


def test_what_cannot_be_taken_apart_comes_as_one_stage_and_says_why() -> None:
    net = chain_of(Whole(), "somebody's net", SMALL, 5, BuildOptions())[0]
    assert [name for name, _ in net.named_children()] == ["network"]
    assert "reads two, x" in str(net.observe_only)
    assert net(torch.randn(2, *SMALL)).shape == (2, 5)
    with pytest.raises(StageError, match="one stage.*add reads two, x"):
        chain_of(Whole(), "somebody's net", SMALL, 5, BuildOptions(remove=["fc"]))
    with pytest.raises(StageError, match="5, not 6"):
        chain_of(Whole(), "somebody's net", SMALL, 6, BuildOptions())


def test_a_chain_is_proved_on_small_images_where_the_model_takes_them() -> None:
    large = (3, 160, 96)
    assert provable(nn.Sequential(nn.Conv2d(3, 2, 11)), large) == (3, 64, 64)
    assert provable(nn.Sequential(nn.Conv2d(3, 2, 80)), large) == large
    assert provable(nn.Sequential(nn.Conv2d(3, 2, 3)), SMALL) == SMALL


def test_only_stages_that_keep_the_shape_can_be_removed() -> None:
    names = [name for name, _ in foreign(SMALL, 5, remove=["layer2_1", "relu"]).named_children()]
    assert "layer2_1" not in names and "relu" not in names and "layer2_0" in names
    for stage, message in (
        ("layer2_0", "'layer2_1' cannot take the 64×10×10 .*without layer2_0"),
        ("layer9", "'layer9'"),
    ):
        with pytest.raises(StageError, match=message):
            foreign(SMALL, 5, remove=[stage])


def test_single_layers_are_widened_and_those_that_read_them_made_anew() -> None:
    stages = ("features_18_0", "features_18_1", "classifier_1")  # a convolution, its batch norm, the linear layer
    plain, narrow, again = (
        foreign(SMALL, 5, arch="mobilenet_v2", widen=widen) for widen in ({}, {stages[0]: 0.5}, {stages[0]: 0.5})
    )
    assert stage_shapes(plain, SMALL)[stages[1]][0] == 1280 and stage_shapes(narrow, SMALL)[stages[1]][0] == 640
    before, after, repeated = (net.state_dict() for net in (plain, narrow, again))
    assert all(torch.equal(after[key], repeated[key]) for key in after)
    assert all(torch.equal(before[key], after[key]) for key in before if not key.startswith(stages))
    narrow.train()(torch.randn(2, *SMALL)).sum().backward()
    assert all(p.grad is not None for p in narrow.parameters())


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"arch": "resnet19"}, SMALL, "model.arch .*'resnet18'"),
        ({}, (1, 28, 28), "resnet18 .*1×28×28"),
        ({"weights": "nowhere.pt"}, SMALL, "nowhere.pt"),
        ({"antialias": True}, SMALL, "model.antialias and model.attention"),
        ({"attention": True}, SMALL, "model.antialias and model.attention"),
        ({"widen": {"fc": 2.0}}, SMALL, "'fc' gives a number for each class"),
        ({"widen": {"layer1_0": 2.0}}, SMALL, "BasicBlock, has no width"),
        (
            {"widen": {"conv1": 2.0}},
            SMALL,
            "'layer1_0' cannot take the 128×10×10 .*wider conv1.*its blocks cannot adapt",
        ),
        ({"widen": {"relu": 2.0}, "remove": ["relu"]}, SMALL, "unknown stage 'relu'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    options: dict[str, Any], shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        foreign(shape, 5, **options)


def test_timm_is_optional_and_flattened_alike() -> None:
    try:
        import timm
    except ImportError:
        with pytest.raises(InputError, match=r"pip install 'cnntrain\[timm\]'"):
            create_model("timm", SMALL, 5)
        return
    net = create_model("timm", (1, 40, 40), 5, arch="resnet18")
    original = timm.create_model("resnet18", num_classes=5, in_chans=1)
    original.load_state_dict(dict(zip(original.state_dict(), values(net), strict=True)))
    x = torch.randn(2, 1, 40, 40)
    torch.testing.assert_close(net.eval()(x), original.eval()(x))
    assert len(net) > 10
