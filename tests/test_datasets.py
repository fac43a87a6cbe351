"""Datasets: cards, splits that are exact and fixed, the named readers on tiny files, and their configuration."""

import gzip
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from hydra import compose, initialize_config_dir
from made import cifar_archive, md5, mnist_files, write_idx
from PIL import Image

from cnntrain.config.groups import GROUPS
from cnntrain.data.datasets import downloads, folder
from cnntrain.data.datasets.fingerprint import fingerprint
from cnntrain.data.datasets.registry import DATASETS, describe, load, refuse_unusable, select
from cnntrain.data.datasets.splits import allocate, carve, class_weights, counts_of, subset
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split, resident, statistics
from cnntrain.runtime.errors import InputError

CONF = Path(__file__).parents[1] / "conf"
NOWHERE = Path("/nonexistent")


def labelled(labels: list[int] | np.ndarray) -> Split:
    """A split whose images are numbered by their first pixel, so that they can be told apart."""
    images = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return Split(Pixels(images), torch.as_tensor(np.asarray(labels), dtype=torch.int64))


def info_with(num_classes: int) -> DatasetInfo:
    return DatasetInfo("toy", tuple(f"c{number}" for number in range(num_classes)), (1, 1, 1), (0.5,), (0.5,))


def numbers(split: Split | None) -> list[int]:
    assert split is not None
    return resident(split.source).images.flatten().tolist()


# --- splits


def test_allocate_gives_exact_totals_within_one_of_the_quota() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(2, 50, rng.integers(2, 12))
        total = int(rng.integers(len(counts), counts.sum() - len(counts) + 1))
        shares = allocate(counts, total, spare=1)
        assert shares.sum() == total
        assert (shares >= 1).all() and (shares < counts).all()
        quota = counts * total / counts.sum()
        free = (quota >= 1) & (quota <= counts - 1)
        if free.all():
            assert (abs(shares - quota) < 1).all()


def test_carve_partitions_stratified_and_ignores_the_seed() -> None:
    split, info = labelled([0] * 20 + [1] * 10 + [2] * 10), info_with(3)
    rest, part = carve(split, info, 8, "validation", "dataset.val_size")
    assert sorted(numbers(rest) + numbers(part)) == list(range(40))
    assert counts_of(part.labels, 3).tolist() == [4, 2, 2]
    again = carve(split, info, 8, "validation", "dataset.val_size")[1]
    assert numbers(again) == numbers(part)
    assert numbers(carve(split, info, 0.2, "validation", "dataset.val_size")[1]) == numbers(part)
    assert numbers(carve(split, info, 8, "test", "the test set")[1]) != numbers(part)


def test_carving_a_class_does_not_depend_on_the_others() -> None:
    info = info_with(3)
    _, part = carve(labelled([0] * 20 + [1] * 20 + [2] * 20), info, 0.2, "validation", "dataset.val_size")
    _, alone = carve(labelled([0] * 20 + [1] * 20), info_with(2), 0.2, "validation", "dataset.val_size")
    assert numbers(alone) == [number for number in numbers(part) if number < 40]


def test_subset_is_stratified_seeded_and_nested() -> None:
    split, info = labelled(np.arange(100) % 4), info_with(4)
    small, large = subset(split, info, 20, seed=1), subset(split, info, 0.4, seed=1)
    assert counts_of(small.labels, 4).tolist() == [5] * 4 and len(large) == 40
    assert set(numbers(small)) < set(numbers(large))
    assert numbers(subset(split, info, 20, seed=2)) != numbers(small)
    assert len(subset(split, info, 0.001, seed=1)) == 4  # at least one a class
    assert numbers(subset(split, info, 1.0, seed=1)) == list(range(100))


