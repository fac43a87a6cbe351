"""What `cnntrain style` may be asked; the values lie in `conf/style.yaml`."""

from dataclasses import dataclass
from typing import Literal

from cnntrain.config.schema import Options, Shared
from cnntrain.runtime.ranges import Count, Natural, NonNegative

Recipe = Literal["relative", "paper", "notebook"]


@dataclass(frozen=True)
class Style(Shared):
    """`cnntrain style`."""

    content: str
    style: str
    run: str | None
    weights: Literal["best", "last"]
    model: Options | None
    dataset: Options
    recipe: Recipe
    content_stages: list[str] | None
    style_stages: list[str] | None
    alpha: NonNegative | None
    beta: NonNegative | None
    variation: NonNegative
    start: Literal["auto", "content", "style", "noise"]
    keep_colours: bool
    size: Count
    coarse: list[Count]
    steps: Count
    seed: Natural
    output: str | None
    data_root: str
