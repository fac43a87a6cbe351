"""A study of transfer: which cells it has, and how long each may train."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnntrain.config.build import count_images
from cnntrain.config.schema import Transfer
from cnntrain.nn.geometry import count_parameters
from cnntrain.runs.folder import create_folder
from cnntrain.runtime.jsonfile import read_json, write_json
from cnntrain.runtime.progress import say
from cnntrain.studies import duration, grid
from cnntrain.studies.answer import count_comparisons
from cnntrain.studies.sizes import network, rows_of
from cnntrain.studies.study import PlannedStudy, chosen_seeds, planned
from cnntrain.studies.transfer.regimes import Regime, longer, reference_of, regimes_of, source_of, with_size
from cnntrain.studies.variants import SizedVariant, info_of

BUDGET = "budget.json"  # in the study's folder: by frozen stages, how many times faster a step is than with none


@dataclass(frozen=True)
class PlannedTransfer:
    """A study before its cells are made, with what each of its variants stands for."""

    study: PlannedStudy[Transfer]
    regimes: list[Regime]
    speedups: dict[str, float]  # of a training step, by the frozen stages


def plan_study(cfg: Transfer) -> PlannedTransfer:
    """Find the regimes, sizes, seeds and cells of a study; no image is read.

    Raises `InputError` for what cannot be built, or where the study's folder holds other cells.
    """
    source = source_of(cfg)
    regimes = regimes_of(cfg, source)
    folder = Path(cfg.output_dir) if cfg.output_dir else default_folder(regimes[0], source.run)
    net = network(regimes[0])
    params, macs = count_parameters(net), rows_of(net, info_of(regimes[0].settings).shape)[1]
    timed = functools.cache(lambda: image_seconds(regimes, macs or params))
    sized = [with_size(regime, size) for size in cfg.sizes for regime in regimes] if cfg.sizes else regimes
    speedups: dict[str, float] = {}
    if "seconds" in cfg.budgets:
        speedups = known_speedups(folder)
        if any(frozen_key(regime) not in speedups for regime in regimes):
            speedups = {key: timed()[""] / seconds for key, seconds in timed().items()} | speedups
        more = [(regime, round(regime.epochs * speedups[frozen_key(regime)])) for regime in sized]
        sized = [*sized, *(longer(regime, epochs) for regime, epochs in more if epochs > regime.epochs)]
    variants = [
        SizedVariant(regime, (), params, 0, macs, reference=reference_of(regime, sized).name) for regime in sized
    ]
    seeds = chosen_seeds(cfg, count_comparisons(variants))
    cells = grid.cells_of(sized, dict.fromkeys(seeds), folder, source.words)
    study = planned(
        cfg, folder, variants, seeds, cells, lambda: {each.name: run_seconds(each, timed()) for each in sized}
    )
    return PlannedTransfer(study, sized, speedups)


def default_folder(regime: Regime, run: Path | None) -> Path:
    """Return the folder of a study for which none is named."""
    settings = regime.settings | {"model": regime.settings["model"] | {"weights": None, "head": None}}
    neutral = settings | {"init_from": None, "trainer": settings["trainer"] | {"freeze": None}}
    return grid.study_folder("transfer", "transfer", neutral, {"run": None if run is None else str(run)})


# Time.


def frozen_key(regime: Regime) -> str:
    """Return the name of what a regime freezes in `budget.json`; empty for nothing."""
    return ",".join(regime.frozen)


def image_seconds(regimes: Sequence[Regime], multiplications: int) -> dict[str, float]:
    """Return how long a training step takes for each image, by the frozen stages; with nothing frozen among them."""
    say("timing a few steps of each regime on noise, in turns …")
    settings = {frozen_key(regime): regime.settings for regime in regimes}
    trainer = regimes[0].settings["trainer"] | {"freeze": None}
    settings = {"": regimes[0].settings | {"trainer": trainer}} | settings
    return dict(zip(settings, duration.in_turns(list(settings.values()), multiplications), strict=True))


def run_seconds(regime: Regime, seconds: dict[str, float]) -> float:
    """Return about how long a run takes; the forward pass of an image is a third of its step with nothing frozen."""
    train, val, test = count_images(regime.settings["dataset"], regime.settings["data_root"])
    every: int = regime.settings["trainer"]["validate_every"]
    evaluated = regime.epochs / every * val + train + test
    return regime.epochs * train * seconds[frozen_key(regime)] + evaluated * seconds[""] / 3


def known_speedups(folder: Path) -> dict[str, float]:
    """Return the speed-ups that the cells of a study were planned with; none for a new study."""
    path = folder / BUDGET
    return {key: float(value) for key, value in read_json(path).items()} if path.is_file() else {}


def keep_speedups(planned: PlannedTransfer) -> None:
    """Keep the speed-ups in the study's folder, so that it is resumed with the same numbers of epochs."""
    if planned.speedups:
        write_json(create_folder(planned.study.folder) / BUDGET, planned.speedups)
