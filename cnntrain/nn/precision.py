"""Which precision a network computes in: a function of the network and the device, never of a clock.

On a CPU bf16 speeds up products of matrices. Small networks spend their steps on beginning operations, and bf16 begins
more of them; convolutions of one channel each (depthwise) have slow kernels in it. How many times as fast bf16 was as
fp32, steps in one thread of a processor with AVX512-BF16: 1.07 for LeNet-5 on digits (0.4 million multiply-adds an
image) and 1.12 on colour images (0.65), 1.25 for LeNet-5 of twice the width (1.4), 1.8 for a small ConvNet (6), 1.6 for
ResNet-20 (41), 1.8 for AlexNet on 32 pixels (53), 1.9 for VGG-11 (153), 0.75 for MobileNet (46). More threads divide
products, but not the beginning of operations: on two cores with AMX, a step of LeNet-5 took 6.8 ms in bf16 and 6.2 in
fp32.
"""

from typing import Literal

import torch
from torch import nn

from cnntrain.nn.geometry import describe
from cnntrain.nn.shapes import Shape
from cnntrain.runtime.devices import Precision, choose_precision

SMALL = 10**6  # multiply-adds an image, below which bf16 does not pay


def precision_for(
    name: Precision, device: torch.device, *networks: tuple[nn.Sequential, Shape]
) -> Literal["fp32", "bf16"]:
    """Return the precision that "auto" stands for: bf16 where the device computes in it and, on a CPU, where it pays
    for every one of the `networks`, each with the shape of its images.
    """
    chosen = choose_precision(name, device)
    if name == "auto" and chosen == "bf16" and device.type == "cpu":
        return "bf16" if all(gains(net, shape) for net, shape in networks) else "fp32"
    return chosen


def gains(net: nn.Sequential, shape: Shape) -> bool:
    """Say whether bf16 makes a network faster on a CPU that computes in it."""
    stages, _ = describe(net, shape)
    return sum(stage.macs for stage in stages) >= SMALL and not any(map(is_depthwise, net.modules()))


def is_depthwise(module: nn.Module) -> bool:
    """Say whether a layer is a convolution whose filters read one of several channels each."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
