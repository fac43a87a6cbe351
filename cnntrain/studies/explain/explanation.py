"""What a method answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cnntrain.runtime.tables import Row
from cnntrain.stats.paired_tests import PairedTest
from cnntrain.studies.explain.question import Question
from cnntrain.studies.explain.tiles import Tile, TiledPicture


@dataclass(frozen=True, eq=False)
class Explanation:
    """The pictures of a method, rows of a table beside them, and sentences that a reader needs to trust them.

    `units` is what it shows of single units, by stage and number; `pairs` are tests of what it compares, by score.
    """

    pictures: Sequence[TiledPicture]
    rows: Sequence[Row] = field(default_factory=list)
    remarks: Sequence[str] = field(default_factory=list)
    units: Mapping[str, Mapping[int, Sequence[Tile]]] = field(default_factory=dict)
    pairs: Mapping[str, Sequence[PairedTest]] = field(default_factory=dict)


# Raises `InputError` for a network that the method does not allow, naming the reason and one that it does.
Method = Callable[[Question], Explanation]
