"""A task: what a network is asked for, how its answers are scored, and which of two scores is better.

Training, records, studies and pages know a task by the two types of this file alone. They read its headline, the one
number that stands for a score, and never name that number themselves:

    headline = task_of(found).headline               # from cnntrain.tasks
    found[headline.key]                              # 0.9861, in records and results
    found[headline.low], found[headline.high]        # its 95 % interval
    headline.text(found[headline.key])               # 98.61 %
    f"{headline.label}  {headline.interval(found)}"  # top-1  98.61 % (95 % interval 96.79 … 99.40 %, n = 360)
    max(several, key=headline.rank)                  # the best of several, whatever the direction
    task_for(info).measure(kept)                     # every number of an evaluation, from what `kept` keeps of it
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.storage.images import DatasetInfo, Split, TargetKind
from cnntrain.runtime import distributed
from cnntrain.runtime.tables import counted, interval, percent
from cnntrain.stats.paired_tests import Pairs

Way = Literal["weights", "sampling", "label_smoothing", "hinge", "border_weight", "mixing", "resize"]
FEW_GROUPS = 10  # with fewer a bootstrap's intervals are too narrow, and the smallest p is large
Numbers = dict[str, Any]  # what was measured, by its keys in records
Number = float | None  # in records; null is not a number: a loss that grew without bound


@dataclass(frozen=True)
class Headline:
    """The number that stands for a score and says which epoch is best: a share, 0 to 1."""

    key: str  # in records, results and tables of numbers
    label: str  # in sentences, headings and axes
    higher_is_better: bool = True
    of_steps: bool = True  # whether training steps know it too; else their records have null
    image_interval: str = "Wilson's interval"  # over images, in sentences
    image_test: str = "McNemar's exact test"  # of two networks on the same images, in sentences
    test_column: str = "McNemar"  # and as a heading
    won: str = "right"  # what one of them alone is of an image that speaks for it

    @property
    def low(self) -> str:
        """The key of the lower end of its interval."""
        return f"{self.key}_low"

    @property
    def high(self) -> str:
        """The key of the upper end of its interval."""
        return f"{self.key}_high"

    def text(self, value: float | None, digits: int = 2) -> str:
        """Write a value: 98.61 %, or – where there was nothing to score."""
        return "–" if value is None else percent(value, digits)

    def interval(self, scores: Mapping[str, Any]) -> str:
        """Write the value in some scores, with its 95 % interval and their `n`."""
        return interval(scores[self.key], scores[self.low], scores[self.high], scores["n"])

    def rank(self, scores: Mapping[str, Any]) -> tuple[float, float]:
        """Return what is larger for better scores: the headline, and of equal ones the loss. No scores are worst."""
        if self.key not in scores:
            return -float("inf"), 0.0
        return (1 if self.higher_is_better else -1) * scores[self.key], -scores["loss"]


def about_groups(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield what intervals are over where that is groups of images, and that too few of them say little."""
    if groups := results.get("groups"):
        few = f"; fewer than {FEW_GROUPS} say little of others, and intervals are too narrow" * (groups < FEW_GROUPS)
        yield f"There are {counted(groups, 'group')} of images, which intervals are over{few}."


