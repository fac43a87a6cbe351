"""Attributions: for each image a map that says what its pixels count for a class, whatever the method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.data.storage.images import DatasetInfo
from cnntrain.runtime.progress import counting
from cnntrain.runtime.tables import Row, percent
from cnntrain.studies.explain.explanation import Explanation, Method
from cnntrain.studies.explain.options import Explain, Quantity
from cnntrain.studies.explain.question import ImageSet, Question, Subject, Targets
from cnntrain.studies.explain.tiles import ColourScale, Tile, TiledPicture, scale_of


@dataclass(frozen=True, eq=False)
class AttributionMaps:
    """Maps of some images, float32 [N, H, W] in the images' size, and columns of their table, a number an image."""

    values: Tensor
    columns: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Attribution:
    """A method that gives each image a map.

    `maps` takes the network, images as it takes them [N, C, H, W], what is explained of them, and the options. `label`
    says what the values are, with `{quantity}` in it; `usual` is the quantity that the method's authors explain. A map
    that is not `of_class` is the same whatever class is explained.
    """

    maps: Callable[[Subject, Tensor, Targets, Explain], AttributionMaps]
    label: str
    signed: bool
    usual: Quantity = "logit"
    remark: str = ""
    of_class: bool = True


def attribute(attribution: Attribution, question: Question, name: str) -> AttributionMaps:
    """Return the maps of all images of a question, on the host."""
    targets, parts = question.targets(attribution.usual), list[AttributionMaps]()
    with counting(len(question.images), name, "image") as progress:
        for _, inputs, some in question.batches(targets):
            made = attribution.maps(question.subject, inputs, some, question.options)
            parts.append(AttributionMaps(made.values.detach().cpu(), made.columns))
            progress(len(inputs))
    columns = {key: [value for part in parts for value in part.columns[key]] for key in parts[0].columns}
    return AttributionMaps(torch.cat([part.values for part in parts]), columns)


def explain_images(name: str, attribution: Attribution) -> Method:
    """Return the method that draws the maps of an attribution beside the images and over them."""

    def method(question: Question) -> Explanation:
        maps = attribute(attribution, question, name)
        values, options, targets = maps.values.numpy(), question.options, question.targets(attribution.usual)
        label = attribution.label.format(quantity=targets.quantity)
        scale = scale_of(values, label, signed=attribution.signed, limit=options.limit)
        rows = image_rows(question.images, targets, question.subject.info, maps)
        words = [
            target_words(question.images, i, targets, question.subject.info) if attribution.of_class else "of any class"
            for i in range(len(question.images))
        ]
        pictures = [image_picture(name, question, i, said, values[i], scale) for i, said in enumerate(words)]
        return Explanation(pictures, rows, [attribution.remark] if attribution.remark else [])

    return method


def image_picture(
    name: str, question: Question, i: int, said: str, values: np.ndarray, scale: ColourScale
) -> TiledPicture:
    """Return the picture of one image: itself, its map with what is `said` of it, and the map over it."""
    image = question.images.pixels[i]
    tiles = [
        Tile(image_words(question.images, i, question.subject.info), image),
        Tile(said, values, scale),
        Tile("over the image", values, scale, image, question.options.strength),
    ]
    return TiledPicture(f"{name}_{i + 1:03}", f"{name}: {question.images.names[i]}", tiles, about=i)


def side_by_side(question: Question, answers: Mapping[str, Explanation]) -> list[TiledPicture]:
    """Return for each image a picture of itself and of its maps by each method, each on its method's scale."""
    pictures = list[TiledPicture]()
    for i, name in enumerate(question.images.names):
        tiles = [Tile(image_words(question.images, i, question.subject.info), question.images.pixels[i])]
        for method, answer in answers.items():
            tile = answer.pictures[i].tiles[1]  # as `image_picture` has them
            tiles.append(replace(tile, title=f"{method}\n{tile.title}"))
        pictures.append(TiledPicture(f"beside_{i + 1:03}", name, tiles, side=2.2, about=i))
    return pictures


def image_words(images: ImageSet, i: int, info: DatasetInfo) -> str:
    """Say what an image shows and what the network takes it for."""
    shares = images.logits[i].softmax(dim=0)
    predicted = int(shares.argmax())
    true = "" if images.labels is None else f"shows {info.classes[int(images.labels[i])]}\n"
    return f"{true}taken for {info.classes[predicted]} ({percent(float(shares[predicted]), 1)})"


def target_words(images: ImageSet, i: int, targets: Targets, info: DatasetInfo) -> str:
    """Say which class is explained, and what the network gives it."""
    chosen = int(targets.classes[i])
    value = float(targets.of(images.logits)[i])
    written = percent(value, 1) if targets.quantity == "probability" else f"{value:.2f}"
    return f"evidence for {info.classes[chosen]}\n({targets.quantity} {written})"


def image_rows(images: ImageSet, targets: Targets, info: DatasetInfo, maps: AttributionMaps) -> list[Row]:
    """Return a line for each image: what it shows, what is explained, and the range of its map."""
    shares, explained = images.logits.softmax(dim=1), targets.of(images.logits).tolist()
    rows = list[Row]()
    for i, name in enumerate(images.names):
        predicted = int(shares[i].argmax())
        rows.append(
            {
                "image": name,
                "true": None if images.labels is None else info.classes[int(images.labels[i])],
                "predicted": info.classes[predicted],
                "probability": float(shares[i, predicted]),
                "target": info.classes[int(targets.classes[i])],
                targets.quantity if targets.quantity == "logit" else "target's probability": explained[i],
                "smallest": float(maps.values[i].min()),
                "largest": float(maps.values[i].max()),
                **{key: column[i] for key, column in maps.columns.items()},
            }
        )
    return rows


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps [N, h, w] in another size [N, H, W], bilinear: a cell stands at the middle of its part."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
