"""What Hydra knows of a job: the words that configure it, and configurations composed of other words."""

from collections.abc import Mapping, Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cnntrain.config.schema import Options
from cnntrain.runtime.errors import InputError


def overrides() -> list[str]:
    """Return the words of the command line that set the configuration of this job."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def command_line(command: str) -> list[str]:
    """Return the words that start this run again."""
    return ["cnntrain", command, *(word.removeprefix("++") for word in overrides())]


def key_of(word: str) -> str:
    """Return the key that a word sets."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def forced(word: str) -> str:
    """Return a word so that it may set any key; what exists is checked after composing."""
    choice = key_of(word) in HydraConfig.get().runtime.choices
    return word if word[:1] in ("+", "~") or "=" not in word or choice else f"++{word}"


def compose(command: str, words: Sequence[str] = ()) -> DictConfig:
    """Return the configuration of a command that these words compose, groups among them.

    Raises `InputError` where they do not.
    """
    try:
        return hydra.compose(command, list(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(str(error).splitlines()[0]) from error


def usual_choices(command: str) -> Mapping[str, str]:
    """Return which option of each group a command takes when none is named."""
    choices: Mapping[str, str] = hydra.compose(command, return_hydra_config=True).hydra.runtime.choices
    return choices


def plain_config(composed: DictConfig | Mapping[str, object]) -> Options:
    """Return a composed configuration as dictionaries and lists, interpolations resolved."""
    if not isinstance(composed, DictConfig):
        return dict(composed)
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
