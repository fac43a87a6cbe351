"""The lectures as an executable specification: no item contradicts itself, and verdicts follow from values."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnntrain.cli.main import main
from cnntrain.runtime.errors import InputError
from cnntrain.studies.verify import figures, registry, study
from cnntrain.studies.verify.registry import ITEMS, Item, alike, chosen, verify

Call = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("name", ITEMS)
def test_every_item_computes_the_right_value_in_every_way(name: str) -> None:
    row = verify(ITEMS[name])
    assert not row.faults
    if ITEMS[name].compute is not None:
        assert row.verdict == ("reproduced" if alike(ITEMS[name].says, ITEMS[name].right) else "differs")
    else:
        assert row.verdict == "not decidable here"
    assert row.lecture in study.LECTURES and row.topic in study.TOPICS and row.title and row.printed and row.why


def item(right: Any, says: Any, *ways: Any) -> Item:
    return Item("X1", "000:1", "convolution", "An item", "as printed", right, says, "Because.", lambda: ways)


def test_a_verdict_follows_from_what_is_computed() -> None:
    assert verify(item(3, 3, 3, 3)).verdict == "reproduced"
    assert verify(item(3, 4, 3)).verdict == "differs" and not verify(item(3, 4, 3)).faults
    wrong = verify(item(3, 3, 3, 5))
    (fault,) = wrong.faults
    assert re.match("X1: .*5.*3", fault)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1.0, True),
        (True, 1, False),
        ([1, [2.0]], (1, (2,)), True),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, True),
        ({"a": 1}, {"b": 1}, False),
        ([1, 2], [1], False),
        ("1", 1, False),
        (None, None, True),
    ],
)
def test_values_are_alike_up_to_rounding(a: Any, b: Any, equal: bool) -> None:
    assert alike(a, b) is equal


def test_items_are_chosen_by_name_and_by_lecture() -> None:
    assert [one.name for one in chosen(["e18", "A1.3a"], None)] == ["E18", "A1.3a"]
    assert all("004" in one.lectures for one in chosen([], "004"))
    assert "A1.4" in {one.name for one in chosen([], "004")}  # which three lectures say
    for names, lecture, near in ((["E188"], None, "E18"), ([], "04", "004"), (["E1"], "003", "E1")):
        with pytest.raises(InputError, match=near):
            chosen(names, lecture)


def test_a_name_stands_for_one_item() -> None:
    with pytest.raises(ValueError, match="E18"):
        registry.add(ITEMS["E18"])


def test_the_command_takes_bare_names_and_prints_the_stable_keys(cnntrain: Call, folder: Path) -> None:
    found = cnntrain("verify", "E18", "A1.3a", "S2", "output_dir=out")
    assert set(found) == {"items", "reproduced", "differs", "undecidable", "seconds"}
    keys = ("id", "lecture", "line", "printed", "computed", "verdict", "why")
    assert [tuple(row) for row in found["items"]] == [keys] * 3
    assert (found["reproduced"], found["differs"], found["undecidable"]) == (1, 1, 1)
    page = (folder / "out/report.html").read_text()
    assert "271,351,808" in page and "<svg" in page and "://" not in page.replace("http://www.w3.org", "")
    assert "E18" in (folder / "out/report.md").read_text() and (folder / "out/table.csv").read_text().count("\n") == 4


def test_the_same_items_as_a_list(cnntrain: Call) -> None:
    assert [row["id"] for row in cnntrain("verify", "items=[E1,E2]")["items"]] == ["E1", "E2"]


def test_a_value_that_moved_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(ITEMS, "X1", item(3, 3, 4))
    assert main(["verify", "X1"]) == 1
    assert re.search("X1: .*4.*3", capsys.readouterr().err)
    assert main(["verify", "E188"]) == 2
    assert "'E18'" in capsys.readouterr().err


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_picture_is_drawn(name: str) -> None:
    assert name in ITEMS
    drawn = study.figure(verify(ITEMS[name]))
    assert drawn.drawing.startswith("<svg") and drawn.alternative


def test_an_item_named_twice_counts_once_and_a_bare_number_is_a_lecture(cnntrain: Call) -> None:
    assert [one.name for one in chosen(["E18", "e18"], None)] == ["E18"]
    assert cnntrain("verify", "000", "E1", "E18")["items"][0]["id"] == "E1"
