"""The record's recipe, and the original on the same pixels: seconds and accuracy of whole trainings."""

import argparse
import contextlib
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml

from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.augment.tta import TTA
from cnntrain.data.datasets.registry import load
from cnntrain.data.loading.loader import ResidentLoader, eval_batches
from cnntrain.data.storage.images import Dataset
from cnntrain.models import MODELS
from cnntrain.nn.stages import BuildOptions
from cnntrain.nn.whitening import calibrate
from cnntrain.tasks.classification import Classification
from cnntrain.training.evaluate import answers
from cnntrain.training.lr_schedules import SCHEDULES, learning_rates
from cnntrain.training.optimizers import OPTIMIZERS
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState
from scripts.gpu.steps import GPU, ROOT, Row, now, row

RUNS = 5


def cifar10(args: argparse.Namespace) -> Dataset:
    """Read CIFAR-10 from its folder; all training images are learnt from."""
    folder, workers = Path(args.data_root) / "cifar10", min(16, os.cpu_count() or 1)
    return load("folder", folder, {"image_size": 32}, val_size=0, cache="ram", workers=workers)


def trained(data: Dataset, recipe: dict[str, Any], epochs: int, seed: int) -> tuple[float, float]:
    """Train by the recipe; return the seconds and the top-1 over six views."""
    began = now()
    net = MODELS["airbench"](data.info.shape, len(data.info.classes), BuildOptions(seed=seed))
    some = data.train.take(torch.arange(0, len(data.train), len(data.train) // 2000).numpy())
    calibrate(net, lambda: next(eval_batches(some, data.info, batch_size=2000, device=torch.device("cpu")))[0])
    net = net.to(GPU).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS["muon"](net, **recipe["optimizer"])
    parts = {name: AUGMENTATIONS[name](**(options or {})) for name, options in recipe["augmentation"].items()}
    size, smoothing = recipe["trainer"]["batch_size"], recipe["trainer"]["label_smoothing"]
    loader = ResidentLoader(data.train, data.info, batch_size=size, parts=parts, seed=seed, device=GPU)
    last = epochs * loader.batches
    rates = learning_rates(optimizer.defaults["lr"], last, partial(SCHEDULES["triangular"], **recipe["schedule"]))
    task = Classification(data.info.classes, label_smoothing=smoothing)
    train_step = TrainStep(
        TrainState(net, optimizer), rates, task, StepSettings(precision="bf16", seed=seed, graph=True)
    )
    for step in range(last):
        train_step.update(loader, step)
    seconds = now() - began
    train_step.read(last)
    assert data.test is not None
    shown = eval_batches(data.test, data.info, batch_size=2000, device=GPU)
    scores = task.validate(answers(net, shown, precision="bf16", views=TTA["flip_shift"]))
    return seconds, scores["top1"]


def record(args: argparse.Namespace, left: float) -> list[Row]:
    """Run the recipe, and the original on the same pixels; say which of our lengths reaches its accuracy first."""
    ends, data = time.monotonic() + left, cifar10(args)
    recipe = yaml.safe_load((ROOT / "conf" / "experiment" / "cifar10_fast.yaml").read_text())
    found, reached = list[Row](), 0.0
    if args.reference:
        seconds, top1 = reference(args.reference, data, time.monotonic() + left / 2)
        reached = mean(top1)
        found += [
            row("airbench94_muon top-1", 100 * reached, "%", f"mean of {len(top1)}"),
            row("airbench94_muon seconds", mean(seconds), "s", f"{min(seconds):.2f} … {max(seconds):.2f}"),
        ]
    trained(data, recipe, 1, seed=99)  # algorithms are chosen once in a process
    first: float | None = None
    for epochs in (8, 7, 6):
        runs = []
        for seed in range(RUNS):
            if time.monotonic() < ends:
                runs.append(trained(data, recipe, epochs, seed))
        if not runs:
            break
        seconds, top1 = [list(values) for values in zip(*runs, strict=True)]
        found += [
            row(f"cifar10_fast, {epochs} epochs, top-1", 100 * mean(top1), "%", f"mean of {len(runs)}"),
            row(
                f"cifar10_fast, {epochs} epochs, seconds",
                mean(seconds),
                "s",
                f"{min(seconds):.2f} … {max(seconds):.2f}",
            ),
        ]
        if args.reference and mean(top1) >= reached:
            first = mean(seconds)
    if first is not None:
        found.append(row("cifar10_fast to airbench94_muon's accuracy", first, "s", f"at least {100 * reached:.2f} %"))
    return found


def reference(path: str, data: Dataset, ends: float) -> tuple[list[float], list[float]]:
    """Run the unmodified file on the same pixels, after the warm-up that it asks for; return seconds and top-1."""
    script, seconds, top1 = Path(path).resolve(), list[float](), list[float]()
    assert data.test is not None
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        Path("cifar10").mkdir()
        for name, split in (("train", data.train), ("test", data.test)):
            images = split.source.read(range(len(split)))
            kept = {"images": images, "labels": split.labels, "classes": list(data.info.classes)}
            torch.save(kept, f"cifar10/{name}.pt")
        with arguments(str(script)):
            parts = runpy.run_path(str(script))
        net = parts["CifarNet"]().cuda().to(memory_format=torch.channels_last)
        net.compile(mode="max-autotune")
        parts["main"]("warmup", net)
        while len(top1) < RUNS and (not top1 or time.monotonic() < ends):
            began = now()
            top1.append(float(parts["main"](len(top1), net)))
            seconds.append(now() - began)
    return seconds, top1


@contextlib.contextmanager
def arguments(*words: str) -> Iterator[None]:
    """Let a script find these words as its command line."""
    before, sys.argv = sys.argv, list(words)
    yield
    sys.argv = before
