"""A step of a segmentation beside the same step in plain PyTorch: in turns, in processor time, as a ratio of medians.

    python -m scripts.dense --turns 60

Both train the same network from the same weights on images of `shapes`, flipped at random, in bf16 with AdamW. The mean
losses of both are printed, so that unequal work would be seen. Processor time is what a thread computes, without what
it waits for others.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.datasets.registry import load
from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.data.storage.images import IGNORED, Dataset
from cnntrain.models import MODELS
from cnntrain.nn.stages import BuildOptions
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.tables import render
from cnntrain.tasks import task_for
from cnntrain.training.optimizers import OPTIMIZERS
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState

CPU, BATCH, RATE, WARM_UP = torch.device("cpu"), 16, 1e-3, 5
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"width": 8, "depth": 4, "batch_norm": True, "dropout": 0.0},
    "segnet_basic": {"width": 16, "depth": 3},
    "fcn8s": {"backbone": "resnet20"},
}
LOG_EVERY = 20  # steps, as `cnntrain fit` reads its sums
Turn = Callable[[int], float | None]  # takes a step by its number; returns the mean loss since the last, now and then


def network(name: str, data: Dataset) -> torch.nn.Sequential:
    """Return a network with the initial weights of seed 0."""
    net = MODELS[name](data.info.shape, len(data.info.classes), BuildOptions(), **NETWORKS[name])
    return net.to(memory_format=torch.channels_last)


def ours(name: str, data: Dataset) -> Turn:
    """Return steps as `cnntrain fit` takes them."""
    net = network(name, data)
    state = TrainState(net, OPTIMIZERS["adamw"](net, lr=RATE), auxiliary=None, ema=0.0)
    step = TrainStep(state, [RATE] * 10_000, task_for(data.info), StepSettings(precision="bf16", seed=0))
    parts = {"flip": AUGMENTATIONS["flip"]()}
    loader = ResidentLoader(data.train, data.info, batch_size=BATCH, seed=0, device=CPU, parts=parts)

    def take(number: int) -> float | None:
        step.update(loader, number)
        return step.read(number + 1)["loss"] if (number + 1) % LOG_EVERY == 0 else None

    return take


def plain(name: str, data: Dataset) -> Turn:
    """Return steps as one writes them by hand."""
    net = network(name, data)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2, fused=True)
    stored = data.train.source.read(range(len(data.train)))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.info.mean, data.info.std))
    images = ((stored[..., :3].permute(0, 3, 1, 2) / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    labels = stored[..., 3].long()
    generator = torch.Generator().manual_seed(0)

    def take(number: int) -> float:
        index = torch.randint(len(images), (BATCH,), generator=generator)
        x, y = images[index], labels[index]
        flipped = torch.rand(BATCH, generator=generator) < 0.5
        x, y = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x), torch.where(flipped.view(-1, 1, 1), y.flip(2), y)
        with torch.autocast("cpu", torch.bfloat16):
            answer = net(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(answer.float(), y, ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return take


def in_turns(name: str, data: Dataset, turns: int) -> dict[str, object]:
    """Return a row of the table."""
    subjects = {"ours": ours(name, data), "plain": plain(name, data)}
    times, losses = ({who: list[float]() for who in subjects} for _ in range(2))
    for number in range(WARM_UP + turns):
        for who, take in subjects.items():
            began = time.thread_time()
            loss = take(number)
            if number >= WARM_UP:
                times[who].append(1000 * (time.thread_time() - began))
                losses[who] += [] if loss is None else [loss]
    one, other = (np.array(times[who]) for who in ("ours", "plain"))
    drawn = np.random.default_rng(0).integers(turns, size=(2000, turns))
    low, high = np.percentile(np.median(one[drawn], axis=1) / np.median(other[drawn], axis=1), (2.5, 97.5))
    return {
        "network": name,
        "ours ms": f"{np.median(one):.1f}",
        "plain ms": f"{np.median(other):.1f}",
        "ratio": f"{np.median(one) / np.median(other):.2f}",
        "95 %": f"{low:.2f} … {high:.2f}",
        "n": turns,
        "losses": " ".join(f"{np.mean(losses[who]):.3f}" for who in subjects),
    }


def main() -> None:
    """Measure what is asked for, on one thread."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.dense", description="A step of a segmentation beside plain PyTorch."
    )
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    prepare(deterministic=False)
    data = load("shapes", Path(), {"image_size": asked.size, "train_images": 400, "test_images": 8})
    print(render([in_turns(name, data, asked.turns) for name in NETWORKS], "markdown"))


if __name__ == "__main__":
    main()
