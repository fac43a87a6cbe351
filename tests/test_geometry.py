"""The table of a network's stages: receptive fields against gradients, costs against counters, refusals."""

import math

import pytest
import torch
from made import create_model
from torch import nn

from cnntrain.models.googlenet import inception
from cnntrain.nn.antialias import antialiased
from cnntrain.nn.blocks import conv, fractional_pool, global_average, linear, pooling, stochastic_pool, unpooled
from cnntrain.nn.composite import Add, Concat
from cnntrain.nn.convolutions import locally_connected, spatially_separable, transposed_conv
from cnntrain.nn.geometry import StageGeometry, geometry, outline
from cnntrain.nn.layers import BlurPool2d, LocalContrastNorm, LocalResponseNorm, Maxout, StochasticPool2d
from cnntrain.nn.measures import Cost, Windows, sliding, units_cost
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble

META = BuildOptions(device="meta")


def rows(name: str, shape: Shape, classes: int = 10, **options: object) -> list[StageGeometry]:
    return geometry(create_model(name, shape, classes, device="meta", **options), shape)


def test_the_faithful_lenet_has_the_papers_340908_connections() -> None:
    table = {row.name: row for row in rows("lenet5_1998", (1, 28, 28))}
    expected = {"conv1": 122_304, "pool2": 5_880, "conv3": 151_600, "pool4": 2_000, "conv5": 48_120, "fc6": 10_164}
    assert {name: row.connections for name, row in table.items()} == expected | {"rbf": 840}
    assert sum(row.connections for row in table.values()) == 340_908
    sizes = {"conv1": 156, "pool2": 12, "conv3": 1_516, "pool4": 32, "conv5": 48_120, "fc6": 10_164, "rbf": 0}
    assert {name: row.params for name, row in table.items()} == sizes


def test_lenets_receptive_fields() -> None:
    fields = [(row.receptive_field, row.stride) for row in rows("lenet5_1998", (1, 28, 28))]
    sizes = [(5, 1), (6, 2), (14, 2), (16, 4), (32, 4)]
    assert fields[:5] == [((size, size), (stride, stride)) for size, stride in sizes]
    assert fields[5] == ((32, 32), (None, None))


def test_alexnets_stages_are_those_of_the_paper() -> None:
    table = {row.name: row for row in rows("alexnet", (3, 227, 227), 1000)}
    maps = {name: row.out_shape for name, row in table.items() if name.startswith(("conv", "pool"))}
    assert maps == {
        "conv1": (96, 55, 55),
        "pool1": (96, 27, 27),
        "conv2": (256, 27, 27),
        "pool2": (256, 13, 13),
        "conv3": (384, 13, 13),
        "conv4": (384, 13, 13),
        "conv5": (256, 13, 13),
        "pool5": (256, 6, 6),
    }
    macs = [row.macs for name, row in table.items() if name.startswith("conv")]
    assert macs == [105_415_200, 223_948_800, 149_520_384, 112_140_288, 74_760_192]
    params = [row.params for row in table.values() if row.params]
    assert params == [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]
    assert (table["pool5"].receptive_field[0], table["fc6"].receptive_field[0]) == (195, 355)
    dense = sum(table[name].params for name in ("fc6", "fc7", "fc8"))
    assert round(100 * dense / 60_965_224, 1) == 96.2


def test_known_sizes_and_fields_of_other_papers() -> None:
    vgg = {row.name: row for row in rows("vgg16", (3, 224, 224), 1000)}
    assert (vgg["pool5"].receptive_field[0], vgg["pool5"].out_shape) == (212, (512, 7, 7))
    assert sum(row.params for name, row in vgg.items() if name.startswith("conv")) == 14_714_688
    zfnet = [row.params for row in rows("zfnet", (3, 224, 224), 1000) if row.params]
    assert zfnet == [14_208, 614_656, 885_120, 1_327_488, 884_992, 37_752_832, 16_781_312, 4_097_000]
    modules = [r.out_shape[0] for r in rows("googlenet", (3, 224, 224), 1000) if r.name.startswith("inception")]
    assert modules == [256, 480, 512, 512, 512, 528, 832, 832, 1024]
    nin = {row.name: row.out_shape for row in rows("nin", (3, 32, 32))}
    assert [nin[name] for name in ("cccp2", "pool1", "pool2")] == [(96, 32, 32), (96, 16, 16), (192, 8, 8)]
    caltech = {row.name: row.out_shape for row in rows("caltech_convnet", (3, 83, 83), 101)}
    assert [caltech[name] for name in ("conv1", "pool1", "conv2", "pool2")] == [
        *((64, 75, 75), (64, 14, 14), (256, 6, 6), (256, 1, 1)),
    ]


