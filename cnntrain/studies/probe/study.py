"""A probing study: linear classifiers on the stages of networks and of untrained twins, and with permuted labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cnntrain.config import pretrained
from cnntrain.config.build import build_model, dataset_info, fit_images
from cnntrain.config.schema import Options
from cnntrain.data.storage.images import DatasetInfo, spread
from cnntrain.nn.precision import precision_for
from cnntrain.nn.stages import stage_shapes
from cnntrain.runs.folder import RESULTS, new_folder, refuse_existing, refuse_unwritable
from cnntrain.runs.images import RunImages, run_images, warn_of_seen
from cnntrain.runtime import disk
from cnntrain.runtime.devices import choose_device
from cnntrain.runtime.errors import InputError, listed
from cnntrain.runtime.memory import available
from cnntrain.runtime.progress import counting
from cnntrain.studies.networks import (
    INPUT,
    NamedNetwork,
    SeedGroup,
    find_networks,
    require_same_images,
    seed_groups,
    stages_of,
)
from cnntrain.studies.probe.features import TappedNetwork, dimensions_of, tapped
from cnntrain.studies.probe.linear import needs_products
from cnntrain.studies.probe.options import Probe
from cnntrain.studies.probe.probes import LinearProbe, ProbeSettings, fit_network, points_bytes, predictions

SHARE = 0.5  # of the memory that is free, for a study that nobody told how much to take


@dataclass(frozen=True, eq=False)
class ProbeAnswer:
    """A linear classifier on what leaves a stage, and which images it has right, truth values [N]."""

    run: str
    group: int
    seed: int  # of the network
    trained: bool
    probe: LinearProbe
    correct: np.ndarray


@dataclass(frozen=True)
class ProbeImages:
    """The images that probes are fitted to, and those that they are asked about, with the same classes."""

    train: RunImages
    test: RunImages
    info: DatasetInfo
    other: Options | None  # the options of a dataset that is not the run's own
    data_root: str

    @property
    def chance(self) -> float:
        """The accuracy of always naming the class that most training images have."""
        commonest = int(torch.bincount(self.train.split.labels).argmax())
        return float((self.test.split.labels == commonest).double().mean())


@dataclass(frozen=True, eq=False)
class ProbeStudy:
    """What the probes of networks answer; `groups` gathers the networks that differ in their seed only.

    The pixels are probed once, as the stage `input` of the first network.
    """

    networks: list[NamedNetwork]
    groups: list[SeedGroup]
    images: ProbeImages
    memory: float  # bytes that it takes at most
    answers: list[ProbeAnswer]


@dataclass(frozen=True)
class ProbedNetwork:
    """A network to be probed, built when its turn comes: a network of the study, or an untrained twin of one."""

    run: str
    group: int
    seed: int
    trained: bool
    info: DatasetInfo
    stages: Sequence[str]
    build: Callable[[], nn.Sequential]


def given(net: nn.Sequential) -> nn.Sequential:
    """Return a network that is there."""
    return net


def probe(cfg: Probe) -> ProbeStudy:
    """Probe networks as configured; nothing is written.

    Raises `InputError` where networks cannot see the same images, a class has too few of them, or there is not enough
    memory.
    """
    networks = find_networks(cfg)
    if cfg.save and cfg.model is not None:
        raise InputError("save=true puts probes on runs, and model= has none: train one with fit, or take save=false")
    require_same_images(networks)
    groups = seed_groups(networks)
    images = probe_images(cfg, networks[0])
    for network in networks[1:]:
        if network.folder is not None:
            warn_of_seen(network.folder, images.test.split, "these")
    require_images(cfg, images)
    memory = memory_at_hand(cfg)
    settings = probe_settings(cfg, memory)
    probed = [*probed_networks(cfg, networks, groups)]
    dimensions = [  # untrained twins have the same
        dimensions_of(network.net, network.info, own.stages, cfg.pool)
        for network, own in zip(networks, probed, strict=False)
    ]
    require_points(cfg, dimensions, len(images.train.split), memory)
    require_weights(cfg, dimensions, len(images.info.classes), memory)
    fits = sum(len(each.stages) * (1 + is_permuted(cfg, each)) for each in probed)
    with counting(fits * len(settings.classifiers), "probe", "fit") as done:
        answers = [answer for each in probed for answer in answers_of(cfg, each, images, settings, done)]
    return ProbeStudy(networks, groups, images, memory, answers)


def probed_networks(
    cfg: Probe, networks: Sequence[NamedNetwork], groups: Sequence[SeedGroup]
) -> Iterator[ProbedNetwork]:
    """Yield the networks with their stages, the pixels with the first, and then the untrained twins of each group."""
    stages = [
        [INPUT, *stage_shapes(network.net, network.info.shape)] if chosen is None else chosen
        for network, chosen in zip(networks, stages_of(cfg.stages, networks), strict=True)
    ]
    group_of = {member: number for number, group in enumerate(groups) for member in group.members}
    for place, network in enumerate(networks):
        own = [name for name in stages[place] if name != INPUT or place == 0]
        seed = network.settings["seed"]
        yield ProbedNetwork(network.name, group_of[place], seed, True, network.info, own, partial(given, network.net))
    if cfg.control not in ("both", "random") or cfg.init == "random":  # what is untrained has no untrained twin
        return
    for number, group in enumerate(groups):
        first = networks[group.members[0]]
        own, options = [name for name in stages[group.members[0]] if name != INPUT], first.settings["model"]
        for seed in range(cfg.seed, cfg.seed + cfg.twins):
            build = partial(build_model, pretrained.without_weights(options), first.info, seed=seed)
            yield ProbedNetwork(f"{group.name} untrained", number, seed, False, first.info, own, build)


def is_permuted(cfg: Probe, probed: ProbedNetwork) -> bool:
    """Say whether a network is probed with permuted labels too."""
    return probed.trained and cfg.control in ("both", "permuted")


def answers_of(
    cfg: Probe, probed: ProbedNetwork, images: ProbeImages, settings: ProbeSettings, done: Callable[[int], None]
) -> Iterator[ProbeAnswer]:
    """Fit all probes of a network, and yield what each answers."""
    device, net = choose_device(cfg.device), probed.build()
    network: TappedNetwork = tapped(
        net,
        probed.info,
        probed.stages,
        cfg.pool,
        precision=precision_for(cfg.precision, device, (net, probed.info.shape)),
        device=device,
        batch_size=cfg.batch_size,
    )
    own = replace(settings, permutation=probed.seed if is_permuted(cfg, probed) else None)
    probes = fit_network(network, images.train.split, own, images.train.workers, done)
    labels = images.test.split.labels.numpy()
    for each, classes in zip(probes, predictions(network, probes, images.test.split, images.test.workers), strict=True):
        kept = each if cfg.save and probed.trained and not each.permuted else each.without_weights()
        yield ProbeAnswer(probed.run, probed.group, probed.seed, probed.trained, kept, classes == labels)


# Images and memory.


def probe_images(cfg: Probe, network: NamedNetwork) -> ProbeImages:
    """Return the images of a network's own dataset, or of another with classes of its own."""
    settings, info, folder, options = network.settings, network.info, network.folder, None
    root = cfg.data_root or settings["data_root"]
    if cfg.dataset is not None and folder is not None:
        before = settings["dataset"]
        renamed = cfg.dataset.get("name", before["name"]) != before["name"]
        options = fit_images(cfg.dataset, info) if renamed else before | cfg.dataset
        other = dataset_info(options, root)
        if other.shape != info.shape:
            raise InputError(f"{other} has {other.examples}, {network.name} takes {info.examples}")
        info = replace(other, mean=info.mean, std=info.std)
        settings, folder = settings | {"dataset": options}, None
    train, test = (run_images(folder, settings, info, root, split) for split in ("train", cfg.split))
    if folder is None and network.folder is not None:
        warn_of_seen(network.folder, test.split, "these")
    few = train.split.take(spread(len(train.split), cfg.train_images))
    asked = test.split if cfg.images is None else test.split.take(spread(len(test.split), cfg.images))
    return ProbeImages(train._replace(split=few), test._replace(split=asked), info, options, root)


