"""What can go wrong for a person, each with the exit code that says so, and the nearest right word."""

import difflib
from collections.abc import Iterable


class CnntrainError(Exception):
    """A failure that one line explains; the command line prints the line and leaves with `exit_code`."""

    exit_code = 1


class InputError(CnntrainError, ValueError):
    """Usage, configuration or data are wrong, and nothing was started."""

    exit_code = 2


class NonFiniteError(CnntrainError):
    """The loss stopped being a number."""

    exit_code = 3


class CheckpointError(CnntrainError):
    """A checkpoint is missing, damaged or belongs to another network."""

    exit_code = 4


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that `word` was most likely meant to be, or None when nothing is close."""
    lowered = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[matches[0]] if matches else None


def unknown(kind: str, word: str, choices: Iterable[str]) -> InputError:
    """Build the one-line error for a `word` that is no `kind`: the nearest choice, or else all of them."""
    names = list(choices)
    match = nearest(word, names)
    hint = f"did you mean {match!r}?" if match else f"choose from {', '.join(names) or 'nothing'}"
    return InputError(f"unknown {kind} {word!r}; {hint}")
