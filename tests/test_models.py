"""The contract of every network: exact counts, frozen names, and learning at every size it is made for."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made import create_model
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cnntrain.models import DENSE, GRIDS, MODELS, TEXT
from cnntrain.nn.calibration import calibrates
from cnntrain.nn.geometry import StageGeometry, geometry
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import StageError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "state_dicts.json").read_text())
GRAY, CIFAR, TINY, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 224, 224)
DIGITS = ("softmax", "mlp", "lenet5", "lenet5_1998", "convnet", "locally_connected", "maxout")
LARGE = ("alexnet", "zfnet", "vgg", "googlenet", "mobilenet", "resnet18", "resnet34", "resnet50", "resnet101")
OWN = [  # tests/test_external.py and tests/test_segmentation.py have the others
    name for name in MODELS if name not in ("torchvision", "timm", *DENSE, *GRIDS, *TEXT)
]
DEEPER = {"preact_resnet1001", "resnet101", "resnet152", "resnet110", "lm_resnet110"}  # the same blocks, more of them
EACH = [pytest.param(name, marks=pytest.mark.slow if name in DEEPER else ()) for name in OWN]


def canonical(name: str) -> tuple[Shape, int]:
    """The images and classes of the network's paper."""
    if name.startswith(LARGE) or name == "resnet152":
        return IMAGENET, 1000
    if name == "caltech_convnet":
        return (3, 83, 83), 101
    return (GRAY if name in DIGITS else CIFAR), 10


def rows(name: str, shape: Shape, classes: int, **options: object) -> list[StageGeometry]:
    return geometry(create_model(name, shape, classes, device="meta", **options), shape)


@pytest.mark.parametrize(
    ("name", "shape", "options", "params", "macs"),
    [
        ("softmax", GRAY, {}, 7_850, 7_840),
        ("mlp", GRAY, {}, 266_610, 266_200),
        ("lenet5", GRAY, {}, 61_706, 416_520),
        ("lenet5_1998", GRAY, {}, 60_000, 326_520),
        ("resnet20", CIFAR, {}, 269_722, 40_551_040),
        ("resnet32", CIFAR, {}, 464_154, 68_862_592),
        ("resnet44", CIFAR, {}, 658_586, 97_174_144),
        ("resnet56", CIFAR, {}, 853_018, 125_485_696),
        ("resnet110", CIFAR, {}, 1_727_962, 252_887_680),
        ("resnet20", CIFAR, {"shortcut": "B"}, 272_474, 40_813_184),
        ("resnet32", CIFAR, {"shortcut": "B"}, 466_906, 69_124_736),
        ("resnet44", CIFAR, {"shortcut": "B"}, 661_338, 97_436_288),
        ("resnet56", CIFAR, {"shortcut": "B"}, 855_770, 125_747_840),
        ("resnet110", CIFAR, {"shortcut": "B"}, 1_730_714, 253_149_824),
        ("lm_resnet20", CIFAR, {}, 269_722 + 9, 40_551_040),
        ("lm_resnet110", CIFAR, {}, 1_727_962 + 54, 252_887_680),
        ("preact_resnet164", CIFAR, {}, 1_703_258, 247_646_720),
        ("preact_resnet1001", CIFAR, {}, 10_327_706, 1_490_995_712),
        ("wrn_28_10", CIFAR, {}, 36_479_194, 5_243_328_768),
        ("wrn_16_8", CIFAR, {}, 10_961_370, 1_548_145_664),
        ("wrn_40_4", CIFAR, {}, 8_949_210, 1_298_582_016),
        ("airbench", CIFAR, {}, 1_972_792, 118_147_360),
        ("nin", CIFAR, {}, 966_986, 222_486_528),
        ("nin", IMAGENET, {}, 7_595_176, 1_100_188_800),
        ("all_cnn", CIFAR, {}, 1_369_738, 270_798_336),
        ("alexnet", (3, 227, 227), {}, 60_965_224, 724_406_816),
        ("alexnet", IMAGENET, {}, 60_965_224, 724_406_816),
        ("alexnet_dense", (3, 227, 227), {}, 62_378_344, 1_135_256_096),
        ("zfnet", IMAGENET, {}, 62_357_608, 1_168_032_896),
        ("zfnet", IMAGENET, {"widths": [96, 256, 512, 1024, 512]}, 107_627_624, 2_476_704_896),
        ("vgg11", IMAGENET, {}, 132_863_336, 7_609_090_048),
        ("vgg13", IMAGENET, {}, 133_047_848, 11_308_466_176),
        ("vgg16", IMAGENET, {}, 138_357_544, 15_470_264_320),
        ("vgg19", IMAGENET, {}, 143_667_240, 19_632_062_464),
        ("vgg11", IMAGENET, {"batch_norm": True}, 132_868_840, 7_609_090_048),
        ("vgg13", IMAGENET, {"batch_norm": True}, 133_053_736, 11_308_466_176),
        ("vgg16", IMAGENET, {"batch_norm": True}, 138_365_992, 15_470_264_320),
        ("vgg19", IMAGENET, {"batch_norm": True}, 143_678_248, 19_632_062_464),
        ("googlenet", IMAGENET, {}, 6_998_552, 1_582_671_872),
        (
            "googlenet",
            IMAGENET,
            {"stem": "separable"},
            6_998_552 - 9_408 + 2_712,
            1_582_671_872 - 118_013_952 + 34_019_328,
        ),
        ("googlenet", IMAGENET, {"module": "naive"}, 97_526_008, 12_568_061_056),
        ("mobilenet_v1", IMAGENET, {}, 4_231_976, 568_740_352),
        ("resnet18", IMAGENET, {}, 11_689_512, 1_814_073_344),
        ("resnet34", IMAGENET, {}, 21_797_672, 3_663_761_408),
        ("resnet50", IMAGENET, {}, 25_557_032, 3_857_973_248),
        ("resnet101", IMAGENET, {}, 44_549_160, 7_570_194_432),
        ("resnet152", IMAGENET, {}, 60_192_808, 11_282_415_616),
        ("resnet50", IMAGENET, {"stride": "3x3"}, 25_557_032, 4_089_184_256),
        ("resnet101", IMAGENET, {"stride": "3x3"}, 44_549_160, 7_801_405_440),
        ("resnet152", IMAGENET, {"stride": "3x3"}, 60_192_808, 11_513_626_624),
    ],
)
def test_parameters_and_multiplications_are_those_of_the_papers(
    name: str, shape: Shape, options: dict[str, object], params: int, macs: int
) -> None:
    table = rows(name, shape, 10 if shape in (GRAY, CIFAR) else 1000, **options)
    assert (sum(row.params for row in table), sum(row.macs for row in table)) == (params, macs)


