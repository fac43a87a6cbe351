"""How errors become one line on standard error and an exit code."""

import errno
import os
import re
import shlex
import sys
import traceback

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import (
    GrammarParseError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from cnntrain.runtime import distributed
from cnntrain.runtime.errors import CnntrainError, InputError, unknown

CONFIGURATION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
UNRESOLVABLE = (MissingMandatoryValue, InterpolationResolutionError, UnsupportedInterpolationType, GrammarParseError)
EXTRAS = {  # of the package, by Hydra's launchers and sweepers that they bring
    ("hydra/launcher", "joblib"): "sweep",
    ("hydra/launcher", "submitit"): "slurm",
    ("hydra/launcher", "ray"): "ray",
    ("hydra/sweeper", "optuna"): "optuna",
}


class JobError(Exception):
    """A mistake of the program's own inside a job that would otherwise look like one in the configuration."""


def one_line(error: BaseException) -> str:
    """Return the message of `error` without line breaks and without OmegaConf's and Hydra's appendices."""
    text = re.split(r"\n\s*(?:full_key:|object_type=|reference_type=|See https|\^)", str(error))[0]
    return " ".join(text.split())


def print_error(command: str, error: Exception) -> int:
    """Print `error` in one line on standard error, after its traceback if asked for, and return the exit code."""
    if os.environ.get("CNNTRAIN_TRACEBACK") == "1":
        traceback.print_exception(error)
    if isinstance(error, CONFIGURATION_ERRORS):
        error = composition_error(command, error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        error = InputError(f"{error.filename}: {error.strerror}")
    who = f"cnntrain (process {distributed.RANK})" if distributed.RANK else "cnntrain"
    if isinstance(error, CnntrainError):
        print(f"{who}: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    kind = "" if isinstance(error, JobError) else f"{type(error).__name__}: "
    print(f"{who}: {kind}{one_line(error)} (CNNTRAIN_TRACEBACK=1 shows where)", file=sys.stderr)
    return 1


def composition_error(command: str, error: Exception) -> InputError:
    """Say in one line what Hydra or OmegaConf found wrong while composing, with the cause they leave aside."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        if extra := EXTRAS.get((group, option.partition("_")[0])):
            return InputError(f"{group}={option} is not installed: pip install 'cnntrain[{extra}]'")
        return unknown(group, option, error.options)
    if isinstance(error, UNRESOLVABLE):
        return open_value_error(error)
    text, cause = one_line(error), one_line(error.__cause__) if error.__cause__ else ""
    if absent := re.search(r"Could not override '([^'@]+)'\. No match in the defaults list", str(error)):
        return InputError(f"{command} takes no {absent[1]}=; its groups are listed by cnntrain {command} --help")
    if refused := re.match(r"Error merging override \+*((.*?)=.*)", text):
        word, key = refused.groups()
        if cause == "Cannot merge DictConfig with ListConfig" and word.startswith(f"{key}=["):
            words = f"{shlex.quote(f'~{key}')} {shlex.quote(word)}"
            return InputError(
                f"{word}: a list cannot be merged with the mapping that is there; remove that first: {words}"
            )
        text = f"'{word}' does not fit the value that is there:"
    return InputError(text if cause in text else f"{text} {cause}")


def open_value_error(error: OmegaConfBaseException) -> InputError:
    """Return the error for a key whose value is missing or refers to nothing."""
    key = error.full_key or error.key
    missing = isinstance(error, MissingMandatoryValue)
    return InputError(f"{key}=<value> is missing" if missing else f"{key}: {one_line(error)}")
