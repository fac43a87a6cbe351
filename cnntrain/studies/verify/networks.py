"""Networks: parameters, multiplications, shapes and receptive fields of every architecture in the lectures."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cnntrain.models import AUXILIARY, MODELS
from cnntrain.models.googlenet import inception, naive_inception
from cnntrain.models.lenet import CONV3_TABLE
from cnntrain.nn.blocks import conv, linear
from cnntrain.nn.convolutions import locally_connected
from cnntrain.nn.geometry import StageGeometry
from cnntrain.nn.stages import BuildOptions
from cnntrain.studies.verify.convolution import noise
from cnntrain.studies.verify.registry import item
from cnntrain.studies.verify.ways import SHAPES_ONLY, macs, network, params, stages, weights_of

ALEXNET = ((11, 3, 96, 1), (5, 96, 256, 2), (3, 256, 384, 1), (3, 384, 384, 2), (3, 384, 256, 2))
SIDES = (55, 27, 13, 13, 13)
FULL = ((9216, 4096), (4096, 4096), (4096, 1000))


def alexnet(**options: Any) -> list[StageGeometry]:
    """Return AlexNet's table at 227 pixels."""
    return network("alexnet", (3, 227, 227), **options)


def by_stage(rows: Sequence[StageGeometry], *names: str) -> list[StageGeometry]:
    """Return the rows of these stages."""
    table = {row.name: row for row in rows}
    return [table[name] for name in names]


# LeNet-5.

C3 = ((3,) * 6, (4,) * 9, (6,))  # inputs of each map of C3 (LeCun et al. 1998, table I)


@item(
    "E15",
    "003:265",
    printed="about 187,000 connections, about 14,000 trainable weights",
    right={"connections": 340908, "parameters": 60000},
    says={"connections": 187000, "parameters": 14000},
    why="The paper's own sentence, which its table contradicts: 340,908 connections (840 of them fixed) and 60,000 "
    "parameters. Without C3 and S4 the connections are 187,308.",
)
def lenet_1998() -> Sequence[Any]:
    """Connections and parameters of LeNet-5 as published."""
    rows = network("lenet5_1998", (1, 32, 32), 10)
    connections = sum(row.connections or 0 for row in rows)
    pairs = sum(itertools.chain(*C3))
    c1, s2, c3, s4 = 784 * 6 * 26, 196 * 6 * 5, 100 * (pairs * 25 + 16), 25 * 16 * 5
    counted = c1 + s2 + c3 + s4 + 120 * (400 + 1) + 84 * 121 + 10 * 84
    trained = 6 * 26 + 6 * 2 + pairs * 25 + 16 + 16 * 2 + 120 * 401 + 84 * 121
    return {"connections": connections, "parameters": params(rows)}, {"connections": counted, "parameters": trained}


