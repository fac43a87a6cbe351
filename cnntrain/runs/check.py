"""What is wrong with a training's configuration, found before any image is read."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from cnntrain.config import pretrained
from cnntrain.config.build import (
    build_augmentations,
    build_auxiliary,
    build_model,
    build_optimizer,
    build_rates,
    select_dataset,
)
from cnntrain.config.schema import Fit, Options, Trainer
from cnntrain.data.augment.augmentations import Augmentation
from cnntrain.data.datasets.registry import SelectedDataset
from cnntrain.data.storage.borders import MOST_CLASSES
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.precision import precision_for
from cnntrain.nn.shapes import ShapesOnly
from cnntrain.runtime import distributed
from cnntrain.runtime.devices import choose_device
from cnntrain.runtime.errors import InputError
from cnntrain.tasks import kind_of
from cnntrain.tasks.task import Way
from cnntrain.training.schedule_events import freeze_schedule, scaled

COMPILERS = ("g++", "clang++")


@dataclass(frozen=True)
class CheckedFit:
    """A configuration that was checked, with everything that was made for it and is needed again."""

    cfg: Fit
    begun: bool  # whether the run holds its weights already
    device: torch.device
    precision: Literal["fp32", "bf16"]
    model: Options  # those of the network to build: one whose run has begun loads no pretrained weights
    dataset: SelectedDataset  # of which no image is read yet
    info: DatasetInfo
    outline: nn.Sequential  # the network on the meta device
    augmentations: Mapping[str, Augmentation]


def check_fit(cfg: Fit, *, begun: bool = False) -> CheckedFit:
    """Return what a configuration makes without reading an image; a run that has `begun` holds its weights.

    Raises `InputError` for the first thing that is wrong.
    """
    device = choose_device(cfg.device)
    refuse_uncapturable(cfg.trainer, device)
    augmentations = build_augmentations(cfg.augmentation)
    refuse_unshared(cfg.trainer.batch_size, augmentations)
    refuse_soft_targets(cfg.trainer, augmentations)
    dataset = select_dataset(cfg.dataset, cfg.data_root)
    info = dataset.info
    refuse_pixels_of_words(cfg, info)
    model = pretrained.without_weights(cfg.model) if begun else cfg.model
    if cfg.model.get("head") and not (begun or cfg.init_from or model.get("weights")):
        raise InputError(
            f"model.head={cfg.model['head']} says which stages take no loaded weights, and none are loaded: give "
            "init_from=<run> or model.weights="
        )
    refuse_unmapped(cfg, info, augmentations)
    outline = build_model(model, info, device="meta")
    auxiliary = build_auxiliary(cfg.model, outline, info, device="meta")
    refuse_sizes(cfg.trainer.resize, auxiliary or outline, info)
    build_rates(cfg.schedule, build_optimizer(cfg.optimizer, outline).defaults["lr"], 1, 1)
    refuse_long_warmup(cfg)
    for step, freeze in freeze_schedule(outline.train(), cfg.trainer.freeze, 1, cfg.trainer.frozen_mode):
        if step == 0:
            freeze()
    if cfg.trainer.batch_size == distributed.WORLD:
        refuse_lone_values(outline, info)
    precision = precision_for(cfg.trainer.precision, device, (outline, info.shape))
    return CheckedFit(cfg, begun, device, precision, model, dataset, info, outline, augmentations)


def refuse_unmapped(cfg: Fit, info: DatasetInfo, augmentations: Mapping[str, Augmentation]) -> None:
    """Raise `InputError` for what the dataset's task is not defined with, and border weights of too many classes."""
    task, trainer, balance = kind_of(info), cfg.trainer, cfg.dataset["balance"]
    asked: list[tuple[Way, bool, str]] = [
        ("mixing", part.mixes, f"augmentation.{name} blends classes of images") for name, part in augmentations.items()
    ]
    asked += [
        ("sampling", balance == "sampling", "dataset.balance=sampling draws images by their class; take none"),
        ("weights", balance == "weights", "dataset.balance=weights is of classes that have a loss; take none"),
        ("hinge", bool(trainer.hinge), f"trainer.hinge={trainer.hinge} is a loss of classes of images; take null"),
        ("label_smoothing", trainer.label_smoothing > 0, "trainer.label_smoothing is of cross-entropy; take 0"),
        ("border_weight", trainer.border_weight > 0, "trainer.border_weight is of classes of pixels; take 0"),
        ("resize", bool(trainer.resize), "trainer.resize makes images smaller, but not what is known of them; take {}"),
    ]
    for way, wanted, line in asked:
        if wanted and way not in task.takes:
            raise InputError(f"{line}: {info} has {task.gives}")
    if trainer.border_weight and len(info.classes) > MOST_CLASSES:
        raise InputError(f"trainer.border_weight is of at most {MOST_CLASSES} classes, and {info} has more; take 0")


