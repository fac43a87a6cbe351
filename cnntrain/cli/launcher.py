"""From a command's words to a finished job: Hydra composes and launches, errors become one line and an exit code."""

import contextlib
import errno
import importlib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import hydra
import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import (
    GrammarParseError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from cnntrain.cli.groups import compose
from cnntrain.cli.help import page
from cnntrain.cli.hydra_workarounds import any_help_string, composed_once
from cnntrain.cli.output import as_json, one_line, output_to_stderr
from cnntrain.cli.overrides import Line, read
from cnntrain.config.files import explained, read_text, read_yaml, refuse_code
from cnntrain.config.plugins import import_plugins
from cnntrain.runtime import disk, distributed
from cnntrain.runtime.distributed import all_or_none
from cnntrain.runtime.errors import CnntrainError, EchoError, IncompleteError, InputError, StoppedError, unknown
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.memory import spent
from cnntrain.runtime.streams import guarded

CONFIGURATION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
UNRESOLVABLE = (MissingMandatoryValue, InterpolationResolutionError, UnsupportedInterpolationType, GrammarParseError)
EXTRAS = {  # of the package, by Hydra's launchers and sweepers that they bring
    ("hydra/launcher", "joblib"): "sweep",
    ("hydra/launcher", "submitit"): "slurm",
    ("hydra/launcher", "ray"): "ray",
    ("hydra/sweeper", "optuna"): "optuna",
}

_sweep_folders: list[str] = []  # filled when a sweep's folder is resolved; a single run has none


class Source(FileConfigSource):
    """What reads configuration files for Hydra, and refuses code in those that are not ours."""

    ours: ClassVar[Path] = Path()

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the content of the file `config_path`, looked at before Hydra acts on anything in it."""
        path = Path(self.path, self._normalize_file_name(config_path))
        theirs = Path(self.path).resolve() != self.ours.resolve()
        if theirs:
            read_yaml(path)  # before OmegaConf unfolds its aliases
        text = read_text(path)
        with explained(path):
            header = self._get_header_dict(text[:512])
            content = OmegaConf.load(io.StringIO(text))
            keys = OmegaConf.to_container(content)
        if not isinstance(keys, dict):
            raise InputError(f"{path} holds no keys")
        if config_path.startswith("experiment/") and not header["package"] and keys.keys() - {"defaults"}:
            raise InputError(f"{path} should begin with '# @package _global_': an experiment's keys are the command's")
        if theirs:
            refuse_code(keys, f"{config_path}.{header['package']}", path)
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", content, header)


class JobError(Exception):
    """A mistake of the program's own inside a job that would otherwise look like one in the configuration."""


class Task:
    """What Hydra calls for each job: import the command inside the job and run it (picklable, for any launcher)."""

    def __init__(self, command: str, argv: list[str], entry: str = "run") -> None:
        self.command = command
        self.entry = entry  # the function in the command's module that does the work
        self.argv = argv
        self.plugins: list[str] = []  # those that were typed
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
            if job.mode != RunMode.MULTIRUN:
                result = _run(self, cfg)
            else:
                settings = " ".join(override.lstrip("+") for override in job.overrides.task)
                print(f"cnntrain: job {job.job.num}: {settings}", file=sys.stderr, flush=True)
                folder = Path(job.runtime.output_dir)
                keeps_folder = "output_dir" in cfg and "worker" not in cfg  # workers share the folder that was typed
                if keeps_folder:
                    cfg.output_dir = str(folder)
                result = _run(self, cfg)
                if not keeps_folder:  # the result of a job in another process reaches us as a file
                    disk.write(folder / "results.json", as_json(result) + "\n")
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


class Preview(Task):
    """What Hydra calls before a sweep: it composes jobs and has them looked at."""

    def __init__(self, task: Task, check: Callable[[DictConfig], object], jobs: list[list[str]]) -> None:
        super().__init__(task.command, [])
        self.plugins, self.check, self.jobs = task.plugins, check, jobs

    def __call__(self, cfg: DictConfig) -> None:
        """Keep what is wrong with the first job that is not right."""
        try:
            import_plugins(self.plugins)
            for job in self.jobs:
                composed = hydra.compose(self.command, job, return_hydra_config=True)
                HydraConfig.instance().set_config(composed)  # which knows the words of the job
                with open_dict(composed):
                    del composed["hydra"]
                self.check(composed)
        except Exception as error:
            self.error = error


def _run(task: Task, cfg: DictConfig) -> dict[str, Any]:
    """Call the command after importing plugins; tell values that `cfg` leaves open from mistakes of the program."""
    if cfg.get("deterministic"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, when torch is imported
    try:
        with distributed.joined():
            with all_or_none():
                import_plugins(task.plugins)
            settings = flat(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
            with spent(settings):
                module = importlib.import_module(f"cnntrain.commands.{task.command}")
                result: dict[str, Any] = getattr(module, task.entry)(cfg)
    except UNRESOLVABLE as error:
        raise InputError(_open_value(error)) from error
    except CONFIGURATION_ERRORS as error:
        raise JobError(f"{type(error).__name__}: {one_line(error)}") from error
    return result


def launch(command: str, argv: list[str], conf: Path, entry: str = "run") -> int:
    """Run `cnntrain <command> <argv>` with the configuration in `conf`, and return the exit code.

    `entry` is the function of the command's module that is called with the configuration.

    Prints the result as JSON if asked to, and whatever goes wrong as one line on standard error.
    """
    task = Task(command, argv, entry)
    _sweep_folders.clear()
    try:
        line = read(argv, conf, command)
        task.plugins = line.plugins
        if "--help" in line.flags:
            print(_manual(task, line, conf), end="")
            return 0
        if distributed.WORLD > 1 and ((command, entry) != ("fit", "run") or "--multirun" in line.flags):
            raise InputError(
                f"{distributed.WORLD} processes share one training (fit) and nothing else; start this one alone"
            )
        for key in line.twice if distributed.RANK == 0 else []:
            print(f"cnntrain: {key} is given twice; the last counts: {key}={line.choices[key]}", file=sys.stderr)
        with output_to_stderr() if line.json else contextlib.nullcontext():
            if "--multirun" in line.flags:
                _check_jobs(task, line, conf)
            _hydra(task, line, conf)
        if line.json and distributed.RANK == 0:
            print(as_json({"jobs": _jobs(task)} if _sweep_folders else task.results[0]), flush=True)
        if task.error:
            raise task.error
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        # What is wrong with the words every process finds: one a machine says so.
        echo = isinstance(error, EchoError) or (distributed.LOCAL_RANK > 0 and error is not task.error)
        with contextlib.redirect_stderr(io.StringIO()) if echo else contextlib.nullcontext():
            return _report(command, error)
    return 0


def call(command: str, words: list[str], conf: Path) -> dict[str, Any]:
    """Run one job of a command in this process and return its result; what goes wrong is raised."""
    task, line = Task(command, words), read(words, conf, command)
    task.plugins = line.plugins
    try:
        _hydra(task, line, conf)
    except CONFIGURATION_ERRORS as error:
        raise _configuration_error(command, error) from error
    if task.error:
        raise task.error
    return task.results[0]


def _check_jobs(task: Task, line: Line, conf: Path) -> None:
    """Refuse a sweep with a value that a job would refuse, while there is no folder yet, if the command can tell."""
    check = getattr(importlib.import_module(f"cnntrain.commands.{task.command}"), "check", None)
    if check is not None:
        jobs = line.jobs()
        flags = {flag: value for flag, value in line.flags.items() if flag != "--multirun"}
        _hydra(Preview(task, check, jobs), replace(line, flags=flags, overrides=jobs[0]), conf)


def _manual(task: Task, line: Line, conf: Path) -> str:
    """Return the command's manual page, around what Hydra composes (its own help takes three times as long)."""
    line.flags = {flag: value for flag, value in line.flags.items() if flag == "--config-dir"} | {"--cfg": "job"}
    with contextlib.redirect_stdout(io.StringIO()) as configuration:
        _hydra(task, line, conf)
    catalog = compose(line.folders, task.command, line.choices)
    return page(task.command, configuration.getvalue(), catalog, line.folders)


def _hydra(task: Task, line: Line, conf: Path) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach `launch` instead of being printed by Hydra
    typed, first = sys.argv, line.folders[0]
    if first != conf:  # Hydra searches --config-dir last, and the person's own options come first
        if not first.is_dir():
            raise InputError(f"--config-dir {first} is no folder")
        line.flags["--config-dir"] = str(conf)
    sys.argv = [f"cnntrain {task.command}", *line.argv]
    part = line.flags.get("--package")
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()) if part else contextlib.nullcontext(),
            any_help_string(),
            _read_by_us(conf),
            composed_once() if _mode_is_open(line, conf) else contextlib.nullcontext(),
        ):
            hydra.main(version_base="1.3", config_path=str(first.absolute()), config_name=task.command)(task)()
    except SystemExit as stop:
        if stop.code and part:
            raise InputError(f"--package={part}: the configuration has no such part") from stop
        raise
    except (CnntrainError, BrokenPipeError, *CONFIGURATION_ERRORS):
        raise
    except Exception as error:
        if "--multirun" in line.flags:  # it may be a job's
            raise
        raise InputError(f"these words cannot be composed: {error or type(error).__name__}") from error
    finally:
        sys.argv = typed
    if task.error is not None and not isinstance(task.error, IncompleteError):  # which has a result
        raise task.error


@contextlib.contextmanager
def _read_by_us(conf: Path) -> Iterator[None]:
    """Have Hydra read configuration files through `Source`, which trusts those in `conf`."""
    Plugins.instance()  # registers Hydra's own reader
    readers = SourcesRegistry.instance().types
    before, readers["file"], Source.ours = readers["file"], Source, conf
    try:
        yield
    finally:
        readers["file"] = before


def _mode_is_open(line: Line, conf: Path) -> bool:
    """Say whether nothing of the person's own can set Hydra's mode, which our configuration leaves to `--multirun`."""
    return line.folders[0] == conf and not any("hydra" in override for override in line.overrides)


def _jobs(task: Task) -> list[Any]:
    """Return the results of a sweep by job number, read from the jobs' folders if they ran in other processes."""
    if task.results:
        return list(task.results)
    files = Path(_sweep_folders[-1]).glob("*/results.json")
    numbered = {int(file.parent.name): file for file in files if file.parent.name.isdecimal()}
    return [json.loads(numbered[number].read_text(encoding="utf-8")) for number in sorted(numbered)]


def _open_value(error: OmegaConfBaseException) -> str:
    key = error.full_key or error.key
    return f"{key}=<value> is missing" if isinstance(error, MissingMandatoryValue) else f"{key}: {one_line(error)}"


def _report(command: str, error: Exception) -> int:
    """Print `error` in one line on standard error, after its traceback if asked for, and return the exit code."""
    if os.environ.get("CNNTRAIN_TRACEBACK") == "1":
        traceback.print_exception(error)
    if isinstance(error, CONFIGURATION_ERRORS):
        error = _configuration_error(command, error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        error = InputError(f"{error.filename}: {error.strerror}")
    who = f"cnntrain (process {distributed.RANK})" if distributed.RANK else "cnntrain"
    if isinstance(error, CnntrainError):
        print(f"{who}: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    kind = "" if isinstance(error, JobError) else f"{type(error).__name__}: "
    print(f"{who}: {kind}{one_line(error)} (CNNTRAIN_TRACEBACK=1 shows where)", file=sys.stderr)
    return 1


def _configuration_error(command: str, error: Exception) -> InputError:
    """Say in one line what Hydra or OmegaConf found wrong while composing, with the cause they leave aside."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if extra := EXTRAS.get((group, option.partition("_")[0])):
            return InputError(f"{group}={option} is not installed: pip install 'cnntrain[{extra}]'")
        return unknown(group, option, error.options)
    if isinstance(error, UNRESOLVABLE):
        return InputError(_open_value(error))
    if absent := re.search(r"Could not override '([^'@]+)'\. No match in the defaults list", str(error)):
        return InputError(f"{command} takes no {absent[1]}=; its groups are listed by cnntrain {command} --help")
    message = re.sub(r"^Error merging override \+*(.*)", r"'\1' does not go with what is there:", one_line(error))
    cause = one_line(error.__cause__) if error.__cause__ else ""
    return InputError(message if cause in message else f"{message} {cause}")


def _sweep_folder(output_dir: str | None, otherwise: str) -> str:
    """Return the folder of a sweep, and note it for the results of jobs that other processes run."""
    _sweep_folders.append(output_dir or otherwise)
    return _sweep_folders[-1]


# Registered on import, so that it exists in a launcher's processes, which import this module to find Task.
OmegaConf.register_new_resolver("cnntrain.sweep_folder", _sweep_folder, replace=True)
