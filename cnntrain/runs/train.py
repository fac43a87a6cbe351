"""A training from its first step, or the one it stopped at, to its result."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cnntrain.nn.geometry import count_parameters
from cnntrain.runs import outcome, records, resume, setup
from cnntrain.runs.folder import CONFIG, METRICS, RECORD, RESULTS, SPLITS, append_metrics, keep_metrics, provenance
from cnntrain.runs.images import note_files
from cnntrain.runtime import disk, distributed, processor
from cnntrain.runtime.devices import hardware
from cnntrain.runtime.errors import CnntrainError, DiskError, NonFiniteError, StoppedError, setting
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import follow, say
from cnntrain.runtime.signals import Signals
from cnntrain.training import checkpoints, profiling
from cnntrain.training.async_checkpoints import Saver
from cnntrain.training.pictures import batch_picture, evaluation_pictures, filter_pictures
from cnntrain.training.tensorboard import open_board


class Training:
    """A run on its way: the loop's records into files, its saves into checkpoints, its end into words."""

    def __init__(self, built: setup.Session, folder: Path, settings: dict[str, Any], argv: list[str]) -> None:
        self.built, self.folder, self.cfg, self.argv = built, folder, built.cfg, argv
        self.at, self.records = resume.restore(built, folder)
        self.resumed_from, self.saved = self.at.step, time.monotonic()
        self.since: processor.Times | None = processor.Times.now() if built.device.type == "cpu" else None
        self.saver = Saver(beside=built.device.type == "cuda")
        self.history, self.unlogged = self.recorded(), False
        if not (folder / CONFIG).exists() or not (folder / SPLITS).exists():
            note_files(folder, built.dataset)
        self.record = self.provenance()
        write_json(folder / RECORD, self.record)  # first: "running" voids the results of fewer epochs
        write_json(folder / CONFIG, settings)
        self.settings = settings
        self.profile: profiling.Report | None = None
        self.board = open_board(folder / "tensorboard", self.at.step, self.cfg.trainer.tensorboard)

    def recorded(self) -> list[dict[str, Any]]:
        """Return the records of the run until here, as far as its log has kept them."""
        history = keep_metrics(self.folder, self.records)
        if len(history) < self.records:
            say(f"warning: {self.folder / METRICS} has lost {self.records - len(history)} of {self.records} lines")
        self.records = len(history)
        return history

    def provenance(self) -> dict[str, Any]:
        """Return where this run comes from; the sessions before this one keep their place in it."""
        path = self.folder / RECORD
        earlier = records.record(self.folder) if path.exists() else {}
        this = {"from_step": self.at.step, **provenance(self.argv)}
        sessions: list[dict[str, Any]] = [*earlier.get("sessions", []), this]
        return sessions[0] | {
            "hardware": hardware(),
            "device": str(self.built.device),
            "precision": self.built.precision,
            "processes": distributed.WORLD,
            "seed": self.cfg.seed,
            "data": setup.describe_data(self.built.dataset),
            "init_from": self.built.started_from or earlier.get("init_from"),
            "sessions": sessions,
            "seconds": earlier.get("seconds", 0.0),
            "exit": "running",
        }

    def run(self) -> dict[str, Any]:
        """Train to the end, or until a signal; return the result."""
        self.announce()
        began, before = time.perf_counter(), self.record["seconds"]
        ending = "failed"
        try:
            with Signals() as signals, setup.explained(self.built), self.explained(signals):
                self.follow(signals)
            if signals.stop(last=True) and signals.stopped_by:
                ending = f"stopped by {signals.stopped_by.name}"
                signals.pass_on(signals.stopped_by)
                again = f"the same command with {setting('output_dir', self.folder)} resumes it"
                raise StoppedError(f"{ending} after {self.at.step:,} steps; {again}", signals.stopped_by)
            self.record["seconds"] = before + time.perf_counter() - began
            result = self.result()
            write_json(self.folder / RESULTS, result)
            ending = "done"  # once the result is there
        except BaseException as error:
            if ending == "failed":
                ending = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.built.loader.close()
            self.saver.close()
            if ending != "done":
                self.board.close()
                self.record["seconds"] = before + time.perf_counter() - began
            self.record["exit"] = ending
            self.keep_record(done=ending == "done")
        self.finish_board(result)
        outcome.report(result)
        return result

    @contextlib.contextmanager
    def explained(self, signals: Signals) -> Iterator[None]:
        """Say of a training whose state the disk does not take which weights are there, and what to do."""
        try:
            yield
        except DiskError as error:
            stopped, place = signals.stopped_by, self.folder / "checkpoints"
            raise CnntrainError(
                f"{f'stopped by {stopped.name} and ' if stopped else ''}not saved at step {self.at.step:,}: {error}; "
                f"{place} holds {checkpoints.kept(place)}; once the disk takes more, the same command with "
                f"{setting('output_dir', self.folder)} resumes the training"
            ) from error

    def keep_record(self, *, done: bool) -> None:
        """Write how the training ended; of one that failed the failure itself is what has to be told."""
        try:
            write_json(self.folder / RECORD, self.record)
        except DiskError as error:
            if done:
                raise
            say(f"warning: {error}")

    def follow(self, signals: Signals) -> None:
        """Log every record and keep the checkpoints, until the loop ends."""
        trainer, built = self.cfg.trainer, self.built
        epoch, turn = divmod(self.at.step, built.per_epoch)
        built.loader.seek(epoch, turn * trainer.accumulate)
        self.board.pictures(
            self.at.step, lambda: {"batch": batch_picture(built.loader.batch().images, built.dataset.info)}
        )
        records = built.train(self.at, signals, self.save, lambda: self.between_steps(signals))
        profiler = None
        if trainer.profile:
            profiler = profiling.Profiler(built.train_step, built.loader, self.folder / "profile", self.show)
        try:
            for record in self.shown(records):
                self.log(record)
        except NonFiniteError as error:
            self.record["bad_batch"] = self.bad_batch(error.step)
            raise
        finally:
            if profiler and not profiler.close():
                say(f"the training ended before step {profiling.WARM_UP + 1}: too short to be profiled")
        self.saver.finish(self.write_last, self.snapshot())
        distributed.wait()  # the others have waited for it

    def show(self, profile: profiling.Report) -> None:
        """Show where the time of a step goes, and keep it for the result."""
        self.profile = profile
        say(profiling.show(profile))

    def shown(self, records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Show the records as they come."""
        trainer = self.cfg.trainer
        yield from follow(
            records,
            start=self.at.step,
            steps=trainer.epochs * self.built.per_epoch,
            epochs=trainer.epochs,
            samples_per_step=trainer.batch_size * trainer.accumulate,
        )

    def finish_board(self, result: dict[str, Any]) -> None:
        """Show what the last network says of the validation images, and the settings with the final numbers."""
        built, val = self.built, self.built.dataset.val
        if val:
            self.board.pictures(self.at.step, lambda: evaluation_pictures(val, *built.outputs(val), built.dataset.info))
        parts = {name: result[name] for name in ("train", "best") if result[name]}
        numbers = {f"{name}/{key}": part[key] for name, part in parts.items() for key in ("loss", "top1")}
        self.board.close(self.settings, numbers)

    def between_steps(self, signals: Signals) -> bool:
        """Save when asked to, and say whether to stop."""
        stopping = signals.stop()
        if number := signals.save_asked_by:
            signals.save_asked_by = None
            self.save_last()
            if self.saver.settle():
                say(f"saved at step {self.at.step:,}")
            signals.pass_on(number)
        return stopping

    def log(self, record: dict[str, Any]) -> None:
        """Write a record; a log that cannot be written does not end a training."""
        self.history.append(record)
        try:
            append_metrics(self.folder, record)
            self.records += 1
        except OSError as error:
            if not self.unlogged:
                say(f"warning: {self.folder / METRICS} cannot be written: {error}")
            self.unlogged = True
        self.board.record(record)
        if "seconds" in record:
            self.say_if_slowed()
        if record["kind"] == "val":
            net, info = self.built.train_step.evaluated, self.built.dataset.info
            self.board.pictures(record["step"], lambda: filter_pictures(net, info))

    def say_if_slowed(self) -> None:
        """Say once, after an epoch on a CPU, that other programs slow the training down."""
        if self.since and (now := processor.Times.now()).clock - self.since.clock >= processor.LEAST:
            line = processor.slowed(self.since, now)
            self.since = None if line else now
            if line:
                say(line)

    def save(self, which: str) -> None:
        """Keep the best weights at once, the last state at an epoch's end if some time has passed since."""
        if which == "best":
            weights = {
                key: value for key, value in self.snapshot().items() if key not in ("heads", "optimizer", "sums")
            }
            path = self.folder / "checkpoints" / checkpoints.BEST
            self.saver.save(partial(checkpoints.save, path), weights, path.name)
            return
        epoch, every = self.at.step // self.built.per_epoch, self.cfg.trainer.keep_every
        if every and epoch % every == 0:
            path = self.folder / "checkpoints" / f"epoch_{epoch:04}.pt"
            self.saver.save(partial(checkpoints.save, path), self.snapshot(), path.name)
        if time.monotonic() - self.saved >= self.cfg.trainer.checkpoint_seconds:
            self.save_last()

    def save_last(self) -> None:
        """Keep the state of this step, and the one saved before it."""
        self.saver.save(self.write_last, self.snapshot())
        self.saved = time.monotonic()

    def write_last(self, state: checkpoints.State) -> None:
        """Write the state of a step once the disk has the records before it."""
        with contextlib.suppress(OSError):  # a log that cannot be written does not end a training
            disk.sync(self.folder / METRICS)
        checkpoints.save_last(self.folder / "checkpoints", state)

    def snapshot(self) -> checkpoints.State:
        """Return the state of this step."""
        return resume.snapshot(self.built, self.at, self.records)

    def bad_batch(self, step: int) -> dict[str, Any]:
        """Return where training broke: the step and the images of its batches."""
        epoch, turn = divmod(step, self.built.per_epoch)
        accumulate = self.cfg.trainer.accumulate
        self.built.loader.seek(epoch, turn * accumulate)
        images = self.built.loader.plan.index[turn * accumulate : (turn + 1) * accumulate]
        return {"step": step + 1, "epoch": epoch + 1, "images": images.ravel().tolist()}

    def announce(self) -> None:
        """Say what is about to happen."""
        cfg, data = self.cfg, self.built.dataset
        params = count_parameters(self.built.train_step.trained.net)
        say(
            f"{cfg.model['name']} ({params:,} parameters) on {cfg.dataset['name']}: {len(data.train):,} training and "
            f"{len(data.val) if data.val else 0:,} validation images, {cfg.trainer.epochs} epochs of "
            f"{self.built.per_epoch:,} steps, {self.built.device}, {self.built.precision}"
        )
        for remark in self.built.remarks():
            say(remark)
        if self.at.step:
            say(f"resuming from step {self.at.step:,} in {self.folder}")

    def result(self) -> dict[str, Any]:
        """Return the numbers of the last epoch and of the best, from all that the run has recorded."""
        found = outcome.numbers(self.history, self.at, self.built.per_epoch, self.built.dataset) | {
            "run_dir": str(self.folder),
            "resumed_from": self.resumed_from,
            "skipped": len(self.built.dataset.skipped),
            "seconds": self.record["seconds"],
        }
        return found | ({"profile": self.profile} if self.profile else {})