@pytest.mark.parametrize(
    ("size", "message"), [(3, "is 3"), (101, "100"), (1.5, "fraction"), (5000.0, "whole"), (-0.1, "fraction")]
)
def test_a_size_that_cannot_be_is_refused(size: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        subset(labelled(np.arange(100) % 4), info_with(4), size, seed=0)


def test_carving_leaves_each_class_an_image_or_says_so() -> None:
    with pytest.raises(InputError, match="dataset.val_size"):
        carve(labelled([0, 0, 1, 1]), info_with(2), 3, "validation", "dataset.val_size")
    with pytest.raises(InputError, match=r"'c1' has 1 image.*val_size"):
        carve(labelled([0, 0, 0, 1]), info_with(2), 2, "validation", "dataset.val_size")


def test_class_weights_are_inverse_to_frequency_with_mean_one() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = class_weights(labels, 4)
    assert weights[labels].mean().item() == pytest.approx(1)
    assert (weights[1] / weights[0]).item() == pytest.approx(2)
    assert weights[3] == 0 and weights.dtype == torch.float32


# --- checks


def test_f27_what_training_would_stumble_over_is_refused() -> None:
    info, good = info_with(2), labelled([0, 1, 0, 1])
    for train, test, message in [
        (labelled([0, 2]), None, "label 2"),
        (labelled([0, -1]), None, "label -1"),
        (labelled([0, 0]), None, "'c1'"),
        (labelled([0, 0]), good, "'c1'"),
        (good, labelled([]), "test set"),
        (Split(good.source, good.labels[:2]), None, "4.*2"),
    ]:
        with pytest.raises(InputError, match=message):
            refuse_unusable(Dataset(info, train, None, test), info)


# --- load

IN_FOLDERS = ("folder", "segmentation_folder", "camvid", "boxes")  # known by a look at them alone
OF_WORDS = ("sentences", "grammar")  # which have no size in pixels


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in (*IN_FOLDERS, *OF_WORDS)])
def test_describe_needs_nothing_on_disk_and_agrees_with_options(name: str) -> None:
    info = describe(name, NOWHERE, {"image_size": 20})
    assert info.name == name and info.shape[1:] == (20, 20)
    assert len(info.mean) == len(info.std) == info.shape[0]
    assert (
        len(set(info.classes))
        == len(info.classes)
        == {"cifar100": 100, "imagenet": 1000, "tiny_imagenet": 200, "shapes": 4, "voc2007": 20, "voc2012": 20}.get(
            name, 10
        )
    )


def test_a_folder_is_looked_through_once_for_what_is_known_and_for_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    sizes, common_size = [], folder.common_size
    monkeypatch.setattr(folder, "common_size", lambda *args, **how: sizes.append(args) or common_size(*args, **how))
    dataset = select("folder", tmp_path, {})
    assert dataset.info.shape == dataset.read().info.shape == (3, 8, 8) and len(sizes) == 1


def test_digits_has_its_numbers_and_its_info_is_true() -> None:
    data = load("digits", NOWHERE, {}, val_size=180)
    assert data.val is not None and data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (1257, 180, 360)
    mean, std = statistics(data.train.source)
    assert data.info.mean == pytest.approx(mean, abs=1e-4) and data.info.std == pytest.approx(std, abs=1e-4)
    assert data.train.source.shape == (28, 28, 1)
    native = load("digits", NOWHERE, {"image_size": 8}, val_size=180)
    assert resident(native.train.source).images.max() == 255
    torch.testing.assert_close(native.train.labels, data.train.labels)


def test_synthetic_is_fixed_learnable_and_as_its_info_says() -> None:
    options = {"num_classes": 4, "image_size": 16, "channels": 3, "train_images": 200, "test_images": 80}
    data = load("synthetic", NOWHERE, options)
    assert data.info == describe("synthetic", NOWHERE, options)
    assert fingerprint(data) == fingerprint(load("synthetic", NOWHERE, options, seed=5))
    mean, std = statistics(data.train.source)
    assert mean == pytest.approx(data.info.mean, abs=0.01) and std == pytest.approx(data.info.std, abs=0.01)
    assert data.test is not None
    train, test = (resident(split.source).images.flatten(1).double() for split in (data.train, data.test))
    centres = torch.stack([train[data.train.labels == label].mean(dim=0) for label in range(4)])
    nearest = torch.cdist(test, centres).argmin(dim=1)
    assert (nearest == data.test.labels).double().mean() > 0.95


def test_classes_are_kept_by_name_in_the_order_given() -> None:
    options = {"num_classes": 4, "image_size": 8}
    whole = load("synthetic", NOWHERE, options, val_size=0)
    data = load("synthetic", NOWHERE, options, val_size=0, classes=["grating2", "grating0"])
    assert data.val is None and data.info.classes == ("grating2", "grating0")
    twos = resident(whole.train.source).images[whole.train.labels == 2]
    torch.testing.assert_close(resident(data.train.source).images[data.train.labels == 0], twos)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["grating1", "gratin2"], "'grating2'"), (["grating1"] * 2, "grating1"), (["grating1"], "two")],
)
def test_wrong_classes_are_named(classes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load("synthetic", NOWHERE, {}, classes=classes)
    with pytest.raises(InputError, match=message):
        describe("synthetic", NOWHERE, {}, classes=classes)


def test_an_unknown_dataset_is_named() -> None:
    with pytest.raises(InputError, match="'cifar10'"):
        load("cifar11", NOWHERE, {})


def test_train_size_changes_training_images_only_and_with_the_seed() -> None:
    one, two = (load("synthetic", NOWHERE, {}, train_size=50, seed=seed) for seed in (1, 2))
    assert len(one.train) == len(two.train) == 50
    assert one.val is not None and two.val is not None
    torch.testing.assert_close(resident(one.val.source).images, resident(two.val.source).images)
    assert fingerprint(one) != fingerprint(two)


# --- torchvision's files


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refused)


