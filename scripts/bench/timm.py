"""timm's loader and optimizer, with the loop of its training script, which is not part of its package."""

from collections.abc import Iterable
from typing import Any

import timm.data
import timm.optim
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import Compose

from cnntrain.runtime.devices import autocast, choose_precision
from scripts.bench.work import DATA, Clock, Task, network, parameters, pictures, transforms


class Kept:
    """Images with transforms of their own: `create_loader` sets others, which know no crop of a padded image."""

    transform: object = None

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index]


class Own(Kept):
    """Images with the transforms that `create_loader` sets."""

    transform: Any

    def __getitem__(self, index: int) -> Any:
        image, label = self.images[index]
        return self.transform(image), label


def loader(task: Task, workers: int, device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    """Return timm's loader: its workers give arrays of bytes, which it normalises on the device."""
    data = DATA[task.data]
    images = pictures(task, Compose([*transforms(task), timm.data.transforms.ToNumpy()]))
    found: Iterable[tuple[Tensor, Tensor]] = timm.data.create_loader(
        Kept(images), data.shape, task.batch_size, is_training=True, mean=data.mean, std=data.std, num_workers=workers,
        device=device, pin_memory=device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    return found


def images(task: Task, clock: Clock, workers: int) -> None:
    """Go through the images without a network, with timm's own windows of them, mirrored or not."""
    device, data = torch.device("cuda" if torch.cuda.is_available() else "cpu"), DATA[task.data]
    batches = timm.data.create_loader(
        Own(pictures(task, lambda image: image)), data.shape, task.batch_size, is_training=True, color_jitter=0.0,
        num_workers=workers, device=device, pin_memory=device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    clock.begin()
    for _ in range(1 + task.epochs):
        clock.end(sum(len(labels) for _, labels in batches))
        clock.begin()


def fit(task: Task, clock: Clock, workers: int, best: bool = False) -> None:
    """Train in fp32, or with `best` as by --channels-last and, on a machine with bf16, --amp --amp-dtype bfloat16."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision("auto" if best else "fp32", device)
    net = network(task).to(device)
    clock.note(parameters=parameters(net))
    if best:
        net = net.to(memory_format=torch.channels_last)
    batches = loader(task, workers, device)
    optimizer = timm.optim.create_optimizer_v2(net, opt="sgd", lr=task.lr, momentum=0.9, weight_decay=5e-4)
    for _ in range(1 + task.epochs):
        clock.begin()
        net.train()
        total, samples = 0.0, 0
        for x, y in batches:
            if best:
                x = x.contiguous(memory_format=torch.channels_last)
            with autocast(precision, device):
                loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
            samples += len(y)
        clock.end(samples, total / samples)
