"""A study's answer to be read: short tables for the terminal, and `report.md` with everything that it rests on."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnntrain.runtime.tables import Row, render
from cnntrain.stats.paired_tests import points
from cnntrain.studies.ablation.answer import Answer, summary

STATISTICS = (
    "Differences are paired: the top-1 of a variant minus that of the full network under the same seed. Intervals are "
    "95 % t intervals of their mean over seeds, p is that of the two-sided sign-flip permutation test. A difference is "
    "significant where p after Holm's correction over all comparisons, interactions too, is at most the level of "
    "the study, 0.05 if it is asked once, and the interval leaves out zero.",
    "The seeds needed are those with which this verdict has 80 % power if the true difference and deviation are the "
    "measured ones. Those are estimates from few seeds, and so is the number.",
    "What the test images leave open is another thing than the spread over seeds and stands beside it: Wilson's 95 % "
    "interval of the mean error, and McNemar's exact test of each seed's two networks on the same images, corrected "
    "over the variants of that seed alone.",
)
SUMS = (
    "An interaction is the difference of a variant minus the differences of the two that remove the same stages in "
    "parts, for each seed and in top-1 points: below zero, the parts together cost more than their sum."
)
Printed = Mapping[str, Mapping[str, float]]


# Tables.


def answer_tables(found: Answer) -> dict[str, list[dict[str, object]]]:
    """Return the answer as tables of at most 120 columns of text for names of up to 22 letters, by their headings."""
    first = found.table[0]["variant"]
    tables = {
        "size and error in %, mean ± standard deviation over seeds": [error_row(row) for row in found.table],
        f"top-1 minus that of {first}, over seeds and (McNemar) over images": [
            {"variant": row["variant"]} | tested_columns(row) | {"McNemar": mcnemar_word(row)}
            for row in found.table[1:]
        ],
        "top-1 minus what the parts cost alone": [
            {"variant": row["variant"], "parts": "+".join(row["parts"])} | tested_columns(row)
            for row in found.interactions
        ],
    }
    return {heading: rows for heading, rows in tables.items() if rows}


def sentences(found: Answer) -> list[str]:
    """Return what the answer says: a sentence for each variant and each interaction, and one for all variants."""
    said = [row["verdict"] for row in found.table + found.interactions if row["verdict"]]
    whole = summary(found)
    return said if whole in said else [*said, whole]


def flat(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return rows of an answer without what has rows of its own, lists as words: what a CSV file can hold."""
    return [
        {
            key: " ".join(map(str, value)) if isinstance(value, list) else value
            for key, value in row.items()
            if key != "mcnemar"
        }
        for row in rows
    ]


def error_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a variant's size and errors as a line of a table."""
    known = row["top1_low"] is not None
    images = f"{100 - 100 * row['top1_high']:.2f} … {100 - 100 * row['top1_low']:.2f}" if known else None
    return {
        "variant": row["variant"],
        "parameters": row["params"],
        "removed": row["params_removed"],
        "MACs": row["macs"],
        "seeds": row["n_seeds"],
        "train error": error_word(row["train_top1_mean"], row["train_top1_std"]),
        "test error": error_word(row["top1_mean"], row["top1_std"]),
        "95 % of images": images,
        "n": row["n"],
    }


def error_word(mean: float | None, std: float | None) -> str | None:
    """Write an error in per cent and its deviation over seeds, from accuracies."""
    if mean is None:
        return None
    return f"{100 - 100 * mean:.2f}" if std is None else f"{100 - 100 * mean:.2f} ± {100 * std:.2f}"


def tested_columns(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a difference and its tests as columns of a table, empty where there are none."""
    sided = row["delta_low"] is not None
    told, wanted = row["believable"], row["seeds_wanted"]
    return {
        "points": None if row["delta_mean"] is None else points(row["delta_mean"]),
        "95 % of seeds": f"{points(row['delta_low'])} … {points(row['delta_high'])}" if sided else None,
        "p": None if row["p"] is None else float(f"{row['p']:.2g}"),
        "p (Holm)": None if row["p"] is None else float(f"{row['p_holm']:.2g}"),
        "significant": told,
        "seeds needed": "> 1,000" if told is False and wanted is None else wanted,
    }


def mcnemar_word(row: Mapping[str, Any]) -> str | None:
    """Say in how many seeds the images alone tell the two networks apart, and which way: 7 worse of 8."""
    if row["mcnemar_worse"] is None:
        return None
    counts = {"worse": row["mcnemar_worse"], "better": row["mcnemar_better"]}
    told = [f"{count} {word}" for word, count in counts.items() if count]
    return f"{', '.join(told) or '0'} of {row['n_seeds']}"


def printed_rows(found: Answer, printed: Printed) -> list[dict[str, object]]:
    """Return our errors and drops (lost top-1 points) with the columns `printed` elsewhere beside them.

    Such a column holds errors in per cent where it has one for the first variant, and the drops from that follow it;
    else it holds drops.
    """
    first = found.table[0]["variant"]
    rows = []
    for ours in found.table:
        name, drop = ours["variant"], None
        if ours["delta_low"] is not None:
            mean, low, high = (points(-ours[key] + 0.0) for key in ("delta_mean", "delta_high", "delta_low"))
            drop = f"{mean} ({low} … {high})"
        row: dict[str, object] = {
            "variant": name,
            "ours: test error %": error_word(ours["top1_mean"], ours["top1_std"]),
        }
        row["ours: drop, points"] = drop
        for column, values in printed.items():
            value = values.get(name)
            row[column] = None if value is None else str(float(value))
            if first in values:
                row[f"{column}: drop"] = None if value is None or name == first else f"{value - values[first]:+.1f}"
        rows.append(row)
    return rows


# The page.


def report(
    name: str,
    setting: Mapping[str, object],
    plan: Sequence[Row],
    found: Answer,
    *,
    about: Sequence[str] = (),
    picture: str | None = None,
    printed: Printed | None = None,
    source: Sequence[str] = (),
) -> str:
    """Return `report.md` of a study: what was asked, what came out, and every number that it rests on.

    `about` are sentences on how often the study was asked; `picture` is the path of the picture from the report;
    `source` are sentences that say where `printed` is from.
    """
    parts = [f"# {name}", *([] if found.complete else ["**Not complete.**"]), summary(found)]
    parts += ["## Setting", "\n".join(f"- {key}: {text(value)}" for key, value in setting.items())]
    parts += ["## Variants", markdown(plan), "## Answer"]
    for heading, rows in answer_tables(found).items():
        parts += [f"{heading[0].upper()}{heading[1:]}:", markdown(rows)]
    parts.append("\n".join(f"- {sentence}" for sentence in [*sentences(found), *about]))
    if picture:
        parts.append(f"![Differences in top-1 with their intervals, sorted]({picture})")
    parts += ["## How the statistics were made", *STATISTICS, *([SUMS] if found.interactions else [])]
    if printed:
        parts += ["## Beside what is printed elsewhere", markdown(printed_rows(found, printed)), *source]
    parts += ["## Every cell", markdown(flat(found.rows)) or "None is finished."]
    images = [
        {"variant": row["variant"]} | test for row in found.table for test in row["mcnemar"] or () if row["mcnemar"]
    ]
    if images:
        first = found.table[0]["variant"]
        parts += [f"## McNemar's test of every cell against that of {first}", markdown(images)]
    return "\n\n".join(parts) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table, lists as words."""
    return render(
        [
            {key: text(value) if isinstance(value, list | tuple) else value for key, value in row.items()}
            for row in rows
        ],
        "markdown",
    )


def text(value: object) -> str:
    """Write a value; a list as words with commas."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