def test_mnist_is_read_where_it_lies(tmp_path: Path, offline: None) -> None:
    pixels = mnist_files(tmp_path)
    data = load("mnist", tmp_path, {}, val_size=0)
    assert data.test is not None
    np.testing.assert_array_equal(resident(data.test.source).images[..., 0].numpy(), pixels)
    assert data.test.labels.tolist() == [number % 10 for number in range(40)]
    assert load("mnist", tmp_path, {"image_size": 32}, val_size=10).train.source.shape == (32, 32, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST"]


def test_mnist_archives_in_place_are_unpacked_without_a_network(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = mnist_files(tmp_path)
    resources = []
    for file in sorted((tmp_path / "MNIST/raw").iterdir()):
        packed = file.with_name(f"{file.name}.gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
        resources.append((packed.name, md5(packed)))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    data = load("mnist", tmp_path, {}, val_size=0)
    np.testing.assert_array_equal(resident(data.train.source).images[..., 0].numpy(), pixels)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / ".mnist.partial").exists()


def test_an_interrupted_download_is_not_taken_for_a_complete_one(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Any) -> None:
        write_idx(Path(self.raw_folder) / "train-images-idx3-ubyte", np.zeros((2, 28, 28)))
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", cut)
    for root in (tmp_path, tmp_path / "not" / "yet"):
        with pytest.raises(InputError, match="Connection reset"):
            load("mnist", root, {})
        assert not list(tmp_path.iterdir())
    (tmp_path / "other.txt").touch()
    with pytest.raises(InputError, match="Connection reset"):
        load("mnist", tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_without_network_the_ways_to_supply_the_files_are_named(tmp_path: Path, offline: None) -> None:
    for name in ("mnist", "cifar10"):
        with pytest.raises(InputError) as caught:
            load(name, tmp_path, {})
        message = str(caught.value)
        assert "\n" not in message and "unreachable" in message
        assert str(tmp_path) in message and downloads.DOWNLOADS[name].files[0] in message
        assert "CNNTRAIN_DATA" in message and "dataset=folder dataset.root=" in message


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, offline: None) -> None:
    mnist_files(tmp_path)
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="mnist"):
        load("mnist", tmp_path, {})


def test_cifar10_is_unpacked_once_and_healed(tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, known = cifar_archive(tmp_path)
    for name, value in known.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, name, value)
    data = load("cifar10", tmp_path, {}, val_size=0)
    np.testing.assert_array_equal(resident(data.train.source).images.numpy(), pixels.transpose(0, 2, 3, 1))
    assert data.train.labels.tolist() == [number % 10 for number in range(20)]
    assert data.info.classes == downloads.CIFAR10_CLASSES

    file = tmp_path / "cifar-10-batches-py/data_batch_1"
    file.write_bytes(file.read_bytes()[:100])
    assert fingerprint(load("cifar10", tmp_path, {}, val_size=0)) == fingerprint(data)


def test_files_without_the_right_checksums_are_never_unpickled(tmp_path: Path, offline: None) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(b"cos\nabort\n(tR.")  # unpickling this would end the process
    with pytest.raises(InputError, match="cifar10"):
        load("cifar10", tmp_path, {})


# --- configuration and imports


@pytest.mark.parametrize("name", DATASETS)
def test_the_configuration_of_each_dataset_composes_to_its_options(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+dataset={name}", "dataset.root=somewhere"])["dataset"]
    common = {"name", *GROUPS["dataset"].shared}
    options = {key: value for key, value in config.items() if key not in common}
    assert config["name"] == name
    inspect.signature(DATASETS[name]).bind(NOWHERE, **options)
    if name not in ("folder", "sentences", "segmentation_folder", "camvid", "boxes"):  # which look at the files
        assert describe(name, NOWHERE, options).shape == describe(name, NOWHERE, {}).shape


def test_libraries_that_import_slowly_wait_until_they_are_needed() -> None:
    code = "import sys, cnntrain.commands.fit as _; "
    code += "print([m for m in ('torchvision', 'sklearn', 'scipy', 'matplotlib', 'triton') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
