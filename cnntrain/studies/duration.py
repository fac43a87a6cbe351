"""How long a training will take: a few steps on noise, before any image is read."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from cnntrain.config.build import count_images
from cnntrain.config.read import read_config
from cnntrain.config.schema import Fit, Options
from cnntrain.data.datasets.noise import noise
from cnntrain.data.storage.images import Dataset, DatasetInfo
from cnntrain.runs.check import check_fit
from cnntrain.runs.setup import build
from cnntrain.runtime.devices import choose_device
from cnntrain.studies.variants import info_of

LARGE = 5e9  # multiplications of a step beyond which a smaller batch is timed
STEPS = 3
ROUNDS, ENOUGH = 60, 3.0  # at most so many steps of each in turns, and seconds after which fewer do


def seconds_of(settings: Options, multiplications: int, threads: int) -> float:
    """Return about how long one run takes on one job, from a few steps on noise.

    `multiplications` are those of one image, or the number of parameters where these are not known.
    """
    cfg = read_config(Fit, settings)
    info, trainer = info_of(settings), cfg.trainer
    train, val, test = count_images(cfg.dataset, cfg.data_root)
    before, batch = torch.get_num_threads(), trainer.batch_size
    torch.set_num_threads(threads)
    try:
        work = 3 * multiplications
        if work * batch > LARGE and batch > 8:
            few = max(2, min(batch // 2, int(LARGE / work) // 2))
            single, double = (step_seconds(cfg, info, size) for size in (few, 2 * few))
            image = max(double - single, 0) / few
            step = single + image * (batch - few)
        else:
            step = step_seconds(cfg, info, batch)
            image = step / batch
    finally:
        torch.set_num_threads(before)
    training = trainer.epochs * (train // batch) * step
    evaluating = (trainer.epochs / trainer.validate_every * val + train + test) * image / 3
    return training + evaluating


def in_turns(settings: Sequence[Options], multiplications: int) -> list[float]:
    """Return how many seconds an image takes in a training step of each configuration, with one thread.

    They take their steps in turns, so that whatever else the machine does slows all alike; the shortest counts. On a
    processor its own time counts, without what it waits for other programs.
    """
    configurations, before = [read_config(Fit, each) for each in settings], torch.get_num_threads()
    batch = max(2, min(configurations[0].trainer.batch_size, int(LARGE / (3 * multiplications))))
    torch.set_num_threads(1)
    try:
        clock = time.process_time if choose_device(configurations[0].device).type == "cpu" else time.perf_counter
        steps = [
            timed_steps(cfg, info_of(each), batch, ROUNDS, clock)
            for cfg, each in zip(configurations, settings, strict=True)
        ]
        rounds = [[next(step) for step in steps] for _ in range(STEPS)]
        while len(rounds) < ROUNDS and sum(map(sum, rounds)) < ENOUGH:
            rounds.append([next(step) for step in steps])
    finally:
        torch.set_num_threads(before)
    return [min(times) / batch for times in zip(*rounds[1:], strict=True)]


def step_seconds(cfg: Fit, info: DatasetInfo, batch: int) -> float:
    """Return how long a step on so many images of noise takes, the shortest of a few."""
    return min(list(timed_steps(cfg, info, batch, STEPS))[1:])


def timed_steps(
    cfg: Fit, info: DatasetInfo, batch: int, steps: int, clock: Callable[[], float] = time.perf_counter
) -> Iterator[float]:
    """Take so many steps on a batch of noise each, and yield how long each took by a clock."""
    images = Dataset(info, noise(info, 2 * batch), None, None)
    small = replace(
        cfg,
        init_from=None,
        trainer=replace(cfg.trainer, epochs=steps, batch_size=batch, accumulate=1),
        dataset=cfg.dataset | {"workers": 0, "balance": "none"},
    )
    built = build(check_fit(small, begun=True), images)  # no weights are read
    for step in range(steps):
        began = clock()
        built.train_step.update(built.loader, step)
        float(built.train_step.program.sums.loss)  # waits for the device
        yield clock() - began
