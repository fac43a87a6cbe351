"""Every network without each of its stages and each adjacent pair: it trains, or it is refused for a known reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from made import create_model
from torch import nn

from cnntrain.models import DENSE, GRIDS, MODELS, TEXT
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import StageError

REFUSALS = json.loads((Path(__file__).parent / "golden" / "refusals.json").read_text())
OWN = [name for name in MODELS if name not in ("torchvision", "timm", *DENSE, *GRIDS, *TEXT)]
GRAY = ("softmax", "mlp", "lenet5", "lenet5_1998", "convnet", "locally_connected", "maxout")
LONG = 60  # stages
Trains = Callable[..., bool]


def images(name: str) -> Shape:
    """Where the paper's layers stand: ImageNet's for its families."""
    if name in GRAY:
        return (1, 28, 28)
    if name == "caltech_convnet":
        return (3, 83, 83)
    return (3, 224, 224) if name.startswith(("alexnet", "zfnet", "vgg", "googlenet", "mobilenet")) else (3, 32, 32)


def variants(net: nn.Sequential) -> list[tuple[str, ...]]:
    """Each stage but the last and each pair of neighbours; of a network of more than 60 stages no pairs.

    In a row of equal blocks it does not matter which is missing, so of the variants that leave the same stages in the
    same order the first stands for all.
    """
    names, built = zip(*((name, str(stage)) for name, stage in net.named_children()), strict=True)
    chosen: dict[tuple[str, ...], tuple[str, ...]] = {}
    for width in (1, 2) if len(names) <= LONG else (1,):
        for start in range(len(names) - width):
            left = built[:start] + built[start + width :]
            chosen.setdefault(left, names[start : start + width])
    return list(chosen.values())


def outcome(name: str, remove: tuple[str, ...], trains: Trains) -> str:
    """Return the reason of a refusal, or nothing for a network that forwards and back-propagates."""
    try:
        net = create_model(name, images(name), 10, remove=remove, device="meta")  # with a forward pass in evaluation
    except StageError as error:
        return re.sub(r" \(.*| *$", "", str(error).splitlines()[0])
    assert trains(net, images(name)), remove
    return ""


def refusals(name: str, trains: Trains) -> dict[str, list[str]]:
    """Return the reasons of all refusals, each with its variants."""
    found: dict[str, list[str]] = {}
    for remove in variants(create_model(name, images(name), 10, device="meta")):
        if reason := outcome(name, remove, trains):
            found.setdefault(reason, []).append("+".join(remove))
    return found


VERY_DEEP = ("preact_resnet164", "preact_resnet1001", "resnet101", "resnet152")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in VERY_DEEP else n for n in OWN])
def test_every_removal_trains_or_is_refused_for_a_known_reason(name: str, trains: Trains) -> None:
    assert refusals(name, trains) == REFUSALS.get(name, {})


def test_the_last_stage_of_every_network_stays() -> None:
    for name in ("softmax", "lenet5_1998", "nin", "all_cnn", "googlenet", "lm_resnet20", "wrn_16_8", "vgg19"):
        last = [stage for stage, _ in create_model(name, images(name), 10, device="meta").named_children()][-1]
        with pytest.raises(StageError, match=f"'{last}'"):
            create_model(name, images(name), 10, remove=[last], device="meta")
