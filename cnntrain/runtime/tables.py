"""Rows to text, Markdown and CSV; counts to intervals."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

Row = Mapping[str, object]
Format = Literal["text", "markdown", "csv"]


def percent(share: float, digits: int = 2) -> str:
    """Write a proportion in per cent: 98.61 %."""
    return f"{100 * share:.{digits}f} %"


def interval(share: float, low: float, high: float, n: int) -> str:
    """Write an accuracy as it must be read: 98.61 % (95 % interval 96.79 … 99.40 %, n = 360)."""
    return f"{percent(share)} (95 % interval {100 * low:.2f} … {percent(high)}, n = {n:,})"


def cell(value: object) -> str:
    """Write one value: whole numbers with thousands marked, others to four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def render(rows: Sequence[Row], style: Format = "text") -> str:
    """Write rows as an aligned table, as Markdown or as CSV; the columns are the keys of the first row.

    Columns that hold only numbers are aligned to the right. CSV holds the values unrounded.
    """
    if not rows:
        return ""
    columns = list(rows[0])
    if style == "csv":
        sink = io.StringIO()
        writer = csv.DictWriter(sink, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return sink.getvalue().rstrip("\n")
    cells = [[cell(row[column]) for column in columns] for row in rows]
    right = [all(isinstance(row[column], int | float | None) for row in rows) for column in columns]
    if style == "markdown":
        rule = ["---:" if number else "---" for number in right]
        return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *cells))
    widths = [max(len(line[i]) for line in (columns, *cells)) for i in range(len(columns))]

    def aligned(line: Iterable[str]) -> str:
        parts = [
            text.rjust(w) if number else text.ljust(w) for text, w, number in zip(line, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join(aligned(line) for line in (columns, ["─" * width for width in widths], *cells))
