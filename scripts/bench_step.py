"""Training speed on this machine: the loop beside its limit and beside a plain PyTorch loop, interleaved.

    python scripts/bench_step.py --data-root data            # LeNet-5 on MNIST, ResNet-20 on CIFAR-10's image folder
    python scripts/bench_step.py --networks lenet5 --rounds 9

Three ways of taking the same step (same network, batch size, optimizer), each in a process of its own, take turns for a
second each: the loop on its feed; the limit, which is the loop on one fixed batch that lies ready; and a plain loop as
a user would write it, on `torchvision` transforms of PIL images through a `DataLoader`, in fp32. Each round gives one
ratio of samples a second; the median of the rounds is reported with its range. A round waits for other load on the
machine to end, five minutes in all; what runs beside it after that is said.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cnntrain.data.augmentation import AUGMENTATIONS, Part
from cnntrain.data.datasets import load
from cnntrain.data.feeds import Feed, ResidentFeed
from cnntrain.data.rendering import Batch
from cnntrain.data.sources import Dataset as Images
from cnntrain.data.sources import Pixels
from cnntrain.devices import choose_precision, hardware, prepare
from cnntrain.models import MODELS
from cnntrain.optim import sgd
from cnntrain.tables import render
from cnntrain.training.learner import Learner

CPU = torch.device("cpu")
BUSY = 0.1  # the share of the machine that others may use in a round
PATIENCE = 300  # seconds to wait for them in all
Parts = dict[str, Part]
Stepper = Callable[[], int]  # takes one step and returns how many samples it learnt from

AUGMENTED: dict[str, Callable[[], Parts]] = {
    "none": dict,
    "crop": lambda: {"crop": AUGMENTATIONS["crop"](padding=2, border="zero")},
    "affine": lambda: {"affine": AUGMENTATIONS["affine"](shift=0.08, rotate=10.0, zoom=0.1, shear=5.0)},
    "crop_flip": lambda: {"flip": AUGMENTATIONS["flip"](), "crop": AUGMENTATIONS["crop"](padding=4)},
}
PLAIN: dict[str, list[object]] = {
    "none": [],
    "crop": [transforms.RandomCrop(28, padding=2)],
    "affine": [transforms.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), 5)],
    "crop_flip": [transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, padding=4, padding_mode="reflect")],
}
CASES = {"lenet5": ("mnist", ("none", "crop", "affine")), "resnet20": ("cifar10", ("crop_flip",))}


class FixedFeed:
    """One batch that lies ready."""

    def __init__(self, feed: ResidentFeed) -> None:
        feed.seek(0, 0)
        self.ready, self.plan = feed.batch(), feed.plan
        self.batches, self.batch_size = feed.batches, feed.batch_size

    def seek(self, epoch: int, place: int) -> None:
        """Stay."""

    def batch(self) -> Batch:
        """Return the batch."""
        return self.ready

    def close(self) -> None:
        """Nothing to let go of."""


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Images as torchvision's datasets give them: a PIL image made of an array, then transforms."""

    def __init__(self, data: Images, augmentation: str) -> None:
        source = data.train.source
        assert isinstance(source, Pixels)
        self.images, self.labels = source.images.numpy(), data.train.labels.tolist()
        normalise = transforms.Normalize(data.card.mean, data.card.std)
        self.transform = transforms.Compose([*PLAIN[augmentation], transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        return self.transform(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)), self.labels[index]


def network(model: str, data: Images) -> nn.Sequential:
    """Build the network, the same for all."""
    return MODELS[model](data.card.shape, len(data.card.classes))


def own_loop(model: str, data: Images, feed: Feed) -> Stepper:
    """The project's step on a feed."""
    net = network(model, data).to(memory_format=torch.channels_last)
    steps = 10**6
    learner = Learner(
        net, sgd(net, lr=1e-3), np.full(steps, 1e-3).tolist(), precision=choose_precision("auto", CPU), seed=0
    )
    count = iter(range(steps))

    def step() -> int:
        learner.update(feed, next(count))
        return feed.batch_size

    return step


def plain_loop(model: str, data: Images, augmentation: str, batch_size: int, workers: int) -> Stepper:
    """The loop that a tutorial would write."""
    net = network(model, data)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(
        Pictures(data, augmentation), batch_size, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip

    def batches() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    endless, total = batches(), 0.0

    def step() -> int:
        nonlocal total
        x, y = next(endless)
        net.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item()
        return len(y)

    return step


def speed(step: Stepper, seconds: float) -> float:
    """Return samples per second over at least so many seconds."""
    samples, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        samples += step()
    return samples / spent


def foreign_load() -> float:
    """Return the share of the machine that others use, over a second in which this process sleeps."""

    def busy() -> tuple[float, float]:
        ticks = [float(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4]

    before = busy()
    time.sleep(1)
    after = busy()
    return (after[1] - before[1]) / max(after[0] - before[0], 1)


def read(name: str, root: Path) -> Images:
    """Read the images that a case trains on."""
    return load("folder", root / name, {}) if name == "cifar10" else load(name, root, {})


def serve(pipe: Connection, kind: str, model: str, augmentation: str, root: Path, batch_size: int) -> None:
    """Time one way of stepping, for as many seconds as the pipe asks for, until it asks for none."""
    data = read(CASES[model][0], root)
    if kind.startswith("plain"):
        step = plain_loop(model, data, augmentation, batch_size, int(kind.removeprefix("plain")))
    else:
        prepare(deterministic=False)
        parts = AUGMENTED[augmentation]()
        feed = ResidentFeed(data.train, data.card, batch_size=batch_size, parts=parts, seed=0, device=CPU)
        step = own_loop(model, data, FixedFeed(feed) if kind == "limit" else feed)
    speed(step, 1.0)
    pipe.send(0.0)
    while seconds := pipe.recv():
        pipe.send(speed(step, seconds))


def compare(model: str, augmentation: str, args: argparse.Namespace) -> list[dict[str, object]]:
    """Time one network with one augmentation, every way in a process of its own."""
    kinds = ["loop", "limit", *(f"plain{workers}" for workers in args.plain_workers)]
    context, pipes = multiprocessing.get_context("spawn"), {}
    for kind in kinds:
        pipes[kind], theirs = context.Pipe()
        settings = (theirs, kind, model, augmentation, Path(args.data_root), args.batch_size)
        context.Process(target=serve, args=settings).start()
        pipes[kind].recv()
    rounds: list[dict[str, float]] = []
    waited = 0
    while len(rounds) < args.rounds:
        if (others := foreign_load()) > BUSY and waited < PATIENCE:
            waited += 1
            continue
        if others > BUSY:
            print(f"others use {others:.0%} of the machine: this round is not to be trusted", file=sys.stderr)
        found = {}
        for kind in kinds:
            pipes[kind].send(args.seconds)
            found[kind] = pipes[kind].recv()
        rounds.append(found)
        shown = ", ".join(f"{kind} {value:,.0f}" for kind, value in found.items())
        print(f"{model} {augmentation} round {len(rounds)}: {shown}", file=sys.stderr)
    for pipe in pipes.values():
        pipe.send(0)
    plain = max(kinds[2:], key=lambda kind: median(found[kind] for found in rounds), default=None)
    return [row(model, augmentation, rounds, against) for against in ("limit", plain) if against]


def row(model: str, augmentation: str, rounds: list[dict[str, float]], against: str) -> dict[str, object]:
    """Return the loop's speed, another's, and the median of their ratios with its range."""
    ratios = [found["loop"] / found[against] for found in rounds]
    return {
        "network": model,
        "data": CASES[model][0],
        "augmentation": augmentation,
        "loop, images/s": round(median(found["loop"] for found in rounds)),
        "against": against,
        "its images/s": round(median(found[against] for found in rounds)),
        "ratio": round(median(ratios), 3),
        "range": f"{min(ratios):.3f} … {max(ratios):.3f}",
    }


def main() -> None:
    """Time what is asked for and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--data-root", default=os.environ.get("CNNTRAIN_DATA", "data"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each stepper in each round")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--plain-workers", type=int, nargs="*", default=[0, 2], help="of these the faster one counts")
    args = parser.parse_args()
    rows = [found for model in args.networks for kind in CASES[model][1] for found in compare(model, kind, args)]
    print(render(rows, "markdown"))
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    print(json.dumps(hardware() | versions | {"precision": choose_precision("auto", CPU), "rounds": args.rounds}))


if __name__ == "__main__":
    main()
