"""The variants of a study of removals: which stages each removes, and the configuration of `fit` that it stands for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cnntrain.config.build import build_model
from cnntrain.config.compose import key_of
from cnntrain.config.schema import Ablate, Options
from cnntrain.nn.composite import Level
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import StageError, require, stage_shapes
from cnntrain.runs import records
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import say
from cnntrain.studies.ablation.changes import write_changed
from cnntrain.studies.cells import Variant
from cnntrain.studies.variants import compose_training, fit_words, info_of, listed_words, require_trainable

FULL = "full"
PREFIX = {"retrain": "no_", "finetune": "no_", "lesion": "no_", "reinit": "reinit_", "rerandomize": "rerandomize_"}
TRAINING = ("retrain", "finetune")  # the modes whose cells are trained; the others change a trained network


@dataclass(frozen=True)
class Removal(Variant):
    """A variant without some stages, or with other weights in them; the full network's has none."""

    stages: tuple[str, ...] = ()  # removed, or put back to other weights
    control: str | None = None  # what its widened stages hold equal: params or macs

    def only_removes(self, full: "Removal") -> bool:
        """Say whether it differs from the full one in the stages that are removed and in nothing else."""
        model = self.settings["model"] | {"remove": full.settings["model"]["remove"]}
        return self.settings | {"model": model} == full.settings


# Which variants there are.


def variants_of(cfg: Ablate, trained: Sequence[Path]) -> list[Removal]:
    """Return the full training and the variants that are asked for, each checked down to its shapes.

    Raises `InputError` for what cannot be built, naming the variant.
    """
    words = fit_words(Ablate)
    base = compose_training(words)
    if trained:
        recorded = records.settings(trained[0])
        typed = {"data_root": base["data_root"]} if any(key_of(word) == "data_root" for word in words) else {}
        same = {key: recorded[key] for key in ("model", "dataset")}
        base = base | same if cfg.mode == "finetune" else recorded | typed
    full = Removal(FULL, base)
    if cfg.mode == "retrain":
        require_trainable(full)
    study: Options = cfg.study or {}
    if cfg.remove is not None:
        variants = [without(full, stages, cfg.mode) for stages in groups_of(cfg.remove)]
    elif study.get("name") in GENERATORS and not study.get("variants"):
        variants = list(generated(full, GENERATORS[study["name"]], cfg.mode))
    elif study.get("variants"):
        variants = [named(full, words, name, changes, cfg.mode) for name, changes in study["variants"].items()]
    else:
        raise InputError(
            f"nothing to remove: give study={' or '.join(GENERATORS)} or zeiler_fergus, or 'remove=[[conv2],[fc3]]'"
        )
    for variant in variants:
        if [other.name for other in variants].count(variant.name) > 1 or variant.name == FULL:
            raise InputError(f"two variants are called {variant.name}")
        if cfg.mode in TRAINING:
            require_trainable(variant)
        elif not variant.stages:
            raise InputError(
                f"{variant.name} removes no stage; mode={cfg.mode} changes the stages of a trained network"
            )
        if cfg.mode == "lesion":
            check_lesion(variant)
    if not variants:
        raise InputError(f"study={study.get('name')} finds no stage that could be removed")
    return [made_by(variant, cfg.mode) for variant in (full, *variants)]


def made_by(variant: Removal, mode: str) -> Removal:
    """Return a variant that says what makes its cells: training, or a change of a trained network's weights."""
    if mode in TRAINING:
        return variant
    return replace(variant, change=partial(write_changed, mode=mode, stages=variant.stages))


def groups_of(remove: Sequence[Any]) -> list[tuple[str, ...]]:
    """Return the sets of stages to remove: a list of lists, or one list of names."""
    if remove and all(isinstance(entry, str) for entry in remove):
        return [tuple(remove)]
    if not remove or not all(isinstance(entry, list) and entry for entry in remove):
        raise InputError("remove must be a list of stages, or of such lists: 'remove=[[conv2],[conv2,fc3]]'")
    return [tuple(map(str, entry)) for entry in remove]


def without(full: Removal, stages: tuple[str, ...], mode: str) -> Removal:
    """Return the variant that removes these stages, or in the modes that only change weights, names them."""
    inner = [stage for stage in stages if "." in stage]  # building says whether there is such a stage
    if inner and mode not in TRAINING:
        raise InputError(f"{inner[0]} is a stage within a stage, which mode={mode} does not change; take mode=retrain")
    check_stages(full, [stage.partition(".")[0] for stage in stages], last=mode in ("reinit", "rerandomize"))
    name = PREFIX[mode] + "_".join(stages)
    if mode in ("reinit", "rerandomize"):
        return Removal(name, full.settings, stages=stages)
    removed = [*full.settings["model"]["remove"], *stages]
    model = full.settings["model"] | {"remove": removed}
    word = f"model.remove=[{','.join(removed)}]"
    return Removal(name, full.settings | {"model": model}, (word,), stages=stages)


