"""What a probing study leaves in its folder: rows, results, a figure and a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnntrain.config.compose import command_line
from cnntrain.report.document import Block, Bullets, Document, Figure, Paragraph, Section, Table
from cnntrain.report.files import filed_figure, write_report
from cnntrain.runs.folder import RESULTS, create_folder, provenance
from cnntrain.runtime import disk
from cnntrain.runtime.devices import hardware
from cnntrain.runtime.drawing import Medium, styled
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.tables import percent, render
from cnntrain.stats.paired_tests import points
from cnntrain.studies.networks import INPUT
from cnntrain.studies.probe.figures import depth_figure
from cnntrain.studies.probe.rows import ProbeTables, StageRow, StepRow
from cnntrain.studies.probe.study import ProbeStudy

ROWS = "rows.csv"
LEAST_P = 1e-99  # that is written
WORDS = {"svm": "linear support vector machines", "softmax": "softmax regressions"}
NOTES = {
    "C": "the penalty is 1/C; chosen at each stage by folds of what is trained on",
    "from the stage before": "percentage points",
    "p": "McNemar's exact test, of several pairs of networks the largest; corrected over the study (Holm)",
    "untrained": "mean of the same network with random weights",
    "selectivity": "accuracy minus that after training with permuted labels, in points",
}


def write_study(study: ProbeStudy, tables: ProbeTables, folder: Path, medium: Medium) -> dict[str, Any]:
    """Write the study and return what `--json` prints: where it lies, and all rows."""
    create_folder(folder)
    first, images = study.networks[0].folder, study.images
    rows = tables.as_json()
    place = {"run_dir": None if first is None else str(first), "output_dir": str(folder)}
    results = {**place, "split": images.test.name, "dataset": images.test.dataset, "memory": study.memory, **rows}
    disk.write(folder / ROWS, render(rows["rows"], "csv") + "\n")
    figures = list[Figure]()
    if medium:
        with styled(medium):
            caption = "Accuracy of linear classifiers by stage, with 95 % intervals"
            figures.append(filed_figure(depth_figure(tables, images.chance), folder, "depth", caption))
    sections = [Section(caption, blocks) for caption, blocks in probe_sections(tables)]
    claim = " ".join(conclusions(tables)[:1])
    about = Paragraph(f"{about_words(study)} {explain_words(study.images.info.noun)}", quiet=True)
    write_report(Document("What each stage knows", claim, [about, *figures], sections), folder)
    write_json(folder / RESULTS, results | {"record": provenance(command_line("probe")) | {"hardware": hardware()}})
    return results


def about_words(study: ProbeStudy) -> str:
    """Say which images were probed, and in how much memory."""
    train, test, noun = study.images.train, study.images.test, study.images.info.noun
    return (
        f"Fitted to {len(train.split):,} training {noun}s of {train.dataset}, asked about {len(test.split):,} "
        f"{test.name} {noun}s; chance is {percent(study.images.chance, 1)}. At most {disk.size(study.memory)} of "
        "memory."
    )


def explain_words(noun: str) -> str:
    """Say what stands in the tables and figures."""
    return f"Bands and intervals are 95 % over {noun}s like these; the wider band is over seeds."


def probe_sections(tables: ProbeTables) -> list[tuple[str, list[Block]]]:
    """Return a table and sentences for each network and classifier, under a caption."""
    sections: list[tuple[str, list[Block]]] = []
    for network, kind in dict.fromkeys((row.network, row.classifier) for row in tables.pooled):
        rows = [row for row in tables.pooled if (row.network, row.classifier) == (network, kind)]
        steps = [row for row in tables.differences if (row.network, row.classifier) == (network, kind)]
        blocks: list[Block] = [Table(stage_lines(rows, steps), notes=NOTES), Bullets(depth_words(rows, steps))]
        sections.append((f"{network}, {WORDS[kind]}", blocks))
    return sections


def conclusions(tables: ProbeTables) -> list[str]:
    """Return one sentence for each network and classifier."""
    return [str(blocks[-1].items[0]) for _, blocks in probe_sections(tables) if isinstance(blocks[-1], Bullets)]


def stage_lines(rows: Sequence[StageRow], steps: Sequence[StepRow]) -> list[dict[str, object]]:
    """Return a line for each stage of one network and classifier, its controls beside it."""
    others = {(row.stage, row.control): row for row in rows}
    tests = {(row.stage, row.versus): row for row in steps}
    lines = []
    for row in (row for row in rows if row.control == "none"):
        before, untrained = tests.get((row.stage, "previous")), tests.get((row.stage, "random"))
        twin = others.get((row.stage, "random"))
        line: dict[str, object] = {
            "stage": "pixels" if row.stage == INPUT else row.stage,
            "dimensions": row.dimensions,
            "C": " … ".join(f"{c:g}" for c in sorted({min(row.c), max(row.c)})),
            "top-1": percent(row.top1),
            "95 % interval": f"{100 * row.top1_low:.2f} … {100 * row.top1_high:.2f}",
        }
        if any(each.top1_seed_low is not None for each in rows if each.control == "none"):
            ends = (row.top1_seed_low, row.top1_seed_high)
            line["over seeds"] = " … ".join(f"{100 * end:.2f}" for end in ends if end is not None)
        line |= {
            "from the stage before": points(before.delta if before else None),
            "p": p_text(before),
        }
        if any(each.control == "random" for each in rows):
            line["untrained"] = percent(twin.top1) if twin else ""
            line["p untrained"] = p_text(untrained)
        if any(each.selectivity is not None for each in rows):
            line["selectivity"] = points(row.selectivity)
        lines.append(line)
    return lines


def p_text(row: StepRow | None) -> str:
    """Write the corrected p of a difference, if there is one."""
    return "" if row is None else f"{row.p_holm:.2g}" if row.p_holm > LEAST_P else f"< {LEAST_P:g}"


def depth_words(rows: Sequence[StageRow], steps: Sequence[StepRow]) -> list[str]:
    """Say whether accuracy grows with depth, and whether training is why."""
    trained = [row for row in rows if row.control == "none"]
    first, last, best = trained[0], trained[-1], max(trained, key=lambda row: row.top1)
    words = list[str]()
    whole = next((row for row in steps if row.versus == "first"), None)
    if whole is not None:
        way = "does not change significantly" if not whole.significant else "grows" if whole.delta > 0 else "falls"
        ends, equal = f"{points(whole.delta_low)} … {points(whole.delta_high)}", "= " if whole.p_holm > LEAST_P else ""
        words.append(
            f"From {named(first.stage)} to {named(last.stage)} accuracy {way}: {points(whole.delta)} points ({ends}; "
            f"p {equal}{p_text(whole)}), from {percent(first.top1, 1)} to {percent(last.top1, 1)}; it is highest at "
            f"{named(best.stage)}, {percent(best.top1, 1)}."
        )
    else:
        words.append(f"Accuracy is highest at {named(best.stage)}, {percent(best.top1, 1)}.")
    sure_steps = [row for row in steps if row.versus == "previous" and row.significant]
    for verb, sign in (("grows", 1), ("falls", -1)):
        if moved := [f"{row.stage} ({points(row.delta)})" for row in sure_steps if row.delta * sign > 0]:
            words.append(f"It {verb} significantly at {', '.join(moved)}.")
    twins = [row for row in steps if row.versus == "random"]
    if twins:
        better = [row.stage for row in twins if row.significant and row.delta > 0]
        worse = [row.stage for row in twins if row.significant and row.delta < 0]
        words.append(
            f"Training makes {len(better)} of {len(twins)} stages significantly better than every untrained twin"
            f"{': ' + ', '.join(better) if better else ''}"
            f"{'; worse: ' + ', '.join(worse) if worse else ''}."
        )
    return words


def named(stage: str) -> str:
    """Return a stage's name in a sentence."""
    return "the pixels" if stage == INPUT else stage
