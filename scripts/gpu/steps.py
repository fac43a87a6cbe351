"""Tests, waits and times of single steps."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.augment.resize import resized_at_once
from cnntrain.data.loading.batch import Store
from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.models import MODELS
from cnntrain.nn.stages import BuildOptions
from cnntrain.runtime.devices import prepare
from cnntrain.tasks.classification import Classification
from cnntrain.training.cuda_graph import waits
from cnntrain.training.optimizers import sgd
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState

ROOT = Path(__file__).resolve().parents[2]
GPU = torch.device("cuda")
WARM, TIMED = 10, 50
Row = dict[str, Any]
Check = Callable[[argparse.Namespace, float], list[Row]]


def now() -> float:
    """Return the time at which all that was asked of the GPU is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


def row(what: str, value: float, unit: str, note: str = "") -> Row:
    """Return a line of the table."""
    return {"what": what, "value": value, "unit": unit, "note": note}


def noise(shape: tuple[int, int, int], count: int, batch_size: int) -> ResidentLoader:
    """Return a loader of random images [C, H, W], cropped and mirrored."""
    channels, height, width = shape
    images = torch.randint(256, (count, height, width, channels), dtype=torch.uint8)
    info = DatasetInfo("noise", tuple("0123456789"), shape, (0.5,) * channels, (0.25,) * channels)
    parts = {"flip": AUGMENTATIONS["flip"](), "crop": AUGMENTATIONS["crop"](padding=2)}
    split = Split(Pixels(images), torch.arange(count) % 10)
    return ResidentLoader(split, info, batch_size=batch_size, parts=parts, seed=0, device=GPU)


def student(network: str, shape: tuple[int, int, int], **settings: Any) -> TrainStep:
    """Return a learner in bf16 with SGD."""
    net = MODELS[network](shape, 10, BuildOptions()).to(GPU).to(memory_format=torch.channels_last)
    state, task = TrainState(net, sgd(net, lr=1e-3)), Classification(tuple("0123456789"))
    return TrainStep(state, [1e-3] * 1000, task, StepSettings(precision="bf16", seed=0, **settings))


def seconds_of(calls: Callable[[int], object]) -> float:
    """Return the mean seconds of numbered calls, after some that warm up."""
    for number in range(WARM):
        calls(number)
    began = now()
    for number in range(WARM, WARM + TIMED):
        calls(number)
    return (now() - began) / TIMED


def tests(args: argparse.Namespace, left: float) -> list[Row]:
    """Run the tests that need a GPU."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", str(ROOT / "tests" / "gpu")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=left, check=False)
    print(done.stdout[-4000:])
    return [row("tests/gpu", done.returncode, "exit code", done.stdout.strip().splitlines()[-1])]


def steps(cases: list[tuple[str, int]], modes: list[str]) -> Check:
    """Return a check that times steps of networks at their batch sizes: plain, compiled, recorded, or both."""

    def check(args: argparse.Namespace, left: float) -> list[Row]:
        found, ends = list[Row](), time.monotonic() + left
        for network, batch_size in cases:
            shape = (1, 28, 28) if network == "lenet5" else (3, 32, 32)
            loader = noise(shape, 20000, batch_size)
            for mode in modes:
                if time.monotonic() > ends:
                    return found
                train_step = student(network, shape, graph="graph" in mode, compile="compile" in mode)
                seconds = seconds_of(partial(train_step.update, loader))
                found.append(
                    row(f"{network} {batch_size} {mode}", 1000 * seconds, "ms", f"{batch_size / seconds:,.0f}/s")
                )
        return found

    return check


def masked_crop(images: Tensor, padding: int) -> Tensor:
    """Crop images [B, C, H, W] by one masked copy for each of the shifts."""
    size, out = images.shape[-1], torch.empty_like(images)
    padded = torch.nn.functional.pad(images, (padding,) * 4, mode="reflect")
    shifts = torch.randint(2 * padding + 1, (len(images), 2), device=images.device)
    for down in range(2 * padding + 1):
        for across in range(2 * padding + 1):
            those = (shifts[:, 0] == down) & (shifts[:, 1] == across)
            out[those] = padded[those, :, down : down + size, across : across + size]
    return out


def crops(args: argparse.Namespace, left: float) -> list[Row]:
    """Time one gather beside masked copies, and windows of larger images."""
    loader = noise((3, 32, 32), 20000, 2000)

    def batch(number: int) -> None:
        loader.seek(number // loader.batches, number % loader.batches)
        loader.batch()

    images = torch.rand(2000, 3, 32, 32, device=GPU).to(memory_format=torch.channels_last)
    store = Store(torch.randint(256, (512, 256, 256, 3), dtype=torch.uint8), GPU)
    index, windows = torch.arange(256, device=GPU), torch.tensor([[20, 30, 180, 200]] * 256, device=GPU)
    calls: dict[str, Callable[[int], object]] = {
        "batch of 2000: crop, flip, normalise in one gather": batch,
        "crop of 2000 by masked copies": lambda _: masked_crop(images, 2),
        "256 windows of 256×256 to 160×160": lambda _: resized_at_once(store.images(index), windows, (160, 160)),
    }
    return [row(what, 1000 * seconds_of(call), "ms") for what, call in calls.items()]


def determinism(args: argparse.Namespace, left: float) -> list[Row]:
    """Time steps of ResNet-18 with and without algorithms that repeat to the bit."""
    found = []
    for deterministic in (False, True):
        prepare(deterministic=deterministic)
        train_step, loader = student("resnet18", (3, 64, 64), graph=True), noise((3, 64, 64), 4096, 256)
        name = f"resnet18 256 at 64×64 graph{' deterministic' if deterministic else ''}"
        found.append(row(name, 1000 * seconds_of(partial(train_step.update, loader)), "ms"))
    prepare(deterministic=False)
    return found


def waiting(args: argparse.Namespace, left: float) -> list[Row]:
    """Count how often twenty steps wait for the device."""
    found = []
    for graph in (False, True):
        train_step, loader = student("resnet20", (3, 32, 32), graph=graph), noise((3, 32, 32), 4096, 128)
        for number in range(WARM):
            train_step.update(loader, number)
        with waits() as seen:
            for number in range(WARM, WARM + 20):
                train_step.update(loader, number)
        found.append(row(f"host waits in 20 steps, {'graph' if graph else 'eager'}", len(seen), "times"))
    return found
