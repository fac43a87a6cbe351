"""What every contender is given to do, the clock that it reports to, and the images as a peer's user reads them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Task:
    """The work of one line: so many passes over so many images, the first of them not timed."""

    network: str = "lenet5"
    data: str = "mnist"
    root: str = "data"
    augmentation: str = "none"
    images: int = 60000
    batch_size: int = 128
    epochs: int = 3  # timed, after one that warms up
    lr: float = 0.02
    seed: int = 0  # the round's number, of those that report an accuracy
    reference: str = ""  # path of airbench94_muon.py, where a user has it

    @property
    def steps(self) -> int:
        """Steps an epoch; what is left of the images takes part in another epoch."""
        return self.images // self.batch_size


class Data(NamedTuple):
    """What a network and a normalisation need to know of images."""

    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATA = {
    "synthetic": Data((1, 28, 28), 10, (0.5,), (0.25,)),
    "mnist": Data((1, 28, 28), 10, (0.1307,), (0.3081,)),
    "cifar10": Data((3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "tiny-imagenet-20": Data((3, 64, 64), 20, *IMAGENET),
    "hymenoptera": Data((3, 224, 224), 2, *IMAGENET),
}
WHERE = {"mnist": "MNIST/raw", "synthetic": ""}  # else a folder of its name with train and test, or val


class Clock:
    """What a contender reports to: its epochs with their time, and facts of the work for comparison."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.epochs: list[dict[str, float | None]] = []
        self.facts: dict[str, Any] = {}

    def begin(self) -> None:
        """Start an epoch."""
        self.began = time.perf_counter()

    def end(self, samples: int, loss: float | None = None) -> None:
        """End the epoch that has begun."""
        self.add(time.perf_counter() - self.began, samples, loss)

    def add(self, seconds: float, samples: int, loss: float | None = None) -> None:
        """Report an epoch that was timed elsewhere."""
        self.epochs.append({"seconds": seconds, "samples": samples, "loss": loss})

    def note(self, **facts: Any) -> None:
        """Report facts: the number of parameters, an accuracy, a measured value."""
        self.facts |= facts


def network(task: Task) -> Any:
    """Return the network of a task, a plain `nn.Sequential`, the same for every contender on torch."""
    from cnntrain.models import MODELS
    from cnntrain.nn.stages import BuildOptions

    data = DATA[task.data]
    return MODELS[task.network](data.shape, data.classes, BuildOptions())


def parameters(net: Any) -> int:
    """Count the trained numbers of a network."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def transforms(task: Task) -> list[Any]:
    """Return what torchvision does to a PIL image for the augmentation of a task."""
    from torchvision.transforms import v2

    size = DATA[task.data].shape[1]
    known: dict[str, Sequence[Any]] = {
        "none": [],
        "crop": [v2.RandomCrop(size, padding=2)],
        "affine": [v2.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), 5)],
        "crop_flip": [v2.RandomCrop(size, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip()],
        "resized_crop": [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()],
    }
    return list(known[task.augmentation])


def normalised(task: Task) -> Any:
    """Return the transforms of a task as a tutorial writes them, from a PIL image to a normalised tensor."""
    import torchvision.transforms as v1

    names = {"RandomCrop", "RandomAffine", "RandomHorizontalFlip", "RandomResizedCrop"}
    assert all(type(transform).__name__ in names for transform in transforms(task))
    return v1.Compose([*transforms(task), v1.ToTensor(), v1.Normalize(DATA[task.data].mean, DATA[task.data].std)])


class Decoded:
    """Images that lie in memory as arrays and become PIL images one by one, as torchvision's CIFAR10 has them."""

    def __init__(self, images: Sequence[Any], labels: Sequence[int], transform: Callable[[Any], Any]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def pictures(task: Task, transform: Callable[[Any], Any] | None = None) -> Any:
    """Return the images of a task as torchvision's datasets give them, evenly spaced over the training set.

    A task of more images than there are files has each of them several times.
    """
    import numpy as np
    from torch.utils.data import Subset
    from torchvision.datasets import MNIST, ImageFolder

    transform = transform or normalised(task)
    root = Path(task.root)
    if task.data == "synthetic":
        from cnntrain.data.datasets.registry import load

        split = load("synthetic", root, {"train_images": task.images}, val_size=0).train
        pixels = split.source.read(np.arange(len(split))).numpy()[..., 0]
        return Decoded(list(pixels), split.labels.tolist(), transform)
    whole = (
        MNIST(root, transform=transform) if task.data == "mnist" else ImageFolder(root / task.data / "train", transform)
    )
    chosen = [i * len(whole) // task.images for i in range(task.images)]
    if task.data == "cifar10":
        images = [np.asarray(whole.loader(whole.samples[i][0])) for i in chosen]
        return Decoded(images, [whole.targets[i] for i in chosen], transform)
    return Subset(whole, chosen)
