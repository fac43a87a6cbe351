"""Studies: the plan, paired cells that are ordinary runs, what continues and what is shared, and what is refused."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cuts import forked, forkserver
from made import picture, tree

from cnntrain.cli.main import config_dir, main
from cnntrain.config.build import build_model
from cnntrain.nn.stages import walk
from cnntrain.runs import resume, setup
from cnntrain.runs.folder import create_folder, lock_folder
from cnntrain.runs.images import noted
from cnntrain.runs.load import load_run
from cnntrain.studies import pool
from cnntrain.studies.ablation import variants
from cnntrain.studies.ablation.controls import with_controls
from cnntrain.studies.ablation.plan import sized_variants
from cnntrain.training import checkpoints

Call = Callable[..., dict[str, Any]]
Refused = Callable[..., str]
HERE = ("output_dir=study", "jobs=1")


def settings(model: str, dataset: str = "imagenet", **options: Any) -> dict[str, Any]:
    """Return what the plan reads of a configuration."""
    chosen = {"name": model, "remove": [], **options}
    shared = yaml.safe_load((config_dir() / "common" / "dataset.yaml").read_text())
    return {"model": chosen, "dataset": shared | {"name": dataset}, "data_root": "data"}


def variant(full: variants.Removal, *stages: str) -> variants.Removal:
    """Return the variant without some stages."""
    return variants.without(full, stages, "retrain")


def test_the_plan_counts_what_the_lecture_and_the_paper_remove() -> None:
    full = variants.Removal("full", settings("alexnet"))
    removed = [("fc7",), ("fc6", "fc7"), ("conv3", "conv4"), ("conv3", "conv4", "fc6", "fc7")]
    lines = sized_variants([full, *(variant(full, *stages) for stages in removed)])
    assert [line.params_removed for line in lines] == [0, 16_781_312, 49_414_144, 1_696_512, 51_110_656]
    assert lines[2].replumbed == ("fc8 takes 256×6×6, not 4096",)
    assert lines[3].replumbed == ("conv5 takes 256×13×13, not 384×13×13",)
    assert lines[0].receptive_field == (195, 195) and lines[3].receptive_field == (131, 131)


@pytest.mark.parametrize("control", ["params", "macs"])
def test_a_control_gives_back_what_a_removal_saves(control: str) -> None:
    full = variants.Removal("full", settings("lenet5", "digits"))
    lines = sized_variants(with_controls([full, variant(full, "conv2"), variant(full, "fc3")], control))
    assert [line.variant.name for line in lines[1:3]] == ["no_conv2", f"no_conv2_{control}"]
    for line in lines[2::2]:
        size, target = (line.params, lines[0].params) if control == "params" else (line.macs, lines[0].macs)
        assert size == pytest.approx(target, rel=0.05)


def test_a_control_of_blocks_with_shortcuts_widens_what_fits() -> None:
    full = variants.Removal("full", settings("resnet20", "cifar10"))
    *_, line = sized_variants(with_controls([full, variant(full, "block2_2")], "params"))
    assert line.params == pytest.approx(269_722, rel=0.05) and line.variant.settings["model"]["widen"]


def test_generated_studies_name_every_stage_and_go_down_from_the_top() -> None:
    full = variants.Removal("full", settings("lenet5", "digits"))
    each = [one.name for one in variants.generated(full, variants.each_stage, "retrain")]
    assert each == ["no_conv1", "no_pool1", "no_conv2", "no_pool2", "no_fc3", "no_fc4"]
    down = [one.stages for one in variants.generated(full, variants.cumulative, "retrain")]
    assert down[0] == ("fc4",) and down[-1] == ("pool1", "conv2", "pool2", "fc3", "fc4")
    weights = [one.name for one in variants.generated(full, variants.each_stage, "reinit")]
    assert weights == ["reinit_conv1", "reinit_conv2", "reinit_fc3", "reinit_fc4"]
    blocks = variants.Removal("full", settings("resnet20", "cifar10"))
    lesions = [one.name for one in variants.generated(blocks, variants.each_stage, "lesion")]
    assert lesions == [f"no_block{group}" for group in ("1_1", "1_2", "1_3", "2_2", "2_3", "3_2", "3_3")]


KEYS = {"study_dir", "rows", "table", "interactions", "complete", "looks"}


def test_a_study_trains_paired_cells_that_are_ordinary_runs(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    found = cnntrain("ablate", *tiny, "remove=[[conv2],[fc3]]", "seeds=2", *HERE)
    assert set(found) == KEYS and found["complete"]
    assert {(row["variant"], row["seed"]) for row in found["rows"]} == {
        (name, seed) for seed in (0, 1) for name in ("full", "no_conv2", "no_fc3")
    }
    assert {row["n_seeds"] for row in found["table"]} == {2}
    for name in ("results.json", "report.md", "report.html", "rows.csv", "table.csv", "study.json"):
        assert (folder / "study" / name).is_file(), name
    cell = "study/cells/no_conv2/1"
    assert cnntrain("eval", f"run={cell}", "weights=last")["top1"] == next(
        row["top1"] for row in found["rows"] if (row["variant"], row["seed"]) == ("no_conv2", 1)
    )
    cnntrain("fit", *tiny, "model.remove=[conv2]", "seed=1", "output_dir=alone")
    one, other = (checkpoints.load(folder / run / "checkpoints" / "last.pt") for run in (cell, "alone"))
    assert resume.same(one["model"], other["model"])
    assert json.loads((folder / cell / "run.json").read_text())["argv"][:2] == ["cnntrain", "fit"]


def test_finished_cells_are_never_made_again_and_more_may_be_asked_for(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    cnntrain("ablate", *tiny, "remove=[[conv2]]", "seeds=1", *HERE)
    made = {path: path.stat().st_mtime_ns for path in (folder / "study").rglob("*.pt")}
    again = cnntrain("ablate", *tiny, "remove=[[conv2],[fc3]]", "seeds=2", *HERE)
    assert len(again["rows"]) == 6 and made
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_a_report_names_every_precision_that_its_runs_were_computed_in(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    """As where a study went on on another kind of processor."""
    words = ["ablate", *tiny, "remove=[[conv2]]", "seeds=1", *HERE]
    cnntrain(*words)
    place = folder / "study/cells/no_conv2/0/run.json"
    record = json.loads(place.read_text())
    place.write_text(json.dumps(record | {"precision": "of another"}))
    cnntrain(*words)
    assert f"{record['precision']} (1 run), of another (1 run)" in (folder / "study/report.md").read_text()


def test_without_a_folder_the_same_command_finds_its_study(cnntrain: Call, tiny: tuple[str, ...]) -> None:
    words = [*tiny, "remove=[[conv2]]", "jobs=1"]
    first, second = (cnntrain("ablate", *words, f"seeds={seeds}") for seeds in (1, 2))
    assert first["study_dir"] == second["study_dir"]
    assert cnntrain("ablate", *words, "seeds=1", "optimizer.lr=0.01")["study_dir"] != first["study_dir"]


def test_other_settings_in_a_study_are_refused(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cnntrain("ablate", *tiny, "remove=[[conv2]]", "seeds=1", *HERE)
    assert main(["ablate", *tiny, "remove=[[conv2]]", "seeds=1", "optimizer.lr=0.01", *HERE]) == 2
    assert "optimizer.lr (0.05 → 0.01)" in capfd.readouterr().err


FILES = (
    *("model=mlp", "model.hidden=[8]", "dataset=folder", "dataset.root=d", "augmentation=none", "trainer.epochs=1"),
    *("schedule=constant", "trainer.batch_size=8", "device=cpu", "remove=[[fc1]]", "seeds=2"),
)


def test_a_study_answers_for_its_own_images_and_settings(
    cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree(folder / "d", each=12)
    whole = cnntrain("ablate", *FILES, *HERE)
    tree(folder / "other", each=11)
    shutil.copytree("d", "copy")
    shutil.copytree("d", "forged")
    for file in Path("forged").rglob("*.png"):
        shutil.copy("d/bee/00.png", file)  # of the same size
    for word, said in (
        ("trainer.epochs=2", "trainer.epochs (1 → 2)"),
        ("trainer.precision=bf16", "trainer.precision (auto → bf16)"),
        ("dataset.root=other", f"{folder / 'd'}, not {folder / 'other'}"),
        ("dataset.root=forged", f"{folder / 'd'}, not {folder / 'forged'}"),
    ):
        capfd.readouterr()
        assert main(["ablate", *FILES, *HERE, word]) == 2
        assert said in capfd.readouterr().err
    assert cnntrain("ablate", *FILES, *HERE, "dataset.root=copy")["table"] == whole["table"]
    shutil.rmtree("study/cells/no_fc1")
    picture(7).save("d/ant/new.png")
    assert cnntrain("ablate", *FILES, *HERE)["table"] == whole["table"]  # what was added is left out
    assert noted(Path("study/cells/no_fc1/0")) == noted(Path("study/cells/full/0"))
    shutil.rmtree("study/cells/no_fc1/1")
    Path("d/ant/03.png").unlink()
    capfd.readouterr()
    main(["ablate", *FILES, *HERE])
    assert re.search("no_fc1, seed 1 .*ant/03.png", capfd.readouterr().err)
    row = json.loads(Path("study/results.json").read_text())["table"][1]
    assert row["n_seeds"] == 1 and row["delta_mean"] is None
    assert main(["ablate", *FILES[:-1], "seeds=1", *HERE]) == 0
    assert "ant/03.png" in capfd.readouterr().err


def test_cells_of_other_test_images_are_not_paired(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    words = [*tiny, "model=softmax", "trainer.epochs=1", "seeds=1", *HERE]
    flag = own_study(folder, shifted=["trainer.label_smoothing=0.1"], longer=["trainer.clip=1"])
    assert cnntrain("ablate", flag, "study=own", *words)["complete"]
    place = folder / "study/cells/shifted/0/eval/test_last/results.json"
    found = json.loads(place.read_text())
    found["record"]["images"] = "another"
    place.write_text(json.dumps(found))
    found = cnntrain("ablate", flag, "study=own", *words)
    assert [row["variant"] for row in found["rows"]] == ["full", "longer"] and not found["complete"]


def test_the_folder_of_a_study_follows_from_its_images_as_well(
    cnntrain: Call, folder: Path, trained: list[str]
) -> None:
    for root in ("d", "e"):
        tree(folder / root)
    plan = ["ablate", *FILES, "plan=true"]
    places = {root: cnntrain(*plan, f"dataset.root={root}")["study_dir"] for root in ("d", "./d", "e")}
    assert places["d"] == places["./d"] != places["e"]
    assert cnntrain(*plan, "trainer.precision=bf16")["study_dir"] != places["d"]
    named = ["ablate", "model=lenet5", "dataset=synthetic", "remove=[[conv2]]", "seeds=1", "plan=true"]
    assert cnntrain(*named)["study_dir"] == cnntrain(*named, "data_root=elsewhere")["study_dir"]


def test_cells_of_a_run_that_was_trained_on_are_refused(
    cnntrain: Call, folder: Path, trained: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["ablate", "mode=reinit", f"runs=[{','.join(trained)}]", "remove=[[conv1]]", *HERE]
    cnntrain(*words)
    shutil.copy("run1/checkpoints/last.pt", "run0/checkpoints/last.pt")
    assert main(words) == 2
    assert re.search("run0 .*study/cells/full/0", capfd.readouterr().err)


def test_many_processes_give_the_numbers_of_one(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny, "trainer.epochs=1", "remove=[[conv2]]", "seeds=1"]
    one = cnntrain("ablate", *words, "output_dir=one", "jobs=1")
    context = forkserver()  # the next test starts new interpreters, as users do
    monkeypatch.setattr(pool.multiprocessing, "get_context", lambda kind: context)
    many = cnntrain("ablate", *words, "output_dir=many", "jobs=2")
    assert one["table"] == many["table"]
    places = [path.relative_to(folder / "one") for path in (folder / "one").rglob("last.pt")]
    assert len(places) == 2
    for place in places:
        a, b = (checkpoints.load(folder / root / place)["model"] for root in ("one", "many"))
        assert resume.same(a, b)


def ablate_in(folder: Path, words: list[str]) -> None:
    """Make a study in a process of its own, which prints nothing."""
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["ablate", *words])


def test_a_killed_study_goes_on_where_it_stopped(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    words = [*tiny, "trainer.epochs=6", "remove=[[conv2]]", "seeds=1"]
    process = forked(ablate_in, folder, [*words, "output_dir=study", "jobs=2"])
    deadline = time.monotonic() + 120
    while not list((folder / "study").rglob("metrics.jsonl")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    found = cnntrain("ablate", *words, *HERE)
    while not found["complete"] and time.monotonic() < deadline:  # orphans save and end within a second or two
        time.sleep(0.2)
        found = cnntrain("ablate", *words, *HERE)
    whole = cnntrain("ablate", *words, "output_dir=whole", "jobs=1")
    assert found["table"] == whole["table"] and found["complete"]


def test_a_signal_stops_a_study_and_it_goes_on(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*tiny, "remove=[[conv2]]", "seeds=1", *HERE]
    update = setup.TrainStep.update

    def interrupted(self: Any, loader: Any, step: int) -> None:
        update(self, loader, step)
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(setup.TrainStep, "update", interrupted)
        assert main(["ablate", *words]) == 143
    assert cnntrain("ablate", *words)["complete"]
    assert json.loads((folder / "study/cells/full/0/results.json").read_text())["resumed_from"] == 5


def test_a_cell_of_another_process_is_left_to_it(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny, "remove=[[conv2]]", "seeds=2", *HERE]
    with lock_folder(create_folder(folder / "study/cells/no_conv2/1")):
        found = cnntrain("ablate", *words)
    assert not found["complete"] and len(found["rows"]) == 3
    assert next(row for row in found["table"] if row["variant"] == "no_conv2")["p"] is None
    assert cnntrain("ablate", *words)["complete"]


def own_study(folder: Path, **variants: list[str]) -> str:
    """Write a study of one's own and return the flag that finds it."""
    place = folder / "mine" / "study"
    place.mkdir(parents=True)
    (place / "own.yaml").write_text(f"name: own\nvariants: {json.dumps(variants)}\n")
    return f"--config-dir={folder / 'mine'}"


