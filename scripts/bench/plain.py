"""The loop that a tutorial writes: torchvision's images and transforms, a `DataLoader`, a dozen lines."""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cnntrain.runtime.devices import autocast, choose_precision
from scripts.bench.work import Clock, Task, network, parameters, pictures


def loader(task: Task, workers: int, *, pin: bool = False) -> DataLoader:
    """Return a `DataLoader` of a task's images in another order each epoch, without a last, short batch."""
    return DataLoader(
        pictures(task), task.batch_size, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0, pin_memory=pin,
    )  # fmt: skip


def images(task: Task, clock: Clock, workers: int) -> None:
    """Go through the images without a network: decoded and cut anew in each epoch."""
    batches = loader(task, workers)
    clock.begin()  # with what it imports behind it; workers start with the first epoch
    for _ in range(1 + task.epochs):
        clock.end(sum(len(labels) for _, labels in batches))
        clock.begin()


def fit(task: Task, clock: Clock, workers: int, best: bool = False) -> None:
    """Train in fp32, or with `best` in the machine's own precision and channels_last."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision("auto" if best else "fp32", device)
    net = network(task).to(device)
    layout = torch.channels_last if best else torch.contiguous_format
    net = net.to(memory_format=layout)
    clock.note(parameters=parameters(net))
    batches = loader(task, workers, pin=device.type == "cuda")
    optimizer = torch.optim.SGD(net.parameters(), lr=task.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for _ in range(1 + task.epochs):
        clock.begin()
        net.train()
        total, samples = 0.0, 0
        for x, y in batches:
            x, y = x.to(device, memory_format=layout), y.to(device)
            optimizer.zero_grad()
            with autocast(precision, device):
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
            samples += len(y)
        clock.end(samples, total / samples)
