"""The benchmark harness: its statistics, what it discards, its table, and two contenders that do the same work."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scripts.bench import harness, load, ours, plain, report
from scripts.bench.lines import BARE, LINES, Line
from scripts.bench.work import DATA, Clock, Task
from scripts.bench.worker import CONTENDERS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def stat(user: int, idle: int, steal: int = 0, guest: int = 0) -> str:
    return f"cpu  {user} 0 0 {idle} 0 0 0 {steal} {guest} 0\ncpu0 1 2 3\n"


@pytest.mark.parametrize(
    ("after", "own", "share"),
    [
        (stat(100, 100), 1.0, 0.0),  # a second of ours in 200 ticks of two cores
        (stat(150, 50), 1.0, 0.25),
        (stat(150, 50, guest=150), 1.0, 0.25),
        (stat(100, 50, steal=50), 1.0, 0.25),
        (stat(100, 100), 1.1, 0.0),  # the clocks differ by a tick now and then
        (stat(0, 0), 0.0, 0.0),
    ],
)
def test_what_others_use_is_what_was_busy_less_what_was_ours(after: str, own: float, share: float) -> None:
    assert load.foreign(stat(0, 0), after, own, hertz=100.0) == pytest.approx(share)


def test_what_a_child_has_used_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, own = iter([stat(0, 0), stat(150, 50)]), iter([2.0, 3.5])
    monkeypatch.setattr(load, "STAT", type("Stat", (), {"read_text": lambda self: next(texts)})())
    monkeypatch.setattr(load, "own_seconds", lambda: next(own))
    monkeypatch.setattr(load.os, "sysconf", lambda name: 100)
    with load.watched() as found:
        pass
    assert found.share == 0.0


def test_patience_ends() -> None:
    shares: Iterator[float] = iter([0.5, 0.2, 0.05])
    assert load.Patience(10, lambda: next(shares)).wait()
    assert not load.Patience(2, lambda: 0.5).wait()


def test_clocks_keep_the_first_epoch_apart() -> None:
    epochs = [
        {"seconds": s, "samples": 100, "loss": loss} for s, loss in ((9.0, 2.0), (2.0, 1.5), (1.0, 1.0), (4.0, 0.5))
    ]
    found = harness.clocks({"epochs": epochs, "parameters": 7})
    assert found == {"parameters": 7, "first": 9.0, "warm": 2.0, "extra": 7.0, "samples": 100, "loss": [0.5]}


LINE = Line("a pair", Task(), {"plain PyTorch": 2.0}, rounds=3)


def ran(warm: float, others: float = 0.0, **facts: Any) -> harness.Run:
    return {"warm": warm, "cold": 10 * warm, "extra": 0.5, "samples": 100, "others": others, "loss": [1.0]} | facts


def test_a_round_with_foreign_load_is_discarded_and_turns_alternate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def run(name: str, task: Task) -> harness.Run:
        asked.append(name)
        return ran(2.0 if name == "plain PyTorch" else 1.0, others=0.3 if len(asked) == 4 else 0.01)

    monkeypatch.setattr(harness, "run", run)
    patience = load.Patience(100, lambda: 0.0)
    *_, result = harness.measure("pair", LINE, tmp_path, patience)
    assert len(result["rounds"]) == 3 and result["discarded"] == 1
    assert asked == ["cnntrain", "plain PyTorch", *["plain PyTorch", "cnntrain"] * 2, "cnntrain", "plain PyTorch"]
    assert patience.left == 70  # what a discarded round took, cold, is gone
    assert not list(harness.measure("pair", LINE, tmp_path, load.Patience(0, lambda: 0.9)))


def test_rivals_without_a_target_run_in_the_first_round_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(harness, "run", lambda name, task: ran(2.0))
    line = replace(LINE, rivals={"plain PyTorch": 2.0, "own step": None})
    *_, result = harness.measure("pair", line, tmp_path, load.Patience(100, lambda: 0.0))
    assert [sorted(one) for one in result["rounds"]] == [
        ["cnntrain", "own step", "plain PyTorch"],
        *[["cnntrain", "plain PyTorch"]] * 2,
    ]
    assert [row["rounds"] for row in report.rows("pair", line, result)] == ["3", "1"]
    line = replace(line, rivals={"own step": None, "bare step": None})
    *_, result = harness.measure("pair", line, tmp_path, load.Patience(100, lambda: 0.0))
    assert all(sorted(one) == ["bare step", "cnntrain", "own step"] for one in result["rounds"])


def test_a_rival_that_fails_is_left_out_and_the_subject_must_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(name: str, task: Task) -> harness.Run:
        if name == failing:
            raise RuntimeError(name)
        return ran(1.0)

    monkeypatch.setattr(harness, "run", run)
    failing = "plain PyTorch"
    line = replace(LINE, rivals={"plain PyTorch": 2.0, "own step": 0.9})
    *_, result = harness.measure("pair", line, tmp_path, load.Patience(100, lambda: 0.0))
    assert [row["ratio"] for row in report.rows("pair", line, result)] == ["failed", "1.00 (1.00 … 1.00)"]
    failing = "cnntrain"
    with pytest.raises(RuntimeError, match="cnntrain"):
        list(harness.measure("pair", line, tmp_path, load.Patience(100, lambda: 0.0)))


@pytest.mark.parametrize(
    ("facts", "says"),
    [({"samples": 99}, "99 samples"), ({"parameters": 8}, "8 parameters"), ({"loss": [2.2]}, "loss of 2.200")],
)
def test_unequal_work_is_refused(facts: dict[str, Any], says: str) -> None:
    harness.check_equal(ran(1.0, parameters=7), ran(1.0, parameters=7, loss=[1.9]), "rival")
    with pytest.raises(harness.UnequalWorkError, match=says):
        harness.check_equal(ran(1.0, parameters=7), ran(1.0, **({"parameters": 7} | facts)), "rival")


def test_a_row_is_the_median_of_the_ratios_of_pairs_with_its_range() -> None:
    """2, 4 and 3 times as fast: the ratio of the medians would be 4."""
    runs = [
        {"cnntrain": ran(mine), "plain PyTorch": ran(theirs, samples=200)}
        for mine, theirs in ((1.0, 4.0), (0.5, 4.0), (2.0, 12.0))
    ]
    result = {"rounds": runs, "discarded": 2, "missing": {}}
    (row,) = report.rows("pair", LINE, result)
    assert row["ratio"] == "3.00 (2.00 … 4.00)" and row["target"] == "≥ 2: met"
    assert row["samples/s"] == "100; 50" and row["rounds"] == "3, 2 discarded"
    (row,) = report.rows("pair", replace(LINE, rivals={"plain PyTorch": 3.5}), result)
    assert row["target"] == "≥ 3.5: missed"
    (row,) = report.rows("pair", LINE, result | {"missing": {"plain PyTorch": "`pip install torch`"}})
    assert (row["ratio"], row["rounds"]) == ("not installed", "`pip install torch`")


def test_the_limit_is_the_bare_step_that_is_fastest_over_all_rounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A step that was fastest in one round alone is none."""
    times = {"bare step, fp32": [1, 5, 5], "bare step, fp32, channels_last": [4, 4, 4]}
    turns = {name: iter(found) for name, found in times.items()}
    monkeypatch.setattr(harness, "run", lambda name, task: ran(next(turns[name]) if name in turns else 2.0))
    monkeypatch.setattr(harness, "choose_precision", lambda name, device: "fp32")
    line = replace(LINE, rivals={"limit": 0.9})
    *_, result = harness.measure("pair", line, tmp_path, load.Patience(100, lambda: 0.0))
    assert all(sorted(one) == [*sorted(times), "cnntrain"] for one in result["rounds"])
    (row,) = report.rows("pair", line, result)
    assert row["against"] == "limit: bare step, fp32, channels_last" and row["ratio"] == "2.00 (2.00 … 2.00)"
    monkeypatch.setattr(harness, "choose_precision", lambda name, device: "bf16")
    assert harness.contenders(["limit", "timm"]) == [*BARE, "timm"]


