"""Every network: exact counts, frozen names, and what the papers' layers compute."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cnntrain.analysis.geometry import StageGeometry, geometry
from cnntrain.models import MODELS
from cnntrain.models.lenet import BITMAPS, CONV3_TABLE, PartialConv2d, RadialBasis, Subsample
from cnntrain.models.stages import Shape

GOLDEN = Path(__file__).parent / "golden" / "state_dicts.json"
GRAY, COLOUR = (1, 28, 28), (3, 32, 32)


def in_shape(name: str) -> Shape:
    return COLOUR if name.startswith("resnet") else GRAY


def rows(name: str, **options: object) -> list[StageGeometry]:
    return geometry(MODELS[name](in_shape(name), 10, device="meta", **options), in_shape(name))


@pytest.mark.parametrize(
    ("name", "options", "params", "macs"),
    [
        ("softmax", {}, 7_850, 7_840),
        ("mlp", {}, 266_610, 266_200),
        ("lenet5", {}, 61_706, 416_520),
        ("lenet5_1998", {}, 60_000, 326_520),
        ("resnet20", {}, 269_722, 40_551_040),
        ("resnet32", {}, 464_154, 68_862_592),
        ("resnet44", {}, 658_586, 97_174_144),
        ("resnet56", {}, 853_018, 125_485_696),
        ("resnet110", {}, 1_727_962, 252_887_680),
        ("resnet20", {"shortcut": "B"}, 272_474, 40_813_184),
        ("resnet32", {"shortcut": "B"}, 466_906, 69_124_736),
        ("resnet44", {"shortcut": "B"}, 661_338, 97_436_288),
        ("resnet56", {"shortcut": "B"}, 855_770, 125_747_840),
        ("resnet110", {"shortcut": "B"}, 1_730_714, 253_149_824),
    ],
)
def test_parameters_and_multiplications_are_those_of_the_papers(
    name: str, options: dict[str, object], params: int, macs: int
) -> None:
    table = rows(name, **options)
    assert sum(row.params for row in table) == params
    assert sum(row.macs for row in table) == macs
    net = MODELS[name](in_shape(name), 10, **options)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == params


def test_the_faithful_lenet_has_the_papers_340908_connections() -> None:
    table = {row.name: row for row in rows("lenet5_1998")}
    expected = {"conv1": 122_304, "pool2": 5_880, "conv3": 151_600, "pool4": 2_000, "conv5": 48_120, "fc6": 10_164}
    assert {name: row.connections for name, row in table.items()} == expected | {"rbf": 840}
    assert sum(row.connections for row in table.values()) == 340_908
    sizes = {"conv1": 156, "pool2": 12, "conv3": 1_516, "pool4": 32, "conv5": 48_120, "fc6": 10_164, "rbf": 0}
    assert {name: row.params for name, row in table.items()} == sizes


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet20", "resnet56"])
def test_multiplications_equal_half_of_torchs_flops(name: str) -> None:
    net, x = MODELS[name](in_shape(name), 10, device="meta"), torch.empty(1, *in_shape(name), device="meta")
    with FlopCounterMode(display=False) as counter:
        net.eval()(x)
    assert sum(row.macs for row in rows(name)) * 2 == counter.get_total_flops()


@pytest.mark.parametrize("name", list(MODELS))
def test_names_and_shapes_of_the_state_dict_are_frozen(name: str) -> None:
    net = MODELS[name](in_shape(name), 10, device="meta")
    found = {key: list(tensor.shape) for key, tensor in net.state_dict().items()}
    assert found == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_network_learns_from_a_batch_and_takes_a_single_image(name: str) -> None:
    net = MODELS[name](in_shape(name), 10)
    x, y = torch.randn(4, *in_shape(name)), torch.arange(4)
    F.cross_entropy(net(x), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.eval()(x[:1]).shape == (1, 10)


def test_lenets_receptive_fields() -> None:
    fields = [(row.receptive_field, row.stride) for row in rows("lenet5_1998")]
    sizes = [(5, 1), (6, 2), (14, 2), (16, 4), (32, 4)]
    assert fields[:5] == [((size, size), (stride, stride)) for size, stride in sizes]
    assert fields[5] == ((32, 32), (None, None))


def smooth(net: nn.Module) -> nn.Module:
    """Replace what can hide a gradient: batch norm and activations by the identity, max by the sum, weights by one."""
    for name, child in list(net.named_children()):
        if isinstance(child, nn.ReLU | nn.Tanh | nn.BatchNorm2d):
            setattr(net, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d):
            setattr(net, name, nn.AvgPool2d(child.kernel_size, child.stride))
        else:
            smooth(child)
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    return net.double()


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("lenet5", {}, (1, 40, 52)),
        ("lenet5", {"remove": ["pool1"]}, (1, 40, 44)),
        ("lenet5", {"pool": "none"}, (1, 60, 60)),
        ("resnet20", {}, (3, 88, 104)),
        ("resnet20", {"shortcut": "B", "remove": ["block2_1"]}, (3, 72, 72)),
        ("resnet20", {"remove": ["conv1", "block1_2", "block3_3"]}, (3, 64, 64)),
    ],
)
def test_receptive_fields_are_the_support_of_an_input_gradient(
    name: str, options: dict[str, object], shape: Shape
) -> None:
    net = smooth(MODELS[name](shape, 10, max_stage_params=10**9, **options))
    table = geometry(MODELS[name](shape, 10, device="meta", **options), shape)
    for index, row in enumerate(table):
        if len(row.out_shape) != 3:
            break
        x = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
        out = net[: index + 1](x)
        middle = [size // 2 for size in row.out_shape[1:]]
        out[0, :, middle[0], middle[1]].sum().backward()
        assert x.grad is not None
        support = x.grad[0].abs().sum(0)
        for axis, size in enumerate(shape[1:]):
            seen = support.sum(1 - axis).nonzero()
            first, last = int(seen.min()), int(seen.max())
            inside = first > 0 and last < size - 1
            assert last - first + 1 == row.receptive_field[axis] if inside else row.receptive_field[axis] >= size / 2, (
                row
            )


def test_conv3s_table_is_table_1_of_the_paper() -> None:
    assert [len(reads) for reads in CONV3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert [set(CONV3_TABLE[i]) for i in (5, 11, 12, 13, 14)] == [
        *({5, 0, 1}, {5, 0, 1, 2}, {0, 1, 3, 4}, {1, 2, 4, 5}, {0, 2, 3, 5}),
    ]
    reads = [sum(i in row for row in CONV3_TABLE) for i in range(6)]
    assert reads == [10] * 6  # sixty connections, spread evenly


def test_a_partial_convolution_sums_only_the_maps_of_its_table() -> None:
    layer, x = PartialConv2d(((0, 2), (1,)), 3, 3), torch.randn(2, 3, 6, 6)
    layer.reset_parameters()
    first = F.conv2d(x[:, [0, 2]], layer.weight[:2].unsqueeze(0), layer.bias[:1])
    second = F.conv2d(x[:, [1]], layer.weight[2:].unsqueeze(0), layer.bias[1:])
    torch.testing.assert_close(layer(x), torch.cat([first, second], dim=1))


def test_subsampling_adds_four_inputs_times_a_coefficient_plus_a_bias() -> None:
    layer, x = Subsample(2), torch.randn(1, 2, 4, 4)
    layer.reset_parameters()
    window = x[0, 1, 2:4, 0:2].sum() * layer.weight[1] + layer.bias[1]
    torch.testing.assert_close(layer(x)[0, 1, 1, 0], window)


def test_an_output_unit_is_minus_the_squared_distance_to_a_bitmap() -> None:
    layer = RadialBasis(10, 84)
    layer.reset_parameters()
    assert layer.codes.shape == (10, 84) and set(layer.codes.unique().tolist()) == {-1.0, 1.0}
    assert len({tuple(code.tolist()) for code in layer.codes}) == len(BITMAPS) == 10
    out = layer(layer.codes)
    assert torch.equal(out.argmax(dim=1), torch.arange(10)) and out.diag().abs().max() == 0
    assert out[0, 1] == -4 * (layer.codes[0] != layer.codes[1]).sum()


def test_the_faithful_lenet_pads_28_to_32_with_the_border() -> None:
    small = MODELS["lenet5_1998"](GRAY, 10).eval()
    large = MODELS["lenet5_1998"]((1, 32, 32), 10).eval()
    large.load_state_dict(small.state_dict())
    x = torch.randn(2, *GRAY)
    torch.testing.assert_close(small(x), large(F.pad(x, (2, 2, 2, 2), mode="replicate")))


def test_scaled_tanh_maps_one_to_one() -> None:
    from cnntrain.models.blocks import ScaledTanh

    assert math.isclose(float(ScaledTanh()(torch.tensor(1.0))), 1.0, abs_tol=1e-4)


def test_shortcut_a_is_the_identity_on_every_second_position_with_zero_channels() -> None:
    net = MODELS["resnet20"](COLOUR, 10)
    skip = net.get_submodule("block2_1.skip")
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(skip(x)[:, :16], x[:, :, ::2, ::2])
    assert not skip(x)[:, 16:].any() and skip(x).shape == (2, 32, 4, 4)
