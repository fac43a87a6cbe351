"""What `cnntrain explain` may be asked, and the options of each method; the values lie in `conf/explain.yaml`."""

from dataclasses import dataclass
from typing import Literal

from cnntrain.config.schema import Shared, SplitName
from cnntrain.runtime.drawing import Medium
from cnntrain.runtime.ranges import Count, Fraction, Natural, NonNegative, Positive

Quantity = Literal["logit", "probability"]
ALL = "all"  # of `what=`: every method that the network allows, on a page to click through


@dataclass(frozen=True)
class OcclusionOptions:
    """The patch that covers a part of the image."""

    patch: Count | None
    stride: Count | None
    fill: Natural | None


@dataclass(frozen=True)
class IntegratedOptions:
    """The line along which gradients are integrated."""

    steps: Count
    fill: Natural | None


@dataclass(frozen=True)
class SmoothgradOptions:
    """The noise over which gradients are averaged."""

    samples: Count
    noise: Positive


@dataclass(frozen=True)
class MaximiseOptions:
    """What is to be excited, how, and from how many starts."""

    of: Literal["unit", "map"]
    prior: Literal["yosinski", "mahendran_vedaldi"]
    starts: Count
    steps: Count | None
    decay: Fraction
    blur: NonNegative
    blur_every: Count
    small_norm: Fraction
    small_contribution: Fraction


@dataclass(frozen=True)
class TruthOptions:
    """Where it is written what lies where in the images of the split."""

    boxes: str | None
    masks: str | None


@dataclass(frozen=True)
class Explain(Shared):
    """`cnntrain explain`."""

    run: str
    what: list[str] | str
    images: Count | list[str] | str
    choose: Literal["spread", "mistakes"]
    split: SplitName
    weights: Literal["best", "last"]
    stages: list[str] | None
    units: Count | list[Natural] | None
    classes: list[str] | None
    target: str
    quantity: Literal["auto", "logit", "probability"]
    occlusion: OcclusionOptions
    search: Count
    integrated: IntegratedOptions
    smoothgrad: SmoothgradOptions
    maximise: MaximiseOptions
    neighbours: Count
    scores: Literal["insertion", "localisation"] | bool
    scored: Count
    dataset: TruthOptions
    sanity: bool
    random_labels: str | None
    seed: Natural
    batch_size: Count
    strength: Fraction
    limit: Positive | None
    invert: bool | None
    data_root: str | None
    output: str | None
    output_dir: str | None
    figures: Medium
    tensorboard: bool


def explores(options: Explain) -> bool:
    """Say whether all methods are asked for."""
    return options.what in (ALL, [ALL])
