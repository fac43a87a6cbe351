"""Training steps of classifiers, from keyword arguments: for tests that train without a configuration."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from cnntrain.nn.auxiliary import AuxiliaryClassifiers
from cnntrain.tasks.classification import Classification, Hinge
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState


def step_of(
    net: nn.Sequential,
    optimizer: Optimizer,
    rates: Sequence[float],
    *,
    auxiliary: AuxiliaryClassifiers | None = None,
    ema: float = 0.0,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    hinge: Hinge | None = None,
    **settings: Any,
) -> TrainStep:
    task = Classification((), class_weights, label_smoothing, hinge)
    options = {"precision": "fp32", "seed": 0} | settings
    return TrainStep(TrainState(net, optimizer, auxiliary=auxiliary, ema=ema), rates, task, StepSettings(**options))