def test_a_study_of_ones_own_changes_anything_and_a_failure_is_one_cells(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    flag = own_study(
        folder,
        tanh=["model.activation=tanh"],
        augmented=["augmentation=digits"],
        wild=["optimizer.lr=1e30"],
        wide=["model.widen.fc3=1.5"],
    )
    assert main(["ablate", flag, "study=own", *tiny, "seeds=2", *HERE, "--json"]) == 1
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert "cnntrain: 2 of 10 runs" in err and "(wild, seed 0, wild, seed 1)" in err
    assert (folder / "study" / "report.md").is_file()
    assert re.search("wild, seed 0 .*NaN or infinite", err)
    table = {row["variant"]: row for row in found["table"]}
    assert not found["complete"] and table["wild"]["p"] is None and table["wild"]["n_seeds"] == 0
    assert table["tanh"]["p"] is not None and table["wide"]["params_removed"] < 0
    config_of = json.loads((folder / "study/cells/augmented/0/config.json").read_text())
    assert "affine" in config_of["augmentation"]


@pytest.fixture
def trained(cnntrain: Call, tiny: tuple[str, ...]) -> list[str]:
    """Two trained runs that differ in their seed."""
    return [str(cnntrain("fit", *tiny, f"seed={seed}", f"output_dir=run{seed}")["run_dir"]) for seed in (0, 1)]


def test_a_lesion_is_the_trained_network_without_a_stage(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...], refused: Refused
) -> None:
    words = [*tiny, "model=resnet20", "model.remove=[block1_3,block2_3,block3_3]", "trainer.epochs=1"]
    runs_made = [cnntrain("fit", *words, f"seed={seed}", f"output_dir=run{seed}")["run_dir"] for seed in (0, 1)]
    runs_word = f"runs=[{','.join(runs_made)}]"
    found = cnntrain("ablate", "mode=lesion", runs_word, "study=each_stage", *HERE)
    assert [row["variant"] for row in found["table"]] == [
        "full",
        *(f"no_block{b}" for b in ("1_1", "1_2", "2_2", "3_2")),
    ]
    net, info, _ = load_run(folder / "run1", "last")
    lesion, _, _ = load_run(folder / "study/cells/no_block2_2/1", "last")
    x = torch.randn(4, *info.shape)
    expected = x
    for name, stage in net.named_children():
        expected = expected if name == "block2_2" else stage(expected)
    *_, (_, out) = walk(lesion, x)
    assert torch.equal(out, expected)
    line = refused("ablate", "mode=lesion", runs_word, "remove=[[block2_1]]", "output_dir=other", "jobs=1")
    assert "'block2_1' changes the shape" in line


