"""The grid of a study: every variant under every seed, and where each of these cells lies."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnntrain import runs
from cnntrain.analysis.comparison import LEVEL, seeds_needed
from cnntrain.commands import resuming
from cnntrain.commands.study import Variant, fit_words
from cnntrain.errors import InputError
from cnntrain.schema import Ablate, Options

LEAST_SEEDS = 8  # where their number is left open


@dataclass(frozen=True)
class Cell:
    """A variant under one seed: a run folder to be."""

    variant: str
    stages: tuple[str, ...]
    seed: int
    folder: Path
    settings: Options
    words: tuple[str, ...]  # of the command line that makes it alone
    mode: str
    run: str | None  # the trained run that it starts from


def study_folder(cfg: Ablate, variants: Sequence[Variant], trained: Sequence[Path]) -> Path:
    """Return the folder of a study: the same for the same training, whatever its variants and seeds."""
    if cfg.output_dir:
        return Path(cfg.output_dir)
    kept = {key: value for key, value in runs.flat(variants[0].settings).items() if key not in resuming.FREE}
    kept |= {"seed": None, "mode": cfg.mode, "runs": sorted(str(path) for path in trained)}
    digest = hashlib.sha256(json.dumps(runs.plain(kept), sort_keys=True).encode()).hexdigest()[:8]
    model, dataset = (variants[0].settings[group]["name"] for group in ("model", "dataset"))
    name = (cfg.study or {}).get("name") or "remove"
    return runs.ROOT / "ablate" / f"{model}-{dataset}" / f"{name}_{digest}"


def seeds_of(cfg: Ablate, trained: Sequence[Path], comparisons: int) -> dict[int, Path | None]:
    """Return the seeds of a study, each with the trained run that it starts from.

    Where their number is left open, it is one with which the comparisons can be significant. Raises `InputError` for a
    repeated seed, runs of different networks or data, and runs in the wrong mode.
    """
    if cfg.mode == "retrain":
        count = cfg.seeds or max(LEAST_SEEDS, seeds_needed(comparisons, LEVEL / cfg.looks) or 0)
        seeds = count if isinstance(count, list) else list(range(cfg.seed, cfg.seed + count))
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError(f"seeds={cfg.seeds}: each seed once, at least one")
        return dict.fromkeys(seeds)
    settings = [runs.read_json(path / runs.CONFIG) for path in trained]
    for path, own in zip(trained, settings, strict=True):
        changed = [key for key in ("model", "dataset") if own[key] != settings[0][key]]
        if changed:
            raise InputError(f"{path} was trained with another {changed[0]} than {trained[0]}")
        if own.get("init_from") and cfg.mode == "reinit":
            raise InputError(f"{path} started from another run: mode=reinit knows only weights drawn from a seed")
    found = {own["seed"]: path for own, path in zip(settings, trained, strict=True)}
    if len(found) < len(trained):
        raise InputError("runs: two of them have the same seed; a study pairs its variants seed by seed")
    return dict(found)


def trained_runs(cfg: Ablate) -> list[Path]:
    """Return the trained runs that a mode needs.

    Raises `InputError` when there are none, or they are given where none are needed.
    """
    if cfg.mode == "retrain":
        if cfg.runs:
            raise InputError("mode=retrain starts from the beginning; runs=[…] belongs to finetune, lesion, reinit, …")
        return []
    if not cfg.runs:
        raise InputError(f"mode={cfg.mode} needs trained networks: runs=[…], one a seed")
    return runs.find_all(cfg.runs)


def cells_of(cfg: Ablate, variants: Sequence[Variant], seeds: Mapping[int, Path | None], folder: Path) -> list[Cell]:
    """Return the cells of a study, all variants of the first seed first, so that pairs are complete early.

    Raises `InputError` where a cell's folder holds a run with other settings.
    """
    base, found = fit_words(), []
    for seed, run in seeds.items():
        for variant in variants:
            place = folder / "cells" / variant.name / str(seed)
            settings = variant.settings | {"seed": seed, "output_dir": str(place), "resume": "auto"}
            if cfg.mode == "finetune":
                settings |= {"init_from": str(run)}
            words = [*base, *variant.words, f"seed={seed}", f"output_dir={place}"]
            plain = tuple(word.removeprefix("++") for word in words)
            start = str(run) if run else None
            cell = Cell(variant.name, variant.stages, seed, place, settings, plain, cfg.mode, start)
            if (place / runs.CONFIG).exists():
                resuming.refuse_changes(runs.read_json(place / runs.CONFIG), settings)
            found.append(cell)
    return found
