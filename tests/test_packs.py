"""Packs: the same pixels decoded once, whole or absent, and made anew when the files or the pack have changed."""

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnntrain.data.datasets.fingerprint import fingerprint
from cnntrain.data.datasets.folder import ImageFolder
from cnntrain.data.datasets.registry import load
from cnntrain.data.loading.loader import ResidentLoader, StreamedLoader, eval_batches
from cnntrain.data.storage import images as sources
from cnntrain.data.storage import pack as packs
from cnntrain.data.storage.images import Dataset, Files, Split, resident
from cnntrain.data.storage.pack import Packed
from cnntrain.runtime.errors import InputError

SIZE = {"image_size": 8}
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photographs in three classes of ten, of unequal sizes."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (9 + label, 8 + number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.jpg")
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from now on."""
    seen, plain = list[Path](), sources.decode

    def counted(path: Path, *arguments: Any, **options: Any) -> np.ndarray:
        seen.append(path)
        return plain(path, *arguments, **options)

    monkeypatch.setattr(sources, "decode", counted)
    return seen


def splits(data: Dataset) -> list[Split]:
    assert data.val is not None and data.test is not None
    return [data.train, data.val, data.test]


def stored(root: Path) -> list[Path]:
    return sorted((root / ".cnntrain").glob("*.npy"))


def pack(files: Files, folder: Path) -> Path:
    place = packs.pack(files, folder)
    assert place is not None
    return place


def files_of(root: Path) -> Files:
    source = ImageFolder(root, image_size=8).read().train.source
    assert isinstance(source, Files)
    return source


@pytest.mark.parametrize(
    "options", [{}, {"train_size": 9, "seed": 3}, {"classes": ["cat", "ant"]}, {"val_size": 0.5}], ids=str
)
def test_packed_images_are_those_of_the_files_to_the_bit(root: Path, options: dict[str, Any]) -> None:
    plain, held = load("folder", root, SIZE, cache="none", **options), load("folder", root, SIZE, **options)
    data = load("folder", root, SIZE, cache="pack", **options)
    assert data.info == plain.info == held.info and fingerprint(data) == fingerprint(plain)
    for one, other, third in zip(splits(data), splits(plain), splits(held), strict=True):
        assert isinstance(one.source, Packed) and isinstance(other.source, Files)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(resident(one.source).images, resident(other.source).images)
        assert torch.equal(resident(one.source).images, resident(third.source).images)


def test_files_are_decoded_once_for_all_seeds_sizes_and_splits(root: Path, decoded: list[Path]) -> None:
    load("folder", root, SIZE, cache="pack")
    assert len(decoded) == len(set(decoded)) == 30 and len(stored(root)) == 1
    for options in ({"seed": 1, "train_size": 0.5}, {"val_size": 5}, {"only": "test"}, {"workers": 2}):
        load("folder", root, SIZE, cache="pack", **options)
    assert len(decoded) == 30
    load("folder", root, SIZE, cache="pack", classes=["ant", "bee"])
    assert len(decoded) == 50 and len(stored(root)) == 2  # of the classes that are asked for only


def test_a_split_that_is_not_asked_for_is_not_packed(tmp_path: Path, root: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(root, tmp_path / "divided" / part)
    data = load("folder", tmp_path / "divided", SIZE, cache="pack", only="test")
    assert isinstance(splits(data)[2].source, Packed) and isinstance(data.train.source, Files)
    assert [path.name.split("-8x8x3-")[0] for path in stored(tmp_path / "divided")] == ["divided-test"]


def test_a_pack_is_a_plain_array_that_processes_map_rather_than_copy(root: Path) -> None:
    data = load("folder", root, SIZE, cache="pack")
    images = np.load(stored(root)[0])
    assert images.shape == (30, 8, 8, 3) and images.dtype == np.uint8
    source = data.train.source
    assert isinstance(source, Packed) and isinstance(source.images, np.memmap)
    sent = pickle.dumps(source)
    assert len(sent) < images.nbytes
    copy = pickle.loads(sent)  # noqa: S301 (our own bytes)
    assert torch.equal(copy.take(np.array([4, 2])).read([1]), source.read([2]))


@pytest.mark.parametrize("workers", [0, 1])
def test_training_and_evaluation_see_the_same_batches(root: Path, workers: int) -> None:
    data, held = (load("folder", root, SIZE, cache=cache) for cache in ("pack", "ram"))
    settings = {"batch_size": 8, "parts": {}, "seed": 0, "device": torch.device("cpu")}
    one = StreamedLoader(data.train, data.info, workers=workers, **settings)  # type: ignore[arg-type]
    other = ResidentLoader(held.train, held.info, **settings)  # type: ignore[arg-type]
    for epoch, place in [(0, 0), (0, 1), (3, 1)]:
        one.seek(epoch, place)
        other.seek(epoch, place)
        assert torch.equal(one.batch().images, other.batch().images)
    one.close()
    seen = [
        eval_batches(split, data.info, batch_size=5, device=torch.device("cpu"), workers=workers)
        for split in (data.train, held.train)
    ]
    for (images, labels), (others, other_labels) in zip(*seen, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)


def changed(root: Path) -> None:
    Image.new("RGB", (20, 20)).save(root / "bee/3.jpg")


def touched(root: Path) -> None:
    os.utime(root / "bee/3.jpg", ns=(0, 0))


def renamed(root: Path) -> None:
    (root / "bee/3.jpg").rename(root / "bee/33.jpg")


def added(root: Path) -> None:
    shutil.copy(root / "bee/3.jpg", root / "bee/33.jpg")


@pytest.mark.parametrize("change", [changed, touched, renamed, added])
def test_other_files_are_another_pack(root: Path, change: Callable[[Path], None], decoded: list[Path]) -> None:
    first = pack(files_of(root), root / ".cnntrain")
    change(root)
    decoded.clear()
    files = files_of(root)
    assert pack(files, root / ".cnntrain") != first
    assert len(decoded) == len(files)


def test_other_sizes_and_decoders_are_other_packs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(root)
    names = {packs.digest(files)}
    names.add(packs.digest(Files(files.root, files.paths, (8, 9), 3, resize=True)))
    names.add(packs.digest(Files(files.root, files.paths, (8, 8), 1, resize=True)))
    names.add(packs.digest(Files(files.root, files.paths, (8, 8), 3, resize=False)))
    monkeypatch.setattr(packs.PIL, "__version__", "0.1")
    names.add(packs.digest(files))
    assert len(names) == 5


def shorter(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-1])


def longer(place: Path) -> None:
    place.write_bytes(place.read_bytes() + b"x")


def garbage(place: Path) -> None:
    place.write_bytes(b"\x93NUMPY" + bytes(200))


def empty(place: Path) -> None:
    place.write_bytes(b"")


def pickled(place: Path) -> None:
    place.write_bytes(b"cos\nabort\n(tR.")  # loading this as an object would end the process


def others(place: Path) -> None:
    np.save(place, np.zeros((30, 8, 8, 1), dtype=np.uint8))


@pytest.mark.parametrize("damage", [shorter, longer, garbage, empty, pickled, others])
def test_a_damaged_pack_is_made_anew(root: Path, damage: Callable[[Path], None]) -> None:
    place = pack(files_of(root), root / ".cnntrain")
    before = place.read_bytes()
    damage(place)
    assert pack(files_of(root), root / ".cnntrain") == place
    assert place.read_bytes() == before


def test_a_bad_file_is_named_and_nothing_is_left(root: Path) -> None:
    (root / "bee/4.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"bee/4\.jpg"):
        load("folder", root, SIZE, cache="pack")
    assert [path.suffix for path in (root / ".cnntrain").iterdir()] == [".lock"]
    data = load("folder", root, {**SIZE, "on_error": "skip"}, cache="pack")
    assert len(data.skipped) == 1 and sum(len(split) for split in splits(data)) == 29


def test_a_process_killed_on_the_way_leaves_no_pack(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plain, files = root / ".cnntrain", sources.decode, files_of(root)

    def fatal(path: Path, *arguments: Any, **options: Any) -> np.ndarray:
        if path.name == "7.jpg":
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sources, "decode", fatal)
        child = multiprocessing.get_context("fork").Process(target=pack, args=(files, folder))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert list(folder.glob("*.partial")) and not stored(root)
    whole = np.load(pack(files, folder))
    assert (whole == resident(files).images.numpy()).all() and not list(folder.glob("*.partial"))


def test_many_at_once_decode_once(root: Path, decoded: list[Path]) -> None:
    files = files_of(root)
    threads = [threading.Thread(target=pack, args=(files, root / ".cnntrain")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 30 and len(stored(root)) == 1


def test_a_disk_without_room_is_said_before_anything_is_decoded(
    root: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(packs.shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with pytest.raises(InputError, match=r" 0\.01 MB .*30 images .* 0\.00 MB .*cache=none"):
        load("folder", root, SIZE, cache="pack")
    assert not decoded and not stored(root)


def test_a_folder_that_cannot_be_written_to_is_said(root: Path) -> None:
    (root / "file").write_text("")
    with pytest.raises(InputError, match=r"cache=pack .*data_root=.*cache=none"):
        load("folder", root, SIZE, cache="pack", packs=root / "file" / "packs")


def test_runs_from_a_pack_are_runs_from_memory(root: Path, folder: Path, cnntrain: Call) -> None:
    words = ("fit", "model=softmax", "dataset=folder", f"dataset.root={root}", "dataset.image_size=8")
    words += ("augmentation=none", "trainer.epochs=1", "trainer.batch_size=8", "trainer.tensorboard=false")
    words += ("data_root=here", "device=cpu")
    one, other = (cnntrain(*words, f"dataset.cache={cache}", f"output_dir={cache}") for cache in ("pack", "ram"))
    assert len(list(Path("here/.cnntrain").glob("*.npy"))) == 1
    weights = [torch.load(f"{cache}/checkpoints/last.pt", weights_only=True)["model"] for cache in ("pack", "ram")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1]) and one["val"] == other["val"]