@pytest.mark.parametrize("mode", ["reinit", "rerandomize"])
def test_a_stage_is_put_back_to_its_initial_or_to_fresh_weights(
    cnntrain: Call, folder: Path, trained: list[str], mode: str
) -> None:
    cnntrain("ablate", f"mode={mode}", f"runs=[{','.join(trained)}]", "remove=[[conv1],[fc5]]", *HERE)
    net, info, options = load_run(folder / "run1", "last")
    changed, _, _ = load_run(folder / f"study/cells/{mode}_fc5/1", "last")
    initial = build_model(options["model"], info, seed=1).state_dict()
    before, after = net.state_dict(), changed.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == (not name.startswith("fc5")), name
        if name.startswith("fc5"):
            assert torch.equal(initial[name], after[name]) == (mode == "reinit")


def test_finetuning_starts_from_the_survivors(
    cnntrain: Call, folder: Path, trained: list[str], tiny: tuple[str, ...]
) -> None:
    words = [*tiny, "mode=finetune", f"runs=[{','.join(trained)}]", "remove=[[fc4]]", "trainer.epochs=1", *HERE]
    found = cnntrain("ablate", *words)
    assert {row["seed"] for row in found["rows"]} == {0, 1}
    record = json.loads((folder / "study/cells/no_fc4/1/run.json").read_text())
    assert record["init_from"]["run"] == "run1" and record["init_from"]["kept"] == ["conv1", "conv2", "fc3"]


