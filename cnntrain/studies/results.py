"""What the finished cells of a study measured, of those that were measured on the same test images."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnntrain.runs import records
from cnntrain.runs.evaluation import Evaluation, evaluation_folder, read_evaluation
from cnntrain.runs.images import PIXELS
from cnntrain.runs.load import read_info
from cnntrain.runtime.progress import say
from cnntrain.stats.paired_tests import Pairs, discordant_pairs
from cnntrain.studies.cells import Cell, CellScores, finished_scores
from cnntrain.tasks import task_of
from cnntrain.tasks.classification import Classification


@dataclass(frozen=True)
class CellResult:
    """What a finished cell measured."""

    scores: CellScores
    per_image: np.ndarray  # [N, …] of the test images, in the same order in all cells: which it has right
    interval: tuple[float, float] | None = None  # 95 %, of a score that is no share of images
    paired: Callable[[np.ndarray, np.ndarray], Pairs] = discordant_pairs  # compares two cells per image


Results = Mapping[tuple[str, int], CellResult]  # by variant and seed


def read_results(
    cells: Sequence[Cell], images_of: Callable[[Cell], Hashable] = lambda cell: None
) -> dict[tuple[str, int], CellResult]:
    """Return what the finished cells measured, by variant and seed.

    Cells for which `images_of` gives the same share their test images: those whose test images are not those of the
    first are left out.
    """
    results: dict[tuple[str, int], CellResult] = {}
    firsts: dict[Hashable, tuple[Cell, Evaluation]] = {}
    for cell in cells:
        if (scores := finished_scores(cell.folder)) is None:
            continue
        evaluation = read_evaluation(evaluation_folder(cell.folder, "test", "last"))
        first = firsts.setdefault(images_of(cell), (cell, evaluation))
        if not same_images(first, (cell, evaluation)):
            noun = read_info(records.record(cell.folder)).noun
            say(f"{cell.folder} was measured on other test {noun}s than {first[0].folder}, and is left out")
            continue
        results[cell.variant.name, cell.seed] = result_of(scores, evaluation)
    return results


def result_of(scores: CellScores, evaluation: Evaluation) -> CellResult:
    """Return what a cell measured, from its scores and its evaluation of the test images."""
    task, headline = task_of(evaluation.results), evaluation.headline
    if task is Classification:
        return CellResult(scores, evaluation.per_image)
    ends = evaluation.results[headline.low], evaluation.results[headline.high]
    return CellResult(scores, evaluation.per_image, ends, task.paired)


def same_images(*measured: tuple[Cell, Evaluation]) -> bool:
    """Say whether two cells were measured on the same test images, by their pixels where both see them alike."""
    (_, first), (_, second) = measured
    seen = [{key: cell.settings["dataset"].get(key) for key in PIXELS} for cell, _ in measured]
    if seen[0] == seen[1] and (first.checksums is None) == (second.checksums is None):
        return bool(first.results["record"]["images"] == second.results["record"]["images"])
    files = [each.files for each in (first, second) if each.files is not None]
    return np.array_equal(first.labels, second.labels) and (len(files) < 2 or np.array_equal(files[0], files[1]))
