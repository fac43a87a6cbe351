"""The rows of a probing study: every probe, means over seeds, and which differences are significant."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from cnntrain.stats.intervals import wilson
from cnntrain.stats.jackknife import Support, band, blocks, means, seed_band
from cnntrain.stats.paired_tests import discordant_pairs, holm_correction, is_significant, mcnemar
from cnntrain.studies.networks import INPUT
from cnntrain.studies.probe.linear import Classifier
from cnntrain.studies.probe.probes import Control
from cnntrain.studies.probe.study import ProbeAnswer, ProbeStudy


@dataclass(frozen=True)
class ProbeRow:
    """One probe: accuracy on `n` images, with Wilson's interval, after `n_train` images; `top1_folds` chose its C."""

    run: str
    seed: int
    stage: str
    control: Control
    classifier: Classifier
    dimensions: int
    n_train: int
    n: int
    c: float
    top1: float
    top1_low: float
    top1_high: float
    chance: float
    top1_train: float
    top1_folds: float
    converged: bool


@dataclass(frozen=True)
class StageRow:
    """The probes of a stage in networks that differ in their seed only: their mean accuracy.

    `top1_low` and `top1_high` are the interval over images, those with `seed` the one over seeds (None of one seed).
    Selectivity is the accuracy minus that with permuted labels, None where these were not asked for.
    """

    network: str
    stage: str
    control: Control
    classifier: Classifier
    dimensions: int
    seeds: int
    n: int
    c: list[float]
    top1: float
    top1_low: float
    top1_high: float
    top1_seed_low: float | None
    top1_seed_high: float | None
    selectivity: float | None


@dataclass(frozen=True)
class StepRow:
    """The accuracy at a stage minus that at another, or in untrained networks, on the same images.

    `versus` is `previous` stage, the `first` stage, or `random` weights; `reference` names the stage. `delta` is a mean
    over seeds, with its interval over images and, where runs are paired, over seeds. `p` is McNemar's, of several pairs
    of networks the largest: what is significant is so for each pair. `p_holm` is corrected over all rows of the study.
    """

    network: str
    stage: str
    versus: Literal["previous", "first", "random"]
    reference: str
    classifier: Classifier
    pairs: int
    n: int
    delta: float
    delta_low: float
    delta_high: float
    delta_seed_low: float | None
    delta_seed_high: float | None
    p: float
    p_holm: float
    significant: bool


