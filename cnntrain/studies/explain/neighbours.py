"""Similar features, similar images? The nearest images by each stage's features, by pixels and by colours.

An image's neighbours are those whose descriptors are nearest, by Euclidean distance or by cosine. The colour histogram
is that of Swain and Ballard, "Color Indexing", IJCV 1991, with eight bins a channel. Retrieval is measured by precision
at k: the share of the k nearest images that are of the same class, where every image asks among all others.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import walk
from cnntrain.runtime import memory
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import counting
from cnntrain.runtime.tables import Row
from cnntrain.stats.jackknife import mean_band
from cnntrain.stats.paired_tests import PairedTest
from cnntrain.studies.explain.embedding import embedding_picture
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.paired import ImageScores, all_pairs, tested
from cnntrain.studies.explain.question import Question
from cnntrain.studies.explain.search import SearchedImages, searched_images, units_to_show
from cnntrain.studies.explain.tiles import Tile, TiledPicture
from cnntrain.training.pictures import mosaic

Metric = Literal["euclidean", "cosine"]
BINS, SHADES = 8, 64  # of a histogram: for each of three channels, and for one
ROWS_AT_ONCE = 500
SAME, OTHER, NOBODY = (0, 114, 178), (213, 94, 0), (160, 160, 160)  # frames, in colours that all can tell apart


@dataclass(frozen=True, eq=False)
class Ranking:
    """The nearest images by one descriptor and metric, the nearest first.

    `places` [M, k] are those of the searched images: rows are first these images themselves, which leave themselves
    out, and then the images that are looked at. `dimensions` are those of the descriptor.
    """

    descriptor: str
    metric: Metric
    dimensions: int
    places: np.ndarray


def neighbours(question: Question) -> Explanation:
    """Return the nearest images of each image by each descriptor, and how often they are of the same class."""
    images, k = searched_images(question), question.options.neighbours
    if k >= len(images):
        raise InputError(f"neighbours={k} is not fewer than the {len(images)} searched images; take a larger search=")
    stages = units_to_show(question, 1).shapes
    check_memory(stages, len(images), len(question.images))
    pixels = np.concatenate([images.pixels(np.arange(len(images))), question.images.pixels])
    itself = copies(pixels[: len(images)], question.images.pixels)
    mapped = last_hidden(question, stages)
    rankings, maps = list[Ranking](), list[TiledPicture]()
    for name, descriptors in all_descriptors(question, images, pixels, stages):
        for metric in get_args(Metric):
            places = nearest(descriptors, len(images), metric, k, itself)
            rankings.append(Ranking(name, metric, descriptors.shape[1], places))
        if name in ("pixels", mapped):
            maps.append(embedding_picture(name, descriptors[: len(images)].numpy(), pixels, question.options.seed))
    pictures = [query_picture(question, images, rankings, pixels, i) for i in range(len(question.images))]
    remarks = [
        f"The {k} nearest of {len(images):,} images of the {images.name} split (search=…), the nearest first; an image "
        "is not its own neighbour. Blue frames: of the same class. Orange frames: of another.",
        "Precision is the share of the same class among them, over all searched images, with a 95 % interval over "
        "these; chance is what any other images would give. How far the cosine finds more than the Euclidean distance, "
        "and each descriptor more than each other, is paired image by image; p is Holm's over all descriptors.",
    ]
    labels = images.split.labels.numpy()
    precisions = [precision(ranking, labels) for ranking in rankings]
    return Explanation([*pictures, *maps], precision_rows(rankings, labels), remarks, pairs=all_pairs(precisions))


def check_memory(stages: Mapping[str, Shape], searched: int, looked_at: int) -> None:
    """Raise `InputError` for a stage whose features of all images would not fit into half of the free memory."""
    free = memory.available() // 2
    for stage, shape in stages.items():
        each = 4 * math.prod(shape)
        if each * (searched + looked_at) > free:
            raise InputError(
                f"what=neighbours: features of stage {stage!r} of {searched:,} images need "
                f"{each * searched / 2**30:.1f} GiB; take search={max(1, free // each - looked_at)} or other stages"
            )


def last_hidden(question: Question, stages: Mapping[str, Shape]) -> str:
    """Return the last of some stages before the classifier, or the classifier where it is alone."""
    hidden = [stage for stage in stages if stage != question.subject.stages[-1]]
    return hidden[-1] if hidden else list(stages)[-1]


def copies(searched: np.ndarray, looked_at: np.ndarray) -> list[np.ndarray]:
    """Return for each image that is looked at the places of the searched ones with exactly its pixels."""
    return [np.flatnonzero((searched == image).all(axis=(1, 2, 3))) for image in looked_at]


def all_descriptors(
    question: Question, images: SearchedImages, pixels: np.ndarray, stages: Mapping[str, Shape]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each descriptor and the descriptors [M, D] of all images, one after the other."""
    yield "pixels", torch.from_numpy(pixels).flatten(1).float() / 255
    yield "colours" if pixels.shape[3] == 3 else "shades", torch.from_numpy(histograms(pixels))
    for stage in stages:
        parts = list[Tensor]()
        with torch.inference_mode(), counting(len(pixels), stage, "image") as progress:
            for start in range(0, len(pixels), images.batch_size):
                batch = question.subject.inputs(pixels[start : start + images.batch_size])
                *_, (_, features) = walk(question.subject.net, batch, stage)
                parts.append(features.flatten(1).float().cpu())
                progress(len(batch))
        yield stage, torch.cat(parts)


