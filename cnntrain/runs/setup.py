"""A training put together from its configuration: everything that `fit` runs and that a test of it runs again."""

import contextlib
import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from cnntrain.config import pretrained
from cnntrain.config.build import (
    build_augmentations,
    build_auxiliary,
    build_model,
    build_optimizer,
    build_rates,
    dataset_info,
)
from cnntrain.config.schema import Fit, Trainer
from cnntrain.data.augment.augmentations import Augmentation
from cnntrain.data.datasets.registry import fingerprint
from cnntrain.data.datasets.splits import Member, class_weights, parts_of
from cnntrain.data.loading.loader import Loader, ResidentLoader, StreamedLoader, eval_batches
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split, spread, stored
from cnntrain.models.external import remarks
from cnntrain.nn.shapes import ShapesOnly
from cnntrain.nn.whitening import calibrate
from cnntrain.runs.images import read_noted, warn_of_seen
from cnntrain.runs.load import start_from
from cnntrain.runtime import distributed
from cnntrain.runtime.devices import choose_device, choose_precision
from cnntrain.runtime.distributed import shard
from cnntrain.runtime.errors import CnntrainError, InputError
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.memory import spent
from cnntrain.runtime.signals import Signals
from cnntrain.tasks import task_for
from cnntrain.tasks.classification import Classification
from cnntrain.tasks.task import Task
from cnntrain.training.evaluate import Outputs, answers, outputs
from cnntrain.training.loop import Record, Stop, TrainProgress, train
from cnntrain.training.schedule_events import freeze_schedule, scaled
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState

Batches = TypeVar("Batches")
COMPILERS = ("g++", "clang++")
ANEW = "start a new run in another folder"  # what helps when a run's images have changed
LOOKED_AT = 2000  # training images that layers with weights made from images see


