"""What is saved of a training: its checkpoints, at an epoch's end, when a signal asks for one, and at the end."""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cnntrain.runs import resume
from cnntrain.runs.log import RunLog
from cnntrain.runs.setup import TrainingSetup
from cnntrain.runtime.errors import CnntrainError, DiskError, setting
from cnntrain.runtime.progress import say
from cnntrain.runtime.signals import Signals
from cnntrain.training import checkpoints
from cnntrain.training.async_checkpoints import AsyncSaver
from cnntrain.training.loop import TrainProgress


class Saves:
    """The checkpoints of a run on their way into its folder; each names the records that were logged before it."""

    def __init__(self, built: TrainingSetup, folder: Path, at: TrainProgress, log: RunLog) -> None:
        self.built, self.folder, self.at, self.log = built, folder, at, log
        self.saver = AsyncSaver(beside=built.device.type == "cuda")
        self.saved = time.monotonic()

    def save(self, which: str) -> None:
        """Save the best weights at once; at an epoch's end the last state, if `checkpoint_seconds` have passed."""
        if which == "best":
            self.save_as("best", checkpoints.without_training(self.state()))
            return
        trainer, epoch = self.built.cfg.trainer, self.at.step // self.built.per_epoch
        if trainer.keep_every and epoch % trainer.keep_every == 0:
            self.save_as(f"epoch_{epoch:04}", self.state())
        if time.monotonic() - self.saved >= trainer.checkpoint_seconds:
            self.save_last()

    def save_as(self, which: str, state: checkpoints.State) -> None:
        """Save a state under a name of its own."""
        path = checkpoints.path_of(self.folder, which)
        self.saver.save(partial(checkpoints.save, path), state, path.name)

    def save_last(self) -> None:
        """Save the state of this step, beside the one saved before it."""
        self.saver.save(self.write_last, self.state())
        self.saved = time.monotonic()

    def save_if_asked(self, signals: Signals) -> None:
        """Save the state of this step when a signal has asked for it, and pass the signal on."""
        if number := signals.save_asked_by:
            signals.save_asked_by = None
            self.save_last()
            if self.saver.settle():
                say(f"saved at step {self.at.step:,}")
            signals.pass_on(number)

    def finish(self) -> None:
        """Save the last state of the training, and wait until all is written."""
        self.saver.finish(self.write_last, self.state())

    def write_last(self, state: checkpoints.State) -> None:
        """Write the state of a step once the disk has the records before it."""
        self.log.sync()
        checkpoints.save_last(checkpoints.folder_of(self.folder), state)

    def state(self) -> checkpoints.State:
        """Return the state of this step."""
        return resume.snapshot(self.built, self.at, self.log.lines)

    @contextlib.contextmanager
    def plain_errors(self, signals: Signals) -> Iterator[None]:
        """Say of a training whose state the disk does not take which weights are there, and what to do."""
        try:
            yield
        except DiskError as error:
            stopped, place = signals.stopped_by, checkpoints.folder_of(self.folder)
            raise CnntrainError(
                f"{f'stopped by {stopped.name} and ' if stopped else ''}not saved at step {self.at.step:,}: {error}; "
                f"{place} holds {checkpoints.saved_weights(place)}; once the disk takes more, the same command with "
                f"{setting('output_dir', self.folder)} resumes the training"
            ) from error

    def close(self) -> None:
        """Wait for what is being written, whatever has become of the training."""
        self.saver.close()
