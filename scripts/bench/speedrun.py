"""The 94 % recipe on CIFAR-10: as an experiment of cnntrain, as a script of its own, and as a plain fp32 loop.

The script restates airbench94_muon (Jordan 2024, arXiv:2404.00498; github.com/KellerJordan/cifar10-airbench) so that a
CPU can run it, in bf16 autocast where it computes in bf16. With `--reference PATH` the unmodified original takes its
place, which needs a GPU.
"""

import contextlib
import io
import json
import math
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.datasets import ImageFolder

from cnntrain.runtime.devices import autocast, choose_precision
from scripts.bench.work import DATA, Clock, Decoded, Task

EPOCHS = 8  # of the script; the experiment has its own
ALL = 50000


def passes(task: Task) -> int:
    """Return how often the script goes through the images: once where they are fewer, which is a smoke run."""
    return EPOCHS if task.images == ALL else 1


def experiment(task: Task, clock: Clock) -> None:
    """Train and evaluate by the command line."""
    from cnntrain.cli.main import main

    with tempfile.TemporaryDirectory() as scratch:
        run = f"{scratch}/run"
        words = [
            "experiment=cifar10_fast",
            "dataset=folder",
            f"dataset.root={task.root}/{task.data}",
            "dataset.val_size=0",
            f"seed={task.seed}",
            f"output_dir={run}",
        ]
        if task.images < ALL:
            words += [f"dataset.train_size={task.images}", "trainer.epochs=1"]
        clock.begin()
        for command in (["fit", *words], ["eval", f"run={run}", "tta=flip_shift", "weights=last"]):
            if code := main(command):
                raise SystemExit(code)
        found = json.loads(next(Path(run).glob("eval/*/results.json")).read_text())
        clock.end(task.images, 1 - found["top1"])
    clock.note(top1=found["top1"])


# The script of its own.


class Muon:
    """Orthogonalised Nesterov momentum for filters that keep their norm (Jordan et al. 2024)."""

    def __init__(self, filters: list[nn.Parameter], lr: float, momentum: float, kind: torch.dtype) -> None:
        self.filters, self.lr, self.momentum, self.kind = filters, lr, momentum, kind
        self.moving = [torch.zeros_like(weight) for weight in filters]

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Take a step at this share of the learning rate."""
        for weight, moving in zip(self.filters, self.moving, strict=True):
            assert weight.grad is not None
            moving.mul_(self.momentum).add_(weight.grad)
            direction = weight.grad + self.momentum * moving
            weight.mul_(math.sqrt(len(weight)) / weight.norm())
            weight.sub_(self.lr * share * orthogonal(direction.flatten(1), self.kind).view_as(weight))


def orthogonal(matrix: Tensor, kind: torch.dtype) -> Tensor:
    """Bring all singular values near 1 by three quintic Newton-Schulz iterations in numbers of a kind."""
    x = matrix.to(kind)
    wide = x if len(x) <= x.shape[1] else x.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(3):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (2.0315 * gram @ gram - 4.775 * gram) @ wide
    found: Tensor = wide if len(x) <= x.shape[1] else wide.T
    return found.type_as(matrix)


def group(channels: int, width: int) -> list[nn.Module]:
    """Two convolutions without bias, a pool between, batch norm without a trained scale, GELU."""
    layers: list[nn.Module] = []
    for i, before in enumerate((channels, width)):
        conv, norm = nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        nn.init.dirac_(conv.weight.data[:before])
        norm.weight.requires_grad_(False)
        layers += [conv, *([nn.MaxPool2d(2)] if i == 0 else []), norm, nn.GELU()]
    return layers


class Net(nn.Module):
    """Whitened 2×2 patches, three groups of two convolutions, a head: 1,972,792 parameters, 1,440 of them frozen."""

    def __init__(self, patches: Tensor) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.whiten.weight.data.copy_(torch.cat([filters, -filters]))
        self.whiten.weight.requires_grad_(False)
        self.body = nn.Sequential(nn.GELU(), *group(24, 64), *group(64, 256), *group(256, 256), nn.MaxPool2d(3))
        self.head = nn.Linear(256, 10, bias=False)
        self.head.weight.data.div_(self.head.weight.data.std())

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of normalised images."""
        logits: Tensor = self.head(self.body(self.whiten(x)).flatten(1)) / self.head.in_features
        return logits