def test_accuracies_stand_beside_what_was_measured() -> None:
    rounds = [{"cnntrain": ran(1.0, top1=top1), "plain PyTorch": ran(2.0)} for top1 in (0.91, 0.92)]
    assert report.accuracies(rounds) == " cnntrain: top-1 91.50 % (91.00, 92.00)."
    assert report.accuracies([{"cnntrain": ran(1.0)}]) == ""


def test_the_table_is_written_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nsomething stale\n{report.END}\nafter\n")
    report.write(page, {})
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale" not in text
    assert text.count("not measured yet") == text.count("\n| `") > 0
    report.write(page, {})
    assert page.read_text() == text


def test_the_page_has_the_table_of_what_was_measured() -> None:
    kept = PAGE.with_suffix(".json")
    results = json.loads(kept.read_text()) if kept.exists() else {}
    assert not any(result["smoke"] for measured in results.values() for result in measured.values())
    assert f"{report.BEGIN}\n{report.tables(results)}\n{report.END}" in PAGE.read_text()


def test_each_machine_has_a_table_of_its_own() -> None:
    runs = [{"cnntrain": ran(1.0), **{rival: ran(2.0) for rival in LINES["lenet5"].rivals}}]
    result = {"rounds": runs, "discarded": 0, "missing": {}, "date": "then", "versions": "these", "command": "so"}
    text = report.tables(
        {"a slow one": {"lenet5": result}, "a fast one": {"lenet5": result, "grid": result | {"rounds": []}}}
    )
    slow, fast, none = text.split("### ")[1:]
    assert (
        slow.startswith("a slow one\n") and fast.startswith("a fast one\n") and none.startswith("On no machine yet\n")
    )
    assert slow.count("| `lenet5` |") == fast.count("| `lenet5` |") == len(runs[0]) - 1 and "| `lenet5` |" not in none
    assert "| `grid` |" not in slow + none and "not measured yet" in fast


def test_every_line_names_what_exists() -> None:
    for line in LINES.values():
        assert {line.subject, *harness.contenders(line.rivals), *BARE} <= CONTENDERS.keys()
        assert line.task.data in DATA and (line.rivals or line.most is not None)


def test_a_missing_peer_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    assert harness.missing(["cnntrain", "Keras on JAX"]) == {"Keras on JAX": "`pip install keras jax`"}


def test_both_do_the_same_work(folder: Path) -> None:
    task = Task(data="synthetic", images=64, batch_size=16, epochs=1)
    found = {}
    for name, fit in (("cnntrain", ours.fit), ("plain PyTorch", partial(plain.fit, workers=0))):
        clock = Clock()
        fit(task, clock)
        found[name] = harness.clocks({"epochs": clock.epochs, **clock.facts})
        assert found[name]["samples"] == 64 and found[name]["parameters"] == 61706
        assert len(clock.epochs) == 2 and found[name]["warm"] > 0
    harness.check_equal(found["cnntrain"], found["plain PyTorch"], "plain PyTorch")


def test_a_contender_runs_in_a_process_of_its_own_and_says_why_it_fails() -> None:
    found = harness.run("help", Task())
    assert found["cold"] > found["warm"] > 0 and 0 <= found["others"] <= 1
    with pytest.raises(RuntimeError, match=r"(?s)nobody ended with 1: .*KeyError: 'nobody'"):
        harness.run("nobody", Task())
