"""The commands from end to end, on drawn images."""

import base64
import csv
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnntrain.cli.main import main
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split
from cnntrain.runs import messages, outcome, predictions
from cnntrain.runs.folder import find_run, remember
from cnntrain.runs.predictions import mean_and_contrast
from cnntrain.stats.intervals import wilson
from cnntrain.tasks import task_for
from cnntrain.training import checkpoints
from cnntrain.training.loop import TrainProgress

Call = Callable[..., dict[str, Any]]
FIT_KEYS = {
    *("run_dir", "resumed_from", "skipped", "steps", "epochs", "seconds", "samples_per_second", "train", "val", "best"),
    *("objective", "majority"),
}


@pytest.mark.parametrize(
    ("top1", "images", "lines", "warned"),
    [
        (0.9, (60, 40), [], []),
        (0.9, (80, 20), ["balanced accuracy 70.00 %, the mean over the classes, which differ in size"], []),
        (0.81, (80, 20), ["balanced accuracy 70", "no better than always predicting ant (80.00 %)"], []),
        (0.40, (20, 80), ["balanced accuracy 70", "no better than always predicting bee (80.00 %)"], ["ant"]),
        (0.50, (50, 50), ["no better than always predicting ant (50.00 %)"], list("abcdefg")),
    ],
)
def test_fit_says_where_top_1_alone_would_mislead(
    capfd: pytest.CaptureFixture[str], top1: float, images: tuple[int, int], lines: list[str], warned: list[str]
) -> None:
    split = Split(Pixels(torch.zeros(100, 1, 1, 1, dtype=torch.uint8)), torch.tensor([0] * images[0] + [1] * images[1]))
    data = Dataset(DatasetInfo("insects", ("ant", "bee"), (1, 1, 1), (0.5,), (0.5,)), split, split, None)
    low, high = wilson(round(100 * top1), 100)
    best = {"n": 100, "loss": 1.0, "top1": top1, "top1_low": low, "top1_high": high, "epoch": 3}
    at = TrainProgress(12, 12, best | {"balanced_accuracy": 0.7, "never_predicted": warned})
    found = outcome.numbers([], at, 4, task_for(data.info), split)
    messages.report(found | {"skipped": 0, "seconds": 1.0, "run_dir": "run"}, "image")
    out, err = capfd.readouterr()
    said = [line.strip() for line in out.splitlines()]
    assert "best of 3 epochs (epoch 3)" in said[0] and said[1 + len(lines)].startswith("took")
    assert all(line.startswith(start) for line, start in zip(said[1:], lines, strict=False))
    never = "warning: never predicted in validation: "
    assert err == (f"{never}{'ant' if len(warned) == 1 else 'a, b, c, d, e and 2 more'}\n" if warned else "")


