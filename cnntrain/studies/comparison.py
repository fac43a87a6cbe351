"""Runs side by side, and which of their differences are significant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cnntrain.config import schema
from cnntrain.nn.geometry import count_parameters, describe
from cnntrain.runs import records
from cnntrain.runs.evaluation import Evaluation, evaluation
from cnntrain.runs.load import read_info, rebuild
from cnntrain.runs.select import SAME, by_experiment
from cnntrain.runtime.jsonfile import flat
from cnntrain.runtime.tables import percent, render
from cnntrain.stats import paired_tests

ABSENT = "–"


@dataclass(frozen=True)
class Entry:
    """A run with all that is compared of it."""

    folder: Path
    name: str
    seed: int
    settings: dict[str, Any]  # dotted keys
    evaluation: Evaluation
    right: np.ndarray  # truth values [N]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only."""

    label: str
    entries: list[Entry]
    params: int
    macs: int | None  # None where a layer's cost is not known

    @property
    def accuracies(self) -> list[float]:
        """The top-1 of each run."""
        return [entry.evaluation.found["top1"] for entry in self.entries]


def evaluated(folders: Sequence[Path], cfg: schema.Compare) -> list[Evaluation]:
    """Return the evaluations of runs, made where they are missing, or where only some have checksums to compare."""
    found = [evaluation(folder, cfg) for folder in folders]
    mixed = len({each.checksums is None for each in found}) > 1
    return [evaluation(folder, cfg, checked=True) for folder in folders] if mixed else found


def read_entry(folder: Path, name: str, found: Evaluation) -> Entry:
    """Return a run with its evaluation."""
    settings = records.settings(folder)
    right = found.probabilities.argmax(axis=1) == found.labels
    return Entry(folder, name, settings["seed"], flat(settings), found, right)