@dataclass(frozen=True)
class ProbeTables:
    """All rows of a study."""

    rows: list[ProbeRow]
    pooled: list[StageRow]
    differences: list[StepRow]

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows with their stable keys."""
        return {key: [asdict(row) for row in rows] for key, rows in vars(self).items()}


def tables_of(study: ProbeStudy) -> ProbeTables:
    """Return all rows of a study."""
    chance, n_train = study.images.chance, len(study.images.train.split)
    rows = [probe_row(answer, chance, n_train) for answer in study.answers]
    pooled = [stage_row(curve, at) for curve in curves_of(study) for at in curve.points]
    return ProbeTables(rows, pooled, corrected([step for curve in curves_of(study) for step in steps(curve)]))


def probe_row(answer: ProbeAnswer, chance: float, n_train: int) -> ProbeRow:
    """Return the row of one probe."""
    probe, right, n = answer.probe, int(answer.correct.sum()), len(answer.correct)
    low, high = wilson(right, n)
    return ProbeRow(
        answer.run,
        answer.seed,
        probe.stage,
        control_of(answer),
        probe.classifier,
        probe.dimensions,
        n_train,
        n,
        probe.c,
        right / n,
        low,
        high,
        chance,
        probe.train_top1,
        probe.fold_top1,
        probe.converged,
    )


def control_of(answer: ProbeAnswer) -> Control:
    """Say which control a probe is, if any."""
    return "permuted" if answer.probe.permuted else "none" if answer.trained else "random"


# Means over seeds.


@dataclass(frozen=True, eq=False)
class ProbeCurve:
    """A classifier on stage after stage of the networks of a group, each with its answers by stage and control."""

    network: str
    classifier: Classifier
    stages: list[str]  # in order, the pixels first
    members: dict[tuple[str, Control], list[ProbeAnswer]]

    @property
    def points(self) -> list[tuple[str, Control]]:
        """The stages and controls, in order."""
        return [
            (stage, control)
            for control in ("none", "random", "permuted")
            for stage in self.stages
            if (stage, control) in self.members
        ]

    def correct(self, stage: str, control: Control) -> np.ndarray:
        """Return which images each network has right: truth values [networks, N]."""
        return np.stack([answer.correct for answer in self.members[stage, control]])


def curves_of(study: ProbeStudy) -> Iterator[ProbeCurve]:
    """Yield the curve of each group and classifier; the pixels, which were probed once, begin each."""
    for number, group in enumerate(study.groups):
        for kind in dict.fromkeys(answer.probe.classifier for answer in study.answers):
            members: dict[tuple[str, Control], list[ProbeAnswer]] = {}
            for answer in study.answers:
                probe = answer.probe
                if probe.classifier == kind and (answer.group == number or probe.stage == INPUT):
                    members.setdefault((probe.stage, control_of(answer)), []).append(answer)
            yield ProbeCurve(group.name, kind, list(dict.fromkeys(stage for stage, _ in members)), members)


def stage_row(curve: ProbeCurve, at: tuple[str, Control]) -> StageRow:
    """Return the mean over the networks at a stage under a control."""
    answers, correct = curve.members[at], curve.correct(*at)
    share, low, high = over_images(correct.mean(axis=0), 0.0)
    if len(answers) == 1:
        low, high = wilson(int(correct.sum()), correct.shape[1])
    permuted = (at[0], "permuted")
    selective = at[1] == "none" and permuted in curve.members
    return StageRow(
        curve.network,
        *at,
        curve.classifier,
        answers[0].probe.dimensions,
        len(answers),
        correct.shape[1],
        [answer.probe.c for answer in answers],
        share,
        low,
        high,
        *over_seeds(correct.mean(axis=1), 0.0),
        share - float(curve.correct(*permuted).mean()) if selective else None,  # type: ignore[arg-type]
    )


def over_images(values: np.ndarray, least: float) -> tuple[float, float, float]:
    """Return the mean of values [N] that lie between `least` and 1, and its 95 % interval over images."""
    replicates = means(blocks(len(values)), values)
    low, high = band(replicates, Support(least, 1.0, len(values)))
    return float(replicates[0]), float(low), float(high)


def over_seeds(values: np.ndarray, least: float) -> tuple[float | None, float | None]:
    """Return the 95 % interval, within `least` and 1, of the mean over networks that differ in their seed.

    None of a single network.
    """
    if len(values) < 2:
        return None, None
    low, high = seed_band(list(values))
    return max(float(low), least), min(float(high), 1.0)


# Differences.


def steps(curve: ProbeCurve) -> Iterator[StepRow]:
    """Yield a curve's differences: stage by stage, from the first stage to the last, and from untrained networks."""
    stages = [stage for stage in curve.stages if (stage, "none") in curve.members]
    for before, stage in itertools.pairwise(stages):
        yield step(curve, stage, before, "previous")
    if len(stages) > 2:
        yield step(curve, stages[-1], stages[0], "first")
    for stage in stages:
        if (stage, "random") in curve.members:
            yield step(curve, stage, stage, "random")


def step(curve: ProbeCurve, stage: str, reference: str, versus: Literal["previous", "first", "random"]) -> StepRow:
    """Return one difference: of each network from itself, or of each network from each untrained one."""
    ours, theirs = curve.correct(stage, "none"), curve.correct(reference, "random" if versus == "random" else "none")
    if versus == "random":
        pairs = [(one, other) for one in ours for other in theirs]
        seeds: tuple[float | None, float | None] = (None, None)
    else:
        theirs = np.broadcast_to(theirs, ours.shape)  # the pixels are the same for every network
        pairs = list(zip(ours, theirs, strict=True))
        seeds = over_seeds(ours.mean(axis=1) - theirs.mean(axis=1), -1.0)
    delta, low, high = over_images(ours.mean(axis=0) - theirs.mean(axis=0), -1.0)
    p = max(mcnemar(discordant_pairs(other, one)) for one, other in pairs)
    n = ours.shape[1]
    return StepRow(
        curve.network,
        stage,
        versus,
        reference,
        curve.classifier,
        len(pairs),
        n,
        delta,
        low,
        high,
        *seeds,
        p,
        p,
        significant=False,
    )


def corrected(rows: Sequence[StepRow]) -> list[StepRow]:
    """Return the rows after Holm's correction over all of them."""
    return [
        replace(row, p_holm=p, significant=is_significant(row.delta_low, row.delta_high, p))
        for row, p in zip(rows, holm_correction([row.p for row in rows]), strict=True)
        if p is not None
    ]
