"""The grid of a study: every variant under every seed, and where each of these cells lies."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnntrain.config.build import divide_dataset, read_dataset
from cnntrain.config.schema import Ablate, Options
from cnntrain.data.datasets.registry import ALIKE
from cnntrain.data.datasets.splits import changes
from cnntrain.runs import records, resume
from cnntrain.runs.evaluation import evaluation_folder, read_evaluation, shows
from cnntrain.runs.folder import CONFIG, RECORD, RESULTS, RUNS, find_all_runs
from cnntrain.runs.images import noted, resolved_root
from cnntrain.runs.load import weights_digest
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import as_plain, flat
from cnntrain.stats.paired_tests import LEVEL, seeds_needed
from cnntrain.studies.ablation.variants import Variant, fit_words

# What may differ between a cell that is there and the one that is asked for; its images are looked at apart.
FREE = resume.FREE - {"trainer.precision", "trainer.compile"}
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
    settings = variants[0].settings
    kept = {key: value for key, value in flat(settings).items() if key not in FREE | {"trainer.compile"}}
    kept |= {"seed": None, "mode": cfg.mode, "runs": sorted(str(path) for path in trained)}
    if images := lying(settings):
        kept |= {"images": images}
    digest = hashlib.sha256(json.dumps(as_plain(kept), sort_keys=True).encode()).hexdigest()[:8]
    model, dataset = (variants[0].settings[group]["name"] for group in ("model", "dataset"))
    name = (cfg.study or {}).get("name") or "remove"
    return RUNS / "ablate" / f"{model}-{dataset}" / f"{name}_{digest}"


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
    settings = [records.settings(path) for path in trained]
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
    return find_all_runs(cfg.runs)


def cells_of(cfg: Ablate, variants: Sequence[Variant], seeds: Mapping[int, Path | None], folder: Path) -> list[Cell]:
    """Return the cells of a study, all variants of the first seed first, so that pairs are complete early.

    Raises `InputError` where a cell's folder holds a run with other settings.
    """
    base, found, known = fit_words(), list[Cell](), set[tuple[str, str]]()
    for seed, run in seeds.items():
        for variant in variants:
            target = folder / "cells" / variant.name / str(seed)
            settings = variant.settings | {"seed": seed, "output_dir": str(target), "resume": "auto"}
            if cfg.mode == "finetune":
                settings |= {"init_from": str(run)}
            words = [*base, *variant.words, f"seed={seed}", f"output_dir={target}"]
            plain = tuple(word.removeprefix("++") for word in words)
            start = str(run) if run else None
            cell = Cell(variant.name, variant.stages, seed, target, settings, plain, cfg.mode, start)
            if (target / CONFIG).exists():
                refuse_other(cell, known)
            found.append(cell)
    return found


def lying(settings: Options) -> str | None:
    """Return the folder of a configuration's images; None for a dataset that is the same wherever it lies."""
    alike = settings["dataset"]["name"] in ALIKE
    return None if alike else str(resolved_root(settings["dataset"], settings["data_root"]))


def refuse_other(cell: Cell, known: set[tuple[str, str]]) -> None:
    """Raise `InputError` when what a cell's folder holds was made with other settings, images or weights.

    `known` gathers pairs of folders that hold the same images.
    """
    old = records.settings(cell.folder)
    resume.refuse_changes(old, cell.settings, FREE)
    before, now = lying(old), lying(cell.settings)
    if before and now and before != now and (before, now) not in known:
        if not same_images(cell):
            raise InputError(f"{cell.folder} was made of the images in {before}, not {now}; name another output_dir")
        known.add((before, now))
    which = "best" if cell.mode == "finetune" else "last"
    if cell.run is None or not (Path(cell.run) / "checkpoints" / f"{which}.pt").is_file():
        return
    record = records.record(cell.folder) if (cell.folder / RECORD).is_file() else {}
    made_from = record.get("made_from_weights", (record.get("init_from") or {}).get("weights"))
    if made_from and made_from != weights_digest(Path(cell.run), which):
        raise InputError(
            f"{cell.run} has other weights than those that {cell.folder} was made of; name another output_dir"
        )


def same_images(cell: Cell) -> bool:
    """Say whether a cell's configuration names the files that it was made of; of the test images, the same pixels."""
    options, data_root = cell.settings["dataset"] | {"cache": "none"}, cell.settings["data_root"]
    whole, files = read_dataset(options, data_root), noted(cell.folder)
    if files is None or changes(whole, files):
        return False
    test = divide_dataset(whole, options, data_root, cell.seed, only="test", listed=files).test
    measured = evaluation_folder(cell.folder, "test", "last")
    return test is None or not (measured / RESULTS).is_file() or shows(read_evaluation(measured), test)