def require_images(cfg: Probe, images: ProbeImages) -> None:
    """Raise `InputError` for a class that has fewer training images than there are folds."""
    labels = images.train.split.labels
    for key, some in (("train_images", labels), ("fold_images", labels[spread(len(labels), cfg.fold_images)])):
        counts = torch.bincount(some, minlength=len(images.info.classes)).tolist()
        if few := [f"{name} {n}" for name, n in zip(images.info.classes, counts, strict=True) if n < cfg.folds]:
            raise InputError(
                f"{cfg.folds} folds need {cfg.folds} training {images.info.noun}s of each class, and among "
                f"{len(some):,} are {listed(few)}: take a larger {key} or fewer folds"
            )


def memory_at_hand(cfg: Probe) -> float:
    """Return how many bytes a study may take."""
    return SHARE * available() if cfg.memory is None else cfg.memory * 2**30


def probe_settings(cfg: Probe, memory: float) -> ProbeSettings:
    """Return how probes are fitted; half of the memory holds features."""
    return ProbeSettings(
        ["svm", "softmax"] if cfg.classifier == "both" else [cfg.classifier],
        None,
        cfg.c,
        cfg.folds,
        cfg.fold_images,
        cfg.seed,
        int(memory / 2 / 4),
    )


def require_points(cfg: Probe, dimensions: Sequence[Mapping[str, int]], n: int, memory: float) -> None:
    """Raise `InputError` where half of the memory does not hold what classifiers of a stage are fitted to."""
    widest = {count: stage for own in dimensions for stage, count in own.items()}

    def need(count: int, images: int) -> int:
        return points_bytes(count, images, cfg.fold_images)

    most = max(widest, key=lambda count: need(count, n))
    if need(most, n) <= memory / 2:
        return
    fewer = next((m for m in range(n - 1, 0, -1) if all(need(count, m) <= memory / 2 for count in widest)), 1)
    what = "inner products" if needs_products(most, n) else f"{most:,} features"
    raise InputError(
        f"{widest[most]}: {what} of {n:,} training images take {disk.size(need(most, n))}, and half of "
        f"{disk.size(memory)} is theirs: take train_images={fewer:,}, or memory={2 * need(most, n) / 2**30:.2g} (GiB)"
    )


def require_weights(cfg: Probe, dimensions: Sequence[Mapping[str, int]], classes: int, memory: float) -> None:
    """Raise `InputError` where the weights of a network's probes, or of all to be saved, take more than the memory."""
    each = (2 if cfg.classifier == "both" else 1) * classes * 8
    sizes = [each * sum(own.values()) for own in dimensions]
    need = sum(sizes) if cfg.save else 2 * max(sizes)  # of true and of permuted labels
    if need > memory:
        raise InputError(
            f"the weights of the probes take {disk.size(need)}, and there are {disk.size(memory)}: take pool=avg, or "
            "fewer stages with stages="
        )


def study_folder(cfg: Probe) -> Path:
    """Return the folder that the study will have.

    Raises `InputError` when it holds a study already, or cannot be made.
    """
    name = Path(cfg.run).name if cfg.run and cfg.run != "latest" else "study"
    folder = Path(cfg.output_dir) if cfg.output_dir else new_folder("probe", name)
    if (folder / RESULTS).exists():
        raise InputError(f"output_dir={folder} already holds results; name another folder")
    refuse_existing(folder)
    refuse_unwritable(folder)
    return folder