def test_one_seed_runs_and_says_that_it_concludes_nothing(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", *tiny, "remove=[conv2]", "seeds=1", *HERE]) == 0
    out, err = capfd.readouterr()
    assert "one seed" in err and "no_conv2" in out


def test_the_plan_stops_before_anything_is_made(cnntrain: Call, folder: Path, tiny: tuple[str, ...]) -> None:
    words = ["model=lenet5", "dataset=mnist", "remove=[[conv2]]", "trainer.epochs=1", "plan=true"]
    found = cnntrain("ablate", *words, "seeds=3")
    assert found["rows"] == [] and [row["variant"] for row in found["table"]] == ["full", "no_conv2"]
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("words", "seeds", "said"),
    [
        (["remove=[[conv2]]"], 8, r"8 seeds, one comparison, level 0\.05\W.*80 % .*1\.2 "),
        (["remove=[[conv2],[fc3],[conv2,fc3]]"], 8, r"8 seeds, 4 comparisons, level 0\.05"),
        (["remove=[[conv1],[pool1],[conv2],[pool2],[fc3],[fc4],[pool1,pool2]]"], 9, "9 seeds, 8 comparisons"),
        (
            ["remove=[[conv2],[fc3]]", "seeds=6"],
            6,
            r"2 comparisons .*7 \(level 0\.05\)",
        ),
        (
            ["remove=[[conv2],[fc3],[fc4]]", "looks=8"],
            10,
            r"10 seeds, 3 comparisons, level 0\.0063 of 0\.05",
        ),
        (["remove=[[conv2]]", "seeds=1"], 1, "one seed"),
    ],
)
def test_the_plan_says_what_can_be_concluded(
    folder: Path, tiny: tuple[str, ...], capfd: pytest.CaptureFixture[str], words: list[str], seeds: int, said: str
) -> None:
    assert main(["ablate", *tiny, *words, "plan=true", "--json"]) == 0
    out, err = capfd.readouterr()
    assert {row["n_seeds"] for row in json.loads(out)["table"]} == {seeds} and re.search(said, err)


