"""The figure of a study: what each variant changes, with its interval."""

from typing import TYPE_CHECKING

from cnntrain.report.forest import forest
from cnntrain.studies.answer import Answer

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure


def differences_figure(study: Answer) -> "Figure":
    """Draw the variants, sorted by their difference from the first. Those without one are left out."""
    label = f"test {study.headline.label} minus that of {study.first.variant}, percentage points"
    return forest([row.test for row in study.table[1:]], label, "95 % intervals over seeds; filled: significant")
