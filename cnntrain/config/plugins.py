"""Modules of a person's own, imported because the command line says so, and never because a file or a record does."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from cnntrain.config import moved
from cnntrain.runtime.errors import InputError


def import_plugins(names: Sequence[str]) -> None:
    """Import modules, which may add to the dictionaries of models, datasets and the rest.

    Raises `InputError` for one that is not there or fails while it is imported.
    """
    if names:
        moved.install()
    sys.path.insert(0, str(Path.cwd()))
    try:
        for name in names:
            try:
                with warnings.catch_warnings(record=True) as outdated:
                    warnings.simplefilter("always", DeprecationWarning)
                    importlib.import_module(name)
            except Exception as error:
                kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
                raise InputError(f"plugins={name}: {kind}{error}") from error
            for line in dict.fromkeys(str(warning.message) for warning in outdated):
                print(f"plugin {name}: {line}", file=sys.stderr)
            print(f"plugin {name} imported", file=sys.stderr)
    finally:
        sys.path.pop(0)
