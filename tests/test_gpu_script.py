"""What measures on a GPU, shown on a CPU by tiny work: rows as they are found, bounded checks, the kept table."""

import json
import runpy
from pathlib import Path

import pytest

from scripts.gpu import __main__ as script
from scripts.gpu.rows import Given, row
from scripts.gpu.runs import fit_beside_step
from scripts.gpu.steps import crops, determinism, steps, waiting

SMOKE = Given(smoke=True)


def test_steps_crops_and_waits_give_a_row_each() -> None:
    found = [*steps([("lenet5", 512)], ["plain", "captured"])(SMOKE), *crops(SMOKE), *waiting(SMOKE)]
    assert len(found) == 7 and all(one["value"] is not None and one["what"] for one in found)
    assert len({one["what"] for one in found}) == 7


@pytest.mark.slow
def test_trainings_and_other_algorithms_give_their_rows() -> None:
    found = [*fit_beside_step(SMOKE), *determinism(SMOKE)]
    assert len(found) == 3 and all(one["value"] > 0 for one in found)


def test_rows_are_kept_as_numbers_and_as_a_table(tmp_path: Path) -> None:
    rows = [row("a step", 1.5, "ms", "10 images/s"), row("a peer", None, "×", "not measured")]
    script.keep(rows, tmp_path / "gpu", smoke=True)
    kept = json.loads((tmp_path / "gpu" / "gpu.json").read_text())
    assert kept["rows"] == rows and kept["machine"]["torch"]
    assert "| a step | 1.5 | ms | 10 images/s |" in (tmp_path / "gpu" / "gpu.md").read_text()


@pytest.mark.slow
def test_a_check_that_takes_too_long_is_ended_and_says_so() -> None:
    *_, last = script.ask("compiled", SMOKE, 6.0)
    assert last["value"] is None and "6 s" in last["note"]
    (unasked,) = script.ask("crops", SMOKE, 1.0)
    assert unasked["value"] is None


def test_what_the_tests_for_a_gpu_train_can_be_trained_on_a_cpu() -> None:
    path = Path(__file__).parent / "gpu" / "test_gpu_steps.py"
    tests = runpy.run_path(str(path))
    for optimizer in tests["OPTIMIZERS"]:
        student = tests["train_step"](optimizer, tests["CPU"])
        tests["take"](student, tests["loader"](tests["CPU"]), 2)
        assert student.read(2)["loss"] > 0
