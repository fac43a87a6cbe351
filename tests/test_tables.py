"""Tables and intervals."""

import csv
import io

import pytest
from scipy.stats import binomtest

from cnntrain.runtime.progress import clock
from cnntrain.runtime.tables import counted, folded, interval, render
from cnntrain.stats.intervals import wilson


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (7, 10), (352, 360), (9_912, 10_000)])
def test_wilsons_interval_is_scipys(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_prose_is_broken_at_spaces_and_only_for_a_terminal() -> None:
    line = "    " + " ".join(["word"] * 30) + " runs/a-folder-whose-name-is-longer-than-a-narrow-terminal"
    assert folded(line, None) == line
    lines = folded(line, 40, 4).splitlines()
    assert len(lines) == 6 and all(each.startswith("    ") for each in lines)
    assert max(map(len, lines[:-1])) <= 40 and " ".join(map(str.strip, lines)) == line.strip()


def test_no_interval_without_trials() -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson(0, 0)


def test_an_accuracy_is_written_with_n_and_interval() -> None:
    assert interval(0.9778, 0.95679, 0.98871, 3600) == "97.78 % (95 % interval 95.68 … 98.87 %, n = 3,600)"


ROWS = [{"stage": "conv1", "params": 1234, "rate": 0.123456}, {"stage": "a|b", "params": None, "rate": 2.0}]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0.0 s"), (0.83, "0.8 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1:00")),
        *((751.0, "12:31"), (3599.6, "1:00:00"), (3725.0, "1:02:05")),
    ],
)
def test_a_duration_is_written_in_seconds_below_a_minute(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_one_thing_is_no_plural() -> None:
    assert [counted(number, "epoch") for number in (0, 1, 2000)] == ["0 epochs", "1 epoch", "2,000 epochs"]


def test_text_is_aligned_with_numbers_to_the_right() -> None:
    lines = render(ROWS).splitlines()
    assert lines[0] == "stage  params    rate"
    assert lines[2] == "conv1   1,234  0.1235"
    assert lines[3] == "a|b                 2"


NARROW = [
    {"name": "conv1", "receptive field": 5, "size kB": 18},
    {"name": "b", "receptive field": None, "size kB": 2},
]


def test_a_narrow_terminal_gets_broken_headings_then_a_block_for_each_row() -> None:
    assert render(NARROW, "text", 31) == render(NARROW)  # as wide as it is
    headings, rest = render(NARROW, "text", 30).splitlines()[:2], render(NARROW, "text", 30).splitlines()[2:]
    assert headings == ["       receptive  size", "name       field    kB"]
    assert rest == ["─────  ─────────  ────", "conv1          5    18", "b                    2"]
    blocks = render(NARROW, "text", 21).splitlines()
    assert blocks == ["name             conv1", "receptive field  5", "size kB          18", "", *blocks[4:]]
    assert blocks[4:] == ["name             b", "size kB          2"]
    assert render(NARROW, "csv", 5) == render(NARROW, "csv")
    assert render(NARROW, "markdown", 5) == render(NARROW, "markdown")


def test_csv_reads_back_unrounded() -> None:
    back = list(csv.DictReader(io.StringIO(render(ROWS, "csv"))))
    assert back[0] == {"stage": "conv1", "params": "1234", "rate": "0.123456"}
    assert back[1]["stage"] == "a|b"


def test_markdown_has_a_rule_and_aligns_numbers() -> None:
    lines = render(ROWS, "markdown").splitlines()
    assert lines[:2] == ["| stage | params | rate |", "| --- | ---: | ---: |"]
    assert lines[3] == r"| a\|b |  | 2 |"


def test_no_rows_give_no_table() -> None:
    assert render([]) == ""