@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "lenet5",
        "convnet",
        "resnet56",
        "vgg11",
        "nin",
        "mobilenet_v1",
        "preact_resnet164",
        "wrn_40_4",
        "filter_bank",
        "hog",
        "bow",
        "kmeans",
    ],
)
def test_multiplications_equal_half_of_torchs_flops(name: str) -> None:
    shape, classes = canonical(name)
    check_flops(create_model(name, shape, classes, device="meta"), shape)


@pytest.mark.parametrize("convolution", ["spatially_separable", "maxout", "transposed"])
def test_multiplications_of_other_convolutions_equal_half_of_torchs_flops(convolution: str) -> None:
    check_flops(create_model("convnet", GRAY, 10, convolution=convolution, pool="overlapping", device="meta"), GRAY)


def check_flops(net: nn.Sequential, shape: Shape) -> None:
    x = torch.empty(1, *shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        net.eval()(x)
    assert sum(row.macs for row in geometry(net, shape)) * 2 == counter.get_total_flops()


DOCUMENTED = re.findall(
    r"^\| `(\w+)` \|.*\| (\d+)×(\d+), (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,.]+) M \|",
    (Path(__file__).parents[1] / "docs" / "models.md").read_text(),
    re.MULTILINE,
)


def test_the_table_of_the_documentation_has_every_network() -> None:
    assert [row[0] for row in DOCUMENTED] == OWN


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row[0], marks=pytest.mark.slow if row[0] in DEEPER else ()) for row in DOCUMENTED]
)
def test_the_table_of_the_documentation_holds_the_exact_counts(row: tuple[str, ...]) -> None:
    name, *numbers = row
    height, width, classes, params, macs, params32 = (int(number.replace(",", "")) for number in numbers[:-1])
    shape = (GRAY[0] if name in DIGITS else 3, height, width)
    table, small = rows(name, shape, classes), rows(name, CIFAR, 10)
    assert (sum(row.params for row in table), sum(row.macs for row in table)) == (params, macs)
    millions = f"{sum(row.macs for row in small) / 1e6:,.1f}"
    assert (sum(row.params for row in small), millions) == (params32, numbers[-1])


def summary(net: nn.Module) -> dict[str, object]:
    """A network's stages (of long ones the number, the first and the last) and a digest of its state dict."""
    tensors = [f"{key} {list(tensor.shape)}" for key, tensor in net.state_dict().items()]
    digest = hashlib.sha256("\n".join(tensors).encode()).hexdigest()[:16]
    stages = [name for name, _ in net.named_children()]
    named: object = stages if len(stages) <= 60 else [len(stages), stages[0], stages[-1]]
    return {"stages": named, "tensors": len(tensors), "digest": digest}


