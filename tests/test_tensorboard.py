"""TensorBoard: the names, what a resumed run shows, the pictures, and that no failure stops a training."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import create_model
from torch import nn

from cnntrain.cli.main import main
from cnntrain.data.datasets.registry import load
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.runtime.jsonfile import flat
from cnntrain.stats.metrics import confusion_matrix
from cnntrain.tasks.segmentation import palette
from cnntrain.training import pictures
from cnntrain.training.boxes import drawn
from cnntrain.training.evaluate import Outputs
from cnntrain.training.maps import compared, painted
from cnntrain.training.tensorboard import open_board

NAMES = {
    *("train/loss", "train/top1", "val/loss", "val/top1", "lr/group0"),
    *("throughput/img_s", "time/step_ms", "epoch"),
}
INFO = DatasetInfo("drawn", ("a", "b", "c"), (3, 4, 4), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def records(first: int = 1, last: int = 8) -> Iterator[dict[str, Any]]:
    """What the loop says in epochs of four steps, a record every second step."""
    for step in range(first, last + 1):
        epoch, ended = (step - 1) // 4 + 1, step % 4 == 0
        if step % 2 == 0:
            record = {"kind": "train", "step": step, "epoch": epoch, "lr": 0.1 / step, "loss": 1 / step, "top1": 0.5}
            done = min(4, step - first + 1)
            yield record | ({"seconds": 0.01 * done, "samples_per_second": 800.0} if ended else {})
        if ended:
            yield {
                "kind": "val",
                "step": step,
                "epoch": epoch,
                "best": True,
                "n": 9,
                "loss": 2.0,
                "top1": 0.25,
            }


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def points(found: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(tag)]


def test_records_become_curves_over_the_step_under_these_names_and_no_others(tmp_path: Path) -> None:
    board = open_board(tmp_path / "tensorboard")
    for record in records():
        board.record(record)
    board.close()
    found = read(tmp_path / "tensorboard")
    assert set(found.Tags()["scalars"]) == NAMES
    assert points(found, "train/loss") == [(2, 1 / 2), (4, 1 / 4), (6, 1 / 6), (8, 1 / 8)]
    assert points(found, "lr/group0") == [(2, 0.05), (4, 0.025), (6, 0.1 / 6), (8, 0.0125)]
    assert points(found, "epoch") == [(2, 1), (4, 1), (6, 2), (8, 2)]
    assert points(found, "val/top1") == [(4, 0.25), (8, 0.25)]
    assert points(found, "time/step_ms") == [(4, 10.0), (8, 10.0)]
    assert points(found, "throughput/img_s") == [(4, 800.0), (8, 800.0)]


def test_the_gradient_of_every_stage_becomes_a_curve(tmp_path: Path) -> None:
    board = open_board(tmp_path / "tensorboard")
    for record in records():
        board.record(record | {"gradients": {"conv1": 1 / record["step"], "fc2": None}})
    board.close()
    found = read(tmp_path / "tensorboard")
    assert set(found.Tags()["scalars"]) == NAMES | {"gradient/conv1"}
    assert (2, 1 / 2) in points(found, "gradient/conv1")


def test_what_is_written_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    board = open_board(tmp_path)
    board.record(next(records()))
    assert points(read(tmp_path), "train/loss") == [(2, 0.5)]
    board.close()


def test_a_resumed_run_shows_every_step_once(tmp_path: Path) -> None:
    board = open_board(tmp_path)
    for record in records(last=8):
        board.record(record)
    board.close()
    board = open_board(tmp_path, start_step=5)  # the checkpoint is older than what was logged after it
    for record in records(first=6, last=12):
        board.record(record | ({"loss": 7.0} if record["kind"] == "train" else {}))
    board.close()
    found = read(tmp_path)
    assert points(found, "train/loss") == [(2, 0.5), (4, 0.25), (6, 7.0), (8, 7.0), (10, 7.0), (12, 7.0)]
    assert [step for step, _ in points(found, "val/loss")] == [4, 8, 12]
    assert points(found, "time/step_ms")[1] == (8, 10.0)  # three steps in 30 ms: those since the resumption


def test_the_configuration_stands_beside_the_final_numbers_in_the_same_run(tmp_path: Path) -> None:
    settings = {"seed": 3, "model": {"name": "lenet5", "remove": ["conv2"], "deep": {}}, "root": None, "flag": True}
    assert flat(settings) == {
        **{"seed": 3, "model.name": "lenet5", "model.remove": ["conv2"], "model.deep": {}, "root": None, "flag": True}
    }
    board = open_board(tmp_path)
    board.record(next(records()))
    board.close(settings, {"val_top1": 0.75})
    found = read(tmp_path)
    assert points(found, "hparam/val_top1") == [(2, 0.75)]
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for text in (b"model.name", b"lenet5", b'["conv2"]', b"model.deep", b"{}", b"null"):
        assert text in content
    assert [path.is_file() for path in tmp_path.iterdir()] == [True]


def test_disabled_writes_nothing_draws_nothing_and_imports_nothing(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from cnntrain.training.tensorboard import open_board
board = open_board(Path({str(tmp_path)!r}) / "tensorboard", 0, False)
board.record({{"kind": "train", "step": 1, "epoch": 1, "lr": 1.0, "loss": 1.0, "top1": 0.0}})
board.pictures(1, lambda: sys.exit("drawn"))
board.close({{}}, {{}})
sys.exit(int("tensorboard" in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    board = open_board(tmp_path)
    board.sink.close()
    board.sink = RecordWriter(Path("/dev/full").open("wb"))  # noqa: SIM115 - the board closes it
    for record in records():
        board.record(record)
    board.pictures(8, lambda: {"a": torch.zeros(1, 8, 8, dtype=torch.uint8)})
    board.close({"seed": 0}, {"top1": 0.5})
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "TensorBoard" in err and "No space left" in err


def test_whatever_else_fails_is_said_once_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    board = open_board(tmp_path / "file" / "inside")
    board.record(next(records()))
    board.close({})
    assert capfd.readouterr().err.count("\n") == 1

    board = open_board(tmp_path / "drawing")
    board.pictures(1, lambda: {"a": torch.zeros(3, 3, dtype=torch.uint8)})  # no picture has two axes
    board.record(next(records()))
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "TensorBoard" in err and board.sink is None

    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    assert open_board(tmp_path / "absent").sink is None
    assert "tensorboard" in capfd.readouterr().err


def test_pictures_arrive_as_they_were_drawn(tmp_path: Path) -> None:
    import io

    from PIL import Image

    picture = torch.arange(3 * 5 * 7, dtype=torch.uint8).view(3, 5, 7)
    board = open_board(tmp_path)
    board.pictures(4, lambda: {"batch": picture})
    board.close()
    (event,) = read(tmp_path).Images("batch")
    assert event.step == 4
    shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert np.array_equal(shown, picture.permute(1, 2, 0).numpy())


def test_grids_hold_every_image_in_its_place() -> None:
    images = torch.arange(5 * 2 * 3, dtype=torch.uint8).view(5, 1, 2, 3)
    sheet = pictures.grid(images, gap=1)
    assert sheet.shape == (1, 2 * 3 - 1, 3 * 4 - 1)
    assert torch.equal(sheet[:, 0:2, 4:7], images[1]) and torch.equal(sheet[:, 3:5, 0:3], images[3])
    assert (sheet[:, 2] == 255).all() and (sheet[:, 3:, 8:] == 255).all()
    assert pictures.grid(torch.zeros(200, 1, 2, 2, dtype=torch.uint8)).shape == (1, 8 * 4 - 2, 8 * 4 - 2)


def test_the_batch_is_shown_as_its_pixels_were() -> None:
    from cnntrain.data.loading.normalise import Normalise

    pixels = torch.randint(256, (4, 4, 4, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    shown = pictures.batch_picture(Normalise(INFO, torch.device("cpu"))(pixels), INFO)
    assert torch.equal(shown, pictures.grid(pixels.permute(0, 3, 1, 2)))


def test_filters_of_convolutions_and_of_linear_layers_are_shown_and_others_left_out() -> None:
    mnist = DatasetInfo("drawn", INFO.classes, (1, 28, 28), (0.5,), (0.5,))
    for name in ("lenet5", "softmax"):
        net = create_model(name, mnist.shape, 3)
        ((tag, shown),) = pictures.filter_pictures(net, mnist).items()
        assert tag == f"filters/{next(net.named_children())[0]}"
        assert shown.dtype == torch.uint8 and shown.shape[0] == 3
        assert max(shown.shape[1:]) >= 256
    conv = nn.Conv2d(1, 1, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[0.0, -2.0], [1.0, 2.0]]]]))
    (shown,) = pictures.filter_pictures(nn.Sequential(conv), mnist).values()
    assert torch.equal(
        shown[:, ::128, ::128], torch.tensor(pictures.weight_picture(conv.weight[0].detach().numpy())).permute(2, 0, 1)
    )
    assert pictures.filter_pictures(nn.Sequential(nn.Conv2d(2, 4, 3)), mnist) == {}


def test_mistakes_and_confusions_are_drawn() -> None:
    labels, logits = torch.tensor([0, 1, 2, 2]), torch.eye(3)[[0, 2, 1, 2]] * 5
    split = Split(Pixels(torch.zeros(4, 4, 4, 3, dtype=torch.uint8)), labels)
    shown = pictures.mistakes_picture(split, logits, labels, INFO)
    assert shown is not None and shown.dtype == torch.uint8 and shown.shape[0] == 3
    assert pictures.mistakes_picture(split, torch.eye(3)[labels], labels, INFO) is None
    confusion = confusion_matrix(logits.argmax(dim=1), labels, 3)
    assert pictures.confusion_picture(confusion, INFO.classes).shape[0] == 3
    assert set(pictures.class_pictures(split, INFO, lambda _: Outputs(logits, labels))) == {"confusion", "mistakes"}
    assert pictures.confusion_picture(np.eye(50, dtype=int), [str(i) for i in range(50)]).float().std() > 0


@pytest.mark.usefixtures("no_formulas")
def test_names_are_drawn_as_they_are() -> None:
    names = ("$50{x", "$a_b$", "犬\n猫")
    pictures.captioned(torch.zeros(3, 4, 4, 1, dtype=torch.uint8), names)
    pictures.confusion_picture(np.eye(3, dtype=int), names)


def test_the_records_of_a_real_run_are_drawn(cnntrain: Any, folder: Path, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "output_dir=run")
    board = open_board(folder / "board")
    for line in (folder / "run" / "metrics.jsonl").read_text().splitlines():
        board.record(json.loads(line))
    board.close(json.loads((folder / "run" / "config.json").read_text()), {"top1": 0.5})
    assert board.sink is None
    assert set(read(folder / "board").Tags()["scalars"]) >= NAMES


@pytest.mark.parametrize("kind", ["maps", "boxes"])
def test_maps_and_boxes_are_shown_with_the_truth_and_the_answer(
    kind: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = {"maps": ["model=unet", "model.width=4", "model.depth=2"], "boxes": ["model=yolo_v1", "model.width=4"]}[
        kind
    ]
    model += ["model.backbone=resnet20", "model.grid=4"] if kind == "boxes" else []
    words = ["dataset=shapes", f"dataset.targets={kind}", "dataset.image_size=16", "dataset.train_images=40"]
    words += ["optimizer=adamw", "trainer.epochs=1", "trainer.batch_size=8", "augmentation=none", "device=cpu"]
    assert main(["fit", *model, *words, "output_dir=run"]) == 0
    assert "TensorBoard" not in capfd.readouterr().err
    found = read(folder / "run" / "tensorboard")
    tag = {"maps": "image, truth, answer", "boxes": "boxes"}[kind]
    assert {"batch", tag} <= {name.split("/")[0] for name in found.Tags()["images"]}
    headline = {"maps": "miou", "boxes": "map50"}[kind]
    assert f"val/{headline}" in found.Tags()["scalars"]


def test_a_picture_has_the_image_its_map_and_the_answer_beside_each_other() -> None:
    data = load("shapes", Path(), {"image_size": 24, "train_images": 20, "test_images": 3})
    assert data.test is not None
    truth = data.test.source.read(range(3))[..., -1].long()
    right = nn.functional.one_hot(truth, 4).permute(0, 3, 1, 2).float()
    for answers, alike in ((right, True), (right.roll(1, 1), False)):
        for shown, image in zip(compared(data.test.source.read(range(3)), answers, data.info), truth, strict=True):
            assert shown.shape == (24, 3 * 24 + 2 * 2, 3)
            assert np.array_equal(shown[:, 26:50], shown[:, 52:]) == alike
            assert np.array_equal(shown[:, 26:50], painted(image.byte().numpy(), 4))


def test_boxes_of_the_truth_are_white_and_found_ones_coloured() -> None:
    image, none = np.zeros((48, 48, 3), dtype=np.uint8), np.zeros((0, 6))
    objects = np.array([[0, 8, 8, 24, 24, 0]], dtype=np.float32)
    likely, unlikely = (np.array([[1, score, 10, 10, 30, 30]], dtype=np.float32) for score in (0.9, 0.1))
    empty, truth, both, same = (
        drawn(image, *each, ("a", "b"))
        for each in ((none, none), (none, objects), (likely, objects), (unlikely, objects))
    )
    assert not empty.any() and (truth == 255).all(axis=2).any()
    assert np.array_equal(truth, same) and not np.array_equal(truth, both)
    assert ((both == palette(3)[2]).all(axis=2)).sum() > 100