@dataclass
class Session:
    """What a training needs, built and checked; nothing is written yet."""

    cfg: Fit
    device: torch.device
    precision: Literal["fp32", "bf16"]
    dataset: Dataset
    train_step: TrainStep
    loader: Loader
    started_from: dict[str, Any] | None

    @property
    def per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return self.loader.batches // self.cfg.trainer.accumulate

    def remarks(self) -> Iterator[str]:
        """Yield what a person should know of the network and its images before it is trained."""
        net, auxiliary = self.train_step.trained.net, self.train_step.trained.auxiliary
        yield from self.dataset.remarks
        yield from remarks(net, pretrained.expected_preprocessing(self.cfg.model), self.dataset.info.shape)
        if auxiliary:
            yield auxiliary.summary()
        options = self.cfg.dataset
        size = options.get("image_size")  # images that are read at their own size have no more detail
        if "resized_crop" in self.cfg.augmentation and size and options.get("stored_size", 0) is None:
            yield (
                f"resized_crop enlarges windows of images that are stored at {size} pixels a side; "
                f"dataset.stored_size={2 * size} keeps their detail"
            )

    def validate(self, net: nn.Sequential, stop: Callable[[], bool]) -> Record | None:
        """Score a network on the validation images; None when `stop` said so on the way."""
        assert self.dataset.val is not None
        rounds = -(-len(self.dataset.val) // (distributed.WORLD * self.cfg.trainer.eval_batch_size))
        batches = self.eval_batches(self.share) if len(self.share) else iter(())
        try:
            return self.task.validate(answers(net, until(stop, batches, rounds), precision=self.precision))
        except ValidationStopped:
            return None

    @property
    def task(self) -> Task:
        """What the dataset's targets ask of the network."""
        return task_for(self.dataset.info)

    @functools.cached_property
    def share(self) -> Split:
        """The validation images that this process looks at: all of them when it is alone."""
        assert self.dataset.val is not None
        mine = shard(len(self.dataset.val))
        return self.dataset.val if distributed.WORLD == 1 else self.dataset.val.take(np.arange(mine.start, mine.stop))

    def train(self, at: TrainProgress, signals: Signals, save: Callable[[str], None], stop: Stop) -> Iterator[Record]:
        """Train from `at` to the end, or until `stop` says so between two steps; yield the loop's records."""
        trainer = self.cfg.trainer
        return train(
            self.train_step,
            self.loader,
            (lambda net: self.validate(net, signals.stop)) if self.dataset.val else None,
            at=at,
            epochs=trainer.epochs,
            save=save,
            validate_every=trainer.validate_every,
            log_every=trainer.log_every,
            patience=trainer.patience,
            stop=stop,
        )

    def eval_batches(self, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the images and labels of a split."""
        size, workers = self.cfg.trainer.eval_batch_size, self.cfg.dataset["workers"]
        return eval_batches(split, self.dataset.info, batch_size=size, device=self.device, workers=workers)

    def outputs(self, split: Split) -> Outputs:
        """Return what the network says of a split."""
        return outputs(self.train_step.evaluated, self.eval_batches(split), precision=self.precision)


class ValidationStopped(Exception):  # noqa: N818 - it is no error
    """A validation was asked to stop between two batches."""


def until(stop: Callable[[], bool], batches: Iterator[Batches], rounds: int) -> Iterator[Batches]:
    """Pass on batches; raise `ValidationStopped` once `stop` says so, which is asked `rounds` times.

    Of several processes some may have a batch less, and all have to ask equally often.
    """
    for _ in range(rounds):
        if stop():
            raise ValidationStopped
        yield from itertools.islice(batches, 1)


def check(cfg: Fit, *, begun: bool = False) -> None:
    """Find what is wrong with a configuration before any image is read; a run that has `begun` holds its weights."""
    refuse_unrecordable(cfg.trainer, choose_device(cfg.device))
    refuse_unshared(cfg.trainer.batch_size, build_augmentations(cfg.augmentation))
    info = dataset_info(cfg.dataset, cfg.data_root)
    shapes = build_model(pretrained.without_weights(cfg.model) if begun else cfg.model, info, device="meta")
    auxiliary = build_auxiliary(cfg.model, shapes, info, device="meta")
    refuse_sizes(cfg.trainer.resize, auxiliary or shapes, info)
    build_rates(cfg.schedule, build_optimizer(cfg.optimizer, shapes).defaults["lr"], 1, 1)
    refuse_long_warmup(cfg)
    for step, change in freeze_schedule(shapes.train(), cfg.trainer.freeze, 1):
        if step == 0:
            change()
    if cfg.trainer.batch_size == distributed.WORLD:
        refuse_lone_values(shapes, info)


def refuse_long_warmup(cfg: Fit) -> None:
    """Raise `InputError` when the learning rate would still rise when the training ends."""
    warmup, epochs = cfg.schedule.get("warmup", 0), cfg.trainer.epochs
    if warmup > epochs:
        raise InputError(f"schedule.warmup={warmup} epochs is longer than the training: trainer.epochs={epochs}")


def refuse_unrecordable(trainer: Trainer, device: torch.device) -> None:
    """Raise `InputError` when steps cannot be recorded or compiled as a configuration says."""
    if trainer.graph is True and device.type != "cuda":
        raise InputError(f"trainer.graph=true needs a GPU, and device={device} is not one; take auto")
    if trainer.graph is True and distributed.WORLD > 1:
        raise InputError(f"trainer.graph=true needs a single process, and these are {distributed.WORLD}; take auto")
    if trainer.compile and device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise InputError(f"trainer.compile=true needs a C++ compiler on a CPU ({', '.join(COMPILERS)}); take false")


def refuse_unshared(batch_size: int, parts: Mapping[str, Augmentation]) -> None:
    """Raise `InputError` when several processes cannot each have their share of a batch."""
    if batch_size % distributed.WORLD:
        near = sorted(
            {
                max(batch_size // distributed.WORLD, 1) * distributed.WORLD,
                (batch_size // distributed.WORLD + 1) * distributed.WORLD,
            }
        )
        raise InputError(
            f"trainer.batch_size={batch_size} cannot be divided among {distributed.WORLD} processes; take "
            f"{' or '.join(map(str, near))}"
        )
    for name, part in parts.items():
        if part.mixes and distributed.WORLD > 1:
            raise InputError(
                f"augmentation.{name} blends images of one batch, of which {distributed.WORLD} processes have a "
                "part each; train in one process, or without it"
            )


def refuse_sizes(resize: Mapping[int, float], shapes: nn.Module, info: DatasetInfo) -> None:
    """Raise `InputError` for images that would not be smaller, or that the network cannot take."""
    side = min(info.shape[1:])
    for pixels in resize:
        if pixels >= side:
            raise InputError(f"trainer.resize: {pixels} pixels are not fewer than the {side} of the images")
        try:
            with torch.no_grad(), ShapesOnly():
                shapes(torch.empty(2, info.shape[0], *scaled(info.shape[1:], pixels), device="meta"))
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"trainer.resize: the network does not take images of {pixels} pixels ({str(error).splitlines()[0]}); "
                "a network that ends with a global pooling accepts many sizes"
            ) from error


def refuse_lone_values(shapes: nn.Sequential, info: DatasetInfo) -> None:
    """Raise `InputError` when a batch of one image leaves batch normalisation one value of a channel to normalise."""
    try:
        shapes(torch.empty(1, *info.shape, device="meta"))
    except ValueError as error:
        alone = "1" if distributed.WORLD == 1 else f"{distributed.WORLD} in {distributed.WORLD} processes"
        raise InputError(f"trainer.batch_size={alone} is too small for this network: {error}") from error


def load_data(cfg: Fit, files: Sequence[Member] | None = None) -> Dataset:
    """Read the images of a configuration, divided as it says, or as a run that goes on has noted its `files`."""
    return read_noted(cfg.dataset, cfg.data_root, cfg.seed, files, ANEW)


def build(cfg: Fit, dataset: Dataset, *, begun: bool = False) -> Session:
    """Build the network, optimizer, feed and learner; images are normalised as pretrained weights expect.

    A run that has `begun` holds its weights: those that it started from are not asked for, they may have moved since.
    """
    dataset = replace(dataset, info=pretrained.with_expected_statistics(dataset.info, cfg.model))
    trainer, device = cfg.trainer, choose_device(cfg.device)
    net = build_model(pretrained.without_weights(cfg.model) if begun else cfg.model, dataset.info, seed=cfg.seed)
    started_from = None
    if not begun:
        calibrate(net, lambda: some_images(dataset))
        if cfg.init_from:
            started_from = start_from(net, cfg.init_from)
            for name, split in (("the validation set's", dataset.val), ("the test set's", dataset.test)):
                if split is not None:
                    warn_of_seen(Path(started_from["run"]), split, name)
    auxiliary = build_auxiliary(cfg.model, net, dataset.info, seed=cfg.seed)
    trained = (auxiliary or net).to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(cfg.optimizer, trained)
    loader = build_loader(dataset, cfg, build_augmentations(cfg.augmentation), device)
    per_epoch = loader.batches // trainer.accumulate
    if per_epoch == 0:
        raise InputError(f"trainer.accumulate={trainer.accumulate} batches do not fit into one epoch")
    loader.seek(0, 0)
    loader.batch()  # what an augmentation or a file has against these images is said before anything is made
    precision = choose_precision(trainer.precision, device)
    rates = build_rates(cfg.schedule, optimizer.defaults["lr"], trainer.epochs, per_epoch)
    settings = StepSettings(
        precision=precision,
        seed=cfg.seed,
        accumulate=trainer.accumulate,
        clip=trainer.clip,
        freeze=trainer.freeze,
        resize=trainer.resize,
        graph=trainer.graph if device.type == "cuda" and distributed.WORLD == 1 else False,
        compile=trainer.compile,
    )
    state = TrainState(net, optimizer, auxiliary=auxiliary, ema=trainer.ema)
    train_step = TrainStep(state, rates, build_task(cfg, dataset, device), settings)
    return Session(cfg, device, precision, dataset, train_step, loader, started_from)


def build_task(cfg: Fit, dataset: Dataset, device: torch.device) -> Task:
    """Return what the network is to learn, with the loss that the configuration asks for."""
    classes, weights = dataset.info.classes, None
    if cfg.dataset["balance"] == "weights":
        weights = class_weights(dataset.train.labels, len(classes)).to(device)
    return Classification(classes, weights, cfg.trainer.label_smoothing)


def some_images(dataset: Dataset) -> torch.Tensor:
    """Return at most `LOOKED_AT` training images, evenly spaced and normalised."""
    some = dataset.train.take(spread(len(dataset.train), LOOKED_AT))
    return torch.cat([x for x, _ in eval_batches(some, dataset.info, batch_size=500, device=torch.device("cpu"))])


def build_loader(dataset: Dataset, cfg: Fit, parts: dict[str, Augmentation], device: torch.device) -> Loader:
    """Keep the images on the device, or have workers read them."""
    settings = {
        "batch_size": cfg.trainer.batch_size,
        "parts": parts,
        "seed": cfg.seed,
        "device": device,
        "balanced": cfg.dataset["balance"] == "sampling",
    }
    workers = cfg.dataset["workers"]
    if workers == 0 and isinstance(stored(dataset.train.source), Pixels):
        return ResidentLoader(dataset.train, dataset.info, **settings)
    together = cfg.trainer.accumulate
    return StreamedLoader(dataset.train, dataset.info, workers=workers, together=together, **settings)


@contextlib.contextmanager
def explained(built: Session) -> Iterator[None]:
    """Have a training that runs out of memory say so, and a bad file end what had started."""
    try:
        with spent(flat(asdict(built.cfg)) | {"trainer.precision": built.precision}):
            yield
    except InputError as error:
        raise CnntrainError(str(error)) from error


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Return what a run must remember of its dataset to be evaluated later."""
    info = dataset.info
    counts = {name: len(split) for name in ("train", "val", "test") if (split := getattr(dataset, name)) is not None}
    return {
        "name": info.name,
        "shape": info.shape,
        "classes": info.classes,
        "mean": info.mean,
        "std": info.std,
        "images": counts,
        "fingerprint": fingerprint(dataset),
        "folders": {part: files.root.resolve() for part, files in parts_of(dataset.whole)} if dataset.whole else {},
        "skipped": dataset.skipped,
    }
