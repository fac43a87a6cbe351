"""A training put together from its configuration: everything that `fit` runs and that a test of it runs again."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import nn

from cnntrain.config import pretrained
from cnntrain.config.build import build_auxiliary, build_model, build_optimizer, build_rates
from cnntrain.config.schema import Fit
from cnntrain.data.augment.augmentations import Augmentation
from cnntrain.data.datasets.splits import Member
from cnntrain.data.loading.loader import Loader, ResidentLoader, StreamedLoader, eval_batches
from cnntrain.data.storage.borders import bordered
from cnntrain.data.storage.images import Dataset, Pixels, Split, spread, stored
from cnntrain.nn.calibration import calibrate
from cnntrain.runs.check import CheckedFit
from cnntrain.runs.images import divide_noted, warn_of_seen
from cnntrain.runs.load import start_from
from cnntrain.runtime import distributed
from cnntrain.runtime.distributed import shard
from cnntrain.runtime.errors import CnntrainError, InputError
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.memory import spent
from cnntrain.runtime.signals import Signals
from cnntrain.tasks import task_for
from cnntrain.tasks.task import Task
from cnntrain.training.evaluate import Outputs, answers, outputs
from cnntrain.training.loop import Record, Stop, TrainProgress, train
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState

BatchT = TypeVar("BatchT")
ANEW = "start a new run in another folder"  # what helps when a run's images have changed
LOOKED_AT = 2000  # training images that layers with weights made from images see


@dataclass
class TrainingSetup:
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

    def validate(self, net: nn.Sequential, stop: Callable[[], bool]) -> Record | None:
        """Score a network on the validation images; None when `stop` said so on the way."""
        assert self.dataset.val is not None
        rounds = -(-len(self.dataset.val) // (distributed.WORLD * self.cfg.trainer.eval_batch_size))
        batches = self.eval_batches(self.share) if len(self.share) else iter(())
        try:
            return self.train_step.task.validate(answers(net, until(stop, batches, rounds), precision=self.precision))
        except ValidationStopped:
            return None

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


def until(stop: Callable[[], bool], batches: Iterator[BatchT], rounds: int) -> Iterator[BatchT]:
    """Pass on batches; raise `ValidationStopped` once `stop` says so, which is asked `rounds` times.

    Of several processes some may have a batch less, and all have to ask equally often.
    """
    for _ in range(rounds):
        if stop():
            raise ValidationStopped
        yield from itertools.islice(batches, 1)


def load_data(checked: CheckedFit, files: Sequence[Member] | None = None) -> Dataset:
    """Read the images of a configuration, divided as it says, or as a run that resumes has noted its `files`."""
    cfg = checked.cfg
    return divide_noted(checked.dataset.read(), cfg.dataset, cfg.data_root, cfg.seed, files, ANEW)


def build(checked: CheckedFit, dataset: Dataset) -> TrainingSetup:
    """Build the network, its loader and its training step; images are normalised as pretrained weights expect."""
    cfg, device, trainer = checked.cfg, checked.device, checked.cfg.trainer
    dataset = replace(dataset, info=pretrained.with_expected_statistics(dataset.info, cfg.model))
    net = build_model(checked.model, dataset.info, seed=cfg.seed)
    auxiliary = build_auxiliary(cfg.model, net, dataset.info, seed=cfg.seed)
    (auxiliary or net).to(device)
    started_from = None if checked.begun else prepare_weights(net, cfg, dataset)
    (auxiliary or net).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(cfg.optimizer, net, auxiliary)
    loader = build_loader(dataset, cfg, checked.augmentations, device)
    per_epoch = loader.batches // trainer.accumulate
    if per_epoch == 0:
        raise InputError(f"trainer.accumulate={trainer.accumulate} batches do not fit into one epoch")
    loader.seek(0, 0)
    loader.batch()  # what an augmentation or a file has against these images is said before anything is made
    rates = build_rates(cfg.schedule, optimizer.defaults["lr"], trainer.epochs, per_epoch)
    settings = StepSettings(
        precision=checked.precision,
        seed=cfg.seed,
        accumulate=trainer.accumulate,
        clip=trainer.clip,
        freeze=trainer.freeze,
        frozen_mode=trainer.frozen_mode,
        resize=trainer.resize,
        graph=trainer.graph if device.type == "cuda" and distributed.WORLD == 1 else False,
        compile=trainer.compile,
        gradients=trainer.gradients,
    )
    state = TrainState(net, optimizer, auxiliary=auxiliary, ema=trainer.ema)
    train_step = TrainStep(state, rates, build_task(cfg, dataset, device), settings)
    return TrainingSetup(cfg, device, checked.precision, dataset, train_step, loader, started_from)


def prepare_weights(net: nn.Sequential, cfg: Fit, dataset: Dataset) -> dict[str, Any] | None:
    """Make the weights that are made from images, and take those of another run; return which run and stages."""
    calibrate(net, lambda: some_images(dataset))
    if not cfg.init_from:
        return None
    started_from = start_from(net, cfg.init_from, cfg.model.get("head"))
    for name, split in (("the validation set's", dataset.val), ("the test set's", dataset.test)):
        if split is not None:
            warn_of_seen(Path(started_from["run"]), split, name)
    return started_from


def build_task(cfg: Fit, dataset: Dataset, device: torch.device) -> Task:
    """Return what the network is to learn, with the loss that the configuration asks for."""
    trainer, task = cfg.trainer, cast(Any, task_for(dataset.info))  # a dataclass, each with options of its own
    balanced = cfg.dataset["balance"] == "weights"
    asked = {
        "class_weights": task.class_weights_of(dataset.train).to(device) if balanced else None,
        "label_smoothing": trainer.label_smoothing,
        "hinge": trainer.hinge,
        "border_weight": trainer.border_weight,
    }
    known = {field.name for field in fields(task)}  # what a task does not know was refused unless it is neutral
    found: Task = replace(task, **{key: value for key, value in asked.items() if key in known})
    return found


def some_images(dataset: Dataset) -> torch.Tensor:
    """Return at most `LOOKED_AT` training images, evenly spaced and normalised."""
    some = dataset.train.take(spread(len(dataset.train), LOOKED_AT))
    return torch.cat([x for x, _ in eval_batches(some, dataset.info, batch_size=500, device=torch.device("cpu"))])


def build_loader(dataset: Dataset, cfg: Fit, augmentations: Mapping[str, Augmentation], device: torch.device) -> Loader:
    """Keep the images on the device, or have workers read them; label maps bring border weights if asked for."""
    train, trainer = dataset.train, cfg.trainer
    if trainer.border_weight:
        train = train.read_from(bordered(train.source, len(dataset.info.classes), trainer.border_sigma))
    settings = {
        "batch_size": trainer.batch_size,
        "parts": augmentations,
        "seed": cfg.seed,
        "device": device,
        "balanced": cfg.dataset["balance"] == "sampling",
    }
    workers = cfg.dataset["workers"]
    if workers == 0 and isinstance(stored(train.source), Pixels):
        return ResidentLoader(train, dataset.info, **settings)
    return StreamedLoader(train, dataset.info, workers=workers, together=trainer.accumulate, **settings)


@contextlib.contextmanager
def plain_errors(built: TrainingSetup) -> Iterator[None]:
    """Say of a training that it ran out of memory, and end it for a bad file with the exit code of a failed one."""
    try:
        with spent(flat(asdict(built.cfg)) | {"trainer.precision": built.precision}):
            yield
    except InputError as error:
        raise CnntrainError(str(error)) from error
