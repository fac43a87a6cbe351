"""What can go wrong for a person, each with the exit code that says so, and the nearest right word."""

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

CLOSE = 0.7  # share of letters that two words have in common, from which one may be meant by the other
SYNONYMS = {  # what other tools call our commands, keys and values
    **{"train": "fit", "infer": "predict", "summary": "describe"},
    **dict.fromkeys(("test", "evaluate", "validate"), "eval"),
    **dict.fromkeys(("num_epochs", "max_epochs"), "epochs"),
    **dict.fromkeys(("gpu", "gpus"), "device"),
    **dict.fromkeys(("arch", "network"), "model"),
    **{"bs": "batch_size", "learning_rate": "lr", "wd": "weight_decay", "scheduler": "schedule"},
    **{"data": "dataset", "data_dir": "root", "num_workers": "workers", "float32": "fp32", "bfloat16": "bf16"},
}


class CnntrainError(Exception):
    """A failure that one line explains; the command line prints the line and leaves with `exit_code`."""

    exit_code = 1


class InputError(CnntrainError, ValueError):
    """Usage, configuration or data are wrong, and nothing was started."""

    exit_code = 2


class InUseError(InputError):
    """Another process holds the folder."""


class DiskError(CnntrainError, OSError):
    """A file or a folder could not be written; what was there before is as it was."""


class IncompleteError(CnntrainError):
    """A part of the work failed; `result` is what `--json` prints of all that was done."""

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


class NonFiniteError(CnntrainError):
    """The loss or a gradient stopped being a number, at optimizer step number `step` (from 0)."""

    exit_code = 3

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class StoppedError(CnntrainError):
    """A signal ended the work after everything was saved; the exit code is the shell's, 128 + its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


class EchoError(CnntrainError):
    """A failure that another process of the same training tells; this one only leaves with the exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this training has failed; its message says why")
        self.exit_code = exit_code


class CheckpointError(CnntrainError):
    """A checkpoint is missing, damaged or belongs to another network."""

    exit_code = 4


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `word` was most likely meant to be, or None when nothing is close.

    Close is what other tools call it, what shares most letters in their order, what has the same letters in another
    order, and what begins with the word.
    """
    lowered, typed = {choice.lower(): choice for choice in choices}, word.lower()
    if typed not in lowered and SYNONYMS.get(typed) in lowered:
        return lowered[SYNONYMS[typed]]

    def likeness(choice: str) -> tuple[float, int]:
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(choice, typed, strict=False))))
        return difflib.SequenceMatcher(None, choice, typed).ratio(), shared

    close = [
        choice
        for choice in lowered
        if sorted(choice) == sorted(typed)
        or (len(typed) >= 3 and choice.startswith(typed))
        or difflib.SequenceMatcher(None, choice, typed).ratio() >= CLOSE
    ]
    return lowered[max(close, key=likeness)] if close else None


def listed(names: Sequence[str], most: int = 5) -> str:
    """Write the first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def unknown(kind: str, word: str, choices: Iterable[str]) -> InputError:
    """Build the one-line error for a `word` that is no `kind`: the nearest choice, or else all of them."""
    names = list(choices)
    match = nearest(word, names)
    hint = f"did you mean {match!r}?" if match else f"choose from {', '.join(names) or 'nothing'}"
    return InputError(f"unknown {kind} {word!r}; {hint}")


def as_text(name: str | Path) -> str:
    """Return a name of the file system as text that any file can hold: bytes of it that are no UTF-8 as \\xe9."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def setting(key: str, value: object) -> str:
    """Write `key=value` as it can be pasted into a shell, whatever characters the value has."""
    text = str(value)
    if not text or text == "null" or re.search(r"[,'\"\\\[\]{}]|^\s|\s$", text):  # the words' own grammar reads these
        text = "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"
    return shlex.quote(f"{key}={text}")
