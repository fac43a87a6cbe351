"""A study of removals: planned, made cell by cell, and answered."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnntrain.config.build import read_dataset
from cnntrain.config.compose import command_line
from cnntrain.config.schema import Ablate
from cnntrain.data.datasets.splits import changes
from cnntrain.runs import records
from cnntrain.runs.evaluation import Evaluation, evaluation_folder, read_evaluation
from cnntrain.runs.folder import RECORD, RESULTS
from cnntrain.runs.images import PIXELS, noted
from cnntrain.runtime import disk
from cnntrain.runtime.devices import machine
from cnntrain.runtime.errors import listed
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import clock, say
from cnntrain.runtime.tables import percent, render
from cnntrain.stats import looks
from cnntrain.studies import cells, grid
from cnntrain.studies.ablation import answer as ablation
from cnntrain.studies.ablation import plan
from cnntrain.studies.ablation import variants as study
from cnntrain.studies.ablation.figures import differences_picture
from cnntrain.studies.ablation.report import answer_tables, flat, report, sentences

STUDY, REPORT, LOOKS = "study.json", "report.md", "looks.json"


def tell_changes(cell: grid.Cell) -> None:
    """Say when the images of a finished cell are no longer as they were: nothing is measured on them anew."""
    files = noted(cell.folder)
    if files and (wrong := changes(read_dataset(cell.settings["dataset"], cell.settings["data_root"]), files)):
        say(
            f"warning: the images have changed since these cells were made: {listed(wrong, 1)}; name another output_dir"
        )


def estimate(lines: Sequence[plan.Planned], cfg: Ablate) -> dict[str, float] | None:
    """Return about how many seconds a run of each variant takes; None where nothing is trained."""
    if cfg.mode not in study.TRAINING:
        return None
    say("timing a few steps of each variant on noise …")
    return {line.variant.name: plan.seconds_of(line, threads=1) for line in lines}


def show_plan(
    cfg: Ablate,
    lines: Sequence[plan.Planned],
    seeds: Mapping[int, Path | None],
    left: Sequence[grid.Cell],
    seconds: Mapping[str, float] | None,
    jobs: int,
) -> None:
    """Print the variants with their sizes, the number of runs and the time they take."""
    print(render(plan.rows(lines, seconds), cfg.table))
    total = len(lines) * len(seeds)
    done = f", {total - len(left)} of them finished" if len(left) < total else ""
    what = f"{len(lines)} variants × {len(seeds)} seed{'s' if len(seeds) > 1 else ''}: {total} runs{done}"
    if seconds and left:
        longest = sum(seconds[cell.variant] for cell in left) / min(jobs, len(left))
        what += f"; about {clock(longest)} with {min(jobs, len(left))} at a time"
    say(f"\n{what}")


def plan_json(lines: Sequence[plan.Planned], n_seeds: int) -> list[dict[str, Any]]:
    """Return the plan with the keys of the answer's table."""
    return [
        {
            "variant": line.variant.name,
            "removed": list(line.variant.stages),
            "n_seeds": n_seeds,
            "params": line.params,
            "params_removed": line.params_removed,
            "macs": line.macs,
            "receptive_field": line.receptive_field,
            "replumbed": list(line.replumbed),
        }
        for line in lines
    ]


