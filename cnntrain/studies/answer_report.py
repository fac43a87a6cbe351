"""A study's answer to be read: short tables for the terminal, and a document with everything that it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from cnntrain.report.document import (
    Block,
    Bullets,
    Document,
    Facts,
    Figure,
    Mark,
    Paragraph,
    Section,
    Table,
    noted_tables,
)
from cnntrain.runtime.tables import Row
from cnntrain.stats.paired_tests import PairedTest, points
from cnntrain.studies.answer import Answer, VariantRow, summary
from cnntrain.tasks.task import Headline

SUMS = (
    "An interaction is the difference of a variant minus the differences of the two that remove the same stages in "
    "parts, for each seed and in points: below zero, the parts together cost more than their sum."
)
Printed = Mapping[str, Mapping[str, float]]


def statistics(noun: str, headline: Headline) -> tuple[str, ...]:
    """Return how the numbers are computed of a study whose images a person calls by a noun."""
    return (
        "Differences are paired: the test score of a variant minus that of its reference under the same seed. "
        "Intervals are 95 % t intervals of their mean over seeds; p is that of the two-sided sign-flip permutation "
        "test. A difference is significant if p, after Holm's correction over all comparisons (interactions too), is "
        "at most the level of the study, which is 0.05 if it is asked once, and the interval excludes zero.",
        "Seeds needed: with this number, the verdict has 80 % power if the true difference and deviation are as "
        "measured. Both are estimates from few seeds, so the number is rough.",
        f"The test {noun}s are a sample too, and their uncertainty is separate from the spread over seeds: it is given "
        f"by {headline.image_interval} of the mean error (95 %), and by {headline.image_test} of each seed's two "
        f"networks on the same {noun}s, corrected over the variants of that seed alone.",
    )


def notes(noun: str, headline: Headline) -> dict[str, str]:
    """Return what the columns of the tables hold of a study whose images a person calls by a noun."""
    return {
        f"95 % of {noun}s": f"{headline.image_interval} of the mean error",
        "n": f"test {noun}s",
        "95 % of seeds": "t interval of the mean difference",
        "p": "sign-flip test over the seeds",
        "p (Holm)": "corrected over all comparisons of the study",
        "seeds needed": "to find the measured difference with 80 % power",
        headline.test_column: f"in how many seeds the {noun}s alone tell the two networks apart",
    }


# Tables.


def answer_tables(study: Answer) -> list[Table]:
    """Return the answer as tables of at most 120 columns of text for names of up to 22 letters."""
    score, column = study.headline.label, study.headline.test_column
    tables = {
        "Size and error in %, mean ± standard deviation over seeds": [
            error_row(row, study.noun) for row in study.table
        ],
        f"Difference in {score} from {study.first.variant}, over seeds and ({column}) over {study.noun}s": [
            {"variant": row.variant} | tested_columns(row.test) | {column: mcnemar_word(row)} for row in study.compared
        ],
        f"Interactions: {score} minus what the parts cost alone": [
            {"variant": row.variant, "parts": "+".join(row.parts)} | tested_columns(row.test)
            for row in study.interactions
        ],
    }
    return noted_tables(tables, notes(study.noun, study.headline))


def sentences(study: Answer) -> list[str]:
    """Return what the answer says: a sentence for each variant and each interaction, and one for all variants."""
    verdicts = [test.verdict for test in (study.first.test, *study.tests) if test.verdict]
    conclusion = summary(study)
    return verdicts if conclusion in verdicts else [*verdicts, conclusion]


def flat(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return rows of an answer without what has rows of its own, lists as words: what a CSV file can hold."""
    return [
        {
            key: " ".join(map(str, value)) if isinstance(value, list | tuple) else value
            for key, value in row.items()
            if key != "mcnemar"
        }
        for row in rows
    ]


def error_row(row: VariantRow, noun: str) -> dict[str, object]:
    """Return a variant's size and errors as a line of a table."""
    return {
        "variant": row.variant,
        "parameters": row.params,
        "removed": row.params_removed,
        "MACs": row.macs,
        "seeds": row.n_seeds,
        "train error": error_word(row.train_score_mean, row.train_score_std),
        "test error": error_word(row.score_mean, row.score_std),
        f"95 % of {noun}s": interval_of_images(row),
        "n": row.n,
    }


def interval_of_images(row: VariantRow) -> str | None:
    """Write the interval over images of a mean error in per cent."""
    if row.score_low is None or row.score_high is None:
        return None
    return f"{100 - 100 * row.score_high:.2f} … {100 - 100 * row.score_low:.2f}"


