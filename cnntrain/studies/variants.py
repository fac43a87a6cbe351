"""From words of the command line to variants: configurations of `fit` that are checked before anything is made."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cnntrain.config import pretrained
from cnntrain.config.build import dataset_info
from cnntrain.config.compose import compose, forced, key_of, overrides
from cnntrain.config.files import refuse_word
from cnntrain.config.read import keep_text, read_config
from cnntrain.config.schema import Fit, Options
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.runs import records
from cnntrain.runs.check import check_fit
from cnntrain.runs.folder import RECORD
from cnntrain.runtime.devices import machine
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.tables import counted
from cnntrain.studies.cells import Variant


@dataclass(frozen=True)
class SizedVariant:
    """A variant with its size, and what removing stages did to those that are left."""

    variant: Variant
    removed: tuple[str, ...]  # stages, if it differs from the first network in them and in its control alone
    params: int
    params_removed: int  # of the first network's; negative where there are more
    macs: int | None  # of one image; None where a layer's cost is not known
    receptive_field: tuple[int, int] | None = None  # of one position of the last maps
    replumbed: tuple[str, ...] = ()  # stages that are left and have other parameters than before
    control: str | None = None  # what it is matched in by widening; stages interact among variants matched alike only
    reference: str | None = None  # the variant that it is compared with, itself if with none; None: the first

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name


def fit_words(study: type[Fit]) -> list[str]:
    """Return the words of a study's command line that configure its trainings; TensorBoard is off unless asked for."""
    of_study = {field.name for field in fields(study)} - {field.name for field in fields(Fit)}
    of_study |= {"output_dir", "resume", "seed", "init_from", "check_resume"}
    words = [word for word in overrides() if key_of(word).partition(".")[0] not in of_study]
    asked = any(key_of(word) == "trainer.tensorboard" for word in words)
    return words if asked else [*words, "++trainer.tensorboard=false"]


def compose_training(words: list[str]) -> Options:
    """Return the configuration of `fit` that these words compose.

    Raises `InputError` when they do not.
    """
    settings = keep_text(Fit, compose("fit", [forced(word) for word in words]), words)
    return settings | {"dataset": pretrained.with_image_size(settings["dataset"], settings["model"])}


def listed_words(name: str, changes: Any) -> list[str]:
    """Return the words for `fit` that a study's file has for a variant.

    Raises `InputError` where they are no list of words, or name what a file may not.
    """
    if not isinstance(changes, list) or not all(isinstance(word, str) for word in changes):
        raise InputError(f"study.variants.{name} should be a list of arguments for fit: ['model.remove=[fc7]']")
    for word in changes:
        refuse_word(word, f"study.variants.{name}")
    return changes


def info_of(settings: Options) -> DatasetInfo:
    """Return what is known of the images that a configuration learns from."""
    return dataset_info(settings["dataset"], settings["data_root"])


def require_trainable(variant: Variant) -> None:
    """Raise `InputError` naming the variant and what is wrong with it before anything is trained."""
    try:
        check_fit(read_config(Fit, variant.settings))
    except InputError as error:
        raise InputError(f"{variant.name}: {error}") from error


def training_facts(settings: Options, folders: Sequence[Path]) -> dict[str, str]:
    """Return what a reader must know of how the cells of a study were trained, which lie in `folders`.

    The images, the machine and the versions are those of the first cell that there is.
    """
    begun = [records.record(folder) for folder in folders if (folder / RECORD).is_file()]
    record: Mapping[str, Any] = begun[0] if begun else {}
    precisions = Counter(str(each["precision"]) for each in begun)
    images = ", ".join(f"{count:,} {name}" for name, count in record.get("data", {}).get("images", {}).items())
    trainer = settings["trainer"]
    return {
        "model": settings["model"]["name"],
        "dataset": f"{settings['dataset']['name']}: {images} {info_of(settings).noun}s",
        "augmentation": ", ".join(settings["augmentation"]) or "none",
        "optimizer": ", ".join(f"{key}={value}" for key, value in settings["optimizer"].items()),
        "schedule": ", ".join(f"{key}={value}" for key, value in settings["schedule"].items()),
        "epochs": str(trainer["epochs"]),
        "batch size": str(trainer["batch_size"] * trainer["accumulate"]),
        "precision": shares(precisions) or str(trainer["precision"]),
        "hardware": machine(record["hardware"]) if "hardware" in record else "",
        "versions": ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()),
    }


def shares(counts: Counter[str]) -> str:
    """Write what all have in common, or else what how many of them have."""
    if len(counts) < 2:
        return "".join(counts)
    return ", ".join(f"{name} ({counted(count, 'run')})" for name, count in counts.most_common())
