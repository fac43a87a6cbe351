"""Grad-CAM: the last maps, each weighted by how much the class's logit grows with it.

Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", ICCV 2017, equations 1 and 2. Where a network ends with a mean over positions and one
linear layer, it is the positive part of the class activation map, divided by the number of positions.
"""

import torch
from torch import Tensor

from cnntrain.nn.stages import require, tail, walk
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.attribution import Attribution, AttributionMaps, enlarged
from cnntrain.studies.explain.cam import last_maps
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.question import Subject, Targets


def gradcam_maps(subject: Subject, images: Tensor, targets: Targets, options: Explain) -> AttributionMaps:
    """Return Grad-CAM of the last stage that gives maps, or of the one that `stages=` names."""
    cells = weighted_cells(subject, images, targets, chosen_stage(subject, options)).clamp(min=0)
    return AttributionMaps(enlarged(cells, (images.shape[2], images.shape[3])))


def chosen_stage(subject: Subject, options: Explain) -> str:
    """Return the stage whose maps are weighted.

    Raises `InputError` for several, and for one that gives no maps of several positions.
    """
    if options.stages is None:
        return last_maps(subject, "gradcam")
    require(options.stages, subject.stages)
    with_maps = list(subject.maps())
    if len(options.stages) != 1 or options.stages[0] not in with_maps:
        asked = ", ".join(options.stages)
        raise InputError(f"what=gradcam takes one stage with maps, not stages=[{asked}]; choose from {with_maps}")
    return options.stages[0]


def weighted_cells(subject: Subject, images: Tensor, targets: Targets, stage: str) -> Tensor:
    """Return the sum [N, h, w] of a stage's maps, weighted by their mean slopes, with its sign."""
    with torch.no_grad():
        *_, (_, maps) = walk(subject.net, images, stage)
    maps.requires_grad_()
    logits = targets.of(tail(subject.net, stage)(maps.clone()))  # which it may overwrite
    (slopes,) = torch.autograd.grad(logits.sum(), maps)
    return (slopes.mean(dim=(2, 3), keepdim=True) * maps.detach()).sum(dim=1)


GRADCAM = Attribution(
    gradcam_maps,
    "Grad-CAM of the {quantity}",
    signed=False,
    remark="What speaks for the class, position by position of the last maps; what speaks against it is left out.",
)
