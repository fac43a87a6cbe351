"""Where modules of version 0.0 are now, for plugins that import them by their old names; goes with version 0.2."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

MODULES = {
    "bounds": "runtime.ranges",
    "draws": "runtime.seeding",
    "errors": "runtime.errors",
    "optim": "training.optimizers",
    "data.augmentation": "data.augment.augmentations",
    "data.families": "transforms.families",
    "data.folder": "data.datasets.folder",
    "data.sources": "data.storage.images",
    "data.transformations": "transforms.transform",
    "models.blocks": "nn.blocks",
    "models.chains": "models.flatten",
    "models.convolutions": "nn.convolutions",
    "models.foreign": "models.external",
    "models.heads": "nn.auxiliary",
    "models.layers": "nn.layers",
    "models.residual": "nn.residual",
    "models.shapes": "nn.shapes",
    "models.stages": "nn.stages",
    "models.whitening": "nn.whitening",
}
NAMES = {  # those that have another module or another name than the rest of their old module
    "bounds": {"Bounds": "runtime.ranges.Range"},
    "data.augmentation": {"Part": "data.augment.augmentations.Augmentation"},
    "data.datasets": {"DATASETS": "", "DatasetEntry": "", "class_weights": "", "describe": "", "load": ""},
    "data.families": {"WARPS": "transforms.families.TRANSFORMS"},
    "data.sources": {"Card": "data.storage.images.DatasetInfo"},
    "data.transformations": {
        "Warp": "transforms.transform.Transform",
        "Shape": "transforms.transform.ImageShape",
    },
    "models": {"HEADS": "models.AUXILIARY"},
    "models.blocks": {
        "chain": "nn.composite.chain",
        "ACTIVATIONS": "nn.layers.ACTIVATIONS",
        "require": "nn.blocks.check_count",
    },
    "models.foreign": {"drawn": "config.old_models.drawn", "finished": "config.old_models.finished"},
    "models.heads": {"Heads": "nn.auxiliary.AuxiliaryClassifiers"},
    "models.stages": {"Build": "nn.stages.BuildOptions", "Add": "nn.composite.Add", "Concat": "nn.composite.Concat"},
    "models.whitening": {"calibrate": "nn.calibration.calibrate"},
    "optim": {name: f"training.lr_schedules.{name}" for name in ("SCHEDULES", "learning_rates")},
}
NAMES["models.blocks"] |= {name: f"nn.initialisers.{name}" for name in ("he_normal", "he_normal_inputs", "dirac")}
NAMES["data.datasets"] = {name: f"data.datasets.registry.{name}" for name in NAMES["data.datasets"]}
NAMES["data.datasets"] |= {
    "Card": "data.storage.images.DatasetInfo",
    "Dataset": "data.storage.images.Dataset",
    "Split": "data.storage.images.Split",
    "DatasetEntry": "config.moved.dataset_entry",
    "class_weights": "data.datasets.splits.class_weights",
}


def dataset_entry(info: Callable[..., Any], read: Callable[..., Any]) -> Callable[..., SimpleNamespace]:
    """Return as one dataset what was two functions of the root and the same options, with a warning."""
    warnings.warn(
        "DatasetEntry goes with version 0.2: a dataset is now a class with the methods info and read",
        DeprecationWarning,
        stacklevel=2,
    )

    @wraps(read)
    def reader(root: Path, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(info=partial(info, root, **options), read=partial(read, root, **options))

    return reader


def present(old: str, name: str) -> Any:
    """Return what was `name` in the module `old`, with a warning that says where it is now."""
    place = NAMES.get(old, {}).get(name) or (f"{MODULES[old]}.{name}" if old in MODULES else "")
    module, _, attribute = place.rpartition(".")
    if not place or name.startswith("__"):
        raise AttributeError(f"module 'cnntrain.{old}' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cnntrain.{module}"), attribute)
    warnings.warn(
        f"cnntrain.{old}.{name} is now cnntrain.{place}; the old name goes with version 0.2",
        DeprecationWarning,
        stacklevel=3,
    )
    return value


class OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the old modules, as modules whose names are looked up where they are now."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        """Return how to make an old module; None for every other."""
        package, _, old = fullname.partition(".")
        return importlib.util.spec_from_loader(fullname, self) if package == "cnntrain" and old in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Have the module look its names up."""
        redirect(module)


def redirect(module: ModuleType) -> None:
    """Have a module look up names that it lacks where they are now."""
    old = module.__name__.partition(".")[2]
    module.__getattr__ = partial(present, old)  # type: ignore[method-assign]


def install(packages: Sequence[str] = ("cnntrain.models", "cnntrain.data.datasets")) -> None:
    """Let the old modules be imported from now on, and the old names from `packages` that still exist."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
        for package in packages:
            redirect(importlib.import_module(package))
