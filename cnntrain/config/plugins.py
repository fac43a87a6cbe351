"""Modules of a person's own, imported because the command line says so, and never because a file or a record does."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from cnntrain.runtime.errors import InputError


def import_plugins(names: Sequence[str]) -> None:
    """Import modules, which may add to the dictionaries of models, datasets and the rest.

    Raises `InputError` for one that is not there or fails while it is imported.
    """
    sys.path.insert(0, str(Path.cwd()))
    try:
        for name in names:
            try:
                importlib.import_module(name)
            except Exception as error:
                kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
                raise InputError(f"plugins={name}: {kind}{error}") from error
            print(f"plugin {name} imported", file=sys.stderr)
    finally:
        sys.path.pop(0)
