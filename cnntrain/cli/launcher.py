"""From a command's words to a finished job: Hydra composes and launches."""

import contextlib
import importlib
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra

from cnntrain.cli.error_lines import CONFIGURATION_ERRORS, composition_error, print_error
from cnntrain.cli.groups import compose
from cnntrain.cli.help import page
from cnntrain.cli.hydra_workarounds import any_help_string, composed_once, files_checked
from cnntrain.cli.job import Job, JobCheck, sweep_folders
from cnntrain.cli.output import as_json, output_to_stderr
from cnntrain.cli.overrides import CommandLine, parse_words
from cnntrain.runtime import distributed
from cnntrain.runtime.errors import CnntrainError, EchoError, IncompleteError, InputError


def launch(command: str, argv: list[str], conf: Path, entry: str = "run") -> int:
    """Run `cnntrain <command> <argv>` with the configuration in `conf`, and return the exit code.

    `entry` is the function of the command's module that is called with the configuration.

    Prints the result as JSON if asked to, and whatever goes wrong as one line on standard error.
    """
    job = Job(command, argv, entry)
    sweep_folders.clear()
    try:
        line = parse_words(argv, conf, command)
        job.plugins, job.typed = line.plugins, line.typed_words()
        if "--help" in line.flags:
            print(help_page(job, line, conf), end="")
            return 0
        if distributed.WORLD > 1 and ((command, entry) != ("fit", "run") or "--multirun" in line.flags):
            raise InputError(
                f"{distributed.WORLD} processes can share one training (fit) only; start this command in one process"
            )
        for key in line.twice if distributed.RANK == 0 else []:
            print(f"cnntrain: {key} is given twice; the last counts: {key}={line.choices[key]}", file=sys.stderr)
        with output_to_stderr() if line.json else contextlib.nullcontext():
            if "--multirun" in line.flags:
                check_jobs(job, line, conf)
            call_hydra(job, line, conf)
        if line.json and distributed.RANK == 0:
            print(as_json({"jobs": sweep_results(job)} if sweep_folders else job.results[0]), flush=True)
        if job.error:
            raise job.error
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        # What is wrong with the words every process finds: one a machine says so.
        echo = isinstance(error, EchoError) or (distributed.LOCAL_RANK > 0 and error is not job.error)
        with contextlib.redirect_stderr(io.StringIO()) if echo else contextlib.nullcontext():
            return print_error(command, error)
    return 0


def call(command: str, words: list[str], conf: Path) -> dict[str, Any]:
    """Run one job of a command in this process and return its result; what goes wrong is raised."""
    job, line = Job(command, words), parse_words(words, conf, command)
    job.plugins = line.plugins
    try:
        call_hydra(job, line, conf)
    except CONFIGURATION_ERRORS as error:
        raise composition_error(command, error) from error
    if job.error:
        raise job.error
    return job.results[0]


def check_jobs(job: Job, line: CommandLine, conf: Path) -> None:
    """Refuse a sweep with a value that a job would refuse, while there is no folder yet, if the command can tell."""
    check = getattr(importlib.import_module(f"cnntrain.commands.{job.command}"), "check", None)
    if check is not None:
        jobs = line.jobs()
        flags = {flag: value for flag, value in line.flags.items() if flag != "--multirun"}
        call_hydra(JobCheck(job, check, jobs), replace(line, flags=flags, overrides=jobs[0]), conf)


def help_page(job: Job, line: CommandLine, conf: Path) -> str:
    """Return the command's manual page, around what Hydra composes (its own help takes three times as long)."""
    line.flags = {flag: value for flag, value in line.flags.items() if flag == "--config-dir"} | {"--cfg": "job"}
    with contextlib.redirect_stdout(io.StringIO()) as configuration:
        call_hydra(job, line, conf)
    catalog = compose(line.folders, job.command, line.choices)
    return page(job.command, configuration.getvalue(), catalog, line.folders)


def call_hydra(job: Job, line: CommandLine, conf: Path) -> None:
    """Have Hydra compose the configuration, and call the job with it, or show it as the flags say."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach `launch` instead of being printed by Hydra
    typed, first = sys.argv, line.folders[0]
    if first != conf:  # Hydra searches --config-dir last, and the person's own options come first
        if not first.is_dir():
            raise InputError(f"--config-dir {first} is not a folder")
        line.flags["--config-dir"] = str(conf)
    sys.argv = [f"cnntrain {job.command}", *line.argv]
    part = line.flags.get("--package")
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()) if part else contextlib.nullcontext(),
            any_help_string(),
            files_checked(conf),
            composed_once() if mode_is_open(line, conf) else contextlib.nullcontext(),
        ):
            hydra.main(version_base="1.3", config_path=str(first.absolute()), config_name=job.command)(job)()
    except SystemExit as stop:
        if stop.code and part:
            raise InputError(f"--package={part}: the configuration has no such part") from stop
        raise
    except (CnntrainError, BrokenPipeError, *CONFIGURATION_ERRORS):
        raise
    except Exception as error:
        if "--multirun" in line.flags:  # it may be a job's
            raise
        raise InputError(f"these arguments cannot be composed: {error or type(error).__name__}") from error
    finally:
        sys.argv = typed
    if job.error is not None and not isinstance(job.error, IncompleteError):  # which has a result
        raise job.error


def mode_is_open(line: CommandLine, conf: Path) -> bool:
    """Say whether nothing of the person's own can set Hydra's mode, which our configuration leaves to `--multirun`."""
    return line.folders[0] == conf and not any("hydra" in override for override in line.overrides)


def sweep_results(job: Job) -> list[Any]:
    """Return the results of a sweep by job number, read from the jobs' folders if they ran in other processes."""
    if job.results:
        return list(job.results)
    files = Path(sweep_folders[-1]).glob("*/results.json")
    numbered = {int(file.parent.name): file for file in files if file.parent.name.isdecimal()}
    return [json.loads(numbered[number].read_text(encoding="utf-8")) for number in sorted(numbered)]
