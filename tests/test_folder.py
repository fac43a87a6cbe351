"""Image folders: what is found, how files become pixels, and what happens to bad ones."""

import json
import os
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made import BAD, exif, half, picture, postscript, tiff, tree
from PIL import Image

from cnntrain.data.datasets.fingerprint import fingerprint
from cnntrain.data.datasets.registry import describe, load
from cnntrain.data.storage import decode as images
from cnntrain.data.storage.decode import decode, upright_size
from cnntrain.data.storage.images import Dataset, Files, Split, resident
from cnntrain.runtime.errors import InputError

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # Exif 2.3: where row 0 and column 0 are seen
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.rot90(np.fliplr(stored)),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(np.fliplr(stored), -1),
    8: np.rot90,
}
ODD_TAGS = [
    (0x0128, 2, 7, b"in\0\0"),  # the unit of the resolution as text, whose place lies beyond the data
    (0x011A, 2, 3, b"72\0\0"),  # the resolution as text
    (0x0100, 2, 4, b"400\0"),
    (0x8825, 4, 1, b"\xff\xff\0\0"),  # places beyond the data
    (0x010E, 13, 100_000, b"\0\0\0\0"),
]


def sizes(data: Dataset) -> list[int]:
    return [0 if split is None else len(split) for split in (data.train, data.val, data.test)]


def pixels(split: Split | None) -> torch.Tensor:
    assert split is not None
    return resident(split.source).images


# --- the tree


def test_class_folders_alone_are_divided_in_three(tmp_path: Path) -> None:
    data = load("folder", tree(tmp_path), {})
    assert sizes(data) == [14, 2, 4]
    assert data.info.classes == ("ant", "bee") and data.info.shape == (3, 8, 8)
    shown = torch.cat([pixels(data.train), pixels(data.val), pixels(data.test)])
    assert len(torch.unique(shown.flatten(1), dim=0)) == 20
    for split in (data.train, data.val, data.test):
        assert split is not None and torch.bincount(split.labels, minlength=2).min() > 0
    again = load("folder", tmp_path, {}, seed=7)
    assert fingerprint(again) == fingerprint(data)


