"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 through torchvision: read where they lie, else downloaded once."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from cnntrain.data.storage.decode import resized
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.ranges import Count
from cnntrain.runtime.third_party import quiet


class TorchvisionFiles(NamedTuple):
    """What torchvision knows of a dataset: its class there, where its files lie below the root, and their names."""

    kind: str
    folder: str
    files: tuple[str, ...]


IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

DOWNLOADS = {
    "mnist": TorchvisionFiles("MNIST", "MNIST/raw", tuple(f"{name}.gz" for name in IDX)),
    "fashion_mnist": TorchvisionFiles("FashionMNIST", "FashionMNIST/raw", tuple(f"{name}.gz" for name in IDX)),
    "cifar10": TorchvisionFiles("CIFAR10", ".", ("cifar-10-python.tar.gz",)),
    "cifar100": TorchvisionFiles("CIFAR100", ".", ("cifar-100-python.tar.gz",)),
}

# fmt: off
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on

# Mean and standard deviation of all training pixels at their own size.
INFOS = {
    "mnist": DatasetInfo("mnist", tuple("0123456789"), (1, 28, 28), (0.1307,), (0.3081,)),
    "fashion_mnist": DatasetInfo("fashion_mnist", FASHION_CLASSES, (1, 28, 28), (0.2860,), (0.3530,)),
    "cifar10": DatasetInfo("cifar10", CIFAR10_CLASSES, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": DatasetInfo(
        "cifar100", CIFAR100_CLASSES, (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    ),
}


@dataclass(frozen=True)
class Download:
    """A dataset of `DOWNLOADS`, whose images are scaled to `image_size` pixels a side where one is given."""

    name: str
    root: Path
    image_size: Count | None = None

    def info(self) -> DatasetInfo:
        """Return what is known of it, whether its files are there or not."""
        known, size = INFOS[self.name], self.image_size
        return replace(known, shape=(known.shape[0], size, size)) if size else known

    def read(self) -> Dataset:
        """Return train and test in memory; missing files are downloaded."""
        train, test = (split_of(part, self.info()) for part in parts(self.name, self.root))
        return Dataset(self.info(), train, None, test)


def split_of(part: Any, info: DatasetInfo) -> Split:
    """Return a torchvision dataset's `data`, [N, H, W] or [N, H, W, C], and `targets` at the dataset's size."""
    images = torch.as_tensor(part.data)
    images = images if images.ndim == 4 else images.unsqueeze(3)
    return Split(Pixels(resized(images.contiguous(), info.shape[1])), torch.as_tensor(part.targets, dtype=torch.int64))


def parts(name: str, root: Path) -> tuple[Any, Any]:
    """Return torchvision's training and test part of `name`; the network is asked only for what is not below `root`.

    InputError, with the ways to supply the files, when they are neither there nor can be downloaded.
    """
    with quiet():
        import torchvision.datasets

        kind = getattr(torchvision.datasets, DOWNLOADS[name].kind)
        if (both := present(kind, name, root)) is None:
            try:
                download(kind, name, root)
            except Exception as error:  # of the network, an archive, the disk: whatever stands between us and the files
                raise InputError(advice(name, root, error)) from error
            both = present(kind, name, root)
    if both is None:
        raise InputError(advice(name, root, RuntimeError("the files do not have torchvision's checksums")))
    return both


def present(kind: Callable[..., Any], name: str, root: Path) -> tuple[Any, Any] | None:
    """Return both parts if their files lie below `root`, None if not; damaged files are an InputError."""
    try:
        return kind(root, train=True), kind(root, train=False)
    except RuntimeError as error:
        if "not found" in str(error):  # in torchvision's words: missing, or not what the checksums say
            return None
        raise InputError(f"the files of {name} in {root / DOWNLOADS[name].folder} are damaged: {error}") from error
    except Exception as error:  # a damaged file fails wherever its bytes stop making sense
        reason = f"{error}" or type(error).__name__
        raise InputError(f"the files of {name} in {root / DOWNLOADS[name].folder} are damaged: {reason}") from error


def download(kind: Callable[..., Any], name: str, root: Path) -> None:
    """Bring the files of `name` below `root`."""
    once(name, root, lambda: present(kind, name, root) is not None, lambda staging: fetch(kind, name, root, staging))


def once(name: str, root: Path, there: Callable[[], bool], fetch: Callable[[Path], None]) -> None:
    """Have `fetch` bring the files of `name` below `root`, complete or not at all, one process at a time.

    It gets the path of a folder of its own. After an error nothing stays behind, not even folders that had to be made.
    """
    made = list(takewhile(lambda folder: not folder.exists(), (root, *root.parents)))
    root.mkdir(parents=True, exist_ok=True)
    lock, staging = root / f".{name}.lock", root / f".{name}.partial"
    with FileLock(lock):
        try:
            if not there():  # else another process brought them while this one waited
                fetch(staging)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            with contextlib.suppress(OSError):  # others may have put something there
                lock.unlink()
                for folder in made:
                    folder.rmdir()
            raise


def fetch(kind: Callable[..., Any], name: str, root: Path, staging: Path) -> None:
    """Download the files of `name` into `staging` and move them below `root`.

    Archives that lie in place already are used if their checksums hold.
    """
    shutil.rmtree(staging, ignore_errors=True)
    for archive in (Path(DOWNLOADS[name].folder, file) for file in DOWNLOADS[name].files):
        if (root / archive).is_file():
            (staging / archive).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / archive, staging / archive)
    kind(staging, train=True, download=True)
    for file in [path for path in staging.rglob("*") if path.is_file()]:
        place = root / file.relative_to(staging)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    shutil.rmtree(staging)


def advice(name: str, root: Path, error: Exception) -> str:
    """Say in one line that `name` is not available, why, and how its files can be supplied."""
    return absent(name, root / DOWNLOADS[name].folder, DOWNLOADS[name].files, error)


def absent(name: str, folder: Path, files: Sequence[str], error: Exception) -> str:
    """Say in one line that `files` of `name` are not available, why, and how images can be supplied."""
    reason = (f"{error}" or type(error).__name__).splitlines()
    return (
        f"cannot download {name} ({reason[-1]}); put {', '.join(files)} into {folder.resolve()}, "
        "or name the folder that has them with data_root=... or CNNTRAIN_DATA, or train on images of your own with "
        "dataset=folder dataset.root=..."
    )
