"""The one training loop: a generator of records. Whoever iterates over it logs, draws the bar and decides to stop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnntrain.data.feeds import Feed
from cnntrain.training.learner import Learner

Record = dict[str, Any]


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # optimizer steps taken
    best: tuple[float, float] = (-1.0, 0.0)  # top-1 and minus the loss, which decides between equal top-1
    waited: int = 0  # validations since the best


def train(
    learner: Learner,
    feed: Feed,
    validate: Callable[[nn.Sequential], dict[str, float]] | None,
    *,
    epochs: int,
    validate_every: int = 1,
    log_every: int = 20,
    patience: int = 0,
    save: Callable[[str], None],
) -> Iterator[Record]:
    """Train for `epochs`, and yield what happened: a "train" record every `log_every` steps and at each epoch's end,
    a "val" record every `validate_every` epochs and at the end.

    `patience` ends the training after so many validations without a better one. `save("best")` and `save("last")` are
    called after the record that they belong to; without validation the last weights are the best.
    """
    at, per_epoch = Progress(), feed.batches // learner.accumulate
    last = epochs * per_epoch
    started, done = time.perf_counter(), 0
    while at.step < last and not (patience and at.waited >= patience):
        learner.update(feed, at.step)
        at.step += 1
        epoch, done = (at.step - 1) // per_epoch + 1, done + 1
        ended = at.step % per_epoch == 0
        if ended or at.step % log_every == 0:
            record = {
                "kind": "train",
                "step": at.step,
                "epoch": epoch,
                "lr": learner.rates[at.step - 1],
                **learner.read(),
            }
            if ended:
                seconds = time.perf_counter() - started
                samples = done * learner.accumulate * feed.batch_size
                record |= {"seconds": seconds, "samples_per_second": samples / seconds}
            yield record
        if not ended:
            continue
        if validate and (epoch % validate_every == 0 or at.step == last):
            scores = validate(learner.evaluated)
            reached = scores["top1"], -scores["loss"]
            better = reached > at.best
            at.best, at.waited = (reached, 0) if better else (at.best, at.waited + 1)
            yield {"kind": "val", "step": at.step, "epoch": epoch, "best": better, **scores}
            if better:
                save("best")
        save("last")
        started, done = time.perf_counter(), 0
    if not validate:
        save("best")