def test_own_validation_becomes_the_sealed_test_set_when_there_is_no_other(tmp_path: Path) -> None:
    tree(tmp_path / "train")
    tree(tmp_path / "valid", each=3)
    assert sizes(load("folder", tmp_path, {})) == [18, 2, 6]
    assert sizes(load("folder", tmp_path, {}, val_size=0)) == [20, 0, 6]
    tree(tmp_path / "test", each=4)
    assert sizes(load("folder", tmp_path, {}, val_size=0.5)) == [20, 6, 8]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "dev", "Testing"),
        ("TRAIN", "VAL", "TEST"),
        ("train", "Val", "Test"),
        ("Train", "validation", "test"),
    ],
)
def test_splits_are_known_by_their_usual_names_in_whatever_case(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    for number, name in enumerate((train, val, test)):
        tree(tmp_path / name, each=4 - number)
    data = load("folder", tmp_path, {})
    assert sizes(data) == [8, 6, 4] and data.info.classes == ("ant", "bee")


def test_classes_that_are_called_like_splits_are_classes_beside_others(tmp_path: Path) -> None:
    tree(tmp_path, ("bus", "train"))
    assert describe("folder", tmp_path, {}).classes == ("bus", "train")
    tree(tmp_path / "val")  # it holds folders: now these are splits, and train holds no classes
    with pytest.raises(InputError, match="train"):
        describe("folder", tmp_path, {})


def test_splits_of_other_names_are_not_taken_for_classes(tmp_path: Path) -> None:
    for name in ("fold1", "fold2"):
        tree(tmp_path / name)
    with pytest.raises(InputError, match=r"dataset\.classes=\[fold1,fold2\]"):
        describe("folder", tmp_path, {})
    assert describe("folder", tmp_path, {}, classes=["fold1", "fold2"]).classes == ("fold1", "fold2")
    picture(1).save(tmp_path / "fold1/0.png")
    assert describe("folder", tmp_path, {}).classes == ("fold1", "fold2")


def test_a_class_that_is_left_out_is_not_looked_at(tmp_path: Path) -> None:
    tree(tmp_path / "train", ("ant", "bee", "cat"))
    tree(tmp_path / "val", each=3)
    with pytest.raises(InputError, match=r"val .*cat.*dataset\.classes=\[ant,bee\]"):
        load("folder", tmp_path, {})
    (tmp_path / "val/cat").mkdir()
    with pytest.raises(InputError, match=r"val/cat .*dataset\.classes"):
        load("folder", tmp_path, {})
    data = load("folder", tmp_path, {}, classes=["bee", "ant"])
    assert data.info.classes == ("bee", "ant") and sizes(data) == [18, 2, 6]
    assert data.test is not None
    assert data.test.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert describe("folder", tmp_path, {}, classes=2).classes == ("ant", "bee")
    with pytest.raises(InputError, match="'an'.*'ant'"):
        load("folder", tmp_path, {}, classes=["an", "bee"])


def test_what_cnntrain_and_systems_write_is_neither_a_class_nor_an_image(tmp_path: Path) -> None:
    tree(tmp_path)
    run = {"cnntrain": "0.1", "seed": 0}
    for name, written in {
        "runs/fit/a/1/run.json": run,
        "r/run.json": run,
        "study/study.json": run,
        "sweep/0/results.json": {"top1": 1},
        "eval/results.json": {"record": run},
        "answers/predictions.csv": {},
        "ant/tried/run.json": run,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(written))
    (tmp_path / "data/.cnntrain").mkdir(parents=True)
    for name in ("r", "study", "eval", "ant/tried", "__MACOSX/ant", "ant/@eaDir", "ant/__MACOSX", "downloads/train/n0"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        picture(1).save(tmp_path / name / "image.png")
    (tmp_path / "downloads/.imagenette.lock").touch()
    data = load("folder", tmp_path, {})
    assert data.info.classes == ("ant", "bee") and sum(sizes(data)) == 20 and data.remarks == ()


def test_images_count_at_any_depth_and_behind_links_but_never_twice_in_a_circle(tmp_path: Path) -> None:
    tree(tmp_path / "photos")
    tree(tmp_path / "other", ("more",), each=3)
    (tmp_path / "photos/bee/deep/er").mkdir(parents=True)
    picture(999).save(tmp_path / "photos/bee/deep/er/IMAGE.PNG")
    (tmp_path / "photos/ant/linked").symlink_to(tmp_path / "other/more")
    (tmp_path / "photos/ant/again.png").symlink_to(tmp_path / "other/more/00.png")
    (tmp_path / "photos/bee/deep/up").symlink_to(tmp_path / "photos/bee")
    (tmp_path / "photos/cat").symlink_to(tmp_path / "other/more")
    (tmp_path / "photos/all").symlink_to(tmp_path / "photos")
    data = load("folder", tmp_path / "photos", {})
    assert data.info.classes == ("ant", "bee", "cat") and sum(sizes(data)) == 20 + 1 + 3 + 1 + 3 and not data.remarks


def test_what_is_no_image_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    for name in (".DS_Store", ".hidden.png", "._00.png", "Thumbs.db"):
        (tmp_path / "ant" / name).write_bytes(b"x")
    assert load("folder", tmp_path, {}).remarks == ()
    for name in ("notes.txt", "png", "clip.MPG", "data.h5", "field.grib", "no."):
        (tmp_path / "ant" / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "bee/pipe.png")
    os.mkfifo(tmp_path / "bee/run.json")
    picture(1).save(tmp_path / "poster.jpg")
    (tmp_path / "cow").symlink_to(tmp_path / "unplugged/cow")
    (line,) = load("folder", tmp_path, {}).remarks
    assert line.startswith("warning: left out: 2 × file without suffix, ")
    assert "1 × image outside the class folders" in line and "1 × broken link outside" in line
    assert "1 × pipe, socket or device" in line and line.endswith("; 6 of 16 in ant, 2 of 12 in bee")
    (tmp_path / "bee/locked").mkdir()
    scandir = os.scandir

    def locked(folder: Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)
    assert "1 × folder that cannot be read" in load("folder", tmp_path, {}).remarks[0]
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/IMG_1.HEIC").touch()
    with pytest.raises(InputError, match=r"cat .*1 × \.heic"):
        load("folder", tmp_path, {})


def test_names_that_are_not_utf_8_are_read_and_written_as_text(tmp_path: Path) -> None:
    tree(tmp_path)
    for old, new in ((b"ant", b"caf\xe9"), (b"bee/00.png", b"bee/\xfc.png")):
        (tmp_path / os.fsdecode(old)).rename(tmp_path / os.fsdecode(new))
    held = load("folder", tmp_path, {})
    assert held.info.classes == ("bee", r"caf\xe9") and sum(sizes(held)) == 20
    for cache in ("none", "pack"):
        data = load("folder", tmp_path, {}, cache=cache)  # type: ignore[arg-type]
        assert fingerprint(data) == fingerprint(load("folder", tmp_path, {}, cache="none"))
        assert torch.equal(data.train.source.read([0, 3]), held.train.source.read([0, 3]))
    (tmp_path / os.fsdecode(b"bee/\xfc.png")).write_bytes(b"")
    assert load("folder", tmp_path, {"on_error": "skip"}).skipped == (rf"{tmp_path}/bee/\xfc.png",)
    assert load("folder", tmp_path, {"on_error": "skip"}, classes=["bee", r"caf\xe9"]).info.classes[1] == r"caf\xe9"


def test_one_name_in_two_spellings_is_one_class(tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree(tmp_path / "train", ("bee", other))
    tree(tmp_path / "val", (one, "bee"))
    assert describe("folder", tmp_path, {}, classes=[one, "bee"]).classes == (other, "bee")
    tree(tmp_path / "train", (one,))
    with pytest.raises(InputError, match=one):
        describe("folder", tmp_path, {})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ("ant", "bee"), "test": ("ant", "bug")}, "test.* bee.*train.* bug"),
        ({"test": ("ant", "bee")}, "train"),
        ({"train": ("ant", "bee"), "val": ("ant", "bee"), "valid": ("ant", "bee")}, "validation"),
        ({"train": ("ant", "bee"), "Training": ("ant", "bee")}, "Training and train"),
        ({"train": ("ant",)}, "class"),
        ({"train": ()}, "class"),
    ],
)
def test_f27_a_tree_that_is_no_dataset_is_refused(
    tmp_path: Path, splits: dict[str, tuple[str, ...]], message: str
) -> None:
    for part, classes in splits.items():
        (tmp_path / part).mkdir()
        tree(tmp_path / part, classes, each=2)
    with pytest.raises(InputError, match=message):
        load("folder", tmp_path, {})
    with pytest.raises(InputError, match=message):
        describe("folder", tmp_path, {})


