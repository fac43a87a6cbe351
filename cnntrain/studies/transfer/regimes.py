"""The regimes of a transfer: what of a trained network is taken, what of it learns, and how fast."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from cnntrain.config.build import build_model, count_images
from cnntrain.config.compose import key_of
from cnntrain.config.pretrained import without_weights
from cnntrain.config.schema import Options, Transfer
from cnntrain.config.validate import validated
from cnntrain.models import PRETRAINED
from cnntrain.nn.stages import backbone, matching_stages, new_stages, with_weights
from cnntrain.runs import records
from cnntrain.runs.folder import find_run
from cnntrain.runs.load import fitting_weights
from cnntrain.runtime.errors import InputError, listed, unknown
from cnntrain.runtime.ranges import PositiveFraction
from cnntrain.studies.cells import Variant
from cnntrain.studies.variants import compose_training, fit_words, info_of, require_trainable

SCRATCH = "scratch"
KINDS = (SCRATCH, "extract", "finetune", "layerwise", "upto")
TUNED = "+"  # behind the stage of `upto`: what is taken learns too
LAYER_DECAY = 0.8  # of `layerwise` where no other is given


@dataclass(frozen=True)
class Regime(Variant):
    """One way of taking a trained network, with the images that it learns from."""

    regime: str = SCRATCH
    taken: tuple[str, ...] = ()  # of `upto`: the stages before the new ones
    frozen: tuple[str, ...] = ()  # stages, from the first step to the last
    size: int | None = None  # training images of each class; None: all
    budget: str = "steps"  # or seconds: trained for more epochs, which take as long as those where every stage learns

    @property
    def kind(self) -> str:
        """The regime without its value: upto for upto=conv3."""
        return self.regime.partition("=")[0]

    @property
    def n_train(self) -> int:
        """The number of training images."""
        return count_images(self.settings["dataset"], self.settings["data_root"])[0]

    @property
    def lr(self) -> float:
        """The learning rate at its peak."""
        lr: float = self.settings["optimizer"]["lr"]
        return lr

    @property
    def epochs(self) -> int:
        """The epochs that it is trained for."""
        epochs: int = self.settings["trainer"]["epochs"]
        return epochs


@dataclass(frozen=True)
class TrainedSource:
    """Where the trained weights come from, and what every regime has in common."""

    words: list[str]  # of the command line that every cell shares
    rates: dict[str, float]  # learning rates by the kind of regime; others have that of the settings
    settings: Options  # of `fit`, without a regime
    run: Path | None  # None: pretrained weights of a library's model


def source_of(cfg: Transfer) -> TrainedSource:
    """Return the trained network of a study.

    Raises `InputError` where there are no trained weights, or two kinds of them.
    """
    words = fit_words(Transfer)
    if cfg.run is None:
        settings = compose_training(words)
        if not settings["model"].get("weights"):
            raise InputError(
                "nothing to transfer: give run=<folder> of a trained network, or a pretrained one: model=timm "
                "model.arch=tf_efficientnet_lite0 model.weights=package"
            )
        return TrainedSource(words, cfg.rates, settings, None)
    if any(key_of(word) == "model" for word in words):
        raise InputError(f"run={cfg.run} brings its network; leave out model=")
    run = find_run(cfg.run)
    model = without_weights(records.settings(run)["model"])
    words = [*model_words(model), *words]
    return TrainedSource(words, cfg.rates, compose_training(words), run)


def model_words(model: Options) -> list[str]:
    """Return the words that choose a run's network with its options."""
    chosen = f"model={model['name']}"
    usual = compose_training([chosen])["model"]
    return [chosen, *(f"++model.{key}={json.dumps(value)}" for key, value in model.items() if usual.get(key) != value)]


# From names of regimes to configurations of `fit`.


def regimes_of(cfg: Transfer, source: TrainedSource) -> list[Regime]:
    """Return every regime that is asked for, on all training images, each checked down to its shapes.

    Raises `InputError` for an unknown regime or stage, one that is asked for twice, a rate of a regime that is not
    studied, and weights that do not fit.
    """
    net = build_model(source.settings["model"], info_of(source.settings), device="meta")
    stages = dict(net.named_children())
    regimes = [regime for text in cfg.regimes for regime in named(text, source, stages)]
    if len(regimes) < 2:
        raise InputError("regimes: name at least two, so that there is something to compare")
    studied = list(dict.fromkeys(regime.kind for regime in regimes))
    if other := [kind for kind in cfg.rates if kind not in studied]:
        raise unknown("rates", other[0], studied)
    for regime in regimes:
        if [other.name for other in regimes].count(regime.name) > 1:
            raise InputError(f"regimes: {regime.regime} is asked for twice")
        require_trainable(regime)
        if source.run and regime.regime != SCRATCH:
            refuse_other_weights(source.run, net, regime)
    return regimes


def named(text: str | Options, source: TrainedSource, stages: dict[str, nn.Module]) -> Iterator[Regime]:
    """Yield the regimes that a word means: upto=block* is one for each stage that matches."""
    kind, _, value = text.partition("=") if isinstance(text, str) else only_entry(text)
    if kind not in KINDS:
        raise unknown("regimes", kind, KINDS)
    if value and kind not in ("layerwise", "upto"):
        raise InputError(f"regimes: {kind} takes no value, and {value!r} was given")
    if kind == "upto":
        if not value:
            raise InputError("regimes: upto needs a stage, the last one that is taken: upto=conv3, or upto=* for each")
        word = value.removesuffix(TUNED)
        yield from (up_to(stage, source, stages, learns=word != value) for stage in stages_meant(word, stages))
    elif kind == SCRATCH:
        weights = ["++model.weights=null"] if source.settings["model"]["name"] in PRETRAINED else []
        head = ["++model.head=null"] if source.settings["model"]["head"] else []
        yield made(source, SCRATCH, [*weights, *head])
    elif kind == "extract":
        regime = made(source, kind, [new_head(source), "++trainer.freeze=backbone"])
        yield replace(regime, frozen=tuple(backbone(stages)))
    elif kind == "finetune":
        yield made(source, kind, [new_head(source)])
    else:
        decay = validated(number(value) if value else LAYER_DECAY, PositiveFraction, "regimes: layerwise")
        text = f"layerwise={value}" if value else "layerwise"
        yield made(source, text, [new_head(source), f"++optimizer.layer_decay={decay}"])


