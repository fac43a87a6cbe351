"""Whether maps are worth anything: scores over images, with intervals, and paired with what other maps reach.

Insertion, deletion, the pointing game and localisation, of each method and of maps that look at no network. Intervals
are over images, by the jackknife; differences are tested by the signs of paired differences. What is asked first, the
difference from an edge map, is corrected by Holm's method over all methods and scores; and the differences of each
method from each other over all pairs and scores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cnntrain.config.schema import SplitName
from cnntrain.data.storage.images import spread
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.tables import Row
from cnntrain.stats.jackknife import mean_band
from cnntrain.stats.paired_tests import PairedTest
from cnntrain.studies.explain.attribution import Attribution, attribute
from cnntrain.studies.explain.insertion import areas
from cnntrain.studies.explain.localisation import (
    THRESHOLDS,
    Mask,
    Truth,
    overlaps,
    pixel_precision,
    points_inside,
)
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.paired import ImageScores, all_pairs, tested
from cnntrain.studies.explain.question import ImageSet, Question, Subject, find_image_set, find_split, split_images
from cnntrain.studies.explain.references import EDGES, REFERENCES, WHOLE
from cnntrain.studies.explain.truths import find_masks, read_boxes, seen_boxes, seen_masks

Mapper = Callable[[Question], np.ndarray]  # gives the maps [N, H, W] of the images of a question
HALF = 0.5  # of the union is shared: then a box counts as found
OVERLAPS = (0.3, 0.5, 0.7)


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """Images and, where it is given, where in each lies what it shows."""

    images: ImageSet
    truths: Sequence[Truth] | None


@dataclass(frozen=True)
class MapScore:
    """One score of one method: the mean over `n` images, and its 95 % interval.

    `threshold` is the share of a map's range from which on it belongs to its region, for scores of regions.
    `difference` is paired with the edge map's.
    """

    method: str
    score: str
    value: float
    low: float
    high: float
    n: int
    threshold: float | None = None
    difference: PairedTest | None = None


@dataclass(frozen=True)
class MethodScores:
    """What maps are worth: the scores of each method, and by score the tests of each method against those before it."""

    each: Sequence[MapScore]
    pairs: Mapping[str, Sequence[PairedTest]]


@dataclass(frozen=True, eq=False)
class ScoredSplits:
    """The images that are scored, and the training images on which thresholds are chosen, where the truth is given."""

    measured: ScoredImages
    trained: ScoredImages | None


def find_scored(subject: Subject, options: Explain) -> ScoredSplits | None:
    """Return the images for the scores that are asked for, if any are.

    Raises `InputError` for boxes or masks without a score that needs them, and the other way round.
    """
    given = [key for key in ("boxes", "masks") if getattr(options.dataset, key) is not None]
    if len(given) > 1:
        raise InputError("dataset.boxes= and dataset.masks= both say what lies where: name one of them")
    if given and options.scores in (False, "insertion"):
        raise InputError(f"dataset.{given[0]}= serves scores=localisation or scores=true")
    if options.scores == "localisation" and not given:
        raise InputError(
            "scores=localisation needs boxes or masks: name their list or folder with dataset.boxes= or dataset.masks="
        )
    if not options.scores:
        return None
    measured = scored_images(subject, options, options.split)
    return ScoredSplits(measured, None if measured.truths is None else scored_images(subject, options, "train"))


def measure_scores(
    subject: Subject, options: Explain, attributions: Mapping[str, Attribution], splits: ScoredSplits
) -> MethodScores:
    """Score the maps of methods, and of those that look at no network, on the same images."""
    measured, trained = splits.measured, splits.trained
    mappers: dict[str, Mapper] = {
        **{name: mapper_of(name, attribution) for name, attribution in attributions.items()},
        **{name: reference_mapper(name) for name in REFERENCES},
    }
    scores = list[ImageScores]()
    for name, mapper in mappers.items():
        question = Question(subject, measured.images, options)
        maps = mapper(question)
        if options.scores != "localisation" and name != WHOLE:  # which has no order
            inserted, deleted = areas(question, question.targets("probability"), maps, name)
            scores += [ImageScores(name, "insertion", inserted), ImageScores(name, "deletion", deleted)]
        if measured.truths is not None and trained is not None:
            scores += localised(name, mapper, question, maps, measured.truths, trained)
    return MethodScores(summed_up(scores), all_pairs(scores))


def mapper_of(name: str, attribution: Attribution) -> Mapper:
    """Return what makes the maps of a method."""
    return lambda question: attribute(attribution, question, name).values.numpy()


def reference_mapper(name: str) -> Mapper:
    """Return what makes maps that look at no network."""
    return lambda question: REFERENCES[name](question.images.pixels, question.options.seed)


def scored_images(subject: Subject, options: Explain, split: SplitName) -> ScoredImages:
    """Return the images that are scored: `scored=` of a split, evenly spaced, or the files that `images=` names.

    Raises `InputError` for boxes or masks of images that are not the run's own, and for images without one.
    """
    boxes, masks = options.dataset.boxes, options.dataset.masks
    if not isinstance(options.images, int):
        if boxes or masks:
            raise InputError("dataset.boxes= and dataset.masks= are for images of a split; let images= be a number")
        return ScoredImages(find_image_set(subject, options), None)
    found = find_split(subject, replace(options, split=split))
    places = spread(len(found.split), options.scored)
    images = split_images(subject, options, found, places)
    source, size = found.split.take(places).source, (subject.info.shape[1], subject.info.shape[2])
    if boxes is not None:
        return ScoredImages(images, seen_boxes(read_boxes(boxes), source, size))
    return ScoredImages(images, None if masks is None else seen_masks(find_masks(masks), source, size))


def localised(
    name: str,
    mapper: Mapper,
    question: Question,
    maps: np.ndarray,
    truths: Sequence[Truth],
    trained: ScoredImages,
) -> list[ImageScores]:
    """Return the pointing game and the localisation of maps of the true classes.

    The threshold is the one that finds most on training images (`trained`). Of boxes, those of `max_box_acc` are the
    best for the scored images themselves; of masks, the average precision of pixels needs none.
    """
    images, true_class = question.images, replace(question.options, target="true")
    assert images.labels is not None and trained.truths is not None  # images of a split have both
    other = np.flatnonzero((question.targets("logit").classes != images.labels).numpy())
    if len(other):
        maps = maps.copy()
        maps[other] = mapper(Question(question.subject, images.take(other), true_class))
    pointed = np.array([points_inside(values, some) for values, some in zip(maps, truths, strict=True)])
    shared = overlaps(maps, truths)
    learned = overlaps(mapper(Question(question.subject, trained.images, true_class)), trained.truths)
    chosen = int((learned >= HALF).mean(axis=0).argmax())
    located = (shared[:, chosen] >= HALF).astype(np.float64)
    right = (images.logits.argmax(dim=1) == images.labels).numpy()
    threshold = float(THRESHOLDS[chosen])
    scores = [
        ImageScores(name, "pointing_game", pointed),
        ImageScores(name, "gt_known_localisation", located, threshold),
        ImageScores(name, "top1_localisation", located * right, threshold),
    ]
    masks = [truth.pixels for truth in truths if isinstance(truth, Mask)]
    if masks:
        precise = [pixel_precision(values, mask) for values, mask in zip(maps, masks, strict=True)]
        return [*scores, ImageScores(name, "pixel_precision", np.array(precise))]
    for least in OVERLAPS:
        hits = shared >= least
        best = int(hits.mean(axis=0).argmax())
        scores.append(
            ImageScores(name, f"max_box_acc_{least}", hits[:, best].astype(np.float64), float(THRESHOLDS[best]))
        )
    return scores


def summed_up(scores: Sequence[ImageScores]) -> list[MapScore]:
    """Return the mean of each score with its interval, and its paired difference to the edge map's."""
    edges = {score.score: score for score in scores if score.method == EDGES}
    others = [score for score in scores if score.method != EDGES]
    tests = iter(tested([(score, edges[score.score]) for score in others]))
    return [
        MapScore(
            score.method,
            score.score,
            *mean_band(score.values, (0, 1) if score.counts else None),
            len(score.values),
            score.threshold,
            None if score.method == EDGES else next(tests),
        )
        for score in scores
    ]


def score_rows(scores: Sequence[MapScore]) -> list[Row]:
    """Return the rows of the table, which are those of `--json`."""
    rows = list[Row]()
    for score in scores:
        test = score.difference
        rows.append(
            {
                "method": score.method,
                "score": score.score,
                "value": score.value,
                "low": score.low,
                "high": score.high,
                "n": score.n,
                "threshold": score.threshold,
                "delta": test and test.delta,
                "delta_low": test and test.delta_low,
                "delta_high": test and test.delta_high,
                "p": test and test.p,
                "p_holm": test and test.p_holm,
                "than edge map": test and test.verdict,
            }
        )
    return rows
