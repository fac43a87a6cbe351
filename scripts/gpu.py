"""What only a machine with a GPU can show, in one command of at most eight minutes: tests, times of a step, a record.

    PYTHONPATH=. python scripts/gpu.py --data-root data --reference airbench94_muon.py

It needs torch, torchvision, numpy, scipy, scikit-learn, filelock, PyYAML, tqdm, matplotlib and pytest; Hydra only for
those tests of `tests/gpu` that go through the command line, which are skipped without. In `--data-root` lies CIFAR-10
as cifar10/train/<class>/* and cifar10/test/<class>/*, and `--reference` is the unmodified airbench94_muon.py
(github.com/KellerJordan/cifar10-airbench), which is run on the same pixels. Without them their rows say "not measured",
as do rows for which no time is left. The table and the numbers are left in `--output` as gpu.md and gpu.json.

A step's time is that of 50 steps after 10, waited for at both ends. Runs of the recipe are timed from the first weights
to the last step, with the whitening and the recording, without reading the images; the original's by its own main(),
after its own warm-up, with its evaluations.
"""

import argparse
import contextlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from torch import Tensor

from cnntrain.data.augmentation import AUGMENTATIONS
from cnntrain.data.datasets import load
from cnntrain.data.feeds import ResidentFeed, sweep
from cnntrain.data.rendering import Store
from cnntrain.data.sources import Card, Dataset, Pixels, Split
from cnntrain.data.views import VIEWS
from cnntrain.data.windows import resized_at_once
from cnntrain.devices import hardware, prepare
from cnntrain.errors import CnntrainError
from cnntrain.models import MODELS
from cnntrain.models.whitening import calibrate
from cnntrain.optim import OPTIMIZERS, SCHEDULES, learning_rates, sgd
from cnntrain.tables import render
from cnntrain.training.evaluate import outputs, score
from cnntrain.training.learner import Learner
from cnntrain.training.recording import waits

ROOT = Path(__file__).resolve().parents[1]
GPU = torch.device("cuda")
WARM, TIMED = 10, 50
RUNS = 5
Row = dict[str, Any]
Check = Callable[[argparse.Namespace, float], list[Row]]


def now() -> float:
    """Return the time at which all that was asked of the GPU is done."""
    torch.cuda.synchronize()
    return time.perf_counter()


def row(what: str, value: float, unit: str, note: str = "") -> Row:
    """Return a line of the table."""
    return {"what": what, "value": value, "unit": unit, "note": note}


def noise(shape: tuple[int, int, int], count: int, batch_size: int) -> ResidentFeed:
    """Return a feed of random images [C, H, W], cropped and mirrored."""
    channels, height, width = shape
    images = torch.randint(256, (count, height, width, channels), dtype=torch.uint8)
    card = Card("noise", tuple("0123456789"), shape, (0.5,) * channels, (0.25,) * channels)
    parts = {"flip": AUGMENTATIONS["flip"](), "crop": AUGMENTATIONS["crop"](padding=2)}
    split = Split(Pixels(images), torch.arange(count) % 10)
    return ResidentFeed(split, card, batch_size=batch_size, parts=parts, seed=0, device=GPU)