def only_entry(text: Options) -> tuple[str, str, str]:
    """Return a regime that is written as a mapping, {upto: conv3}, as it is taken apart from a word."""
    if len(text) != 1:
        raise InputError(f"regimes: {text} should be a name, or a name with its value: upto=conv3")
    ((kind, value),) = text.items()
    return kind, "=", str(value)


def number(text: str) -> Any:
    """Return the number that a text is, or the text."""
    try:
        return float(text)
    except ValueError:
        return text


def stages_meant(word: str, stages: dict[str, nn.Module]) -> list[str]:
    """Return the stages with weights before the classifier that a name or pattern means.

    Raises `InputError` when there are none.
    """
    *before, classifier = with_weights(stages)
    chosen = [stage for stage in matching_stages(word, stages, "regimes: upto") if stage in before]
    if not chosen:
        raise InputError(f"regimes: upto={word} names no stage with weights before the classifier, {classifier}")
    return chosen


def up_to(stage: str, source: TrainedSource, stages: dict[str, nn.Module], *, learns: bool) -> Regime:
    """Return the regime that takes the stages up to one, and trains new ones behind it.

    What is taken is frozen, or `learns` too: these are the networks "AnB" and "AnB+" of Yosinski, Clune, Bengio and
    Lipson, NIPS 2014.
    """
    names = list(stages)
    first_new = names.index(stage) + 1
    taken = tuple(names[:first_new])
    words = [f"++model.head={names[first_new]}"]
    if learns:
        return replace(made(source, f"upto={stage}{TUNED}", words), taken=taken)
    words.append(f"++trainer.freeze=[{','.join(taken)}]")
    return replace(made(source, f"upto={stage}", words), taken=taken, frozen=taken)


def new_head(source: TrainedSource) -> str:
    """Return the word that gives a taken network a new classifier, or the new stages that are asked for."""
    return f"++model.head={source.settings['model']['head'] or 'new'}"


def made(source: TrainedSource, regime: str, words: Sequence[str]) -> Regime:
    """Return a regime from what its words change; all regimes see the same images at the same size."""
    kind = regime.partition("=")[0]
    if kind in source.rates:
        words = [*words, f"++optimizer.lr={source.rates[kind]}"]
    settings = compose_training([*source.words, *words])
    size = source.settings["dataset"].get("image_size")
    if settings["dataset"].get("image_size") != size:
        words = [*words, f"++dataset.image_size={size}"]
    settings |= {"dataset": source.settings["dataset"]}
    if source.run and regime != SCRATCH:
        settings |= {"init_from": str(source.run)}
        words = [*words, f"init_from={source.run}"]
    return Regime(regime.replace("=", "_"), settings, tuple(words), regime=regime)


def refuse_other_weights(run: Path, net: nn.Sequential, regime: Regime) -> None:
    """Raise `InputError` when a stage that a regime takes from a run has no weights there that fit."""
    fits = fitting_weights(run, net)
    new = new_stages(dict(net.named_children()), regime.settings["model"]["head"])
    wrong = [name for name, is_there in fits.items() if not is_there and name not in new]
    if wrong:
        raise InputError(
            f"{regime.regime}: the weights of {run} do not fit {listed(wrong)} of this network; give images of the "
            "shape that it was trained on (dataset.image_size=…), or take fewer stages (upto=…, model.head=…)"
        )


# Sizes and budgets.


def with_size(regime: Regime, size: int) -> Regime:
    """Return a regime on so many training images of each class, those that its seed draws.

    Raises `InputError` where there are not so many, or not a batch of them.
    """
    settings = regime.settings
    total = size * len(info_of(settings).classes)
    if total > regime.n_train:
        raise InputError(f"sizes: {size} images a class are {total:,}, and there are {regime.n_train:,} to train on")
    batch = settings["trainer"]["batch_size"] * settings["trainer"]["accumulate"]
    if total < batch:
        raise InputError(f"sizes: {size} images a class are {total:,}, fewer than a batch: trainer.batch_size={batch}")
    return replace(
        regime,
        name=f"{regime.name}_{size}",
        settings=settings | {"dataset": settings["dataset"] | {"train_size": total}},
        overrides=(*regime.overrides, f"++dataset.train_size={total}"),
        size=size,
    )


def longer(regime: Regime, epochs: int) -> Regime:
    """Return a regime trained for more epochs: as many as take the seconds that others need."""
    settings = regime.settings
    return replace(
        regime,
        name=f"{regime.name}_longer",
        settings=settings | {"trainer": settings["trainer"] | {"epochs": epochs}},
        overrides=(*regime.overrides, f"++trainer.epochs={epochs}"),
        budget="seconds",
    )


def reference_of(regime: Regime, regimes: Sequence[Regime]) -> Regime:
    """Return the regime that one is compared with, on as many images: scratch where it is studied, else the first."""
    wanted = SCRATCH if any(other.regime == SCRATCH for other in regimes) else regimes[0].regime
    return next(other for other in regimes if (other.regime, other.size) == (wanted, regime.size))
