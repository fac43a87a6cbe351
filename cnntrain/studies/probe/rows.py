"""The rows of a probing study: every probe, means over seeds, and which differences are significant."""

from dataclasses import asdict, dataclass
from typing import Any

from cnntrain.stats.intervals import wilson
from cnntrain.studies.probe.probes import Control
from cnntrain.studies.probe.study import ProbeAnswer, ProbeStudy


@dataclass(frozen=True)
class ProbeRow:
    """One probe: accuracy on `n` images, with Wilson's interval, after `n_train` images; `top1_folds` chose its C."""

    run: str
    seed: int
    stage: str
    control: Control
    classifier: str
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

    def as_json(self) -> dict[str, Any]:
        """Return the row with its stable keys."""
        return asdict(self)


def probe_rows(study: ProbeStudy) -> list[ProbeRow]:
    """Return a row for every probe."""
    chance, n_train = study.images.chance, len(study.images.train.split)
    return [probe_row(answer, chance, n_train) for answer in study.answers]


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