def refuse_pixels_of_words(cfg: Fit, info: DatasetInfo) -> None:
    """Raise `InputError` where pixels would be changed and the images are sentences."""
    if info.words and cfg.augmentation:
        raise InputError(
            f"augmentation.{next(iter(cfg.augmentation))} changes pixels, and {info} has words: take augmentation=none"
        )
    if info.words and cfg.trainer.resize:
        raise InputError(f"trainer.resize changes pixels, and {info} has words: take {{}}")


def refuse_long_warmup(cfg: Fit) -> None:
    """Raise `InputError` when the learning rate would still rise when the training ends."""
    warmup, epochs = cfg.schedule.get("warmup", 0), cfg.trainer.epochs
    if warmup > epochs:
        raise InputError(f"schedule.warmup={warmup} epochs is longer than the training: trainer.epochs={epochs}")


def refuse_uncapturable(trainer: Trainer, device: torch.device) -> None:
    """Raise `InputError` when steps cannot be recorded or compiled as a configuration says."""
    if trainer.graph is True and device.type != "cuda":
        raise InputError(f"trainer.graph=true needs a GPU, and device={device} is not one; take auto")
    if trainer.graph is True and distributed.WORLD > 1:
        raise InputError(f"trainer.graph=true needs a single process, and these are {distributed.WORLD}; take auto")
    if trainer.compile and device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise InputError(f"trainer.compile needs a C++ compiler on a CPU ({', '.join(COMPILERS)}); take false")


def refuse_unshared(batch_size: int, augmentations: Mapping[str, Augmentation]) -> None:
    """Raise `InputError` when several processes cannot each have their share of a batch."""
    if batch_size % distributed.WORLD:
        share = batch_size // distributed.WORLD
        near = sorted({max(share, 1) * distributed.WORLD, (share + 1) * distributed.WORLD})
        raise InputError(
            f"trainer.batch_size={batch_size} cannot be divided among {distributed.WORLD} processes; take "
            f"{' or '.join(map(str, near))}"
        )
    for name, augmentation in augmentations.items():
        if augmentation.mixes and distributed.WORLD > 1:
            raise InputError(
                f"augmentation.{name} blends images of one batch, of which {distributed.WORLD} processes have a "
                "part each; train in one process, or without it"
            )


def refuse_soft_targets(trainer: Trainer, augmentations: Mapping[str, Augmentation]) -> None:
    """Raise `InputError` when a hinge loss would get probabilities in place of classes."""
    if trainer.hinge and trainer.label_smoothing:
        raise InputError(
            f"trainer.label_smoothing={trainer.label_smoothing:g} is of cross-entropy; with trainer.hinge take 0"
        )
    for name, augmentation in augmentations.items():
        if trainer.hinge and augmentation.mixes:
            raise InputError(
                f"augmentation.{name} mixes classes, and trainer.hinge={trainer.hinge} is of one; take null"
            )


def refuse_sizes(resize: Mapping[int, float], outline: nn.Module, info: DatasetInfo) -> None:
    """Raise `InputError` for images that would not be smaller, or that the network cannot take."""
    side = min(info.shape[1:])
    for pixels in resize:
        if pixels >= side:
            raise InputError(f"trainer.resize: {pixels} pixels are not fewer than the {side} of the images")
        try:
            with torch.no_grad(), ShapesOnly():
                outline(torch.empty(2, info.shape[0], *scaled(info.shape[1:], pixels), device="meta"))
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"trainer.resize: the network does not take images of {pixels} pixels ({str(error).splitlines()[0]}); "
                "a network that ends with a global pooling accepts many sizes"
            ) from error


def refuse_lone_values(outline: nn.Sequential, info: DatasetInfo) -> None:
    """Raise `InputError` when a batch of one image leaves batch normalisation one value of a channel to normalise."""
    try:
        outline(torch.empty(1, *info.shape, device="meta"))
    except ValueError as error:
        alone = "1" if distributed.WORLD == 1 else f"{distributed.WORLD} in {distributed.WORLD} processes"
        raise InputError(f"trainer.batch_size={alone} is too small for this network: {error}") from error
