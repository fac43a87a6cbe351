"""A study of times: networks in turns, their steps and stages, beside what the device can do at most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from cnntrain.nn.geometry import StageGeometry
from cnntrain.studies.timing.measure import (
    Spread,
    StageTimes,
    StepTimes,
    TimedSubject,
    interleaved,
    peak_memory,
    product_rate,
    spread,
    time_stages,
    time_step,
)


@dataclass(frozen=True)
class Network:
    """A network to be timed, by its name: `stages` are its table for the images of the batch."""

    name: str
    subject: TimedSubject
    stages: Sequence[StageGeometry]

    @property
    def macs(self) -> int:
        """Multiplications of one image's forward pass."""
        return sum(stage.macs for stage in self.stages)


@dataclass(frozen=True)
class NetworkRow:
    """Times of a network's training step: medians of `n` steps in turns with the other networks.

    Milliseconds a batch, with the quartiles of the step; images a second of training; billions of multiplications a
    second of the forward pass, and their share of a large matrix product's; mebibytes at the peak.
    """

    model: str
    batch: int
    device: str
    precision: str
    n: int
    forward_ms: float
    backward_ms: float
    update_ms: float
    step_ms: float
    step_low_ms: float
    step_high_ms: float
    backward_by_forward: float
    images_per_second: float
    gmacs_per_second: float
    share_of_product: float
    peak_memory_mib: float


@dataclass(frozen=True)
class StageTimeRow:
    """Times of a stage by itself: medians, milliseconds a batch, and multiplications of one image."""

    model: str
    stage: str
    forward_ms: float
    backward_ms: float
    macs: int


def measured(networks: Sequence[Network], seconds: float) -> tuple[list[NetworkRow], list[StageTimeRow]]:
    """Time the steps of networks in turns for so many seconds, and their stages for half as many."""
    device, precision = networks[0].subject.device, networks[0].subject.precision
    fastest = product_rate(device, precision)
    steps: dict[str, list[StepTimes]] = {network.name: [] for network in networks}
    works = {network.name: partial(time_step, network.subject) for network in networks}
    for name, times in interleaved(works, seconds=seconds):
        steps[name].append(times)
    stages: dict[str, list[dict[str, StageTimes]]] = {network.name: [] for network in networks}
    parts = {network.name: partial(time_stages, network.subject) for network in networks}
    for name, by_stage in interleaved(parts, seconds=seconds / 2, least=3):
        stages[name].append(by_stage)
    return (
        [network_row(network, steps[network.name], fastest) for network in networks],
        [row for network in networks for row in stage_rows(network, stages[network.name])],
    )


def network_row(network: Network, times: Sequence[StepTimes], fastest: float) -> NetworkRow:
    """Return the row of a network; `fastest` are the multiplications a second of a matrix product."""
    subject, batch = network.subject, len(network.subject.images)
    forward, backward, update = (spread([getattr(time, part) for time in times]).median for part in StepTimes._fields)
    step: Spread = spread([time.step for time in times])
    rate = network.macs * batch / forward
    memory = peak_memory(subject, sum(stage.activations for stage in network.stages))
    return NetworkRow(
        network.name,
        batch,
        str(subject.device),
        subject.precision,
        step.n,
        forward_ms=1000 * forward,
        backward_ms=1000 * backward,
        update_ms=1000 * update,
        step_ms=1000 * step.median,
        step_low_ms=1000 * step.low,
        step_high_ms=1000 * step.high,
        backward_by_forward=backward / forward,
        images_per_second=batch / step.median,
        gmacs_per_second=rate / 1e9,
        share_of_product=rate / fastest,
        peak_memory_mib=memory / 2**20,
    )


def stage_rows(network: Network, times: Sequence[Mapping[str, StageTimes]]) -> list[StageTimeRow]:
    """Return the rows of a network's stages, in their order."""
    rows = []
    for stage in network.stages:
        forward = spread([by_stage[stage.name].forward for by_stage in times]).median
        backward = spread([by_stage[stage.name].backward for by_stage in times]).median
        rows.append(StageTimeRow(network.name, stage.name, 1000 * forward, 1000 * backward, stage.macs))
    return rows


def batch_of_noise(
    shape: Sequence[int], classes: int, batch: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of noise [batch, C, H, W] and labels on a device, in the memory order that training uses."""
    images = torch.randn(batch, *shape, device=device).to(memory_format=torch.channels_last)
    return images, torch.arange(batch, device=device) % classes


def on_device(net: nn.Sequential, device: torch.device) -> nn.Sequential:
    """Return a network in training on a device, in the memory order that training uses."""
    return net.to(device).to(memory_format=torch.channels_last).train()
