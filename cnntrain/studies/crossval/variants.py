"""What is cross-validated: variants from a study's file or from words with several values, and each in every fold."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cnntrain.config.compose import key_of
from cnntrain.config.schema import Crossval, Options
from cnntrain.config.sweeps import drawn_value, listed_values
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.seeding import generator
from cnntrain.studies.cells import Variant
from cnntrain.studies.variants import compose_training, fit_words, info_of, listed_words, require_trainable

ALONE, FULL = "network", "full"  # what a variant is called where it is the only one, or the first of a study's file


@dataclass(frozen=True)
class FoldVariant(Variant):
    """A variant with one fold held out; with two numbers, an inner fold of what an outer one leaves."""

    of: str = ""  # the variant's name
    fold: tuple[int, ...] = ()


def variants_of(cfg: Crossval) -> list[Variant]:
    """Return the variants, the one that the others are compared with first, each checked before any image is read.

    Raises `InputError` for what cannot be built, naming the variant, and for words that ask for no search.
    """
    words = fit_words(Crossval)
    refuse_unsearchable(cfg)
    if cfg.study:
        named = {FULL: [], **{name: listed_words(name, changes) for name, changes in cfg.study["variants"].items()}}
        if len(named) == 1:
            raise InputError(
                f"study={cfg.study['name']} lists no variants; those that are found from a network are ablate's"
            )
    elif cfg.space:
        named = named_by_values(combinations(cfg))
    else:
        named = {ALONE: []}
    variants = [Variant(name, settings_of(words, changes), tuple(changes)) for name, changes in named.items()]
    for variant in variants:
        require_trainable(variant)
        if (info := info_of(variant.settings)).targets != "classes":
            raise InputError(
                f"crossval pools right and wrong answers, one an image, and {info} has others: sweep over its "
                "folds, fit -m dataset.folds=5 dataset.fold=0,1,2,3,4"
            )
    return variants


def refuse_unsearchable(cfg: Crossval) -> None:
    """Raise `InputError` for settings that do not go together."""
    if cfg.study and cfg.space:
        raise InputError(f"study={cfg.study['name']} names the variants; leave out {', '.join(cfg.space)}")
    if cfg.search == "random" and not (cfg.space and cfg.trials):
        raise InputError(
            "search=random draws trials=20 from words with several values: optimizer.lr=tag(log,interval(0.001,0.1))"
        )
    if cfg.search == "grid" and cfg.trials:
        raise InputError("trials is a number of draws: add search=random, or leave it out to try every value")
    if cfg.nested and not (cfg.space or cfg.study):
        raise InputError("nested=true chooses among variants: give values, optimizer.lr=0.01,0.1, or study=")
    if any(cfg.dataset.get(key) is not None for key in ("folds", "fold")):
        raise InputError("crossval holds out every fold itself: give folds=5, not dataset.folds and dataset.fold")


def settings_of(words: Sequence[str], changes: Sequence[str]) -> Options:
    """Return the settings of `fit` that a variant's words compose after those that all share, which they replace."""
    changed = {key_of(word) for word in changes}
    return compose_training([*(word for word in words if key_of(word) not in changed), *changes])


def combinations(cfg: Crossval) -> list[tuple[str, ...]]:
    """Return the words of every combination of values, or of so many that are drawn; none twice."""
    if cfg.search == "grid":
        return list(itertools.product(*map(listed_values, cfg.space)))
    drawn = dict.fromkeys(
        tuple(drawn_value(word, generator(cfg.seed, "search", trial, word)) for word in cfg.space)
        for trial in range(cfg.trials or 0)
    )
    return list(drawn)


def named_by_values(found: Sequence[tuple[str, ...]]) -> dict[str, list[str]]:
    """Return combinations by names that a folder may have: model_mlp-lr_0.1."""
    keys = [key_of(word) for word in found[0]]
    lasts = [key.rpartition(".")[2] for key in keys]
    short = lasts if len(set(lasts)) == len(keys) else [key.replace(".", "_") for key in keys]
    names: dict[str, list[str]] = {}
    for words in found:
        values = [re.sub(r"[^\w.+-]+", "_", word.partition("=")[2]).strip("_") for word in words]
        name = "-".join(f"{key}_{value}" for key, value in zip(short, values, strict=True))
        names[name if name not in names else f"{name}_{len(names)}"] = list(words)
    return names


def in_fold(variant: Variant, folds: tuple[int, ...], fold: tuple[int, ...]) -> FoldVariant:
    """Return a variant with one fold held out."""
    count, number = (each[0] if len(each) == 1 else list(each) for each in (folds, fold))
    words = (f"dataset.folds={count}", f"dataset.fold={number}")
    return FoldVariant(
        f"{variant.name}-fold_{'_'.join(map(str, fold))}",
        variant.settings | {"dataset": variant.settings["dataset"] | {"folds": count, "fold": number}},
        (*variant.overrides, *(word.replace(" ", "") for word in words)),
        of=variant.name,
        fold=fold,
    )
