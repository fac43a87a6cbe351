"""A training from its first step, or the one it stopped at, to its result."""

import time
from pathlib import Path
from typing import Any

from cnntrain.data.datasets.fingerprint import fingerprint
from cnntrain.data.datasets.splits import parts_of
from cnntrain.data.storage.images import Dataset
from cnntrain.runs import messages, outcome, records, resume
from cnntrain.runs.folder import CONFIG, RECORD, RESULTS, SPLITS, provenance
from cnntrain.runs.images import note_files
from cnntrain.runs.log import RunLog
from cnntrain.runs.saves import Saves
from cnntrain.runs.setup import TrainingSetup, plain_errors
from cnntrain.runtime import distributed, processor
from cnntrain.runtime.devices import hardware
from cnntrain.runtime.errors import DiskError, NonFiniteError, StoppedError, setting
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import say
from cnntrain.runtime.signals import Signals
from cnntrain.training import profiling


class Training:
    """A run on its way: `run` trains it to its end, and says in `run.json` how it ended."""

    def __init__(self, built: TrainingSetup, folder: Path, settings: dict[str, Any], argv: list[str]) -> None:
        self.built, self.folder, self.settings = built, folder, settings
        self.at, lines = resume.restore(built, folder)
        self.resumed_from = self.at.step
        self.log = RunLog(built, folder, lines, self.at.step)
        self.saves = Saves(built, folder, self.at, self.log)
        self.profile: profiling.Profile | None = None
        if not (folder / CONFIG).exists() or not (folder / SPLITS).exists():
            note_files(folder, built.dataset)
        self.record = run_record(built, folder, argv, self.at.step)
        write_json(folder / RECORD, self.record)  # first: "running" voids the results of fewer epochs
        write_json(folder / CONFIG, settings)

    def run(self) -> dict[str, Any]:
        """Train to the end, or until a signal; return the result."""
        messages.announce(self.built, self.folder, self.at.step)
        began, before = time.perf_counter(), self.record["seconds"]
        ending = "failed"
        try:
            with Signals() as signals, plain_errors(self.built), self.saves.plain_errors(signals):
                self.train(signals)
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
            self.saves.close()
            if ending != "done":
                self.log.close()
                self.record["seconds"] = before + time.perf_counter() - began
            self.record["exit"] = ending
            self.write_record(done=ending == "done")
        self.log.finish(self.at.step, self.settings, result)
        messages.report(result, self.built.dataset.info.noun)
        return result

    def train(self, signals: Signals) -> None:
        """Take the steps that are left; log every record and save the checkpoints."""
        built = self.built
        self.log.add_batch(self.at.step)
        records = built.train(self.at, signals, self.saves.save, lambda: self.between_steps(signals))
        load = processor.Watch() if built.device.type == "cpu" else None
        profiler = None
        if built.cfg.trainer.profile:
            profiler = profiling.Profiler(built.train_step, built.loader, self.folder / "profile", self.keep_profile)
        try:
            for record in messages.shown(records, built, self.at.step):
                self.log.add(record)
                if load and "seconds" in record and (line := load.slowed()):
                    say(line)
        except NonFiniteError as error:
            self.record["bad_batch"] = self.bad_batch(error.step)
            raise
        finally:
            if profiler and not profiler.close():
                say(f"the training ended before step {profiling.WARM_UP + 1}: too short to be profiled")
        self.saves.finish()
        distributed.wait()  # the others have waited for it

    def between_steps(self, signals: Signals) -> bool:
        """Save when a signal has asked for it, and say whether to stop."""
        stopping = signals.stop()
        self.saves.save_if_asked(signals)
        return stopping

    def keep_profile(self, profile: profiling.Profile) -> None:
        """Show where the time of a step goes, and keep it for the result."""
        self.profile = profile
        say(profiling.show(profile, self.built.dataset.info.noun))

    def write_record(self, *, done: bool) -> None:
        """Write how the training ended; of one that failed the failure itself is what has to be told."""
        try:
            write_json(self.folder / RECORD, self.record)
        except DiskError as error:
            if done:
                raise
            say(f"warning: {error}")

    def bad_batch(self, step: int) -> dict[str, Any]:
        """Return where training broke: the step and the images of its batches."""
        epoch, turn = divmod(step, self.built.per_epoch)
        accumulate = self.built.cfg.trainer.accumulate
        self.built.loader.seek(epoch, turn * accumulate)
        images = self.built.loader.plan.index[turn * accumulate : (turn + 1) * accumulate]
        return {"step": step + 1, "epoch": epoch + 1, "images": images.ravel().tolist()}

    def result(self) -> dict[str, Any]:
        """Return the numbers of the last epoch and of the best, from all that the run has recorded."""
        built, dataset = self.built, self.built.dataset
        result = outcome.numbers(self.log.history, self.at, built.per_epoch, built.train_step.task, dataset.val) | {
            "run_dir": str(self.folder),
            "resumed_from": self.resumed_from,
            "skipped": len(dataset.skipped),
            "seconds": self.record["seconds"],
        }
        return result | ({"profile": self.profile} if self.profile else {})


def run_record(built: TrainingSetup, folder: Path, argv: list[str], step: int) -> dict[str, Any]:
    """Return where a run comes from; the sessions before this one, which begins at `step`, keep their place in it."""
    path = folder / RECORD
    earlier = records.record(folder) if path.exists() else {}
    this = {"from_step": step, **provenance(argv)}
    sessions: list[dict[str, Any]] = [*earlier.get("sessions", []), this]
    return sessions[0] | {
        "hardware": hardware(),
        "device": str(built.device),
        "precision": built.precision,
        "processes": distributed.WORLD,
        "seed": built.cfg.seed,
        "data": describe_data(built.dataset),
        "init_from": built.started_from or earlier.get("init_from"),
        "sessions": sessions,
        "seconds": earlier.get("seconds", 0.0),
        "exit": "running",
    }


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Return what a run must remember of its dataset to be evaluated later."""
    info = dataset.info
    counts = {name: len(split) for name in ("train", "val", "test") if (split := getattr(dataset, name)) is not None}
    return {
        "name": info.name,
        **({"called": info.called} if info.called else {}),
        "shape": info.shape,
        "classes": info.classes,
        "mean": info.mean,
        "std": info.std,
        "targets": info.targets,
        **({"words": info.words} if info.words else {}),
        "images": counts,
        "fingerprint": fingerprint(dataset),
        "folders": {part: files.root.resolve() for part, files in parts_of(dataset.undivided or dataset)},
        "skipped": dataset.skipped,
    }
