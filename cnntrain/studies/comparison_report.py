"""A comparison to be read: tables and sentences for the terminal, and a document."""

from pathlib import Path

from cnntrain.report.document import Block, Bullets, Document, Figure, Paragraph, Section, Table, noted_tables
from cnntrain.report.epochs import gradient_norms
from cnntrain.report.files import filed_figure
from cnntrain.report.forest import forest
from cnntrain.report.gradients import WHAT, gradient_figure
from cnntrain.runs.folder import read_metrics
from cnntrain.runtime.drawing import SERIES, Medium, styled
from cnntrain.stats.paired_tests import PairedTest, points
from cnntrain.studies.comparison import Comparison, Experiment, setting_word


def notes(noun: str, won: str, test: str) -> dict[str, str]:
    """Return what the columns of the tables hold, whose images a person calls by a noun.

    One run is better on an image where it alone has `won`, which a `test` over images goes by.
    """
    return {
        f"only this run {won}": f"{noun}s of which this run is {won} and the first is not",
        f"only the first {won}": f"{noun}s of which the first is {won} and this run is not",
        "points": "difference from the first",
        "p": f"{test} over {noun}s, sign-flip test over seeds",
        "p (Holm)": "corrected over the rows of the table",
    }


def comparison_blocks(comparison: Comparison) -> list[Block]:
    """Return the tables and sentences of a comparison."""
    return [
        *setting_blocks(comparison),
        *run_tables(comparison),
        *difference_tables(comparison),
        Bullets(sentences(comparison)),
    ]


def comparison_document(comparison: Comparison, folder: Path, medium: Medium) -> Document:
    """Return the document of a comparison, the verdict first; its figure is written into `folder`."""
    verdicts = [sentence for sentence in sentences(comparison) if sentence != comparison.verdict]
    answer: list[Block] = [Bullets(verdicts), *draw(comparison, folder, medium), *difference_tables(comparison)]
    sections = [
        Section("Differences", answer),
        Section("Runs", run_tables(comparison)),
        Section("Gradients", gradient_blocks(comparison, folder, medium)),
        Section("Settings that differ", setting_blocks(comparison)),
    ]
    names = ", ".join(map(experiment_name, comparison.experiments))
    return Document(f"Comparison of {names}", comparison.verdict, [], [each for each in sections if each.blocks])


def experiment_name(experiment: Experiment) -> str:
    """Name an experiment: a single run by its own name, several by the folder they share: lenet (A)."""
    if len(experiment.runs) == 1:
        return experiment.runs[0].name
    folders = {run.folder.resolve().parent.name for run in experiment.runs}
    return f"{folders.pop()} ({experiment.label})" if len(folders) == 1 else experiment.label


def draw(comparison: Comparison, folder: Path, medium: Medium) -> list[Figure]:
    """Write the figure of the differences, over seeds where there are some, else over images."""
    tests = comparison.over_seeds or comparison.over_images
    if not medium or all(test.delta is None for test in tests):
        return []
    sample = "seeds" if comparison.over_seeds else f"{comparison.noun}s"
    score, reference = comparison.headline.label, tests[0].reference
    caption = f"Differences in {score} from {reference} with their intervals over {sample}, sorted"
    label = f"{comparison.split} {score} minus that of {reference}, percentage points"
    with styled(medium):
        figure = forest(tests, label, f"95 % intervals over {sample}; filled: significant")
        return [filed_figure(figure, folder, "differences", caption)]


def gradient_blocks(comparison: Comparison, folder: Path, medium: Medium) -> list[Block]:
    """Write the figure of the first epoch's gradients, one line a run; nothing where fewer than two have noted them."""
    noted = {run.name: gradient_norms(read_metrics(run.folder)) for run in comparison.runs}
    lines = {name: norms[min(norms)] for name, norms in noted.items() if norms}
    if not medium or len(lines) < 2:
        return []
    lines = dict(list(lines.items())[: len(SERIES)])
    caption = f"The norm of every stage's gradient in the first epoch: {', '.join(lines)}"
    with styled(medium):
        return [Paragraph(WHAT, quiet=True), filed_figure(gradient_figure(lines), folder, "gradients", caption)]


