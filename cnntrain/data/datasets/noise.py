"""Images of noise with targets of any kind, for what is timed and not learned."""

import torch

from cnntrain.data.storage.images import DatasetInfo, Pixels, Split


def noise(info: DatasetInfo, count: int) -> Split:
    """Return `count` images of a dataset's shape, with classes, label maps or one box each."""
    channels, height, width = info.shape
    images = torch.randint(256, (count, height, width, channels), dtype=torch.uint8)
    labels = torch.arange(count) % len(info.classes)
    if info.targets == "maps":
        maps = torch.randint(len(info.classes), (count, height, width, 1), dtype=torch.uint8)
        return Split(Pixels(torch.cat((images, maps), dim=3)), torch.zeros(count, 0, dtype=torch.int64))
    if info.targets == "boxes":
        box = torch.tensor([0, width / 4, height / 4, width / 2, height / 2, 0]).repeat(count, 1, 1)
        box[:, 0, 0] = labels
        return Split(Pixels(images), box)
    return Split(Pixels(images), labels)
