"""Which runs are meant, what they are called, and which differ in their seed only."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnntrain.runs.folder import find_all_runs
from cnntrain.runtime.errors import InputError

SAME = ("seed", "output_dir", "data_root", "resume", "check_resume")  # settings that make no other experiment of a run


def find_runs(words: Sequence[str], least: int = 2) -> list[Path]:
    """Return the run folders that are meant.

    Raises `InputError` for fewer than `least`, or one that is named twice.
    """
    folders = find_all_runs(words)
    if len(folders) < least:
        raise InputError(f"runs=[{', '.join(words)}]: a comparison needs at least two runs")
    return folders


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths, the same number of parts for all, that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = next(n for n in range(1, max(map(len, parts)) + 1) if len({path[-n:] for path in parts}) == len(parts))
    return ["/".join(path[-depth:]) for path in parts]


def by_experiment(settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Gather the places of settings (dotted keys) that differ in their seed only, in order of appearance."""
    gathered: dict[str, list[int]] = {}
    for place, values in enumerate(settings):
        experiment = {key: value for key, value in values.items() if key not in SAME}
        gathered.setdefault(json.dumps(experiment, sort_keys=True), []).append(place)
    return list(gathered.values())


def letters(number: int) -> str:
    """Return the label of an experiment by its number: A … Z, AA …"""
    return chr(ord("A") + number % 26) * (number // 26 + 1)
