"""Histograms of colours: the shares of pixels in bins of each channel, and a linear classifier.

Bins of all combinations (`joint`) are those of Swain and Ballard, "Color Indexing", IJCV 1991, section 2.1, in the
channels of the images rather than in opponent axes. Deviations: the numbers are standardised before the classifier,
and a pixel counts for the two nearest bins, so that gradients reach it; `votes=hard` counts as a histogram does.
"""

from torch import nn

from cnntrain.nn.blocks import linear
from cnntrain.nn.descriptors import colour_bins, pyramid, standardisation
from cnntrain.nn.filters import Votes
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runtime.ranges import Count


def colour_histogram(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    bins: Count = 16,
    joint: bool = False,
    votes: Votes = "linear",
    levels: Count = 1,
) -> nn.Sequential:
    """Bins of colours, their shares in the image (and in its parts), standardisation, a linear classifier."""
    return assemble(
        {
            "colours": colour_bins(bins, joint=joint, votes=votes),
            "pyramid": pyramid(levels),
            "standardise": standardisation(),
            "fc": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )
