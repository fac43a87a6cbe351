"""The sizes of the networks of a study, and what so many seeds can show; no image is read."""

from collections.abc import Sequence

from torch import nn

from cnntrain.config.build import build_model
from cnntrain.nn.geometry import StageGeometry as Row
from cnntrain.nn.geometry import describe
from cnntrain.stats.looks import Look
from cnntrain.stats.paired_tests import LEVEL, seeds_needed
from cnntrain.stats.power import detectable
from cnntrain.studies.cells import Variant
from cnntrain.studies.variants import info_of


def network(variant: Variant) -> nn.Sequential:
    """Build a variant's network without memory."""
    return build_model(variant.settings["model"], info_of(variant.settings), device="meta")


def rows_of(net: nn.Sequential, shape: tuple[int, ...]) -> tuple[list[Row], int | None]:
    """Return a network's stages and its multiplications, None where a foreign layer's are not known."""
    rows, lacking = describe(net, shape)
    return rows, None if lacking else sum(row.macs for row in rows)


def last_field(rows: Sequence[Row]) -> tuple[int, int] | None:
    """Return what one position of the last maps sees; None where no stage gives maps."""
    maps = [row.receptive_field for row in rows if row.receptive_field and len(row.out_shape) == 3]
    return maps[-1] if maps else None


# What can be concluded.


def prospects(look: Look, comparisons: int) -> str:
    """Say what a study can conclude at this look; nothing has to be known of it but seeds and variants."""
    n, level = len(look.seeds), look.level
    family, needed = (
        "one comparison" if comparisons == 1 else f"{comparisons} comparisons",
        seeds_needed(comparisons, level),
    )
    at = f"level {level:.2g}{'' if level == LEVEL else f' of {LEVEL} at this look'}"
    if n == 1:
        return "one seed cannot show that a difference is significant"
    if needed is None:
        return f"nothing is left of the significance level {LEVEL}: take other seeds in a new study"
    if n < needed:
        need = f"{family} need{'s' if comparisons == 1 else ''} at least {needed} ({at})"
        return f"{n} seeds are too few to show a significant difference: {need}"
    effect, holm = detectable(n, level / comparisons), " after Holm's correction" if comparisons > 1 else ""
    return (
        f"{n} seeds, {family}, {at}{holm}: 80 % power for a difference of {effect:.1f} standard deviations over seeds"
    )