def test_f27_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    (tree(tmp_path) / "cat").mkdir()
    with pytest.raises(InputError, match="cat"):
        load("folder", tmp_path, {"image_size": 8})


def test_a_missing_folder_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "hymenoptera").mkdir()
    with pytest.raises(InputError, match="hymenoptera"):
        load("folder", tmp_path / "hymenopter", {})
    with pytest.raises(InputError, match=rf"{tmp_path / 'elsewhere'}\W.*hymenoptera"):
        load("folder", tmp_path / "elsewhere" / "deeper", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=str(tmp_path / "file")):
        load("folder", tmp_path / "file", {})


# --- pixels


def test_images_of_different_sizes_need_image_size(tmp_path: Path) -> None:
    tree(tmp_path)
    picture(5, 8, 12).save(tmp_path / "bee/03.png")
    with pytest.raises(InputError, match=r"03\.png is 8x12.*dataset\.image_size"):
        describe("folder", tmp_path, {})
    with pytest.raises(InputError, match=r"dataset\.image_size"):
        load("folder", tmp_path, {})
    assert load("folder", tmp_path, {"image_size": 6}).info.shape == (3, 6, 6)


def test_resizing_covers_and_crops_the_centre_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize

    covering = Compose([Resize(16), CenterCrop(16)])
    for height, width in [(40, 60), (61, 40), (10, 31), (16, 16), (17, 16)]:
        image = picture(height, height, width)
        image.save(tmp_path / "image.png")
        ours = decode(tmp_path / "image.png", (16, 16), 3, resize=True)
        np.testing.assert_array_equal(ours, covering(PILToTensor()(image)).permute(1, 2, 0).numpy())
        np.testing.assert_allclose(ours, np.asarray(covering(image)), atol=2)  # Pillow's, which rounds twice


