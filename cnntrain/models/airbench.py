"""The network of the 94 % records on CIFAR-10: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024
(arXiv:2404.00498, section 3), as trained with Muon (github.com/KellerJordan/cifar10-airbench).

Deviations: the scores are not divided by the number of inputs; instead the last weights are drawn so much smaller, and
learn at a rate divided by its square. Batch norm's ε is torch's, 1e-5. The last pooling's window may reach over the
border, so that smaller images can be trained on; at 32 pixels it fits.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from cnntrain.nn.blocks import batch_norm, check_count, conv, linear, norm_act, pooling
from cnntrain.nn.initialisers import dirac
from cnntrain.nn.layers import Activation
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions, Maker, assemble
from cnntrain.nn.whitening import whitening
from cnntrain.runtime.ranges import Count, Fraction


def airbench(
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    widths: Sequence[Count] = (64, 256, 256),
    whiten_bias: bool = True,
    activation: Activation = "gelu",
    norm_momentum: Fraction = 0.4,
    norm_scale: bool = False,
    identity: bool = True,
) -> nn.Sequential:
    """A whitening convolution, three groups of two 3×3 convolutions with a pooling in the first, a pooling, linear.

    Without `whiten_bias` nothing is trained before the first group, and gradients end there. `norm_momentum` and
    `norm_scale` are those of `blocks.batch_norm`; `identity` begins with filters that pass on their input
    (`initialisers.dirac`).
    """
    check_count(widths, 3, "widths")
    norm = partial(batch_norm, momentum=norm_momentum, scale=norm_scale)
    makers: dict[str, Maker] = {"whiten": whitening(2, bias=whiten_bias, activation=activation)}
    for group, width in enumerate(widths, 1):
        makers |= {
            f"conv{group}_1": conv(width, 3, padding=1, bias=False, activation="none"),
            f"pool{group}": pooling("max", 2),
            f"norm{group}": norm_act(norm, activation),
            f"conv{group}_2": conv(width, 3, padding=1, norm=norm, activation=activation),
        }
    makers |= {"pool4": pooling("max", 3, ceil=True), "fc": linear(num_classes, bias=False)}
    init = partial(first_weights, identity=identity)
    return assemble(makers, in_shape, out_shape=(num_classes,), init=init, build=build)


def first_weights(leaf: nn.Module, *, identity: bool) -> None:
    """Small scores to begin with, and with `identity` filters that pass on their input."""
    if isinstance(leaf, nn.Linear):
        with torch.no_grad():
            leaf.weight /= leaf.weight.std() * leaf.in_features
    if identity:
        dirac(leaf)
