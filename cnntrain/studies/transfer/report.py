"""The answer of a study of transfer to be read: a table for each budget, curves, sentences, and a document."""

from collections.abc import Sequence
from typing import Any

from cnntrain.report.document import Block, Bullets, Document, Figure, Section, Table, noted_tables
from cnntrain.report.files import filed_figure, write_report
from cnntrain.report.forest import forest
from cnntrain.runtime.drawing import styled
from cnntrain.runtime.progress import clock
from cnntrain.runtime.tables import Row, counted, percent
from cnntrain.stats.paired_tests import PairedTest, conclude
from cnntrain.studies.answer import Answer, VariantRow
from cnntrain.studies.answer_report import (
    error_word,
    grounds,
    incompleteness,
    interval_of_images,
    mcnemar_word,
    notes,
    tested_columns,
)
from cnntrain.studies.results import Results
from cnntrain.studies.study import AnsweredStudy, setting, write_tables
from cnntrain.studies.transfer.figures import depth_figure, learning_curves
from cnntrain.studies.transfer.regimes import Regime
from cnntrain.studies.transfer.study import PlannedTransfer

TITLE = "Transfer"
OF_REMOVALS = ("removed", "params_removed", "replumbed", "interactions")  # keys of an ablation
BUDGETS = {
    "steps": "Equal steps: error in %, mean ± standard deviation over seeds",
    "seconds": "Equal seconds: where stages are frozen, more epochs take as long as those where every stage learns",
}


def plan_rows(planned: PlannedTransfer) -> list[Row]:
    """Return the regimes as a table: what is frozen, on how many images, for how long."""
    study, rows = planned.study, list[Row]()
    for regime, sized in zip(planned.regimes, study.variants, strict=True):
        row: dict[str, Any] = {
            "variant": regime.name,
            "weights": "new" if regime.regime == "scratch" else taken(regime),
            "frozen": counted(len(regime.frozen), "stage") if regime.frozen else "none",
            "parameters": sized.params,
            "images": regime.n_train,
            "epochs": regime.epochs,
            "lr": regime.lr,
        }
        if study.seconds is not None:
            row["a run"] = clock(study.seconds[regime.name])
        rows.append(row)
    return rows


def taken(regime: Regime) -> str:
    """Say which weights a regime takes."""
    head = regime.settings["model"]["head"]
    return "all but the classifier" if head == "new" else f"those before {head}"


# Tables and sentences.


def answer_tables(study: Answer, regimes: Sequence[Regime]) -> list[Table]:
    """Return a table of errors for each budget, and one of the differences."""
    by_name = {row.variant: row for row in study.table}
    tables: dict[str, Sequence[Row]] = {
        title: [error_row(regime, by_name[regime.name]) for regime in in_budget(regimes, budget)]
        for budget, title in BUDGETS.items()
        if budget == "steps" or any(regime.budget == budget for regime in regimes)
    }
    column = study.headline.test_column
    tables[f"Difference in {study.headline.label} over seeds and ({column}) over {study.noun}s"] = [
        {"variant": row.variant, "compared with": row.test.reference}
        | tested_columns(row.test)
        | {column: mcnemar_word(row)}
        for row in study.compared
    ]
    return noted_tables(tables, notes(study.noun, study.headline))


def in_budget(regimes: Sequence[Regime], budget: str) -> list[Regime]:
    """Return the regimes of a budget; one without longer training takes as long as it may in both."""
    longer = {(regime.regime, regime.size): regime for regime in regimes if regime.budget == budget}
    equal = [regime for regime in regimes if regime.budget == "steps"]
    return [longer.get((regime.regime, regime.size), regime) for regime in equal]


def error_row(regime: Regime, row: VariantRow) -> dict[str, object]:
    """Return a regime's errors as a line of a table."""
    return {
        "variant": row.variant,
        "images": regime.n_train,
        "epochs": regime.epochs,
        "seeds": row.n_seeds,
        "train error": error_word(row.train_score_mean, row.train_score_std),
        "test error": error_word(row.score_mean, row.score_std),
        "95 % of images": interval_of_images(row),
        "n": row.n,
    }


def sentences(study: Answer, regimes: Sequence[Regime]) -> list[str]:
    """Return what the answer says: the order of the regimes, each comparison, and how many are significant."""
    verdicts = [row.test.verdict for row in study.table if row.test.verdict]
    return [*orders(study, regimes), *verdicts, *conclusions(study)]


