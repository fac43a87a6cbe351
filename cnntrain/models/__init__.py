"""Every network by its name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from cnntrain.models.airbench import airbench
from cnntrain.models.alexnet import alexnet
from cnntrain.models.all_cnn import all_cnn
from cnntrain.models.bow import bow
from cnntrain.models.caltech import caltech_convnet
from cnntrain.models.colour_histogram import colour_histogram
from cnntrain.models.convnet import convnet
from cnntrain.models.dilated import dilated
from cnntrain.models.external import Preprocessing, timm, timm_images, torchvision, torchvision_images
from cnntrain.models.fcn import fcn
from cnntrain.models.filter_bank import filter_bank, gabor
from cnntrain.models.googlenet import googlenet, googlenet_heads
from cnntrain.models.hog import hog
from cnntrain.models.kmeans import kmeans
from cnntrain.models.lenet import lenet5, lenet5_1998
from cnntrain.models.lm_resnet import lm_resnet
from cnntrain.models.locally_connected import locally_connected
from cnntrain.models.maxout import maxout
from cnntrain.models.mobilenet import mobilenet_v1
from cnntrain.models.nin import nin
from cnntrain.models.perceptron import mlp, softmax
from cnntrain.models.resnet import resnet_basic, resnet_bottleneck
from cnntrain.models.resnet_cifar import preact_resnet, resnet_cifar
from cnntrain.models.segnet import segnet, segnet_basic
from cnntrain.models.text_cnn import text_cnn
from cnntrain.models.unet import unet
from cnntrain.models.vgg import vgg
from cnntrain.models.wide_resnet import wide_resnet
from cnntrain.models.yolo import yolo_tiny, yolo_v1
from cnntrain.models.zfnet import zfnet
from cnntrain.nn.auxiliary import AuxiliaryClassifiers

# Those that give a map of answers, for a task that asks for one.
DENSE: dict[str, Callable[..., nn.Sequential]] = {
    "fcn32s": partial(fcn, 0),
    "fcn16s": partial(fcn, 1),
    "fcn8s": partial(fcn, 2),
    "segnet": segnet,
    "segnet_basic": segnet_basic,
    "unet": unet,
    "dilated": dilated,
}

# Those that give a grid of boxes.
GRIDS: dict[str, Callable[..., nn.Sequential]] = {"yolo_v1": yolo_v1, "yolo_tiny": yolo_tiny}

# Those that read sentences.
TEXT: dict[str, Callable[..., nn.Sequential]] = {
    "text_cnn": text_cnn,
}

# Functions of (in_shape, num_classes, build) and of their own options, which have defaults.
MODELS: dict[str, Callable[..., nn.Sequential]] = {
    "softmax": softmax,
    "mlp": mlp,
    "lenet5": lenet5,
    "lenet5_1998": lenet5_1998,
    "convnet": convnet,
    "locally_connected": locally_connected,
    "maxout": maxout,
    "caltech_convnet": caltech_convnet,
    "alexnet": alexnet,
    "alexnet_dense": partial(alexnet, groups=1),
    "zfnet": zfnet,
    **{f"vgg{depth}": partial(vgg, depth) for depth in (11, 13, 16, 19)},
    "nin": nin,
    "all_cnn": all_cnn,
    "googlenet": googlenet,
    "mobilenet_v1": mobilenet_v1,
    **{f"resnet{depth}": partial(resnet_basic, depth) for depth in (18, 34)},
    **{f"resnet{depth}": partial(resnet_bottleneck, depth) for depth in (50, 101, 152)},
    **{f"resnet{depth}": partial(resnet_cifar, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"preact_resnet{depth}": partial(preact_resnet, depth) for depth in (164, 1001)},
    **{f"lm_resnet{depth}": partial(lm_resnet, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"wrn_{depth}_{factor}": partial(wide_resnet, depth, factor) for depth, factor in ((28, 10), (16, 8), (40, 4))},
    "airbench": airbench,
    "colour_histogram": colour_histogram,
    "filter_bank": filter_bank,
    "gabor": gabor,
    "hog": hog,
    "bow": bow,
    "kmeans": kmeans,
    "torchvision": torchvision,
    "timm": timm,
    **DENSE,
    **TEXT,
    **GRIDS,
}

# What our own networks give, as a dataset's targets are called; a plugin's say it by the shape of their answers.
GIVES = {name: "maps" if name in DENSE else "boxes" if name in GRIDS else "classes" for name in MODELS}

# The auxiliary classifiers that a network is trained with, as functions of (net, in_shape, num_classes, build); their
# options are the model's.
AUXILIARY: dict[str, Callable[..., AuxiliaryClassifiers]] = {"googlenet": googlenet_heads}

# What the pretrained weights of a library's models expect of their images, from the model's own options.
PRETRAINED: dict[str, Callable[..., Preprocessing | None]] = {"torchvision": torchvision_images, "timm": timm_images}
