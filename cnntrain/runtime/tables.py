"""Rows as text, Markdown and CSV; numbers as words."""

import csv
import io
import shutil
import sys
import textwrap
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


def counted(number: int, noun: str) -> str:
    """Write a number of things: 1 epoch, 20 epochs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cell(value: object) -> str:
    """Write one value: whole numbers with thousands marked, others to four digits, lists with commas; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output is; None where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def folded(line: str, width: int | None, indent: int = 0) -> str:
    """Break a line at spaces for `width` columns, None for none; later lines stand as far in as a narrow one allows."""
    if width is None:
        return line
    later = " " * min(indent, width // 3)
    return textwrap.fill(line, max(width, 30), subsequent_indent=later, break_long_words=False, break_on_hyphens=False)


def shortened(line: str, width: int | None) -> str:
    """Cut a line to `width` columns, None for none, with dots where something is left out."""
    return line if width is None or len(line) <= width else f"{line[: max(width - 2, 0)]} …"


def render(rows: Sequence[Row], style: Format = "text", width: int | None = None) -> str:
    """Write rows as an aligned table, as Markdown or as CSV; the columns are the keys of the first row.

    Columns that hold only numbers are aligned to the right. CSV holds the values unrounded. A text table wider than
    `width` has its headings broken at spaces; one that is still wider becomes a block of lines for each row.
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
        lines = [[text.replace("|", r"\|") for text in line] for line in (columns, rule, *cells)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    table = aligned([columns], cells, right)
    if width is None or broad(table) <= width:
        return table
    headings = [column.split() or [""] for column in columns]
    above = [[""] * (max(map(len, headings)) - len(words)) + words for words in headings]
    table = aligned([list(line) for line in zip(*above, strict=True)], cells, right)
    return table if broad(table) <= width else blocks(columns, cells)


def aligned(heads: Sequence[list[str]], cells: Sequence[list[str]], right: Sequence[bool]) -> str:
    """Write lines of headings, a rule, and lines of cells, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*heads, *cells, strict=True)]

    def line(texts: Iterable[str]) -> str:
        parts = [
            text.rjust(w) if number else text.ljust(w) for text, w, number in zip(texts, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join(map(line, (*heads, ["─" * w for w in widths], *cells)))


def broad(table: str) -> int:
    """Return the length of the longest line."""
    return max(map(len, table.splitlines()))


def blocks(columns: Sequence[str], cells: Sequence[list[str]]) -> str:
    """Write each row as a block of lines, a column each, without those that are empty."""
    space = max(map(len, columns))
    return "\n\n".join(
        "\n".join(f"{name:{space}}  {text}" for name, text in zip(columns, line, strict=True) if text) for line in cells
    )
