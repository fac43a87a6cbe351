"""Draw the rooms of the package and the imports between them, from the table of the layer test.

    python -m scripts.architecture        # writes docs/figures/architecture.svg and the tables of docs/architecture.md

Rooms stand on the diagonal, the highest level first. A number in the row of one room and above another counts the files
that import from there: where all numbers lie above the diagonal, imports point one way.
"""

import ast
import html
import re
import runpy
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "figures" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"

Levels = list[list[str]]
Imports = Counter[tuple[str, str]]

WIDTH, HEIGHT, MARGIN = 84, 46, 12  # of a cell of the picture, and around it
STYLE = """
svg { --ink: #1f2328; --faint: #8b949e; --band: #f2f5f9; --box: #ffffff; --page: #ffffff; --line: #7aa7d9; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6edf3; --faint: #8b949e; --band: #1b222c; --box: #0d1117; --page: #0d1117; --line: #4d7fb8; }
}
text { font-family: system-ui, -apple-system, 'Segoe UI', sans-serif; text-anchor: middle; fill: var(--ink); }
.room { font-size: 12px; font-weight: 600; } .size { font-size: 10px; fill: var(--faint); }
.count { font-size: 11px; }
.page { fill: var(--page); } .band { fill: var(--band); } .box { fill: var(--box); stroke: var(--faint); }
.dot { fill: var(--box); stroke: var(--line); } path { fill: none; stroke: var(--line); stroke-width: 1.2; }
marker path { fill: var(--line); stroke: none; }
"""
HEAD = """\
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z"/></marker></defs>"""


def read() -> tuple[Levels, Imports, dict[str, list[Path]]]:
    """Return the rooms by level, how many files of one room import from another, and the files of each room."""
    table = runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))
    levels = [sorted(rooms) for rooms in table["ROOMS"]]
    imports: Imports = Counter()
    files: dict[str, list[Path]] = {room: [] for rooms in levels for room in rooms}
    for name, path in table["MODULES"].items():
        if "." not in name or (room := table["room"](name)) not in files:
            continue
        files[room].append(path)
        imports.update((room, goal) for goal in {table["room"](goal) for goal in table["arrows"](name)} - {room})
    return levels, imports, files


def draw(levels: Levels, imports: Imports, files: dict[str, list[Path]]) -> str:
    """Return the picture as SVG in colours for light and for dark pages."""
    order = [room for rooms in levels for room in rooms]
    x = {room: MARGIN + i * WIDTH for i, room in enumerate(order)}
    y = {room: MARGIN + i * HEIGHT for i, room in enumerate(order)}
    width, height = 2 * MARGIN + len(order) * WIDTH, 2 * MARGIN + len(order) * HEIGHT
    page = f'<rect class="page" width="{width}" height="{height}"/>'
    bands = [
        f'<rect class="band" x="0" y="{y[rooms[0]]}" width="{width}" height="{len(rooms) * HEIGHT}"/>'
        for rooms in levels[::2]
    ]
    lines, counts, boxes = [], [], []
    for (source, goal), count in sorted(imports.items()):
        right, middle, centre = x[source] + WIDTH - 4, y[source] + HEIGHT // 2, x[goal] + WIDTH // 2
        lines.append(f'<path d="M{right} {middle}H{centre}V{y[goal] + 5}" marker-end="url(#head)"/>')
        counts.append(f"<g><title>{source} → {goal}: {count} file{'s' * (count > 1)}</title>")
        counts.append(f'<circle class="dot" cx="{centre}" cy="{middle}" r="11"/>')
        counts.append(f'<text class="count" x="{centre}" y="{middle + 4}">{count}</text></g>')
    for room in order:
        size = f"{len(files[room])} file{'s' * (len(files[room]) > 1)}"
        left, top, centre = x[room] + 4, y[room] + 5, x[room] + WIDTH // 2
        boxes.append(f'<rect class="box" x="{left}" y="{top}" width="{WIDTH - 8}" height="{HEIGHT - 10}" rx="5"/>')
        boxes.append(f'<text class="room" x="{centre}" y="{top + 16}">{room}</text>')
        boxes.append(f'<text class="size" x="{centre}" y="{top + 29}">{size}</text>')
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = "<title>The rooms of cnntrain by level, and how many files of one import from another</title>"
    return "\n".join([svg, title, f"<style>{STYLE}</style>", HEAD, page, *bands, *lines, *counts, *boxes, "</svg>", ""])


def rows(levels: Levels, imports: Imports, files: dict[str, list[Path]]) -> str:
    """Return a table of the rooms: level, purpose, files, lines, and what each imports."""
    lines = ["| level | room | what it is | files | lines | imports from |", "|---:|---|---|---:|---:|---|"]
    for level, room in ((len(levels) - i, room) for i, rooms in enumerate(levels) for room in rooms):
        place = ROOT / "cnntrain" / room
        head = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        purpose = ast.get_docstring(ast.parse(head.read_text())) or ""
        goals = ", ".join(f"{goal} {imports[room, goal]}" for goal in files if imports[room, goal])
        count = sum(len(path.read_text().splitlines()) for path in files[room])
        what = html.escape(purpose.split("\n\n")[0].replace("\n", " ").rstrip("."), quote=False)
        lines.append(f"| {level} | `{room}` | {what} | {len(files[room])} | {count:,} | {goals} |")
    total = sum(len(path.read_text().splitlines()) for paths in files.values() for path in paths)
    lines.append(f"| | total | | {sum(map(len, files.values()))} | {total:,} | |")
    return "\n".join(lines)


def main() -> None:
    levels, imports, files = read()
    PICTURE.write_text(draw(levels, imports, files))
    table = f"<!-- drawn: begin -->\n{rows(levels, imports, files)}\n<!-- drawn: end -->"
    PAGE.write_text(
        re.sub(r"<!-- drawn: begin -->.*<!-- drawn: end -->", lambda _: table, PAGE.read_text(), flags=re.DOTALL)
    )


if __name__ == "__main__":
    main()
