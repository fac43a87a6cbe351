"""The groups of a configuration: the functions that each chooses from, and the keys that it may hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from cnntrain.config.schema import Options, Selection
from cnntrain.config.validate import ANY, option_hints
from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.datasets.registry import DATASETS
from cnntrain.models import AUXILIARY, MODELS
from cnntrain.nn.stages import BuildOptions
from cnntrain.runtime.ranges import NonNegative
from cnntrain.training.lr_schedules import SCHEDULES
from cnntrain.training.optimizers import OPTIMIZERS, stage_factors
from cnntrain.transforms.families import TRANSFORMS

# What every model takes; the seed and the device are the command's, the words those of the dataset.
BUILD_HINTS = {
    name: hint
    for name, hint in get_type_hints(BuildOptions, include_extras=True).items()
    if name not in ("seed", "device", "words")
} | {"append": dict[str, Options]}
Functions = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class ConfigGroup:
    """A group whose key `name` chooses one of `functions`; the options of that function are further keys.

    `shared` are keys, with their annotations, that the group has whatever is chosen. `auxiliary` holds functions under
    the same names that bring options of their own. In a group of `several` the keys are names of functions, each with
    its options below it. Plugins may add to `functions`.
    """

    name: str
    functions: Functions
    shared: Mapping[str, Any] = field(default_factory=dict)
    auxiliary: Functions = field(default_factory=dict)
    several: bool = False

    def keys(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the annotation of every key that the group may hold, by dotted key below the group.

        Where `options` name no known function, the keys are those of all.
        """
        if self.several:
            hints = {name: option_hints(function) for name, function in self.functions.items()}
            dotted = {f"{name}.{key}": hint for name, inner in hints.items() for key, hint in inner.items()}
            return {**dict.fromkeys(hints, Any), **dotted}
        name = chosen_name(options)
        functions = [self.functions[name]] if name in self.functions else self.functions.values()
        own = {key: hint for function in functions for key, hint in option_hints(function).items()}
        keys = {"name": str, **own, **self.shared, **self.auxiliary_keys(options)}
        entries = {f"{key}.{ANY}": get_args(hint)[1] for key, hint in keys.items() if get_origin(hint) is dict}
        return keys | entries

    def auxiliary_keys(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the annotation of every option of the auxiliary function that `options` name, if there is one."""
        name = chosen_name(options)
        return option_hints(self.auxiliary[name]) if name in self.auxiliary else {}


def chosen_name(options: Mapping[str, Any]) -> str:
    """Return the name that a group's options choose; empty where they choose none."""
    name = options.get("name")
    return name if isinstance(name, str) else ""


GROUPS = {
    group.name: group
    for group in (
        ConfigGroup(
            "model",
            MODELS,
            shared=BUILD_HINTS,
            auxiliary=AUXILIARY,
        ),
        ConfigGroup("dataset", DATASETS, shared=get_type_hints(Selection, include_extras=True)),
        ConfigGroup("augmentation", AUGMENTATIONS, several=True),
        ConfigGroup("warp", TRANSFORMS, several=True),
        ConfigGroup("optimizer", OPTIMIZERS, shared=option_hints(stage_factors)),
        ConfigGroup("schedule", SCHEDULES, shared={"warmup": NonNegative}),
        ConfigGroup(
            "study",
            {},
            shared={"source": str, "variants": Any, f"variants.{ANY}": Any, "printed": Any, f"printed.{ANY}": Any},
        ),
    )
}
# Those in which a name chooses one function.
CHOICES = {name: group for name, group in GROUPS.items() if group.functions and not group.several}
