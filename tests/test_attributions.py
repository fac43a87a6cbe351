"""Maps that say what decides, against arithmetic, captum, and a square that is known to decide."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import create_model
from omegaconf import OmegaConf
from torch import Tensor, nn

from cnntrain.config.read import read_config
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.runtime.errors import InputError
from cnntrain.studies.explain.attribution import AttributionMaps
from cnntrain.studies.explain.cam import class_cells
from cnntrain.studies.explain.gradcam import weighted_cells
from cnntrain.studies.explain.integrated import integrated_gradients
from cnntrain.studies.explain.localisation import Boxes, points_inside
from cnntrain.studies.explain.occlusion import occluded, patches
from cnntrain.studies.explain.options import Explain
from cnntrain.studies.explain.question import Subject, Targets
from cnntrain.studies.explain.registry import ATTRIBUTIONS
from cnntrain.studies.explain.tiles import scale_of

ANYWHERE = [name for name in ATTRIBUTIONS if name != "attention"]  # that needs a stage of its own


def stages(**parts: nn.Module) -> nn.Sequential:
    """A network of named stages with weights from a fixed seed."""
    net = nn.Sequential(OrderedDict(parts)).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=rng) / tensor[0].numel() ** 0.5)
    return net


def pooled_net() -> nn.Sequential:
    return stages(
        conv1=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
        conv2=nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        fc=nn.Linear(8, 4),
    )


def flat_net() -> nn.Sequential:
    return stages(
        conv1=nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
        pool=nn.MaxPool2d(2),
        fc=nn.Sequential(nn.Flatten(), nn.Linear(6 * 36, 4)),
    )


def subject_of(net: nn.Sequential, side: int = 12) -> Subject:
    info = DatasetInfo("made", ("a", "b", "c", "d"), (3, side, side), (0.5,) * 3, (0.25,) * 3)
    return Subject(Path(), net, info, {}, torch.device("cpu"))


def images(count: int = 3, side: int = 12) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def targets_of(count: int, quantity: Any = "logit") -> Targets:
    return Targets(torch.arange(count) % 4, quantity)


def test_a_class_activation_map_is_the_logit_in_parts() -> None:
    subject, x, targets = subject_of(pooled_net()), images(), targets_of(3)
    cells, bias, logits = class_cells(subject, x, targets)
    features = subject.net[:2](x)
    weight: Tensor = subject.net.fc.weight  # type: ignore[union-attr, assignment]
    assert torch.allclose(cells, torch.einsum("nc,ncij->nij", weight[targets.classes], features), atol=1e-5)
    assert torch.allclose(cells.mean(dim=(1, 2)) + bias, subject.net(x)[range(3), targets.classes], atol=1e-6)
    assert torch.equal(logits, subject.net(x)[range(3), targets.classes])


def test_a_network_without_global_pooling_has_no_class_activation_map() -> None:
    with pytest.raises(InputError, match="gradcam"):
        class_cells(subject_of(flat_net()), images(), targets_of(3))


def test_patches_cover_every_pixel_and_end_at_the_border() -> None:
    covered = np.zeros((11, 7), dtype=int)
    for window in patches((11, 7), 4, 3):
        covered[window] += 1
    assert covered.min() >= 1 and covered[0, 0] == 1 and covered[3, 3] == 4


def test_occlusion_is_the_mean_fall_over_the_patches_that_cover_a_pixel() -> None:
    subject, x, target = subject_of(flat_net()), images(1), targets_of(1)
    grey = torch.full_like(x[0], 0.3)
    values = occluded(subject, x[0], target, grey, patches((12, 12), 5, 3), batch_size=4)
    row, column, falls = 6, 4, []
    for top in (0, 3, 6, 9):
        for left in (0, 3, 6, 9):
            if top <= row < top + 5 and left <= column < left + 5:
                covered = x.clone()
                covered[:, :, top : top + 5, left : left + 5] = 0.3
                falls.append(float((subject.net(x) - subject.net(covered)).detach()[0, 0]))
    assert len(falls) == 4 and float(values[row, column]) == pytest.approx(np.mean(falls), abs=1e-5)


def test_occlusion_agrees_with_captum() -> None:
    captum = pytest.importorskip("captum.attr")
    subject, x, target = subject_of(flat_net()), images(2), targets_of(2)
    theirs = captum.Occlusion(subject.net).attribute(
        x, (3, 5, 5), strides=(3, 3, 3), baselines=0.3, target=target.classes
    )
    grey = torch.full_like(x[0], 0.3)
    for i in range(2):
        ours = occluded(subject, x[i], target.take(slice(i, i + 1)), grey, patches((12, 12), 5, 3), batch_size=7)
        assert torch.allclose(ours, theirs[i, 0], atol=1e-5)


def options_of(**changes: Any) -> Explain:
    """What `conf/explain.yaml` says, changed."""
    written = OmegaConf.load(Path(__file__).parents[1] / "conf/explain.yaml")
    values = {key: value for key, value in OmegaConf.to_container(written).items() if key != "defaults"}  # type: ignore[union-attr]
    return read_config(Explain, values | {"run": "none", "what": "cam"} | changes)


def maps_of(name: str, net: nn.Sequential, x: Tensor, quantity: Any = "logit", **changes: Any) -> AttributionMaps:
    subject, targets = subject_of(net, x.shape[-1]), targets_of(len(x), quantity)
    return ATTRIBUTIONS[name].maps(subject, x, targets, options_of(**changes))


def test_gradcam_agrees_with_captum() -> None:
    captum = pytest.importorskip("captum.attr")
    net, x = flat_net(), images()
    theirs = captum.LayerGradCam(net, net.pool).attribute(x, target=targets_of(3).classes)
    assert torch.allclose(weighted_cells(subject_of(net), x, targets_of(3), "pool"), theirs[:, 0], atol=1e-5)


def test_gradcam_of_a_network_with_global_pooling_is_its_class_activation_map() -> None:
    subject, x, targets = subject_of(pooled_net()), images(), targets_of(3)
    cells, _, _ = class_cells(subject, x, targets)
    assert torch.allclose(weighted_cells(subject, x, targets, "conv2") * cells[0].numel(), cells, atol=1e-5)


def test_gradcam_leaves_maps_alone_that_the_next_stage_overwrites() -> None:
    net = stages(
        conv1=nn.Conv2d(3, 6, 3),
        conv2=nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    x, targets = images(), targets_of(3)
    before = net.conv1(x)
    values = weighted_cells(subject_of(net), x, targets, "conv1")
    slopes = torch.autograd.functional.jacobian(lambda maps: targets.of(net.conv2(maps.clone())).sum(), before)
    assert torch.allclose(values, (slopes.mean(dim=(2, 3), keepdim=True) * before).sum(dim=1), atol=1e-6)


@pytest.mark.parametrize("quantity", ["logit", "probability"])
def test_integrated_gradients_are_complete_and_agree_with_captum(quantity: Any) -> None:
    captum = pytest.importorskip("captum.attr")
    net, x, targets = flat_net(), images(), targets_of(3, quantity)
    baseline = torch.full((3, 12, 12), 0.2)
    explained = net if quantity == "logit" else nn.Sequential(net, nn.Softmax(dim=1))
    theirs = captum.IntegratedGradients(explained).attribute(
        x, baseline.expand_as(x), targets.classes, n_steps=40, method="gausslegendre"
    )
    ours = integrated_gradients(subject_of(net), x, baseline, targets, 40)
    assert torch.allclose(ours, theirs.float(), atol=1e-5)


def test_the_parts_of_integrated_gradients_sum_to_the_difference_up_to_the_error_that_is_printed() -> None:
    net, x = flat_net(), images()
    maps = maps_of("integrated", net, x, integrated={"steps": 300, "fill": None})
    difference = targets_of(3).of(net(x) - net(torch.zeros_like(x))).detach()
    assert torch.allclose(maps.values.sum(dim=(1, 2)), difference, atol=1e-3)
    assert torch.allclose(torch.tensor(maps.columns["difference to grey"]), difference, atol=1e-6)
    errors = torch.tensor(maps.columns["sum - difference"])
    assert torch.allclose(errors, maps.values.sum(dim=(1, 2)) - difference, atol=1e-5)
    coarse = maps_of("integrated", net, x, integrated={"steps": 1, "fill": None})
    assert torch.tensor(coarse.columns["sum - difference"]).abs().max() > 10 * errors.abs().max()


def test_smoothgrad_is_the_gradient_where_nothing_bends_and_its_noise_is_the_images_own() -> None:
    straight, x = stages(fc=nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 4))), images()
    assert torch.allclose(maps_of("smoothgrad", straight, x).values, maps_of("saliency", straight, x).values, atol=1e-6)
    net, few = flat_net(), {"samples": 3, "noise": 0.2}
    together = maps_of("smoothgrad", net, x, smoothgrad=few).values
    assert torch.allclose(together[:1], maps_of("smoothgrad", net, x[:1], smoothgrad=few).values, atol=1e-6)
    assert not torch.allclose(together, maps_of("saliency", net, x).values, atol=1e-3)
    assert not torch.allclose(together, maps_of("smoothgrad", net, x, smoothgrad=few, seed=1).values, atol=1e-3)


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize("level", [0.0, 1.5])
def test_constant_images_have_finite_maps(name: str, level: float) -> None:
    maps = maps_of(name, pooled_net(), torch.full((2, 3, 12, 12), level)).values
    assert maps.shape == (2, 12, 12) and maps.isfinite().all()
    if name == "integrated" and level == 0:
        assert not maps.any()
    scale_of(maps.numpy(), "x", signed=ATTRIBUTIONS[name].signed)


@pytest.mark.parametrize("name", ANYWHERE)
def test_a_network_is_after_its_explanation_what_it_was(name: str) -> None:
    net, x = pooled_net(), images()
    before, state = net(x), {key: value.clone() for key, value in net.state_dict().items()}
    maps_of(name, net, x)
    assert torch.equal(net(x), before) and not net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(not module._forward_hooks and not module._backward_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("name", ["saliency", "integrated", "smoothgrad", "occlusion"])
def test_networks_of_numbers_alone_are_explained_by_methods_that_need_no_maps(name: str) -> None:
    net = stages(fc1=nn.Sequential(nn.Flatten(), nn.Linear(432, 5), nn.Tanh()), fc2=nn.Linear(5, 4))
    assert maps_of(name, net, images()).values.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "stages_asked", "said"),
    [("gradcam", ["fc"], "pool"), ("gradcam", ["conv1", "pool"], "one stage"), ("gradcam", ["conv"], "conv1")],
)
def test_gradcam_names_the_stages_that_it_can_take(name: str, stages_asked: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        maps_of(name, flat_net(), images(), stages=stages_asked)


@pytest.mark.parametrize("name", ["cam", "gradcam"])
def test_methods_of_maps_name_another_where_there_are_none(name: str) -> None:
    net = stages(fc1=nn.Sequential(nn.Flatten(), nn.Linear(432, 5)), fc2=nn.Linear(5, 4))
    with pytest.raises(InputError, match="what=saliency"):
        maps_of(name, net, images())


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])  # a ReLU that is used twice; ReLU6 in place
def test_torchvisions_networks_are_explained_like_our_own(arch: str) -> None:
    net, x = create_model("torchvision", (3, 64, 64), 4, arch=arch).eval(), images(2, 64)
    subject, targets = subject_of(net, 64), targets_of(2)
    cells, bias, _ = class_cells(subject, x, targets)
    logits = targets.of(net(x)).detach()
    assert torch.allclose(cells.mean(dim=(1, 2)) + bias, logits, rtol=1e-3, atol=1e-6 * float(logits.abs().max()))
    for name in ("gradcam", "guided"):
        maps = maps_of(name, net, x).values
        assert maps.isfinite().all() and maps.any()


def test_networks_of_one_stage_and_other_units_name_what_works() -> None:
    pytest.importorskip("timm")
    net, x = create_model("timm", (3, 32, 32), 4, arch="test_vit2").eval(), images(1, 32)
    for name, said in (("cam", "what=saliency"), ("gradcam", "what=saliency"), ("guided", "GELU.*what=saliency")):
        with pytest.raises(InputError, match=said):
            maps_of(name, net, x)
    assert maps_of("saliency", net, x).values.any() and maps_of("occlusion", net, x).values.any()


# --- a square that decides


def relation_net() -> nn.Sequential:
    """Four classes: somewhere 5×5 pixels of ±1 have red = green, red = -green, green = blue, or green = -blue."""
    return stages(
        conv1=nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()),
        conv2=nn.Sequential(nn.Conv2d(8, 4, 5), nn.ReLU()),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        fc=nn.Linear(4, 4),
    )


def deciding_net() -> nn.Sequential:
    """The weights that do so: two units of a pixel say that a relation holds, one of 5×5 that it holds in all."""
    net = relation_net()
    (first, _), (second, _), _, last = net.children()  # type: ignore[misc, union-attr]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        for relation in range(4):
            one, other = (0, 1) if relation < 2 else (1, 2)
            for unit, sign in ((2 * relation, 1), (2 * relation + 1, -1)):
                first.weight[unit, one], first.weight[unit, other] = sign, sign * (1 if relation % 2 == 0 else -1)
                first.bias[unit] = -1
                second.weight[relation, unit] = 1
            second.bias[relation] = -24
            last.weight[relation, relation] = 100
    return net


def planted(count: int, side: int = 24, square: int = 8) -> tuple[Tensor, list[np.ndarray]]:
    """Images of pixels ±1, drawn, in which a square somewhere has one of four relations; and its box."""
    rng = torch.Generator().manual_seed(0)
    x, boxes = torch.randint(0, 2, (count, 3, side, side), generator=rng) * 2.0 - 1, []
    for i in range(count):
        top, left = torch.randint(0, side - square + 1, (2,), generator=rng).tolist()
        inside, relation = x[i, :, top : top + square, left : left + square], i % 4
        one, other = (0, 1) if relation < 2 else (1, 2)
        inside[other] = inside[one] * (1 if relation % 2 == 0 else -1)
        boxes.append(np.array([[left, top, left + square, top + square]], dtype=float))
    return x, boxes


@pytest.mark.parametrize("name", ANYWHERE)
def test_a_square_that_decides_is_found_and_by_no_method_where_weights_are_random(name: str) -> None:
    x, boxes = planted(12)
    options = {"occlusion": {"patch": 4, "stride": 1, "fill": None}, "smoothgrad": {"samples": 20, "noise": 0.15}}
    assert torch.equal(deciding_net()(x).argmax(dim=1), targets_of(12).classes)
    shares = []
    for net in (deciding_net(), relation_net()):
        values = maps_of(name, net, x, **options).values.detach().numpy()
        shares.append(np.mean([points_inside(each, Boxes(box)) for each, box in zip(values, boxes, strict=True)]))
    assert shares[0] == 1
    assert shares[1] <= 0.5  # a point that is drawn lies there in 12 %, and nearly there in 15 %