def named(full: Removal, words: Sequence[str], name: str, changes: Any, mode: str) -> Removal:
    """Return a variant of a study's file: words for `fit`, of which the modes for trained networks take the stages."""
    settings = compose_training([*words, *listed_words(name, changes)])
    stages = tuple(stage for stage in settings["model"]["remove"] if stage not in full.settings["model"]["remove"])
    if mode == "retrain":
        return Removal(name, settings, tuple(changes), stages=stages)
    variant = without(full, stages, mode)
    if mode == "finetune":
        same = {"model": variant.settings["model"], "dataset": full.settings["dataset"]}
        return replace(variant, name=name, overrides=tuple(changes), settings=settings | same)
    return replace(variant, name=name)


def stage_names(variant: Removal) -> list[str]:
    """Return the stages of a variant's network, after the skips within them by path."""
    net = build_model(variant.settings["model"], info_of(variant.settings), device="meta")
    inner = [f"{name}.skip" for name, part in net.named_modules() if isinstance(part, Level) and part.skip is not None]
    return [*inner, *(name for name, _ in net.named_children())]


def check_stages(full: Removal, stages: Sequence[str], *, last: bool) -> None:
    """Refuse unknown stages with the nearest, and the last one unless its weights may be changed."""
    names = stage_names(full)
    require(stages, names)
    for stage in stages:
        if stage == names[-1] and not last:
            raise InputError(f"stage {stage!r} is the last and cannot be removed: it gives one number for each class")


def each_stage(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every stage but the last, alone."""
    yield from ((name,) for name in names[:-1] if "." not in name)


def cumulative(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the stage below the last, it and the one below, and so on; the first stage stays."""
    names = [name for name in names if "." not in name]
    yield from (tuple(names[first:-1]) for first in range(len(names) - 2, 0, -1))


def skips(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every skip of nested levels, alone, and then all of them."""
    there = [name for name in names if name.rpartition(".")[2] == "skip"]
    yield from ((name,) for name in there)
    if len(there) > 1:
        yield tuple(there)


GENERATORS: dict[str, Callable[[Sequence[str]], Iterator[tuple[str, ...]]]] = {
    "each_stage": each_stage,
    "cumulative": cumulative,
    "skips": skips,
}


def generated(
    full: Removal, generator: Callable[[Sequence[str]], Iterator[tuple[str, ...]]], mode: str
) -> Iterator[Removal]:
    """Yield the variants of a generator that can be had, and say of the others why not."""
    settings, names = full.settings, stage_names(full)
    info = info_of(settings)
    net = build_model(settings["model"], info, device="meta")
    for stages in generator(names):
        variant = without(full, stages, mode)
        try:
            if mode in ("reinit", "rerandomize"):
                if not any(list(net.get_submodule(stage).parameters()) for stage in stages):
                    continue
            elif mode == "lesion":
                check_lesion(variant)
            else:
                build_model(variant.settings["model"], info, device="meta")
        except StageError as error:
            say(f"left out: {variant.name}: {error}")
            continue
        yield variant


def check_lesion(variant: Removal) -> None:
    """Refuse to take stages out of a trained network that the stages around them cannot do without.

    Each must give the shape that it takes, as in Veit, Wilber and Belongie, NIPS 2016.
    """
    options, info = variant.settings["model"], info_of(variant.settings)
    uncut = options | {"remove": [name for name in options["remove"] if name not in variant.stages]}
    net = build_model(uncut, info, device="meta")
    shape: Shape = info.shape
    for name, after in stage_shapes(net, shape).items():
        if name in variant.stages and after != shape:
            raise StageError(f"stage {name!r} changes the shape, so that a trained network cannot do without it")
        shape = after


def widened(variant: Removal, widen: Mapping[str, float], control: str) -> Removal:
    """Return the variant with stages widened: the control of a removal."""
    model = variant.settings["model"] | {"widen": dict(widen)}
    word = "model.widen={" + ",".join(f"{name}:{factor:g}" for name, factor in widen.items()) + "}"
    return replace(
        variant,
        name=f"{variant.name}_{control}",
        control=control,
        overrides=(*variant.overrides, word),
        settings=variant.settings | {"model": model},
    )
