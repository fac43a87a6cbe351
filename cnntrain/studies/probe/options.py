"""What `cnntrain probe` may be asked; the values lie in `conf/probe.yaml`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cnntrain.config.schema import Observed
from cnntrain.nn.stages import Reduction
from cnntrain.runtime.ranges import Count, Positive, Range


@dataclass(frozen=True)
class Probe(Observed):
    """`cnntrain probe`."""

    classifier: Literal["both", "svm", "softmax"]
    control: Literal["both", "random", "permuted", "none"]
    twins: Count
    train_images: Count
    pool: Reduction
    c: list[Positive]
    folds: Annotated[int, Range(low=2)]
    fold_images: Count
    memory: Positive | None
    save: bool
    table: Literal["text", "markdown", "csv"]