def histograms(pixels: np.ndarray) -> np.ndarray:
    """Return the shares of pixels uint8 [N, H, W, C] in each bin of colours or shades, float32 [N, bins]."""
    bins = BINS if pixels.shape[3] == 3 else SHADES
    levels = pixels.astype(np.int64) * bins // 256
    colours = (levels * bins ** np.arange(pixels.shape[3])).sum(axis=3).reshape(len(pixels), -1)
    counts = [np.bincount(each, minlength=bins ** pixels.shape[3]) for each in colours]
    return np.asarray(np.stack(counts) / colours.shape[1], dtype=np.float32)


def nearest(descriptors: Tensor, searched: int, metric: Metric, k: int, itself: Sequence[np.ndarray]) -> np.ndarray:
    """Return the places of the k nearest of the first `searched` descriptors [M, D] for each, [M, k].

    Each of these leaves itself out, and each later one the places in `itself`.
    """
    if metric == "cosine":
        descriptors = torch.nn.functional.normalize(descriptors, dim=1)
    else:
        descriptors = descriptors - descriptors[:searched].mean(dim=0)  # so that squares lose fewer digits
    among, places = descriptors[:searched], list[Tensor]()
    squares = among.square().sum(dim=1)
    for start in range(0, len(descriptors), ROWS_AT_ONCE):
        rows = descriptors[start : start + ROWS_AT_ONCE]
        distances = squares - 2 * rows @ among.T  # less a number that is the same for all of a row
        for i, row in enumerate(range(start, start + len(rows))):
            distances[i, row if row < searched else itself[row - searched]] = torch.inf
        places.append(distances.sort(dim=1, stable=True).indices[:, :k])
    return np.asarray(torch.cat(places))


def precision(ranking: Ranking, labels: np.ndarray) -> ImageScores:
    """Return the share of neighbours of the same class of each searched image, whose labels are [N]."""
    right = labels[ranking.places[: len(labels)]] == labels[:, None]
    name = f"precision at {right.shape[1]}, {ranking.metric}"
    return ImageScores(ranking.descriptor, name, right.mean(axis=1))


def against_euclidean(rankings: Sequence[Ranking], labels: np.ndarray) -> dict[str, PairedTest]:
    """Return by descriptor the test of the cosine against the Euclidean distance."""
    scores = {(each.metric, each.descriptor): precision(each, labels) for each in rankings}
    both = [name for metric, name in scores if metric == "cosine" and ("euclidean", name) in scores]
    tests = tested([(scores["cosine", name], scores["euclidean", name]) for name in both])
    return dict(zip(both, tests, strict=True))


def precision_rows(rankings: Sequence[Ranking], labels: np.ndarray) -> list[Row]:
    """Return a line for each ranking of the searched images, whose labels are [N]."""
    n = len(labels)
    counts = np.bincount(labels)[labels]
    chance = float((counts - 1).mean() / (n - 1))
    tests, rows = against_euclidean(rankings, labels), list[Row]()
    for ranking in rankings:
        mean, low, high = mean_band(precision(ranking, labels).values, (0, 1))
        test = tests.get(ranking.descriptor) if ranking.metric == "cosine" else None
        rows.append(
            {
                "descriptor": ranking.descriptor,
                "metric": ranking.metric,
                "dimensions": ranking.dimensions,
                f"precision at {ranking.places.shape[1]}": mean,
                "low": low,
                "high": high,
                "more than euclidean": test and test.delta,
                "p": test and test.p_holm,
                "chance": chance,
                "n": n,
            }
        )
    return rows


def query_picture(
    question: Question, images: SearchedImages, rankings: Sequence[Ranking], pixels: np.ndarray, i: int
) -> TiledPicture:
    """Return the picture of one image: itself and its neighbours, a row for each descriptor, a column a metric."""
    labels = None if question.images.labels is None else question.images.labels.numpy()
    tiles = list[Tile]()
    for ranking in rankings:
        places = ranking.places[len(images) + i]
        same = None if labels is None else images.split.labels.numpy()[places] == labels[i]
        frames = [NOBODY, *([NOBODY] * len(places) if same is None else [SAME if each else OTHER for each in same])]
        cells = [pixels[len(images) + i], *pixels[places]]
        said = "" if same is None else f": {int(same.sum())} of {len(same)}"
        row = mosaic(np.stack([framed(*each) for each in zip(cells, frames, strict=True)]), columns=len(cells))
        tiles.append(Tile(f"{ranking.descriptor}, {ranking.metric}{said}", row))
    name = question.images.names[i]
    return TiledPicture(f"neighbours_{i + 1:03}", f"{name}, and its nearest", tiles, columns=2, side=3.6, about=i)


def framed(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return an image uint8 [H, W, C] in colours, in a frame."""
    width = max(1, min(image.shape[:2]) // 14)
    coloured = np.broadcast_to(image, (*image.shape[:2], 3))
    sheet = np.empty((image.shape[0] + 2 * width, image.shape[1] + 2 * width, 3), dtype=np.uint8)
    sheet[:] = colour
    sheet[width:-width, width:-width] = coloured
    return sheet
