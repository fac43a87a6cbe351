"""The maps of some images, stage by stage: what each unit answers at each position, and how much of it is zero."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from cnntrain.nn.stages import walk
from cnntrain.runtime.tables import Row
from cnntrain.studies.explain.attribution import image_words
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.question import Question
from cnntrain.studies.explain.search import units_to_show
from cnntrain.studies.explain.tiles import Tile, TiledPicture, scale_of
from cnntrain.studies.explain.units import last_of
from cnntrain.training.pictures import mosaic

USUAL_UNITS = 16


def maps(question: Question) -> Explanation:
    """Return by stage the maps of some units on each image, and the share of zeros over all units."""
    chosen = units_to_show(question, USUAL_UNITS)
    shown: dict[str, list[np.ndarray]] = {stage: [] for stage in chosen.units}
    totals = {stage: StageTotals() for stage in chosen.units}
    with torch.no_grad():
        for _, inputs, _ in question.batches(question.targets("logit")):
            for stage, features in walk(question.subject.net, inputs, last_of(question.subject.net, chosen.units)):
                if stage in chosen.units:
                    totals[stage].add(features)
                    shown[stage].append(features[:, chosen.units[stage]].float().cpu().numpy())
    pictures = [stage_picture(question, stage, np.concatenate(parts)) for stage, parts in shown.items()]
    rows = stage_rows(totals, {stage: shape[0] for stage, shape in chosen.shapes.items()})
    return Explanation(
        [images_picture(question), *pictures],
        rows,
        [
            "Each image has its maps in one tile, unit by unit in rows; a stage of numbers has a cell a unit. "
            "The table counts all units of a stage at all positions of these images.",
            *filter(None, [chosen.left_out]),
        ],
    )


class StageTotals:
    """Sums over all values of a stage: how many there are, are zero and are negative, their mean and their largest."""

    def __init__(self) -> None:
        self.count = self.zero = self.negative = 0
        self.sum, self.largest = 0.0, -np.inf

    def add(self, features: Tensor) -> None:
        """Count the features of some images."""
        self.count += features.numel()
        self.zero += int((features == 0).sum())
        self.negative += int((features < 0).sum())
        self.sum += float(features.double().sum())
        self.largest = max(self.largest, float(features.max()))


def stage_rows(totals: Mapping[str, StageTotals], units: Mapping[str, int]) -> list[Row]:
    """Return a line for each stage."""
    return [
        {
            "stage": stage,
            "units": units[stage],
            "values": total.count,
            "zero": total.zero / total.count,
            "negative": total.negative / total.count,
            "mean": total.sum / total.count,
            "largest": total.largest,
        }
        for stage, total in totals.items()
    ]


def images_picture(question: Question) -> TiledPicture:
    """Return the picture of the images themselves."""
    images = question.images
    tiles = [Tile(image_words(images, i, question.subject.info), images.pixels[i]) for i in range(len(images))]
    return TiledPicture("maps_images", "the images", tiles, columns=4)


def stage_picture(question: Question, stage: str, values: np.ndarray) -> TiledPicture:
    """Return the picture of a stage's maps [N, units, …] of some images."""
    signed = bool((values < 0).any())
    scale = scale_of(values, f"activation of {stage}", signed=signed)
    cells = values if values.ndim == 4 else values[..., None, None]
    gap = 1 if cells.shape[2] > 1 else 0
    tiles = [
        Tile(name, mosaic(cells[i], gap=gap, between=np.nan), scale) for i, name in enumerate(question.images.names)
    ]
    return TiledPicture(f"maps_{stage}", f"{stage}: {len(values[0])} units on each image", tiles, columns=4)
