"""Bags of visual words with a spatial pyramid: Lazebnik, Schmid and Ponce, "Beyond Bags of Features", CVPR 2006.

Dense descriptors like Lowe's (2004): gradients in eight directions, 4×4 cells under a Gaussian, lengths clipped at 0.2;
a dictionary by k-means; the shares of its words in the image, its quarters and its sixteenths, with the paper's
weights. Patches are 16×16 pixels every 8 for images of 48 pixels a side and more, and 8×8 every 4 below.

Deviations: the paper compares histograms by their intersection, which no linear layer can; here the classifier reads
their square roots, whose product is Hellinger's similarity. Descriptors of flat patches are kept, as zeros. Images come
with each channel normalised by the dataset's mean and deviation.
"""

from torch import nn

from cnntrain.nn.blocks import by_size, linear
from cnntrain.nn.descriptors import cell_sums, clipped_norm, oriented_gradients, pyramid, words
from cnntrain.nn.filters import Root
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runtime.ranges import Count


def bow(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    bins: Count = 8,
    cell: Count | None = None,
    block: Count = 4,
    stride: Count = 2,
    dictionary: Count = 200,
    levels: Count = 3,
) -> nn.Sequential:
    """Gradients, cells, normalised descriptors, the nearest words, a pyramid of their shares, a linear classifier."""
    side = cell or by_size(in_shape, small=2, medium=4, large=4)
    return assemble(
        {
            "gradients": oriented_gradients(bins, signed=True, votes="linear"),
            "cells": cell_sums(block, side, stride=stride * side),
            "normalise": clipped_norm(),
            "words": words(dictionary),
            "pyramid": pyramid(levels),
            "root": lambda shape: Root(),
            "fc": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )
