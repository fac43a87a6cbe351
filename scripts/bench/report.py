"""Measured rounds to rows, and rows to the tables between the two marks in docs/benchmarks.md."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from cnntrain.runtime.tables import render
from scripts.bench.lines import BARE, LINES, Line

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NOT_YET = "not measured yet"

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]  # of a machine, of a line


def ratio(rounds: list[dict[str, Any]], subject: str, rival: str, clock: str) -> list[float]:
    """Return how many times as fast the subject was in each round: what a sample took the rival to what it took it."""
    return [per_sample(found[rival], clock) / per_sample(found[subject], clock) for found in rounds]


def per_sample(run: Mapping[str, Any], clock: str) -> float:
    """Return the seconds that a sample took."""
    return float(run[clock]) / float(run.get("samples", 1))


def spread(values: list[float], digits: int = 2) -> str:
    """Write the median of values with their range, or the only one."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def verdict(values: list[float], target: float | None) -> str:
    """Say what was to be reached and whether the median does."""
    return "–" if target is None else f"≥ {target:g}: {'met' if median(values) >= target else 'missed'}"


def fastest(rounds: list[dict[str, Any]]) -> str:
    """Return the bare step that took the least time in the median of the rounds."""
    times = {step: [per_sample(one[step], "warm") for one in rounds if step in one] for step in BARE}
    return min((step for step in times if times[step]), key=lambda step: median(times[step]), default="limit")


def rows(name: str, line: Line, result: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Return the rows of a line, one a rival; those of a line or a target that was not measured say so."""
    if line.most is not None:
        return [value_row(name, line, result)]
    found = []
    missing, rounds = (result["missing"], result["rounds"]) if result else ({}, [])
    for against, target in line.rivals.items():
        rival = fastest(rounds) if against == "limit" else against
        row = {"line": f"`{name}`", "what": line.title}
        row["against"] = against if rival == against else f"{against}: {rival}"
        aim = f"≥ {target:g}" if target is not None else "–"
        empty = {"target": aim, "cold": "", "first epoch, extra s": "", "samples/s": ""}
        if reason := missing.get(rival):
            found.append(
                row | {"ratio": "failed" if reason == "failed" else "not installed"} | empty | {"rounds": reason}
            )
            continue
        runs = [one for one in rounds if rival in one]
        if rounds and not runs and target is None:  # left out by --decisive
            continue
        if not result or not runs:
            found.append(row | {"ratio": NOT_YET} | empty | {"rounds": ""})
            continue
        ratios = ratio(runs, line.subject, rival, line.clock)
        extra, speed = (
            [median(one[who][key] for one in runs) for who in (line.subject, rival)] for key in ("extra", "warm")
        )
        samples = [runs[0][who]["samples"] for who in (line.subject, rival)]
        found.append(
            row
            | {
                "ratio": spread(ratios),
                "target": verdict(ratios, target),
                "cold": "" if rival in BARE else spread(ratio(runs, line.subject, rival, "cold")),
                "first epoch, extra s": f"{extra[0]:.1f}; {extra[1]:.1f}",
                "samples/s": "; ".join(
                    f"{n / s:,.0f}" if n > 10 * s else f"{n / s:.2g}" for n, s in zip(samples, speed, strict=True)
                ),
                "rounds": f"{len(runs)}" + (f", {result['discarded']} discarded" if result["discarded"] else ""),
            }
        )
    return found


def value_row(name: str, line: Line, result: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the row of a line that is a value with a bound."""
    assert line.most is not None
    values = [found[line.subject]["value"] for found in result["rounds"]] if result else []
    unit = f" {line.unit}" if line.unit else ""
    met = f": {'met' if median(values) <= line.most else 'missed'}" if values else ""
    row = {"line": f"`{name}`", "what": line.title, "against": "–"}
    row |= {"ratio": spread(values, 3) + unit if values else NOT_YET, "target": f"≤ {line.most:g}{unit}{met}"}
    return row | {"cold": "", "first epoch, extra s": "", "samples/s": "", "rounds": f"{len(values)}" if values else ""}


def tables(results: Results) -> str:
    """Return a Markdown table of what was measured on each machine, with when and how, and of what was on none."""
    parts = []
    for machine, measured in results.items():
        found = [row for name, line in LINES.items() if name in measured for row in rows(name, line, measured[name])]
        parts += [f"### {machine}", render(found, "markdown")]
        for name, result in measured.items():
            told = f"`{name}`: {result['date']}, {result['versions']}. `{result['command']}`"
            parts.append(told + accuracies(result["rounds"]))
    known = {name for measured in results.values() for name in measured}
    if rest := [row for name, line in LINES.items() if name not in known for row in rows(name, line, None)]:
        parts += ["### On no machine yet", render(rest, "markdown")]
    return "\n\n".join(parts)


def accuracies(rounds: list[dict[str, Any]]) -> str:
    """Write the mean top-1 of each contender that reports one, with that of each round, which has its own seed."""
    text = ""
    for who in rounds[0] if rounds else ():
        if found := [100 * run[who]["top1"] for run in rounds if "top1" in run.get(who, {})]:
            text += f" {who}: top-1 {mean(found):.2f} % ({', '.join(f'{value:.2f}' for value in found)})."
    return text


def write(page: Path, results: Results) -> None:
    """Put the tables between the marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{tables(results)}\n{END}{after}")
