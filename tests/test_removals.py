"""Every network without each of its stages and each adjacent pair: it trains, or it is refused for a known reason."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from cnntrain.models import MODELS
from cnntrain.models.stages import Shape, StageError

REFUSALS = json.loads((Path(__file__).parent / "golden" / "refusals.json").read_text())
OWN = [name for name in MODELS if name not in ("torchvision", "timm")]
GRAY = ("softmax", "mlp", "lenet5", "lenet5_1998", "convnet", "locally_connected", "maxout")
LONG = 28  # stages; of longer networks the first, the last and the strided block of each resolution stand for all
SHORT = 16  # stages; gradients through the longer ones flow through the same blocks


def images(name: str) -> Shape:
    """Where the paper's layers stand: ImageNet's for its families."""
    if name in GRAY:
        return (1, 28, 28)
    if name == "caltech_convnet":
        return (3, 83, 83)
    return (3, 224, 224) if name.startswith(("alexnet", "zfnet", "vgg", "googlenet", "mobilenet")) else (3, 32, 32)


def variants(names: list[str]) -> list[tuple[str, ...]]:
    """Each stage but the last, and each pair of neighbours."""
    chosen, numbers = names[:-1], [re.fullmatch(r"block(\d+)_(\d+)", name) for name in names[:-1]]
    if len(names) > LONG:
        last = {match[1]: match[2] for match in numbers if match}
        keep = [match is None or match[2] in ("1", last[match[1]]) for match in numbers]
        chosen = [name for name, kept in zip(chosen, keep, strict=True) if kept]
    pairs = [pair for pair in itertools.pairwise(names[:-1]) if set(pair) <= set(chosen)]
    return [*((name,) for name in chosen), *pairs]


def outcome(name: str, remove: tuple[str, ...]) -> str:
    """Return the reason of a refusal, or nothing for a network that forwards and back-propagates."""
    try:
        net = MODELS[name](images(name), 10, remove=remove, device="meta")  # with a forward pass in evaluation
    except StageError as error:
        return re.sub(r" \(.*| *$", "", str(error).splitlines()[0])
    if len(remove) == 1 and len(net) <= SHORT:
        net(torch.empty(2, *images(name), device="meta")).sum().backward()
        assert all(p.grad is not None for p in net.parameters())
    return ""


def refusals(name: str) -> dict[str, list[str]]:
    """Return the reasons of all refusals, each with its variants."""
    names = [stage for stage, _ in MODELS[name](images(name), 10, device="meta").named_children()]
    found: dict[str, list[str]] = {}
    for remove in variants(names):
        if reason := outcome(name, remove):
            found.setdefault(reason, []).append("+".join(remove))
    return found


@pytest.mark.parametrize("name", [name for name in OWN if name != "preact_resnet1001"])
def test_every_removal_trains_or_is_refused_for_a_known_reason(name: str) -> None:
    assert refusals(name) == REFUSALS.get(name, {})


def test_the_last_stage_of_every_network_stays() -> None:
    for name in ("softmax", "lenet5_1998", "nin", "all_cnn", "googlenet", "lm_resnet20", "wrn_16_8", "vgg19"):
        last = [stage for stage, _ in MODELS[name](images(name), 10, device="meta").named_children()][-1]
        with pytest.raises(StageError, match="is the last"):
            MODELS[name](images(name), 10, remove=[last], device="meta")
