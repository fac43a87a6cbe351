"""Pictures of an explanation as data, and how they are drawn: tiles in rows, one colour bar, zero is zero."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cnntrain.runtime.drawing import empty_figure
from cnntrain.training.pictures import mosaic

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNED, UNSIGNED = (
    "RdBu_r",
    "magma",
)  # those who are colour-blind tell their ends apart (Brewer; Smith and van der Walt)
LETTER = 0.07  # inches that a letter of a colour bar's label takes
SHOWN_SHARE = 0.995  # of the values lie within the colours, where nobody has said where they end


@dataclass(frozen=True)
class ColourScale:
    """What colours mean: values from zero to `limit`, or from `-limit` where they are signed.

    `label` says what the values are. All pictures of one scale can be compared. Values above or below its ends have the
    colour of the end, and the colour bar says so.
    """

    label: str
    limit: float
    signed: bool = False
    above: bool = False
    below: bool = False


def scale_of(values: np.ndarray, label: str, *, signed: bool, limit: float | None = None) -> ColourScale:
    """Return the scale for all of some values [...]: it ends at `limit`, or where nearly all of them lie within."""
    sizes = np.abs(values)
    end = limit or float(np.quantile(sizes, SHOWN_SHARE)) or float(sizes.max()) or 1.0
    return ColourScale(label, end, signed, above=bool(values.max() > end), below=signed and bool(values.min() < -end))


@dataclass(frozen=True, eq=False)
class Tile:
    """One small picture: an image, values in the colours of a scale, or both.

    `values` are pixels uint8 [H, W, C]; or, with a `scale`, float [H, W], or [H, W, 3] for red, green and blue about
    grey, which is zero. Over the image `behind` (uint8 [H, W, C]) values show the more, the larger they are, up to
    `strength`.
    """

    title: str
    values: np.ndarray
    scale: ColourScale | None = None
    behind: np.ndarray | None = None
    strength: float = 0.7


@dataclass(frozen=True, eq=False)
class TiledPicture:
    """A picture of an explanation: tiles in rows of `columns`; `name` is its file's, `title` is written above.

    Where all tiles that have a scale share one, its colour bar is drawn once; else each tile has its own. `side` is the
    width of a tile in inches.
    `about` is the number of the image or the name of the stage that the picture is about, if it is about one.
    """

    name: str
    title: str
    tiles: Sequence[Tile] = field(default_factory=list)
    columns: int = 3
    side: float = 1.9
    about: int | str | None = None


def sheet_of_values(cells: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Return values [N, H, W, C] in rows with paper between them, as a tile has them: [H, W], or [H, W, 3] of three."""
    if cells.shape[3] == 3:
        return mosaic(cells, columns, between=np.inf)
    return mosaic(cells[..., 0], columns, between=np.nan)


def draw(picture: TiledPicture) -> "Figure":
    """Draw a picture, within `styled`."""
    columns = min(picture.columns, len(picture.tiles))
    rows = math.ceil(len(picture.tiles) / columns)
    heights = [tile.values.shape[0] / tile.values.shape[1] for tile in picture.tiles]
    side = picture.side
    scaled = [tile for tile in picture.tiles if tile.scale]
    scales = list(dict.fromkeys(tile.scale for tile in scaled))
    height = (side * max(heights) + 0.22 + (0.5 if len(scales) > 1 else 0)) * rows + 0.35
    if len(scales) == 1 and scales[0]:
        height = max(height, 0.3 + LETTER * len(scales[0].label))
    figure = empty_figure(side * columns + (0.9 if len(scales) == 1 else 0), height)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, tile in zip(panels, picture.tiles, strict=False):
        draw_tile(axes, tile)
        axes.set_title(tile.title)
    for axes in panels:
        axes.axis("off")
        axes.set_anchor("N")  # of a row the tops are level, whatever stands below
    if len(scales) == 1:
        draw_bar(figure, panels, scaled[0], location="right", shrink=0.9)
    for axes, tile in zip(panels, picture.tiles, strict=False):
        if len(scales) > 1 and tile.scale:
            draw_bar(figure, [axes], tile, location="bottom", shrink=0.9)
    figure.suptitle(picture.title)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found once, not anew for every file
    return figure


def draw_bar(figure: "Figure", panels: "Sequence[Axes]", tile: Tile, **place: Any) -> None:
    """Draw the colour bar of a tile's scale beside some panels."""
    assert tile.scale
    ends = {(True, True): "both", (True, False): "max", (False, True): "min"}
    extend = ends.get((tile.scale.above, tile.scale.below), "neither")
    bar = colours(tile.scale)
    if tile.values.ndim == 3:
        bar.set_cmap("gray")  # red, green and blue each
    figure.colorbar(bar, ax=panels, label=tile.scale.label, extend=extend, **place)


def colours(scale: ColourScale) -> Any:
    """Return matplotlib's map from values to the colours of a scale."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low = -scale.limit if scale.signed else 0.0
    return ScalarMappable(Normalize(low, scale.limit), SIGNED if scale.signed else UNSIGNED)


def draw_tile(axes: "Axes", tile: Tile) -> None:
    """Draw one tile; pixels are not blurred."""
    axes.imshow(tile_pixels(tile), interpolation="nearest")
    axes.set(xticks=[], yticks=[])  # which nobody sees, and which the layout would wait for


def tile_pixels(tile: Tile) -> np.ndarray:
    """Return a tile in colours, uint8 [H, W, 4]; what is not a number is transparent."""
    if tile.scale is None:
        return opaque(tile.values / 255)
    if tile.values.ndim == 3:
        return opaque(np.clip(0.5 + tile.values / (2 * tile.scale.limit), 0, 1))
    painted = colours(tile.scale).to_rgba(tile.values)
    if tile.behind is not None:
        share = tile.strength * np.clip(np.abs(tile.values) / tile.scale.limit, 0, 1)[..., None]
        return opaque(share * painted[..., :3] + (1 - share) * tile.behind / 255)
    return np.asarray((255 * painted).round(), dtype=np.uint8)


def opaque(shares: np.ndarray) -> np.ndarray:
    """Return pixels in 0…1, [H, W, 1 or 3], as uint8 [H, W, 4]."""
    pixels = np.full((*shares.shape[:2], 4), 255, dtype=np.uint8)
    pixels[..., :3] = (255 * shares).round()
    return pixels


def scale_words(scale: ColourScale, values: np.ndarray) -> str:
    """Say in a line what the colours of some values mean."""
    if values.ndim == 3:
        return f"{scale.label}: grey is 0, black {-scale.limit:.3g}, full {scale.limit:.3g}"
    ends = f"blue {-scale.limit:.3g}, white 0, red" if scale.signed else "black 0, bright"
    return f"{scale.label}: {ends} {scale.limit:.3g}"
