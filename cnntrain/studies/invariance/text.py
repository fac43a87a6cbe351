"""What an invariance study found, in sentences computed from its numbers, as Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnntrain.runtime.tables import percent, render
from cnntrain.stats.bootstrap import band
from cnntrain.studies.invariance.figures import Line
from cnntrain.studies.invariance.rows import bands, seed_bands
from cnntrain.transforms.transform import Transform

Row = Mapping[str, Any]
FLOOR = 0.05  # a control is worth a sentence from this part of the way on


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
    """Return an amount in words: translate_y of 2 pixels."""
    shown = ", ".join(f"{part:.3g}" for part in transform.amounts[place])
    return f"{transform.name} {shown if transform.axes == 1 else f'({shown})'} {transform.unit}"


def ranged(value: float, low: float, high: float) -> str:
    """Write a number with its band: 0.61 (0.59 … 0.63)."""
    return f"{value:.2f} ({low:.2f} … {high:.2f})"


def line_words(transform: Transform, line: Line) -> list[str]:
    """Return the sentences about one network, or about several that differ in their seed."""
    at, found, ends = telling(transform), line.curves, bands(line.curves)
    early, late = found.stages.index(line.early), found.stages.index(line.late)
    where = amount_words(transform, at)

    def distance(stage: int) -> str:
        return ranged(found.values["distance"][0][at, stage], *(end[at, stage] for end in ends["distance"]))

    sentences = [
        f"At {where}, {line.early} moves {distance(early)} of the way to an image of another class, {line.late} "
        f"{distance(late)}{depth_words(line, at)}."
    ]
    error = found.values["equivariance"][0][at, early]
    if np.isfinite(error):
        moved = found.values["distance"][0][at, early]
        verb = "moves along with the image" if error < moved / 2 else "does not simply move along with the image"
        sentences.append(
            f"The map of {line.early} {verb}: warped itself it is {error:.2f} away, left as it is {moved:.2f}."
        )
    sentences += control_words(line, at, early)
    kept = ranged(100 * found.values["consistency"][0][at], *(100 * end[at] for end in ends["consistency"]))
    p = ranged(found.values["p_true"][0][at], *(end[at] for end in ends["p_true"]))
    sentences.append(
        f"There {kept} % of the predictions stay{chance_words(line, ends, at)}, and the true class has the probability "
        f"{p}{unchanged_words(transform, line)}."
    )
    if "target_rate" in found.values:
        hit = ranged(100 * found.values["target_rate"][0][at], *(100 * end[at] for end in ends["target_rate"]))
        sentences.append(f"{hit} % are taken for the class that the attack wants.")
    if len(line.members) > 1:
        low, high = (end[at] for end in seed_bands(line.members)["consistency"])
        share = f"{100 * low:.2f} … {100 * high:.2f} %"
        sentences.append(f"Over {len(line.members)} seeds the share that stays lies at {share}.")
    return sentences


def chance_words(line: Line, ends: Mapping[str, tuple[np.ndarray, np.ndarray]], at: int) -> str:
    """Say how far the predictions that stay are from chance, where there are mistakes to tell it by."""
    corrected = line.curves.values["consistency_corrected"][0][at]
    if not np.isfinite(corrected):
        return " (without a mistake nothing tells that from chance)"
    low, high = (end[at] for end in ends["consistency_corrected"])
    return f", {ranged(corrected, low, high)} of the way from chance to always"


def depth_words(line: Line, at: int) -> str:
    """Say whether late features move less than early ones, from the band of the difference."""
    found = line.curves.values["distance"][:, at]
    stages = line.curves.stages
    gap = found[:, stages.index(line.late)] - found[:, stages.index(line.early)]
    low, high = band(gap)
    if line.early == line.late or not np.isfinite(gap[0]):
        return ""
    if high < 0:
        return ": the later features move less"
    if low > 0:
        return ": the later features move more"
    return ": the two do not differ significantly"


def control_words(line: Line, at: int, stage: int) -> list[str]:
    """Return sentences about what interpolation and the border alone move, where that is no trifle."""
    words = []
    for control, what in ((line.curves.floor, "interpolation"), (line.curves.padding, "the border")):
        if control and (moved := control["distance"][at, stage]) >= FLOOR:
            words.append(f"Of that, {what} alone would move {line.early} {moved:.2f} of the way.")
    return words


def unchanged_words(transform: Transform, line: Line) -> str:
    """Return the probability of the true class on unchanged images, where these were measured."""
    if transform.neutral not in transform.amounts:
        return ""
    return f", against {line.curves.values['p_true'][0][transform.amounts.index(transform.neutral)]:.2f} unchanged"


def difference_words(rows: Sequence[Row]) -> list[str]:
    """Return the sentences about networks against the first, averaged over the amounts of a warp."""
    words = []
    for row in rows:
        if row["curve"] != "consistency":
            continue
        low, high = row["delta_low"], row["delta_high"]
        verb = "keeps more predictions than" if low > 0 else "keeps fewer predictions than" if high < 0 else ""
        points = f"{100 * row['delta']:+.2f} points ({100 * low:+.2f} … {100 * high:+.2f} over images"
        if row["seed_low"] is not None:
            over = f"{100 * row['seed_low']:+.2f} … {100 * row['seed_high']:+.2f}"
            points += f"; {over} over {row['n_seeds']} shared seeds"
        if verb:
            words.append(f"Over all amounts {row['name']} {verb} {row['against']}: {points}).")
        else:
            words.append(f"{row['name']} and {row['against']} do not differ significantly on these images: {points}).")
        if row["seed_low"] is not None and verb and row["seed_low"] <= 0 <= row["seed_high"]:
            words.append(
                f"Another seed could turn the sign: the difference of {row['name']} holds for these runs only."
            )
    return words


def aliasing_words(rows: Sequence[Row]) -> list[str]:
    """Return the sentences about shifts by multiples of the stride."""
    words = []
    for row in rows:
        excess = f"{100 * row['excess']:+.2f} points ({100 * row['low']:+.2f} … {100 * row['high']:+.2f})"
        seen = "aliasing shows" if row["low"] > 0 else "no aliasing shows"
        words.append(
            f"{row['run']}: against neighbouring distances, predictions at shifts a multiple of the total stride "
            f"{row['stride']} apart agree {excess}: {seen}."
        )
    return words


def crossing_words(row: Row) -> str:
    """Return the sentence about the pixels that a shift changes."""
    return (
        f"{row['warp']} {row['amount']:g} turns {row['black_to_white']:.1f} pixels white and "
        f"{row['white_to_black']:.1f} black on average, {row['changed']:.1f} in all (5 to 95 % of the images: "
        f"{row['changed_5']:.0f} … {row['changed_95']:.0f}); in {percent(row['equal'], 1)} of {row['n']:,} images the "
        "two are equal: their ink stayed within the frame."
    )


def class_words(rows: Sequence[Row]) -> list[str]:
    """Return a sentence about the class that suffers most in each network; its row is the first of the network's."""
    first = {row["run"]: row for row in reversed(rows)}
    return [
        f"{name}: the class {row['class']} suffers most; {100 * row['consistency']:.1f} % of its predictions stay over "
        "all amounts."
        for name, row in reversed(first.items())
    ]


def section(title: str, sentences: Sequence[str], table: Sequence[Row] = (), figures: Sequence[str] = ()) -> str:
    """Return a section of the report."""
    parts = [f"## {title}", *(f"- {sentence}" for sentence in sentences)]
    text = "\n".join(parts[:1]) + "\n\n" + "\n".join(parts[1:])
    if table:
        text += "\n\n" + render(table, "markdown")
    return text + "".join(f"\n\n![{name}](figures/{name}.png)" for name in figures)
