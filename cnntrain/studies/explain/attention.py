"""The maps of spatial attention: how much each position counts in the mean that the classifier sees."""

import torch
from torch import Tensor, nn

from cnntrain.nn.attention import SpatialAttention
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.attribution import Attribution, AttributionMaps, enlarged
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.question import Subject, Targets


@torch.no_grad()
def attention_maps(subject: Subject, images: Tensor, targets: Targets, options: Explain) -> AttributionMaps:
    """Return the weight of each position, as a multiple of an equal share; the class plays no part.

    The columns are the largest weight, and how many positions it would take with equal weights to be as spread out
    (the exponential of the weights' entropy). Raises `InputError` for a network without attention.
    """
    weights = attention_weights(subject.net, attention_layer(subject), images)
    shares = weights.flatten(1)
    entropy = torch.special.entr(shares).sum(dim=1)
    values = enlarged(weights * shares.shape[1], (images.shape[2], images.shape[3]))
    columns = {"largest weight": shares.amax(dim=1).tolist(), "positions": entropy.exp().tolist()}
    return AttributionMaps(values, columns)


def attention_weights(net: nn.Module, layer: SpatialAttention, images: Tensor) -> Tensor:
    """Return how much each position counts where `layer` runs, [N, H, W].

    Raises `InputError` where it runs more than once.
    """
    weights = list[Tensor]()
    handle = layer.register_forward_pre_hook(lambda module, arguments: weights.append(layer.attention(arguments[0])))
    try:
        net(images)
    finally:
        handle.remove()
    if len(weights) != 1:
        raise InputError(f"what=attention: this network attends {len(weights)} times with one layer; take what=gradcam")
    return weights[0]


def attention_layer(subject: Subject) -> SpatialAttention:
    """Return the attention of a network.

    Raises `InputError` where there is none, or several.
    """
    layers = [module for module in subject.net.modules() if isinstance(module, SpatialAttention)]
    if not layers:
        raise InputError(
            "what=attention: this network has no attention; train one with model.attention=true "
            "(init_from=<run> begins with the weights of a run), or take what=cam"
        )
    if len(layers) > 1:
        raise InputError(f"what=attention: this network has {len(layers)} layers of attention; take what=gradcam")
    return layers[0]


ATTENTION = Attribution(
    attention_maps,
    "weight of a position, 1 = equal share",
    signed=False,
    remark="Attention weights the mean over positions; the weights of an image have the mean 1. They do not depend on "
    "the class that is explained.",
    of_class=False,
)
