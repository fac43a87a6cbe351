"""ImageNet and its relatives by name: local copies, archives brought once and whole, and those that are attacks."""

import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import md5, picture

from cnntrain.data.datasets import archives, imagenet
from cnntrain.data.datasets.archives import Archive, unpack
from cnntrain.data.datasets.imagenet import NETTE, WOOF, WORDS
from cnntrain.data.datasets.registry import describe, image_counts, load
from cnntrain.data.storage.images import Dataset, Files, resident
from cnntrain.runtime.errors import InputError

Call = Callable[..., dict[str, Any]]
NUMBERS = sorted(NETTE)


def copy(root: Path, classes: list[str], train: int = 4, val: int = 2) -> Path:
    """Write class folders of train and val as ImageNet and Imagenette have them."""
    for part, each in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for number in range(each):
                picture(100 * label + number, 45, 40).save(root / part / name / f"{part}_{number}.JPEG")
    return root


def tiny(root: Path, classes: list[str], train: int = 3, val: int = 2) -> Path:
    """Write the files of Tiny ImageNet: those of val in one folder, with a list of what they are."""
    lines = []
    for label, name in enumerate(classes):
        (root / "train" / name / "images").mkdir(parents=True)
        for number in range(train):
            picture(100 * label + number, 64, 64).save(root / "train" / name / "images" / f"{name}_{number}.JPEG")
    (root / "val" / "images").mkdir(parents=True)
    for number in range(val * len(classes)):
        picture(1000 + number, 64, 64).save(root / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{classes[number % len(classes)]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "test" / "images").mkdir(parents=True)
    picture(0, 64, 64).save(root / "test" / "images" / "test_0.JPEG")
    return root


def packed(folder: Path, place: Path) -> Path:
    """Pack a folder into a .tgz or .zip archive."""
    if place.suffix == ".tgz":
        with tarfile.open(place, "w:gz") as archive:
            archive.add(folder, arcname=folder.name)
    else:
        with zipfile.ZipFile(place, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, Path(folder.name, file.relative_to(folder)))
    return place


class Network:
    """Files by the last part of their address; what was asked for; where it is said to have come from."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.scheme = folder, list[str](), "https"
        self.cut: int | None = None

    def open(self, url: str, timeout: float) -> io.BytesIO:
        self.asked.append(url)
        found = io.BytesIO((self.folder / url.rpartition("/")[2]).read_bytes()[: self.cut])
        found.geturl = lambda: url.replace("https", self.scheme)  # type: ignore[attr-defined]
        return found


MAKERS = {"imagenette": (copy, NETTE), "imagewoof": (copy, WOOF), "tiny_imagenet": (tiny, WORDS["tiny_imagenet"])}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """A network that has small archives of the names, of three classes each."""
    served = tmp_path / "served"
    served.mkdir()
    for name, (maker, words) in MAKERS.items():
        archive = imagenet.ARCHIVES[name]
        file = packed(maker(tmp_path / "made" / archive.folder, sorted(words)[:3]), served / archive.name)
        small = archive._replace(size=file.stat().st_size, checksum=f"md5:{md5(file)}", most_files=100)
        monkeypatch.setitem(imagenet.ARCHIVES, name, small)
    shutil.rmtree(tmp_path / "made")
    found = Network(served)
    monkeypatch.setattr("urllib.request.urlopen", found.open)
    yield found


def labels(data: Dataset) -> tuple[list[int], list[int]]:
    assert data.test is not None and isinstance(data.train.source, Files)
    return np.bincount(data.train.labels).tolist(), np.bincount(data.test.labels).tolist()


# --- by name


@pytest.mark.parametrize("name", MAKERS)
def test_a_dataset_is_brought_once_and_read_from_its_files(tmp_path: Path, network: Network, name: str) -> None:
    root, each = tmp_path / "data", 3 if name == "tiny_imagenet" else 4
    data = load(name, root, {}, val_size=0, cache="none")
    assert labels(data) == ([each] * 3, [2] * 3)
    words = MAKERS[name][1]
    assert data.info.classes == tuple(words[number] for number in sorted(words)[:3])
    assert data.info.mean == imagenet.MEAN and data.info.shape[1] == (64 if name == "tiny_imagenet" else 224)
    assert sorted(path.name for path in root.iterdir()) == [f".{name}.lock", imagenet.ARCHIVES[name].folder]
    again = load(name, root / imagenet.ARCHIVES[name].folder, {}, val_size=0, cache="none")
    assert len(network.asked) == 1 and again.info == data.info
    assert image_counts(name, root, {}, val_size=0) == (3 * each, 0, 6)


def test_the_list_of_tiny_imagenet_labels_its_validation_images(tmp_path: Path) -> None:
    classes = sorted(WORDS["tiny_imagenet"])[:3]
    root = tiny(tmp_path / "tiny-imagenet-200", classes)
    data = load("tiny_imagenet", tmp_path, {}, val_size=0)
    assert data.test is not None and data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    found = resident(data.test.source).images[4].numpy()
    from PIL import Image

    np.testing.assert_array_equal(found, np.asarray(Image.open(root / "val/images/val_4.JPEG")))
    part = load("tiny_imagenet", tmp_path, {}, val_size=0, classes=[classes[2], classes[0]])
    assert part.test is not None and part.test.labels.tolist() == [1, 0, 1, 0]
    (root / "val/val_annotations.txt").write_text("val_0.JPEG\n")
    with pytest.raises(InputError, match=r"val_annotations\.txt"):
        load("tiny_imagenet", tmp_path, {})


def test_a_copy_of_imagenet_is_read_where_it_lies_and_any_part_of_it(tmp_path: Path) -> None:
    copy(tmp_path / "imagenet", NUMBERS)
    options = {"image_size": 8}
    data = load("imagenet", tmp_path, options, val_size=0, cache="none")
    assert labels(data) == ([4] * 10, [2] * 10) and data.info.classes == tuple(NUMBERS)
    assert labels(load("imagenet", tmp_path / "imagenet", options, val_size=0, cache="none")) == labels(data)
    assert describe("imagenet", tmp_path, options) == data.info
    named = load("imagenet", tmp_path, options, val_size=0, cache="none", classes=NUMBERS[2:5])
    assert labels(named) == ([4] * 3, [2] * 3)
    spaced = load("imagenet", tmp_path, options, val_size=0, cache="none", classes=5, train_size=0.5)
    assert spaced.info.classes == tuple(NUMBERS[::2]) and labels(spaced) == ([2] * 5, [2] * 5)
    assert describe("imagenet", tmp_path, options, classes=5).classes == spaced.info.classes
    assert image_counts("imagenet", tmp_path, options, classes=5, val_size=0) == (20, 0, 10)


def test_so_many_classes_are_evenly_spaced_and_no_more_than_there_are(tmp_path: Path) -> None:
    assert describe("imagenet", tmp_path, {}, classes=4).classes == ("0", "250", "500", "750")
    assert describe("cifar100", tmp_path, {}, classes=100) == describe("cifar100", tmp_path, {})
    with pytest.raises(InputError, match=r"dataset\.classes=11\W.* 10"):
        describe("mnist", tmp_path, {}, classes=11)


def test_imagenet_is_not_downloaded_and_other_folders_are_not_taken_for_it(tmp_path: Path) -> None:
    copy(tmp_path, ["ant", "bee"])
    with pytest.raises(InputError, match=r"ImageNet .*/imagenet\W.*train and val .*dataset\.root="):
        load("imagenet", tmp_path, {})
    assert len(describe("imagenet", tmp_path, {}).classes) == 1000


def test_a_part_of_a_copy_trains_from_a_pack(folder: Path, cnntrain: Call) -> None:
    copy(folder / "data/imagenet", NUMBERS)
    words = ("fit", "model=softmax", "dataset=imagenet", "dataset.image_size=8", "dataset.classes=4", "device=cpu")
    words += ("dataset.cache=pack", "dataset.val_size=0.25", "augmentation=none", "trainer.epochs=1")
    found = cnntrain(*words, "trainer.batch_size=4", "trainer.tensorboard=false", "output_dir=run")
    assert found["steps"] == 3
    assert np.load(next((folder / "data/.cnntrain").glob("imagenet-train-8x8x3-*.npy"))).shape == (16, 8, 8, 3)
    assert cnntrain("eval", "run=run")["n"] == 8


# --- from the network


def test_an_archive_in_place_needs_no_network(tmp_path: Path, network: Network) -> None:
    root = tmp_path / "data"
    root.mkdir()
    shutil.copy(network.folder / imagenet.ARCHIVES["imagewoof"].name, root)
    load("imagewoof", root, {"image_size": 8})
    assert not network.asked and (root / imagenet.ARCHIVES["imagewoof"].name).is_file()


def shortened(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.cut = 500


def longer(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(imagenet.ARCHIVES, "imagenette", imagenet.ARCHIVES["imagenette"]._replace(size=100))


def redirected(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.scheme = "http"


def unreachable(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refused)


def full(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: type("usage", (), {"free": 0}))


def elsewhere(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(imagenet.ARCHIVES, "imagenette", imagenet.ARCHIVES["imagenette"]._replace(folder="other"))


def interrupted(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def extract(self: tarfile.TarFile, member: tarfile.TarInfo, *arguments: Any, **options: Any) -> None:
        if member.name.endswith("val_1.JPEG"):
            raise ConnectionResetError("stopped on the way")

    monkeypatch.setattr(tarfile.TarFile, "extract", extract)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (shortened, "md5"),
        (longer, "100 bytes"),
        (redirected, "https address"),
        (unreachable, "unreachable"),
        (full, "GB of disk"),
        (elsewhere, "folder other"),
        (interrupted, "stopped on the way"),
    ],
)
def test_what_cannot_be_had_whole_leaves_nothing(
    tmp_path: Path,
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Network, pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    fault(network, monkeypatch)
    with pytest.raises(InputError, match=rf"imagenette \(.*{reason}.*imagenette2-320\.tgz"):
        load("imagenette", tmp_path / "not" / "yet", {})
    assert not (tmp_path / "not").exists()


# --- F31: archives that are attacks


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"x"
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


ABSOLUTE = "/tmp/absolute-cnntrain"  # noqa: S108 (it must not appear)
TARS = {
    "above": (member("../above"), "could be outside"),
    "inside above": (member("data/../../above"), "could be outside"),
    "absolute": (member(ABSOLUTE), "could be outside"),
    "symlink out": (member("link", tarfile.SYMTYPE, "/etc"), "neither a file nor a folder"),
    "hard link": (member("link", tarfile.LNKTYPE, "../../file"), "neither a file nor a folder"),
    "device": (member("null", tarfile.CHRTYPE), "neither a file nor a folder"),
    "pipe": (member("pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
    "zeros": (member("zeros", data=bytes(200_000)), "more than 100,000 bytes"),
}
ZIPS = {
    "above": ("../above", 0, b"x", "could be outside"),
    "backslash": ("..\\above", 0, b"x", "could be outside"),
    "absolute": (ABSOLUTE, 0, b"x", "could be outside"),
    "drive": ("C:/file", 0, b"x", "could be outside"),
    "symlink out": ("link", stat.S_IFLNK | 0o777, b"/etc", "neither a file nor a folder"),
    "device": ("null", stat.S_IFCHR, b"", "neither a file nor a folder"),
    "zeros": ("zeros", 0, bytes(200_000), "more than 100,000 bytes"),
}


def refuse(place: Path, reason: str) -> None:
    """Unpack an archive that must be refused with nothing written outside or above the caps."""
    inner = place.parent / "inner" / "inner"
    inner.parent.mkdir()
    with pytest.raises(InputError, match=reason):
        unpack(place, inner, most_bytes=100_000, most_files=50)
    assert [path for path in place.parent.rglob("*") if path.is_symlink()] == []
    files = [path for path in place.parent.rglob("*") if path.is_file() and path != place]
    assert all(inner in path.parents for path in files) and sum(path.stat().st_size for path in files) <= 100_000
    assert not Path(ABSOLUTE).exists()


@pytest.mark.parametrize("trusted", [False, True], ids=["filtered", "by us alone"])
@pytest.mark.parametrize("attack", TARS)
def test_f31_a_tar_archive_writes_nothing_outside_or_above_the_caps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, trusted: bool
) -> None:
    """Where Python has no filter of its own too: there one that trusts every member stands for none."""
    if trusted and archives.SAFELY:
        monkeypatch.setattr(archives, "SAFELY", {"filter": "fully_trusted"})
    (info, data), reason = TARS[attack]
    with tarfile.open(tmp_path / "archive.tgz", "w:gz") as archive:
        for entry, content in (member("good"), (info, data)):
            archive.addfile(entry, io.BytesIO(content))
    refuse(tmp_path / "archive.tgz", reason)


@pytest.mark.parametrize("attack", ZIPS)
def test_f31_a_zip_archive_writes_nothing_outside_or_above_the_caps(tmp_path: Path, attack: str) -> None:
    name, mode, data, reason = ZIPS[attack]
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good", b"x")
        info = zipfile.ZipInfo("x")
        info.filename, info.external_attr, info.compress_type = name, mode << 16, zipfile.ZIP_DEFLATED
        archive.writestr(info, data)
    refuse(tmp_path / "archive.zip", reason)


def test_f31_a_zip_archive_that_lies_about_a_size_is_damaged(tmp_path: Path) -> None:
    place = tmp_path / "archive.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(200_000))
    data = place.read_bytes()
    place.write_bytes(data.replace((200_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    refuse(place, "cannot unpack")


@pytest.mark.parametrize("suffix", [".tgz", ".zip"])
def test_f31_too_many_and_damaged(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "many").mkdir()
    for number in range(60):
        (tmp_path / "many" / str(number)).touch()
    place = packed(tmp_path / "many", tmp_path / f"archive{suffix}")
    shutil.rmtree(tmp_path / "many")
    refuse(place, "more than 50 files")
    shutil.rmtree(tmp_path / "inner")
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])
    refuse(place, "cannot unpack")


def test_f31_a_bad_archive_ends_the_command_with_nothing_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    data = folder / "data"
    data.mkdir()
    with tarfile.open(data / "imagenette2-320.tgz", "w:gz") as archive:
        info, content = member("../above")
        archive.addfile(info, io.BytesIO(content))
    checksum = f"md5:{md5(data / 'imagenette2-320.tgz')}"
    small = Archive("https://nowhere/imagenette2-320.tgz", "imagenette2-320", 1000, checksum, 10)
    monkeypatch.setitem(imagenet.ARCHIVES, "imagenette", small)
    words = ("fit", "model=softmax", "dataset=imagenette", "augmentation=none", "output_dir=run", "device=cpu")
    assert "'../above'" in refused(*words)
