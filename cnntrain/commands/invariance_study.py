"""An invariance study: networks measured under one warp, gathered by what they differ in, and all rows of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cnntrain.analysis import aliasing, crossings
from cnntrain.analysis.invariance import Clean, Moved, pixels_of, spread
from cnntrain.analysis.invariance_figures import Line, Samples, line_of
from cnntrain.analysis.invariance_rows import Curves, Row, areas, differences, pooled, rows, worst_classes
from cnntrain.commands.compare import letters
from cnntrain.data.sources import Card, Split
from cnntrain.data.transformations import Warp

if TYPE_CHECKING:
    pass

FIGURES, REPORT, ROWS = "figures", "report.md", "rows.csv"
SHOWN_IMAGES, SHOWN_AMOUNTS, MOST_LINES = 3, 9, 7
LECTURE_SHIFT = 2.0  # pixels, as in the lectures' example


@dataclass(frozen=True)
class Group:
    """Networks that differ in their seed only, by their places among all."""

    name: str
    members: Sequence[int]
    seeds: Sequence[int]


class Study:
    """What was measured under one warp, network by network in their order."""

    def __init__(self, warp: Warp, split: Split, card: Card, weights: np.ndarray) -> None:
        self.warp, self.split, self.card, self.weights = warp, split, card, weights
        self.curves: list[Curves] = []
        self.tables: dict[str, list[Row]] = {"classes": [], "lags": [], "phases": [], "aliasing": []}
        self.kept: dict[str, np.ndarray] = {}  # at the lecture's shift: truth values [N]
        self.stride = 1
        self.counts = self.count()

    def count(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Count the pixels that each whole shift turns white and black, in all images."""
        places = np.arange(len(self.split))
        if not crossings.counted(self.warp):
            return []
        batches = np.split(places, range(500, len(places), 500))
        found = [crossings.count(self.warp, pixels_of(self.split, at, torch.device("cpu")), at) for at in batches]
        return [
            (np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs]))
            for pairs in zip(*found, strict=True)
        ]

    def add(self, curves: Curves, clean: Clean, moved: Moved, stride: int) -> None:
        """Add what was measured of one network."""
        self.curves.append(curves)
        name, self.stride = curves.name, max(self.stride, stride)
        self.tables["classes"] += worst_classes(self.warp, name, clean, moved, self.card.classes)
        self.tables["lags"] += aliasing.lags(self.warp, name, moved, self.weights, stride)
        self.tables["phases"] += aliasing.phases(self.warp, name, clean, moved, self.weights, stride)
        self.tables["aliasing"] += aliasing.aliasing(self.warp, name, moved, self.weights, stride)
        if (place := self.lecture_place()) is not None:
            at = self.warp.amounts.index(crossings.counted(self.warp)[place])
            self.kept[name] = moved.predicted[at] == clean.predicted

    def lecture_place(self) -> int | None:
        """Return the place among the counted amounts of the shift of the lectures' example, if it is there."""
        shifts = [amount[0] for amount in crossings.counted(self.warp)]
        return next((shifts.index(shift) for shift in (LECTURE_SHIFT, -LECTURE_SHIFT) if shift in shifts), None)

    def lines(self, groups: Sequence[Group]) -> list[Line]:
        """Return one line a group of networks."""
        lines = []
        for group in groups:
            members = [self.curves[i] for i in group.members]
            lines.append(line_of(pooled(group.name, members), members))
        return lines

    def samples(self) -> Samples:
        """Return a few images, of other classes each where there are so many, under a few amounts."""
        labels, first = np.unique(self.split.labels.numpy(), return_index=True)
        places = first[spread(len(labels), SHOWN_IMAGES)]
        shown = spread(len(self.warp.amounts), SHOWN_AMOUNTS)
        pixels = pixels_of(self.split, places, torch.device("cpu"))
        changed = list(self.warp.changed(pixels, self.split.labels[places], places))
        stack = torch.stack([changed[i] for i in shown], dim=1).permute(0, 1, 3, 4, 2)
        classes = [self.card.classes[int(label)] for label in self.split.labels[places]]
        as_bytes = stack.round().clamp(0, 255).to(torch.uint8).numpy()
        return Samples(as_bytes, [self.warp.amounts[i] for i in shown], classes)


def grouped(names: Sequence[str], seeds: Sequence[int], gathered: Sequence[Sequence[int]]) -> list[Group]:
    """Name each group of networks: a single one by itself, several by the folder they share, or else by a letter."""
    groups = []
    shared = [{names[i].rpartition("/")[0].rpartition("/")[2] for i in members} for members in gathered]
    for number, members in enumerate(gathered):
        own = shared[number]
        unique = len(own) == 1 and "" not in own and sum(own == other for other in shared) == 1
        name = names[members[0]] if len(members) == 1 else next(iter(own)) if unique else letters(number)
        groups.append(Group(name, members, [seeds[i] for i in members]))
    return groups


# Results.


def results(studies: Sequence[Study], groups: Sequence[Group]) -> dict[str, list[Row]]:
    """Return all rows of a study: of each network, of networks pooled over seeds, of areas, differences, counts."""
    found: dict[str, list[Row]] = {key: [] for key in ("rows", "pooled", "areas", "differences", "pixels")}
    for study in studies:
        name = study.warp.name
        for part in study.curves:
            found["rows"] += rows(name, part)
        lines = study.lines(groups)
        for line in lines:
            found["pooled"] += rows(name, line.curves, line.members) if len(line.members) > 1 else []
            found["areas"] += areas(study.warp, line.curves)
        members = [line.members for line in lines]
        found["differences"] += differences(
            study.warp, members, [group.name for group in groups], [group.seeds for group in groups]
        )
        found["pixels"] += crossings.rows(study.warp, study.counts)
        for key, table in study.tables.items():
            found.setdefault(key, []).extend(table)
    return found