class Watch:
    """Says what becomes of the cells, and how long the rest will take."""

    def __init__(self, left: Sequence[grid.Cell], expected: Sequence[float], jobs: int) -> None:
        self.left, self.expected, self.jobs = left, expected, jobs
        self.failed: list[str] = []
        self.open, self.ended, self.began = set(range(len(left))), 0, time.monotonic()
        self.spent = self.foreseen = 0.0  # seconds of the cells that are done: as measured, and as expected

    def hear(self, message: cells.Message) -> None:
        """Take in what a process tells of a cell."""
        cell, kind = self.left[message["cell"]], message["kind"]
        name = f"{cell.variant}, seed {cell.seed}"
        if kind == "done":
            self.open.discard(message["cell"])
            self.ended += 1
            self.spent += message["seconds"]
            self.foreseen += self.expected[message["cell"]]
            accuracy = f"test top-1 {percent(message['test_top1'])}"
            say(f"[{self.ended}/{len(self.left)}] {name}: {accuracy} ({clock(message['seconds'])}), {self.rest()} left")
        elif kind == "failed":
            self.open.discard(message["cell"])
            self.ended += 1
            self.failed.append(name)
            say(f"[{self.ended}/{len(self.left)}] {name} failed: {message['reason']} ({cell.folder / cells.LOG})")
        elif kind == "stopped":
            say(f"{name}: stopped and saved")

    def rest(self) -> str:
        """Return how long the cells that are left will take, by what those that are done took."""
        pace = self.spent / self.foreseen if self.foreseen else 0.0
        ahead = sum(self.expected[number] for number in self.open) * pace
        if not self.foreseen:
            ahead = self.spent / self.ended * len(self.open)
        return clock(ahead / min(self.jobs, max(len(self.open), 1)))


def answer_study(
    cfg: Ablate, folder: Path, lines: Sequence[plan.Planned], made: Sequence[grid.Cell], seeds: Sequence[int]
) -> dict[str, Any]:
    """Read the finished cells, test the differences, write and show what was found."""
    variants, earlier = analysed(lines), looked(folder)
    now = looks.look(earlier, seeds, ablation.comparisons(variants), cfg.looks)
    others = [one for one in earlier if one.seeds != now.seeds]
    again, known = looks.next_level([*others, now], cfg.looks), [name for one in others for name in one.found]
    found = ablation.answer(variants, read_cell(made), seeds, now.level, again, known)
    tested = any(row["p"] is not None for row in found.table + found.interactions)
    now = now._replace(found=tuple(ablation.significant(found)))
    record = {"looks": [one._asdict() for one in ([*others, now] if tested else earlier)]}
    write_json(folder / LOOKS, record)  # before anything of the answer is seen
    for heading, rows in answer_tables(found).items():
        print(f"\n{heading}\n\n{render(rows, cfg.table)}")
    about = looks.words(earlier, now, again) if tested else []
    print("", *sentences(found), *about, sep="\n")
    write(cfg, folder, lines, found, setting(cfg, lines[0].variant, seeds, made[0]), about)
    result = {
        "study_dir": str(folder),
        "rows": found.rows,
        "table": found.table,
        "interactions": found.interactions,
        "complete": found.complete,
    } | record
    write_json(folder / RESULTS, result)
    print(f"\nstudy  {folder}\nreport {folder / REPORT}")
    if not found.complete:
        say("some runs are missing, so the study is not complete; the same command makes those that nobody makes")
    return result


def analysed(lines: Sequence[plan.Planned]) -> list[ablation.Variant]:
    """Return the variants as their answer names them."""
    return [
        ablation.Variant(
            line.variant.name,
            line.variant.stages if line.variant.control or line.variant.only_removes(lines[0].variant) else (),
            line.params,
            line.params_removed,
            line.macs,
            line.variant.words,
            line.variant.control,
        )
        for line in lines
    ]


def looked(folder: Path) -> list[looks.Look]:
    """Return the looks at a study so far; where none is recorded, the one that left its results."""
    if (folder / LOOKS).is_file():
        kept = records.read_record(folder / LOOKS, records.LooksRecord)["looks"]
        return [
            looks.Look(tuple(one["seeds"]), one["level"], one["spent"], tuple(one.get("found", ()))) for one in kept
        ]
    if not (folder / RESULTS).is_file():
        return []
    kept = records.read_record(folder / RESULTS, records.StudyRecord)
    found = ablation.Answer(kept["rows"], kept["table"], kept["interactions"], kept["complete"])
    tested = [*found.table[1:], *found.interactions]
    if all(row["p"] is None for row in tested):
        return []
    look = looks.look([], list({row["seed"] for row in found.rows}), len(tested))
    return [look._replace(found=tuple(ablation.significant(found)))]


