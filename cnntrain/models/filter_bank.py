"""Banks of filters that people designed, the mean strength of their responses in the parts of an image, and a linear
classifier.

`filter_bank` has the small kernels that are taught first. `gabor` is that of Manjunath and Ma, "Texture Features for
Browsing and Retrieval of Image Data", PAMI 1996: four scales and six orientations, the length of each pair of waves.
Deviations: the paper takes mean and deviation over a whole texture, and numbers divided by their deviation over all
images; here a pyramid's means, standardised. Wavelengths are 3 to 8.5 pixels, because images here are small.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from cnntrain.nn.blocks import linear
from cnntrain.nn.descriptors import filters, pyramid, standardisation
from cnntrain.nn.filters import BANKS, BothSigns, Grey, Magnitude, bank, gabor_radius, gabor_waves
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runtime.ranges import Count

Kernel = Literal["blur", "binomial", "edges", "sobel", "corners"]


def filter_bank(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    kernels: Sequence[Kernel] = ("blur", "edges", "sobel", "corners"),
    levels: Count = 3,
) -> nn.Sequential:
    """Kernels of 3×3 over every channel, both signs of their responses, a pyramid, a linear classifier."""
    count = sum(len(BANKS[name]) for name in kernels)
    return assemble(
        {
            "filters": filters(partial(bank, kernels), count, 3),
            "signs": lambda shape: BothSigns(),
            "pyramid": pyramid(levels),
            "standardise": standardisation(),
            "fc": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )


def gabor(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    scales: Count = 4,
    orientations: Count = 6,
    levels: Count = 3,
) -> nn.Sequential:
    """Waves of several lengths and directions over a grey image, their strength, a pyramid, a linear classifier."""
    waves = partial(gabor_waves, scales, orientations)
    return assemble(
        {
            "grey": lambda shape: Grey(),
            "filters": filters(waves, 2 * scales * orientations, 2 * gabor_radius(scales) + 1),
            "magnitude": lambda shape: Magnitude(),
            "pyramid": pyramid(levels),
            "standardise": standardisation(),
            "fc": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )
