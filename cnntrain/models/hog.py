"""Histograms of oriented gradients: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR
2005, with a linear classifier of as many classes as there are.

The constants are the paper's: differences [-1, 0, 1] without smoothing, of the colour channel with the longest
gradient; nine orientations in 0 .. 180°; cells of 8×8 pixels in overlapping blocks of 2×2 cells; votes divided between
the nearest bins and cells; a Gaussian of half a block's side; L2-Hys. A window of 64×128 pixels has 3,780 numbers.

Deviations: images come with each channel normalised by the dataset's mean and deviation, so that channels are compared
in units of their deviations. The paper's detector reads pixels around its window; here borders are mirrored, so that
the gradient across them is zero. Pixels at the right and at the bottom that fill no block are left out.
"""

from torch import nn

from cnntrain.nn.blocks import linear
from cnntrain.nn.descriptors import cell_sums, clipped_norm, oriented_gradients
from cnntrain.nn.filters import Votes
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runtime.ranges import Count


def hog(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    bins: Count = 9,
    signed: bool = False,
    cell: Count = 8,
    block: Count = 2,
    votes: Votes = "linear",
    gaussian: bool = True,
) -> nn.Sequential:
    """Oriented gradients, histograms of cells in blocks, normalisation of each block, a linear classifier."""
    return assemble(
        {
            "gradients": oriented_gradients(bins, signed=signed, votes=votes),
            "blocks": cell_sums(block, cell, stride=cell, gaussian=gaussian, votes=votes),
            "normalise": clipped_norm(),
            "fc": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )
