"""`cnntrain time`: how long a network's training step and each of its stages take."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config.build import build_model, build_optimizer, count_images, dataset_info
from cnntrain.config.read import read_config
from cnntrain.config.schema import Options, Shared
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.geometry import describe
from cnntrain.nn.precision import precision_for
from cnntrain.runs.folder import refuse_unwritable
from cnntrain.runtime.devices import Precision, choose_device, prepare
from cnntrain.runtime.drawing import Medium
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.processor import Times, slowed
from cnntrain.runtime.progress import say
from cnntrain.runtime.ranges import Count, Positive
from cnntrain.runtime.tables import Format, render, terminal_width
from cnntrain.studies.timing import report
from cnntrain.studies.timing.measure import TimedSubject
from cnntrain.studies.timing.study import Network, batch_of_noise, measured, on_device
from cnntrain.tasks import kind_of

BUSY = 0.5  # load of a core from which times are said to be too long


@dataclass(frozen=True)
class Time(Shared):
    """The keys of `cnntrain time`."""

    model: Options
    models: list[str] | None
    dataset: Options
    optimizer: Options
    batch: Count
    seconds: Positive
    epochs: Count
    precision: Precision
    table: Format
    data_root: str
    output_dir: str | None
    figures: Medium


def run(composed: DictConfig) -> dict[str, Any]:
    """Time the networks; return what `--json` prints."""
    cfg = read_time(composed)
    folder = Path(cfg.output_dir) if cfg.output_dir else None
    if folder:
        refuse_unwritable(folder)
    prepare(deterministic=False)
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > BUSY * (os.cpu_count() or 1):
        say(f"warning: the machine is busy (load {load:.1f} on {os.cpu_count()} cores), and times are too long")
    info = dataset_info(cfg.dataset, cfg.data_root)
    networks, noun = list(build_networks(cfg, info)), info.noun
    names = ", ".join(network.name for network in networks)
    say(f"timing {names}: steps for {cfg.seconds:g} s, stages for {cfg.seconds / 2:g} s …")
    start = Times.now()
    rows, stages = measured(networks, cfg.seconds)
    if line := slowed(start, Times.now()):
        say(f"warning: {line}")
    print(render(report.network_lines(rows, noun), cfg.table, terminal_width()))
    for row in rows:
        own = [stage for stage in stages if stage.model == row.model]
        print(f"\n{row.model}, stage by stage\n\n{render(report.stage_lines(own), cfg.table, terminal_width())}")
    try:
        images = count_images(cfg.dataset, cfg.data_root)[0]
    except InputError:  # a folder that is not here
        images = 0
    costs = [report.training_cost(row, images, cfg.epochs, noun) for row in rows] if images else []
    print("", *costs, sep="\n")
    if folder:
        report.write(folder, rows, stages, costs, cfg.figures, noun)
        print(f"report {folder / 'report.html'}")
    return {"rows": [asdict(row) for row in rows], "stages": [asdict(stage) for stage in stages]}


def read_time(composed: DictConfig) -> Time:
    """Return the configuration, checked."""
    cfg = read_config(Time, composed)
    if cfg.models is not None and (not cfg.models or len(set(cfg.models)) < len(cfg.models)):
        raise InputError(f"models=[{','.join(cfg.models)}]: each network once, at least one")
    return cfg


check = read_time  # of a sweep's jobs, before any of them


def build_networks(cfg: Time, info: DatasetInfo) -> Iterator[Network]:
    """Yield the networks to be timed, each with a batch of noise of the dataset's shape."""
    device = choose_device(cfg.device)
    if info.targets != "classes":
        raise InputError(f"time is of steps of classifiers, and {info} has {kind_of(info).gives}; take other images")
    images, labels = batch_of_noise(info.shape, len(info.classes), cfg.batch, device)
    named = {name: model_options(name) for name in cfg.models} if cfg.models else {cfg.model["name"]: cfg.model}
    nets = {name: on_device(build_model(options, info), device) for name, options in named.items()}
    precision = precision_for(cfg.precision, device, *((net, info.shape) for net in nets.values()))
    for name, net in nets.items():
        stages, lacking = describe(net, info.shape)
        if lacking:
            say(f"{name}: {lacking}")
        yield Network(name, TimedSubject(net, build_optimizer(cfg.optimizer, net), images, labels, precision), stages)


def model_options(name: str) -> Options:
    """Return the options of a network by its name, or of a library's by both names: torchvision/inception_v3."""
    model, _, arch = name.partition("/")
    return {"name": model, "arch": arch} if arch else {"name": model}