def letters(number: int) -> str:
    """Return the label of a group by its number: A … Z, AA …"""
    return chr(ord("A") + number % 26) * (number // 26 + 1)


def group(entries: Sequence[Entry]) -> list[Group]:
    """Gather the runs that differ in their seed only, in order of appearance."""
    gathered = [[entries[i] for i in places] for places in by_experiment([entry.settings for entry in entries])]
    return [Group(letters(i), members, *size(members[0].folder)) for i, members in enumerate(gathered)]


def size(folder: Path) -> tuple[int, int | None]:
    """Return the parameters and the multiplications of a run's network; None where a layer's cost is not known."""
    settings, info = records.settings(folder), read_info(records.record(folder))
    net = rebuild(settings, info, device="meta")
    stages, lacking = describe(net, info.shape)
    return count_parameters(net), None if lacking else sum(stage.macs for stage in stages)


def differing_keys(groups: Sequence[Group]) -> list[str]:
    """Return the settings, other than seed and places, that are not the same in all groups."""
    settings = [found.entries[0].settings for found in groups]
    keys = dict.fromkeys(key for values in settings for key in values if key not in SAME)
    return [key for key in keys if any(values.get(key, ABSENT) != settings[0].get(key, ABSENT) for values in settings)]


def why_not(first: Entry, second: Entry) -> str | None:
    """Return the reason why two runs cannot be held against each other image by image, or None."""
    one, other = first.evaluation, second.evaluation
    if len(one.labels) != len(other.labels):
        return f"measured on {len(other.labels):,} images, {first.name} on {len(one.labels):,}"
    if (one.labels != other.labels).any():
        return f"measured on images with other labels than {first.name}"
    if one.found["record"]["images"] != other.found["record"]["images"]:
        return f"measured on other images, or the same at another size, than {first.name}"
    return None


def over_images(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Hold each run against the first on the same images."""
    first, others = entries[0], entries[1:]
    held = [why_not(first, other) or paired_tests.disagreement(first.right, other.right) for other in others]
    return paired_tests.image_rows(first.name, [other.name for other in others], held)


def over_seeds(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Hold each group against the first over the seeds that they share; a group that shares fewer than two has no row.

    The rows name those seeds.
    """
    first, pairs = groups[0], {other.label: shared(groups[0], other) for other in groups[1:]}
    pairs = {name: both for name, both in pairs.items() if len(both) > 1}
    held: list[str | list[float]] = []
    for both in pairs.values():
        deltas = [b.evaluation.found["top1"] - a.evaluation.found["top1"] for a, b in both]
        held.append(next((why for a, b in both if (why := why_not(a, b))), None) or deltas)
    rows = paired_tests.seed_rows(first.label, list(pairs), held)
    return [row | {"seeds": [a.seed for a, _ in both]} for row, both in zip(rows, pairs.values(), strict=True)]


def shared(first: Group, second: Group) -> list[tuple[Entry, Entry]]:
    """Return the pairs of runs of the same seed, by seed; of several with one seed the first counts."""
    one, other = ({entry.seed: entry for entry in reversed(found.entries)} for found in (first, second))
    return [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]


def as_json(entry: Entry, own: Group, differing: Sequence[str]) -> dict[str, Any]:
    """Return a run for `--json`."""
    measured = {key: entry.evaluation.found[key] for key in ("n", "loss", "top1", "top1_low", "top1_high")}
    return {
        "run": entry.name,
        "run_dir": str(entry.folder),
        "group": own.label,
        "seed": entry.seed,
        "settings": {key: entry.settings.get(key) for key in differing},
        "params": own.params,
        "macs": own.macs,
        **measured,
    }


def group_json(found: Group) -> dict[str, Any]:
    """Return a group for `--json`; the deviation over seeds is null for a single run."""
    values = found.accuracies
    return {
        "group": found.label,
        "runs": [entry.name for entry in found.entries],
        "seeds": [entry.seed for entry in found.entries],
        "params": found.params,
        "macs": found.macs,
        "top1_mean": float(np.mean(values)),
        "top1_std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def show(found: Mapping[str, Any], style: Literal["text", "markdown", "csv"]) -> None:
    """Print what was found: tables and sentences, or for `csv` one table with everything known of each run."""
    first = found["runs"][0]["run"]
    if style == "csv":
        print(render(one_table(found), "csv"))
        return
    if found["differing"]:
        firsts = {row["group"]: row["settings"] for row in reversed(found["runs"])}
        labels = [row["group"] for row in found["groups"]]
        settings = [{"setting": key} | {at: word(firsts[at][key]) for at in labels} for key in found["differing"]]
        print(render(settings, style), end="\n\n")
    else:
        print("the runs differ in nothing but their seed\n")
    print(render([run_row(row) for row in found["runs"]], style), end="\n\n")
    if any(row["top1_std"] is not None for row in found["groups"]):
        print(render([group_row(row) for row in found["groups"]], style), end="\n\n")
    print(f"against {first}, image by image ({found['split']}, {found['weights']} weights)\n")
    print(render([difference_row(row) for row in found["over_images"]], style), end="\n\n")
    if found["over_seeds"]:
        print(f"against {found['groups'][0]['group']}, seed by seed\n")
        print(render([difference_row(row) for row in found["over_seeds"]], style), end="\n\n")
    reasons = [row["verdict"] for row in found["over_images"] if row["believable"] is None]
    for sentence in dict.fromkeys([*reasons, *(row["verdict"] for row in found["over_seeds"]), found["verdict"]]):
        print(sentence)
    if not found["over_seeds"] and any(row["believable"] for row in found["over_images"]):
        print("What another seed would give is not known: train each with the same eight seeds and compare those.")


def word(value: object) -> str:
    """Write a setting."""
    return ABSENT if value is None else ", ".join(map(str, value)) or "[]" if isinstance(value, list) else str(value)


def run_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a run as a line of the table."""
    return {
        "run": row["run"],
        "group": row["group"],
        "seed": row["seed"],
        "parameters": row["params"],
        "MACs": row["macs"],
        "top-1": percent(row["top1"]),
        "95 % interval": f"{100 * row['top1_low']:.2f} … {100 * row['top1_high']:.2f}",
        "n": row["n"],
    }


def group_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a group as a line of the table."""
    deviation = None if row["top1_std"] is None else f"{100 * row['top1_std']:.2f}"
    return {"group": row["group"], "runs": len(row["runs"]), "mean top-1": percent(row["top1_mean"]), "std": deviation}


def difference_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a comparison over images or over seeds as a line of the table, empty where it was not tested."""
    if "seeds" in row:
        line = {"group": row["name"], "shared seeds": row["n_seeds"]}
    else:
        line = {"run": row["name"], "only it right": row["only_this"], "only the other": row["only_other"]}
    if row["delta"] is None:
        return line | dict.fromkeys(("points", "95 % interval", "p", "p (Holm)"))
    delta, low, high = (paired_tests.points(row[key]) for key in ("delta", "delta_low", "delta_high"))
    return line | {"points": delta, "95 % interval": f"{low} … {high}", "p": row["p"], "p (Holm)": row["p_holm"]}


def one_table(found: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return one row a run: its settings that differ, its size and accuracy, and how it compares with the first."""
    keys = ("delta", "delta_low", "delta_high", "p", "p_holm")
    compared = [dict.fromkeys(keys), *({key: row[key] for key in keys} for row in found["over_images"])]
    plain = [{key: value for key, value in row.items() if key != "settings"} for row in found["runs"]]
    return [
        {**row, **{key: "" if value is None else word(value) for key, value in full["settings"].items()}, **against}
        for row, full, against in zip(plain, found["runs"], compared, strict=True)
    ]
