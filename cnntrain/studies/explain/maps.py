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
from cnntrain.studies.explain.tiles import ColourScale, Tile, TiledPicture, scale_of
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
    values = {stage: np.concatenate(parts) for stage, parts in shown.items()}
    pictures = [stage_picture(question, stage, maps) for stage, maps in values.items()]
    rows = stage_rows(totals, {stage: shape[0] for stage, shape in chosen.shapes.items()})
    return Explanation(
        [images_picture(question), *pictures],
        rows,
        [
            "Each image has its maps in one tile, unit by unit in rows; a stage of numbers has a cell a unit. "
            "The table counts all units of a stage at all positions of these images.",
            *filter(None, [chosen.left_out]),
        ],
        {stage: unit_tiles(stage, chosen.units[stage], maps) for stage, maps in values.items()},
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
    scale = stage_scale(stage, values)
    tiles = [Tile(name, cells(maps), scale) for name, maps in zip(question.images.names, values, strict=True)]
    title = f"{stage}: {len(values[0])} units on each image"
    return TiledPicture(f"maps_{stage}", title, tiles, columns=4, about=stage)


def unit_tiles(stage: str, units: np.ndarray, values: np.ndarray) -> dict[int, list[Tile]]:
    """Return by its number the maps of each unit of a stage [N, units, …] on all images."""
    scale = stage_scale(stage, values)
    return {unit: [Tile("on each image", cells(values[:, i]), scale)] for i, unit in enumerate(units.tolist())}


def stage_scale(stage: str, values: np.ndarray) -> ColourScale:
    """Return the scale of all maps of a stage."""
    return scale_of(values, f"activation of {stage}", signed=bool((values < 0).any()))


def cells(values: np.ndarray) -> np.ndarray:
    """Return maps [N, h, w] in rows, or numbers [N] as cells without gaps."""
    maps = values if values.ndim == 3 else values[:, None, None]
    return mosaic(maps, gap=int(maps.shape[1] > 1), between=np.nan)
