"""Times and waits of single steps, in this process."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.augment.resize import resized_at_once
from cnntrain.data.augment.tta import TTA
from cnntrain.data.loading.batch import Store
from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.models import MODELS
from cnntrain.nn.calibration import calibrate
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import BuildOptions
from cnntrain.runtime.devices import prepare
from cnntrain.tasks.classification import Classification
from cnntrain.training.cuda_graph import waits
from cnntrain.training.evaluate import outputs
from cnntrain.training.optimizers import sgd
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState
from scripts.gpu.rows import Check, Given, Row, row, seconds_of

SHAPES: dict[str, tuple[int, int, int]] = {"lenet5": (1, 28, 28), "resnet18": (3, 64, 64), "resnet50": (3, 224, 224)}
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "captured": {"graph": True},
    "compiled": {"compile": True},
    "compiled and captured": {"compile": True, "graph": True},
}


def noise(shape: Shape, count: int, batch_size: int, device: torch.device) -> ResidentLoader:
    """Return a loader of random images [C, H, W], cropped and mirrored."""
    channels, height, width = shape
    images = torch.randint(256, (count, height, width, channels), dtype=torch.uint8)
    info = DatasetInfo("noise", tuple("0123456789"), (channels, height, width), (0.5,) * channels, (0.25,) * channels)
    parts = {"flip": AUGMENTATIONS["flip"](), "crop": AUGMENTATIONS["crop"](padding=2)}
    split = Split(Pixels(images), torch.arange(count) % 10)
    return ResidentLoader(split, info, batch_size=batch_size, parts=parts, seed=0, device=device)


def learner(network: str, shape: Shape, given: Given, **settings: Any) -> TrainStep:
    """Return a training in bf16 with SGD; where there is no GPU its steps are not captured."""
    net = MODELS[network](shape, 10, BuildOptions()).to(given.device).to(memory_format=torch.channels_last)
    state, task = TrainState(net, sgd(net, lr=1e-3)), Classification(tuple("0123456789"))
    if given.smoke:
        settings.pop("graph", None)
    return TrainStep(state, [1e-3] * 1000, task, StepSettings(precision="bf16", seed=0, **settings))


def step_seconds(network: str, batch_size: int, given: Given, images: int = 20000, **settings: Any) -> float:
    """Return the seconds of a step on images that lie on the device."""
    shape = SHAPES.get(network, (3, 32, 32))
    loader = noise(shape, max(images, batch_size), batch_size, given.device)
    return seconds_of(partial(learner(network, shape, given, **settings).update, loader), given)


def steps(cases: list[tuple[str, int]], modes: list[str]) -> Check:
    """Return a check that times steps of networks at their batch sizes in some of the `MODES`."""

    def check(given: Given) -> Iterator[Row]:
        for (network, batch_size), mode in itertools.product(cases[:1] if given.smoke else cases, modes):
            size = 8 if given.smoke else batch_size
            seconds = step_seconds(network, size, given, images=64 if given.smoke else 20000, **MODES[mode])
            yield row(f"{network}, batch {size}, {mode}", 1000 * seconds, "ms", f"{size / seconds:,.0f} images/s")

    return check


def waiting(given: Given) -> Iterator[Row]:
    """Count how often twenty steps wait for the device."""
    for graph in (False, True):
        loader = noise((3, 32, 32), 64 if given.smoke else 4096, 8 if given.smoke else 128, given.device)
        train_step = learner("resnet20", (3, 32, 32), given, graph=graph)
        for number in range(6):
            train_step.update(loader, number)
        seen = list[str]()
        if not given.smoke:
            with waits() as seen:
                for number in range(6, 26):
                    train_step.update(loader, number)
        yield row(f"host waits in 20 steps, {'captured' if graph else 'plain'}", len(seen), "times")


def beside_steps(given: Given) -> Iterator[Row]:
    """Time what the clock of airbench94_muon counts beside the steps: whitening, and six views of 10,000 images."""
    images, batch_size = (100, 50) if given.smoke else (10000, 2000)
    net = MODELS["airbench"]((3, 32, 32), 10, BuildOptions()).to(given.device).to(memory_format=torch.channels_last)
    some = torch.randn(images // 2, 3, 32, 32)
    seconds = seconds_of(lambda _: calibrate(net, lambda: some), given)
    yield row("airbench: whitening of the first filters", 1000 * seconds, "ms")
    batches = list(torch.randn(images, 3, 32, 32, device=given.device).split(batch_size))
    pairs = [(batch.contiguous(memory_format=torch.channels_last), batch[:, 0, 0, 0]) for batch in batches]
    seconds = seconds_of(lambda _: outputs(net, pairs, precision="bf16", views=TTA["flip_shift"]), given)
    yield row(f"airbench: six views of {images:,} images", 1000 * seconds, "ms")


def determinism(given: Given) -> Iterator[Row]:
    """Time steps of ResNet-18 with and without algorithms that repeat to the bit."""
    size, images = (2, 8) if given.smoke else (256, 4096)
    seconds = []
    for deterministic in (False, True):
        prepare(deterministic=deterministic)
        seconds.append(step_seconds("resnet18", size, given, images, graph=True))
    prepare(deterministic=False)
    plain, repeating = seconds
    yield row(
        f"resnet18 at 64×64, batch {size}, deterministic=true", repeating / plain, "× the time of false",
        f"{1000 * repeating:.2f} and {1000 * plain:.2f} ms",
    )  # fmt: skip


def masked_crop(images: Tensor, padding: int) -> Tensor:
    """Crop images [B, C, H, W] by one masked copy for each of the shifts."""
    size, out = images.shape[-1], torch.empty_like(images)
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    shifts = torch.randint(2 * padding + 1, (len(images), 2), device=images.device)
    for down, across in [divmod(shift, 2 * padding + 1) for shift in range((2 * padding + 1) ** 2)]:
        those = (shifts[:, 0] == down) & (shifts[:, 1] == across)
        out[those] = padded[those, :, down : down + size, across : across + size]
    return out


def crops(given: Given) -> Iterator[Row]:
    """Time one gather beside masked copies, and windows of larger images."""
    size, large = (16, 4) if given.smoke else (2000, 256)
    loader = noise((3, 32, 32), 10 * size, size, given.device)

    def batch(number: int) -> None:
        loader.seek(*divmod(number, loader.batches))
        loader.batch()

    images = torch.rand(size, 3, 32, 32, device=given.device).to(memory_format=torch.channels_last)
    store = Store(torch.randint(256, (2 * large, 256, 256, 3), dtype=torch.uint8), given.device)
    index = torch.arange(large, device=given.device)
    windows = torch.tensor([[20, 30, 180, 200]] * large, device=given.device)
    for what, call in {
        f"batch of {size}: crop, flip, normalise in one gather": batch,
        f"crop of {size} by masked copies": lambda _: masked_crop(images, 2),
        f"{large} windows of 256×256 to 160×160": lambda _: resized_at_once(store.images(index), windows, (160, 160)),
    }.items():
        seconds = seconds_of(call, given)
        yield row(what, 1000 * seconds, "ms")
