"""A cross-validation to be read: short tables for the terminal, and a document with everything that it rests on."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cnntrain.config.compose import command_line
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
from cnntrain.report.files import filed_figure
from cnntrain.report.forest import forest
from cnntrain.runtime.drawing import styled
from cnntrain.stats.paired_tests import LEVEL, points
from cnntrain.studies.crossval.answer import PooledAnswer, PooledRow, claim, sentences
from cnntrain.studies.crossval.study import OuterChoice, PlannedFolds
from cnntrain.studies.variants import training_facts

if TYPE_CHECKING:  # matplotlib takes half a second to import
    from matplotlib.figure import Figure as MatplotlibFigure


def statistics(noun: str) -> tuple[str, ...]:
    """Return how the numbers are computed of a study whose images a person calls by a noun."""
    return (
        f"A repetition predicts every {noun} once, by a network that has not seen it. The pooled accuracy is the share "
        f"of right predictions, a mean over repetitions; its interval is Wilson's for that many {noun}s.",
        f"Two folds share most of their training {noun}s, so that their scores are not independent, and a t test that "
        "takes them as independent finds differences where there are none. The corrected resampled t test (Nadeau and "
        f"Bengio 2003) adds the ratio of {noun}s held out to {noun}s trained on to its variance.",
        f"McNemar's exact test compares the predictions of two variants on the same {noun}s. It speaks of the networks "
        "that were trained; the corrected t test speaks of the two ways of training. Both are corrected by Holm's "
        "method.",
        "There is no unbiased estimate of the variance of a cross-validated score (Bengio and Grandvalet 2004): the "
        f"interval of the pooled accuracy leaves out how it would vary with other training {noun}s.",
    )


def notes(noun: str) -> dict[str, str]:
    """Return what the columns of the tables hold of a study whose images a person calls by a noun."""
    return {
        "95 %": f"Wilson's interval over the {noun}s",
        "n": f"{noun}s, each predicted once a repetition",
        "sd folds": "standard deviation over the folds",
        "sd seeds": "standard deviation over the repetitions",
        "points": "mean difference from the first",
        "95 % of folds": "of the corrected resampled t test",
        "p": "of the corrected resampled t test",
        "p (Holm)": "corrected over all comparisons of the study",
        "McNemar": f"in how many repetitions the {noun}s alone tell the two apart",
    }


def answer_tables(answer: PooledAnswer) -> list[Table]:
    """Return the answer as tables."""
    score = answer.headline.label
    tables = {
        f"Pooled {score} in %": [pooled_line(row) for row in answer.table],
        f"Difference in {score} from {answer.table[0].variant}": [tested_line(row) for row in answer.table[1:]],
    }
    return noted_tables(tables, notes(answer.noun))


def pooled_line(row: PooledRow) -> dict[str, object]:
    """Return a variant's accuracy as a line of a table."""
    bounds = None if row.score_low is None or row.score_high is None else (row.score_low, row.score_high)
    return {
        "variant": row.variant,
        "folds": row.folds,
        "seeds": row.seeds,
        "pooled": share(row.score),
        "95 %": None if bounds is None else " … ".join(f"{100 * end:.2f}" for end in bounds),
        "n": row.n,
        "sd folds": share(row.sd_folds),
        "sd seeds": share(row.sd_seeds),
    }


def share(value: float | None) -> str | None:
    """Write a share in per cent."""
    return None if value is None else f"{100 * value:.2f}"


def tested_line(row: PooledRow) -> dict[str, object]:
    """Return a variant's difference from the first as a line of a table."""
    test, sure = row.test, [each for each in row.mcnemar if each.p_holm <= LEVEL]
    worse = sum(each.only_this < each.only_other for each in sure)
    counts = {"worse": worse, "better": len(sure) - worse}
    words = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "0"
    ends = None if test.delta_low is None else f"{points(test.delta_low)} … {points(test.delta_high)}"
    return {
        "variant": row.variant,
        "points": None if test.delta is None else points(test.delta),
        "95 % of folds": ends,
        "p": None if test.p is None else float(f"{test.p:.2g}"),
        "p (Holm)": None if test.p_holm is None else float(f"{test.p_holm:.2g}"),
        "significant": test.significant,
        "McNemar": f"{words} of {len(row.mcnemar)}" if row.mcnemar else None,
    }


def choice_lines(choices: Sequence[OuterChoice]) -> list[dict[str, object]]:
    """Return what was chosen for every outer fold as lines of a table."""
    return [
        {"seed": each.seed, "fold": each.fold, "chosen": each.variant, "on inner folds": share(each.score)}
        for each in choices
    ]


def answer_document(study: PlannedFolds, answer: PooledAnswer, choices: Sequence[OuterChoice]) -> Document:
    """Return the document of a cross-validation; its figure is written into the study's folder."""
    said = [words for words in sentences(answer) if words != claim(answer)]
    answered: list[Block] = [*([Bullets(said)] if said else []), *drawn(study, answer)]
    sections = [Section("Answer", [*answered, *answer_tables(answer)])]
    if choices:
        sections.append(Section("What was chosen", [Table(choice_lines(choices))]))
    facts = {"command": " ".join(command_line("crossval"))}
    facts |= training_facts(study.cells[0].settings, [cell.folder for cell in study.cells])
    facts |= {"folds": str(study.cfg.folds), "seeds": ", ".join(map(str, study.seeds))}
    variants = [{"variant": each.name, "words": " ".join(each.overrides)} for each in study.variants]
    rows = [asdict(row) for row in answer.rows]
    sections += [
        Section("Variants", [Table(variants)]),
        Section("Setting", [Facts(facts)]),
        Section("How the statistics are computed", [Paragraph(text) for text in statistics(answer.noun)]),
        Section("Every cell", [Table(rows) if rows else Paragraph("None is finished.")]),
    ]
    incomplete = [] if answer.complete else [Paragraph((Mark("Not complete.", "strong"),))]
    return Document("Cross-validation", claim(answer), incomplete, sections)


def drawn(study: PlannedFolds, answer: PooledAnswer) -> list[Figure]:
    """Write the figure of the differences, where it is wanted and there are some, and return it."""
    medium = study.cfg.figures
    if not medium or all(test.delta is None for test in answer.tests):
        return []
    caption = f"Differences in {answer.headline.label} from {answer.table[0].variant} with their intervals, sorted"
    with styled(medium):
        return [filed_figure(differences_figure(answer), study.folder, "differences", caption)]


def differences_figure(answer: PooledAnswer) -> "MatplotlibFigure":
    """Draw the variants, sorted by their difference from the first."""
    label = f"{answer.headline.label} minus that of {answer.table[0].variant}, percentage points"
    return forest(answer.tests, label, "95 % intervals over folds (corrected t); filled: significant")
