"""ImageNet's classification set as a description: enough to build and count networks, not yet to read images."""

from pathlib import Path

from cnntrain.bounds import Count
from cnntrain.data.sources import Card, Dataset
from cnntrain.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training pixels, as torchvision's models take them


def imagenet_card(root: Path, *, image_size: Count = 224) -> Card:
    """Return the card of the 1000 classes, by number, at `image_size` pixels a side."""
    return Card("imagenet", tuple(str(number) for number in range(1000)), (3, image_size, image_size), MEAN, STD)


def read_imagenet(root: Path, *, image_size: Count = 224) -> Dataset:
    """Raise an InputError: the images cannot be read yet."""
    raise InputError(
        "dataset=imagenet can be described but not read yet; train on its images with dataset=folder dataset.root=..."
    )