def orders(study: Answer, regimes: Sequence[Regime]) -> list[str]:
    """Return for each number of images the regimes of the first budget from best to worst, by mean score."""
    means = {row.variant: row.score_mean for row in study.table}
    lines = []
    for size in dict.fromkeys(regime.size for regime in regimes):
        names = {regime.name: regime.regime for regime in regimes if (regime.size, regime.budget) == (size, "steps")}
        known = sorted((name for name in names if means[name] is not None), key=lambda name: -(means[name] or 0))
        if len(known) > 1:
            ranked = ", ".join(f"{names[name]} {percent(means[name] or 0, 1)}" for name in known)
            on = "" if size is None else f" on {size} images a class"
            lines.append(f"From best to worst{on}: {ranked} ({study.headline.label} of the test images).")
    return lines


def conclusions(study: Answer) -> list[str]:
    """Return one sentence for each reference, where more than one comparison with it is tested."""
    groups: dict[str, list[PairedTest]] = {}
    for row in study.compared:
        groups.setdefault(row.test.reference, []).append(row.test)
    tested = [[test for test in tests if test.significant is not None] for tests in groups.values()]
    return [conclude(tests) for tests in tested if len(tests) > 1]


# The document.


def write_answer(planned: PlannedTransfer, answered: AnsweredStudy) -> dict[str, Any]:
    """Write the answer as tables of numbers, as figures and as a report; return what `--json` prints."""
    study, answer, regimes = planned.study, answered.answer, planned.regimes
    result = {"study_dir": str(study.folder)} | with_regimes(answered.as_json(), regimes)
    blocks: list[Block] = [
        Bullets([*sentences(answer, regimes), *answered.about]),
        *draw(planned, answer, answered.results),
        *answer_tables(answer, regimes),
    ]
    conclusion = (conclusions(answer) or orders(answer, regimes) or ["Nothing can be concluded: runs are missing."])[-1]
    sections = [Section("Answer", blocks), *grounds(answer, facts(planned), plan_rows(planned))]
    write_report(Document(TITLE, conclusion, incompleteness(answer), sections), study.folder)
    write_tables(study.folder, result)
    return result


def with_regimes(result: dict[str, Any], regimes: Sequence[Regime]) -> dict[str, Any]:
    """Return rows and table with the regime, training images, epochs and learning rate of each variant beside its name.

    What says which stages were removed is left out: none are.
    """
    by_name = {regime.name: regime for regime in regimes}

    def line(row: dict[str, Any]) -> dict[str, Any]:
        regime = by_name[row["variant"]]
        about = {"regime": regime.regime, "n_train": regime.n_train, "epochs": regime.epochs}
        about |= {"lr": regime.lr, "budget": regime.budget}
        return {"variant": row["variant"], **about} | {key: row[key] for key in row if key not in OF_REMOVALS}

    lines = {key: [line(row) for row in result[key]] for key in ("rows", "table")}
    return {key: value for key, value in (result | lines).items() if key not in OF_REMOVALS}


def facts(planned: PlannedTransfer) -> dict[str, str]:
    """Return what a reader must know of how the cells were made."""
    made = setting(planned.study, "transfer")
    cfg = planned.study.cfg
    source = cfg.run or f"pretrained, {cfg.model.get('arch')}: model.weights={cfg.model.get('weights')}"
    return made | {"trained weights": source, "epochs": f"{made['epochs']} at equal steps"}


def draw(planned: PlannedTransfer, answer: Answer, results: Results) -> list[Figure]:
    """Write the figures that are wanted and that there is something for; return them for the report."""
    study, regimes, label = planned.study, planned.regimes, answer.headline.label
    medium, figures = study.cfg.figures, list[Figure]()
    if not medium:
        return figures
    with styled(medium):
        tests = [row.test for row in answer.compared if row.test.delta is not None]
        if tests:
            drawing = forest(
                tests,
                f"test {label} minus that of {', '.join(dict.fromkeys(test.reference for test in tests))}, points",
                "95 % intervals over seeds; filled: significant",
            )
            figures.append(filed_figure(drawing, study.folder, "differences", "Each regime minus its reference"))
        if len({regime.size for regime in regimes}) > 1:
            caption = "Learning curves: means over seeds with their 95 % t intervals"
            figures.append(filed_figure(learning_curves(regimes, results, label), study.folder, "sizes", caption))
        if sum(bool(regime.taken) for regime in regimes) > 1:
            caption = "Stages taken up to each: means over seeds with their 95 % t intervals"
            figures.append(filed_figure(depth_figure(regimes, results, label), study.folder, "depths", caption))
    return figures
