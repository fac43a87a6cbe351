"""What a job is: one configuration that Hydra has composed, and the command that runs with it."""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from cnntrain.cli.error_lines import CONFIGURATION_ERRORS, UNRESOLVABLE, JobError, one_line, open_value_error
from cnntrain.cli.output import as_json
from cnntrain.config.plugins import import_plugins
from cnntrain.runtime import disk, distributed
from cnntrain.runtime.distributed import all_or_none
from cnntrain.runtime.errors import IncompleteError, StoppedError
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.memory import spent
from cnntrain.runtime.streams import guarded

sweep_folders: list[str] = []  # filled when a sweep's folder is resolved; a single run has none


class Job:
    """What Hydra calls for each job: import the command inside the job and run it (picklable, for any launcher)."""

    def __init__(self, command: str, argv: list[str], entry: str = "run") -> None:
        self.command = command
        self.entry = entry  # the function in the command's module that does the work
        self.argv = argv
        self.plugins: list[str] = []  # those that were typed
        self.typed: Mapping[str, str] = {}  # words of a sweep's jobs, by what Hydra makes of them
        self.results: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.home = os.getpid()

    @guarded()  # a launcher's processes do not come through `cli`
    def __call__(self, cfg: DictConfig) -> float | None:
        """Run one job and return its `objective` for Hydra's sweepers.

        The error of a single run is kept in `error`, since Hydra would print more than a line about it.
        """
        job = HydraConfig.get()
        sys.argv = ["cnntrain", self.command, *self.argv]  # a run's record shows the words as they were typed
        try:
            result = self.run_in_sweep(job, cfg) if job.mode == RunMode.MULTIRUN else self.run(cfg)
        except Exception as error:
            if job.mode == RunMode.MULTIRUN:
                ended = "" if isinstance(error, StoppedError) else "failed: "
                print(f"cnntrain: job {job.job.num} {ended}{one_line(error)}", file=sys.stderr)
                if isinstance(error, StoppedError) and os.getpid() == self.home:
                    raise SystemExit(error.exit_code) from error  # Hydra would begin the next job
                raise
            self.error = error
            if isinstance(error, IncompleteError):
                self.results.append(error.result)
            return None
        self.results.append(result)
        return result.get("objective")

    def run_in_sweep(self, job: HydraConf, cfg: DictConfig) -> dict[str, Any]:
        """Run one job of a sweep in its folder."""
        with read_write(job):  # type: ignore[arg-type]
            job.overrides.task = [self.typed.get(word, word) for word in job.overrides.task]
        settings = " ".join(word.lstrip("+") for word in job.overrides.task)
        print(f"cnntrain: job {job.job.num}: {settings}", file=sys.stderr, flush=True)
        folder = Path(job.runtime.output_dir)
        keeps_folder = "output_dir" in cfg and "worker" not in cfg  # workers share the folder that was typed
        if keeps_folder:
            cfg.output_dir = str(folder)
        result = self.run(cfg)
        if not keeps_folder:  # the result of a job in another process reaches us as a file
            disk.write(folder / "results.json", as_json(result) + "\n")
        return result

    def run(self, cfg: DictConfig) -> dict[str, Any]:
        """Call the command after importing plugins; tell values that `cfg` leaves open from mistakes of the program."""
        if cfg.get("deterministic"):
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, when torch is imported
        try:
            with distributed.joined():
                with all_or_none():
                    import_plugins(self.plugins)
                settings = flat(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
                with spent(settings):
                    module = imported(f"cnntrain.commands.{self.command}")
                    result: dict[str, Any] = getattr(module, self.entry)(cfg)
        except UNRESOLVABLE as error:
            raise open_value_error(error) from error
        except CONFIGURATION_ERRORS as error:
            raise JobError(f"{type(error).__name__}: {one_line(error)}") from error
        return result


def imported(name: str) -> ModuleType:
    """Import a module; with torch, if that is not there yet, Python looks for no garbage among what modules define.

    That is a quarter of a million objects, which stay until the process ends: going through them during the imports and
    at the end takes a third of a short command's time.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


class JobCheck(Job):
    """What Hydra calls before a sweep: it composes the jobs and has each looked at."""

    def __init__(self, job: Job, check: Callable[[DictConfig], object], jobs: list[list[str]]) -> None:
        super().__init__(job.command, [])
        self.plugins, self.check, self.jobs = job.plugins, check, jobs

    def __call__(self, cfg: DictConfig) -> None:
        """Keep what is wrong with the first job that is not right."""
        try:
            import_plugins(self.plugins)
            for words in self.jobs:
                composed = hydra.compose(self.command, words, return_hydra_config=True)
                HydraConfig.instance().set_config(composed)  # which knows the words of the job
                with open_dict(composed):
                    del composed["hydra"]
                self.check(composed)
        except Exception as error:
            self.error = error


def note_sweep_folder(output_dir: str | None, otherwise: str) -> str:
    """Return the folder of a sweep, and note it for the results of jobs that other processes run."""
    sweep_folders.append(output_dir or otherwise)
    return sweep_folders[-1]


# Registered on import, so that it exists in a launcher's processes, which import this module to find Job.
OmegaConf.register_new_resolver("cnntrain.sweep_folder", note_sweep_folder, replace=True)