def test_the_lectures_inception_modules() -> None:
    shape = (256, 28, 28)
    lean = assemble({"module": inception(128, 64, 192, 64, 96, 64)}, shape, out_shape=(480, 28, 28), build=META)
    assert geometry(lean, shape)[0].macs == 271_351_808
    options = {"module": "naive", "remove": ["inception_3a"], "widen": {"conv2": 4 / 3}}  # 256 maps reach 3b
    naive = {row.name: row for row in rows("googlenet", (3, 224, 224), 1000, **options)}["inception_3b"]
    assert (naive.out_shape, naive.macs) == ((672, 28, 28), 854_196_224)


def smooth(net: nn.Module) -> nn.Module:
    """Replace what can hide a gradient: norms and activations by the identity, max by the sum, weights by one."""
    hiding = (nn.ReLU, nn.Tanh, nn.BatchNorm2d, LocalResponseNorm, nn.Dropout)
    for name, child in list(net.named_children()):
        if isinstance(child, hiding):
            setattr(net, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d):
            pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, ceil_mode=child.ceil_mode)
            setattr(net, name, pool)
        elif isinstance(child, StochasticPool2d):
            setattr(net, name, nn.AvgPool2d(child.kernel_size, child.stride))
        elif isinstance(child, Maxout):
            setattr(net, name, nn.Sequential(nn.Unflatten(1, (-1, child.pieces)), Sum()))
        else:
            smooth(child)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.5)
    return net.double().eval()


class Sum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(2)


def check_fields(net: nn.Sequential, table: list[StageGeometry], shape: Shape, every: int = 1) -> int:
    """Compare receptive fields with the support of an input gradient; return how many were compared."""
    compared = 0
    for index, row in list(enumerate(table))[::every]:
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
            found = row.receptive_field[axis]
            assert last - first + 1 == found if inside else found >= size / 2, row
            compared += inside
    return compared


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("lenet5", {}, (1, 40, 52)),
        ("lenet5", {"remove": ["pool1"]}, (1, 40, 44)),
        ("lenet5", {"pool": "none"}, (1, 60, 60)),
        ("resnet20", {}, (3, 88, 104)),
        ("resnet20", {"shortcut": "B", "remove": ["block2_1"]}, (3, 72, 72)),
        ("resnet20", {"remove": ["conv1", "block1_2", "block3_3"]}, (3, 64, 64)),
        ("resnet20", {"preactivation": True}, (3, 72, 88)),
        ("lm_resnet20", {}, (3, 72, 72)),
        ("alexnet", {"widths": [2, 4, 4, 4, 2], "hidden": 4}, (3, 195, 227)),
        ("zfnet", {"widths": [2, 4, 4, 4, 2], "hidden": 4}, (3, 192, 192)),
        ("nin", {}, (3, 40, 44)),
        ("all_cnn", {}, (3, 36, 44)),
        ("convnet", {"dilation": 2, "pool": "overlapping", "norm": "batch_last"}, (1, 36, 44)),
        ("convnet", {"convolution": "depthwise_separable", "pool": "stochastic"}, (1, 36, 44)),
        ("convnet", {"convolution": "spatially_separable", "pool": "avg", "kernel": 5}, (1, 44, 44)),
        ("convnet", {"convolution": "rotated_maxout", "pool": "max", "norm": "local_response"}, (1, 36, 44)),
        ("convnet", {"pool": "stride"}, (1, 36, 44)),
        ("convnet", {"convolution": "transposed", "kernel": 5, "pool": "avg"}, (1, 44, 44)),
        ("locally_connected", {}, (1, 28, 36)),
        ("maxout", {}, (1, 60, 60)),
    ],
)
def test_receptive_fields_are_the_support_of_an_input_gradient(
    name: str, options: dict[str, object], shape: Shape
) -> None:
    net = smooth(create_model(name, shape, 10, **options))
    assert check_fields(net, rows(name, shape, **options), shape) > 2


def test_receptive_fields_through_inception_modules_and_bottlenecks() -> None:
    shape = (2, 40, 48)
    net = assemble(
        {
            "conv1": conv(3, 3, stride=2, padding=1),
            "inception": inception(2, 2, 3, 2, 2, 2),
            "pool1": pooling("max", 3, 2, ceil=True),
            "local": locally_connected(2, 3),
            "separable": spatially_separable(2, 3),
            "stochastic": stochastic_pool(2),
        },
        shape,
        out_shape=(2, 4, 5),
    )
    table = geometry(net, shape)
    assert [row.receptive_field[0] for row in table[:3]] == [3, 11, 15]
    assert check_fields(smooth(net), table, shape) > 6  # type: ignore[arg-type]