def test_every_look_is_recorded_and_held_against_later_ones(
    cnntrain: Call, folder: Path, tiny: tuple[str, ...]
) -> None:
    words = [*tiny, "trainer.epochs=1", "remove=[[conv2]]", *HERE]
    first = cnntrain("ablate", *words, "seeds=2")["looks"]
    assert first == [{"seeds": [0, 1], "level": 0.05, "spent": 0, "found": []}]
    assert cnntrain("ablate", *words, "seeds=2")["looks"] == first
    (folder / "study/looks.json").unlink()  # a study of an older version has its results alone
    (folder / "study/results.json").write_text(
        (folder / "study/results.json").read_text().replace('"looks"', '"older"')
    )
    both = cnntrain("ablate", *words, "seeds=3")["looks"]
    assert both == [*first, {"seeds": [0, 1, 2], "level": 0.05, "spent": 0, "found": []}]
    spent = {"seeds": list(range(10, 18)), "level": 0.05, "spent": 0.046875, "found": ["no_conv2 against full"]}
    (folder / "study/looks.json").write_text(json.dumps({"looks": [spent]}))
    later = cnntrain("ablate", *words, "seeds=3")
    assert later["looks"][1]["level"] == pytest.approx(0.003125 / 2) and later["looks"][0] == spent
    assert later["table"][1]["believable"] and "earlier look" in later["table"][1]["verdict"]
    assert "at the level 0.0016" in (folder / "study/report.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["remove=[[conv3]]"], "'conv3'"),
        (["remove=[[fc5]]"], "'fc5'"),
        (["remove=[[conv1,pool1,conv2,pool2,fc3,fc4,fc5]]"], "'fc5'"),
        (
            ["model=alexnet", "dataset.image_size=32", "dataset.channels=3", "remove=[[conv1]]"],
            "no_conv1: stage 'conv2'",
        ),
        (["remove=[[conv2],[conv2]]"], "no_conv2"),
        (["remove=[]"], "'remove=[[conv2],[conv2,fc3]]'"),
        (["study=each_stag"], "'each_stage'"),
        ([], "study="),
        (["remove=[conv2]", "seeds=[1,1]"], "seeds=[1, 1]"),
        (["remove=[conv2]", "mode=lesion"], "runs=["),
        (["remove=[conv2]", "mode=leison"], "'mode=lesion'"),
        (["remove=[conv2]", "runs=[a]"], "mode=retrain"),
        (["remove=[conv2]", "mode=lesion", "runs=[nowhere]"], "runs=nowhere"),
        (["remove=[conv2]", "init_from=a"], "init_from"),
        (["remove=[conv2]", "optimizer.lr=-1"], "optimizer.lr=-1"),
        (["remove=[conv2]", "seedz=3"], "'seed'"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_made(
    refused: Refused, tiny: tuple[str, ...], words: list[str], said: str
) -> None:
    given = {word.partition("=")[0] for word in words}
    assert said in refused("ablate", *(word for word in tiny if word.partition("=")[0] not in given), *words)
