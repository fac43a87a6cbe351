"""Runs side by side, and which of their differences are significant."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnntrain.config import schema
from cnntrain.nn.geometry import count_parameters, describe
from cnntrain.runs import records
from cnntrain.runs.evaluation import Evaluation, ensure_evaluation
from cnntrain.runs.load import read_info, rebuild
from cnntrain.runs.select import SAME, by_experiment, find_runs, letters, short_names
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import flat
from cnntrain.stats.paired_tests import (
    PairedTest,
    compare_over_images,
    compare_over_seeds,
    conclude,
)
from cnntrain.tasks import kind_of
from cnntrain.tasks.task import Headline

ABSENT = "–"


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run with all that is compared of it."""

    folder: Path
    name: str
    seed: int
    noun: str  # what a person calls an image of these
    settings: dict[str, Any]  # dotted keys
    evaluation: Evaluation

    @property
    def score(self) -> float:
        """The task's headline number, a share of images."""
        return self.evaluation.score


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in their seed only."""

    label: str
    runs: list[ComparedRun]
    params: int
    macs: int | None  # of one image; None where a layer's cost is not known

    @property
    def mean(self) -> float:
        """The mean score."""
        return float(np.mean([run.score for run in self.runs]))

    @property
    def std(self) -> float | None:
        """The standard deviation of the score over seeds, None of a single run."""
        return float(np.std([run.score for run in self.runs], ddof=1)) if len(self.runs) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Runs, the experiments that they belong to, and the tests of each against the first."""

    split: str
    weights: str
    differing: list[str]  # settings, dotted, other than seed and places
    runs: list[ComparedRun]
    experiments: list[Experiment]
    over_images: list[PairedTest]  # each run but the first
    over_seeds: list[PairedTest]  # each experiment that shares two seeds or more with the first

    @property
    def headline(self) -> Headline:
        """The number that is compared."""
        return self.runs[0].evaluation.headline

    @property
    def noun(self) -> str:
        """What a person calls one of the images that the runs are compared on."""
        return self.runs[0].noun

    @property
    def verdict(self) -> str:
        """One sentence for all."""
        return conclude(self.over_seeds or self.over_images)

    def experiment_of(self, run: ComparedRun) -> Experiment:
        """Return the experiment that a run belongs to."""
        return next(experiment for experiment in self.experiments if run in experiment.runs)


def compare(cfg: schema.Compare) -> Comparison:
    """Compare runs as configured; evaluations that are missing are made."""
    folders = find_runs(cfg.runs)
    refuse_other_tasks(folders)
    evaluations = evaluated(folders, cfg)
    runs = [compared_run(*each) for each in zip(folders, short_names(folders), evaluations, strict=True)]
    experiments = gather(runs)
    return Comparison(
        cfg.split,
        cfg.weights,
        differing_keys(experiments),
        runs,
        experiments,
        tests_over_images(runs),
        tests_over_seeds(experiments),
    )


def refuse_other_tasks(folders: Sequence[Path]) -> None:
    """Raise `InputError` for runs that are asked for different things, and so have no number in common."""
    gives = [kind_of(read_info(records.record(folder))).gives for folder in folders]
    for folder, other in zip(folders, gives, strict=True):
        if other != gives[0]:
            raise InputError(f"{folders[0]} gives {gives[0]} and {folder} gives {other}: no number is of both")


def evaluated(folders: Sequence[Path], cfg: schema.Compare) -> list[Evaluation]:
    """Return the evaluations of runs, made where they are missing, or where only some have checksums to compare."""
    evaluations = [ensure_evaluation(folder, cfg) for folder in folders]
    mixed = len({each.checksums is None for each in evaluations}) > 1
    return [ensure_evaluation(folder, cfg, checksums=True) for folder in folders] if mixed else evaluations


def compared_run(folder: Path, name: str, evaluation: Evaluation) -> ComparedRun:
    """Return a run with its evaluation."""
    settings = records.settings(folder)
    noun = read_info(records.record(folder)).noun
    return ComparedRun(folder, name, settings["seed"], noun, flat(settings), evaluation)


def gather(runs: Sequence[ComparedRun]) -> list[Experiment]:
    """Gather the runs that differ in their seed only, in order of appearance."""
    gathered = [[runs[i] for i in places] for places in by_experiment([run.settings for run in runs])]
    return [Experiment(letters(i), members, *size(members[0].folder)) for i, members in enumerate(gathered)]


def size(folder: Path) -> tuple[int, int | None]:
    """Return the parameters and the multiplications of a run's network; None where a layer's cost is not known."""
    settings, info = records.settings(folder), read_info(records.record(folder))
    net = rebuild(settings, info, device="meta")
    stages, lacking = describe(net, info.shape)
    return count_parameters(net), None if lacking else sum(stage.macs for stage in stages)


def differing_keys(experiments: Sequence[Experiment]) -> list[str]:
    """Return the settings, other than seed and places, that are not the same in all experiments."""
    settings = [experiment.runs[0].settings for experiment in experiments]
    keys = dict.fromkeys(key for values in settings for key in values if key not in SAME)
    return [key for key in keys if any(values.get(key, ABSENT) != settings[0].get(key, ABSENT) for values in settings)]


