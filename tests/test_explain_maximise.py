"""`cnntrain explain what=maximise`: ascents whose end is known, regularisers against scipy, and starts that answer."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cnntrain.studies.explain import maximise
from cnntrain.studies.explain.maximise import ascend_naturally, ascend_with_care, blurred, careful, rate_of, restarted
from cnntrain.studies.explain.options import MaximiseOptions

Call = Callable[..., dict[str, Any]]
BARE = MaximiseOptions("unit", "yosinski", 3, None, 0.0, 0.0, 1, 0.0, 0.0)


def drawn(shape: tuple[int, ...] = (3, 2, 8, 9), seed: int = 0) -> Callable[[], Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=rng)


WEIGHT = drawn((2, 8, 9), seed=1)()


def linear(offsets: Tensor) -> Tensor:
    return (offsets * WEIGHT).sum(dim=(1, 2, 3))


def done(steps: int) -> None:
    pass


def test_without_care_a_linear_unit_ends_at_black_and_white() -> None:
    ends = torch.tensor(-100.0), torch.tensor(155.0)
    most = float((WEIGHT.clamp(min=0) * 155 + WEIGHT.clamp(max=0) * -100).sum())
    made = ascend_with_care(linear, drawn(), ends, most, BARE, 300, done)
    assert linear(made).min() > 0.98 * most and made.max() <= 155 and made.min() >= -100


def test_a_step_raises_a_linear_unit_by_a_tenth_of_the_best_real_activation() -> None:
    ends = torch.tensor(-1e6), torch.tensor(1e6)
    one, two = (ascend_with_care(linear, drawn(), ends, 50.0, BARE, steps, done) for steps in (1, 2))
    torch.testing.assert_close(linear(two) - linear(one), torch.full((3,), 5.0), rtol=1e-3, atol=1e-3)


def test_care_is_decay_blur_and_the_smallest_pixels_at_the_mean() -> None:
    x, gradient = drawn()(), drawn(seed=2)()
    options = MaximiseOptions("unit", "yosinski", 3, None, 0.25, 0.0, 1, 0.5, 0.0)
    kept = careful(x, gradient, options, blur=True)
    norms = (0.75 * x).norm(dim=1)
    for i in range(3):
        large = torch.from_numpy(norms[i].numpy() > np.median(norms[i].numpy()))
        torch.testing.assert_close(kept[i], torch.where(large, 0.75 * x[i], torch.zeros(())))
        assert 0.4 < float((kept[i] == 0).all(dim=0).float().mean()) <= 0.5
    by_contribution = careful(x, gradient, MaximiseOptions("unit", "yosinski", 3, None, 0, 0, 1, 0, 0.9), blur=True)
    contribution = (x * gradient).sum(dim=1).abs()
    assert int((by_contribution != 0).any(dim=1)[0].sum()) == 8  # a tenth of 72, rounded up
    assert contribution[0][(by_contribution[0] != 0).any(dim=0)].min() >= contribution[0].quantile(0.9)


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5])
def test_the_blur_is_scipys(radius: float) -> None:
    x = drawn()()
    expected = gaussian_filter(x.double().numpy(), (0, 0, radius, radius), mode="mirror", truncate=4)
    np.testing.assert_allclose(blurred(x, radius), expected, atol=1e-5)


def test_unnaturalness_is_half_of_sixth_powers_and_squared_differences() -> None:
    x = 50 * drawn((1, 2, 4, 5))()
    total = 8e-10 * float((x.double() ** 6).sum())
    for c, i, j in product(range(2), range(4), range(5)):
        total += 10 * float(x[0, c, i + 1, j] - x[0, c, i, j]) ** 2 if i < 3 else 0
        total += 10 * float(x[0, c, i, j + 1] - x[0, c, i, j]) ** 2 if j < 4 else 0
    assert float(maximise.unnaturalness(x)[0]) == pytest.approx(total / 2, rel=1e-5)


def test_a_natural_ascent_ends_where_the_slopes_of_activation_and_resistance_are_equal() -> None:
    natural, strongest = 500.0, 400.0
    made = ascend_naturally(linear, drawn(), natural, strongest, 2100, done)
    leaf = made.clone().requires_grad_()
    (resistance,) = torch.autograd.grad(maximise.unnaturalness(leaf).sum(), leaf)
    pull = (natural**2 / strongest * WEIGHT).expand_as(resistance)
    assert float((resistance - pull).norm()) < 0.05 * float(pull.norm())
    assert [rate_of(step / 2100) for step in (0, 799, 800, 1300, 2000, 2099)] == [1e-3, 1e-3, 1e-4, 1e-5, 1e-7, 1e-7]


def test_only_images_that_a_unit_does_not_answer_to_start_anew_and_then_it_does() -> None:
    x, gradient = drawn()(), torch.zeros(3, 2, 8, 9)
    gradient[1, 0, 2, 3] = 1
    again = restarted(x, gradient, drawn())
    assert torch.equal(again[1], x[1]) and not torch.equal(again[0], x[0])
    assert float(again[[0, 2]].std()) == pytest.approx(60, rel=0.3)

    def rectified(offsets: Tensor) -> Tensor:
        return (linear(offsets) - 600).relu()  # more than noise of deviation 10 gives

    ends = torch.tensor(-100.0), torch.tensor(155.0)
    assert rectified(10 * drawn()()).max() == 0
    assert (rectified(ascend_with_care(rectified, drawn(), ends, 500.0, BARE, 100, done)) > 100).all()


def test_what_is_shown_is_what_was_measured(cnntrain: Call, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    words = ["explain", "run=run", "what=maximise", "images=1", "search=20", "tensorboard=false"]
    rows = cnntrain(*words, "classes=[grating3,grating5]", "maximise.steps=30", "maximise.starts=2")["rows"]["maximise"]
    assert [row["unit"] for row in rows] == ["grating3", "grating5"] and all(row["n"] == 20 for row in rows)
    assert all(row["least of the starts"] <= row["reached"] for row in rows)
    assert all(row["times"] == pytest.approx(row["reached"] / row["best real"]) for row in rows if row["times"])
    other = ["stages=[conv2]", "units=1", "maximise.of=map", "maximise.prior=mahendran_vedaldi", "maximise.steps=4"]
    assert cnntrain(*words, *other, "figures=false")["rows"]["maximise"][0]["sees"] == "all"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["classes=[grating33]"], "grating3"),
        (["classes=[grating3]", "units=2"], "units="),
        (["maximise.prior=yosinsky"], "yosinski"),
        (["maximise.starts=0"], "starts"),
    ],
)
def test_what_cannot_be_excited_is_refused(
    words: list[str], said: str, cnntrain: Call, refused: Call, tiny: tuple[str, ...]
) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "output_dir=run")
    assert said in refused("explain", "run=run", "what=maximise", "images=1", *words)
