"""All that methods show of one network as views to click through: image by image, stage by stage and unit by unit.

What Yosinski et al. (2015) call the Deep Visualization Toolbox, for any network, on a page that needs no program.
"""

from collections.abc import Iterator, Mapping, Sequence

from cnntrain.report.document import Gallery, PageView, PageViews, Picture
from cnntrain.studies.explain.attribution import image_words
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.question import Question
from cnntrain.studies.explain.tiles import Tile, scale_words, tile_pixels
from cnntrain.training.pictures import as_png


def explorer(question: Question, answers: Mapping[str, Explanation]) -> PageViews:
    """Return a view for each image, for each stage, and for each unit that a method shows."""
    return PageViews([*image_views(question, answers), *stage_views(question, answers)])


def image_views(question: Question, answers: Mapping[str, Explanation]) -> Iterator[PageView]:
    """Yield for each image itself with all maps of it, and below its neighbours."""
    for i, name in enumerate(question.images.names):
        itself = shown("", Tile(image_words(question.images, i, question.subject.info), question.images.pixels[i]))
        tiles = {method: about(answer, i) for method, answer in answers.items()}
        maps = [shown(method, tile) for method in tiles for tile in tiles[method] if tile.scale is not None]
        others = [shown(method, tile) for method in tiles for tile in tiles[method] if method == "neighbours"]
        galleries = [
            Gallery(pictures, few_pixels=True, wide=True) for pictures in ([itself, *maps], others) if pictures
        ]
        yield PageView("images", str(i + 1), name, galleries)


def about(answer: Explanation, what: int | str) -> list[Tile]:
    """Return the tiles of the pictures about an image, by its place, or about a stage."""
    return [tile for picture in answer.pictures if picture.about == what for tile in picture.tiles]


def stage_views(question: Question, answers: Mapping[str, Explanation]) -> Iterator[PageView]:
    """Yield for each stage what methods show of it as a whole, and then of each of its units."""
    for stage in question.subject.stages:
        whole = [shown(method, tile) for method, answer in answers.items() for tile in about(answer, stage)]
        units = sorted({unit for answer in answers.values() for unit in answer.units.get(stage, {})})
        if whole:
            yield PageView(stage, "all", stage, [Gallery(whole, few_pixels=True, wide=True)])
        for unit in units:
            yield PageView(stage, str(unit), f"{stage}, unit {unit}", [unit_gallery(answers, stage, unit)])


def unit_gallery(answers: Mapping[str, Explanation], stage: str, unit: int) -> Gallery:
    """Return what methods show of one unit."""
    tiles = {method: answer.units.get(stage, {}).get(unit, []) for method, answer in answers.items()}
    return Gallery([shown(method, tile) for method in tiles for tile in tiles[method]], few_pixels=True, wide=True)


def shown(method: str, tile: Tile) -> Picture:
    """Return a tile as a picture of a page."""
    lines: Sequence[str] = tile.title.split("\n")
    if tile.scale is not None and tile.behind is None:
        lines = [*lines, scale_words(tile.scale, tile.values)]
    return Picture(as_png(tile_pixels(tile)), f"{method} {tile.title}".strip(), method, lines)