def kept_of_all(task: "Task", pairs: Iterable[tuple[Tensor, Tensor]], none: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a task keeps of the answers and targets of all processes, on the CPU.

    `none` is what it keeps of no image: that of a process that has none; it may be shorter than the rows of others.
    """
    parts = [{key: x.cpu() for key, x in task.kept(*pair).items()} for pair in pairs] or [none]
    return {key: distributed.gathered(torch.cat([part[key] for part in parts])) for key in none}


def by_resampling(key: str, label: str, *, of_steps: bool = True) -> Headline:
    """Return the headline of a task whose score is no mean over images."""
    return Headline(
        key,
        label,
        of_steps=of_steps,
        image_interval="a bootstrap interval",
        image_test="a permutation test",
        test_column="permutation",
        won="better",
    )


class Task(Protocol):
    """What a network is asked for; a batch's answer is float [B, *answer], its targets are what the dataset gives.

    A training minimises `loss`, sums `counts` on the device and reads the `score` of the sums; a validation goes once
    over a split. `loss`, `weight` and `counts` never synchronise with the device.
    """

    name: ClassVar[str]
    targets: ClassVar[TargetKind]  # of the datasets that ask for it
    gives: ClassVar[str]  # what a network says of an image, in sentences
    takes: ClassVar[frozenset[Way]]  # of the ways to change targets or the loss (`Way`) those that it is defined with
    headline: ClassVar[Headline]
    train_numbers: ClassVar[type]  # the keys and kinds of a record of training steps, a TypedDict
    val_numbers: ClassVar[type]  # of a validation
    eval_numbers: ClassVar[type]  # of an evaluation
    cell_numbers: ClassVar[type]  # of a study's cell
    decisive: ClassVar[str]  # what evaluations keep, by name, that decides between two networks
    train_keys: ClassVar[tuple[str, ...]]  # what a run's results keep of the last record of a training
    val_keys: ClassVar[tuple[str, ...]]  # and of a validation

    @classmethod
    def of(cls, info: DatasetInfo) -> "Task":
        """Return the task of a dataset's classes and images, with its plain loss."""
        ...

    def reads(self, answer: Sequence[int]) -> bool:
        """Say whether a network's answer to one image may have this shape."""
        ...

    def class_weights_of(self, train: Split) -> Tensor:
        """Return weights of the classes, float32 [classes], by which rare ones count as much as common ones."""
        ...

    @property
    def weighted(self) -> bool:
        """Whether a batch counts by the `weight` of its targets in the mean loss of a step, not by its images."""
        ...

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch, whose targets may have been mixed."""
        ...

    def weight(self, target: Tensor) -> Tensor:
        """Return by what a batch counts in the mean loss of a step."""
        ...

    @property
    def no_counts(self) -> dict[str, Tensor]:
        """The `counts` of no images: int64 on the CPU, from which sums start."""
        ...

    def counts(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return whole numbers of a batch by name, to be added up over batches; its targets are the dataset's own."""
        ...

    def score(self, sums: Mapping[str, Tensor], n: int) -> Numbers:
        """Return the headline by its key, from the sums of `counts` over `n` images."""
        ...

    def validate(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Numbers:
        """Return `n`, `loss`, the headline and its interval, and what else a validation records.

        `pairs` are answers and targets, batch by batch, of this process; the numbers are those of all processes.
        """
        ...

    def kept(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return what an evaluation keeps of a batch, by name: one row an image, on any device."""
        ...

    def measure(self, kept: Mapping[str, Tensor]) -> Numbers:
        """Return every number of an evaluation from what is kept of a whole split, on the CPU.

        With it come `groups`, int64 [N], where some of its images belong together.
        """
        ...

    @staticmethod
    def per_image(kept: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return what of an evaluation's images [N, …] decides between two networks."""
        ...

    @staticmethod
    def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> Pairs:
        """Compare two networks by what is `per_image` of each on the same images, in `groups` [N] where they lie so."""
        ...

    def image_columns(self, kept: Mapping[str, Tensor]) -> list[dict[str, object]]:
        """Return the columns of a table that has a line for each image of what is kept."""
        ...

    def baseline(self, targets: Tensor | None) -> Numbers:
        """Return what a run's results say of one answer to all validation images; null without any."""
        ...

    @staticmethod
    def remarks(result: Mapping[str, Any]) -> Iterator[str]:
        """Yield what to know before the headline of a run's result is believed, in lines for the person."""
        ...

    @staticmethod
    def details(results: Mapping[str, Any]) -> Iterator[str]:
        """Yield what an evaluation's results say beside the headline, in lines for the person."""
        ...

    @staticmethod
    def warnings(result: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with a network, from its run's result."""
        ...
