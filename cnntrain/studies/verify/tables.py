"""Tables and sentences of the lectures: dates, error rates, sizes of datasets, boxes, times, names."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cnntrain.data.datasets.registry import SIZES
from cnntrain.nn.blocks import conv, linear, pooling
from cnntrain.nn.stages import assemble, walk
from cnntrain.stats.metrics import top_k
from cnntrain.studies.verify.convolution import noise
from cnntrain.studies.verify.registry import item, undecidable
from cnntrain.studies.verify.ways import layer, macs, maps, network, stages

# Top-5 errors in per cent by year and team, 001:215-224.
ERRORS_001 = {
    2012: (15.3, 26.1, 26.9, 27.0, 29.6, 33.4),
    2013: (11.7, 12.9, 13.5, 13.5, 14.1, 14.2, 15.2, 15.2, 23.0),
    2014: (6.6, 7.3, 8.0, 8.1, 9.5, 9.7, 10.2, 11.2, 12.1),
}
ERRORS_004 = {"2013": (0.06656, 0.07325, 0.08062), "2014": (0.11197, 0.12535, 0.13555)}  # 004:351-372
TIMES = {  # ms forward and backward of 20 images, 004:425-431
    "VGG-16": (185.29, 437.89),
    "Inception v3": (102.21, 311.94),
    "ResNet-200": (273.85, 687.48),
    "Inception v3, CPU": (19918.82, 23010.15),
}


@item(
    "E25",
    "004:349-372",
    printed="2013: .06656 .07325 .08062; 2014: .11197 .12535 .13555",
    right={"first table": "2014", "second table": "2013"},
    says={"first table": "2013", "second table": "2014"},
    why="The years are swapped: 001:215 has 6.6, 7.3 and 8.0 % in 2014. The detection tables are swapped too.",
)
def years_of_tables() -> Sequence[Any]:
    """The year whose results, in lecture 001, are nearest to each table's."""

    def nearest(errors: Sequence[float]) -> str:
        def apart(year: int) -> float:
            return sum(min(abs(100 * error - known) for known in ERRORS_001[year]) for error in errors)

        return str(min(ERRORS_001, key=apart))

    first, second = ERRORS_004.values()
    return ({"first table": nearest(first), "second table": nearest(second)},)


@item(
    "E29",
    "001:217-219; 004:345-347",
    printed="26.1, 26.9, 27.0 beside .26172, .26979, .27058",
    right=[26.2, 27.0, 27.1],
    says=[26.1, 26.9, 27.0],
    why="Lecture 001 cuts the digits off instead of rounding them.",
)
def rounded_errors() -> Sequence[Any]:
    """Three error rates, rounded to a tenth of a per cent."""
    errors = (0.26172, 0.26979, 0.27058)
    return [round(100 * error, 1) for error in errors], [int(1000 * error + 0.5) / 10 for error in errors]


@item(
    "E26",
    "002:964",
    printed="ZFNet: 16.4 % → 11.7 %",
    right={"Clarifai": 11.7, "Zeiler and Fergus": 13.5},
    says={"Clarifai": 11.7, "Zeiler and Fergus": 11.7},
    why="11.7 is Clarifai's entry (001:216); the paper has 16.5 for one network and 14.8 for six.",
)
def clarifai() -> Sequence[Any]:
    """Whose errors 11.7 and 13.5 are, by the table of lecture 001."""
    teams = ("Clarifai", "NUS", "Zeiler and Fergus", "A. Howard")
    table = dict(zip(teams, ERRORS_001[2013], strict=False))
    return ({name: table[name] for name in ("Clarifai", "Zeiler and Fergus")},)


