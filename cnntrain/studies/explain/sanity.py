"""Whether maps change when the weights do: stages put back to random weights, from the last to the first.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim, "Sanity Checks for Saliency Maps", NeurIPS 2018: cascading
randomisation, and networks trained on permuted labels. Maps of the same class are compared by the rank correlation of
their values, with and without sign, and by their structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage, stats

from cnntrain.data.storage.images import spread
from cnntrain.runs.folder import find_run
from cnntrain.runs.load import load_run, rebuild
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.seeding import generator
from cnntrain.runtime.tables import Row
from cnntrain.stats.jackknife import mean_band
from cnntrain.studies.explain.attribution import Attribution, attribute
from cnntrain.studies.explain.question import Question, Subject
from cnntrain.studies.networks import with_stages_of

LABELS = "labels"  # in place of a stage: another network, trained on permuted labels
MOST_STAGES = 8  # at which maps are compared, evenly spaced, the first stage among them
CHANGED = 0.5  # a method's maps change where their rank correlation is lower, once all weights are random
WINDOW = 7  # pixels a side of structural similarity


class MeanCorrelation(NamedTuple):
    """A rank correlation's mean over images, and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SanityRow:
    """How much the maps of a method are alike before and after the weights change, from `stage` to the last.

    `sizes` compares the values without their signs, `signs` with them (None for methods without signs); `ssim` is the
    mean structural similarity, and `n` the number of images.
    """

    method: str
    stage: str
    sizes: MeanCorrelation
    signs: MeanCorrelation | None
    ssim: float
    n: int


def find_permuted(subject: Subject, run: str | None) -> Subject | None:
    """Return the network of a run that was trained on permuted labels, if one is named.

    Raises `InputError` where it does not answer the same question.
    """
    if run is None:
        return None
    net, info, settings = load_run(find_run(run, "random_labels"), "last")
    if (info.shape, info.classes) != (subject.info.shape, subject.info.classes):
        raise InputError(f"random_labels={run} is a network of other images or classes")
    return replace(subject, net=net.to(subject.device), settings=settings)


def check_sanity(
    question: Question, attributions: Mapping[str, Attribution], permuted: Subject | None
) -> list[SanityRow]:
    """Compare the maps of each method with those after more and more stages are random, and of permuted labels."""
    before = {name: maps_of(question, name, attribution) for name, attribution in attributions.items()}
    rows = list[SanityRow]()
    others = random_networks(question.subject, question.options.seed)
    for stage, subject in itertools.chain(others, [(LABELS, permuted)] if permuted else []):
        other = replace(question, subject=subject)
        for name, attribution in attributions.items():
            after = maps_of(other, name, attribution)
            rows.append(compared(name, stage, before[name], after, signed=attribution.signed))
    return sorted(rows, key=lambda row: list(attributions).index(row.method))


def maps_of(question: Question, name: str, attribution: Attribution) -> np.ndarray:
    """Return the maps of a method; classes stay those that the trained network predicts."""
    return attribute(attribution, question, name).values.numpy()


def random_networks(subject: Subject, seed: int) -> Iterator[tuple[str, Subject]]:
    """Yield networks whose stages are random from one to the last, and the name of the one."""
    net = subject.net
    learned = [name for name, stage in net.named_children() if any(p.requires_grad for p in stage.parameters())]
    fresh = rebuild(subject.settings, subject.info, seed=int(generator(seed, "rerandomize").integers(2**31)))
    for place in reversed(spread(len(learned), MOST_STAGES)):
        changed = with_stages_of(net, fresh.to(subject.device), learned[place:])
        yield learned[place], replace(subject, net=changed.eval())


def compared(name: str, stage: str, before: np.ndarray, after: np.ndarray, *, signed: bool) -> SanityRow:
    """Return how much maps [N, H, W] are alike."""
    pairs = list(zip(before, after, strict=True))
    sizes = [rank_correlation(np.abs(first), np.abs(second)) for first, second in pairs]
    signs = [rank_correlation(first, second) for first, second in pairs]
    similar = float(np.mean([structural_similarity(first, second, signed=signed) for first, second in pairs]))
    return SanityRow(name, stage, mean_of(sizes), mean_of(signs) if signed else None, similar, len(pairs))


def mean_of(correlations: Sequence[float]) -> MeanCorrelation:
    """Return the mean over images, and its interval."""
    return MeanCorrelation(*mean_band(np.array(correlations)))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's rank correlation of two maps; 0 where one of them has a single value."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(first), stats.rankdata(second))[0, 1])


def structural_similarity(first: np.ndarray, second: np.ndarray, *, signed: bool) -> float:
    """Return the mean structural similarity of two maps [H, W], each divided by its largest size."""
    x, y = (values.astype(np.float64) / (np.abs(values).max() or 1) for values in (first, second))
    span = 2.0 if signed else 1.0
    pixels = WINDOW**2

    def local(values: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.uniform_filter(values, WINDOW))

    mean_x, mean_y, unbiased = local(x), local(y), pixels / (pixels - 1)
    var_x, var_y = unbiased * (local(x * x) - mean_x**2), unbiased * (local(y * y) - mean_y**2)
    covariance = unbiased * (local(x * y) - mean_x * mean_y)
    light, contrast = (0.01 * span) ** 2, (0.03 * span) ** 2
    similarity = (2 * mean_x * mean_y + light) * (2 * covariance + contrast)
    similarity /= (mean_x**2 + mean_y**2 + light) * (var_x + var_y + contrast)
    edge = WINDOW // 2
    return float(similarity[edge:-edge, edge:-edge].mean())


def sanity_sentence(rows: Sequence[SanityRow], method: str) -> str:
    """Say of a method whether its maps change when the weights do."""
    own = [row for row in rows if row.method == method and row.stage != LABELS]
    if not own:
        return "Changes when the weights do: not tested (sanity=true)."
    last = own[-1]
    said = changed_words(last.sizes)
    if last.signs is not None:
        said = f"in size {said}; in sign {changed_words(last.signs)}"
    return f"Changes when the weights do: {said} with the maps of random weights; n = {last.n}."


def changed_words(alike: MeanCorrelation) -> str:
    """Say whether maps change that are so much alike those of random weights."""
    answer = "yes" if alike.high < CHANGED else "no" if alike.low >= CHANGED else "undecided"
    return f"{answer} (rank correlation {alike.mean:.2f}, {alike.low:.2f} … {alike.high:.2f})"


def sanity_rows(rows: Sequence[SanityRow]) -> list[Row]:
    """Return the rows of the table, which are those of `--json`."""
    return [
        {
            "method": row.method,
            "stage": row.stage,
            **dict(zip(("rank_correlation", "low", "high"), row.sizes, strict=True)),
            "signed_rank_correlation": row.signs and row.signs.mean,
            "signed_low": row.signs and row.signs.low,
            "signed_high": row.signs and row.signs.high,
            "ssim": row.ssim,
            "n": row.n,
        }
        for row in rows
    ]