@pytest.mark.parametrize("name", OWN)
def test_names_and_shapes_of_the_state_dict_are_frozen(name: str) -> None:
    shape, classes = canonical(name)
    net = create_model(name, shape, classes, device="meta")
    assert GOLDEN.get(name) == summary(net), f"tests/golden/state_dicts.json: {json.dumps({name: summary(net)})}"
    if len(net) <= 60:  # the table counts what the network holds
        assert sum(p.numel() for p in net.parameters()) == sum(row.params for row in geometry(net, shape))


def small(name: str) -> Shape:
    """The smallest images on which the network still has all its layers."""
    if name in DIGITS:
        return GRAY
    return (3, 16, 16) if "resnet" in name or name.startswith("wrn") else CIFAR


@pytest.mark.parametrize("name", EACH)
def test_every_network_learns_from_a_batch_and_takes_a_single_image(name: str) -> None:
    shape = small(name)
    net = create_model(name, shape, 10, **({"hidden": 64} if name.startswith(("alexnet", "zfnet", "vgg")) else {}))
    torch.manual_seed(0)
    x, y = torch.randn(3, *shape), torch.arange(3)
    F.cross_entropy(net(x), y).backward()
    made = {p for layer in net.modules() if calibrates(layer) for p in layer.parameters(recurse=False)}
    for path, p in net.named_parameters():
        assert p.requires_grad or p in made or name == "airbench", path
        if not p.requires_grad:
            continue
        assert p.grad is not None and p.grad.isfinite().all(), path
        # ReLU may close NIN's scores; LM-ResNet's first block has one state twice, so that its step changes nothing.
        assert p.grad.any() or name == "nin" or path == "block1_1.step", path
    out = net.eval()(x[:1])
    assert out.shape == (1, 10) and out.isfinite().all()


@pytest.mark.parametrize("name", EACH)
def test_every_network_builds_and_trains_at_every_size_or_says_why_not(name: str, trains: Callable[..., bool]) -> None:
    for shape in (CIFAR,) if name == "preact_resnet1001" else (GRAY, CIFAR, TINY, (3, 83, 83), IMAGENET):
        try:
            net = create_model(name, shape, 10, device="meta")
        except StageError as error:
            assert name.startswith("vgg") and shape == GRAY and "32 pixels" in str(error)
            continue
        assert trains(net, shape), shape


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"preactivation": True}),
        ("resnet50", {"preactivation": True}),
        ("resnet20", {"preactivation": True}),
        ("resnet20", {"preactivation": True, "shortcut": "B"}),
        ("vgg11", {"batch_norm": True, "hidden": 64}),
        ("nin", {"classifier": "dense"}),
        ("nin", {"classifier": "dense_dropout"}),
        ("googlenet", {"stem": "separable"}),
        ("alexnet", {"order": "pool_norm", "widths": [8, 16, 16, 16, 8], "hidden": 32}),
        ("locally_connected", {"shared": True}),
        ("maxout", {"rotated": True}),
        ("wrn_16_8", {"dropout": 0.3}),
        ("airbench", {"norm_scale": True, "activation": "relu", "widths": [8, 16, 16], "whiten_bias": False}),
    ],
)
def test_options_build_networks_that_learn(name: str, options: dict[str, object]) -> None:
    shape = (3, 16, 16) if "res" in name or name.startswith("wrn") else CIFAR
    plain, net = create_model(name, shape, 10, device="meta"), create_model(name, shape, 10, **options)
    net(torch.randn(2, *shape)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    assert str(net) != str(plain)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("alexnet", {"widths": [96, 256]}, "model.widths .*5"),
        ("alexnet", {"groups": 3}, "3 groups"),
        ("convnet", {"kernel": 4}, "even window"),
        ("convnet", {"convolution": "maxout", "groups": 2}, "model.convolution=maxout"),
        ("maxout", {"rotated": True, "pieces": 3}, "four directions"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(StageError, match=message):
        create_model(name, CIFAR, 10, device="meta", **options)


def test_a_plain_network_is_the_residual_one_without_its_shortcuts() -> None:
    residual, plain = (create_model("resnet20", CIFAR, 10, shortcut=kind).eval() for kind in ("A", "none"))
    sizes = [sorted(tuple(p.shape) for p in net.parameters()) for net in (residual, plain)]
    assert sizes[0] == sizes[1]
    x = torch.randn(2, 16, 8, 8)
    block, bare = residual.block1_2, plain.block1_2
    bare.main.load_state_dict(block.main.state_dict())
    assert torch.equal(F.relu(block.main(x) + x), block(x)) and torch.equal(F.relu(block.main(x)), bare(x))
