"""The one training loop: a generator of records. Whoever iterates over it logs, draws the bar and decides to stop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cnntrain.data.loading.loader import Loader
from cnntrain.tasks.task import Headline
from cnntrain.training.step import TrainStep

Record = dict[str, Any]
Stop = Callable[[], bool]


@dataclass
class TrainProgress:
    """How far a training has come: all that the loop remembers from step to step."""

    step: int = 0  # optimizer steps taken
    validated: int = 0  # the step of the last validation
    best: Record = field(default_factory=dict)  # the scores and epoch of the best validation; empty before the first
    waited: int = 0  # validations since the best

    def note(self, epoch: int, scores: Record, headline: Headline) -> bool:
        """Take in a validation; return whether its headline is the best so far."""
        better = headline.rank(scores) > headline.rank(self.best)
        if better:
            self.best = {"epoch": epoch, **scores}
        self.validated, self.waited = self.step, 0 if better else self.waited + 1
        return better


def train(
    train_step: TrainStep,
    loader: Loader,
    validate: Callable[[nn.Sequential], Record | None] | None,
    *,
    at: TrainProgress,
    epochs: int,
    save: Callable[[str], None],
    validate_every: int = 1,
    log_every: int = 20,
    patience: int = 0,
    stop: Stop = lambda: False,
) -> Iterator[Record]:
    """Train from `at` to the end of `epochs`, and yield what happens: a "train" record every `log_every` steps and at
    each epoch's end, a "val" record every `validate_every` epochs and at the end.

    What is due at a step is settled before the next one, and `stop` is asked between steps: the place of a run is its
    number of steps. A validation that returns None was stopped and is repeated whole. `patience` ends the training
    after so many validations without a better one. `save` is called with "best" after the record that it belongs to
    (without validation at the end), and with "epoch" after each epoch.
    """
    per_epoch = loader.batches // train_step.accumulate
    last = epochs * per_epoch
    began, since = time.perf_counter(), at.step
    while True:
        epoch, ended = -(-at.step // per_epoch), at.step % per_epoch == 0
        due = at.step >= last or (ended and epoch % validate_every == 0)
        if validate and due and at.validated < at.step:
            scores = validate(train_step.evaluated)
            if scores is None:
                return
            better = at.note(epoch, scores, train_step.task.headline)
            yield {"kind": "val", "step": at.step, "epoch": epoch, "best": better, **scores}
            if better:
                save("best")
        if ended and at.step > since:
            save("epoch")
            began, since = time.perf_counter(), at.step
        if at.step >= last or (patience and at.waited >= patience):
            break
        if stop():
            return
        train_step.update(loader, at.step)
        at.step += 1
        ended = at.step % per_epoch == 0
        if ended or at.step % log_every == 0:
            record = {"kind": "train", "step": at.step, "epoch": -(-at.step // per_epoch), **train_step.read(at.step)}
            if ended:
                seconds = time.perf_counter() - began
                samples = (at.step - since) * train_step.accumulate * loader.batch_size
                record |= {"seconds": seconds, "samples_per_second": samples / seconds}
            yield record
    if not validate:
        save("best")
