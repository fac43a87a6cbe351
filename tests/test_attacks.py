"""Adversarial change: ordered by construction, within its budget to the last bit, an image's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnntrain.cli.main import main
from cnntrain.runtime.errors import InputError
from cnntrain.transforms.attacks import BUDGETS as DEFAULT_BUDGETS
from cnntrain.transforms.attacks import RANGE, Norm, fgsm, gradient, pgd, projected
from cnntrain.transforms.families import TRANSFORMS

SHAPE = (1, 6, 6)
BUDGETS = [0, 0.02, 0.03, 0.05, 0.07, 0.1]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 4)).requires_grad_(False)


@pytest.fixture
def logits(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda pixels: net(pixels / RANGE * 4 - 2)


@pytest.fixture
def images() -> Tensor:
    pixels = torch.randint(0, 256, (40, *SHAPE), generator=torch.Generator().manual_seed(1)).float()
    pixels[0], pixels[1] = 0, RANGE
    return pixels


def points(transform: Any, logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    return torch.stack(list(transform.against(logits)(images, labels, np.arange(len(images)))))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("target", [None, 2, "least_likely"])
def test_accuracy_falls_from_clean_to_fgsm_to_pgd_and_with_the_budget(
    norm: str, target: Any, logits: Callable[[Tensor], Tensor], images: Tensor
) -> None:
    budgets = BUDGETS if norm == "linf" else [5 * budget for budget in BUDGETS]
    predicted = logits(images).argmax(1)
    labels = torch.where(torch.arange(40) < 30, predicted, (predicted + 1) % 4)  # ten are wrong unchanged
    right = {}
    for name, options in (("fgsm", {}), ("pgd", {"steps": 3, "restarts": 2})):
        transform = TRANSFORMS[name](SHAPE, amounts=budgets, norm=norm, target=target, **options)
        x = points(transform, logits, images, labels)
        right[name] = torch.stack([logits(at).argmax(1) == labels for at in x])
        gap = (x.double() - images.double()).flatten(2)
        size = gap.abs().amax(2) if norm == "linf" else gap.norm(dim=2)
        for found, budget in zip(size, budgets, strict=True):
            assert (found <= budget * RANGE).all()
        assert x.min() >= 0 and x.max() <= RANGE and torch.equal(x[0], images)
        assert not (right[name][1:] & ~right[name][:-1]).any()  # image by image
    assert torch.equal(right["fgsm"][0], predicted == labels)
    assert not (right["pgd"] & ~right["fgsm"]).any()
    assert right["fgsm"][0].sum() == 30 > right["pgd"][-1].sum()


def test_the_gradient_and_fgsms_point_are_autograds(
    logits: Callable[[Tensor], Tensor], images: Tensor, net: nn.Module
) -> None:
    labels = logits(images).argmax(1)
    x = images.clone().requires_grad_()
    nn.functional.cross_entropy(logits(x), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and torch.allclose(gradient(logits, images, labels, None), x.grad)
    found = points(fgsm(SHAPE, amounts=[0.1]), logits, images, labels)[0]
    expected = (images + 25.5 * x.grad.sign()).clamp(0, RANGE)
    moved = found != images
    assert moved.any() and torch.allclose(found[moved], expected[moved], atol=1e-4)


def test_a_target_is_what_images_are_taken_for(logits: Callable[[Tensor], Tensor], images: Tensor) -> None:
    labels = logits(images).argmax(1)
    x = points(pgd(SHAPE, amounts=[0.5], target=3, steps=20), logits, images, labels)[0]
    others = labels != 3
    assert (logits(x).argmax(1)[others] == 3).float().mean() > 0.9
    assert (logits(x).argmax(1)[~others] != 3).any()  # an image is never driven to its own class
    with pytest.raises(InputError, match="target=9"):
        points(pgd(SHAPE, target=9), logits, images, labels)


def test_random_starts_belong_to_their_image(logits: Callable[[Tensor], Tensor], images: Tensor) -> None:
    labels, transform = logits(images).argmax(1), pgd(SHAPE, amounts=[0.05], steps=2, restarts=3)
    together = points(transform, logits, images, labels)[0]
    part = next(transform.against(logits)(images[10:20], labels[10:20], np.arange(10, 20)))
    assert torch.allclose(part, together[10:20], atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_projection_is_within_the_budget_to_the_last_bit(norm: Norm) -> None:
    greys = torch.cat([torch.arange(256.0), torch.tensor([0.1, 33.3, 200.7, 254.9])]).view(-1, 1, 1, 1)
    budgets = [*DEFAULT_BUDGETS, 0.07, 0.013, 1 / 255, 4 / 255, 8 / 255, 0.3 - 1e-16, 1e-9, 1.0]
    budgets += np.random.default_rng(0).random(50).tolist()
    for budget in budgets:
        for far in (-1e3, -0.4, 1e-4, 1e3):
            x = projected(greys + far, greys, budget, norm)
            gap = (x.double() - greys.double()).abs()
            wanted = (greys.double() + far - greys.double()).abs().clamp(max=budget * RANGE)
            wanted = torch.minimum(wanted, greys.double() if far < 0 else RANGE - greys.double())
            assert gap.max() <= budget * RANGE and x.min() >= 0 and x.max() <= RANGE
            assert (wanted - gap).max() < 1e-4  # and no smaller than it has to be


@pytest.mark.parametrize("budget", [0.001, 0.03, 0.5, 2.0])
def test_an_image_is_within_its_budget_in_l2_however_its_pixels_are_summed(budget: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(20, 3, 32, 32, generator=generator) * RANGE
    x = projected(clean + 50 * torch.randn(clean.shape, generator=generator), clean, budget, norm="l2")
    gap = (x.double() - clean.double()).flatten(1)
    size = torch.stack([gap.norm(dim=1), gap.square().sum(1).sqrt(), gap.flip(1).square().cumsum(1)[:, -1].sqrt()])
    assert (size <= budget * RANGE).all() and (size > 0.9 * budget * RANGE).all()


@pytest.mark.parametrize("amounts", [[], [-0.1], [1.5]])
def test_budgets_without_sense_are_refused(amounts: list[float]) -> None:
    with pytest.raises(InputError, match=r"warp.pgd.amounts"):
        pgd(SHAPE, amounts=amounts)


def test_attacks_stand_in_the_same_rows_and_are_pictured(
    cnntrain: Callable[..., dict[str, Any]], folder: Path, tiny: tuple[str, ...]
) -> None:
    assert main(["fit", *tiny, "model=mlp", "output_dir=run"]) == 0
    words = ("run=run", "images=30", "tensorboard=false")
    found = {
        name: cnntrain(
            "invariance", f"warp={name}", f"warp.{name}.amounts=[0,0.3]", *words, f"output_dir={name}", *more
        )
        for name, more in (("fgsm", ("figures=false",)), ("pgd", ("output_dir=pgd",)))
    }
    top1 = {name: [row["top1"] for row in rows["rows"] if row["stage"] == "input"] for name, rows in found.items()}
    assert top1["fgsm"][0] == top1["pgd"][0] >= top1["fgsm"][1] >= top1["pgd"][1] and top1["pgd"][1] < top1["pgd"][0]
    assert found["pgd"]["rows"][0]["distance"] == 0 < found["pgd"]["rows"][-1]["distance"]
    assert (folder / "pgd" / "figures" / "pgd_images.png").is_file()