def decoded(task: Task, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return uint8 images [N, H, W, C], evenly spaced over a split, and their labels."""
    whole = ImageFolder(Path(task.root) / task.data / split)
    chosen = [i * len(whole) // count for i in range(count)]
    images = np.stack([np.asarray(whole.loader(whole.samples[i][0])) for i in chosen])
    return torch.from_numpy(images), torch.tensor([whole.targets[i] for i in chosen])


def resident(images: Tensor, labels: Tensor, passes: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of normalised images [N, C, H, W]: shifted by up to two pixels, all mirrored every other epoch."""
    mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    padded = F.pad(mirrored, (2, 2, 2, 2), mode="reflect")
    size = images.shape[-1]
    for epoch in range(passes):
        moved, shift = torch.empty_like(images), torch.randint(5, (len(images), 2))
        for dy in range(5):
            for dx in range(5):
                those = (shift[:, 0] == dy) & (shift[:, 1] == dx)
                moved[those] = padded[those, :, dy : dy + size, dx : dx + size]
        moved = moved.flip(3) if epoch % 2 else moved
        for index in torch.randperm(len(images)).split(batch_size):
            if len(index) == batch_size:
                yield moved[index].contiguous(memory_format=torch.channels_last), labels[index]


def normalise(images: Tensor) -> Tensor:
    """Return uint8 [N, H, W, C] as float32 [N, C, H, W] of mean 0 and deviation 1."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in DATA["cifar10"][2:])
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def learn(
    net: Net, batches: Iterable[tuple[Tensor, Tensor]], steps: int, size: int, precision: Literal["fp32", "bf16"]
) -> None:
    """Train with Muon on the filters and SGD on the rest, each rate falling straight to 0."""
    biases = [value for name, value in net.body.named_parameters() if name.endswith("bias")]
    filters = [value for value in net.body.parameters() if value.ndim == 4]
    decay, rates = 2e-6 * size, (0.053, 0.053, 0.67)
    parts = ([net.whiten.bias], biases, [net.head.weight])
    groups = [{"params": part, "lr": lr, "weight_decay": decay / lr} for part, lr in zip(parts, rates, strict=True)]
    sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True, fused=True)
    muon = Muon(filters, 0.24, 0.6, torch.bfloat16 if precision == "bf16" else torch.float32)
    whitening = math.ceil(steps * 3 / EPOCHS)
    assert net.whiten.bias is not None
    for step, (x, y) in enumerate(batches):
        net.whiten.bias.requires_grad_(step < whitening)  # from then on no gradient goes through the first group
        with autocast(precision, x.device):
            logits = net(x)
        F.cross_entropy(logits.float(), y, label_smoothing=0.2, reduction="sum").backward()
        left = 1 - step / steps
        for group, rate in zip(sgd.param_groups, rates, strict=True):
            group["lr"] = rate * left
        sgd.param_groups[0]["lr"] = rates[0] * max(1 - step / whitening, 0.0)
        sgd.step()
        muon.step(left)
        net.zero_grad(set_to_none=True)


@torch.inference_mode()
def accuracy(net: Net, images: Tensor, labels: Tensor, precision: Literal["fp32", "bf16"]) -> float:
    """Return the top-1 over six views: mirrored or not, in place and moved a pixel down and right, or up and left."""
    net.eval()
    right = 0
    for x, y in zip(images.split(2000), labels.split(2000), strict=True):
        padded, size = F.pad(x, (1, 1, 1, 1), mode="reflect"), x.shape[-1]
        views = [(0.25, x), (0.125, padded[:, :, :size, :size]), (0.125, padded[:, :, 2:, 2:])]
        with autocast(precision, x.device):
            logits = sum(weight * (net(view).float() + net(view.flip(3)).float()) for weight, view in views)
        assert isinstance(logits, Tensor)
        right += int((logits.argmax(1) == y).sum())
    return right / len(labels)


def prepared(task: Task) -> tuple[Net, Tensor, Tensor]:
    """Return the network, whitened by 5,000 images, and the normalised training images with their labels."""
    pixels, labels = decoded(task, "train", task.images)
    images = normalise(pixels)
    patches = images[torch.randperm(len(images))[:5000]].unfold(2, 2, 1).unfold(3, 2, 1)
    return Net(patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)), images, labels


def script(task: Task, clock: Clock) -> None:
    """Run the recipe as a script: the original where its path is given, else the restatement."""
    clock.begin()
    if task.reference:
        ((top1, _),) = original(task, 1)
    else:
        torch.manual_seed(task.seed)
        net, images, labels = prepared(task)
        net = net.to(memory_format=torch.channels_last)
        precision = choose_precision("auto", torch.device("cpu"))
        batches = resident(images, labels, passes(task), task.batch_size)
        learn(net, batches, passes(task) * task.steps, task.batch_size, precision)
        pixels, targets = decoded(task, "test", 10000)
        top1 = accuracy(net, normalise(pixels), targets, precision)
    clock.end(task.images, 1 - top1)
    clock.note(top1=top1, script="original" if task.reference else "restatement")


def original(task: Task, count: int) -> Iterator[tuple[float, float]]:
    """Yield top-1 and seconds of trainings with the unmodified file, on the same pixels, after its own warm-up.

    Its seconds are those that it prints: whitening, the steps, the answers to six views; no decoding, no compilation.
    """
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        Path("cifar10").mkdir()
        for split, images in (("train", task.images), ("test", 10000)):
            pixels, labels = decoded(task, split, images)
            torch.save({"images": pixels, "labels": labels, "classes": list("0123456789")}, f"cifar10/{split}.pt")
        sys.argv = [os.fspath(task.reference)]
        parts = runpy.run_path(task.reference)
        net = parts["CifarNet"]().cuda().to(memory_format=torch.channels_last)
        net.compile(mode="max-autotune")
        parts["main"]("warmup", net)
        for number in range(count):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                top1 = float(parts["main"](number, net))
            *_, last = (line for line in printed.getvalue().splitlines() if "eval" in line)
            yield top1, float(last.replace("|", " ").split()[-1])


def plain(task: Task, clock: Clock) -> None:
    """Train a quarter epoch of the same network in fp32, from PIL images through a DataLoader; it counts for all."""
    began = time.perf_counter()
    torch.manual_seed(task.seed)
    net, _, _ = prepared(task)
    pixels, labels = decoded(task, "train", task.images)
    data = DATA["cifar10"]
    change = transforms.Compose(
        [
            transforms.RandomCrop(32, 2, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    images: torch.utils.data.Dataset = Decoded(list(pixels.numpy()), labels.tolist(), change)  # type: ignore[assignment]
    loader = torch.utils.data.DataLoader(images, task.batch_size, shuffle=True, drop_last=True, num_workers=2)
    batches = iter(loader)
    some = [next(batches)]  # the workers' start is counted once, not as often as the steps
    few = max(task.steps // 4, 1)
    started = time.perf_counter()
    # As if these were all, so that the first bias learns in as large a share of them.
    learn(net, chain(some, islice(batches, few - 1)), few, task.batch_size, "fp32")
    ended = time.perf_counter()
    steps = passes(task) * task.steps
    clock.add(started - began + steps / few * (ended - started), task.images)
    clock.note(part=f"{few} of {steps} steps, no evaluation")