@item(
    "E27",
    "003:430-449",
    printed="drops of 1.1, 5.7 and 33.5 %",
    right={"7": 0.3, "6, 7": 4.3, "3, 4": 4.0, "3, 4, 6, 7": 32.0},
    says={"7": 1.1, "6, 7": 5.7, "3, 4": None, "3, 4, 6, 7": 33.5},
    why="Zeiler and Fergus 2014, table 3, top-5 errors minus 18.1; the slides show an earlier talk. In top-1 the "
    "network without layer 7 is even better (40.0 beside 40.5). `cnntrain ablate study=zeiler_fergus` makes the study.",
)
def published_drops() -> Sequence[Any]:
    """Lost points of top-5 in the published table."""
    top5 = {"none": 18.1, "7": 18.4, "6, 7": 22.4, "3, 4": 22.1, "3, 4, 6, 7": 50.1}
    return ({name: round(error - top5["none"], 1) for name, error in top5.items() if name != "none"},)


@item(
    "E13",
    "003:275",
    printed="more data: 10⁶ against 10³ images",
    right={"MNIST": 4},
    says={"MNIST": 3},
    why="LeNet-5 had the 60,000 training images of MNIST: between 10⁴ and 10⁵.",
)
def images_of_lenet() -> Sequence[Any]:
    """The power of ten of MNIST's training images."""
    return {"MNIST": len(str(SIZES["mnist"][0])) - 1}, {"MNIST": int(np.log10(60_000))}


@item(
    "E14",
    "001:162",
    printed="MNIST: 60,000 images",
    right={"training": 60000, "test": 10000},
    says={"training": 60000, "test": 0},
    why="60,000 training images and 10,000 test images.",
)
def images_of_mnist() -> Sequence[Any]:
    """The images of MNIST."""
    return ({"training": SIZES["mnist"][0], "test": SIZES["mnist"][1]},)


@item(
    "E30",
    "004:218; 002:890; 001:206; 003:301",
    printed="1.5 million labelled training samples; 1,431,167 images; 1.2 million",
    right={"training": 1281167},
    says={"training": 1500000},
    why="1,431,167 images less 50 validation and 100 test images a class.",
)
def images_of_imagenet() -> Sequence[Any]:
    """The training images of ImageNet, from the sum in lecture 002."""
    return ({"training": 1_431_167 - 1000 * (50 + 100)},)


@item(
    "E31",
    "002:226-249",
    printed="pixels used in training: 10⁷ (1998), 10¹⁴ (2012)",
    right={"MNIST": 7, "ImageNet, an epoch": 10, "ImageNet, 90 epochs": 12},
    says={"MNIST": 7, "ImageNet, an epoch": 14, "ImageNet, 90 epochs": 14},
    why="60,000 · 28² is 4.7·10⁷; 1.28 million · 224² is 6.4·10¹⁰ an epoch, 5.8·10¹² in 90: 10¹⁴ is not reached.",
)
def pixels_in_training() -> Sequence[Any]:
    """Powers of ten of the pixels in training."""
    numbers = {
        "MNIST": SIZES["mnist"][0] * 28**2,
        "ImageNet, an epoch": 1_281_167 * 224**2,
        "ImageNet, 90 epochs": 90 * 1_281_167 * 224**2,
    }
    return {key: len(str(n)) - 1 for key, n in numbers.items()}, {key: int(np.log10(n)) for key, n in numbers.items()}


@item(
    "S7",
    "004:425-431; 003:276",
    printed="Inception v3: 102.21 and 311.94 ms on a GPU, 19,918.82 and 23,010.15 on a CPU; 50x speedup",
    right={"forward": 194.9, "backward": 73.8},
    says={"forward": 50.0, "backward": 50.0},
    why="The table's own ratios: 195 and 74 times, not 50. `cnntrain time` measures a machine.",
)
def speedups() -> Sequence[Any]:
    """How many times faster the table's GPU is."""
    cpu, gpu = TIMES["Inception v3, CPU"], TIMES["Inception v3"]
    return (dict(zip(("forward", "backward"), (round(a / b, 1) for a, b in zip(cpu, gpu, strict=True)), strict=True)),)


@item(
    "E45",
    "004:429-431",
    printed="CPU: 19,918.82 ms forward, 23,010.15 backward",
    right={"VGG-16": 2.36, "Inception v3": 3.05, "ResNet-200": 2.51, "Inception v3, CPU": 1.16},
    says={"VGG-16": 2.36, "Inception v3": 3.05, "ResNet-200": 2.51, "Inception v3, CPU": 2.0},
    why="A backward pass takes two products for each of the forward pass; 1.16 means that the CPU's forward time holds "
    "something else, such as a first call.",
)
def backward_by_forward() -> Sequence[Any]:
    """Backward over forward time."""
    return ({name: round(backward / forward, 2) for name, (forward, backward) in TIMES.items()},)


