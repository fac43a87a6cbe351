"""Initial weights that replace those of a leaf's own `reset_parameters`: functions of one leaf, for `assemble`."""

from torch import nn


def he_normal(leaf: nn.Module) -> None:
    """Normal weights of variance 2 / (outputs × kernel area) for convolutions (He et al. 2015, section 2.2)."""
    if isinstance(leaf, nn.Conv2d):
        nn.init.kaiming_normal_(leaf.weight, mode="fan_out", nonlinearity="relu")


def he_normal_inputs(leaf: nn.Module) -> None:
    """Normal weights of variance 2 / inputs of a unit, biases of zero: for plain ReLU networks (He et al. 2015)."""
    if isinstance(leaf, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(leaf.weight, nonlinearity="relu")
        if leaf.bias is not None:
            nn.init.zeros_(leaf.bias)


def dirac(leaf: nn.Module) -> None:
    """The first filters of a convolution pass on its input, map by map; the others stay as they are.

    Zagoruyko and Komodakis 2017 (arXiv:1706.00388), for the part of the filters that has an input (arXiv:2404.00498,
    section 3.2). Even windows have no middle and stay as they are.
    """
    if isinstance(leaf, nn.Conv2d) and all(side % 2 for side in leaf.kernel_size):
        nn.init.dirac_(leaf.weight.detach()[: leaf.weight.shape[1]])