def test_the_normalised_contrast_of_a_position_sees_twice_the_radius() -> None:
    net = nn.Sequential(LocalContrastNorm(5)).double()
    x = torch.randn(1, 2, 21, 21, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0, 10, 10].backward()
    seen = x.grad.abs().sum((0, 1, 2)).nonzero()  # type: ignore[union-attr]
    assert int(seen.max() - seen.min()) + 1 == geometry(net, (2, 21, 21))[0].receptive_field[0] == 9


class Gain(nn.Module):
    """Every second position, times a weight a map."""

    def __init__(self, channels: int, stride: int = 2) -> None:
        super().__init__()
        self.stride, self.weight = stride, nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, :: self.stride, :: self.stride] * self.weight[:, None, None]

    def windows(self) -> Windows:
        return sliding(1, self.stride)

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return units_cost(out_shape, 1, bias=False)

    def antialiased(self) -> list[nn.Module]:
        return [BlurPool2d(self.stride), Gain(len(self.weight), 1)]


def test_a_layer_of_ones_own_says_what_it_reads_and_costs_and_how_it_is_blurred() -> None:
    row = geometry(nn.Sequential(Gain(3)), (3, 8, 8))[0]
    assert (row.out_shape, row.receptive_field, row.stride) == ((3, 4, 4), (1, 1), (2, 2))
    assert (row.params, row.macs, row.connections, row.activations) == (3, 48, 48, 48)
    blurred = geometry(nn.Sequential(antialiased(Gain(3))), (3, 8, 8))[0]
    assert (blurred.out_shape, blurred.receptive_field, blurred.stride) == ((3, 4, 4), (3, 3), (2, 2))


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "googlenet", "mobilenet_v1", "alexnet", "preact_resnet164"])
def test_activations_are_what_leaves_the_layers(name: str) -> None:
    shape: Shape = (3, 32, 32)
    net, counted = create_model(name, shape, 10, device="meta"), []

    def count(module: nn.Module, inputs: object, out: torch.Tensor) -> None:
        leaf = not list(module.children()) and not isinstance(module, nn.Identity | nn.Flatten)
        if leaf or isinstance(module, Add | Concat):  # the sum of an Add has the shape that leaves it
            counted.append(math.prod(out.shape))

    for module in net.modules():
        module.register_forward_hook(count)
    net.eval()(torch.empty(1, *shape, device="meta"))
    assert sum(row.activations for row in rows(name, shape)) == sum(counted)


@pytest.mark.parametrize(
    ("maker", "places"), [(transposed_conv(2, 3, stride=2), 12 * 12), (unpooled(2, conv(2, 3, padding=1)), 6 * 6)]
)
def test_an_upsampled_map_has_exact_costs_and_no_receptive_field(maker: Maker, places: int) -> None:
    shape = (2, 12, 12)
    makers = {"conv": conv(2, 3, padding=1), "up": maker, "pool": global_average(), "fc": linear(3)}
    net = assemble(makers, shape, out_shape=(3,), build=META)
    table = geometry(net, shape)
    assert table[0].receptive_field == (3, 3)
    assert [(row.receptive_field, row.stride) for row in table[1:]] == [(None, (0, 0))] * 3
    assert table[1].macs == places * 2 * 2 * 9 == outline(net, shape)[1].macs


def test_what_has_no_receptive_field_is_refused() -> None:
    shape = (2, 12, 12)
    net = assemble(
        {"odd": fractional_pool(), "pool": global_average(), "fc": linear(3)}, shape, out_shape=(3,), build=META
    )
    with pytest.raises(TypeError, match="not known"):
        geometry(net, shape)
    with pytest.raises(TypeError, match="differ in size"):
        geometry(nn.Sequential(nn.AdaptiveAvgPool2d(5)), shape)
    even = geometry(nn.Sequential(nn.AdaptiveAvgPool2d((6, 12))), shape)[0]
    assert (even.receptive_field, even.stride) == ((2, 1), (2, 1))
    with pytest.raises(ValueError, match="different strides"):
        geometry(nn.Sequential(Concat(a=nn.MaxPool2d(2), b=nn.Identity())), shape)


def test_what_torch_counts_needs_no_network_on_the_meta_device_and_leaves_it_as_it_is() -> None:
    real, meta = (create_model("lenet5", (1, 28, 28), 10, device=device).train() for device in ("cpu", "meta"))
    before = [parameter.clone() for parameter in real.parameters()]
    counted = outline(real, (1, 28, 28))
    assert counted == outline(meta, (1, 28, 28)) and sum(row.macs for row in counted) > 0
    assert real.training and not any(module._forward_hooks for module in real.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, real.parameters(), strict=True))