@item(
    "S7b",
    "004:427",
    printed="VGG-16: 185.29 ms forward for 20 images",
    right=1670,
    why="15.47 billion multiplications an image: 1,670 billion a second.",
)
def vgg_rate() -> Sequence[Any]:
    """Billions of multiplications a second in the table's first row."""
    rate = 20 * macs(network("vgg16")) / TIMES["VGG-16"][0] / 1e6
    return round(rate), round(20 * 15_470_264_320 / 0.18529 / 1e9)


@item(
    "S9",
    "003:303-326",
    printed="TOP5; eight images with their five likeliest classes",
    right={"top-1": 0.5, "top-5": 0.75},
    why="Four of the eight are named first, grille and mushroom second; cherry and Madagascar cat are not among five.",
)
def top5_of_the_figure() -> Sequence[Any]:
    """Top-1 and top-5 of the slide's eight images."""
    ranks = (1, 1, 1, 1, 2, 2, None, None)  # of the right class among the five
    logits, labels = torch.zeros(8, 10), torch.arange(8)
    for image, rank in enumerate(ranks):
        others = [c for c in range(10) if c != image]
        ahead = (rank or 10) - 1
        order = [*others[:ahead], image, *others[ahead:]]
        for place, number in enumerate(order):
            logits[image, number] = -place
    found = {f"top-{k}": top_k(logits, labels, k) for k in (1, 5)}
    return found, {f"top-{k}": sum(rank is not None and rank <= k for rank in ranks) / 8 for k in (1, 5)}


BOXES = (57, 133, 329, 265), (153, 95, 396, 218)  # 004:612-621: Xmin, Ymin, Xmax, Ymax


@item(
    "S17",
    "004:599; 612-621",
    printed="IoU = area(B ∩ B̂) / area(B ∪ B̂); (57, 133) - (329, 265), (153, 95) - (396, 218)",
    right={"corners": 0.2943, "pixels": 0.2965},
    why="0.294 between the corners; counted as pixels, both ends included, 0.297.",
)
def boxes() -> Sequence[Any]:
    """Intersection over union of the two motorbikes."""

    def by_formula(more: int) -> float:
        (a, b, c, d), (e, f, g, h) = BOXES
        width, height = min(c, g) - max(a, e) + more, min(d, h) - max(b, f) + more
        areas = (c - a + more) * (d - b + more) + (g - e + more) * (h - f + more)
        return round(width * height / (areas - width * height), 4)

    def by_counting(more: int) -> float:
        one, two = np.zeros((300, 420), dtype=bool), np.zeros((300, 420), dtype=bool)
        for mask, (left, top, right, bottom) in zip((one, two), BOXES, strict=True):
            mask[top : bottom + more, left : right + more] = True
        return round(float((one & two).sum() / (one | two).sum()), 4)

    return [{"corners": way(0), "pixels": way(1)} for way in (by_formula, by_counting)]


@item(
    "A3.23",
    "004:643-656",
    printed="S × S × (B × 5 + C) = 7 × 7 × (2 × 5 + 20)",
    right=1470,
    why="30 numbers a cell.",
)
def yolo_answer() -> Sequence[Any]:
    """The numbers that YOLO gives for an image."""
    (row,) = stages((4, 7, 7), (1470,), f=linear(7 * 7 * (2 * 5 + 20)))
    return row.out_shape[0], sum(2 * 5 + 20 for _ in itertools.product(range(7), range(7)))


