"""Workarounds for Hydra 1.3, which pyproject.toml asks for; each says at which version it can go."""

import argparse
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from cnntrain.config.files import explained, read_text, read_yaml, refuse_code
from cnntrain.runtime.errors import InputError

# Python 3.14's argparse refuses Hydra's help strings (hydra issue 3121).
# Goes with the first Hydra whose parser starts on Python 3.14.


@contextlib.contextmanager
def any_help_string() -> Iterator[None]:
    """Let Hydra's parser start on Python 3.14."""
    check = getattr(argparse.ArgumentParser, "_check_help", None)
    if check is None:
        yield
        return
    setattr(argparse.ArgumentParser, "_check_help", lambda *_: None)  # noqa: B010
    try:
        yield
    finally:
        setattr(argparse.ArgumentParser, "_check_help", check)  # noqa: B010


# Hydra composes a configuration once more, only to look at its mode: a tenth of a second.
# Goes with the first Hydra that composes once, or when `Hydra.get_mode` goes.


@contextlib.contextmanager
def composed_once() -> Iterator[None]:
    """Spare Hydra the composition that it makes only to look at its mode."""
    look = Hydra.get_mode
    setattr(Hydra, "get_mode", lambda *_, **__: None)  # noqa: B010
    try:
        yield
    finally:
        setattr(Hydra, "get_mode", look)  # noqa: B010


# Hydra acts on code in a configuration file while it composes, and its reader of files is not a public extension point.
# Goes with the first Hydra that can be given a reader, or told to run nothing that a file names.


class CheckedFileSource(FileConfigSource):
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


@contextlib.contextmanager
def files_checked(ours: Path) -> Iterator[None]:
    """Have Hydra read configuration files through `CheckedFileSource`, which trusts those in the folder `ours`."""
    Plugins.instance()  # registers Hydra's own reader
    readers = SourcesRegistry.instance().types
    before, readers["file"], CheckedFileSource.ours = readers["file"], CheckedFileSource, ours
    try:
        yield
    finally:
        readers["file"] = before
