"""Every network by its name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from cnntrain.models.lenet import lenet5, lenet5_1998
from cnntrain.models.perceptron import mlp, softmax
from cnntrain.models.resnet_cifar import resnet_cifar

MODELS: dict[str, Callable[..., nn.Sequential]] = {
    "softmax": softmax,
    "mlp": mlp,
    "lenet5": lenet5,
    "lenet5_1998": lenet5_1998,
    **{f"resnet{depth}": partial(resnet_cifar, depth) for depth in (20, 32, 44, 56, 110)},
}
