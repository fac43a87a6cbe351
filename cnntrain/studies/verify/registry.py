"""Items of the lectures: what is printed, what is computed, and what follows from the two."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnntrain.runtime.errors import InputError, nearest, unknown

Verdict = Literal["reproduced", "differs", "not decidable here"]
Ways = Callable[[], Sequence[Any]]

ITEMS: dict[str, "Item"] = {}
TOLERANCE = 1e-9  # relative, of computed numbers beside the right ones


@dataclass(frozen=True)
class Item:
    """One statement, formula, count or table of a lecture.

    `right` is the right value, from arithmetic or a paper: a computed value that differs from it is a fault of this
    program. `says` is the value that the lecture prints, where it is another one. `compute` returns the value by one or
    more independent ways; None where nothing here can decide, and `elsewhere` says what can.
    """

    name: str
    place: str  # lecture:lines
    topic: str
    title: str
    printed: str
    right: Any
    says: Any
    why: str
    compute: Ways | None
    elsewhere: str = ""

    @property
    def lecture(self) -> str:
        """The number of the lecture, of the first where several say it."""
        return self.place.partition(":")[0]

    @property
    def lectures(self) -> set[str]:
        """The numbers of all lectures that say it."""
        return {part.strip().partition(":")[0] for part in self.place.split(";") if ":" in part}

    @property
    def line(self) -> str:
        """The lines in it."""
        return self.place.partition(":")[2]


@dataclass(frozen=True)
class ItemRow:
    """An item with what was computed; `faults` says where the program contradicts itself or the right value."""

    id: str
    lecture: str
    line: str
    topic: str
    title: str
    printed: str
    computed: str
    verdict: Verdict
    why: str
    faults: tuple[str, ...] = ()


def item(
    name: str, place: str, *, printed: str, right: Any, why: str, says: Any = None, topic: str = ""
) -> Callable[[Ways], Ways]:
    """Enter a function into the registry as an item; its docstring is the title, its module the topic.

    Without `says` the lecture prints the right value.
    """

    def enter(compute: Ways) -> Ways:
        title = (compute.__doc__ or "").strip().splitlines()[0].rstrip(".")
        group = topic or compute.__module__.rpartition(".")[2].replace("_", " ")
        add(Item(name, place, group, title, printed, right, right if says is None else says, why, compute))
        return compute

    return enter


def undecidable(
    name: str, place: str, *, title: str, printed: str, why: str, elsewhere: str = "", topic: str = "tables"
) -> None:
    """Enter an item that only training, a GPU or another source decides; `elsewhere` says what to run or read."""
    add(Item(name, place, topic, title, printed, None, None, why, None, elsewhere))


def add(one: Item) -> None:
    """Enter an item; a name stands for one."""
    if one.name in ITEMS:
        raise ValueError(f"two items are called {one.name}")
    ITEMS[one.name] = one


def alike(a: Any, b: Any) -> bool:
    """Say whether two values are equal: numbers up to `TOLERANCE`, sequences and mappings entry by entry."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    if isinstance(a, bool) or not (isinstance(a, int | float) and isinstance(b, int | float)):
        return bool(a == b)
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12)


def written(value: Any) -> str:
    """Write a value for a table: thousands marked, long sequences in brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {written(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(written, value))}]"
    return str(value)


def verify(one: Item) -> ItemRow:
    """Compute an item and return it with its verdict."""
    about = (one.name, one.lecture, one.line, one.topic, one.title, one.printed)
    if one.compute is None:
        return ItemRow(*about, "", "not decidable here", f"{one.why} {one.elsewhere}".strip())
    values = list(one.compute())
    faults = [
        f"{one.name}: computed {written(value)}, and the right value is {written(one.right)}"
        for value in values
        if not alike(value, one.right)
    ]
    verdict: Verdict = "reproduced" if alike(values[0], one.says) else "differs"
    return ItemRow(*about, written(values[0]), verdict, one.why, tuple(faults))


def chosen(names: Sequence[str], lecture: str | None) -> list[Item]:
    """Return the items that are asked for, all of them without names or a lecture.

    Raises `InputError` for a name or a lecture that does not exist, with the nearest.
    """
    lectures = sorted(set().union(*(one.lectures for one in ITEMS.values())))
    if lecture is not None and lecture not in lectures:
        raise unknown("lecture", lecture, lectures)
    by_name = {name.lower(): name for name in ITEMS}
    for name in names:
        if name.lower() not in by_name:
            match = nearest(name, ITEMS)
            hint = f"did you mean {match!r}?" if match else "cnntrain verify lists all"
            raise InputError(f"unknown item {name!r}; {hint}")
    wanted = [ITEMS[by_name[name]] for name in dict.fromkeys(map(str.lower, names))] or list(ITEMS.values())
    found = [one for one in wanted if lecture is None or lecture in one.lectures]
    if not found:
        raise InputError(f"lecture={lecture} has none of {', '.join(names)}")
    return found


def verify_all(items: Iterable[Item]) -> tuple[list[ItemRow], float]:
    """Return the rows of items, in order, and the seconds they took."""
    began = time.perf_counter()
    return [verify(one) for one in items], time.perf_counter() - began