@item(
    "A3.24",
    "003:469-481",
    printed="8 linear filters; local sums on 4×4: 16×8 = 128 maps; M filters of 4×4×8",
    right={"numbers": 128, "weights of a word": 128, "maps": [100, 1, 1]},
    why="A bag of words as a small CNN: 8 maps, sums over a 4×4 grid, a filter for each of M = 100 words.",
)
def bag_of_words() -> Sequence[Any]:
    """The shapes of a bag of words written as a CNN, for patches of 16×16."""
    rows = stages(
        (1, 16, 16),
        (100, 1, 1),
        gradients=conv(8, 3, padding=1, bias=False),
        histogram=pooling("avg", 4),
        words=conv(100, 4, bias=False),
    )
    numbers = int(np.prod(rows[1].out_shape))
    return ({"numbers": numbers, "weights of a word": rows[2].params // 100, "maps": list(rows[2].out_shape)},)


@item(
    "E49",
    "003:475",
    printed="the nearest word is a bank of M linear filters",
    right={"linear filters alone": False, "with a bias of -‖c‖² / 2": True},
    says={"linear filters alone": True, "with a bias of -‖c‖² / 2": True},
    why="The largest product c · x is the nearest word only with a bias of -‖c‖² / 2, and with winner takes all.",
)
def nearest_word() -> Sequence[Any]:
    """Whether the filter that answers most is the nearest word, for 200 points and 20 words."""
    words, points = noise(20, 8), noise(200, 8, seed=1)
    nearest = ((points[:, None] - words) ** 2).sum(axis=2).argmin(axis=1)
    answers = layer(points.T.reshape(8, 200, 1), words.reshape(20, 8, 1, 1))[0, :, :, 0].T.numpy()
    biased = answers - (words**2).sum(axis=1) / 2
    return (
        {
            "linear filters alone": bool((answers.argmax(axis=1) == nearest).all()),
            "with a bias of -‖c‖² / 2": bool((biased.argmax(axis=1) == nearest).all()),
        },
    )


@item(
    "S26",
    "002:594-600; 003:212-220",
    printed="a unit after pooling is influenced by a larger neighbourhood",
    right={"after conv": 5, "after pool": 6, "after conv and pool again": 16},
    why="The gradient of one unit reaches as many pixels as the arithmetic of windows says.",
)
def field_by_gradient() -> Sequence[Any]:
    """The receptive field as the support of a gradient, beside the geometry's."""
    linear_conv = conv(2, 5, activation="none")  # a ReLU would hide the pixels of units below zero
    makers = {"conv1": linear_conv, "pool1": pooling("avg", 2), "conv2": linear_conv, "pool2": pooling("avg", 2)}
    keys = {"conv1": "after conv", "pool1": "after pool", "pool2": "after conv and pool again"}
    rows = {row.name: row.receptive_field for row in stages((1, 32, 32), (2, 5, 5), **makers)}
    net, x = assemble(makers, (1, 32, 32), out_shape=(2, 5, 5)).double(), maps(noise(32, 32)).requires_grad_()
    support = {}
    for name, out in walk(net, x):
        middle = out.shape[2] // 2
        (gradient,) = torch.autograd.grad(out[0, 0, middle, middle], x, retain_graph=True)
        support[name] = int((gradient[0, 0].abs().sum(dim=0) > 0).sum())
    fields = {name: field[0] for name, field in rows.items() if field}
    return [{keys[name]: way[name] for name in keys} for way in (fields, support)]


@item(
    "E39",
    "004:417-422",
    printed="endoscopic videos (large intestine)",
    right={"gallbladder": 4, "intestine": 0},
    says={"gallbladder": 0, "intestine": 8},
    why="The classes that the slide lists are those of removing a gallbladder.",
)
def operation() -> Sequence[Any]:
    """How many of the eight classes name which organ (Calot's triangle is the gallbladder's)."""
    classes = "TrocarPlacement Preparation CalotTriangleDissection ClippingCutting GallbladderDissection "
    classes += "GallbladderPackaging CleaningCoagulation GallbladderRetraction"
    names = classes.split()
    return (
        {
            "gallbladder": sum("Gallbladder" in n or "Calot" in n for n in names),
            "intestine": sum("ntestin" in n for n in names),
        },
    )


# What only training, a GPU or another source decides.

undecidable(
    "E28",
    "000:482; 001:216; 002:964; 003:432; 004:344",
    title="AlexNet's top-5 error",
    printed="25 → 15 %; 15.3; 16.4; 18.2; .15315",
    why="All are true of different settings: 18.2 is one network on validation images, 16.4 five, 15.3 "
    "seven with more data.",
    elsewhere="Krizhevsky et al. 2012, table 2.",
)
undecidable(
    "E38",
    "004:427",
    title="Inception v3's input",
    printed="399 pixels",
    why="299 is usual; 399 is possible, since it ends with a global pooling.",
    elsewhere="cnntrain describe model=torchvision model.arch=inception_v3 dataset=imagenet dataset.image_size=299",
)
undecidable(
    "E42",
    "002:275",
    title="The name of the convolutional layer",
    printed="“Convulsive” layer",
    why="Convolutional is meant.",
    elsewhere="",
)
undecidable(
    "E43",
    "004:492",
    title="What FCN stands for",
    printed="“FCN to CNN”",
    why="FCN means fully connected network there, and fully convolutional network at 004:727.",
    elsewhere="",
)
undecidable(
    "E44",
    "004:577",
    title="The weights of style transfer",
    printed="L = ‖F_c - F_x‖² + α ‖G_a - G_x‖²",
    why="Gatys et al. weight the content with α and the style with β, and divide by 4 N² M².",
    elsewhere="Gatys et al. 2016, eq. 4 to 7.",
)
undecidable(
    "E47",
    "004:730",
    title="What a network with skip connections is",
    printed="auto-encoder with skip connections",
    why="Nothing is reconstructed: it is an encoder and decoder trained on labels.",
    elsewhere="",
)
undecidable(
    "E50",
    "004:666",
    title="YOLO's layers",
    printed="remove the classifier, add 4 convolutions and 2 full connections",
    why="The paper adds them to 20 pretrained convolutions; the released yolov1.cfg is another network.",
    elsewhere="Redmon et al. 2016, section 2.2.",
)
undecidable(
    "S2",
    "003:425-428",
    title="Features tapped at each layer",
    printed="“tapping off features at each layer”",
    why="It needs a trained network and a classifier on each layer's features.",
    elsewhere="Zeiler and Fergus 2014, table 7.",
)
undecidable(
    "S3",
    "003:453-461",
    title="Invariance of layers",
    printed="translation, scale, rotation",
    why="It needs a trained network.",
    elsewhere="cnntrain invariance run=latest warp=standard; docs/results.md.",
)
undecidable(
    "S5",
    "002:1031-1044",
    title="NIN's three classifiers",
    printed="11.59, 10.88 and 10.41 % errors",
    why="It needs trainings with several seeds.",
    elsewhere="cnntrain ablate model=nin dataset=cifar10 …; docs/results.md.",
)
undecidable(
    "S6",
    "004:433-436",
    title="Transfer of Inception v3 and ResNet-200",
    printed="60.53, 69.13, 79.06 and 79.24 %",
    why="The images are not available; 79.24 beside 79.06 is 0.18 points without a test or a spread.",
    elsewhere="docs/own_images.md#transfer-learning.",
)
undecidable(
    "S15",
    "001:353-375",
    title="Adversarial examples",
    printed="Ara 97 % → 0 %, Bookshelf 99 %",
    why="It needs a trained network.",
    elsewhere="cnntrain invariance run=latest warp=pgd; docs/results.md.",
)
undecidable(
    "S20",
    "002:744-752; 003:175-190",
    title="Pooling and invariance",
    printed="pooling buys local invariance",
    why="It needs trainings.",
    elsewhere="cnntrain invariance runs=[…] warp=translate; docs/results.md.",
)
undecidable(
    "S21",
    "001:169-174",
    title="A dataset that is too small",
    printed="30 training images a class: networks are bad competitors",
    why="It needs trainings.",
    elsewhere="cnntrain fit -m dataset.train_size=100,300,1000,3000 seed=0,1,2.",
)
undecidable(
    "S28",
    "004:231",
    title="Time to train",
    printed="several days up to two weeks",
    why="It depends on the machine.",
    elsewhere="cnntrain time model=vgg16.",
)
