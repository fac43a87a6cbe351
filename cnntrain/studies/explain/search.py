"""What methods about units share: the stages and units to look at, and the images among which they search."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cnntrain.data.storage.images import Split, spread
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import stage_shapes
from cnntrain.runtime.errors import InputError, unknown
from cnntrain.runtime.progress import counting
from cnntrain.runtime.tables import counted
from cnntrain.studies.explain.question import Question, Subject, find_split
from cnntrain.studies.explain.units import chosen_units

MOST_STAGES = 8  # that are looked at where nobody has named some


@dataclass(frozen=True, eq=False)
class SearchedImages:
    """Images of a split, evenly spaced, shown to a network in batches under a bar."""

    subject: Subject
    split: Split
    name: str  # of the split
    batch_size: int

    def __len__(self) -> int:
        return len(self.split)

    def pixels(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the images at some places, uint8 [N, H, W, C]."""
        return self.split.source.read(places).numpy()

    def batches(self, what: str) -> Iterator[Tensor]:
        """Yield all images as the network takes them, [N, C, H, W]."""
        with counting(len(self), what, self.subject.info.noun) as progress:
            for start in range(0, len(self), self.batch_size):
                places = np.arange(start, min(start + self.batch_size, len(self)))
                yield self.subject.inputs(self.pixels(places))
                progress(len(places))


def searched_images(question: Question) -> SearchedImages:
    """Return the images of the split among which units look for what excites them: `search=` of them."""
    images = find_split(question.subject, question.options)
    split = images.split.take(spread(len(images.split), question.options.search))
    return SearchedImages(question.subject, split, images.name, question.options.batch_size)


@dataclass(frozen=True, eq=False)
class ChosenUnits:
    """The stages to look at with their shapes, the numbers of the units in each, and what that leaves out."""

    shapes: dict[str, Shape]
    units: dict[str, np.ndarray]
    left_out: str


def units_to_show(question: Question, usual: int) -> ChosenUnits:
    """Return the stages and units to look at: those asked for, else `usual` units of some stages.

    Classes are units of the last stage. Raises `StageError` and `InputError` naming the nearest for what there is not.
    """
    shapes = stage_shapes(question.subject.net, question.subject.info.shape)
    classes = class_units(question)
    possible = list(shapes)[-1:] if classes else list(shapes)
    names = question.chosen_stages([possible[i] for i in spread(len(possible), MOST_STAGES)])
    counts = {name: shapes[name][0] for name in shapes if name in names}
    units = chosen_units(classes or question.options.units, counts, usual)
    return ChosenUnits({name: shapes[name] for name in units}, units, left_out(possible, counts, units))


def class_units(question: Question) -> list[int]:
    """Return the numbers of the classes that `classes=` names.

    Raises `InputError` for an unknown one, and where stages or units are named too.
    """
    options, names = question.options, question.subject.info.classes
    if not options.classes:
        return []
    if options.stages or options.units:
        raise InputError("classes= names units of the last stage: leave stages= and units= out")
    if absent := [name for name in options.classes if name not in names]:
        raise unknown("classes", absent[0], names)
    return [names.index(name) for name in options.classes]


def left_out(possible: Sequence[str], counts: dict[str, int], units: dict[str, np.ndarray]) -> str:
    """Say of how many stages and units only some are shown, and how to name others; nothing where all are."""
    parts = []
    if len(units) < len(possible):
        parts.append(f"{len(units)} of {counted(len(possible), 'stage')} (stages=[…] names others)")
    most = max(len(numbers) for numbers in units.values())
    if any(len(units[name]) < counts[name] for name in units):
        parts.append(f"at most {counted(most, 'unit')} of each (units=16 shows more, units=[0,5] names some)")
    return f"Shown: {'; '.join(parts)}." if parts else ""
