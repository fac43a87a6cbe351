"""One style for every figure: colours, lines and letters, on a page or on a projector.

The colours are those of Okabe and Ito (2008), which the colour-blind tell apart; lines differ in their dashes too.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnntrain.runtime import disk

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure

Medium = Literal["page", "slide"] | bool  # what `figures=` takes: true is a page, false asks for none

PAPER, INK, GREY, RULE = "#ffffff", "#1d1f21", "#6b7074", "#d5d5d1"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 2)), (0, (8, 2)))

STYLE: dict[str, Any] = {
    "text.parse_math": False,  # names of a person's own are drawn as typed: `$` begins no formula
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "cnntrain",  # the same figure is the same file
    "axes.unicode_minus": False,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": RULE,
    "legend.frameon": False,
    "legend.fontsize": "small",
}
SIZES = {  # on a page; paddings in inches, the others in points
    "figure.constrained_layout.w_pad": 0.05,
    "figure.constrained_layout.h_pad": 0.05,
    "font.size": 8.0,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "xtick.major.size": 3.0,
    "xtick.major.width": 0.7,
    "ytick.major.size": 3.0,
    "ytick.major.width": 0.7,
}
MEDIA: dict[str, dict[str, Any]] = {
    "page": {"savefig.dpi": 200},
    "slide": {"savefig.dpi": 144, "figure.figsize": (40 / 3, 7.5)},  # 1920×1080
}
SLIDE_SCALE = 2.2  # letters and lines of a slide, measured by those of a page


@contextlib.contextmanager
def styled(medium: Medium = "page") -> Iterator[None]:
    """Draw and write figures in the common style; on a slide they are 16:9, with larger letters and lines."""
    import matplotlib

    scale, size_of = (SLIDE_SCALE, MEDIA["slide"]) if medium == "slide" else (1.0, MEDIA["page"])
    settings: Any = STYLE | {key: scale * size for key, size in SIZES.items()} | size_of
    with matplotlib.rc_context(settings), warnings.catch_warnings():  # its keys are typed as literals
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is a box, and the tables have it right
        yield


def thin() -> float:
    """Return the width of a line that is not the subject of the figure: that of its axes."""
    import matplotlib

    return float(matplotlib.rcParams["axes.linewidth"])


def empty_figure(width: float, height: float) -> "Figure":
    """Return a figure of so many inches on a page, without a window; on a slide it fills that."""
    import matplotlib
    from matplotlib.figure import Figure

    slide = MEDIA["slide"]["figure.figsize"]
    is_slide = tuple(matplotlib.rcParams["figure.figsize"]) == slide
    return Figure(figsize=slide if is_slide else (width, height), layout="constrained")


def write_figure(figure: "Figure", path: Path, kinds: Sequence[Literal["png", "svg"]] = ("png", "svg")) -> None:
    """Write a figure as `path`.png and `path`.svg, or one of them; the same figure gives the same files."""
    stamps = {"png": ("Software",), "svg": ("Date", "Creator")}
    for kind in kinds:
        with disk.replacing(path.with_name(f"{path.name}.{kind}")) as partial:
            figure.savefig(partial, format=kind, metadata=dict.fromkeys(stamps[kind]))
