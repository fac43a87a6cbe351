"""Whole trainings by the command line, and the peers' in processes of their own."""

import contextlib
import functools
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cnntrain.cli.main import main
from scripts.bench.harness import missing, run
from scripts.bench.speedrun import original
from scripts.bench.work import Task
from scripts.gpu.rows import Given, Row, row
from scripts.gpu.steps import step_seconds

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("plain PyTorch, best effort", "Lightning, best effort", "timm, best effort")
LONGEST = 20  # trainings of a recipe


@functools.cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return the folder of this process's runs, which is gone when it ends."""
    return tempfile.TemporaryDirectory(prefix="cnntrain-gpu-")


def fit(given: Given, *words: str) -> tuple[Path, list[dict[str, Any]]]:
    """Train by the command line in this process; return the run and its epochs."""
    folder = Path(tempfile.mkdtemp(dir=scratch().name)) / "run"
    typed = dict(word.partition("=")[::2] for word in words)
    if given.smoke:
        typed |= {"trainer.epochs": "2", "trainer.batch_size": "32", "device": "cpu"}
    typed |= {"trainer.tensorboard": "false", "output_dir": str(folder)}
    with contextlib.redirect_stdout(io.StringIO()):
        if code := main(["fit", *(f"{key}={value}" for key, value in typed.items())]):
            raise RuntimeError(f"cnntrain fit ended with {code}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return folder, [entry for entry in rows if "samples_per_second" in entry]


def images(given: Given, name: str, size: int) -> list[str]:
    """Return the words for a folder of images, or for drawn ones where tiny work is enough."""
    if given.smoke:
        return ["dataset=synthetic", "dataset.train_images=128", "dataset.channels=3", f"dataset.image_size={size}"]
    root = Path(given.data_root) / name
    return ["dataset=folder", f"dataset.root={root}", f"dataset.image_size={size}", "dataset.val_size=0"]


def recipe(given: Given) -> Iterator[Row]:
    """Train by the recipe of the 94 % records, merged and captured, at its length and at shorter ones.

    The first training compiles, and its time is given apart. The seconds are those of the steps, as in a run's records;
    `beside_steps` times what the reference's clock counts too.
    """
    data = images(given, "cifar10", 32)
    modes = ("compiled", "true", {8: LONGEST, 7: 5}), ("not compiled", "false", {8: 5})
    for mode, compiled, counts in modes[1:] if given.smoke else modes:  # a CPU would compile for minutes
        began = time.perf_counter()
        trained(given, data, epochs=8, seed=100, compiled=compiled)
        yield row(f"cifar10_fast, {mode}: the first training, with all that begins", time.perf_counter() - began, "s")
        for epochs, count in counts.items():
            seconds, top1 = list[float](), list[float]()
            for seed in range(2 if given.smoke else count):
                spent, right = trained(given, data, epochs, seed, compiled)
                seconds.append(spent)
                top1.append(100 * right)
                if seed + 1 in (5, 10, 20):  # so that what is ended early has said something
                    yield from figures(f"cifar10_fast, {mode}, {epochs} epochs", top1, seconds)


def figures(name: str, top1: list[float], seconds: list[float]) -> Iterator[Row]:
    """Yield the mean accuracy over six views in percent, with its standard error, and the seconds of trainings."""
    count = len(top1)
    error = stdev(top1) / math.sqrt(count) if count > 1 else math.nan
    yield row(f"{name}: top-1, six views", mean(top1), "%", f"n = {count}, standard error {error:.2f}")
    yield row(f"{name}: seconds", mean(seconds), "s", f"{min(seconds):.2f} … {max(seconds):.2f} s, n = {count}")


def trained(given: Given, data: list[str], epochs: int, seed: int, compiled: str) -> tuple[float, float]:
    """Train once by the recipe; return the seconds and the top-1 over six views."""
    words = [f"trainer.epochs={epochs}", f"trainer.validate_every={epochs}", f"seed={seed}"]
    folder, rows = fit(given, "experiment=cifar10_fast", *data, *words, f"trainer.compile={compiled}")
    with contextlib.redirect_stdout(io.StringIO()):
        main(["eval", f"run={folder}", "tta=flip_shift", "weights=last"])
    found = json.loads(next(folder.glob("eval/*/results.json")).read_text())
    return sum(entry["seconds"] for entry in rows), found["top1"]


def reference(given: Given) -> Iterator[Row]:
    """Run airbench94_muon.py unmodified on the same pixels, after the warm-up that it asks for."""
    if given.reference:
        task = Task("airbench", "cifar10", given.data_root, images=50000, batch_size=2000, reference=given.reference)
        top1, seconds = list[float](), list[float]()
        for right, spent in original(task, LONGEST):
            top1.append(100 * right)
            seconds.append(spent)
            if len(top1) in (1, 5, 10, 20):
                yield from figures("airbench94_muon", top1, seconds)


def fit_beside_step(given: Given) -> Iterator[Row]:
    """Compare images a second through `fit`, with records and saves, with the bare step on images that lie ready."""
    for network, batch_size in (("resnet20", 512), ("lenet5", 2048)):
        size = 32 if given.smoke else batch_size
        data = ["dataset=synthetic", f"dataset.train_images={256 if given.smoke else 60000}", "dataset.val_size=0"]
        shape = ["dataset.channels=3", "dataset.image_size=32"] if network == "resnet20" else []
        _, rows = fit(
            given, f"model={network}", *data, *shape, "augmentation=crop_flip", f"trainer.batch_size={size}",
            "trainer.epochs=4", "trainer.precision=bf16",
        )  # fmt: skip
        bare = size / step_seconds(network, size, given, images=256 if given.smoke else 20000, graph=True)
        share = rows[-1]["samples_per_second"] / bare
        yield row(f"{network}, batch {size}: fit beside its bare step", share, "×", f"bare {bare:,.0f} images/s")


def peers(given: Given) -> Iterator[Row]:
    """Compare an epoch of ResNet-20 with the same network in plain PyTorch, Lightning and timm, on the same images."""
    data = "synthetic" if given.smoke else "cifar10"
    network = "lenet5" if given.smoke else "resnet20"
    augmentation = "none" if given.smoke else "crop_flip"
    count, root = 256 if given.smoke else 50000, str(Path(given.data_root).resolve())
    task = Task(network, data, root, augmentation, images=count, epochs=1)
    ours = run("cnntrain", task)["warm"]
    yield row(f"{network}: an epoch of cnntrain fit", ours, "s", f"batch {task.batch_size}")
    absent = missing(PEERS)
    for name in PEERS:
        if name in absent:
            yield row(f"{network}: {name}", None, "× ours", f"needs {absent[name]}")
        else:
            theirs = run(name, task)["warm"]
            yield row(f"{network}: {name}", theirs / ours, "× ours", f"{theirs:.2f} s an epoch")


def packs(given: Given) -> Iterator[Row]:
    """Compare images a second from packs with the same step on images that lie ready, at 64 and 224 pixels."""
    cases = (("resnet18", 64, 256), ("resnet50", 224, 128))
    for network, pixels, batch_size in cases[:1] if given.smoke else cases:
        size, side = (32, 32) if given.smoke else (batch_size, pixels)
        with tempfile.TemporaryDirectory() as scratch:
            _, rows = fit(
                given, f"model={network}", *images(given, "tiny-imagenet-20", side), f"data_root={scratch}",
                *([] if given.smoke else ["dataset.cache=pack"]), "augmentation=crop_flip",
                f"trainer.batch_size={size}", "trainer.epochs=3", "trainer.precision=bf16",
            )  # fmt: skip
        ready = size / step_seconds(network, size, given, images=2 * size, graph=True)
        share = rows[-1]["samples_per_second"] / ready
        yield row(f"{network} at {side} pixels, batch {size}: packs beside ready images", share, "×")


def tests(given: Given) -> Iterator[Row]:
    """Run the tests that need a GPU, without plug-ins whose warnings would be errors."""
    words = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:benchmark", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*words, str(ROOT / "tests" / "gpu")], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    print(done.stdout[-4000:], file=sys.stderr)
    yield row("tests/gpu", done.returncode, "exit code", done.stdout.strip().splitlines()[-1])


def two_processes(given: Given) -> Iterator[Row]:
    """Train in two processes with torchrun: on one GPU each, or both on the only one, which NCCL may refuse."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [
            *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cnntrain", "fit"),
            *("model=lenet5", "dataset=synthetic", "trainer.epochs=1", "trainer.batch_size=32"),
            *(f"device={given.device.type}", "trainer.tensorboard=false", f"output_dir={scratch}/run"),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    said = [line for line in done.stderr.splitlines() if line.startswith("cnntrain:")]
    note = said[0] if said else "trained" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    yield row("two processes on the GPUs of this machine", done.returncode, "exit code", note[:200])
