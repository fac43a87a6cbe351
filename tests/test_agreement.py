"""Agreement in value with torchvision's networks, and auxiliary classifiers that are there in training only."""

from collections.abc import Callable

import pytest
import torch
import torchvision.models as theirs
from made import create_model
from torch import nn

from cnntrain.models import AUXILIARY
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions

SMALL, LARGE = (3, 64, 64), (3, 224, 224)
TORCHVISION = {"widths": [64, 192, 384, 256, 256], "groups": 1, "remove": ["norm1", "norm2"]}


@pytest.mark.parametrize(
    ("name", "options", "original", "shape"),
    [
        ("alexnet", TORCHVISION, theirs.alexnet, LARGE),
        ("vgg11", {}, theirs.vgg11, LARGE),
        ("vgg11", {"batch_norm": True}, theirs.vgg11_bn, LARGE),
        ("resnet18", {}, theirs.resnet18, SMALL),
        ("resnet34", {}, theirs.resnet34, SMALL),
        ("resnet50", {"stride": "3x3"}, theirs.resnet50, SMALL),
    ],
)
def test_torchvisions_weights_give_torchvisions_outputs(
    name: str, options: dict[str, object], original: Callable[..., nn.Module], shape: Shape
) -> None:
    torch.manual_seed(0)
    model = original(num_classes=7).eval()
    with torch.no_grad():
        for key, buffer in model.named_buffers():  # statistics that a trained network might have
            if key.endswith(("mean", "var")):
                buffer.uniform_(0.5, 1.5)
    net = create_model(name, shape, 7, device="meta", **options).eval()
    net.load_state_dict(dict(zip(net.state_dict(), model.state_dict().values(), strict=True)), assign=True)
    x = torch.randn(1, *shape)
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-5, atol=1e-5)


def test_both_auxiliary_heads_have_the_papers_size_and_places() -> None:
    net = create_model("googlenet", LARGE, 1000, device="meta")
    auxiliary = AUXILIARY["googlenet"](net, LARGE, 1000, BuildOptions(device="meta"))
    assert sum(p.numel() for p in auxiliary.heads.parameters()) == 6_379_728
    assert sum(p.numel() for p in auxiliary.parameters()) == 13_378_280
    assert (auxiliary.at, auxiliary.weight) == ({"head_4a": "inception_4a", "head_4d": "inception_4d"}, 0.3)
    logits, found = auxiliary(torch.empty(2, *LARGE, device="meta"))
    assert {name: tuple(out.shape) for name, out in found.items()} == dict.fromkeys(auxiliary.at, (2, 1000))
    assert logits.shape == (2, 1000)


def test_auxiliary_classifiers_train_network_and_heads_and_changes_nothing_of_the_network() -> None:
    shape = (3, 32, 32)
    net = create_model("googlenet", shape, 10)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    auxiliary = AUXILIARY["googlenet"](net, shape, 10, BuildOptions())
    x = torch.randn(2, *shape)
    logits, found = auxiliary.eval()(x)
    assert torch.equal(logits, net.eval()(x))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    auxiliary.train()
    logits, found = auxiliary(x)
    labels = torch.tensor([1, 2])
    losses = [nn.functional.cross_entropy(out, labels) for out in found.values()]
    (nn.functional.cross_entropy(logits, labels) + auxiliary.weight * sum(losses)).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in auxiliary.parameters())
    assert not [key for key in net.state_dict() if "head" in key]


def test_a_head_whose_stage_was_removed_reads_the_nearest_before_it() -> None:
    shape = (3, 32, 32)
    net = create_model("googlenet", shape, 10, remove=["inception_4a", "inception_4c", "inception_4d"])
    auxiliary = AUXILIARY["googlenet"](net, shape, 10, BuildOptions())
    assert auxiliary.at == {"head_4a": "pool3", "head_4d": "inception_4b"}
    logits, found = auxiliary(torch.randn(2, *shape))
    assert [tuple(out.shape) for out in (logits, *found.values())] == [(2, 10)] * 3
