"""`cnntrain explain`: what filters learned and what excites units, against arithmetic and direct search."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnntrain.data.storage.images import DatasetInfo
from cnntrain.nn.attention import SpatialAttention
from cnntrain.nn.geometry import stage_spans
from cnntrain.nn.layers import LocalResponseNorm
from cnntrain.nn.stages import walk
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.attention import attention_maps
from cnntrain.studies.explain.deconvnet import likeness, normalisation_passed_over, project
from cnntrain.studies.explain.filters import constant_units, image_kernels, layer_filters, weighted_layers
from cnntrain.studies.explain.maps import StageTotals
from cnntrain.studies.explain.question import Subject, Targets
from cnntrain.studies.explain.units import chosen_units, most_exciting, ranges, receptive_patch
from cnntrain.training.pictures import mosaic

Call = Callable[..., dict[str, Any]]


def stages(**parts: nn.Module) -> nn.Sequential:
    """A network of named stages with weights from a fixed seed."""
    net = nn.Sequential(OrderedDict(parts)).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=rng) / tensor[0].numel() ** 0.5)
    return net


def small_net(channels: int = 3) -> nn.Sequential:
    return stages(
        conv1=nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, 6, 3, padding=1), relu=nn.ReLU())),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Sequential(OrderedDict(conv=nn.Conv2d(6, 8, 3), relu=nn.ReLU())),
        fc=nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 4)),
    )


def subject_of(net: nn.Sequential) -> Subject:
    info = DatasetInfo("made", ("a", "b", "c", "d"), (3, 12, 12), (0.5,) * 3, (0.25,) * 3)
    return Subject(Path(), net, info, {}, torch.device("cpu"))


def images(count: int = 7) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(1))


# --- filters


def test_the_kernels_of_the_first_layer_are_its_weights() -> None:
    net = small_net()
    layer = layer_filters(net, (3, 12, 12), {"conv1.conv": weighted_layers(net)["conv1.conv"]})[0]
    weight = net.state_dict()["conv1.conv.weight"]
    assert layer.kind == "kernels in the image"
    np.testing.assert_allclose(layer.values, weight, atol=1e-6)
    np.testing.assert_allclose(layer.norms, weight.flatten(1).norm(dim=1), rtol=1e-6)


def test_a_later_layer_has_a_kernel_in_the_image_only_while_nothing_bends() -> None:
    linear = stages(conv1=nn.Conv2d(3, 5, 3), conv2=nn.Conv2d(5, 4, 3), relu=nn.ReLU(), conv3=nn.Conv2d(4, 2, 3))
    kinds = {each.path: each for each in layer_filters(linear, (3, 12, 12), weighted_layers(linear))}
    assert [each.kind for each in kinds.values()] == ["kernels in the image"] * 2 + ["kernels by input map"]
    kernel = torch.from_numpy(kinds["conv2"].values)
    assert kernel.shape == (4, 3, 5, 5)  # 3×3 after 3×3
    bias = linear.conv2(linear.conv1(torch.zeros(1, 3, 12, 12)))  # type: ignore[operator]
    x = images(1)
    torch.testing.assert_close(
        torch.nn.functional.conv2d(x, kernel), linear.conv2(linear.conv1(x)) - bias, atol=1e-4, rtol=1e-4
    )  # type: ignore[operator]


def test_a_layer_of_numbers_that_is_linear_has_a_kernel_as_large_as_the_image() -> None:
    net = stages(fc=nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)))
    kernels = image_kernels(net, (3, 12, 12), "fc.1", np.arange(4))
    torch.testing.assert_close(kernels.flatten(1), net.state_dict()["fc.1.weight"])


def test_a_dead_unit_is_one_whose_values_are_all_the_same() -> None:
    net = small_net()
    with torch.no_grad():
        net.get_parameter("conv2.conv.bias")[5] = -100
    found = constant_units(ranges(net, [images(3), images(4)], ["conv1", "conv2"]))
    assert found == {"conv1": [], "conv2": [5]}


# --- maps and attention


def test_totals_of_maps_are_those_of_all_batches() -> None:
    values = images().relu()
    total = StageTotals()
    for part in values.split(3):
        total.add(part)
    assert total.count == values.numel() and total.zero == int((values == 0).sum()) and total.negative == 0
    assert total.sum / total.count == pytest.approx(float(values.mean()), rel=1e-5)
    assert total.largest == float(values.max())


def test_attention_maps_are_the_softmax_of_the_scores_as_multiples_of_an_equal_share() -> None:
    net = stages(
        conv1=nn.Conv2d(3, 6, 3, padding=1),
        pool=nn.Sequential(SpatialAttention(6), nn.Flatten()),
        fc=nn.Linear(6, 4),
    )
    x, options = images(3), None
    maps = attention_maps(
        subject_of(net),
        x,
        Targets(torch.zeros(3, dtype=torch.int64), "logit"),
        options,  # type: ignore[arg-type]
    )
    scores = torch.einsum("nchw,c->nhw", net.conv1(x), net.get_parameter("pool.0.weight"))  # type: ignore[operator]
    shares = scores.flatten(1).softmax(dim=1)
    torch.testing.assert_close(maps.values.flatten(1), shares * 144)
    torch.testing.assert_close(torch.tensor(maps.columns["largest weight"]), shares.amax(dim=1))
    assert all(1 < positions < 144 for positions in maps.columns["positions"])
    with pytest.raises(InputError, match="model.attention=true"):
        attention_maps(subject_of(small_net()), x, None, None)  # type: ignore[arg-type]


# --- what excites units


@pytest.mark.parametrize("of", ["unit", "map"])
def test_the_most_exciting_images_are_those_of_a_sort_of_all(of: Any) -> None:
    net, x = small_net(), images(23)
    units = {"conv2": np.array([6, 1]), "fc": np.array([3])}
    found = most_exciting(net, x.split(5), units, most=4, of=of)
    for stage, features in walk(net, x):
        if stage not in units:
            continue
        maps = features.detach().reshape(23, features.shape[1], -1)
        values = maps.mean(dim=2) if of == "map" else maps.amax(dim=2)
        for i, unit in enumerate(units[stage]):
            order = np.argsort(-values[:, unit].numpy(), kind="stable")[:4]
            assert found[stage].places[i].tolist() == order.tolist()
            np.testing.assert_allclose(found[stage].values[i], values[order, unit], rtol=1e-5)
            if of == "unit" and features.dim() == 4:
                rows, columns = found[stage].rows[i], found[stage].columns[i]
                np.testing.assert_allclose(features.detach()[order, unit, rows, columns], found[stage].values[i])


def test_a_patch_is_all_that_a_position_sees_and_no_more() -> None:
    """Changing the pixels beyond a patch leaves the unit as it was; a patch at the border is filled up."""
    net, x = small_net(), images(1)
    spans = stage_spans(net, (3, 12, 12))["conv2"]
    numbers = np.arange(144).reshape(12, 12, 1)
    features = dict(walk(net, x))["conv2"]
    for row, column in [(0, 0), (1, 2), (3, 3)]:
        patch = receptive_patch(numbers, spans, row, column, -1)
        assert patch.shape == (8, 8, 1)
        seen = torch.zeros(144, dtype=torch.bool)
        seen[torch.from_numpy(patch[patch >= 0])] = True
        changed = torch.where(seen.view(12, 12), x, torch.randn_like(x))
        torch.testing.assert_close(dict(walk(net, changed))["conv2"][..., row, column], features[..., row, column])
    assert (receptive_patch(numbers, spans, 0, 0, -1)[0] == -1).all()  # a row beyond the image
    assert (receptive_patch(numbers, None, 0, 0, -1) == numbers).all()


# --- the way back to the pixels


def test_a_projection_is_unpooling_by_switches_relu_and_transposed_filters_to_the_bit() -> None:
    net, pixels = small_net(), np.random.default_rng(2).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    subject = subject_of(net)
    rows, columns, unit = np.array([0, 2, 3]), np.array([1, 3, 0]), 4
    projected = project(subject, "conv2", pixels, unit, rows, columns)

    first, second = (net.get_parameter(f"{name}.conv.weight").detach() for name in ("conv1", "conv2"))
    maps = dict(walk(net, subject.inputs(pixels)))
    activations, switches = functional.max_pool2d(maps["conv1"].detach(), 2, return_indices=True)
    kept = torch.zeros_like(maps["conv2"])
    for i in range(3):
        kept[i, unit, rows[i], columns[i]] = maps["conv2"][i, unit, rows[i], columns[i]].detach()
    down = functional.conv_transpose2d(kept.relu(), second)
    assert down.shape == activations.shape
    down = functional.max_unpool2d(down, switches, 2)
    down = functional.conv_transpose2d(down.relu(), first, padding=1)
    assert float(down.abs().sum()) > 0
    assert torch.equal(projected, down.permute(0, 2, 3, 1))


def test_normalisation_over_neighbours_is_passed_over_and_no_hook_stays() -> None:
    plain = small_net()
    normalised = stages(conv1=plain.conv1, norm1=LocalResponseNorm(), pool1=plain.pool1, conv2=plain.conv2)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    x = subject_of(plain).inputs(pixels)
    norm: Any = normalised.norm1
    with normalisation_passed_over(normalised):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        torch.testing.assert_close(out, norm.forward(x), rtol=0, atol=0)
        assert torch.equal(torch.autograd.grad(out.square().sum(), leaf)[0], 2 * out)
    assert not norm._forward_hooks
    with pytest.raises(ZeroDivisionError), normalisation_passed_over(normalised):
        raise ZeroDivisionError
    assert not norm._forward_hooks


def test_a_projection_has_no_pixels_beyond_its_patch_and_tanh_is_refused() -> None:
    net, pixels = small_net(), np.random.default_rng(3).integers(0, 256, (1, 12, 12, 3), dtype=np.uint8)
    position = np.array([1])
    projected = project(subject_of(net), "conv2", pixels, 2, position, position)[0].numpy()
    cut = receptive_patch(projected, stage_spans(net, (3, 12, 12))["conv2"], 1, 1, 0)
    assert np.abs(projected).sum() == np.abs(cut).sum() > 0
    bent = stages(conv1=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()))
    with pytest.raises(InputError, match="tanh"):
        project(subject_of(bent), "conv1", pixels, 0, position, position)


def test_projections_are_alike_where_they_are_multiples_of_each_other() -> None:
    one = np.random.default_rng(4).normal(size=(1, 5, 5, 3))
    other = np.random.default_rng(5).normal(size=(1, 5, 5, 3))
    assert likeness(np.concatenate([one, 3 * one, 0 * one])) == pytest.approx(1)
    cosine = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
    assert likeness(np.concatenate([one, other])) == pytest.approx(cosine)
    assert likeness(np.concatenate([one, 0 * one])) is None


def test_units_are_chosen_evenly_or_by_number_and_others_are_named() -> None:
    counts = {"conv1": 6, "fc": 20}
    assert {stage: len(units) for stage, units in chosen_units(None, counts, 4).items()} == {"conv1": 4, "fc": 4}
    chosen = chosen_units([2, 10], counts, 4)
    assert chosen["conv1"].tolist() == [2] and chosen["fc"].tolist() == [2, 10]
    with pytest.raises(InputError, match="0 to 19"):
        chosen_units([20], counts, 4)


def test_a_mosaic_leaves_every_cell_as_it_is() -> None:
    cells = np.arange(5 * 2 * 3).reshape(5, 2, 3)
    sheet = mosaic(cells, columns=2, between=-1)
    assert sheet.shape == (8, 7)
    assert (sheet[3:5, 4:7] == cells[3]).all() and (sheet[6:8, 4:] == -1).all() and (sheet[2] == -1).all()


# --- the command


@pytest.fixture
def run(cnntrain: Call, tiny: tuple[str, ...]) -> str:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    return "run=run"


def test_what_was_learned_is_shown_without_a_class(cnntrain: Call, run: str, folder: Path) -> None:
    words = ["explain", run, "images=2", "search=20", "stages=[conv2]", "units=2", "tensorboard=false"]
    found = cnntrain(*words, "what=[filters,maps,deconvnet]", "figures=false")
    assert [row["layer"] for row in found["rows"]["filters"]] == ["conv2.conv"]
    assert all(0 <= row["zero"] <= 1 for row in found["rows"]["maps"])
    assert all(row["n"] == 20 and row["sees"] == "14×14" for row in found["rows"]["deconvnet"])
    assert cnntrain(*words, "what=patches", "output_dir=out")["pictures"] == ["out/figures/patches_conv2.png"]
    assert (folder / "out/figures/patches_conv2.png").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["what=attention"], "model.attention=true"),
        (["what=patches", "stages=[conv9]"], "conv"),
        (["what=patches", "units=[500]"], "0 to"),
        (["what=filters", "stages=[pool1]"], "conv1"),
    ],
)
def test_what_a_network_does_not_have_is_named(words: list[str], said: str, run: str, refused: Call) -> None:
    assert said in refused("explain", run, *words, "images=1", "search=10")