# Tables.


def setting_blocks(comparison: Comparison) -> list[Block]:
    """Return the table of the settings that differ, or say that there are none."""
    rows = setting_rows(comparison)
    return [Table(rows) if rows else Paragraph("the runs differ in nothing but their seed")]


def run_tables(comparison: Comparison) -> list[Block]:
    """Return the tables of the runs and of those that differ in their seed only."""
    return [Table(run_rows(comparison)), Table(experiment_rows(comparison))]


def difference_tables(comparison: Comparison) -> list[Block]:
    """Return the tables of the tests over images and over seeds."""
    of, noun = f"{comparison.split}, {comparison.weights} weights", comparison.noun
    tests = {
        f"Compared with {comparison.runs[0].name} {noun} by {noun} ({of})": comparison.over_images,
        f"Compared with {comparison.experiments[0].label} seed by seed": comparison.over_seeds,
    }
    headline = comparison.headline
    lines = {caption: [difference_row(row, headline.won) for row in rows] for caption, rows in tests.items()}
    return [*noted_tables(lines, notes(noun, headline.won, headline.image_test))]


def setting_rows(comparison: Comparison) -> list[dict[str, object]]:
    """Return a line for each setting that differs, with its value in each experiment."""
    values = {experiment.label: experiment.runs[0].settings for experiment in comparison.experiments}
    return [
        {"setting": key, **{label: setting_word(settings.get(key)) for label, settings in values.items()}}
        for key in comparison.differing
    ]


def run_rows(comparison: Comparison) -> list[dict[str, object]]:
    """Return a line for each run."""
    headline, lines = comparison.headline, []
    for run in comparison.runs:
        experiment, results = comparison.experiment_of(run), run.evaluation.results
        lines.append(
            {
                "run": run.name,
                "group": experiment.label,
                "seed": run.seed,
                "parameters": experiment.params,
                "MACs": experiment.macs,
                headline.label: headline.text(run.score),
                "95 % interval": f"{100 * results[headline.low]:.2f} … {100 * results[headline.high]:.2f}",
                "n": results["n"],
            }
        )
    return lines


def experiment_rows(comparison: Comparison) -> list[dict[str, object]]:
    """Return a line for each experiment; none where every one is a single run."""
    if all(experiment.std is None for experiment in comparison.experiments):
        return []
    return [
        {
            "group": experiment.label,
            "runs": len(experiment.runs),
            f"mean {comparison.headline.label}": comparison.headline.text(experiment.mean),
            "std": None if experiment.std is None else f"{100 * experiment.std:.2f}",
        }
        for experiment in comparison.experiments
    ]


def difference_row(test: PairedTest, won: str) -> dict[str, object]:
    """Return a test over images or over seeds as a line of a table, empty where it was not tested.

    Of images those are counted of which one network alone is `won`.
    """
    if test.seeds:
        line: dict[str, object] = {"group": test.name, "shared seeds": test.pairs}
    else:
        line = {"run": test.name, f"only this run {won}": test.only_this, f"only the first {won}": test.only_reference}
    if test.delta is None:
        return line | dict.fromkeys(("points", "95 % interval", "p", "p (Holm)"))
    ends = f"{points(test.delta_low)} … {points(test.delta_high)}"
    return line | {"points": points(test.delta), "95 % interval": ends, "p": test.p, "p (Holm)": test.p_holm}


def sentences(comparison: Comparison) -> list[str]:
    """Return what the comparison says, and what it does not."""
    untested = [test for test in comparison.over_images if test.significant is None]
    verdicts = [test.verdict for test in (*untested, *comparison.over_seeds)]
    text = list(dict.fromkeys([*filter(None, verdicts), comparison.verdict]))
    if not comparison.over_seeds and any(test.significant for test in comparison.over_images):
        text.append("What another seed gives is not known: train each with the same eight seeds and compare those.")
    return text