def why_incomparable(first: ComparedRun, second: ComparedRun) -> str | None:
    """Return the reason why two runs cannot be compared image by image, or None."""
    reference, compared = first.evaluation, second.evaluation
    if len(reference.labels) != len(compared.labels):
        return f"measured on {len(compared.labels):,} {first.noun}s, {first.name} on {len(reference.labels):,}"
    if (reference.labels != compared.labels).any():
        return f"measured on {first.noun}s with other labels than {first.name}"
    if reference.results["record"]["images"] != compared.results["record"]["images"]:
        return f"measured on other {first.noun}s, or the same at another size, than {first.name}"
    return None


def tests_over_images(runs: Sequence[ComparedRun]) -> list[PairedTest]:
    """Compare each run with the first on the same images."""
    first, others = runs[0], runs[1:]
    outcomes = [why_incomparable(first, run) or first.evaluation.paired_with(run.evaluation) for run in others]
    return compare_over_images(first.name, [run.name for run in others], outcomes, first.noun)


def tests_over_seeds(experiments: Sequence[Experiment]) -> list[PairedTest]:
    """Compare each experiment with the first over the seeds that they share, where these are two or more."""
    first, pairs = experiments[0], {other.label: shared(experiments[0], other) for other in experiments[1:]}
    pairs = {label: both for label, both in pairs.items() if len(both) > 1}
    differences: list[str | list[float]] = []
    for both in pairs.values():
        reason = next((why for one, two in both if (why := why_incomparable(one, two))), None)
        differences.append(reason or [two.score - one.score for one, two in both])
    tests = compare_over_seeds(first.label, list(pairs), differences)
    seeds = [tuple(one.seed for one, _ in both) for both in pairs.values()]
    return [replace(test, seeds=each) for test, each in zip(tests, seeds, strict=True)]


def shared(first: Experiment, second: Experiment) -> list[tuple[ComparedRun, ComparedRun]]:
    """Return the pairs of runs of the same seed, by seed; of several with one seed the first counts."""
    one, two = ({run.seed: run for run in reversed(experiment.runs)} for experiment in (first, second))
    return [(one[seed], two[seed]) for seed in sorted(one.keys() & two.keys())]


# To JSON.


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return what `--json` prints, with its stable keys."""
    return {
        "split": comparison.split,
        "weights": comparison.weights,
        "differing": comparison.differing,
        "runs": [run_json(run, comparison) for run in comparison.runs],
        "groups": [experiment_json(experiment, comparison.headline) for experiment in comparison.experiments],
        "over_images": [images_json(test) for test in comparison.over_images],
        "over_seeds": [seeds_json(test) for test in comparison.over_seeds],
        "verdict": comparison.verdict,
    }


def run_json(run: ComparedRun, comparison: Comparison) -> dict[str, Any]:
    """Return a run; of its settings those that differ."""
    experiment, headline = comparison.experiment_of(run), comparison.headline
    return {
        "run": run.name,
        "run_dir": str(run.folder),
        "group": experiment.label,
        "seed": run.seed,
        "settings": {key: run.settings.get(key) for key in comparison.differing},
        "params": experiment.params,
        "macs": experiment.macs,
        **{key: run.evaluation.results[key] for key in ("n", "loss", headline.key, headline.low, headline.high)},
    }


def experiment_json(experiment: Experiment, headline: Headline) -> dict[str, Any]:
    """Return an experiment; the deviation over seeds is null for a single run."""
    return {
        "group": experiment.label,
        "runs": [run.name for run in experiment.runs],
        "seeds": [run.seed for run in experiment.runs],
        "params": experiment.params,
        "macs": experiment.macs,
        f"{headline.key}_mean": experiment.mean,
        f"{headline.key}_std": experiment.std,
    }


def images_json(test: PairedTest) -> dict[str, Any]:
    """Return a test over images."""
    counts = {"n": test.pairs, "only_this": test.only_this, "only_other": test.only_reference}
    return {"name": test.name, "against": test.reference, **counts, **difference_json(test)}


def seeds_json(test: PairedTest) -> dict[str, Any]:
    """Return a test over seeds."""
    pair = {"name": test.name, "against": test.reference, "n_seeds": test.pairs}
    return pair | difference_json(test) | {"seeds": list(test.seeds)}


def difference_json(test: PairedTest) -> dict[str, Any]:
    """Return a difference with its tests."""
    return {
        "delta": test.delta,
        "delta_low": test.delta_low,
        "delta_high": test.delta_high,
        "p": test.p,
        "p_holm": test.p_holm,
        "believable": test.significant,
        "verdict": test.verdict,
    }


def setting_word(value: object) -> str:
    """Write a setting."""
    return ABSENT if value is None else ", ".join(map(str, value)) or "[]" if isinstance(value, list) else str(value)


def one_table(comparison: Comparison) -> list[dict[str, object]]:
    """Return one row a run: its settings that differ, its size and score, and how it compares with the first."""
    keys = ("delta", "delta_low", "delta_high", "p", "p_holm")
    differences = [dict.fromkeys(keys), *({key: getattr(test, key) for key in keys} for test in comparison.over_images)]
    rows = []
    for run, difference in zip(comparison.runs, differences, strict=True):
        row = run_json(run, comparison)
        settings = {key: "" if value is None else setting_word(value) for key, value in row.pop("settings").items()}
        rows.append(row | settings | difference)
    return rows
