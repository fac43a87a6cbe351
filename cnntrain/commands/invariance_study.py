"""An invariance study: networks measured under one warp, gathered by what they differ in, and all rows of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cnntrain.analysis import aliasing, crossings
from cnntrain.analysis.invariance import Clean, Moved, Subject, pixels_of
from cnntrain.analysis.invariance_figures import Attacked, Line, Samples, line_of
from cnntrain.analysis.invariance_rows import Curves, Row, areas, differences, pooled, rows, worst_classes
from cnntrain.commands.compare import letters
from cnntrain.data.sources import Card, Split, spread
from cnntrain.data.transformations import Warp

SHOWN_IMAGES, SHOWN_AMOUNTS = 3, 9
LECTURE_SHIFT = 2.0  # pixels, as in the lectures' example
MOST_TRIED = 100  # images to find some that an attack turns


@dataclass(frozen=True)
class Group:
    """Networks that differ in their seed only, by their places among all."""

    name: str
    members: Sequence[int]
    seeds: Sequence[int]


class Study:
    """What was measured under one warp, network by network in their order."""

    def __init__(self, warp: Warp, split: Split, card: Card, blocks: np.ndarray) -> None:
        self.warp, self.split, self.card, self.blocks = warp, split, card, blocks
        self.curves: list[Curves] = []
        self.tables: dict[str, list[Row]] = {"classes": [], "lags": [], "phases": [], "aliasing": []}
        self.kept: dict[str, np.ndarray] = {}  # at the lecture's shift: truth values [N]
        self.stride = 1
        self.first: Subject | None = None  # the network that samples are shown to
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

    def add(self, curves: Curves, clean: Clean, moved: Moved, stride: int, subject: Subject) -> None:
        """Add what was measured of one network."""
        self.first = self.first or subject
        self.curves.append(curves)
        name, self.stride = curves.name, max(self.stride, stride)
        self.tables["classes"] += worst_classes(self.warp, name, clean, moved, self.card.classes)
        self.tables["lags"] += aliasing.lags(self.warp, name, moved, self.blocks, stride)
        self.tables["phases"] += aliasing.phases(self.warp, name, clean, moved, self.blocks, stride)
        self.tables["aliasing"] += aliasing.aliasing(self.warp, name, moved, self.blocks, stride)
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
        assert self.first is not None
        labels_here = self.split.labels[places].to(self.first.device)
        changed = list(self.warp.against(self.first.logits)(pixels.to(self.first.device), labels_here, places))
        stack = torch.stack([changed[i] for i in shown], dim=1).permute(0, 1, 3, 4, 2).cpu()
        classes = [self.card.classes[int(label)] for label in self.split.labels[places]]
        as_bytes = stack.round().clamp(0, 255).to(torch.uint8).numpy()
        return Samples(as_bytes, [self.warp.amounts[i] for i in shown], classes)

    def attacked(self) -> list[Attacked]:
        """Return a few images that the first network has right and an attack turns, each within its smallest budget."""
        subject = self.first
        assert subject is not None
        places = np.arange(min(len(self.split), MOST_TRIED))
        labels = self.split.labels[places].to(subject.device)
        pixels = pixels_of(self.split, places, subject.device)
        with torch.no_grad():
            before = subject.logits(pixels).float().softmax(dim=1)
        left = (before.argmax(dim=1) == labels).cpu()
        found = []
        for amount, changed in zip(
            self.warp.amounts, self.warp.against(subject.logits)(pixels, labels, places), strict=True
        ):
            with torch.no_grad():
                after = subject.logits(changed).float().softmax(dim=1)
            turned = left & (after.argmax(dim=1) != labels).cpu()
            for i in torch.nonzero(turned).flatten().tolist():
                old, new = int(labels[i]), int(after[i].argmax())
                names = self.card.classes[old], self.card.classes[new]
                shares = tuple(float(p[i, at]) for p in (before, after) for at in (old, new))
                found.append(Attacked(to_picture(pixels[i]), to_picture(changed[i]), amount[0], *names, shares))
            left &= ~turned
        return found[:: max(1, len(found) // SHOWN_IMAGES)][:SHOWN_IMAGES]


def to_picture(pixels: Tensor) -> np.ndarray:
    """Return pixels [C, H, W] in 0..255 as float32 [H, W, C]."""
    return np.asarray(pixels.permute(1, 2, 0).cpu())


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
