"""The profile of a training: what it reports, and that it changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from steps import step_of

from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.nn.blocks import conv, linear
from cnntrain.nn.stages import assemble
from cnntrain.runtime.jsonfile import read_json
from cnntrain.training.optimizers import sgd
from cnntrain.training.profiling import PARTS, TIMED, TRACED, WARM_UP, Profile, Profiler, show
from cnntrain.training.step import TrainStep

CPU = torch.device("cpu")
INFO = DatasetInfo("noise", ("one", "other"), (1, 8, 8), (0.5,), (0.5,))
WHOLE = WARM_UP + TIMED + TRACED


def pair(accumulate: int = 1) -> tuple[TrainStep, ResidentLoader]:
    """A learner with everything that a step can have, and its loader."""
    images = torch.randint(256, (64, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split(Pixels(images), torch.arange(64) % 2)
    loader = ResidentLoader(split, INFO, batch_size=8, parts={}, seed=0, device=CPU)
    net = assemble({"conv1": conv(4, 3, norm=True), "fc2": linear(2)}, (1, 8, 8), out_shape=(2,))
    settings: dict[str, Any] = {"clip": 0.5, "ema": 0.9, "accumulate": accumulate}
    return step_of(net, sgd(net, lr=0.05), [0.05] * 100, **settings), loader


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_profile_changes_no_bit_and_leaves_nothing_behind(accumulate: int, tmp_path: Path) -> None:
    (plain, data), (watched, seen) = pair(accumulate), pair(accumulate)
    reports: list[Profile] = []
    profiler = Profiler(watched, seen, tmp_path / "profile", reports.append)
    for step in range(WHOLE + 2):
        plain.update(data, step)
        watched.update(seen, step)
        assert bool(reports) == (step >= WHOLE - 1)
    assert profiler.close() and len(reports) == 1
    for owner in (watched, seen, watched.program, watched.trained.optimizer):
        assert not {name for name in vars(owner) if callable(getattr(type(owner), name, None))}
    for one, other in zip(plain.trained.net.parameters(), watched.trained.net.parameters(), strict=True):
        assert torch.equal(one, other)
    averages = zip(plain.evaluated.parameters(), watched.evaluated.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in averages)
    assert plain.read(WHOLE) == watched.read(WHOLE)


def test_the_parts_are_a_whole_step_and_the_trace_names_them(tmp_path: Path) -> None:
    student, loader = pair()
    reports: list[Profile] = []
    Profiler(student, loader, tmp_path, reports.append)
    for step in range(WHOLE):
        student.update(loader, step)
    (report,) = reports
    assert [row["part"] for row in report["parts"]] == [part for part in PARTS if part != "exchange"]
    assert all(row["ms"] > 0 for row in report["parts"])
    assert sum(row["ms"] for row in report["parts"]) == pytest.approx(report["step_ms"])
    assert sum(row["share"] for row in report["parts"]) == pytest.approx(1)
    assert report["samples_per_second"] == pytest.approx(8 / report["step_ms"] * 1000)
    calls = {row["operator"]: row["calls"] for row in report["operators"]}
    assert not set(calls) & set(PARTS) and all(count >= 1 for count in calls.values())
    events = json.loads(Path(report["trace"]).read_text())["traceEvents"]
    names = [event.get("name") for event in events if event.get("cat") == "user_annotation"]
    assert {part: names.count(part) for part in ("forward", "backward")} == {"forward": TRACED, "backward": TRACED}
    assert "images/s" in show(report, "image") and report["trace"] in show(report, "image")


def test_a_short_training_reports_what_there_was(tmp_path: Path) -> None:
    for steps in (WARM_UP, WARM_UP + 2):
        student, loader = pair()
        reports: list[Profile] = []
        profiler = Profiler(student, loader, tmp_path, reports.append)
        for step in range(steps):
            student.update(loader, step)
        assert profiler.close() == (steps > WARM_UP)
        assert [report["steps"] for report in reports] == [2] * (steps > WARM_UP)
        assert not list(tmp_path.iterdir())


def test_fit_shows_and_keeps_a_profile(
    cnntrain: Callable[..., dict[str, Any]], tiny: tuple[str, ...], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (*tiny, "trainer.epochs=7")
    found = cnntrain(*("fit", *words, "trainer.profile=true", "output_dir=run"))
    assert found["profile"]["steps"] == TIMED
    assert found["profile"] == read_json(folder / "run" / "results.json")["profile"]
    assert Path(found["profile"]["trace"]) == Path("run/profile/trace.json")
    assert json.loads(Path(found["profile"]["trace"]).read_text())["traceEvents"]
    plain = cnntrain("fit", *words, "output_dir=plain")
    assert "profile" not in plain and not (folder / "plain" / "profile").exists()
    assert plain["train"] == found["train"]
