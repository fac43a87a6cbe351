"""What an invariance study found, in sentences computed from its numbers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cnntrain.runtime.tables import percent
from cnntrain.stats.jackknife import band
from cnntrain.studies.invariance.figures import Line
from cnntrain.studies.invariance.rows import AliasingRow, ClassRow, DifferenceRow, PixelRow, bands, seed_bands
from cnntrain.transforms.transform import Transform

FLOOR = 0.05  # a control that moves features less is not worth a sentence


def telling(transform: Transform) -> int:
    """Return the place of the amount that sentences speak of: above neutral, a fifth of the way to the largest."""
    distances = np.array([math.dist(amount, transform.neutral) for amount in transform.amounts])
    above = np.array(
        [amount[-1] >= transform.neutral[-1] and amount != transform.neutral for amount in transform.amounts]
    )
    if not above.any():
        above = distances > 0
    if not above.any():
        return 0
    wanted = distances.max() / 5
    return int(np.where(above, np.abs(distances - wanted), np.inf).argmin())


def amount_words(transform: Transform, place: int) -> str:
    """Return an amount in words: translate_y 2 pixels, scale ×1.23."""
    shown = ", ".join(f"{part:.3g}" for part in transform.amounts[place])
    if transform.unit == "factor":
        return f"{transform.name} ×{shown}"
    return f"{transform.name} {shown if transform.axes == 1 else f'({shown})'} {transform.unit}"


def ranged(value: float, low: float, high: float) -> str:
    """Write a number with its band: 0.61 (0.59 … 0.63)."""
    return f"{value:.2f} ({low:.2f} … {high:.2f})"


def line_words(transform: Transform, line: Line) -> list[str]:
    """Return the sentences about one network, or about several that differ in their seed."""
    at, curves, ends = telling(transform), line.curves, bands(line.curves)
    early, late = curves.stages.index(line.early), curves.stages.index(line.late)
    where = amount_words(transform, at)

    def distance(stage: int) -> str:
        return ranged(curves.values["distance"][0][at, stage], *(end[at, stage] for end in ends["distance"]))

    sentences = [
        f"At {where}, {line.early} moves {distance(early)} and {line.late} {distance(late)} of the distance to an "
        f"image of another class{depth_words(line, at)}."
    ]
    error = curves.values["equivariance"][0][at, early]
    if np.isfinite(error):
        moved = curves.values["distance"][0][at, early]
        kind = "equivariant" if error < moved / 2 else "not equivariant"
        sentences.append(
            f"{line.early} is {kind}: its map of the changed image is {error:.2f} away from the changed map, and "
            f"{moved:.2f} from the unchanged one."
        )
    sentences += control_words(line, at, early)
    share = ranged(100 * curves.values["consistency"][0][at], *(100 * end[at] for end in ends["consistency"]))
    p = ranged(curves.values["p_true"][0][at], *(end[at] for end in ends["p_true"]))
    sentences.append(f"{share} % of the predictions stay the same{chance_words(line, ends, at)}.")
    sentences.append(f"The probability of the true class is {p}{unchanged_words(transform, line)}.")
    if "target_rate" in curves.values:
        hit = ranged(100 * curves.values["target_rate"][0][at], *(100 * end[at] for end in ends["target_rate"]))
        sentences.append(f"{hit} % are taken for the attack's target class.")
    if len(line.members) > 1:
        low, high = (100 * end[at] for end in seed_bands(line.members)["consistency"])
        sentences.append(f"Over {len(line.members)} seeds the share that stays the same is {low:.2f} … {high:.2f} %.")
    return sentences


def claim(named: Sequence[tuple[Transform, Line]]) -> str:
    """Return in one sentence which share of the predictions stays the same under each transform."""
    shares: dict[str, list[str]] = {}
    for transform, line in named:
        at = telling(transform)
        share = percent(line.curves.values["consistency"][0][at], 1)
        shares.setdefault(line.curves.name, []).append(f"{share} at {amount_words(transform, at)}")
    shares_words = "; ".join(f"{name} {', '.join(parts)}" for name, parts in shares.items())
    return f"Predictions that stay the same: {shares_words}."


def chance_words(line: Line, ends: Mapping[str, tuple[np.ndarray, np.ndarray]], at: int) -> str:
    """Return the share corrected for chance; without a mistake there is none."""
    corrected = line.curves.values["consistency_corrected"][0][at]
    if not np.isfinite(corrected):
        return " (without a mistake this cannot be corrected for chance)"
    low, high = (end[at] for end in ends["consistency_corrected"])
    return f"; corrected for chance (0: chance, 1: always) that is {ranged(corrected, low, high)}"


def depth_words(line: Line, at: int) -> str:
    """Say whether late features move less than early ones, from the band of the difference."""
    distances = line.curves.values["distance"][:, at]
    stages = line.curves.stages
    gap = distances[:, stages.index(line.late)] - distances[:, stages.index(line.early)]
    low, high = band(gap)
    if line.early == line.late or not np.isfinite(gap[0]):
        return ""
    if high < 0:
        return ": later features move less"
    if low > 0:
        return ": later features move more"
    return ": they do not differ significantly"


def control_words(line: Line, at: int, stage: int) -> list[str]:
    """Return sentences about what interpolation and the border alone move, where it is at least `FLOOR`."""
    words = []
    for control, what in ((line.curves.floor, "Interpolation"), (line.curves.padding, "The border")):
        if control and (moved := control["distance"][at, stage]) >= FLOOR:
            words.append(f"{what} alone would move {line.early} {moved:.2f}.")
    return words


def unchanged_words(transform: Transform, line: Line) -> str:
    """Return the probability of the true class on unchanged images, where these were measured."""
    if transform.neutral not in transform.amounts:
        return ""
    return f", on unchanged images {line.curves.values['p_true'][0][transform.amounts.index(transform.neutral)]:.2f}"


def difference_words(rows: Sequence[DifferenceRow]) -> list[str]:
    """Return the sentences about networks against the first, averaged over the amounts of a warp."""
    words = []
    for row in rows:
        if row.curve != "consistency":
            continue
        low, high, seeds = row.delta.low, row.delta.high, row.over_seeds
        verb = "keeps more predictions than" if low > 0 else "keeps fewer predictions than" if high < 0 else ""
        points = f"{100 * row.delta.value:+.2f} points ({100 * low:+.2f} … {100 * high:+.2f} over images"
        if seeds:
            points += f"; {100 * seeds.low:+.2f} … {100 * seeds.high:+.2f} over {row.n_seeds} shared seeds"
        if verb:
            words.append(f"Over all amounts {row.name} {verb} {row.reference}: {points}).")
        else:
            words.append(f"{row.name} and {row.reference} do not differ significantly on these images: {points}).")
        if seeds and verb and seeds.low <= 0 <= seeds.high:
            words.append(f"Over seeds it is not significant: {row.name} differs for these runs only.")
    return words


def aliasing_words(rows: Sequence[AliasingRow]) -> list[str]:
    """Return the sentences about shifts by multiples of the stride."""
    words = []
    for row in rows:
        low, high = row.excess.low, row.excess.high
        excess = f"{100 * row.excess.value:+.2f} points ({100 * low:+.2f} … {100 * high:+.2f})"
        seen = "aliasing is found" if low > 0 else "no aliasing is found"
        words.append(
            f"{row.run}: {seen}; predictions at two shifts a multiple of the total stride {row.stride} apart agree by "
            f"{excess}, compared with neighbouring distances."
        )
    return words


def crossing_words(row: PixelRow) -> str:
    """Return the sentence about the pixels that a shift changes."""
    return (
        f"{row.transform} {row.amount:g} turns {row.black_to_white:.1f} pixels white and "
        f"{row.white_to_black:.1f} black on average, {row.changed:.1f} in all (5 to 95 % of the images: "
        f"{row.changed_5:.0f} … {row.changed_95:.0f}); in {percent(row.equal, 1)} of {row.n:,} images the "
        "two are equal, since their ink stayed within the frame."
    )


def class_words(rows: Sequence[ClassRow]) -> list[str]:
    """Return a sentence about the class that suffers most in each network; its row is the first of the network's."""
    first = {row.run: row for row in reversed(rows)}
    return [
        f"{name}: the class {row.label} changes most; over all amounts {100 * row.consistency:.1f} % of its "
        "predictions stay the same."
        for name, row in reversed(first.items())
    ]