def error_word(mean: float | None, std: float | None) -> str | None:
    """Write an error in per cent and its deviation over seeds, from accuracies."""
    if mean is None:
        return None
    return f"{100 - 100 * mean:.2f}" if std is None else f"{100 - 100 * mean:.2f} ± {100 * std:.2f}"


def tested_columns(test: PairedTest) -> dict[str, object]:
    """Return a difference and its tests as columns of a table, empty where there are none."""
    return {
        "points": None if test.delta is None else points(test.delta),
        "95 % of seeds": interval_word(test),
        "p": None if test.p is None else float(f"{test.p:.2g}"),
        "p (Holm)": None if test.p_holm is None else float(f"{test.p_holm:.2g}"),
        "significant": test.significant,
        "seeds needed": "> 1,000" if test.significant is False and test.seeds_needed is None else test.seeds_needed,
    }


def interval_word(test: PairedTest) -> str | None:
    """Write the interval of a difference, None where there is none."""
    if test.delta_low is None or test.delta_high is None:
        return None
    return f"{points(test.delta_low)} … {points(test.delta_high)}"


def mcnemar_word(row: VariantRow) -> str | None:
    """Say in how many seeds the images alone tell the two networks apart, and which way: 7 worse of 8."""
    if row.mcnemar_worse is None:
        return None
    counts = {"worse": row.mcnemar_worse, "better": row.mcnemar_better}
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    return f"{', '.join(parts) or '0'} of {row.n_seeds}"


def printed_rows(study: Answer, printed: Printed) -> list[dict[str, object]]:
    """Return our errors and drops (lost top-1 points) with the columns `printed` elsewhere beside them.

    Such a column holds errors in per cent where it has one for the first variant, and the drops from that follow it;
    else it holds drops.
    """
    first = study.first.variant
    rows = []
    for ours in study.table:
        name, test, drop = ours.variant, ours.test, None
        if test.delta is not None and test.delta_low is not None and test.delta_high is not None:
            mean, low, high = (points(-share + 0.0) for share in (test.delta, test.delta_high, test.delta_low))
            drop = f"{mean} ({low} … {high})"
        row: dict[str, object] = {
            "variant": name,
            "ours: test error %": error_word(ours.score_mean, ours.score_std),
        }
        row["ours: drop, points"] = drop
        for column, values in printed.items():
            value = values.get(name)
            row[column] = None if value is None else str(float(value))
            if first in values:
                row[f"{column}: drop"] = None if value is None or name == first else f"{value - values[first]:+.1f}"
        rows.append(row)
    return rows


# The document.


def study_document(
    name: str,
    setting: Mapping[str, object],
    plan: Sequence[Row],
    study: Answer,
    *,
    about: Sequence[str] = (),
    figure: Figure | None = None,
    printed: Printed | None = None,
    source: Sequence[str] = (),
) -> Document:
    """Return the document of a study: what came out, what was asked, and every number that it rests on.

    `about` are sentences on how often the study was asked, `source` those that say where `printed` is from.
    """
    verdicts = [sentence for sentence in sentences(study) if sentence != summary(study)]
    answered: list[Block] = [Bullets([*verdicts, *about]), *([figure] if figure else []), *answer_tables(study)]
    beside: list[Section] = []
    if printed:
        blocks: list[Block] = [Table(printed_rows(study, printed)), *map(Paragraph, source)]
        beside = [Section("Compared with published numbers", blocks)]
    sections = [Section("Answer", answered), *grounds(study, setting, plan, beside)]
    return Document(name, summary(study), incompleteness(study), sections)


def incompleteness(study: Answer) -> list[Block]:
    """Return what stands first in the document of a study that is not complete."""
    return [] if study.complete else [Paragraph((Mark("Not complete.", "strong"),))]


def grounds(
    study: Answer, setting: Mapping[str, object], plan: Sequence[Row], beside: Sequence[Section] = ()
) -> list[Section]:
    """Return what the answer of a study rests on, `beside` what else there is to compare it with."""
    cells = flat(study.as_json()["rows"])
    sections = [
        Section("Variants", [Table(plan)]),
        Section("Setting", [Facts(setting)]),
        Section(
            "How the statistics are computed",
            [
                Paragraph(text)
                for text in (*statistics(study.noun, study.headline), *([SUMS] if study.interactions else []))
            ],
        ),
        *beside,
        Section("Every cell", [Table(cells) if cells else Paragraph("None is finished.")]),
    ]
    images = [{"variant": row.variant} | asdict(test) for row in study.table for test in row.mcnemar or ()]
    if images:
        test = study.headline.image_test
        title = f"{test[0].upper()}{test[1:]} of every cell against that of its reference"
        sections.append(Section(title, [Table(images)]))
    return sections
