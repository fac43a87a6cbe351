"""Normalisation of pixels with a dataset's mean and standard deviation: (pixel / 255 - mean) / std, and back."""

import torch
from torch import Tensor

from cnntrain.data.storage.images import DatasetInfo

IN_CACHE = 1 << 18  # numbers that a CPU changes in three passes before it takes the next


def scale_and_shift(info: DatasetInfo, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what a pixel in 0..255 is multiplied by and what is added then, one a channel: float32 [C] each.

    Raises `ValueError` where the dataset has not one mean and one deviation a channel.
    """
    channels = info.shape[0]
    if not len(info.mean) == len(info.std) == channels:  # one channel would broadcast silently against three
        raise ValueError(f"{channels} channels, but {len(info.mean)} means and {len(info.std)} deviations")
    mean, std = torch.tensor(info.mean), torch.tensor(info.std)
    return (1 / (255 * std)).to(device), (-mean / std).to(device)


class Normalise:
    """Stored pixels, uint8 [B, H, W, C], to what a network takes: float32 [B, C, H, W], channels_last."""

    def __init__(self, info: DatasetInfo, device: torch.device) -> None:
        self.scale, self.shift = scale_and_shift(info, device)
        self.lines = dict[int, tuple[Tensor, Tensor]]()  # both for a whole line of an image, by its width

    def of_line(self, width: int) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the pixels of a line, or of any one pixel where all channels have the same."""
        if len(self.scale) == 1:
            return self.scale, self.shift
        if width not in self.lines:
            self.lines[width] = self.scale.repeat(width), self.shift.repeat(width)
        return self.lines[width]

    def __call__(self, pixels: Tensor) -> Tensor:
        batch, height, width, channels = pixels.shape
        # One long last axis: broadcasting over three channels alone is ten times slower on a CPU.
        lines, (scale, shift) = pixels.reshape(-1, width * channels), self.of_line(width)
        out = torch.empty(lines.shape, dtype=torch.float32, device=pixels.device)
        at_once = len(lines) if pixels.is_cuda else max(1, IN_CACHE // (width * channels))
        for some, into in zip(lines.split(at_once), out.split(at_once), strict=True):
            into.copy_(some).mul_(scale).add_(shift)
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


def normalised(pixels: Tensor, info: DatasetInfo) -> Tensor:
    """Return pixels, float32 [B, C, H, W] in 0..255, as a network takes them; gradients pass."""
    scale, shift = scale_and_shift(info, pixels.device)
    return pixels * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def denormalised(images: Tensor, info: DatasetInfo) -> Tensor:
    """Return the pixels in 0..255, float32 [B, C, H, W], of images as a network takes them."""
    mean, std = (torch.tensor(numbers, device=images.device)[:, None, None] for numbers in (info.mean, info.std))
    return (images.float() * std + mean) * 255
