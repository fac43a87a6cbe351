"""Makers of the stages that people designed before networks learnt theirs: filters, histograms, words, pyramids."""

import math
from functools import partial

from torch import nn

from cnntrain.nn.blocks import check_window, spatial
from cnntrain.nn.composite import chain
from cnntrain.nn.dictionary import Assignment, ColourBins, Decorrelation, Standardisation, Words
from cnntrain.nn.filters import (
    ClippedNorm,
    Contrast,
    FixedFilters,
    Kernels,
    Orientations,
    Votes,
    cells,
    differences,
    patches,
)
from cnntrain.nn.pyramid import Pyramid, spatial_pyramid
from cnntrain.nn.shapes import Shape, describe_shape
from cnntrain.nn.stages import Maker, widenable


def filters(draw: Kernels, count: int, side: int) -> Maker:
    """The same kernels over every map, whose borders are mirrored so that the shape stays."""

    def make(shape: Shape) -> nn.Module:
        if side // 2 >= min(spatial(shape)[1:]):
            raise ValueError(f"filters of {side}×{side} do not fit into maps of {describe_shape(shape[1:])}")
        return FixedFilters(draw, count, side, padding=side // 2)

    return make


@widenable
def oriented_gradients(bins: int, *, signed: bool, votes: Votes) -> Maker:
    """Maps of gradient length, one an orientation."""

    def make(shape: Shape) -> nn.Module:
        responses = filters(differences, 2, 3)(shape)
        return chain(differences=responses, votes=Orientations(bins, signed=signed, votes=votes))

    return make


def cell_sums(side: int, cell: int, *, stride: int, gaussian: bool = True, votes: Votes = "linear") -> Maker:
    """Sums over the side² cells of windows, of every map that arrives."""

    def make(shape: Shape) -> nn.Module:
        check_window(side * cell, 0, spatial(shape))
        draw = partial(cells, side, cell, side * cell / 2 if gaussian else math.inf, votes=votes)
        return FixedFilters(draw, side**2, side * cell, stride=stride)

    return make


def clipped_norm() -> Maker:
    """Channels of length one, clipped at 0.2 and brought to length one again."""
    return lambda shape: ClippedNorm()


def colour_bins(bins: int, *, joint: bool, votes: Votes) -> Maker:
    """Which bin of each channel, or of all at once, a pixel is in."""
    return lambda shape: ColourBins(spatial(shape)[0], bins, joint=joint, votes=votes)


def pixel_patches(side: int, stride: int) -> Maker:
    """The pixels of windows as channels, each window with its mean taken off and its contrast divided out."""

    def make(shape: Shape) -> nn.Module:
        check_window(side, 0, spatial(shape))
        windows = FixedFilters(partial(patches, side), side**2, side, stride=stride)
        return chain(patches=windows, contrast=Contrast())

    return make


def decorrelation() -> Maker:
    """Channels that are uncorrelated and of equal variance."""
    return lambda shape: Decorrelation(spatial(shape)[0])


@widenable
def words(count: int, *, assignment: Assignment = "nearest") -> Maker:
    """The words of a dictionary that is learnt from images, in each position."""
    return lambda shape: Words(spatial(shape)[0], count, assignment)


def pyramid(levels: int) -> Maker:
    """The shares of all maps in the image, in its quarters, in sixteen parts …"""

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        return spatial_pyramid(levels)

    return make


def quadrants() -> Maker:
    """The share of each map in each quarter of the image."""

    def make(shape: Shape) -> nn.Module:
        spatial(shape)
        return Pyramid([2], [1.0])

    return make


def standardisation() -> Maker:
    """Every number with mean zero and the same deviation over the images."""

    def make(shape: Shape) -> nn.Module:
        flatten = nn.Flatten() if len(shape) > 1 else None
        return chain(flatten=flatten, standardise=Standardisation(math.prod(shape)))

    return make
