"""What methods need of memory: against what autograd keeps, and refused with what fits before anything is computed."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from made import create_model
from test_attributions import options_of, pooled_net, subject_of
from torch import Tensor, nn

from cnntrain.nn.geometry import describe
from cnntrain.runtime import memory
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.needs import backward_bytes, forward_bytes, passes, refuse_what_does_not_fit
from cnntrain.studies.explain.question import Subject
from cnntrain.studies.explain.registry import METHODS, OF_SENTENCES

PASSING = [name for name in METHODS if name not in (*OF_SENTENCES, "neighbours", "attention")]


def kept_bytes(net: nn.Module, x: Tensor) -> int:
    """The bytes of all that autograd keeps for a way back to the images, weights left out."""
    kept: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in net.parameters()} | {buffer.data_ptr() for buffer in net.buffers()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(x.requires_grad_())
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(("name", "side"), [("resnet20", 32), ("lenet5", 32), ("vgg11", 32), ("nin", 32)])
def test_what_is_needed_is_what_autograd_keeps_and_some_more(name: str, side: int) -> None:
    net = create_model(name, (3, side, side), 10).eval()
    rows, _ = describe(net, (3, side, side))
    kept = kept_bytes(net, torch.randn(4, 3, side, side))
    assert 0.7 * kept < 4 * backward_bytes(rows) < 3 * kept
    assert forward_bytes(rows, subject_of(net, side)) < backward_bytes(rows)


@pytest.mark.parametrize("name", PASSING)
def test_a_method_is_refused_where_its_largest_pass_does_not_fit_with_what_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(pooled_net())
    options = options_of(what=name, images=30, batch_size=20)
    rows, _ = describe(subject.net, subject.info.shape)
    largest = max(some.images * some.each for some in passes(subject, name, options, rows))
    monkeypatch.setattr(memory, "available", lambda: largest)
    refuse_what_does_not_fit(subject, [name], options)
    monkeypatch.setattr(memory, "available", lambda: largest - 1)
    with pytest.raises(InputError, match=rf"^what={name}: .* GiB") as refused:
        refuse_what_does_not_fit(subject, [name], options)
    helps = re.search(r"take (batch_size|maximise.starts)=(\d+)", str(refused.value))
    if helps is None:
        assert name == "deconvnet" and "smaller images" in str(refused.value)  # always nine patches
        return
    key, fits = helps[1], int(helps[2])
    maximise = vars(options.maximise) | ({"starts": fits} if key == "maximise.starts" else {})
    batch = fits if key == "batch_size" else 20
    fewer = options_of(what=name, images=30, batch_size=batch, maximise=maximise)
    refuse_what_does_not_fit(subject, [name], fewer)


def test_nothing_is_computed_before_a_method_is_refused(
    refused: Callable[..., str], cnntrain: Callable[..., Any], tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: object) -> Tensor:
        raise AssertionError("logits are computed")

    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    monkeypatch.setattr(Subject, "logits", computed)
    monkeypatch.setattr(memory, "available", lambda: 400_000)
    for name in ("saliency", "maps", "patches", "filters", "deconvnet", "occlusion"):
        assert "batch_size=" in refused("explain", "run=run", f"what={name}", "images=40")
    assert "search=" in refused("explain", "run=run", "what=neighbours", "images=1", "batch_size=2", "search=48")
    monkeypatch.setattr(memory, "available", lambda: 5)
    assert "smaller images" in refused("explain", "run=run", "what=all", "images=1")