@item(
    "A3.1",
    "003:243-258",
    printed="raw image of 32×32; C1, C3, C5 with 5×5; S2, S4 halve; F6",
    right={"sides": [28, 14, 10, 5, 1], "maps": [6, 6, 16, 16, 120], "fields": [5, 6, 14, 16, 32]},
    why="A window of five takes four off; half of 28 and of 10; F6 sees the whole image.",
)
def lenet_shapes() -> Sequence[Any]:
    """Shapes and receptive fields of LeNet-5."""
    rows = network("lenet5_1998", (1, 32, 32), 10)[:5]
    made = {
        "sides": [row.out_shape[1] if len(row.out_shape) == 3 else 1 for row in rows],
        "maps": [row.out_shape[0] for row in rows],
        "fields": [row.receptive_field[0] for row in rows if row.receptive_field],
    }
    sides, field, jump, fields = [32], 1, 1, []
    for kernel, stride in ((5, 1), (2, 2), (5, 1), (2, 2), (5, 1)):
        sides.append((sides[-1] - kernel) // stride + 1)
        field, jump = field + (kernel - 1) * jump, jump * stride
        fields.append(field)
    return made, {"sides": sides[1:], "maps": [6, 6, 16, 16, 120], "fields": fields}


@item(
    "A3.2",
    "003:252-258",
    printed="C3 is a convolutional layer",
    right={"maps with 3, 4, 6 inputs": [6, 9, 1], "connections of maps": 60},
    why="Each map of C3 reads some of the six maps before it, by the paper's table: 60 pairs instead of 96.",
)
def lenet_table() -> Sequence[Any]:
    """The connection table of C3."""
    sizes = [len(inputs) for inputs in CONV3_TABLE]
    made = {"maps with 3, 4, 6 inputs": [sizes.count(n) for n in (3, 4, 6)], "connections of maps": sum(sizes)}
    return made, {"maps with 3, 4, 6 inputs": [len(group) for group in C3], "connections of maps": sum(map(sum, C3))}


@item(
    "A3.3",
    "003:252-258",
    printed="LeNet-5",
    right={"parameters": 61706, "multiplications": 416520},
    why="The usual modern LeNet-5 connects all maps and has no trainable pooling: another network than that of 1998.",
)
def lenet_modern() -> Sequence[Any]:
    """The modern LeNet-5."""
    rows = network("lenet5", (1, 28, 28), 10)
    counted = weights_of((5, 1, 6, 1), (5, 6, 16, 1), dense=[(400, 120), (120, 84), (84, 10)])
    work = 784 * 25 * 6 + 100 * 150 * 16 + 48000 + 10080 + 840
    return {"parameters": params(rows), "multiplications": macs(rows)}, {"parameters": counted, "multiplications": work}


@item(
    "E16",
    "003:261",
    printed="all units up to F6 have a sigmoidal activation",
    right={"at 1": 1.0, "at -1": -1.0, "logistic": False},
    says={"at 1": 0.7311, "at -1": 0.2689, "logistic": True},
    why="Sigmoidal means s-shaped: it is 1.7159 tanh(2x / 3), which maps ±1 to ±1, not the logistic function.",
)
def lenet_activation() -> Sequence[Any]:
    """The activation of LeNet-5 at one and minus one."""
    net = MODELS["lenet5_1998"]((1, 32, 32), 10, SHAPES_ONLY)
    kinds = [module for module in net.modules() if type(module).__name__ in ("ScaledTanh", "Sigmoid")]
    act = kinds[0]
    ones = act(torch.tensor([1.0, -1.0], dtype=torch.float64))
    return (
        {"at 1": round(float(ones[0]), 3), "at -1": round(float(ones[1]), 3), "logistic": isinstance(act, nn.Sigmoid)},
    )


@item(
    "E24",
    "004:54",
    printed="64×9×9 = 5184, 256×9×9 = 20736, 256×101 = 60916",
    right={"first": 5184, "second": 331776, "last": 25856},
    says={"first": 5184, "second": 20736, "last": 60916},
    why="256·101 is 25,856. 256·9·9 would hold if each map read one map; the network of the slide has 16 a map: "
    "4,096 kernels of 9×9.",
)
def caltech() -> Sequence[Any]:
    """Weights of the network for Caltech-101, without biases."""
    rows = network("caltech_convnet", (1, 83, 83), 101)
    with_weights = [row.params for row in rows if row.params]
    biases = (64, 256, 101)
    made = dict(
        zip(("first", "second", "last"), (n - b for n, b in zip(with_weights, biases, strict=True)), strict=True)
    )
    return made, {"first": 64 * 81, "second": 4096 * 81, "last": 256 * 101}


# AlexNet.


@item(
    "E10",
    "001:238; 003:288; 003:465; 004:220",
    printed="60M; 60,000,000; 62M",
    right={"two groups": 60965224, "one group": 62378344},
    says={"two groups": 60000000, "one group": 62000000},
    why="60,965,224 with the paper's two groups, 62,378,344 with one; torchvision's “one weird trick” has 61,100,840.",
)
def alexnet_parameters() -> Sequence[Any]:
    """The parameters of AlexNet, with two groups and with one."""
    made = {"two groups": params(alexnet()), "one group": params(network("alexnet_dense", (3, 227, 227)))}
    dense = [(k, c, f, 1) for k, c, f, _ in ALEXNET]
    return made, {"two groups": weights_of(*ALEXNET, dense=FULL), "one group": weights_of(*dense, dense=FULL)}


@item(
    "A3.4",
    "000:484-496; 002:911-938",
    printed="55×55×96, 27×27×256, 13×13×384, 13×13×384, 13×13×256, 6×6×256, 4096, 4096, 1000",
    right=[
        [96, 55, 55],
        [256, 27, 27],
        [384, 13, 13],
        [384, 13, 13],
        [256, 13, 13],
        [256, 6, 6],
        [4096],
        [4096],
        [1000],
    ],
    why="Shape by shape at 227 pixels.",
)
def alexnet_shapes() -> Sequence[Any]:
    """AlexNet's shapes."""
    rows = by_stage(alexnet(), "conv1", "conv2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "fc8")
    return ([list(row.out_shape) for row in rows],)


@item(
    "E7",
    "000:493",
    printed="CONV 11x11/ReLU 256fm, 307K, 223M",
    right={"5×5, two groups": [307200, 223948800], "11×11, two groups": [1486848, 1083912192]},
    says={"5×5, two groups": [1486848, 1083912192], "11×11, two groups": [307200, 223948800]},
    why="307K weights and 223M operations are those of 5×5 windows in two groups, as 002:929 has it.",
)
def alexnet_conv2() -> Sequence[Any]:
    """Weights and multiplications of AlexNet's second convolution, for two sizes of window."""
    (row,) = by_stage(alexnet(), "conv2")
    large = weights_of((11, 96, 256, 2)) - 256
    return (
        {"5×5, two groups": [row.params - 256, row.macs], "11×11, two groups": [large, large * 27 * 27]},
        {
            "5×5, two groups": [25 * 48 * 256, 25 * 48 * 256 * 729],
            "11×11, two groups": [121 * 48 * 256, 121 * 48 * 256 * 729],
        },
    )


@item(
    "E8",
    "000:488-494",
    printed="conv4: 1.3M, 224M, beside the grouped conv2 (307K) and conv5 (442K)",
    right={"grouped": [663552, 112140288], "not grouped": [1327104, 224280576]},
    says={"grouped": [1327104, 224280576], "not grouped": [1327104, 224280576]},
    why="The table mixes grouped and ungrouped layers: it sums to 832M; all grouped are 724.4M, none 1135.3M.",
)
def alexnet_conv4() -> Sequence[Any]:
    """Weights and multiplications of AlexNet's fourth convolution."""
    made = {}
    for key, groups in (("grouped", 2), ("not grouped", 1)):
        (row,) = by_stage(alexnet(groups=groups), "conv4")
        made[key] = [row.params - 384, row.macs]
    return made, {"grouped": [9 * 192 * 384, 9 * 192 * 384 * 169], "not grouped": [9 * 384 * 384, 9 * 384 * 384 * 169]}


@item(
    "E11",
    "004:220; 003:287",
    printed="630M synapses, 650K neurons",
    right={"multiplications, two groups": 724406816, "one group": 1135256096, "neurons": 659272},
    says={"multiplications, two groups": 630000000, "one group": 630000000, "neurons": 650000},
    why="The layers give 724 or 1,135 million multiplications and 659,272 units; 630 million follows from neither.",
)
def alexnet_synapses() -> Sequence[Any]:
    """Multiplications and units of AlexNet."""
    rows = alexnet()
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    neurons = sum(int(torch.tensor(row.out_shape).prod()) for row in by_stage(rows, *names))
    one = macs(network("alexnet_dense", (3, 227, 227)))
    work = [k * k * c // g * f * side**2 for (k, c, f, g), side in zip(ALEXNET, SIDES, strict=True)]
    ungrouped = [k * k * c * f * side**2 for (k, c, f, _), side in zip(ALEXNET, SIDES, strict=True)]
    full = sum(n * f for n, f in FULL)
    units = sum(f * side**2 for (_, _, f, _), side in zip(ALEXNET, SIDES, strict=True)) + 4096 + 4096 + 1000
    return (
        {"multiplications, two groups": macs(rows), "one group": one, "neurons": neurons},
        {"multiplications, two groups": sum(work) + full, "one group": sum(ungrouped) + full, "neurons": units},
    )


@item(
    "E9",
    "003:286; 002:938",
    printed="input 224×224; input 227×227, 11×11, stride 4, pad 0",
    right={"227, no padding": 55, "224, padding 2": 55, "224, no padding": 54},
    says={"227, no padding": 55, "224, padding 2": 55, "224, no padding": 55},
    why="(224 - 11) / 4 + 1 = 54.25: 55 maps need 227 pixels, or 224 with a padding of two.",
)
def alexnet_input() -> Sequence[Any]:
    """The first maps of AlexNet for 224 and 227 pixels."""
    from_227, from_224 = (by_stage(network("alexnet", (3, n, n)), "conv1")[0].out_shape[1] for n in (227, 224))
    formula = {
        "227, no padding": (227 - 11) // 4 + 1,
        "224, padding 2": (224 + 4 - 11) // 4 + 1,
        "224, no padding": (224 - 11) // 4 + 1,
    }
    return {
        "227, no padding": from_227,
        "224, padding 2": from_224,
        "224, no padding": formula["224, no padding"],
    }, formula


@item(
    "E12",
    "002:925-931; 000:491-496",
    printed="pool → norm (002), norm below pool (000)",
    right={"paper": ["norm1", "pool1"], "CaffeNet": ["pool1", "norm1"]},
    says={"paper": ["pool1", "norm1"], "CaffeNet": ["pool1", "norm1"]},
    why="The paper normalises before it pools; lecture 002 shows CaffeNet's order. model.order chooses.",
)
def alexnet_order() -> Sequence[Any]:
    """The order of normalisation and pooling."""

    def order(**options: Any) -> list[str]:
        return [row.name for row in alexnet(**options) if row.name in ("norm1", "pool1")]

    return ({"paper": order(), "CaffeNet": order(order="pool_norm")},)


@item(
    "A3.5",
    "002:915; 003:465",
    printed="8 layers; the fully connected layers hold the majority of the parameters",
    right={"layers with weights": 8, "share of fully connected": 96.2},
    why="58.6 of 61.0 million parameters.",
)
def alexnet_share() -> Sequence[Any]:
    """AlexNet's layers, and the share of its fully connected ones in per cent."""
    rows = alexnet()
    full = params(by_stage(rows, "fc6", "fc7", "fc8"))
    dense = sum(n * f + f for n, f in FULL)
    return (
        {
            "layers with weights": sum(row.params > 0 for row in rows),
            "share of fully connected": round(100 * full / params(rows), 1),
        },
        {
            "layers with weights": len(ALEXNET) + len(FULL),
            "share of fully connected": round(100 * dense / weights_of(*ALEXNET, dense=FULL), 1),
        },
    )


@item(
    "A3.6",
    "002:594-600; 003:212-220",
    printed="the receptive field grows with the depth",
    right={"pool5": 195, "fc6": 355},
    why="A position of AlexNet's last maps sees 195 pixels a side, a unit of fc6 all (355 with what lies beyond).",
)
def alexnet_fields() -> Sequence[Any]:
    """Receptive fields of AlexNet."""
    made = {row.name: row.receptive_field[0] for row in by_stage(alexnet(), "pool5", "fc6") if row.receptive_field}
    field, jump = 1, 1
    for kernel, stride in ((11, 4), (3, 2), (5, 1), (3, 2), (3, 1), (3, 1), (3, 1), (3, 2)):
        field, jump = field + (kernel - 1) * jump, jump * stride
    return made, {"pool5": field, "fc6": field + 5 * jump}


@item(
    "S1",
    "003:435-449",
    printed="remove layer 7: 16 million; 6 and 7: about 50 million parameters",
    right={"fc7": 16781312, "fc6, fc7": 49414144, "conv3, conv4": 1696512, "conv3, conv4, fc6, fc7": 51110656},
    why="Exactly; with fc6 and fc7 removed, fc8 reads 9,216 numbers. `cnntrain ablate study=zeiler_fergus` plans it.",
)
def removed_parameters() -> Sequence[Any]:
    """Parameters that go with AlexNet's layers."""
    whole = params(alexnet())
    sets = (("fc7",), ("fc6", "fc7"), ("conv3", "conv4"), ("conv3", "conv4", "fc6", "fc7"))
    made = {
        ", ".join(names): whole - params(alexnet(build=BuildOptions(remove=list(names), device="meta")))
        for names in sets
    }
    full = weights_of(*ALEXNET, dense=FULL)
    short = (*ALEXNET[:2], (3, 256, 256, 2))
    return made, {
        "fc7": full - weights_of(*ALEXNET, dense=[FULL[0], FULL[2]]),
        "fc6, fc7": full - weights_of(*ALEXNET, dense=[(9216, 1000)]),
        "conv3, conv4": full - weights_of(*short, dense=FULL),
        "conv3, conv4, fc6, fc7": full - weights_of(*short, dense=[(9216, 1000)]),
    }


@item(
    "S27",
    "001:239; 002:907",
    printed="2 GPUs",
    right=True,
    why="Two towers that read half of the maps each are one convolution in two groups.",
)
def two_towers() -> Sequence[Any]:
    """Two towers side by side are groups=2."""
    x, layer = torch.tensor(noise(1, 4, 6, 6)), nn.Conv2d(4, 6, 3, groups=2, bias=False).double()
    towers = [
        nn.functional.conv2d(half, weights) for half, weights in zip(x.chunk(2, 1), layer.weight.chunk(2), strict=True)
    ]
    return (bool(torch.allclose(layer(x), torch.cat(towers, 1))),)


# After AlexNet.


@item(
    "A3.7",
    "002:951-962",
    printed="conv1: 7×7 with stride 2; conv3, 4, 5: 512, 1024, 512",
    right={"published": 62357608, "512, 1024, 512": 107627624},
    why="The wide layers are a variant of the paper's table 3, not its base network.",
)
def zfnet() -> Sequence[Any]:
    """ZFNet's parameters, as published and with the wider layers."""

    def counted(*maps: int) -> int:
        convs = [(7, 3, 96, 1), (5, 96, 256, 1)]
        convs += [(3, a, b, 1) for a, b in itertools.pairwise((256, *maps))]
        return weights_of(*convs, dense=[(36 * maps[-1], 4096), (4096, 4096), (4096, 1000)])

    wide = network("zfnet", widths=(96, 256, 512, 1024, 512))
    return (
        {"published": params(network("zfnet")), "512, 1024, 512": params(wide)},
        {"published": counted(384, 384, 256), "512, 1024, 512": counted(512, 1024, 512)},
    )


def vgg_counted(*blocks: int) -> int:
    """Return VGG's parameters for so many convolutions in each of its five blocks."""
    before, convs = 3, []
    for maps, number in zip((64, 128, 256, 512, 512), blocks, strict=True):
        convs += [(3, before if i == 0 else maps, maps, 1) for i in range(number)]
        before = maps
    return weights_of(*convs, dense=[(25088, 4096), (4096, 4096), (4096, 1000)])


@item(
    "E33",
    "002:970-974; 004:233-235",
    printed="16 to 19 layers, 138M parameters",
    right={"VGG-16": 138357544, "VGG-19": 143667240},
    says={"VGG-16": 138000000, "VGG-19": 138000000},
    why="138M is VGG-16; VGG-19 has 144M.",
)
def vgg() -> Sequence[Any]:
    """The parameters of VGG-16 and VGG-19."""
    made = {f"VGG-{depth}": params(network(f"vgg{depth}")) for depth in (16, 19)}
    return made, {"VGG-16": vgg_counted(2, 2, 3, 3, 3), "VGG-19": vgg_counted(2, 2, 4, 4, 4)}


@item(
    "A3.8",
    "002:970-978",
    printed="only 3×3 convolutions, three fully connected layers",
    right={"kernels": [3], "fully connected": 3, "field of pool5": 212},
    why="One position of the last maps of VGG-16 sees 212 pixels a side.",
)
def vgg_form() -> Sequence[Any]:
    """What VGG-16 is made of."""
    net = MODELS["vgg16"]((3, 224, 224), 1000, SHAPES_ONLY)
    kernels = sorted({module.kernel_size[0] for module in net.modules() if isinstance(module, nn.Conv2d)})
    (pool5,) = by_stage(network("vgg16"), "pool5")
    assert pool5.receptive_field
    field, jump = 1, 1
    for convs in (2, 2, 3, 3, 3):
        field, jump = field + 2 * convs * jump + jump, 2 * jump
    linears = sum(isinstance(module, nn.Linear) for module in net.modules())
    return (
        {"kernels": kernels, "fully connected": linears, "field of pool5": pool5.receptive_field[0]},
        {"kernels": [3], "fully connected": 3, "field of pool5": field},
    )


@item(
    "A3.9",
    "004:472-476; 492-530",
    printed="7×7×512 cells → 4096 cells as a convolution",
    right={"parameters": 102764544, "map at 384": 6},
    why="As many weights either way; at 384 pixels pool5 is 12×12, which a 7×7 window visits at 6×6 places.",
)
def convolutional_fc6() -> Sequence[Any]:
    """VGG-16's first full connection as a convolution."""
    (fc6,) = by_stage(network("vgg16"), "fc6")
    (pool5,) = by_stage(network("vgg16", (3, 384, 384)), "pool5")
    return (
        {"parameters": fc6.params, "map at 384": pool5.out_shape[1] - 7 + 1},
        {"parameters": weights_of((7, 512, 4096, 1)), "map at 384": 384 // 32 - 6},
    )


@item(
    "A3.10",
    "002:1010-1040",
    printed="3 mlpconv layers, 1×1 convolutions, global average pooling, one map a class",
    right={"parameters": 966986, "last maps": 10, "multiplications": 222486528},
    why="The widths are those of the authors' files: the paper gives none.",
)
def nin() -> Sequence[Any]:
    """Network in Network for CIFAR-10."""
    rows = network("nin", (3, 32, 32), 10)
    convs = [
        (5, 3, 192),
        (1, 192, 160),
        (1, 160, 96),
        (5, 96, 192),
        (1, 192, 192),
        (1, 192, 192),
        (3, 192, 192),
        (1, 192, 192),
        (1, 192, 10),
    ]
    counted = weights_of(*[(k, c, f, 1) for k, c, f in convs])
    work = sum(k * k * c * f * side**2 for (k, c, f), side in zip(convs, [32] * 3 + [16] * 3 + [8] * 3, strict=True))
    last = next(row for row in reversed(rows) if len(row.out_shape) == 3)
    return (
        {"parameters": params(rows), "last maps": last.out_shape[0], "multiplications": macs(rows)},
        {"parameters": counted, "last maps": 10, "multiplications": work},
    )


# GoogLeNet.

MODULES = {  # 002:1180-1193: 1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
DEPTHS = (256, 480, 512, 512, 512, 528, 832, 832, 1024)


def module_weights(channels: int, widths: Sequence[int]) -> int:
    """Return the weights of an Inception module without biases."""
    one, reduce3, three, reduce5, five, projected = widths
    return channels * (one + reduce3 + reduce5 + projected) + 9 * reduce3 * three + 25 * reduce5 * five


def googlenet_counted(stem: int = 7 * 7 * 3 * 64) -> int:
    """Return GoogLeNet's weights without biases, with so many in the first layer."""
    before, total = 192, stem + 64 * 64 + 9 * 64 * 192 + 1024 * 1000
    for widths, depth in zip(MODULES.values(), DEPTHS, strict=True):
        total += module_weights(before, widths)
        before = depth
    return total


@item(
    "E17",
    "004:239; 001:311; 002:1075",
    printed="24 M; 5 million; 12 times fewer than AlexNet",
    right={"parameters": 6998552, "weights": 6990272, "times fewer than AlexNet": 8.7},
    says={"parameters": 24000000, "weights": 5000000, "times fewer than AlexNet": 12},
    why="7.0 million; 24 million is Inception v3 (004:427), 5 million the paper's prose. Its own table sums to 6.8.",
)
def googlenet_parameters() -> Sequence[Any]:
    """The parameters of GoogLeNet, without auxiliary classifiers."""
    net = MODELS["googlenet"]((3, 224, 224), 1000, SHAPES_ONLY)
    total = sum(p.numel() for p in net.parameters())
    weights = sum(p.numel() for p in net.parameters() if p.dim() > 1)
    made = {"parameters": total, "weights": weights, "times fewer than AlexNet": round(params(alexnet()) / total, 1)}
    biases = 64 + 64 + 192 + sum(map(sum, MODULES.values())) + 1000
    counted = googlenet_counted()
    times = round(weights_of(*ALEXNET, dense=FULL) / (counted + biases), 1)
    return made, {"parameters": counted + biases, "weights": counted, "times fewer than AlexNet": times}


@item(
    "E18",
    "002:1156-1169",
    printed="358M ops, from 854M",
    right={"naive": 854196224, "bottleneck": 271351808, "ratio": 3.15},
    says={"naive": 854196224, "bottleneck": 358055936, "ratio": 2.39},
    why="The 3×3 convolution (86,704,128) is counted twice: 271,351,808 + 86,704,128 = 358,055,936. CS231n has it too.",
)
def inception_work() -> Sequence[Any]:
    """Multiplications of the naive module and of the one with bottlenecks, for 256 maps of 28×28."""
    naive = stages((256, 28, 28), (672, 28, 28), m=naive_inception(128, 64, 192, 64, 96, 64))
    narrow = stages((256, 28, 28), (480, 28, 28), m=inception(128, 64, 192, 64, 96, 64))
    made = [macs(naive), macs(narrow)]
    counted = [784 * 256 * (128 + 9 * 192 + 25 * 96), 784 * module_weights(256, (128, 64, 192, 64, 96, 64))]
    return [{"naive": a, "bottleneck": b, "ratio": round(a / b, 2)} for a, b in (made, counted)]


@item(
    "A3.11",
    "002:1136-1167; 1142",
    printed="depth 672, then 480",
    right={"naive": 672, "bottleneck": 480},
    why="128 + 192 + 96 + 256 pooled maps; with a projection of the pooled maps to 64, 480.",
)
def inception_depth() -> Sequence[Any]:
    """The maps that the two modules join."""
    naive = stages((256, 28, 28), (672, 28, 28), m=naive_inception(128, 64, 192, 64, 96, 64))
    narrow = stages((256, 28, 28), (480, 28, 28), m=inception(128, 64, 192, 64, 96, 64))
    return (
        {"naive": naive[0].out_shape[0], "bottleneck": narrow[0].out_shape[0]},
        {"naive": 128 + 192 + 96 + 256, "bottleneck": 128 + 192 + 96 + 64},
    )


@item(
    "A3.12",
    "002:1174-1197",
    printed="256, 480, 512, 512, 512, 528, 832, 832, 1024",
    right=list(DEPTHS),
    why="The four branches of each module, added.",
)
def googlenet_depths() -> Sequence[Any]:
    """The depths of GoogLeNet's modules."""
    rows = [row for row in network("googlenet") if row.name.startswith("inception")]
    return [row.out_shape[0] for row in rows], [w[0] + w[2] + w[4] + w[5] for w in MODULES.values()]


@item(
    "E19",
    "002:1178",
    printed="first convolution: 7×7, 2.7K parameters, 34M operations",
    right={"7×7": [9408, 118013952], "separable": [2712, 34019328]},
    says={"7×7": [2712, 34019328], "separable": [2712, 34019328]},
    why="2.7K and 34M are exactly those of a separable layer, eight filters a colour and 64 mixtures of them.",
)
def googlenet_stem() -> Sequence[Any]:
    """Weights and multiplications of GoogLeNet's first layer."""
    made = {}
    for key, stem, biases in (("7×7", "plain", 64), ("separable", "separable", 64)):
        (row,) = by_stage(network("googlenet", stem=stem), "conv1")
        made[key] = [row.params - biases, row.macs]
    plain, apart = 49 * 3 * 64, 49 * 3 * 8 + 24 * 64
    return made, {"7×7": [plain, plain * 112**2], "separable": [apart, apart * 112**2]}


@item(
    "E20",
    "002:1191",
    printed="inception 5a: 5×5 reduce 32, 1072K parameters, 54M operations",
    right={"with 32": [1042432, 51079168], "with 48": [1106944, 54240256]},
    says={"with 32": [1097728, 54000000], "with 48": [1106944, 54240256]},
    why="54M needs 48 filters before the 5×5 convolution; the printed 32 give 51M.",
)
def googlenet_5a() -> Sequence[Any]:
    """Weights and multiplications of module 5a, with 32 and 48 filters before its 5×5 convolution."""
    made, counted = {}, {}
    for reduce5 in (32, 48):
        widths = (256, 160, 320, reduce5, 128, 128)
        (row,) = stages((832, 7, 7), (832, 7, 7), m=inception(*widths))
        made[f"with {reduce5}"] = [row.params - sum(widths), row.macs]
        weights = module_weights(832, widths)
        counted[f"with {reduce5}"] = [weights, weights * 49]
    return made, counted


@item(
    "E21",
    "002:1188",
    printed="inception 4c: 463K parameters, 100M operations",
    right={"K of 1024": 497.5, "M": 99.9},
    says={"K of 1024": 463.0, "M": 100.0},
    why="The operations fit 509,440 weights; the printed parameters of the row do not.",
)
def googlenet_4c() -> Sequence[Any]:
    """Weights and multiplications of module 4c."""
    (row,) = stages((512, 14, 14), (512, 14, 14), m=inception(*MODULES["4c"]))
    weights = module_weights(512, MODULES["4c"])
    return (
        {"K of 1024": (row.params - sum(MODULES["4c"])) / 1024, "M": round(row.macs / 1e6, 1)},
        {"K of 1024": weights / 1024, "M": round(weights * 196 / 1e6, 1)},
    )


@item(
    "A3.13",
    "002:1178-1196",
    printed="the operations of all rows sum to 1,502M",
    right={"separable first layer, 48 in 5a": 1501.8, "as built": 1582.7},
    why="1,502M needs the separable first layer and 48 filters in 5a; the network that everyone builds takes 1,583M.",
)
def googlenet_work() -> Sequence[Any]:
    """The multiplications of GoogLeNet, in millions."""
    built = macs(network("googlenet"))
    apart = macs(network("googlenet", stem="separable"))
    wide = macs(stages((832, 7, 7), (832, 7, 7), m=inception(256, 160, 320, 48, 128, 128)))
    narrow = macs(stages((832, 7, 7), (832, 7, 7), m=inception(*MODULES["5a"])))
    before, total = 192, 4096 * 3136 + 9 * 64 * 192 * 3136 + 1024000
    for (name, widths), depth in zip(MODULES.items(), DEPTHS, strict=True):
        side = {"3": 28, "4": 14, "5": 7}[name[0]]
        total += module_weights(before, widths) * side**2
        before = depth
    stem = {"separable": 2712, "plain": 9408}
    more = (module_weights(832, (256, 160, 320, 48, 128, 128)) - module_weights(832, MODULES["5a"])) * 49
    return (
        {"separable first layer, 48 in 5a": round((apart + wide - narrow) / 1e6, 1), "as built": round(built / 1e6, 1)},
        {
            "separable first layer, 48 in 5a": round((total + stem["separable"] * 112**2 + more) / 1e6, 1),
            "as built": round((total + stem["plain"] * 112**2) / 1e6, 1),
        },
    )


@item(
    "A3.14",
    "001:308-316; 002:1210-1219",
    printed="22 layers; auxiliary classifiers, two fully connected layers each, loss × 0.3",
    right={"layers with weights": 22, "classifiers": 2, "weight": 0.3, "their parameters": 6379728},
    why="21 convolutions in line and one full connection; the auxiliary classifiers go after training.",
)
def googlenet_auxiliary() -> Sequence[Any]:
    """GoogLeNet's depth and its auxiliary classifiers."""
    build = SHAPES_ONLY
    net = MODELS["googlenet"]((3, 224, 224), 1000, build)
    auxiliary = AUXILIARY["googlenet"](net, (3, 224, 224), 1000, build)
    modules = sum(name.startswith("inception") for name, _ in net.named_children())
    depth = 3 + 2 * modules + 1  # two stem stages of three convolutions, two in line a module, the last full connection
    one = [weights_of((1, maps, 128, 1), dense=[(2048, 1024), (1024, 1000)]) for maps in (512, 528)]
    return (
        {
            "layers with weights": depth,
            "classifiers": len(auxiliary.at),
            "weight": auxiliary.weight,
            "their parameters": auxiliary.params,
        },
        {"layers with weights": 22, "classifiers": 2, "weight": 0.3, "their parameters": sum(one)},
    )


# Residual networks.


def basic(maps: Sequence[int], blocks: Sequence[int], *, projected: bool) -> int:
    """Return the parameters of basic blocks with batch norm, after a stem of as many maps as the first stage."""
    total, before = 0, maps[0]
    for width, number in zip(maps, blocks, strict=True):
        for i in range(number):
            source = before if i == 0 else width
            total += 9 * source * width + 9 * width * width + 4 * width
            total += (source * width + 2 * width) if projected and source != width else 0
        before = width
    return total


def bottlenecks(blocks: Sequence[int]) -> int:
    """Return the parameters of ImageNet's ResNets with bottleneck blocks."""
    total, before = 9408 + 128, 64
    for width, number in zip((64, 128, 256, 512), blocks, strict=True):
        for i in range(number):
            total += before * width + 9 * width**2 + 4 * width**2 + 2 * (2 * width + 4 * width)
            total += (before * 4 * width + 8 * width) if i == 0 else 0
            before = 4 * width
    return total + 2048 * 1000 + 1000


@item(
    "A3.15",
    "004:243-245",
    printed="ResNet, 152 layers, 60 M parameters",
    right={"152": 60192808, "50": 25557032, "18": 11689512},
    why="60.2 million; the family is 18, 34, 50, 101, 152.",
)
def resnets() -> Sequence[Any]:
    """The parameters of ImageNet's ResNets."""
    made = {str(depth): params(network(f"resnet{depth}")) for depth in (152, 50, 18)}
    small = 9408 + 128 + basic((64, 128, 256, 512), (2, 2, 2, 2), projected=True) + 513000
    return made, {"152": bottlenecks((3, 8, 36, 3)), "50": bottlenecks((3, 4, 6, 3)), "18": small}


@item(
    "A3.16",
    "004:427-429",
    printed="ResNet-200: 65M parameters, depth 200",
    right=64673832,
    why="64.7 million.",
)
def resnet200() -> Sequence[Any]:
    """The parameters of ResNet-200: bottleneck blocks, 3, 24, 36 and 3 of them."""
    return (bottlenecks((3, 24, 36, 3)),)


@item(
    "E32",
    "000:527",
    printed="ResNet 18, 32, 50, 164, …, 1001",
    right={
        "ImageNet": ["resnet18", "resnet34", "resnet50"],
        "CIFAR": ["resnet32", "preact_resnet164", "preact_resnet1001"],
    },
    says={"ImageNet": ["resnet18", "resnet32", "resnet50"], "CIFAR": ["preact_resnet164", "preact_resnet1001"]},
    why="Two families: for ImageNet 18, 34, 50; 32, 164 and 1001 are for CIFAR.",
)
def families() -> Sequence[Any]:
    """Which ResNet belongs to which family, by the window of its first convolution."""

    def first(name: str, side: int) -> int:
        net = MODELS[name]((3, side, side), 10, SHAPES_ONLY)
        return next(module for module in net.modules() if isinstance(module, nn.Conv2d)).kernel_size[0]

    names = ("resnet18", "resnet34", "resnet50", "resnet32", "preact_resnet164", "preact_resnet1001")
    large = [name for name in names if name != "preact_resnet1001" and first(name, 224) == 7]
    return ({"ImageNet": large, "CIFAR": [name for name in names if name not in large]},)


@item(
    "A3.17",
    "000:515-527; 004:250",
    printed="shortcuts: few or no additional parameters",
    right={"padded shortcuts": 269722, "projected shortcuts": 272474},
    why="ResNet-20 for CIFAR: option A has none, 1×1 projections add 2,752.",
)
def resnet20() -> Sequence[Any]:
    """ResNet-20's parameters with both kinds of shortcut."""
    rows = [params(network("resnet20", (3, 32, 32), 10, shortcut=kind)) for kind in ("A", "B")]
    outside = 432 + 32 + 650
    counted = [outside + basic((16, 32, 64), (3, 3, 3), projected=projected) for projected in (False, True)]
    return [{"padded shortcuts": a, "projected shortcuts": b} for a, b in (rows, counted)]


@item(
    "A3.18",
    "002:30-40",
    printed="pre-activation basic blocks with k times the maps",
    right={"28-10": 36479194, "16-8": 10961370, "40-4": 8949210},
    why="Three published points of width against depth.",
)
def wide_resnets() -> Sequence[Any]:
    """The parameters of wide ResNets."""

    def counted(depth: int, k: int) -> int:
        number, total, before = (depth - 4) // 6, 432, 16
        for width in (16 * k, 32 * k, 64 * k):
            for i in range(number):
                source = before if i == 0 else width
                total += 2 * source + 9 * source * width + 2 * width + 9 * width**2
                total += source * width if i == 0 else 0
            before = width
        return total + 2 * before + before * 10 + 10

    sizes = ((28, 10), (16, 8), (40, 4))
    made = {f"{d}-{k}": params(network(f"wrn_{d}_{k}", (3, 32, 32), 10)) for d, k in sizes}
    return made, {f"{d}-{k}": counted(d, k) for d, k in sizes}


@item(
    "A3.19",
    "004:320-334",
    printed="X' = (1 - k) X_t + k X_{t-1} + F(X_t)",
    right={"k = 0 is the ResNet": True, "parameters more": 9},
    why="With k = 0 the linear multi-step network is the residual one; each block has one number more.",
)
def multistep() -> Sequence[Any]:
    """A multi-step ResNet with k = 0, and its parameters beside a ResNet's."""
    net = MODELS["lm_resnet20"]((3, 8, 8), 10, BuildOptions()).double().eval()
    plain = MODELS["resnet20"]((3, 8, 8), 10, BuildOptions(), shortcut="A").double().eval()
    names = {key for key, _ in plain.named_parameters()}
    more = sum(p.numel() for key, p in net.named_parameters() if key.endswith("step"))
    with torch.no_grad():
        for key, p in net.named_parameters():
            if key.endswith("step"):
                p.zero_()
    own = net.state_dict()
    shared = {key: own[key] for key in plain.state_dict() if key in own}
    if shared.keys() == plain.state_dict().keys():
        plain.load_state_dict(shared)
    x = torch.tensor(noise(1, 3, 8, 8))
    same = bool(torch.allclose(net(x), plain(x)))
    return ({"k = 0 is the ResNet": same, "parameters more": more if names else -1},)


@item(
    "A3.20",
    "000:391-413",
    printed="MobileNet: depthwise separable convolutions",
    right={"parameters": 4231976, "multiplications": 568740352},
    why="13 separable layers after one plain one.",
)
def mobilenet() -> Sequence[Any]:
    """MobileNet v1."""
    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    sides = [112, 112, 56, 56, 28, 28, *[14] * 6, 7, 7]
    counted, work = 27 * 32 + 64 + 1024 * 1000 + 1000, 27 * 32 * 112**2 + 1024000
    for (a, b), (_, side) in zip(itertools.pairwise(widths), itertools.pairwise(sides), strict=True):
        counted += 9 * a + 2 * a + a * b + 2 * b
        work += (9 * a + a * b) * side**2
    rows = network("mobilenet_v1")
    return {"parameters": params(rows), "multiplications": macs(rows)}, {"parameters": counted, "multiplications": work}


@item(
    "A3.21",
    "003:27-47; 002:42-66",
    printed="an MLP on images: extremely many weights; flattening destroys the grid; a template a class",
    right={"softmax on MNIST": 7850, "softmax on 224×224": 1505290, "templates": 10},
    why="One weight a pixel and class: the weights grow with the image, and each class has one template.",
)
def templates() -> Sequence[Any]:
    """The weights of softmax regression on 28×28 and on 224×224×3."""
    small, large = network("softmax", (1, 28, 28), 10), network("softmax", (3, 224, 224), 10)
    return (
        {"softmax on MNIST": params(small), "softmax on 224×224": params(large), "templates": small[-1].out_shape[0]},
        {"softmax on MNIST": 785 * 10, "softmax on 224×224": (3 * 224**2 + 1) * 10, "templates": 10},
    )


@item(
    "A3.22",
    "003:96-119; 002:204-209",
    printed="local connections, then shared weights, limit the number of weights",
    right={"full": 14040, "local": 2160, "shared": 60},
    why="A 3×3 window on 8×8 with six maps: full, local and shared connections to the same 216 units.",
)
def locality() -> Sequence[Any]:
    """Weights to the same units when all pixels, a window of them, or shared windows are read."""
    (full,) = stages((1, 8, 8), (216,), f=linear(216))
    (local,) = stages((1, 8, 8), (6, 6, 6), c=locally_connected(6, 3))
    (shared,) = stages((1, 8, 8), (6, 6, 6), c=conv(6, 3))
    return (
        {"full": full.params, "local": local.params, "shared": shared.params},
        {"full": 65 * 216, "local": 10 * 216, "shared": 60},
    )
