"""Integrated gradients: each pixel's part of the difference that an image makes to a baseline.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, equation 1. The integral along the
line from the baseline to the image is taken at the nodes of Gauss and Legendre. By their axiom of completeness the
values of a map sum to the difference; by how much they miss it is a column of the table.
"""

import numpy as np
import torch
from torch import Tensor

from cnntrain.studies.explain.attribution import Attribution, AttributionMaps
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.question import Subject, Targets, grey_image
from cnntrain.studies.explain.relu_rules import image_gradients


def integrated_maps(subject: Subject, images: Tensor, targets: Targets, options: Explain) -> AttributionMaps:
    """Return the parts of the difference to a grey image, and what the parts miss of it."""
    baseline = grey_image(subject, options.integrated.fill)
    parts = integrated_gradients(subject, images, baseline, targets, options.integrated.steps)
    with torch.no_grad():
        difference = targets.of(subject.net(images)) - targets.of(subject.net(baseline[None]).expand(len(images), -1))
    error = parts.flatten(1).sum(dim=1) - difference
    columns = {"difference to grey": difference.tolist(), "sum - difference": error.tolist()}
    return AttributionMaps(parts.sum(dim=1), columns)


def integrated_gradients(subject: Subject, images: Tensor, baseline: Tensor, targets: Targets, steps: int) -> Tensor:
    """Return the parts [N, C, H, W] of what images [N, C, H, W] differ by from a baseline [C, H, W]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on -1 to 1
    mean = torch.zeros_like(images)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        between = baseline + float(node) * (images - baseline)
        mean += float(weight) * image_gradients(subject.net, between, targets.of, "gradient")
    return mean * (images - baseline)


INTEGRATED = Attribution(
    integrated_maps,
    "part of the {quantity}, from grey",
    signed=True,
    usual="probability",
    remark="The values of a map sum to what the image changes against a grey one; the table says by how much they "
    "miss it (more with fewer integrated.steps). Red pixels raise the number, blue ones lower it.",
)
