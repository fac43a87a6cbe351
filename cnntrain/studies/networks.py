"""The networks that a study looks into, which of them differ in their seed only, and their stages."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnntrain.config import pretrained, schema
from cnntrain.config.build import build_model, load_dataset
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.stages import StageError, require
from cnntrain.runs.folder import find_run
from cnntrain.runs.load import load_run
from cnntrain.runs.select import by_experiment, find_runs, letters, short_names
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import flat
from cnntrain.tasks import kind_of

INPUT = "input"  # the stage that is the image itself


@dataclass(frozen=True)
class NamedNetwork:
    """A network to measure, by its short name."""

    name: str
    folder: Path | None  # None: an untrained network that belongs to no run
    net: nn.Sequential
    info: DatasetInfo
    settings: dict[str, Any]


def find_networks(cfg: schema.Observed) -> list[NamedNetwork]:
    """Return the networks that are meant, in evaluation mode.

    Raises `InputError` unless exactly one of run, runs and model says which, and each gives one class an image.
    """
    networks = named_networks(cfg)
    for network in networks:
        if network.info.targets != "classes":
            gives = kind_of(network.info).gives
            raise InputError(f"{network.name} gives {gives}: take a network that gives one class an image")
    return networks


def named_networks(cfg: schema.Observed) -> list[NamedNetwork]:
    """Return the networks that run, runs or model name."""
    if sum(given is not None for given in (cfg.run, cfg.runs, cfg.model)) != 1:
        raise InputError("name what to measure: run=<folder>, runs=[<folder>,…], or model=<name> with init=random")
    if cfg.model is not None:
        return [network_without_run(cfg, cfg.model)]
    folders = find_runs(cfg.runs, least=1) if cfg.runs is not None else [find_run(str(cfg.run))]
    networks = []
    for folder, name in zip(folders, names_of(folders), strict=True):
        net, info, settings = load_run(folder, cfg.weights)
        if cfg.init == "random":
            net, name = (
                build_model(pretrained.without_weights(settings["model"]), info, seed=cfg.seed),
                f"{name} untrained",
            )
        networks.append(NamedNetwork(name, folder, net, info, settings))
    return networks


def network_without_run(cfg: schema.Observed, model: schema.Options) -> NamedNetwork:
    """Return an untrained network, or one with pretrained weights, for the images of `dataset=`."""
    is_pretrained = pretrained.expected_preprocessing(model) is not None
    if cfg.dataset is None or (cfg.init != "random" and not is_pretrained):
        raise InputError("model= names an untrained network: it needs init=random and dataset=<name>")
    root = cfg.data_root or os.environ.get("CNNTRAIN_DATA", "data")
    dataset = pretrained.with_image_size(cfg.dataset, model)
    settings: dict[str, Any] = {"model": model, "dataset": dataset, "seed": cfg.seed, "data_root": root}
    info = load_dataset(dataset, root, cfg.seed, only=cfg.split).info  # a folder's is known by its images
    info = pretrained.with_expected_statistics(info, model)
    name = model.get("arch", model["name"])
    if cfg.init == "random":
        net = build_model(pretrained.without_weights(model), info, seed=cfg.seed)
        return NamedNetwork(f"{name} untrained", None, net, info, settings)
    return NamedNetwork(f"{name} pretrained", None, build_model(model, info, seed=cfg.seed).eval(), info, settings)


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return short names of runs; a number alone, as a sweep or a study names its jobs, is no name."""
    names = short_names(folders)
    if any(name.isdigit() for name in names):
        return ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    return names


def require_same_images(networks: Sequence[NamedNetwork]) -> None:
    """Raise `InputError` for a network that takes other images, or was trained on other classes, than the first."""
    first = networks[0]
    for network in networks[1:]:
        if network.info.shape != first.info.shape:
            other = network.info.examples
            raise InputError(
                f"{network.name} takes {other}, {first.name} {first.info.examples}: they cannot see the same"
            )
        if network.info.classes != first.info.classes:
            lacking = sorted(set(network.info.classes) ^ set(first.info.classes))
            why = f"{', '.join(lacking[:5])} differ" if lacking else "their order differs"
            raise InputError(f"{network.name} was trained on other classes than {first.name}: {why}")


def stages_of(wanted: Sequence[str] | None, networks: Sequence[NamedNetwork]) -> list[list[str] | None]:
    """Return each network's stages to measure, None for all; one that only some networks have is left out elsewhere.

    Raises `StageError` naming the nearest for a stage that none has.
    """
    if wanted is None:
        return [None] * len(networks)
    stages = [[INPUT, *(name for name, _ in network.net.named_children())] for network in networks]
    require(wanted, list(dict.fromkeys(name for names in stages for name in names)))
    chosen: list[list[str] | None] = [[name for name in names if name in wanted] for names in stages]
    for network, names in zip(networks, chosen, strict=True):
        if not names:
            raise StageError(f"stages=[{', '.join(wanted)}]: {network.name} has none of them")
    return chosen


@dataclass(frozen=True)
class SeedGroup:
    """Networks that differ in their seed only, by their places among all."""

    name: str
    members: Sequence[int]
    seeds: Sequence[int]


def seed_groups(networks: Sequence[NamedNetwork]) -> list[SeedGroup]:
    """Gather the networks that differ in their seed only.

    A single one gives the group its name, several do by the folder that they alone share, or else a letter does.
    """
    gathered = by_experiment([flat(network.settings) for network in networks])
    folders = [{networks[i].name.rpartition("/")[0].rpartition("/")[2] for i in members} for members in gathered]
    groups = []
    for number, (members, shared) in enumerate(zip(gathered, folders, strict=True)):
        unique = len(shared) == 1 and "" not in shared and folders.count(shared) == 1
        name = networks[members[0]].name if len(members) == 1 else next(iter(shared)) if unique else letters(number)
        groups.append(SeedGroup(name, members, [networks[i].settings["seed"] for i in members]))
    return groups


def with_stages_of(net: nn.Sequential, fresh: nn.Sequential, stages: Sequence[str]) -> nn.Sequential:
    """Return a copy of `net` with the weights of `fresh` in some stages; running statistics go with them.

    Weights that are never trained stay: they are their own initial values.
    """
    changed = copy.deepcopy(net)
    for name in stages:
        stage = changed.get_submodule(name)
        fixed = {key: weight for key, weight in stage.named_parameters() if not weight.requires_grad}
        stage.load_state_dict(fresh.get_submodule(name).state_dict() | fixed)
    return changed
