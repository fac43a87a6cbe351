"""How far a picture is from a photograph's content and from a painting's style: features and their Gram matrices.

Three recipes weight the layers. `paper`: Gatys, Ecker and Bethge, CVPR 2016, equations 1 to 7. `notebook`: the
authors' own program (PytorchNeuralStyleTransfer). `relative`: every difference as a share of what it is compared with,
so that the weights mean the same for any network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cnntrain.nn.stages import walk
from cnntrain.studies.style.network import Features
from cnntrain.studies.style.options import Recipe

LossPart = tuple[Literal["content", "style", "variation"], str]  # what is compared, at which stage

WEIGHTS: dict[Recipe, tuple[float, float]] = {  # α of the content and β of the style
    "paper": (1.0, 1e3),
    "notebook": (1.0, 1e3),
    "relative": (1.0, 10.0),
}

LEAST = 1e-12  # what a share is of at least: a layer that gives nothing has no difference


@dataclass(frozen=True)
class StyleTargets:
    """What a picture shall have: maps [1, C, H, W] of content stages, Gram matrices [C, C] of style stages."""

    content: Mapping[str, Tensor]
    style: Mapping[str, Tensor]


@dataclass(frozen=True)
class Weighting:
    """How the differences are added up: the recipe, α, β, and the weight of the total variation."""

    recipe: Recipe
    alpha: float
    beta: float
    variation: float = 0.0


def gram(maps: Tensor) -> Tensor:
    """Return the Gram matrix [C, C] of maps [1, C, H, W]: products of channels, as means over the positions."""
    flat = maps.flatten(2)[0]
    return flat @ flat.T / flat.shape[1]


def targets(features: Features, content: Tensor, style: Tensor) -> StyleTargets:
    """Return what the stages of content make of one picture [1, C, H, W], and those of style of another."""
    with torch.no_grad():
        maps = {name: x for name, x in walk(features.net, content) if name in features.content}
        grams = {name: gram(x) for name, x in walk(features.net, style) if name in features.style}
    return StyleTargets(maps, grams)


def losses(net: nn.Sequential, picture: Tensor, wanted: StyleTargets, how: Weighting) -> dict[LossPart, Tensor]:
    """Return the weighted loss of each layer of a picture [1, C, H, W], by what it measures and the stage's name."""
    found: dict[LossPart, Tensor] = {}
    for name, maps in walk(net, picture):
        if how.alpha and name in wanted.content:
            difference = content_difference(how.recipe, maps, wanted.content[name])
            found["content", name] = how.alpha * difference / len(wanted.content)
        if how.beta and name in wanted.style:
            found["style", name] = how.beta * style_difference(how.recipe, gram(maps), wanted.style[name], wanted)
    if how.variation:
        found["variation", "input"] = how.variation * total_variation(picture)
    return found


def content_difference(recipe: Recipe, maps: Tensor, target: Tensor) -> Tensor:
    """Return how far maps are from those of the content."""
    squares = (maps - target).square()
    match recipe:
        case "paper":
            return squares.sum() / 2
        case "notebook":
            return squares.mean()
        case "relative":
            return squares.sum() / target.square().sum().clamp_min(LEAST)


def style_difference(recipe: Recipe, matrix: Tensor, target: Tensor, wanted: StyleTargets) -> Tensor:
    """Return how far a Gram matrix of n channels is from that of the style.

    The paper divides sums over positions by 4 n² M²; of means over M positions 4 n² is left.
    """
    squares, n = (matrix - target).square(), len(target)
    match recipe:
        case "paper":
            return squares.sum() / (4 * n**2) / len(wanted.style)
        case "notebook":
            return squares.mean() / n**2
        case "relative":
            return squares.sum() / target.square().sum().clamp_min(LEAST) / len(wanted.style)


def total_variation(picture: Tensor) -> Tensor:
    """Return the mean difference of neighbouring pixels, down and across."""
    return picture.diff(dim=2).abs().mean() + picture.diff(dim=3).abs().mean()
