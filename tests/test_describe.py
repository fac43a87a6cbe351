"""`cnntrain describe`: networks of any kind, alone and side by side, without data."""

from collections.abc import Callable
from typing import Any

import pytest

from cnntrain.cli.main import main

Call = Callable[..., dict[str, Any]]


def test_imagenet_is_a_description_that_needs_no_data(cnntrain: Call) -> None:
    found = cnntrain("describe", "model=resnet50", "dataset=imagenet")
    assert (found["in_shape"], found["params"], found["macs"]) == ([3, 224, 224], 25_557_032, 3_857_973_248)
    assert found["flops"] == 2 * found["macs"]
    assert cnntrain("describe", "model=alexnet", "dataset=imagenet", "dataset.image_size=227")["params"] == 60_965_224


def test_reading_imagenet_without_a_copy_is_refused_before_anything_is_made(refused: Callable[..., str]) -> None:
    assert "ImageNet" in refused("fit", "model=lenet5", "dataset=imagenet")


def test_activations_are_four_bytes_a_number_written(cnntrain: Call) -> None:
    found = cnntrain("describe", "model=lenet5")
    maps = 2 * 6 * 28 * 28 + 6 * 14 * 14 + 2 * 16 * 10 * 10 + 16 * 5 * 5 + 2 * 120 + 2 * 84 + 10
    assert found["activation_bytes"] == 4 * maps == sum(stage["activation_bytes"] for stage in found["stages"])


def test_several_networks_stand_side_by_side(cnntrain: Call, capfd: pytest.CaptureFixture[str]) -> None:
    found = cnntrain("describe", "models=[lenet5,resnet20,nin]", "dataset=cifar10")
    assert [(one["model"], one["params"]) for one in found["models"]] == [
        *(("lenet5", 62_006), ("resnet20", 269_722), ("nin", 966_986)),
    ]
    assert main(["describe", "models=[softmax,mlp]", "table=markdown"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("| model | stages | parameters | MACs | FLOPs |") and len(lines) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=vgg16"], "32 pixels"),
        (["models=[lenet5,vgg16]"], "vgg16: "),
        (["models=[lenet6]"], "'lenet5'"),
        (["model=alexnet", "dataset=cifar10", "model.remove=[conv1]"], "groups=1"),
        (["model=alexnet", "model.widths=[1,2]"], "model.widths"),
        (["model=nin", "model.classifier=denes"], "model.classifier=dense"),
        (["model=torchvision", "model.arch=resnet19", "dataset=cifar10"], "'resnet18'"),
        (["model=torchvision"], "1×28×28"),
    ],
)
def test_what_cannot_be_described_is_refused_with_the_reason(
    refused: Callable[..., str], words: list[str], message: str
) -> None:
    assert message in refused("describe", *words)


def test_googlenet_shows_the_papers_table_beside_the_exact_one(
    folder: object, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", "model=googlenet"]) == 0
    table = capfd.readouterr().out.split("where they differ")[1].splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in table if "conv" in line or "inception" in line}
    assert rows["conv1"] == ["2.7", "9.2", "34", "118"] and rows["inception_4c"] == ["463", "497.5", "100", "99.9"]
    assert rows["inception_5a"] == ["1,072", "1018", "54", "51.1"]
    assert "inception_3a" not in rows and "inception_4b" not in rows


def test_a_foreign_network_is_described_without_receptive_fields(cnntrain: Call) -> None:
    found = cnntrain("describe", "model=torchvision", "dataset=cifar10")
    assert (found["params"], found["connections"]) == (11_181_642, None)
    own = cnntrain("describe", "model=resnet18", "dataset=cifar10", "dataset.image_size=64")
    theirs = cnntrain("describe", "model=torchvision", "dataset=cifar10", "dataset.image_size=64")
    assert theirs["macs"] == own["macs"]
    assert {stage["receptive_field"] for stage in found["stages"]} == {None}
    chain = cnntrain("describe", "model=torchvision", "model.arch=alexnet", "dataset=cifar10", "dataset.image_size=224")
    assert chain["stages"][-1]["receptive_field"] == [355, 355]
