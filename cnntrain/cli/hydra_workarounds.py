"""Workarounds for Hydra 1.3; each says when it can go."""

import argparse
import contextlib
from collections.abc import Iterator

from hydra._internal.hydra import Hydra


@contextlib.contextmanager
def any_help_string() -> Iterator[None]:
    """Let Hydra 1.3 start on Python 3.14, whose argparse refuses its help strings (hydra issue 3121)."""
    check = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is None:
        yield
        return
    setattr(argparse.ArgumentParser, "_check_help", lambda *_: None)  # noqa: B010
    try:
        yield
    finally:
        setattr(argparse.ArgumentParser, "_check_help", check)  # noqa: B010


@contextlib.contextmanager
def composed_once() -> Iterator[None]:
    """Spare Hydra the composition that it makes only to look at its mode: a tenth of a second."""
    look = Hydra.get_mode
    setattr(Hydra, "get_mode", lambda *_, **__: None)  # noqa: B010
    try:
        yield
    finally:
        setattr(Hydra, "get_mode", look)  # noqa: B010
