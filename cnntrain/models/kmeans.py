"""Features learnt by k-means from patches of pixels: Coates, Lee and Ng, "An Analysis of Single-Layer Networks in
Unsupervised Feature Learning", AISTATS 2011; 79.6 % on CIFAR-10 with 4,000 words.

Windows of 6×6 pixels at every position, each with its contrast normalised, decorrelated together (ZCA); a dictionary;
the "triangle" activation; sums over the image's quarters, standardised; a linear classifier. Deviations: the
dictionary is made by k-means on batches (Sculley 2010) from 100,000 windows of 2,000 images, the paper's from
400,000; the paper's classifier is a support vector machine (`trainer.hinge=squared`, or `cnntrain probe`).
"""

from torch import nn

from cnntrain.nn.blocks import linear
from cnntrain.nn.descriptors import decorrelation, pixel_patches, quadrants, standardisation, words
from cnntrain.nn.dictionary import Assignment
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runtime.ranges import Count


def kmeans(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    patch: Count = 6,
    stride: Count = 1,
    dictionary: Count = 1600,
    assignment: Assignment = "triangle",
) -> nn.Sequential:
    """Windows, decorrelation, how near each word is, sums over quarters, standardisation, a linear classifier."""
    return assemble(
        {
            "patches": pixel_patches(patch, stride),
            "whiten": decorrelation(),
            "words": words(dictionary, assignment=assignment),
            "quadrants": quadrants(),
            "standardise": standardisation(),
            "fc": linear(num_classes),
        },
        in_shape,
        out_shape=(num_classes,),
        build=build,
    )
