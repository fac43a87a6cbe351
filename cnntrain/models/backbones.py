"""The networks that others are built on: plain chains that end in global averaging or full connections."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn

from cnntrain.models.all_cnn import all_cnn
from cnntrain.models.convnet import convnet
from cnntrain.models.mobilenet import mobilenet_v1
from cnntrain.models.nin import nin
from cnntrain.models.resnet import resnet_basic, resnet_bottleneck
from cnntrain.models.resnet_cifar import resnet_cifar
from cnntrain.models.vgg import vgg
from cnntrain.nn.composite import chain
from cnntrain.nn.fully_convolutional import fully_convolutional
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker

Backbone = Literal[
    "vgg11", "vgg13", "vgg16", "vgg19", "resnet18", "resnet34", "resnet50", "resnet20", "resnet32", "resnet44",
    "resnet56", "resnet110", "mobilenet_v1", "nin", "all_cnn", "convnet",
]  # fmt: skip
BACKBONES: dict[Backbone, Callable[..., nn.Sequential]] = {
    "vgg11": partial(vgg, 11), "vgg13": partial(vgg, 13), "vgg16": partial(vgg, 16), "vgg19": partial(vgg, 19),
    "resnet18": partial(resnet_basic, 18), "resnet34": partial(resnet_basic, 34),
    "resnet50": partial(resnet_bottleneck, 50),
    "resnet20": partial(resnet_cifar, 20), "resnet32": partial(resnet_cifar, 32), "resnet44": partial(resnet_cifar, 44),
    "resnet56": partial(resnet_cifar, 56), "resnet110": partial(resnet_cifar, 110),
    "mobilenet_v1": mobilenet_v1, "nin": nin, "all_cnn": all_cnn, "convnet": convnet,
}  # fmt: skip


def body(name: Backbone, in_shape: Shape, *, connected: bool) -> nn.Sequential:
    """Return the stages of a backbone that give maps, on the meta device.

    Global averaging and what follows it are left out, and so is the last stage of any. Full connections before it
    become convolutions where they are `connected`, and are left out otherwise.
    """
    net = BACKBONES[name](in_shape, 2, BuildOptions(device="meta"))
    stages = dict(list(net.named_children())[:-1])
    for place, module in enumerate(list(stages.values())):
        averages = any(isinstance(part, nn.AdaptiveAvgPool2d) for part in module.modules())
        if averages or (not connected and any(isinstance(part, nn.Linear) for part in module.modules())):
            stages = dict(list(stages.items())[:place])
            break
    return fully_convolutional(chain(**stages), in_shape)


def made(module: nn.Module) -> Maker:
    """Return the maker of a stage that is there already, for the shape that it was made for."""
    return lambda shape: module
