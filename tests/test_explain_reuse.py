"""`explain` of networks that run a module twice or overwrite what they are given: as if written out, or refused.

Each network comes twice: as its author may write it, and with a module and memory of its own for every step. Whatever
a method says of one it must say of the other.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_attributions import options_of, stages, subject_of
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.config.build import build_model
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.models import MODELS
from cnntrain.nn.attention import SpatialAttention
from cnntrain.nn.composite import Add, Concat
from cnntrain.nn.geometry import geometry
from cnntrain.nn.layers import LocalResponseNorm
from cnntrain.nn.stages import StageError, record
from cnntrain.runs.images import RunImages
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain import neighbours, search
from cnntrain.studies.explain.deconvnet import normalisation_passed_over
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.question import ImageSet, Question
from cnntrain.studies.explain.registry import METHODS, OF_SENTENCES
from cnntrain.studies.explain.relu_rules import image_gradients

OF_IMAGES = [name for name in METHODS if name not in OF_SENTENCES]
PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 12, 3), dtype=np.uint8)
LABELS = torch.arange(9) % 4


class Steps(nn.Module):
    """Runs its modules by the name of each step; a name may come twice."""

    def __init__(self, steps: list[str], **parts: nn.Module) -> None:
        super().__init__()
        self.steps = steps
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = self.get_submodule(step)(x)
        return x


class InPlace(nn.ReLU):
    """A ReLU that is a function and overwrites what it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=True)


class Turn(nn.Module):
    """Minus the image: twice it is the image again."""

    def __init__(self, multiply: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.multiply = multiply

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, -1.0)


def head() -> dict[str, nn.Module]:
    return {"pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "fc": nn.Linear(6, 4)}


def first() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())


def twice_in_a_stage() -> tuple[nn.Sequential, nn.Sequential]:
    conv, relu = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)
    loop = Steps(["conv", "relu", "conv", "relu"], conv=conv, relu=relu)
    short = stages(conv1=first(), loop=loop, **head())
    others = {"other_conv": copy.deepcopy(conv), "other_relu": nn.ReLU()}
    line = Steps(["conv", "relu", *others], conv=conv, relu=nn.ReLU(), **others)
    return short, copy.deepcopy(nn.Sequential(alike(short, loop=line)))


def under_two_names() -> tuple[nn.Sequential, nn.Sequential]:
    conv = nn.Conv2d(6, 6, 3, padding=1)
    short = stages(conv1=first(), loop=nn.Sequential(conv, nn.ReLU(), conv), **head())
    return short, copy.deepcopy(nn.Sequential(alike(short, loop=nn.Sequential(conv, nn.ReLU(), copy.deepcopy(conv)))))


def shared_by_two_stages() -> tuple[nn.Sequential, nn.Sequential]:
    conv = nn.Conv2d(6, 6, 3, padding=1)
    loops: dict[str, nn.Module] = {f"loop{i}": nn.Sequential(conv, nn.ReLU(inplace=True)) for i in (1, 2)}
    short = stages(conv1=first(), **loops, **head())
    lines = {name: nn.Sequential(copy.deepcopy(conv), nn.ReLU()) for name in loops}
    return short, copy.deepcopy(nn.Sequential(alike(short, **lines)))


def overwriting_the_stage_before() -> tuple[nn.Sequential, nn.Sequential]:
    short = stages(conv1=nn.Conv2d(3, 6, 3), relu1=InPlace(), conv2=nn.Conv2d(6, 6, 3), relu2=InPlace(), **head())
    return short, nn.Sequential(alike(short, relu1=nn.ReLU(), relu2=nn.ReLU()))


def overwriting_the_image() -> tuple[nn.Sequential, nn.Sequential]:
    short = stages(relu0=InPlace(), conv1=nn.Conv2d(3, 6, 3), **head())
    return short, nn.Sequential(alike(short, relu0=nn.ReLU()))


def turning_the_image() -> tuple[nn.Sequential, nn.Sequential]:
    short = stages(turn=Turn(torch.Tensor.mul_), conv1=first(), **head())
    return short, nn.Sequential(alike(short, turn=Turn(torch.mul)))


def overwriting_the_last_maps() -> tuple[nn.Sequential, nn.Sequential]:
    pools = [nn.Sequential(relu, nn.AdaptiveAvgPool2d(1), nn.Flatten()) for relu in (InPlace(), nn.ReLU())]
    short = stages(conv1=nn.Conv2d(3, 6, 3), pool=pools[0], fc=nn.Linear(6, 4))
    return short, nn.Sequential(alike(short, pool=pools[1]))


def alike(net: nn.Sequential, **others: nn.Module) -> Any:
    """Return the stages of a network, some of them replaced."""
    return OrderedDict((name, others.get(name, stage)) for name, stage in net.named_children())


NETWORKS: list[Callable[[], tuple[nn.Sequential, nn.Sequential]]] = [
    twice_in_a_stage,
    under_two_names,
    shared_by_two_stages,
    overwriting_the_stage_before,
    overwriting_the_image,
    turning_the_image,
    overwriting_the_last_maps,
]


def answer(name: str, net: nn.Sequential) -> Explanation | str:
    """What a method says of four images, or why it does not."""
    subject = subject_of(net.eval())
    images = ImageSet([str(i) for i in range(4)], PIXELS[:4], LABELS[:4], subject.logits(PIXELS[:4], 100))
    few = {"steps": 2, "starts": 1}
    written = options_of()
    options = options_of(
        what=name,
        search=9,
        neighbours=3,
        units=2,
        maximise=vars(written.maximise) | few,
        integrated={"steps": 3, "fill": None},
        smoothgrad={"samples": 2, "noise": 0.1},
    )
    try:
        return METHODS[name](Question(subject, images, options))
    except InputError as error:
        return str(error)


