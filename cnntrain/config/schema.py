"""What each command's configuration holds: keys, kinds and ranges; the values lie in `conf`."""

from dataclasses import dataclass
from typing import Any, Literal

from cnntrain.data.datasets.folds import HeldOut
from cnntrain.runtime.devices import Compile, Graph, Precision
from cnntrain.runtime.drawing import Medium
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.ranges import Count, Decay, Fraction, Natural, NonNegative, Positive, Several
from cnntrain.tasks.classification import Hinge
from cnntrain.training.schedule_events import FrozenMode

Options = dict[str, Any]  # of a group, checked against the function that its name chooses
SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Trainer:
    """How long, in what steps and in what precision a network learns."""

    epochs: Count
    batch_size: Count
    accumulate: Count
    precision: Precision
    graph: Graph
    compile: Compile
    label_smoothing: Fraction
    hinge: Hinge | None
    border_weight: NonNegative
    border_sigma: Positive
    clip: NonNegative
    ema: Decay
    freeze: str | list[str] | dict[str, Fraction | list[Fraction]] | None
    frozen_mode: FrozenMode
    resize: dict[Count, Fraction]
    validate_every: Count
    patience: Natural
    log_every: Count
    checkpoint_seconds: NonNegative
    keep_every: Natural
    eval_batch_size: Count
    tensorboard: bool
    gradients: bool
    profile: bool


@dataclass(frozen=True)
class Selection:
    """Which images of a dataset are used, and how they are read."""

    root: str | None
    train_size: int | float | None  # a number of images, or a fraction of them
    val_size: int | float
    classes: list[str | int] | Count | None
    folds: Several | list[Several] | None
    fold: Natural | list[Natural] | None
    groups: Count | str | None
    balance: Literal["none", "weights", "sampling"]
    workers: Natural
    cache: Literal["auto", "none", "pack", "ram"]

    @property
    def class_names(self) -> list[str] | int | None:
        """The classes in words, or how many: digits are typed as numbers."""
        return [str(name) for name in self.classes] if isinstance(self.classes, list) else self.classes

    def __post_init__(self) -> None:
        """Raise `InputError` where `folds` and `fold` do not fit each other."""
        folds, fold = numbers(self.folds), numbers(self.fold)
        if len(folds) != len(fold):
            raise InputError(
                f"dataset.folds={self.folds} and dataset.fold={self.fold}: say how many folds there are, and which of "
                "them is held out, counted from 0: dataset.folds=5 dataset.fold=0"
            )
        for count, number in zip(folds, fold, strict=True):
            if number >= count:
                raise InputError(f"dataset.fold={number}: the last of {count} folds is {count - 1}")

    @property
    def held_out(self) -> HeldOut | None:
        """The fold that is held out, None without folds."""
        return HeldOut(numbers(self.folds), numbers(self.fold)) if self.folds else None


def numbers(value: int | list[int] | None) -> tuple[int, ...]:
    """Return a number or a list of numbers as a tuple, an empty one for none."""
    return tuple(value) if isinstance(value, list) else () if value is None else (value,)


@dataclass(frozen=True)
class Shared:
    """What every command takes."""

    device: str
    plugins: list[str]


@dataclass(frozen=True)
class Fit(Shared):
    """`cnntrain fit`."""

    model: Options
    dataset: Options
    augmentation: Options
    optimizer: Options
    schedule: Options
    trainer: Trainer
    seed: Natural
    deterministic: bool
    data_root: str
    output_dir: str | None
    resume: str
    check_resume: bool
    init_from: str | None


@dataclass(frozen=True)
class Study(Fit):
    """What every command takes that trains variants under several seeds."""

    seeds: Count | list[Natural] | None
    looks: Count
    plan: bool
    jobs: Count | None
    worker: Natural
    figures: Medium
    table: Literal["text", "markdown", "csv"]


@dataclass(frozen=True)
class Ablate(Study):
    """`cnntrain ablate`."""

    study: Options | None
    remove: list[Any] | None
    mode: Literal["retrain", "finetune", "lesion", "reinit", "rerandomize"]
    runs: list[str] | None
    control: Literal["none", "params", "macs"]


@dataclass(frozen=True)
class Transfer(Study):
    """`cnntrain transfer`."""

    run: str | None
    regimes: list[str | Options]
    rates: dict[str, Positive]
    sizes: list[Count] | None
    budgets: list[Literal["steps", "seconds"]]


@dataclass(frozen=True)
class Crossval(Fit):
    """`cnntrain crossval`."""

    folds: Several
    seeds: Count | list[Natural]
    study: Options | None
    space: list[str]
    search: Literal["grid", "random"]
    trials: Count | None
    nested: bool
    inner_folds: Several
    plan: bool
    jobs: Count | None
    worker: Natural
    figures: Medium
    table: Literal["text", "markdown", "csv"]


@dataclass(frozen=True)
class Evaluated(Shared):
    """What every command takes that measures runs."""

    split: SplitName
    weights: Literal["best", "last"]
    precision: Precision
    batch_size: Count
    data_root: str | None


@dataclass(frozen=True)
class Eval(Evaluated):
    """`cnntrain eval`."""

    run: str
    dataset: Options | None
    tta: Literal["none", "flip", "shift", "flip_shift", "dropout"]
    output_dir: str | None


@dataclass(frozen=True)
class Report(Evaluated):
    """`cnntrain report`."""

    run: str
    output: str | None


@dataclass(frozen=True)
class Compare(Evaluated):
    """`cnntrain compare`."""

    runs: list[str]
    output_dir: str | None
    figures: Medium
    table: Literal["text", "markdown", "csv"]


@dataclass(frozen=True)
class Observed(Evaluated):
    """What every command takes that looks into networks, stage by stage."""

    run: str | None
    runs: list[str] | None
    model: Options | None
    dataset: Options | None
    init: Literal["trained", "random"]
    seed: Natural
    stages: list[str] | None
    images: Count | None
    output_dir: str | None
    figures: Medium


@dataclass(frozen=True)
class Invariance(Observed):
    """`cnntrain invariance`."""

    warp: Options
    control_images: Count
    tensorboard: bool


@dataclass(frozen=True)
class Predict(Shared):
    """`cnntrain predict`."""

    run: str
    images: list[str] | str | None
    sentences: str | None
    invert: bool | None
    weights: Literal["best", "last"]
    precision: Precision
    batch_size: Count
    output_dir: str | None
    report: bool
    heatmap: bool
    scales: list[Positive]
    k_max: Count
    k_min: Natural


@dataclass(frozen=True)
class Describe(Shared):
    """`cnntrain describe`."""

    run: str | None
    models: list[str] | None
    model: Options
    dataset: Options
    data_root: str
    table: Literal["text", "markdown", "csv"]


@dataclass(frozen=True)
class Export:
    """`cnntrain export`."""

    run: str
    format: Literal["safetensors", "pt2", "onnx"]
    weights: Literal["best", "last"]
    output: str | None
    plugins: list[str]


@dataclass(frozen=True)
class Env:
    """`cnntrain env`."""

    data_root: str