def test_f26_every_kind_of_pixel_becomes_8_bit_rgb_or_grey(tmp_path: Path) -> None:
    rgb = np.asarray(picture(0))
    alpha = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
    in_three = GREY[..., None].repeat(3, 2)
    palette = Image.fromarray(rgb).quantize(64)
    cases: dict[str, tuple[Image.Image, np.ndarray]] = {
        "grey.png": (Image.fromarray(GREY), in_three),
        "grey16.png": (Image.fromarray(GREY.astype(np.uint16) * 257), in_three),
        "grey16.tiff": (Image.fromarray(GREY.astype(np.uint16) * 257), in_three),
        "grey16.pgm": (Image.fromarray(GREY.astype(np.uint16) * 257), in_three),
        "grey_alpha.png": (
            Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]),
            on_white(in_three, alpha),
        ),
        "rgba.png": (Image.fromarray(np.dstack([rgb, alpha])), on_white(rgb, alpha)),
        "palette.png": (palette, np.asarray(palette.convert("RGB"))),
        "bits.png": (Image.fromarray(GREY > 99), np.uint8(255) * (in_three > 99)),
        "cmyk.tiff": (Image.fromarray(rgb).convert("CMYK"), rgb),
        "lab.tiff": (lab := Image.fromarray(rgb).convert("LAB"), np.asarray(lab.convert("RGB"))),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        np.testing.assert_allclose(decode(tmp_path / name, (8, 8), 3, resize=False), expected, atol=1, err_msg=name)
        one = decode(tmp_path / name, (8, 8), 1, resize=False)
        np.testing.assert_allclose(one[..., 0], expected @ [0.299, 0.587, 0.114], atol=1, err_msg=name)
        other = decode(tmp_path / name, (8, 8), 1, resize=False, invert=True)
        np.testing.assert_array_equal(other, 255 - one, err_msg=name)
    palette.save(tmp_path / "clear.png", transparency=bytes(range(64)))
    clear = decode(tmp_path / "clear.png", (8, 8), 3, resize=False)
    expected = on_white(np.asarray(palette.convert("RGB")), np.asarray(palette))
    np.testing.assert_allclose(clear, expected, atol=1)


GREY = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return (pixels * share + 255 * (1 - share)).round()


def test_black_strokes_on_nothing_are_black_on_white(tmp_path: Path) -> None:
    stroke = np.uint8(255) * np.eye(8, dtype=np.uint8)
    Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), stroke])).save(tmp_path / "stroke.png")
    found = decode(tmp_path / "stroke.png", (8, 8), 1, resize=False)
    np.testing.assert_array_equal(found[..., 0], 255 - stroke)
    Image.fromarray(GREY).save(tmp_path / "key.png", transparency=0)  # a colour that is called transparent
    np.testing.assert_array_equal(decode(tmp_path / "key.png", (8, 8), 1, resize=False)[..., 0], GREY)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i2", ">i2", "i1"])
