"""Which precision a network computes in: a function of the network and the device, never of a clock.

On a CPU bf16 speeds up products of matrices. Small networks spend their steps on beginning operations, and bf16 begins
more of them; convolutions of one channel each (depthwise) have slow kernels in it. How many times as fast bf16 was as
fp32, steps in one thread of a processor with AVX512-BF16 and without AMX: 0.83 for softmax regression on digits (0.01
million multiply-adds an image), 1.3 for an MLP (0.27), 1.02 for LeNet-5 on digits (0.4) and 1.08 on colour images
(0.65), 1.25 for LeNet-5 of twice the width (1.4), 1.8 for a small ConvNet (6), 1.6 for ResNet-20 (41), 1.8 for AlexNet
on 32 pixels (53), 1.9 for VGG-11 (153), 0.75 for MobileNet (46). Two threads gave 0.82, 1.15, 0.99 and 1.05 for the
first four. With AMX, two threads, LeNet-5's step took 6.8 ms in bf16 and 6.2 in fp32.
"""

from typing import Literal

import torch
from torch import nn

from cnntrain.nn.geometry import describe
from cnntrain.nn.shapes import Shape
from cnntrain.runtime.devices import Precision, choose_precision, cpu_multiplies_tiles

# Multiply-adds an image, below which bf16 does not pay: on a processor without AMX, and with it
SMALL = {False: 10**5, True: 10**6}


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
    pays = sum(stage.macs for stage in stages) >= SMALL[cpu_multiplies_tiles()]
    return pays and not any(map(is_depthwise, net.modules()))


def is_depthwise(module: nn.Module) -> bool:
    """Say whether a layer is a convolution whose filters read one of several channels each."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