def test_fit_leaves_a_run_that_eval_rebuilds_to_the_same_numbers(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    fitted = cnntrain("fit", *tiny, "output_dir=run")
    assert set(fitted) == FIT_KEYS
    assert fitted["run_dir"] == "run" and fitted["resumed_from"] == 0 and fitted["epochs"] == 2
    run = folder / "run"
    assert {path.name for path in run.iterdir()} == {
        *("config.json", "run.json", "metrics.jsonl", "results.json", "checkpoints", ".lock"),
    }
    record = json.loads((run / "run.json").read_text())
    assert record["exit"] == "done" and record["data"]["images"] == {"train": 86, "val": 10, "test": 48}
    assert {"argv", "versions", "commit", "hardware", "seed", "started"} <= set(record)
    assert record["argv"][:3] == ["cnntrain", "fit", "model=lenet5"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["train", "val", "train", "val"]

    last = cnntrain("eval", "run=run", "split=val", "weights=last")
    assert last["balanced_accuracy"] == pytest.approx(fitted["val"]["balanced_accuracy"])
    assert last["top1"] == fitted["val"]["top1"] and last["loss"] == pytest.approx(fitted["val"]["loss"], rel=1e-4)
    found = cnntrain("eval", "run=run")
    assert {"run_dir", "split", "n", "loss", "top1", "top1_low", "top1_high", "top5", "per_class", "ece"} <= set(found)
    assert found["split"] == "test" and found["n"] == 48 and found["top1_low"] <= found["top1"] <= found["top1_high"]
    with np.load(run / "eval" / "test_best" / "predictions.npz") as saved:
        assert (saved["predicted"] == saved["labels"]).mean() == pytest.approx(found["top1"])
    assert json.loads((run / "eval" / "test_best" / "results.json").read_text())["top1"] == found["top1"]


def test_tensorboard_shows_every_record_and_nothing_twice_after_a_resume(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = [*tiny, "trainer.tensorboard=true", "schedule=constant", "output_dir=run"]
    cnntrain("fit", *words, "trainer.epochs=1")
    cnntrain("fit", *words, "trainer.epochs=2")
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("val/top1")]
    assert steps == [5, 10] and [event.step for event in events.Scalars("train/loss")] == [5, 10]
    assert {"batch", "confusion"} <= set(events.Tags()["images"])


def test_two_fits_are_equal_to_the_bit_and_workers_change_nothing(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    for name, more in (("a", ()), ("b", ()), ("c", ("dataset.workers=1",)), ("d", ("seed=1",))):
        cnntrain("fit", *tiny, "augmentation=strong", f"output_dir={name}", *more)
    weights = [checkpoints.load(folder / name / "checkpoints" / "last.pt")["model"] for name in "abcd"]
    for other in weights[1:3]:
        assert all(torch.equal(weights[0][key], other[key]) for key in weights[0])
    assert not torch.equal(weights[0]["conv1.conv.weight"], weights[3]["conv1.conv.weight"])


def test_every_setting_of_the_trainer_runs(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    found = cnntrain(
        *("fit", *tiny, "model=resnet20", "augmentation=strong", "optimizer=adamw", "optimizer.lr=1e-3"),
        *("schedule=cosine", "schedule.warmup=1", "trainer.ema=0.9", "trainer.clip=1", "trainer.accumulate=2"),
        *("trainer.label_smoothing=0.1", "trainer.patience=1", "trainer.precision=bf16", "dataset.balance=weights"),
        *(
            "dataset.train_size=0.5",
            "deterministic=true",
            "output_dir=run",
            "dataset.classes=[grating0,grating3,grating7]",
        ),
        *("augmentation.mixup.alpha=0.2", "dataset.train_images=320"),
    )
    assert found["steps"] == 2 * (43 // 16 // 2)  # half of nine tenths of three classes' 96 images
    state = checkpoints.load(folder / "run" / "checkpoints" / "best.pt")
    assert {"format", "model", "ema"} <= set(state) and "optimizer" not in state
    assert not torch.equal(state["model"]["fc.linear.weight"], state["ema"]["fc.linear.weight"])
    assert cnntrain("eval", "run=run", "split=val", "weights=best")["top1"] == found["best"]["top1"]


def test_removing_a_stage_reaches_training_and_evaluation(cnntrain: Call, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "model.remove=[conv2,pool2]", "output_dir=run")
    assert [stage["name"] for stage in cnntrain("describe", "run=run")["stages"]] == [
        *("conv1", "pool1", "fc3", "fc4", "fc5"),
    ]
    assert cnntrain("eval", "run=run")["n"] == 48


def test_training_on_everything_makes_the_last_weights_the_best(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny, "dataset.val_size=0", "output_dir=seen"]) == 0
    err = capfd.readouterr().err
    assert err.count("epoch 1/2") == err.count("epoch 2/2") == 1  # without validation an epoch still has its line
    found = cnntrain("fit", *tiny, "dataset.val_size=0", "output_dir=run")
    assert found["val"] is None and found["best"] is None
    best, last = (checkpoints.load(folder / "run" / "checkpoints" / f"{w}.pt")["model"] for w in ("best", "last"))
    assert all(torch.equal(best[key], last[key]) for key in best)


def test_describe_counts_the_faithful_lenet(cnntrain: Call) -> None:
    found = cnntrain("describe", "model=lenet5_1998")
    counts = {"params", "macs", "flops", "activation_bytes", "connections"}
    assert {"model", "in_shape", "stages", "heads", *counts} == set(found)
    assert (found["params"], found["connections"], found["flops"]) == (60_000, 340_908, 2 * 326_520)
    stage = {"name", "out_shape", "receptive_field", "stride", *counts}
    assert all(set(row) == stage for row in found["stages"])


def test_describe_prints_an_aligned_table_and_markdown(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "model=lenet5", "model.remove=[conv2]"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "without conv2" in lines[0]
    assert lines[2].split("  ")[0] == "stage" and lines[-1].startswith("total")
    assert lines[2].index("output") == lines[4].index("6×28×28")
    assert main(["describe", "model=lenet5", "table=markdown"]) == 0
    assert capfd.readouterr().out.startswith("| stage |")


def test_eval_takes_views_other_splits_and_another_dataset_of_the_same_classes(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "output_dir=run")
    assert cnntrain("eval", "run=run", "split=train")["n"] == 86
    for view in ("flip", "shift", "flip_shift"):
        assert cnntrain("eval", "run=run", f"tta={view}")["tta"] == view
    assert cnntrain("eval", "run=run", "dataset.test_images=96")["n"] == 96
    for part in ("train", "test"):
        for name in [f"grating{i}" for i in range(10)]:
            target = folder / "images" / part / name
            target.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (30, 40), (int(name[-1]) * 20, i * 100, 0)).save(target / f"{i}.png")
    found = cnntrain("eval", "run=run", "dataset=folder", "dataset.root=images", "dataset.val_size=0")
    assert found["n"] == 20 and found["dataset"] == "folder"
    (folder / "images" / "test" / "grating9").rename(folder / "images" / "test" / "nine")
    (folder / "images" / "train" / "grating9").rename(folder / "images" / "train" / "nine")
    assert main(["eval", "run=run", "dataset=folder", "dataset.root=images", "dataset.val_size=0"]) == 2
    assert "other classes than the run: grating9, nine differ" in capfd.readouterr().err


def test_predict_writes_a_table_and_lists_what_it_cannot_read(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """All that can be done is done and printed; that a part was not is said in the exit code."""
    cnntrain("fit", *tiny, "output_dir=run")
    photos = folder / "my photos"
    photos.mkdir()
    for i in range(3):
        Image.new("RGB", (40 + i, 30), (80 * i, 0, 0)).save(photos / f"{i}.png")
    (photos / "broken.png").write_bytes(b"no image")
    capfd.readouterr()
    assert main(["predict", "run=run", "images=my photos/*.png", "output_dir=out", "--json"]) == 1
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert err.endswith("cnntrain: 1 of 4 files cannot be read\n")
    assert found["n"] == 3 and found["unreadable"] == ["my photos/broken.png"]
    rows = list(csv.DictReader((folder / "out" / "predictions.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [f"my photos/{i}.png" for i in range(3)]
    shares = [float(rows[0][f"top{rank}_probability"]) for rank in range(1, 6)]
    assert shares == sorted(shares, reverse=True) and rows[0]["class"] == rows[0]["top1"]
    assert float(rows[0]["probability"]) == shares[0] and sum(shares) <= 1 + 1e-5


DRAWINGS = (
    *("model=softmax", "dataset=folder", "dataset.channels=1", "augmentation=none", "trainer.epochs=5", "device=cpu"),
    *("trainer.batch_size=8", "trainer.tensorboard=false"),
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on drawings of light strokes on dark, as a module's tests share it."""
    root = tmp_path_factory.mktemp("digits")
    for name in ("across", "down"):
        (root / "drawings" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.zeros((12, 12), np.uint8)
            pixels[5:7] = 200 + number
            Image.fromarray(pixels if name == "across" else pixels.T).save(root / "drawings" / name / f"{number}.png")
    assert main(["fit", *DRAWINGS, f"dataset.root={root / 'drawings'}", f"output_dir={root / 'run'}"]) == 0
    return root


@pytest.mark.parametrize("name", ["config.json", "checkpoints/best.pt"])
def test_a_file_of_a_run_leads_to_its_folder(digits: Path, refused: Callable[..., str], name: str) -> None:
    assert f"run={digits / 'run'}" in refused("eval", f"run={digits / 'run' / name}")


def test_predict_takes_the_images_that_fit_would(
    digits: Path, cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    drawing = (digits / "drawings/down/1.png").read_bytes()
    kept = ["a.png", "B.PNG", "x.png/inner.png", "deep/er/c.png"]
    for name in [*kept, ".thumbs/t.png", "._a.png", "__MACOSX/._a.png", "notes.txt", "IMG.HEIC", "png"]:
        (folder / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "new" / name).write_bytes(drawing)
    os.mkfifo(folder / "new/pipe.png")
    (folder / "new/loop").symlink_to(folder / "new")
    words = ("predict", f"run={digits / 'run'}", f"output_dir={folder / 'out'}")
    found = cnntrain(*words, "images=new")
    assert (found["n"], found["left_out"], found["unreadable"], found["warning"]) == (4, 4, [], None)
    rows = list(csv.DictReader((folder / "out/predictions.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [f"new/{name}" for name in sorted(kept)]
    assert {row["class"] for row in rows} == {"down"}
    assert main([*words[:2], "images=new", "output_dir=again"]) == 0
    assert "left out: " in (said := capfd.readouterr().err) and "1 × .heic" in said
    for wanted, number in (("new/*", 2), ("new/**/*.png", 3), ("[new/.thumbs/t.png,new/png]", 2)):
        assert cnntrain(*words[:2], f"images={wanted}", f"output_dir=out{len(wanted)}")["n"] == number


@pytest.mark.parametrize(
    ("images", "line"),
    [
        ("pipe.png", "images=pipe.png"),
        ("raw", r"images=raw.*\.cr2"),
        ("'*.jpg'", r"images=\*\.jpg"),
        ("[]", "images"),
        ("a**", "images=a\\*\\*: "),
        ("bad.png", "bad.png"),
    ],
)
def test_predict_without_an_image_makes_nothing(
    digits: Path, folder: Path, refused: Callable[..., str], images: str, line: str
) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "raw").mkdir()
    (folder / "raw/photo.CR2").touch()
    (folder / "bad.png").write_text("no image")
    assert re.search(line, refused("predict", f"run={digits / 'run'}", f"images={images}", "output_dir=out"))


def test_a_predict_that_was_killed_leaves_nothing_in_the_way_of_the_next(
    digits: Path, cnntrain: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("predict", f"run={digits / 'run'}", f"images={digits / 'drawings'}", "output_dir=out", "batch_size=5")
    monkeypatch.setattr(predictions, "HELD", 10)
    whole = cnntrain(*words, "report=true")
    table = (folder / "out/predictions.csv").read_text()
    assert whole["n"] == 40 and len(table.splitlines()) == 41
    shutil.rmtree(folder / "out")
    plain, calls = mean_and_contrast, itertools.count()

    def dies(images: torch.Tensor) -> torch.Tensor:
        if next(calls) == 2:
            raise MemoryError
        return plain(images)

    monkeypatch.setattr(predictions, "mean_and_contrast", dies)
    assert main([*words]) == 1 and not list((folder / "out").iterdir())
    monkeypatch.setattr(predictions, "mean_and_contrast", plain)
    cnntrain(*words)
    assert (folder / "out/predictions.csv").read_text() == table


def test_predict_says_when_images_are_unlike_those_of_the_training(digits: Path, cnntrain: Call, folder: Path) -> None:
    (folder / "paper").mkdir()
    for number in range(4):
        with Image.open(digits / f"drawings/down/{number}.png") as drawing:
            Image.fromarray(255 - np.asarray(drawing)).save(folder / "paper" / f"{number}.png")
    run = ("predict", f"run={digits / 'run'}")
    warned = cnntrain(*run, "images=paper", "report=true", "output_dir=out")
    assert "unlike those of the training: mean 0.8" in warned["warning"] and "invert=true" in warned["warning"]
    page = (folder / "out/predictions.html").read_text()
    assert warned["report"] == "out/predictions.html" and "invert=true" in page and "4 of 4 images" in page
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    seen = [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]
    with Image.open(folder / "paper/0.png") as first:
        np.testing.assert_array_equal(seen[0], np.asarray(first))
    told = cnntrain(*run, "images=paper", "invert=true", "output_dir=inverted")
    assert told["warning"] is None
    rows = list(csv.DictReader((folder / "inverted/predictions.csv").read_text().splitlines()))
    assert {row["class"] for row in rows} == {"down"}
    flat = cnntrain(*run, "images=paper/0.png", "output_dir=one")["warning"]  # one image is enough where it is far
    assert "invert=true" in flat


def test_dataset_invert_is_one_rule_for_fit_eval_packs_and_predict(cnntrain: Call, digits: Path, folder: Path) -> None:
    words = (*DRAWINGS, "trainer.epochs=1", f"dataset.root={digits / 'drawings'}", "dataset.invert=true")
    for cache in ("none", "pack"):
        cnntrain("fit", *words, f"dataset.cache={cache}", f"output_dir={cache}")
    means = [json.loads((folder / cache / "run.json").read_text())["data"]["mean"] for cache in ("none", "pack")]
    (plain,) = json.loads((digits / "run/run.json").read_text())["data"]["mean"]
    assert means == [[pytest.approx(1 - plain)]] * 2
    assert cnntrain("eval", "run=none")["loss"] == cnntrain("eval", "run=pack")["loss"]
    images = f"images={digits / 'drawings'}"
    assert cnntrain("predict", "run=pack", images, "output_dir=a")["warning"] is None
    assert "invert=true" in cnntrain("predict", "run=pack", images, "invert=false", "output_dir=b")["warning"]


def test_init_from_keeps_the_stages_that_fit(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "output_dir=run")
    words = [
        "init_from=run",
        "dataset.classes=[grating0,grating1,grating2]",
        "output_dir=new",
        "optimizer.lr=1e-12",
        "--json",
    ]
    assert main(["fit", *tiny, *words]) == 0
    assert "kept conv1, conv2, fc3, fc4; new fc5" in capfd.readouterr().err
    old, new = (checkpoints.load(folder / name / "checkpoints" / "best.pt")["model"] for name in ("run", "new"))
    torch.testing.assert_close(old["conv1.conv.weight"], new["conv1.conv.weight"])
    assert json.loads((folder / "new" / "run.json").read_text())["init_from"]["new"] == ["fc5"]


def test_a_folder_that_holds_a_run_is_refused_when_asked_never_to_resume_and_left_alone(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "output_dir=run")
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    assert main(["fit", *tiny, "output_dir=run", "resume=never"]) == 2
    assert "already holds a run" in capfd.readouterr().err
    assert before == {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}


def test_a_damaged_or_foreign_checkpoint_is_refused_with_exit_4(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("fit", *tiny, "output_dir=run")
    path = folder / "run" / "checkpoints" / "best.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert main(["eval", "run=run"]) == 4
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert main(["eval", "run=run"]) == 4
    assert "does not match its checksum" in capfd.readouterr().err
    cnntrain("fit", *tiny, "model=mlp", "output_dir=other")
    path.write_bytes((folder / "other" / "checkpoints" / "best.pt").read_bytes())
    assert main(["eval", "run=run"]) == 4
    assert "belongs to another network: conv1.conv.bias" in capfd.readouterr().err


def test_a_sweep_gives_its_jobs_by_number(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    found = cnntrain("fit", "-m", *tiny, "model=softmax,lenet5", "output_dir=sweep")
    assert [job["run_dir"] for job in found["jobs"]] == [str(folder / "sweep" / n) for n in "01"]
    assert all((folder / "sweep" / n / "checkpoints" / "best.pt").is_file() for n in "01")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("fit seed=0,1 trainer.epoch=3", "'trainer.epochs'"),
        ("fit seed=0,1 trainer.epochs=1,0 output_dir=sweep", "at least 1"),
        ("fit model=mlp,lenet6 seed=0,1", "'lenet5'"),
        ("fit model.remove=[conv1],[conv9]", "'conv9'"),
        ("fit --config-dir own optimizer=gentle optimizer.lr=0.1,fast", "optimizer.lr"),
        ("eval run=latest tta=flip,flop", "tta"),
        ("describe model=mlp,lenet5 modle.remove=[fc1]", "'model'"),
        ("fit seed=0,1 --cfg job", "--cfg"),
    ],
)
def test_a_sweep_with_a_wrong_word_is_refused_whole(
    typed: str, message: str, refused: Callable[..., str], folder: Path
) -> None:
    (folder / "own" / "optimizer").mkdir(parents=True)
    (folder / "own" / "optimizer" / "gentle.yaml").write_text("name: sgd\nlr: 0.01\n")
    command, *words = typed.split()
    assert message in refused(command, "-m", *words)


def test_latest_is_the_newest_run_wherever_it_lies(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", *tiny, "model=softmax", "trainer.epochs=1"]
    made = [cnntrain(*words)["run_dir"]]
    made.append(cnntrain(*words, f"output_dir={folder / 'deep' / 'own'}")["run_dir"])
    made += [job["run_dir"] for job in cnntrain(*words, "-m", "seed=0,1", "output_dir=runs/sweep")["jobs"]]
    for newest in reversed(made):
        assert main(["eval", "run=latest"]) == 0
        found, said = find_run("latest"), capfd.readouterr().err
        assert found.resolve() == Path(newest).resolve() and f"latest is {found}" in said
        shutil.rmtree(newest)
    assert main(["eval", "run=latest"]) == 2
    cnntrain(*words, "output_dir=again")
    assert main([*words, "resume=latest"]) == 0
    assert "latest is again" in capfd.readouterr().err


def test_a_note_that_cannot_be_written_costs_no_training(folder: Path) -> None:
    Path("runs").write_text("no folder")
    remember(folder / "run")


def test_results_go_to_standard_output_and_messages_to_standard_error(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny, "output_dir=run"]) == 0
    out, err = capfd.readouterr()
    assert "validation top-1" in out and "n = 10" in out and "cnntrain eval run=run" in out
    assert "epoch 2/2" in err and "\x1b" not in out + err
    assert main(["eval", "run=run"]) == 0
    assert "test top-1" in capfd.readouterr().out


def test_training_imports_neither_the_compiler_nor_what_only_some_commands_need(
    folder: Path, tiny: tuple[str, ...]
) -> None:
    words = ["fit", *tiny, "model=resnet20", "trainer.epochs=1", "trainer.tensorboard=true", "output_dir=run"]
    code = f"import sys; from cnntrain.cli.main import main; assert main({words}) == 0; "
    code += "sys.exit(bool({'torch._dynamo', 'sympy', 'scipy', 'sklearn', 'torchvision.ops'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
