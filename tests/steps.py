"""Training steps, of classifiers unless said otherwise, from keyword arguments: for tests without a configuration."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from made import create_model
from torch import Tensor, nn
from torch.optim import Optimizer

from cnntrain.data.augment.augmentations import AUGMENTATIONS, Augmentation
from cnntrain.data.datasets.registry import load
from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.data.storage.borders import bordered
from cnntrain.data.storage.images import Dataset
from cnntrain.nn.auxiliary import AuxiliaryClassifiers
from cnntrain.tasks import task_for
from cnntrain.tasks.classification import Classification, Hinge
from cnntrain.tasks.segmentation import Segmentation
from cnntrain.tasks.task import Task
from cnntrain.training.optimizers import OPTIMIZERS
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState


def step_of(
    net: nn.Sequential,
    optimizer: Optimizer,
    rates: Sequence[float],
    *,
    auxiliary: AuxiliaryClassifiers | None = None,
    ema: float = 0.0,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    hinge: Hinge | None = None,
    task: Task | None = None,
    **settings: Any,
) -> TrainStep:
    task = task or Classification((), class_weights, label_smoothing, hinge)
    options = {"precision": "fp32", "seed": 0} | settings
    return TrainStep(TrainState(net, optimizer, auxiliary=auxiliary, ema=ema), rates, task, StepSettings(**options))


DENSE_NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"width": 4, "depth": 2},
    "segnet": {"width": 4, "depth": 2},
    "segnet_basic": {"width": 4, "depth": 2},
    "fcn8s": {"backbone": "resnet20"},
    "dilated": {"width": 4, "hidden": 8, "context": "large"},
    "yolo_v1": {"backbone": "resnet20", "grid": 4, "width": 8},
}


def every_augmentation() -> dict[str, Augmentation]:
    return {
        "flip": AUGMENTATIONS["flip"](),
        "crop": AUGMENTATIONS["crop"](padding=3, border="zero"),
        "resized_crop": AUGMENTATIONS["resized_crop"](scale=(0.5, 1.0)),
        "affine": AUGMENTATIONS["affine"](shift=0.1, rotate=10.0),
        "elastic": AUGMENTATIONS["elastic"](),
        "colour": AUGMENTATIONS["colour"](brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
        "cutout": AUGMENTATIONS["cutout"](size=4),
    }


def dense_data(model: str) -> Dataset:
    """Return drawn shapes with what a network gives: label maps or boxes."""
    targets = "boxes" if model.startswith("yolo") else "maps"
    return load("shapes", Path(), {"image_size": 32, "train_images": 48, "test_images": 12, "targets": targets})


def dense_step(
    model: str, parts: dict[str, Augmentation], device: torch.device, **settings: Any
) -> tuple[TrainStep, ResidentLoader]:
    """Return steps of a network on drawn shapes with border weights or boxes, and their loader."""
    data = dense_data(model)
    train, task = data.train, task_for(data.info)
    if isinstance(task, Segmentation):
        task = replace(task, border_weight=10.0, class_weights=torch.tensor([0.5, 1.0, 1.0, 2.0], device=device))
        train = train.read_from(bordered(train.source, 4, 5.0))
    net = create_model(model, (3, 32, 32), len(data.info.classes), **DENSE_NETWORKS[model])
    net = net.to(device).to(memory_format=torch.channels_last)
    loader = ResidentLoader(train, data.info, batch_size=8, seed=0, device=device, parts=parts)
    return step_of(net, OPTIMIZERS["sgd"](net, lr=0.01), [0.01] * 99, task=task, **settings), loader


def lying_on(device: str, owner: Any, names: Iterable[str]) -> None:
    """Put tensors of an object on a device, without their values."""
    for name in names:
        if (old := getattr(owner, name)) is None:
            continue
        new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=device)
        setattr(owner, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def lay_out(device: str, net: nn.Module, loader: ResidentLoader) -> None:
    """Put what a step reads on a device, without its values: the weights, the images and what was drawn for them."""
    assert loader.index is not None and loader.store.flat is not None
    lying_on(device, loader, ("labels", "at", "index"))
    lying_on(device, loader.store, ("flat", "rows", "cols"))
    lying_on(device, loader.render.normalise, ("scale", "shift"))
    loader.store.device = torch.device(device)
    loader.drawn = {name: torch.empty_like(drawn, device=device) for name, drawn in loader.drawn.items()}
    for module in net.modules():
        lying_on(device, module, [*module._parameters, *module._buffers])


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Let torch raise an error where the host waits for a GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
