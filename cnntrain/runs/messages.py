"""What a person is told of a training: what it is, how far it has come, and what it has come to."""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cnntrain.config import pretrained
from cnntrain.models.external import remarks
from cnntrain.nn.geometry import count_parameters
from cnntrain.runs.folder import RECORD
from cnntrain.runs.setup import TrainingSetup
from cnntrain.runtime.errors import setting
from cnntrain.runtime.progress import Seldom, clock, say
from cnntrain.runtime.tables import counted
from cnntrain.tasks import task_of
from cnntrain.training.loop import Record


def announce(built: TrainingSetup, folder: Path, step: int) -> None:
    """Say what is about to be trained, and from which optimizer step on."""
    cfg, data = built.cfg, built.dataset
    say(
        f"{cfg.model['name']} ({count_parameters(built.train_step.trained.net):,} parameters) on "
        f"{data.info}: {len(data.train):,} training and {len(data.val) if data.val else 0:,} validation "
        f"{data.info.noun}s, {counted(cfg.trainer.epochs, 'epoch')} of {counted(built.per_epoch, 'step')}, "
        f"{built.device}, {built.precision}"
    )
    for remark in remarks_on(built):
        say(remark)
    if step:
        say(f"resuming from step {step:,} in {folder}")


def remarks_on(built: TrainingSetup) -> Iterator[str]:
    """Yield what to know of the network and its images before it is trained."""
    net, auxiliary = built.train_step.trained.net, built.train_step.trained.auxiliary
    yield from built.dataset.remarks
    yield from remarks(net, pretrained.expected_preprocessing(built.cfg.model), built.dataset.info.shape)
    if auxiliary:
        yield auxiliary.summary()
    options = built.cfg.dataset
    size = options.get("image_size")  # images that are read at their own size have no more detail
    if "resized_crop" in built.cfg.augmentation and size and options.get("stored_size", 0) is None:
        yield (
            f"resized_crop enlarges windows of images that are stored at {size} pixels a side; "
            f"dataset.stored_size={2 * size} keeps their detail"
        )


def shown(records: Iterable[Record], built: TrainingSetup, start: int) -> Iterator[Record]:
    """Pass on the records of a training from step `start` on, and show them: a bar on a terminal, lines elsewhere."""
    trainer, headline = built.cfg.trainer, built.train_step.task.headline
    steps, images = trainer.epochs * built.per_epoch, trainer.batch_size * trainer.accumulate
    per_second = f"{built.dataset.info.noun}s/s"
    terminal = sys.stderr.isatty()
    bar = tqdm(
        total=steps,
        initial=start,
        unit="step",
        file=sys.stderr,
        disable=not terminal,
        dynamic_ncols=True,
        smoothing=0.1,
    )
    began, seldom = time.perf_counter(), Seldom()
    line, owed = "", False  # of the last epoch's end: its validation writes it, if there is one
    with bar:
        for record in records:
            seconds, step = time.perf_counter() - began, record["step"]
            seconds_left = (steps - step) * seconds / max(step - start, 1)
            left = f"  {clock(seconds_left)} left" if step < steps else ""
            if record["kind"] == "train":
                if owed:
                    bar.write(line, file=sys.stderr)
                speed = f"{(step - start) * images / seconds:,.0f} {per_second}"
                epoch, owed = f"epoch {record['epoch']}/{trainer.epochs}", "seconds" in record
                score = f"  {headline.label} {headline.text(record[headline.key], 1)}" if headline.of_steps else ""
                line = f"{epoch}  loss {record['loss']:.4f}{score}"
                bar.set_description_str(epoch, refresh=False)
                bar.set_postfix_str(f"loss {record['loss']:.3f}, {speed}", refresh=False)
                bar.update(step - bar.n)
                if owed:
                    line += f"  {record['samples_per_second']:,.0f} {per_second}"
                elif not terminal and seldom.due():
                    say(f"{line}  {speed}{left}")
            else:
                owed = False
                seldom.restart()
                best = "  best" if record["best"] else ""
                text = f"{line}  val {headline.text(record[headline.key])}{best}"
                bar.write(text if terminal else f"{text}{left}", file=sys.stderr)
            yield record
        if owed:
            bar.write(line, file=sys.stderr)


def report(result: dict[str, Any], noun: str) -> None:
    """Tell the person what came out of training on images, or what else the `noun` says, and what to type next."""
    best, train, speed = result["best"], result["train"], result["samples_per_second"]
    task = task_of(result)
    headline = task.headline
    if best:
        epochs = f"best of {counted(result['epochs'], 'epoch')} (epoch {best['epoch']})"
        print(f"{f'validation {headline.label}':<16}  {headline.interval(best)}, {epochs}")
        for line in task.remarks(result):
            print(line)
        for line in task.warnings(result):
            say(f"warning: {line}")
    elif train and headline.of_steps:
        value = headline.text(train[headline.key])
        print(f"{f'training {headline.label}':<16}  {value} in the last epoch (no validation {noun}s)")
    if result["skipped"]:
        print(f"left out          {result['skipped']:,} bad files, named in {result['run_dir']}/{RECORD}")
    print(f"took              {clock(result['seconds'])}{f', {speed:,.0f} {noun}s/s' if speed else ''}")
    print(f"run               {result['run_dir']}")
    print(f"next              cnntrain eval {setting('run', result['run_dir'])}")
