"""An invariance study: networks measured under transforms, and all rows that follow from it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cnntrain.config import schema
from cnntrain.config.build import build_transforms, fit_images
from cnntrain.data.storage.images import DatasetInfo, Split, spread
from cnntrain.nn.precision import precision_for
from cnntrain.runs.folder import RESULTS, create_folder, new_folder, refuse_existing, refuse_unwritable
from cnntrain.runs.images import RunImages, run_images, warn_of_seen
from cnntrain.runtime import disk
from cnntrain.runtime.devices import choose_device
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import counting
from cnntrain.stats.jackknife import blocks
from cnntrain.studies.invariance import aliasing, crossings, measure
from cnntrain.studies.invariance.figures import Attacked, Line, Samples, line_of
from cnntrain.studies.invariance.measure import Clean, MeasuredNetwork, Moved, pixels_of
from cnntrain.studies.invariance.rows import (
    AliasingRow,
    AreaRow,
    ClassRow,
    Curves,
    DifferenceRow,
    InvarianceRow,
    LagRow,
    PhaseRow,
    PixelRow,
    area_rows,
    class_rows,
    curves,
    difference_rows,
    invariance_rows,
    pooled,
)
from cnntrain.studies.networks import (
    NamedNetwork,
    SeedGroup,
    find_networks,
    require_same_images,
    seed_groups,
    stages_of,
)
from cnntrain.transforms.transform import Transform

RAW = "raw"
SHOWN_IMAGES, SHOWN_AMOUNTS = 3, 9
LECTURE_SHIFT = 2.0  # pixels, as in the lectures' example
MOST_TRIED = 100  # images to find some that an attack turns


class TransformStudy:
    """What was measured under one transform, network by network in their order."""

    def __init__(self, transform: Transform, split: Split, info: DatasetInfo, blocks: np.ndarray) -> None:
        self.transform, self.split, self.info, self.blocks = transform, split, info, blocks
        self.curves: list[Curves] = []
        self.classes: list[ClassRow] = []
        self.lags: list[LagRow] = []
        self.phases: list[PhaseRow] = []
        self.aliasing: list[AliasingRow] = []
        self.same_answer: dict[str, np.ndarray] = {}  # by network, at the lecture's shift: truth values [N]
        self.stride = 1  # the largest total stride of the networks
        self.first: MeasuredNetwork | None = None  # the network that samples are shown to
        self.counts = self.count_pixels()

    def count_pixels(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Count the pixels that each whole shift turns white and black, in all images."""
        places = np.arange(len(self.split))
        if not crossings.counted_amounts(self.transform):
            return []
        batches = np.split(places, range(500, len(places), 500))
        cpu = torch.device("cpu")
        counts = [crossings.count_crossings(self.transform, pixels_of(self.split, at, cpu), at) for at in batches]
        return [
            (np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs]))
            for pairs in zip(*counts, strict=True)
        ]

    def add(self, curves: Curves, clean: Clean, moved: Moved, stride: int, subject: MeasuredNetwork) -> None:
        """Add what was measured of one network."""
        self.first = self.first or subject
        self.curves.append(curves)
        name, self.stride = curves.name, max(self.stride, stride)
        self.classes += class_rows(self.transform, name, clean, moved, self.info.classes)
        self.lags += aliasing.lags(self.transform, name, moved, self.blocks, stride)
        self.phases += aliasing.phases(self.transform, name, clean, moved, self.blocks, stride)
        self.aliasing += aliasing.aliasing(self.transform, name, moved, self.blocks, stride)
        if (place := self.lecture_place()) is not None:
            at = self.transform.amounts.index(crossings.counted_amounts(self.transform)[place])
            self.same_answer[name] = moved.predicted[at] == clean.predicted

    def lecture_place(self) -> int | None:
        """Return the place among the counted amounts of the shift of the lectures' example, if it is there."""
        shifts = [amount[0] for amount in crossings.counted_amounts(self.transform)]
        return next((shifts.index(shift) for shift in (LECTURE_SHIFT, -LECTURE_SHIFT) if shift in shifts), None)

    def lines(self, groups: Sequence[SeedGroup]) -> list[Line]:
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
        shown = spread(len(self.transform.amounts), SHOWN_AMOUNTS)
        pixels = pixels_of(self.split, places, torch.device("cpu"))
        assert self.first is not None
        labels_here = self.split.labels[places].to(self.first.device)
        changed = list(self.transform.against(self.first.logits)(pixels.to(self.first.device), labels_here, places))
        stack = torch.stack([changed[i] for i in shown], dim=1).permute(0, 1, 3, 4, 2).cpu()
        classes = [self.info.classes[int(label)] for label in self.split.labels[places]]
        as_bytes = stack.round().clamp(0, 255).to(torch.uint8).numpy()
        return Samples(as_bytes, [self.transform.amounts[i] for i in shown], classes)

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
        examples = []
        for amount, changed in zip(
            self.transform.amounts, self.transform.against(subject.logits)(pixels, labels, places), strict=True
        ):
            with torch.no_grad():
                after = subject.logits(changed).float().softmax(dim=1)
            turned = left & (after.argmax(dim=1) != labels).cpu()
            for i in torch.nonzero(turned).flatten().tolist():
                old, new = int(labels[i]), int(after[i].argmax())
                names = self.info.classes[old], self.info.classes[new]
                shares = tuple(float(p[i, at]) for p in (before, after) for at in (old, new))
                examples.append(Attacked(to_picture(pixels[i]), to_picture(changed[i]), amount[0], *names, shares))
            left &= ~turned
        return examples[:: max(1, len(examples) // SHOWN_IMAGES)][:SHOWN_IMAGES]


def to_picture(pixels: Tensor) -> np.ndarray:
    """Return pixels [C, H, W] in 0..255 as float32 [H, W, C]."""
    return np.asarray(pixels.permute(1, 2, 0).cpu())


@dataclass(frozen=True)
class InvarianceStudy:
    """Networks measured under transforms, all on the same images."""

    folder: Path
    networks: list[NamedNetwork]
    groups: list[SeedGroup]
    images: RunImages  # as the first transform has them
    device: torch.device
    precision: Literal["fp32", "bf16"]
    transforms: list[TransformStudy]


def measure_networks(cfg: schema.Invariance) -> InvarianceStudy:
    """Measure networks as configured; what was measured of each image goes into the study's folder.

    Raises `InputError` where nothing is to be measured, or networks cannot see the same images.
    """
    device = choose_device(cfg.device)
    networks = find_networks(cfg)
    require_same_images(networks)
    shapes = ((network.net, network.info.shape) for network in networks)
    precision = precision_for(cfg.precision, device, *shapes)
    transforms = build_transforms(cfg.warp, networks[0].info)
    if not transforms:
        raise InputError("warp={} leaves nothing to measure; name one: warp=translate_y")
    subjects = [
        measure.measured_network(network.net, network.info, stages=stages, precision=precision, device=device)
        for network, stages in zip(networks, stages_of(cfg.stages, networks), strict=True)
    ]
    images = [images_for(cfg, networks[0], transform) for transform in transforms]
    for network in networks[1:]:
        if network.folder is not None:
            warn_of_seen(network.folder, images[0].split, "these")
    folder = study_folder(cfg, networks)
    parts = blocks(len(images[0].split))
    studies = [
        TransformStudy(transform, shown.split, networks[0].info, parts)
        for transform, shown in zip(transforms, images, strict=True)
    ]
    measure_all(cfg, networks, subjects, studies, folder)
    return InvarianceStudy(folder, networks, seed_groups(networks), images[0], device, precision, studies)


def images_for(cfg: schema.Invariance, network: NamedNetwork, transform: Transform) -> RunImages:
    """Return the images that a transform changes, larger than the network's by its margin."""
    channels, height, width = network.info.shape
    info = replace(network.info, shape=(channels, height + 2 * transform.margin, width + 2 * transform.margin))
    root = cfg.data_root or network.settings["data_root"]
    other = cfg.dataset if network.folder else None
    if transform.margin:
        trained_on, given = network.settings["dataset"], other or {}
        another = given.get("name", trained_on["name"]) != trained_on["name"]
        other = fit_images(given if another else trained_on | given, info)
    images = run_images(network.folder, network.settings, info, root, cfg.split, other=other)
    if cfg.images is None:
        return images
    return images._replace(split=images.split.take(spread(len(images.split), cfg.images)))


def study_folder(cfg: schema.Invariance, networks: Sequence[NamedNetwork]) -> Path:
    """Return the folder of the study, made.

    Raises `InputError` when it holds a study already, or is a file.
    """
    first = networks[0].folder
    folder = Path(cfg.output_dir) if cfg.output_dir else new_folder("invariance", first.name if first else "untrained")
    if (folder / RESULTS).exists():
        raise InputError(f"output_dir={folder} already holds results; name another folder")
    refuse_existing(folder)
    refuse_unwritable(folder)
    return create_folder(folder)


def measure_all(
    cfg: schema.Invariance,
    networks: Sequence[NamedNetwork],
    subjects: Sequence[MeasuredNetwork],
    studies: Sequence[TransformStudy],
    folder: Path,
) -> None:
    """Pass all images through all networks under all transforms."""
    first = studies[0]
    few = spread(len(first.split), cfg.control_images)
    total = sum(
        len(first.split) * (1 + len(study.transform.amounts)) + 2 * len(few) * len(study.transform.amounts)
        for study in studies
    )
    with counting(total * len(networks), "invariance", "image") as progress:
        for network, subject in zip(networks, subjects, strict=True):
            for study in studies:
                measure_one(cfg, network.name, subject, study, few, folder, progress)


def measure_one(
    cfg: schema.Invariance,
    name: str,
    subject: MeasuredNetwork,
    study: TransformStudy,
    few: np.ndarray,
    folder: Path,
    progress: Callable[[int], None],
) -> None:
    """Measure one network under one transform, on all images; its controls on `few`."""
    transform, split = study.transform, study.split
    batches = measure.in_batches(split, np.arange(len(split)), cfg.batch_size, subject.device)
    clean = measure.clean(subject, split, cfg.batch_size, transform, progress=progress)
    moved = measure.moves(
        subject,
        batches,
        transform.against(subject.logits),
        transform.amounts,
        move=transform.move,
        crop=transform.margin,
        progress=progress,
    )
    controls = measure.controls(subject, split, few, cfg.batch_size, transform, progress=progress)
    write_raw(folder / RAW / f"{safe(name)}_{transform.name}.npz", subject, transform, clean, moved)
    classes, stages = len(study.info.classes), subject.stages
    measured = curves(name, stages, transform.amounts, clean, moved, controls, study.blocks, classes)
    stride = aliasing.total_stride([spans[0].jump for spans in subject.spans.values()])
    study.add(measured, clean, moved, stride, subject)


def write_raw(path: Path, subject: MeasuredNetwork, transform: Transform, clean: Clean, moved: Moved) -> None:
    """Write what was measured of each image."""
    arrays = {f"clean_{key}": value for key, value in clean._asdict().items()} | moved._asdict()
    with disk.replacing(path) as partial:
        np.savez(partial, stages=np.array(subject.stages), amounts=np.array(transform.amounts), **arrays)


def safe(name: str) -> str:
    """Return a network's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name)


# Results.


@dataclass(frozen=True)
class InvarianceRows:
    """All rows of a study, or those of one transform."""

    rows: list[InvarianceRow] = field(default_factory=list)  # of each network
    pooled: list[InvarianceRow] = field(default_factory=list)  # of networks that differ in their seed only, together
    areas: list[AreaRow] = field(default_factory=list)
    differences: list[DifferenceRow] = field(default_factory=list)
    pixels: list[PixelRow] = field(default_factory=list)
    classes: list[ClassRow] = field(default_factory=list)
    lags: list[LagRow] = field(default_factory=list)
    phases: list[PhaseRow] = field(default_factory=list)
    aliasing: list[AliasingRow] = field(default_factory=list)

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows with their stable keys."""
        return {key: [row.as_json() for row in rows] for key, rows in vars(self).items()}


def rows_of(study: TransformStudy, groups: Sequence[SeedGroup]) -> InvarianceRows:
    """Return the rows of one transform: of each network, pooled over seeds, areas, differences and counts."""
    transform, lines = study.transform, study.lines(groups)
    names, seeds = [group.name for group in groups], [group.seeds for group in groups]
    several = [line for line in lines if len(line.members) > 1]
    return InvarianceRows(
        [row for network in study.curves for row in invariance_rows(transform.name, network)],
        [row for line in several for row in invariance_rows(transform.name, line.curves, line.members)],
        [row for line in lines for row in area_rows(transform, line.curves)],
        difference_rows(transform, [line.members for line in lines], names, seeds),
        crossings.pixel_rows(transform, study.counts),
        study.classes,
        study.lags,
        study.phases,
        study.aliasing,
    )


def all_rows(study: InvarianceStudy) -> InvarianceRows:
    """Return the rows of all transforms."""
    together = InvarianceRows()
    for each in study.transforms:
        for key, rows in vars(rows_of(each, study.groups)).items():
            getattr(together, key).extend(rows)
    return together