def write(
    cfg: Ablate,
    folder: Path,
    lines: Sequence[plan.Planned],
    found: ablation.Answer,
    words: Mapping[str, str],
    about: Sequence[str],
) -> None:
    """Write the answer as tables of numbers, as pictures and as a report."""
    options: dict[str, Any] = cfg.study or {}
    disk.write(folder / "rows.csv", render(flat(found.rows), "csv") + "\n")
    disk.write(folder / "table.csv", render(flat(found.table), "csv") + "\n")
    picture = None
    if any(row["delta_mean"] is not None for row in found.table[1:]):
        for style in ("png", "svg"):
            disk.write(folder / "figures" / f"differences.{style}", differences_picture(found.table, style))
        picture = "figures/differences.png"
    text = report(
        options.get("name") or "Removals",
        words,
        plan.rows(lines, None),
        found,
        about=about,
        picture=picture,
        printed=options.get("printed"),
        source=options.get("source") or (),
    )
    disk.write(folder / REPORT, text)


def read_cell(made: Sequence[grid.Cell]) -> list[ablation.Cell]:
    """Return what the finished cells found, but of those that were measured on other test images than the first."""
    found, first = list[ablation.Cell](), None
    for cell in made:
        if (result := cells.finished(cell.folder)) is None:
            continue
        measured = read_evaluation(evaluation_folder(cell.folder, "test", "last"))
        first = first or (cell, measured)
        if not same_images(first, (cell, measured)):
            say(f"{cell.folder} was measured on other test images than {first[0].folder}, and is left out")
            continue
        right = measured.probabilities.argmax(axis=1) == measured.labels
        accuracies = result["train_top1"], result["test_top1"], result["test_n"]
        found.append(ablation.Cell(cell.variant, cell.seed, *accuracies, right))
    return found


def same_images(*measured: tuple[grid.Cell, Evaluation]) -> bool:
    """Say whether two cells were measured on the same test images, by their pixels where both see them alike."""
    (_, one), (_, other) = measured
    seen = [{key: cell.settings["dataset"].get(key) for key in PIXELS} for cell, _ in measured]
    if seen[0] == seen[1] and (one.checksums is None) == (other.checksums is None):
        return bool(one.found["record"]["images"] == other.found["record"]["images"])
    files = [each.files for each in (one, other) if each.files is not None]
    return np.array_equal(one.labels, other.labels) and (len(files) < 2 or np.array_equal(files[0], files[1]))


def setting(cfg: Ablate, full: study.Variant, seeds: Sequence[int], cell: grid.Cell) -> dict[str, str]:
    """Return what a reader must know of how the cells were made."""
    own, record = (
        full.settings,
        records.record(cell.folder) if (cell.folder / RECORD).is_file() else {},
    )
    images = ", ".join(f"{count:,} {name}" for name, count in record.get("data", {}).get("images", {}).items())
    optimizer = ", ".join(f"{key}={value}" for key, value in own["optimizer"].items())
    schedule = ", ".join(f"{key}={value}" for key, value in own["schedule"].items())
    trainer = own["trainer"]
    found = {
        "command": " ".join(command_line("ablate")),
        "mode": cfg.mode,
        "model": own["model"]["name"],
        "dataset": f"{own['dataset']['name']}: {images} images",
        "augmentation": ", ".join(own["augmentation"]) or "none",
        "optimizer": optimizer,
        "schedule": schedule,
        "epochs": str(trainer["epochs"]),
        "batch size": str(trainer["batch_size"] * trainer["accumulate"]),
        "seeds": ", ".join(map(str, seeds)),
        "precision": str(record.get("precision", trainer["precision"])),
        "hardware": machine(record["hardware"]) if "hardware" in record else "",
        "versions": ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()),
    }
    if cfg.mode != "retrain":
        found["trained runs"] = ", ".join(cfg.runs or [])
    return found
