"""What of an image a unit answers to: its activation projected back to the pixels, beside the patches that excite it.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 2.1. One activation is
kept, all others are zero. On the way down a max pooling gives each value to the position that it came from (its
switch), a ReLU passes what is positive of what arrives, a convolution is its filters transposed, and normalisation over
neighbours is passed over. Batch norm in evaluation is a factor for each map, and is passed as such; the authors had
none. Where poolings overlap, what arrives at one position is added.

Only switches and positions bring the image into a projection: without max pooling it is the same for all images
(Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity", ICLR workshop 2015), which is measured.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cnntrain.nn.geometry import stage_spans
from cnntrain.nn.layers import LocalContrastNorm, LocalResponseNorm
from cnntrain.nn.measures import Spans
from cnntrain.nn.stages import walk
from cnntrain.runtime.progress import counting
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.patches import PATCHES, USUAL_UNITS, patch_rows, patch_tile, remarks, unit_picture
from cnntrain.studies.explain.question import Question, Subject
from cnntrain.studies.explain.relu_rules import image_gradients
from cnntrain.studies.explain.search import SearchedImages, searched_images, units_to_show
from cnntrain.studies.explain.tiles import ColourScale, Tile, sheet_of_values
from cnntrain.studies.explain.units import Exciting, most_exciting, receptive_patch

NORMALISATIONS = (LocalResponseNorm, LocalContrastNorm)  # values compared with their neighbours
SCALE = ColourScale("share of the unit's largest value", 1.0, signed=True)


def deconvnet(question: Question) -> Explanation:
    """Return by stage, for each unit, the patches that excite it most and what of them it answers to."""
    subject = question.subject
    chosen, images = units_to_show(question, USUAL_UNITS), searched_images(question)
    origin = np.zeros(1, dtype=int)
    project(subject, list(chosen.units)[-1], images.pixels([0]), 0, origin, origin)  # refuses before the search
    exciting = most_exciting(subject.net, images.batches("patches"), chosen.units, PATCHES)
    spans = stage_spans(subject.net, subject.info.shape)
    projected = unit_projections(subject, images, exciting, spans)
    tiles: dict[str, dict[int, list[Tile]]] = {stage: {} for stage in exciting}
    for stage, found in exciting.items():
        for i, (unit, values) in enumerate(zip(found.units.tolist(), projected[stage], strict=True)):
            tiles[stage][unit] = [patch_tile(images, found, i, spans.get(stage)), projection_tile(values)]
    pictures = [
        unit_picture("deconvnet", stage, "patches that excite a unit most, and what it answers to in them", units)
        for stage, units in tiles.items()
    ]
    every = [values for units in projected.values() for values in units]
    rows = [
        {**row, "largest projected": float(np.abs(values).max()), "projections alike": likeness(values)}
        for row, values in zip(patch_rows(question, chosen, images, exciting, spans), every, strict=True)
    ]
    how = (
        "Beside the patches of a unit stands its activation there, projected back to the pixels: what is zero plays no "
        "part. Each unit has a scale of its own, which ends at the largest value of its projections. Where these are "
        "alike (the mean cosine between two of them is near 1), they show the unit's filters and little of the images: "
        "so it is in first stages, and wherever no max pooling hands its switches down."
    )
    alone = {stage: {unit: pair[1:] for unit, pair in units.items()} for stage, units in tiles.items()}
    return Explanation(pictures, rows, [*remarks(images, chosen), how], alone)


def unit_projections(
    subject: Subject, images: SearchedImages, exciting: Mapping[str, Exciting], spans: Mapping[str, Spans]
) -> dict[str, list[np.ndarray]]:
    """Return by stage and unit the projections, cut to the patches, [k, h, w, C]."""
    projected: dict[str, list[np.ndarray]] = {stage: [] for stage in exciting}
    with counting(sum(len(found.units) for found in exciting.values()), "deconvnet", "unit") as progress:
        for stage, found in exciting.items():
            for unit, places, rows, columns in zip(found.units, found.places, found.rows, found.columns, strict=True):
                values = project(subject, stage, images.pixels(places), int(unit), rows, columns).numpy()
                positions = zip(values, rows.tolist(), columns.tolist(), strict=True)
                cut = [receptive_patch(each, spans.get(stage), row, column, 0) for each, row, column in positions]
                projected[stage].append(np.stack(cut))
                progress(1)
    return projected


def likeness(values: np.ndarray) -> float | None:
    """Return the mean cosine between two projections of a unit [k, h, w, C]; None where fewer than two are not zero."""
    flat = values.reshape(len(values), -1)
    sizes = np.linalg.norm(flat, axis=1)
    directions = flat[sizes > 0] / sizes[sizes > 0, None]
    k = len(directions)
    return float((np.square(directions.sum(axis=0)).sum() - k) / (k * (k - 1))) if k > 1 else None


def projection_tile(values: np.ndarray) -> Tile:
    """Return the projections [k, h, w, C] of a unit in rows."""
    largest = float(np.abs(values).max())
    return Tile(f"projected: up to {largest:.2g}", sheet_of_values(values / (largest or 1)), SCALE)


def project(
    subject: Subject, stage: str, pixels: np.ndarray, unit: int, rows: np.ndarray, columns: np.ndarray
) -> Tensor:
    """Return the activations of a unit at some positions, one an image, projected back: [N, H, W, C], on the host.

    `pixels` are uint8 [N, H, W, C]. Of a stage that gives numbers the positions are not looked at.

    Raises `InputError` for a network whose units no rule is for.
    """

    def features(x: Tensor) -> Tensor:
        *_, (_, last) = walk(subject.net, x, stage)
        return last

    def kept(maps: Tensor) -> Tensor:
        images = torch.arange(len(maps))
        values = maps[images, unit] if maps.dim() == 2 else maps[images, unit, rows, columns]
        return values * values.detach()  # its slope is the activation

    with normalisation_passed_over(subject.net):
        projected = image_gradients(features, subject.inputs(pixels), kept, "deconvnet")
    return projected.permute(0, 2, 3, 1).cpu()


def passed_over(x: Tensor, output: Tensor) -> Tensor:
    """Return the numbers of an output with the slopes of its input."""
    return output.detach() + (x - x.detach())


class TorchNormalisationPassedOver(TorchFunctionMode):
    """Lets the way back pass over torch's local response normalisation, whether a module or a function asks for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        return passed_over(args[0], output) if func is functional.local_response_norm else output


@contextlib.contextmanager
def normalisation_passed_over(net: nn.Module) -> Iterator[None]:
    """Let the way back pass over what compares a value with its neighbours, as if it were not there."""

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return passed_over(inputs[0], output)

    layers = [module for module in net.modules() if isinstance(module, NORMALISATIONS)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        with TorchNormalisationPassedOver():
            yield
    finally:
        for handle in handles:
            handle.remove()