def test_grey_values_of_a_tiff_are_scaled_by_the_range_of_their_kind(tmp_path: Path, kind: str, packed: bool) -> None:
    path, range_of = tmp_path / "image.tif", np.iinfo(kind)
    values = (range_of.min + GREY * (float(range_of.max) - range_of.min) / 255).astype(kind)
    tiff(path, values, packed=packed)
    if kind == ">i2" and packed:
        with pytest.raises(InputError, match="Pillow"):
            decode(path, (8, 8), 1, resize=False)
        return
    np.testing.assert_array_equal(decode(path, (8, 8), 1, resize=False)[..., 0], GREY)
    if kind == "<u2":  # where Pillow can read it
        tiff(path, values, packed=packed, photometric=0)
        np.testing.assert_array_equal(decode(path, (8, 8), 1, resize=False)[..., 0], 255 - GREY)


def test_a_tiff_of_12_bits_is_scaled_by_those(tmp_path: Path) -> None:
    first, second = (GREY.reshape(-1, 2).astype(int) * 4095 // 255).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    tiff(tmp_path / "image.tif", packed.reshape(8, 12), bits=12, width=8)
    np.testing.assert_allclose(decode(tmp_path / "image.tif", (8, 8), 1, resize=False)[..., 0], GREY, atol=1)


@pytest.mark.parametrize("kind", ["<u4", "<i4", "<f4"])
def test_values_without_a_known_range_are_refused(tmp_path: Path, kind: str) -> None:
    tiff(tmp_path / "image.tif", GREY.astype(kind))
    with pytest.raises(InputError, match=r"image\.tif"):
        decode(tmp_path / "image.tif", (8, 8), 1, resize=False)


@pytest.mark.parametrize("name", ["image.png", "image.webp", "image.jpg", "image.tif"])
@pytest.mark.parametrize(("turn", "seen"), UPRIGHT.items())
def test_the_orientation_turns_the_pixels_whatever_the_format(
    tmp_path: Path, turn: int, seen: Callable[[np.ndarray], np.ndarray], name: str
) -> None:
    path, image = tmp_path / name, picture(3, 8, 16).convert("L" if name == "image.tif" else "RGB")
    if name == "image.tif":  # as Pillow would map it into memory
        tiff(path, np.asarray(image), orientation=turn)
    else:
        image.save(path, exif=exif(turn), **({"lossless": True} if name == "image.webp" else {}))
    with Image.open(path) as stored:
        expected = seen(np.asarray(stored.convert("RGB")) if name == "image.jpg" else np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(decode(path, expected.shape[:2], 3, resize=False), expected)
    assert upright_size(path) == expected.shape[:2]


def test_the_size_in_which_images_are_seen_is_that_of_the_dataset(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(5):
            picture(number, 8, 16).save(tmp_path / name / f"{number}.png", exif=exif(6))
    assert load("folder", tmp_path, {}).info.shape == (3, 16, 8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("other", ODD_TAGS, ids=str)
def test_tags_that_are_none_of_our_business_stop_no_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[int, int, int, bytes], order: str
) -> None:
    path = tmp_path / "photo.jpg"
    picture(3, 8, 16).save(path, exif=exif(1))
    upright = decode(path, (8, 16), 3, resize=False)
    picture(3, 8, 16).save(path, exif=exif(6, other, order=order))
    with images.pillow_rules():
        for codec in (images.torchcodec(), None):
            monkeypatch.setattr(images, "torchcodec", lambda codec=codec: codec)
            np.testing.assert_array_equal(decode(path, (16, 8), 3, resize=False), np.rot90(upright, -1))
        assert upright_size(path) == (16, 8)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for read in (lambda path: decode(path, (8, 8), 3, resize=True), upright_size):
        with pytest.raises(InputError, match=r"pipe\.png"):
            read(tmp_path / "pipe.png")


def test_grey_images_and_the_statistics_of_the_info(tmp_path: Path) -> None:
    tree(tmp_path)
    colour, grey = load("folder", tmp_path, {}), load("folder", tmp_path, {"channels": 1})
    assert grey.info.shape == (1, 8, 8) and len(grey.info.mean) == 1
    values = pixels(colour.train).numpy() / 255
    np.testing.assert_allclose(colour.info.mean, values.mean((0, 1, 2)))
    np.testing.assert_allclose(colour.info.std, values.std((0, 1, 2)))
    assert load("folder", tmp_path, {}, train_size=4).info == colour.info  # normalised alike whatever train_size is


# --- reading from the files


def test_streamed_images_are_the_resident_ones(tmp_path: Path) -> None:
    tree(tmp_path)
    held, streamed = load("folder", tmp_path, {}), load("folder", tmp_path, {}, workers=2)
    assert isinstance(streamed.train.source, Files) and streamed.info == held.info
    index = [3, 0, 3, 9]
    torch.testing.assert_close(streamed.train.source.read(index), held.train.source.read(index))
    torch.testing.assert_close(streamed.train.labels, held.train.labels)
    copy = pickle.loads(pickle.dumps(streamed.train.source))  # noqa: S301 (our own bytes)
    torch.testing.assert_close(copy.take(np.array([4, 2])).read([1]), held.train.source.read([2]))
    assert streamed.train.source.take(np.array([1])).paths is streamed.train.source.paths


def test_a_bad_file_met_while_streaming_is_named_across_processes(tmp_path: Path) -> None:
    source = load("folder", tree(tmp_path), {}, workers=1).train.source
    assert isinstance(source, Files)
    source.path(3).write_bytes(b"")
    with pytest.raises(InputError, match=source.path(3).name) as caught:
        source.read([0, 3])
    arrived = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 (our own bytes)
    assert isinstance(arrived, InputError) and str(arrived) == str(caught.value)


def test_progress_reaches_the_number_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    load("folder", tree(tmp_path, each=100), {}, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 144), (128, 144), (144, 144), (16, 16), (40, 40)]
    assert capsys.readouterr().out == ""


def test_the_fingerprint_of_files_sees_a_renamed_and_a_changed_one(tmp_path: Path) -> None:
    tree(tmp_path)

    def print_of_files() -> str:
        return fingerprint(load("folder", tmp_path, {"image_size": 8}, workers=1))

    first = print_of_files()
    assert print_of_files() == first
    picture(1, 9, 9).save(tmp_path / "ant/00.png")
    second = print_of_files()
    (tmp_path / "ant/00.png").rename(tmp_path / "ant/000.png")
    assert len({first, second, print_of_files()}) == 3


# --- bad files


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("options", [{}, {"image_size": 8}])
def test_f26_a_bad_file_stops_with_its_name_or_is_skipped_and_recorded(
    tmp_path: Path, kind: str, options: dict[str, int]
) -> None:
    bad = tree(tmp_path) / "bee/04.png"
    BAD[kind](bad)
    with pytest.raises(InputError, match=r"bee/04\.png: .") as caught:
        load("folder", tmp_path, options)
    assert "\n" not in str(caught.value)
    for workers in (0, 1):
        data = load("folder", tmp_path, {**options, "on_error": "skip"}, workers=workers)
        assert data.skipped == (str(bad),) and sum(sizes(data)) == 19


def test_f26_no_more_files_are_skipped_than_max_skipped(tmp_path: Path) -> None:
    tree(tmp_path)
    for name in ("ant/01.png", "bee/02.png", "bee/03.png"):
        half(tmp_path / name)
    assert len(load("folder", tmp_path, {"on_error": "skip", "max_skipped": 3}).skipped) == 3
    with pytest.raises(InputError, match=r"max_skipped.*bee/03\.png"):
        load("folder", tmp_path, {"on_error": "skip", "max_skipped": 2})


def test_a_decompression_bomb_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, size=(20, 20))
    for limit in (300, 100):  # Pillow warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match="decompression bomb"):
            load("folder", tmp_path, {"image_size": 8})


def test_postscript_is_never_handed_to_another_program(tmp_path: Path) -> None:
    postscript(tmp_path / "image.png")
    with pytest.raises(InputError, match="image.png"):
        decode(tmp_path / "image.png", (8, 8), 3, resize=True)
