"""A convolution whose filters make what they read uncorrelated."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.blocks import check_window, spatial
from cnntrain.nn.composite import chain
from cnntrain.nn.layers import ACTIVATIONS, Activation
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import Maker

FLOOR = 5e-4  # added to every variance, so that directions without any are not blown up


class Whitening(nn.Conv2d):
    """A convolution whose maps are uncorrelated and of variance one, and their negatives; its bias alone is trained.

    `calibrate` sets the filters to the eigenvectors of the patches' covariance over the roots of its eigenvalues (Page
    2019, "How to train your ResNet 8"; with both signs arXiv:2404.00498, section 3.1). Until then they are drawn as any
    convolution's.
    """

    def __init__(self, channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__(channels, 2 * channels * kernel**2, kernel, bias=bias)
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Make the filters from what reaches the layer, [N, C, H, W]; the mean counts as zero."""
        size = self.weight[0].numel()
        covariance, patches = torch.zeros(size, size, dtype=torch.float64, device=self.weight.device), 0
        for images in batches:
            flat = F.unfold(images.float(), self.kernel_size).transpose(0, 1).flatten(1)  # [C·kernel², patches]
            covariance += (flat @ flat.T).double()
            patches += flat.shape[1]
        variances, directions = torch.linalg.eigh(covariance.cpu() / patches)
        filters = (directions / (variances.clamp(min=0) + FLOOR).sqrt()).T.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))


def whitening(kernel: int, *, bias: bool = True, activation: Activation = "relu") -> Maker:
    """A whitening convolution of twice as many maps as a patch has numbers, then the activation."""

    def make(shape: Shape) -> nn.Module:
        check_window(kernel, 0, spatial(shape))
        return chain(conv=Whitening(shape[0], kernel, bias), act=ACTIVATIONS[activation]())

    return make