def student(network: str, shape: tuple[int, int, int], **settings: Any) -> Learner:
    """Return a learner in bf16 with SGD."""
    net = MODELS[network](shape, 10).to(GPU).to(memory_format=torch.channels_last)
    return Learner(net, sgd(net, lr=1e-3), [1e-3] * 1000, precision="bf16", seed=0, **settings)


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
            feed = noise(shape, 20000, batch_size)
            for mode in modes:
                if time.monotonic() > ends:
                    return found
                learner = student(network, shape, graph="graph" in mode, compile="compile" in mode)
                seconds = seconds_of(partial(learner.update, feed))
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
    feed = noise((3, 32, 32), 20000, 2000)

    def batch(number: int) -> None:
        feed.seek(number // feed.batches, number % feed.batches)
        feed.batch()

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
        learner, feed = student("resnet18", (3, 64, 64), graph=True), noise((3, 64, 64), 4096, 256)
        name = f"resnet18 256 at 64×64 graph{' deterministic' if deterministic else ''}"
        found.append(row(name, 1000 * seconds_of(partial(learner.update, feed)), "ms"))
    prepare(deterministic=False)
    return found


def waiting(args: argparse.Namespace, left: float) -> list[Row]:
    """Count how often twenty steps wait for the device."""
    found = []
    for graph in (False, True):
        learner, feed = student("resnet20", (3, 32, 32), graph=graph), noise((3, 32, 32), 4096, 128)
        for number in range(WARM):
            learner.update(feed, number)
        with waits() as seen:
            for number in range(WARM, WARM + 20):
                learner.update(feed, number)
        found.append(row(f"host waits in 20 steps, {'graph' if graph else 'eager'}", len(seen), "times"))
    return found


def cifar10(args: argparse.Namespace) -> Dataset:
    """Read CIFAR-10 from its folder; all training images are learnt from."""
    folder, workers = Path(args.data_root) / "cifar10", min(16, os.cpu_count() or 1)
    return load("folder", folder, {"image_size": 32}, val_size=0, cache="ram", workers=workers)


def trained(data: Dataset, recipe: dict[str, Any], epochs: int, seed: int) -> tuple[float, float]:
    """Train by the recipe; return the seconds and the top-1 over six views."""
    began = now()
    net = MODELS["airbench"](data.card.shape, len(data.card.classes), seed=seed)
    some = data.train.take(torch.arange(0, len(data.train), len(data.train) // 2000).numpy())
    calibrate(net, lambda: next(sweep(some, data.card, batch_size=2000, device=torch.device("cpu")))[0])
    net = net.to(GPU).to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS["muon"](net, **recipe["optimizer"])
    parts = {name: AUGMENTATIONS[name](**(options or {})) for name, options in recipe["augmentation"].items()}
    size, smoothing = recipe["trainer"]["batch_size"], recipe["trainer"]["label_smoothing"]
    feed = ResidentFeed(data.train, data.card, batch_size=size, parts=parts, seed=seed, device=GPU)
    last = epochs * feed.batches
    rates = learning_rates(optimizer.defaults["lr"], last, partial(SCHEDULES["triangular"], **recipe["schedule"]))
    learner = Learner(net, optimizer, rates, precision="bf16", seed=seed, label_smoothing=smoothing, graph=True)
    for step in range(last):
        learner.update(feed, step)
    seconds = now() - began
    learner.read(last)
    assert data.test is not None
    shown = sweep(data.test, data.card, batch_size=2000, device=GPU)
    return seconds, score(outputs(net, shown, precision="bf16", views=VIEWS["flip_shift"]))["top1"]


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
            kept = {"images": images, "labels": split.labels, "classes": list(data.card.classes)}
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


# In the order of their worth, with the most seconds that each may take.
CHECKS: dict[str, tuple[float, Check]] = {
    "tests": (180, tests),
    "host waits": (20, waiting),
    "recipe": (130, record),
    "steps": (
        60,
        steps([(name, size) for name in ("resnet20", "lenet5") for size in (128, 512, 2048)], ["eager", "graph"]),
    ),
    "recipe's steps": (60, steps([("airbench", 2000)], ["eager", "graph", "compile", "compile+graph"])),
    "compiled steps": (60, steps([("resnet20", 512), ("lenet5", 512)], ["compile", "compile+graph"])),
    "crops": (15, crops),
    "determinism": (20, determinism),
}


def main() -> None:
    """Take every check for which time is left; print and keep the table."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, before its first product
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="where cifar10/train and cifar10/test lie")
    parser.add_argument("--reference", default="", help="path of airbench94_muon.py, unmodified")
    parser.add_argument("--output", default="gpu", help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=8.0, help="the time in which no further check begins")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"only these: {', '.join(CHECKS)}")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("scripts/gpu.py needs a GPU, and torch sees none here", file=sys.stderr)
        raise SystemExit(2)
    torch.set_float32_matmul_precision("high")
    prepare(deterministic=False)
    ends, found = time.monotonic() + 60 * args.minutes, list[Row]()
    for name, (most, check) in CHECKS.items():
        if args.checks and name not in args.checks:
            continue
        left, began = min(most, ends - time.monotonic()), time.monotonic()
        rows: list[Row] = []
        try:
            if left > 5:
                rows = check(args, left)
        except (CnntrainError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        found += rows or [{"what": name, "value": None, "unit": "", "note": "not measured"}]
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    keep(found, Path(args.output))


def keep(found: list[Row], folder: Path) -> None:
    """Print the rows and leave them as a table and as numbers."""
    gpu = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, **hardware()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps({"machine": gpu, "rows": found}, indent=1, default=str))
    shown = [r | {"value": "not measured" if r["value"] is None else f"{r['value']:,.3f}"} for r in found]
    print(f"{gpu['gpu']}, torch {gpu['torch']}\n\n{render(shown)}")
    lines = [f"{gpu['gpu']}, torch {gpu['torch']}.", "", "| what | value | unit | note |", "|---|---|---|---|"]
    lines += [f"| {r['what']} | {r['value']} | {r['unit']} | {r['note']} |" for r in shown]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
