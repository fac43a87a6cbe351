"""The records of a training, epoch by epoch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def epoch_means(trained: Iterable[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (epoch, mean over its steps); a record speaks for the steps since the one before it."""
    sums: dict[int, tuple[float, int]] = {}
    before = 0
    for row in trained:
        steps, before = row["step"] - before, row["step"]
        if row[key] is not None:
            total, count = sums.get(row["epoch"], (0.0, 0))
            sums[row["epoch"]] = (total + row[key] * steps, count + steps)
    return [(float(epoch), total / count) for epoch, (total, count) in sums.items() if count > 0]


def gradient_norms(records: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Return the mean norm of every stage's gradient in each epoch; empty of a run that has not noted them.

    A norm that was not finite is left out.
    """
    noted = [row for row in records if row.get("gradients")]
    norms: dict[int, dict[str, float]] = {}
    for stage in noted[0]["gradients"] if noted else ():
        rows = ({"step": row["step"], "epoch": row["epoch"], "norm": row["gradients"].get(stage)} for row in noted)
        for epoch, norm in epoch_means(rows, "norm"):
            norms.setdefault(int(epoch), {})[stage] = norm
    return norms
