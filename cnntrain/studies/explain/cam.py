"""Class activation maps: the parts of a logit, position by position.

Zhou, Khosla, Lapedriza, Oliva and Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016. Where
a network ends with the mean over positions and one linear layer, the logit is the mean of a map plus the bias, exactly.
"""

import torch
from torch import Tensor

from cnntrain.nn.stages import tail, walk
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.attribution import Attribution, AttributionMaps, enlarged
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.question import Subject, Targets

EXACT = 1e-4  # of the logits' size: what float32 may lose between the sum over positions and the logit
INSTEAD = "take what=gradcam, which needs no global pooling"


def cam_maps(subject: Subject, images: Tensor, targets: Targets, options: Explain) -> AttributionMaps:
    """Return the parts of the target's logit; the mean of a map plus the bias is the logit.

    Raises `InputError` for a network that does not end with a global average pooling and a linear layer.
    """
    if targets.quantity != "logit":
        raise InputError("what=cam takes a logit apart; quantity=probability has no such parts: take quantity=logit")
    cells, bias, logits = class_cells(subject, images, targets)
    error = cells.flatten(1).mean(dim=1) + bias - logits
    values = enlarged(cells, (images.shape[2], images.shape[3]))
    return AttributionMaps(values, {"bias": bias.tolist(), "mean + bias - logit": error.tolist()})


def class_cells(subject: Subject, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """Return each image's map of cells [N, h, w], the bias [N] and the logit [N] of its target.

    What follows the last maps must be linear, and the same at every position: both are measured.
    """
    stage = last_maps(subject, "cam")
    with torch.no_grad():
        *_, (_, features) = walk(subject.net, images, stage)
    head = tail(subject.net, stage)
    features.requires_grad_()
    logits = targets.of(head(features.clone()))  # which it may overwrite
    (slopes,) = torch.autograd.grad(logits.sum(), features)
    with torch.no_grad():
        bias = targets.of(head(torch.zeros_like(features)))
        weights = slopes.mean(dim=(2, 3), keepdim=True)
        cells = (slopes * features).sum(dim=1) * slopes[0, 0].numel()
        size = torch.maximum(logits.abs(), cells.abs().flatten(1).mean(dim=1)).max()
        uneven = (slopes - weights).abs().max() > EXACT * slopes.abs().max()
        if uneven or (cells.flatten(1).mean(dim=1) + bias - logits).abs().max() > EXACT * size:
            raise InputError(
                f"what=cam: this network does not end with a mean over positions and one linear layer after {stage!r}, "
                f"so its logits have no parts by position; {INSTEAD}"
            )
    return cells, bias, logits.detach()


def last_maps(subject: Subject, method: str) -> str:
    """Return the last stage that gives maps of more than one position.

    Raises `InputError` where there is none.
    """
    stages = list(subject.maps())
    if not stages:
        reason = getattr(subject.net, "observe_only", "none of its stages gives maps")
        raise InputError(f"what={method} needs a stage with maps of several positions: {reason}; take what=saliency")
    return stages[-1]


CAM = Attribution(
    cam_maps,
    "part of the {quantity} at a position",
    signed=True,
    remark="The mean of a map plus the bias is the logit: red positions speak for the class, blue ones against it.",
)