def numbers(said: Explanation) -> list[np.ndarray]:
    """Return all values of all pictures."""
    return [tile.values.astype(np.float64) for picture in said.pictures for tile in picture.tiles]


@pytest.fixture(autouse=True)
def own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(Pixels(torch.from_numpy(PIXELS)), LABELS)
    monkeypatch.setattr(search, "find_split", lambda *_: RunImages(split, "test", "made", 0, ""))
    monkeypatch.setattr(neighbours, "embedding_picture", lambda name, *_: neighbours.TiledPicture(name, name))


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("name", [name for name in OF_IMAGES if name != "filters"])
def test_a_method_says_the_same_of_a_network_that_is_written_out(
    name: str, make: Callable[[], tuple[nn.Sequential, nn.Sequential]]
) -> None:
    short, long = make()
    x = subject_of(short).inputs(PIXELS)
    torch.testing.assert_close(short(x.clone()), long(x.clone()))
    said, meant = answer(name, short), answer(name, long)
    if isinstance(said, str) or isinstance(meant, str):
        assert said == meant and name in ("cam", "attention")
        return
    for one, other in zip(numbers(said), numbers(meant), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for row, same in zip(said.rows, meant.rows, strict=True):
        assert row.keys() == same.keys()
        for key, value in same.items():
            assert row[key] == (pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value)


@pytest.mark.parametrize("make", NETWORKS)
def test_filters_of_a_layer_that_runs_twice_are_its_weights(
    make: Callable[[], tuple[nn.Sequential, nn.Sequential]],
) -> None:
    said, meant = (answer("filters", net) for net in make())
    assert isinstance(said, Explanation) and isinstance(meant, Explanation)
    kernels = {picture.title: picture.tiles[0].values for picture in meant.pictures}
    paths = [str(row["layer"]) for row in said.rows]
    assert len(paths) == len(set(paths)) <= len(meant.rows)
    for picture in said.pictures:
        np.testing.assert_allclose(picture.tiles[0].values, kernels[picture.title], atol=1e-6)


def test_a_layer_that_runs_twice_has_no_kernel_in_the_image() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    net = stages(loop=nn.Sequential(conv, conv), flat=nn.Flatten(), fc=nn.Linear(432, 4))
    said = answer("filters", net)
    assert isinstance(said, Explanation)
    assert {row["layer"]: str(row["shown"])[2:] for row in said.rows} == {
        "loop.0": "kernels by input map",
        "fc": "kernels in the image",
    }
    with pytest.raises(RuntimeError, match="twice"), record(net, ["loop.0"]):
        net(torch.zeros(1, 3, 12, 12))


@pytest.mark.parametrize("layers", [1, 2])
def test_attention_that_runs_more_than_once_is_refused(layers: int) -> None:
    first = SpatialAttention(6)
    second = first if layers == 1 else SpatialAttention(6)
    net = stages(conv1=nn.Conv2d(3, 6, 3), attention=Concat(a=first, b=second), fc=nn.Sequential(nn.Flatten()))
    net.fc.append(nn.Linear(12, 4))  # type: ignore[operator]
    said = answer("attention", net)
    assert isinstance(said, str) and ("2 times" if layers == 1 else "2 layers") in said and "what=gradcam" in said


def test_one_module_cannot_be_two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch lists it once, so that a walk from stage to stage would leave it out, silently."""

    def model(*_: object, build: object) -> nn.Sequential:
        relu = nn.ReLU()
        parts = {"conv1": nn.Conv2d(3, 6, 3), "relu1": relu, "conv2": nn.Conv2d(6, 6, 3), "relu2": relu}
        return nn.Sequential(OrderedDict(parts))

    monkeypatch.setitem(MODELS, "shared", model)
    info = DatasetInfo("made", ("a", "b", "c", "d"), (3, 12, 12), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(StageError, match="'relu1' and 'relu2'"):
        build_model({"name": "shared"}, info)


def test_a_branch_that_stands_twice_is_counted_twice() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1)
    for kind, channels in ((Concat, 10), (Add, 5)):
        shared, alone = (nn.Sequential(kind(a=conv, b=other)) for other in (conv, copy.deepcopy(conv)))
        (row,), (expected,) = geometry(shared, (3, 8, 8)), geometry(alone, (3, 8, 8))
        assert row.out_shape == (channels, 8, 8) and row.macs == expected.macs


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
def test_a_relu_that_is_a_product_is_refused_and_has_a_gradient(rule: Any) -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (x > 0)

    conv = nn.Conv2d(3, 4, 3)
    net, plain = (nn.Sequential(conv, relu, nn.Flatten()) for relu in (Own(), nn.ReLU()))
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(InputError, match="compare values.*what=saliency"):
        image_gradients(net, x, lambda out: out.sum(dim=1), rule)
    assert torch.equal(*(image_gradients(each, x, lambda out: out.sum(dim=1), "gradient") for each in (net, plain)))


@pytest.mark.parametrize("spelling", ["module", "function", "ours"])
def test_normalisation_is_passed_over_however_it_is_spelled(spelling: str) -> None:
    class Function(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.local_response_norm(x, 3)

    layer = {"module": nn.LocalResponseNorm(3), "function": Function(), "ours": LocalResponseNorm(3)}[spelling]
    x = torch.randn(2, 5, 4, 4, requires_grad=True)
    expected = layer(x)
    with normalisation_passed_over(layer):
        out = layer(x)
        torch.testing.assert_close(out, expected, rtol=0, atol=0)
        assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.ones_like(x))
    assert not torch.allclose(torch.autograd.grad(layer(x).sum(), x)[0], torch.ones_like(x))
