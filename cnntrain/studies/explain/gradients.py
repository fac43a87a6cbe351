"""Slopes at the pixels: the plain gradient, the guided one, and the gradient averaged over noise.

Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", ICLR workshop 2014, section 3; Springenberg,
Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity", ICLR workshop 2015; Smilkov, Thorat, Kim, Viégas and
Wattenberg, "SmoothGrad: removing noise by adding noise", 2017. A pixel's value is the largest size of its channels'
slopes, per standard deviation of the training pixels, in which networks are given images.
"""

import torch
from torch import Tensor

from cnntrain.runtime.seeding import generator
from cnntrain.studies.explain.attribution import Attribution, AttributionMaps
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.question import Subject, Targets
from cnntrain.studies.explain.relu_rules import image_gradients


def saliency_maps(subject: Subject, images: Tensor, targets: Targets, options: Explain) -> AttributionMaps:
    """Return the size of the gradient."""
    return AttributionMaps(sizes(image_gradients(subject.net, images, targets.of, "gradient")))


def guided_maps(subject: Subject, images: Tensor, targets: Targets, options: Explain) -> AttributionMaps:
    """Return the size of what guided backpropagation brings back.

    Raises `InputError` for a network with other units than ReLUs.
    """
    return AttributionMaps(sizes(image_gradients(subject.net, images, targets.of, "guided")))


def smoothgrad_maps(subject: Subject, images: Tensor, targets: Targets, options: Explain) -> AttributionMaps:
    """Return the size of the gradient's mean over copies of each image with normal noise.

    The noise of all images is the same, scaled by each one's own range of values.
    """
    spread = options.smoothgrad.noise * (images.flatten(1).amax(dim=1) - images.flatten(1).amin(dim=1))
    rng, total = generator(options.seed, "smoothgrad"), torch.zeros_like(images)
    for _ in range(options.smoothgrad.samples):
        noise = torch.from_numpy(rng.standard_normal(images.shape[1:], dtype="float32")).to(images.device)
        total += image_gradients(subject.net, images + spread[:, None, None, None] * noise, targets.of, "gradient")
    return AttributionMaps(sizes(total / options.smoothgrad.samples))


def sizes(slopes: Tensor) -> Tensor:
    """Return the largest size [N, H, W] of the slopes [N, C, H, W] of a pixel's channels."""
    return slopes.abs().amax(dim=1)


SALIENCY = Attribution(
    saliency_maps,
    "slope of the {quantity} at a pixel",
    signed=False,
    remark="Where a small change of a pixel changes the number most, up or down.",
)
GUIDED = Attribution(
    guided_maps,
    "guided slope of the {quantity}",
    signed=False,
    remark="Guided backpropagation keeps what excites units on every way, and draws contours wherever they are: "
    "read it beside a network with random weights (sanity=true).",
)
SMOOTHGRAD = Attribution(
    smoothgrad_maps,
    "slope of the {quantity}, mean over noise",
    signed=False,
    remark="The gradient averaged over noisy copies of the image: what a pixel's neighbourhood does, less noise.",
)
