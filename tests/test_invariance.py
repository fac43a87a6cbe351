"""How far features move: exact cases, independent oracles, bands that cover, images that stay apart."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.nn.composite import chain
from cnntrain.stats.intervals import wilson
from cnntrain.stats.jackknife import Support, band, blocks, means, seed_band
from cnntrain.studies.invariance import aliasing, crossings, measure
from cnntrain.studies.invariance.distance import distances
from cnntrain.studies.invariance.rows import (
    Curves,
    agreement_by_chance,
    area_rows,
    bands,
    class_rows,
    corrected_range,
    curves,
    difference_rows,
    invariance_rows,
    pooled,
)
from cnntrain.transforms.families import TRANSFORMS
from cnntrain.transforms.transform import Transform

INFO = DatasetInfo("drawn", ("a", "b", "c"), (1, 12, 12), (0.4,), (0.3,))
CPU = torch.device("cpu")


def drawn(count: int = 12, seed: int = 0, side: int = 12) -> Split:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (count, side, side, 1), dtype=np.uint8))
    return Split(Pixels(images), torch.from_numpy(np.arange(count) % 3))


def network(*stages: tuple[str, nn.Module], seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = chain(**dict(stages))
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return net


def convolutions(stride: int, pool: nn.Module, mode: str = "circular") -> nn.Sequential:
    return network(
        ("conv1", nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode=mode), nn.ReLU())),
        ("conv2", nn.Sequential(nn.Conv2d(4, 6, 3, stride, padding=1, padding_mode=mode), nn.ReLU())),
        ("pool", nn.Sequential(pool, nn.Flatten())),
        ("fc", nn.Linear(6, 3)),
    )


def follow(
    net: nn.Sequential, transform: Transform, split: Split, *, stages: Sequence[str] | None = None, batch: int = 5
) -> tuple[measure.MeasuredNetwork, measure.Clean, measure.Moved]:
    subject = measure.measured_network(net, INFO, stages=stages)
    batches = measure.in_batches(split, np.arange(len(split)), batch, CPU)
    moved = measure.moves(
        subject,
        batches,
        transform.against(subject.logits),
        transform.amounts,
        move=transform.move,
        crop=transform.margin,
    )
    return subject, measure.clean(subject, split, batch, transform), moved


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_the_neutral_amount_moves_no_feature_of_any_stage(name: str) -> None:
    transform = TRANSFORMS[name](INFO.shape)
    subject, clean, moved = follow(convolutions(2, nn.AdaptiveAvgPool2d(1), "zeros"), transform, drawn(7))
    at = transform.amounts.index(transform.neutral)
    assert subject.stages == ("input", "conv1", "conv2", "pool", "fc")
    assert not moved.euclidean[at].any() and not moved.cosine[at].any()
    assert np.array_equal(moved.predicted[at], clean.predicted) and np.array_equal(moved.p_first[at], clean.p_first)
    assert np.nan_to_num(moved.equivariance[at]).max() == 0
    assert (np.delete(moved.euclidean, at, 0)[:, 0].max(axis=1) > 0).all()  # the others do move the image


def test_circular_shifts_leave_a_globally_pooled_network_without_stride_where_it_is() -> None:
    transform = TRANSFORMS["translate_x"](INFO.shape, border="circular")
    split = drawn()
    _, clean, most = follow(convolutions(1, nn.AdaptiveMaxPool2d(1)), transform, split)
    assert not most.euclidean[:, 3:].any() and (most.predicted == clean.predicted).all()
    _, _, mean = follow(convolutions(1, nn.AdaptiveAvgPool2d(1)), transform, split)
    assert mean.euclidean[:, 3:].max() < 1e-6 < mean.euclidean[:, 1].max()
    _, _, strided = follow(convolutions(2, nn.AdaptiveMaxPool2d(1)), transform, split)
    by_amount = {amount[0]: strided.euclidean[a, 3] for a, amount in enumerate(transform.amounts)}
    assert not by_amount[2.0].any() and not by_amount[-4.0].any()  # multiples of the stride
    assert by_amount[1.0].min() > 1e-4 and by_amount[3.0].min() > 1e-4


def test_a_convolution_is_equivariant_away_from_the_border_up_to_its_stride() -> None:
    images = torch.zeros(6, 12, 12, 1, dtype=torch.uint8)
    images[:, 4:8, 4:8] = torch.from_numpy(np.random.default_rng(1).integers(1, 256, (6, 4, 4, 1), dtype=np.uint8))
    split = Split(Pixels(images), torch.arange(6) % 3)
    info = DatasetInfo("ink", INFO.classes, INFO.shape, (0.0,), (1.0,))  # black stays zero
    transform = TRANSFORMS["translate"](INFO.shape, amounts=[-2, -1, 0, 1, 2])
    for stride in (1, 2):
        net = network(
            ("conv", nn.Conv2d(1, 5, 3, stride, 1, bias=False)),
            ("fc", chain(f=nn.Flatten(), l=nn.Linear(5 * (12 // stride) ** 2, 3))),
        )
        subject = measure.measured_network(net, info)
        batches = measure.in_batches(split, np.arange(6), 6, CPU)
        moved = measure.moves(
            subject, batches, transform.against(subject.logits), transform.amounts, move=transform.move
        )
        errors = {amount: moved.equivariance[a, 1].max() for a, amount in enumerate(transform.amounts)}
        whole = {amount: error for amount, error in errors.items() if all(part % stride == 0 for part in amount)}
        assert max(whole.values()) < 1e-6
        assert len(whole) == (25 if stride == 1 else 9)
        assert all(error > 1e-2 for amount, error in errors.items() if amount not in whole)
        assert moved.euclidean[0, 1].min() > 0.1  # the map does move


def test_a_quarter_turn_of_the_image_turns_what_a_symmetric_kernel_sees() -> None:
    net = network(
        ("conv", nn.Conv2d(1, 2, 3, 1, 1)),
        ("pool", chain(p=nn.AdaptiveAvgPool2d(1), f=nn.Flatten())),
        ("fc", nn.Linear(2, 3)),
    )
    kernel = net.conv.weight.data
    kernel.copy_((kernel + kernel.rot90(1, (2, 3)) + kernel.rot90(2, (2, 3)) + kernel.rot90(3, (2, 3))) / 4)
    transform = TRANSFORMS["rotate"](INFO.shape, amounts=[-90, 90, 180, 45])
    _, _, moved = follow(net, transform, drawn(6))
    assert moved.equivariance[:3, 1].max() < 1e-5 < 1e-2 < moved.equivariance[3, 1].min()
    assert moved.euclidean[:3, 2].max() < 1e-5


def test_distances_are_what_numpy_says() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3, 2, 2)).astype(np.float32), rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
    far, angle = distances(torch.from_numpy(a), torch.from_numpy(b))
    one, two = a.reshape(4, -1), b.reshape(4, -1)
    assert np.allclose(far, np.linalg.norm(one - two, axis=1), rtol=1e-6)
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert np.allclose(angle, 1 - cosine, atol=1e-6)
    zero, other = torch.zeros(1, 3), torch.ones(1, 3)
    assert [float(distances(x, y)[1]) for x, y in ((zero, zero), (zero, other), (other, other))] == [0, 1, 0]


def test_curves_are_ratios_of_means_to_the_distance_of_fixed_partners() -> None:
    split, transform = drawn(15), TRANSFORMS["translate_y"](INFO.shape, amounts=[0, 2])
    net = convolutions(1, nn.AdaptiveAvgPool2d(1), "zeros")
    subject, clean, moved = follow(net, transform, split, stages=["input", "conv1"])
    found = curves("net", subject.stages, transform.amounts, clean, moved, None, blocks(15), 3)
    other, same = measure.partners(split.labels.numpy())
    labels = split.labels.numpy()
    assert (labels[other] != labels).all() and (labels[same] == labels).all() and (same != np.arange(15)).all()
    x = (split.source.read(np.arange(15)).permute(0, 3, 1, 2).float() / 255 - 0.4) / 0.3
    black = torch.full_like(x, -0.4 / 0.3)
    shifted = torch.cat([black[:, :, :2], x[:, :, :-2]], dim=2)
    with torch.no_grad():
        features, after = (torch.relu(net.conv1[0](batch)).flatten(1).numpy() for batch in (x, shifted))
        p = net(shifted).softmax(1).numpy()
    ratio = np.linalg.norm(features - after, axis=1).mean()
    assert found.values["distance"][0][1, 1] == pytest.approx(
        ratio / np.linalg.norm(features - features[other], axis=1).mean(), rel=1e-4
    )
    assert found.values["distance_same_class"][0][1, 1] == pytest.approx(
        ratio / np.linalg.norm(features - features[same], axis=1).mean(), rel=1e-4
    )
    assert found.values["p_true"][0][1] == pytest.approx(p[np.arange(15), labels].mean(), rel=1e-4)
    assert found.values["top1"][0][1] == pytest.approx((p.argmax(1) == labels).mean())
    line = invariance_rows("translate_y", found)[-1].as_json()
    assert (line["stage"], line["amount"], line["n"]) == ("conv1", 2.0, 15)
    assert line["distance_low"] <= line["distance"] <= line["distance_high"]


def made(
    predicted: np.ndarray, labels: np.ndarray, before: np.ndarray, name: str = "net"
) -> tuple[measure.Clean, measure.Moved]:
    """Return measurements of which only the predictions matter."""
    amounts, n = predicted.shape
    ones = np.ones((1, n), dtype=np.float32)
    clean = measure.Clean(labels, before, ones[0], ones[0], ones, ones, ones, np.full(n, -1))
    cube = np.ones((amounts, 1, n), dtype=np.float32)
    return clean, measure.Moved(cube, cube, cube, predicted * 1.0, predicted * 1.0, predicted)


def test_consistency_is_corrected_for_what_two_strangers_of_these_accuracies_would_share() -> None:
    rng = np.random.default_rng(0)
    n, classes = 40_000, 5
    labels = rng.integers(classes, size=n)

    def stranger(accuracy: float) -> np.ndarray:
        wrong = (labels + rng.integers(1, classes, size=n)) % classes
        return np.where(rng.random(n) < accuracy, labels, wrong)

    before = stranger(0.8)
    clean, moved = made(np.stack([stranger(0.6), before]), labels, before)
    found = curves("net", ("input",), [(1.0,), (0.0,)], clean, moved, None, blocks(n), classes).values
    assert found["consistency"][0][0] == pytest.approx(0.8 * 0.6 + 0.2 * 0.4 / 4, abs=0.01)
    assert abs(found["consistency_corrected"][0][0]) < 0.02 and found["consistency_corrected"][0][1] == 1
    assert found["consistency_right"][0][0] == pytest.approx(0.6, abs=0.01)
    assert found["flip_rate"][0][0] == pytest.approx(1 - found["consistency"][0][0])


# Bands.

Z = stats.norm.ppf(0.975)
TRIALS = [400, pytest.param(2000, marks=pytest.mark.slow)]


def held(low: np.ndarray, high: np.ndarray, true: float) -> float:
    return float(((low <= true + 1e-12) & (true - 1e-12 <= high)).mean())


def slack(trials: int) -> float:
    """Return by how much a simulated coverage of 0.93 may miss it, once in a thousand times."""
    return float(3.1 * (0.93 * 0.07 / trials) ** 0.5)


@pytest.mark.parametrize("n", [50, 400, 3000])
def test_means_without_a_block_are_means_of_the_others(n: int) -> None:
    rng = np.random.default_rng(n)
    values, parts = rng.normal(size=(2, 3, n)), blocks(n)
    values[1, 2, : n // 3] = np.nan
    found = means(parts, values)
    assert found.shape == (1 + min(n, 1000), 2, 3)
    assert found[0] == pytest.approx(np.nanmean(values, axis=-1))
    for block in (0, 7, min(n, 1000) - 1):
        assert found[1 + block] == pytest.approx(np.nanmean(values[..., parts != block], axis=-1))
    assert np.ptp(np.bincount(parts)) <= 1


@pytest.mark.parametrize(("right", "n"), [(0, 60), (60, 60), (100, 100), (97, 100), (1, 400), (200, 400), (1980, 2000)])
def test_the_band_of_a_share_is_agresti_and_coulls_interval(right: int, n: int) -> None:
    low, high = band(means(blocks(n), (np.arange(n) < right) * 1.0), Support(0.0, 1.0, n))
    middle = (right + Z**2 / 2) / (n + Z**2)
    half = Z * (middle * (1 - middle) / (n + Z**2)) ** 0.5
    assert [low, high] == pytest.approx(np.clip([middle - half, middle + half], 0, 1), abs=0.07 * half)
    if right in (0, n):
        wilsons = wilson(right, n)
        assert low <= wilsons[0] and high >= wilsons[1]


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("n", [50, 100, 500, 1000])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.98, 0.995])
def test_shares_are_covered_up_to_the_edge(accuracy: float, n: int, trials: int) -> None:
    right = np.random.default_rng(n).random((trials, n)) < accuracy
    coverage = held(*band(means(blocks(n), right), Support(0.0, 1.0, n)), accuracy)
    assert 0.93 - slack(trials) <= coverage <= (0.97 + slack(trials) if n * (1 - accuracy) >= 20 else 1)


def two_looks(rng: np.random.Generator, shape: tuple[int, ...], accuracy: float, stays: float) -> list[np.ndarray]:
    """Return predictions of ten classes, 0 being right, before and after a change that `stays` leave alone."""
    first, fresh = (np.where(rng.random(shape) < accuracy, 0, rng.integers(1, 10, shape)) for _ in range(2))
    return [first, np.where(rng.random(shape) < stays, first, fresh)]


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("stays", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("n", [50, 100, 500, 1000])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.98, 0.995])
def test_corrected_consistency_is_covered_up_to_the_edge(accuracy: float, n: int, stays: float, trials: int) -> None:
    first, then = two_looks(np.random.default_rng(n), (trials, n), accuracy, stays)
    before, after, agree = (means(blocks(n), values) for values in (first == 0, then == 0, first == then))
    chance = agreement_by_chance(before, after, 10)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (agree - chance) / (1 - chance)
    kept = corrected_range(before[0], after[0], np.full(trials, n), 10)
    low, high = band(found, kept)
    assert (low >= kept.low - 1e-12).all() and (high <= 1 + 1e-12).all()
    assert held(low, high, stays) >= 0.93 - slack(trials)
    if accuracy == 0.5 and n >= 500:
        assert held(low, high, stays) <= 0.97 + slack(trials)
    few = (first == 0).all(axis=1) & (then == 0).all(axis=1)  # no mistake: nothing is known
    assert (high[few] - low[few] >= 1).all()


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("n", [100, 300, 1000])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 1.5])
@pytest.mark.parametrize("ratio", [False, True])
def test_heavy_tailed_distances_are_covered(ratio: bool, sigma: float, n: int, trials: int) -> None:
    rng = np.random.default_rng(n)
    one, two = rng.normal(size=(2, trials, n))
    moved, other = np.exp(sigma * one), np.exp(sigma * (one + two) / 2**0.5)  # an image's own go together
    found = means(blocks(n), moved) / (means(blocks(n), other) if ratio else 1)
    coverage = held(*band(found), 1.0 if ratio else np.exp(sigma**2 / 2))
    assert 0.93 - slack(trials) <= coverage <= 0.975 + slack(trials)


def test_blocks_of_images_give_the_band_of_single_ones() -> None:
    values = np.random.default_rng(0).lognormal(0, 1, 4000)
    many, few = (np.array(band(means(blocks(4000, most), values))) - values.mean() for most in (4000, 1000))
    assert many == pytest.approx(few, rel=0.1)


def test_the_band_over_seeds_covers() -> None:
    drawn = np.random.default_rng(0).normal(1, 2, (5, 4000))
    assert held(*seed_band(list(drawn)), 1.0) == pytest.approx(0.95, abs=0.011)


@pytest.mark.parametrize("trials", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("accuracy", "n"), [(0.6, 300), (0.98, 100), (0.98, 1000)])
def test_areas_lags_and_differences_are_covered(accuracy: float, n: int, trials: int) -> None:
    rng, amounts, stay = np.random.default_rng(n), [(float(a),) for a in range(4)], [1.0, 0.9, 0.5, 0.2]
    transform, parts = TRANSFORMS["translate_y"](INFO.shape, amounts=range(4)), blocks(n)
    chance = accuracy**2 + (1 - accuracy) ** 2 / 9
    true = {"consistency": (0.5 + 0.9 + 0.5 + 0.1) / 3 * (1 - chance) + chance, "consistency_corrected": 2 / 3}
    true |= {"consistency_right": 2 / 3 * (1 - accuracy) + accuracy, "top1": accuracy}
    inside: dict[str, list[bool]] = {}
    for _ in range(trials):
        nets = []
        for name in "ab":
            before, fresh = two_looks(rng, (4, n), accuracy, 0.0)
            predicted = np.where(rng.random(n) < np.array(stay)[:, None], before[0], fresh)
            clean, moved = made(predicted, np.zeros(n, dtype=np.int64), before[0])
            nets.append(curves(name, ("input",), amounts, clean, moved, None, parts, 10))
        line = aliasing.lags(transform, "b", moved, parts, 2)[0]
        pairs = chance + (1 - chance) * np.mean(stay[1:])  # the less that stays, the more is drawn anew
        inside.setdefault("lag", []).append(line.consistency.low <= pairs <= line.consistency.high)
        for area in area_rows(transform, nets[0]):
            if area.curve in true:
                inside.setdefault(area.curve, []).append(area.area.low <= true[area.curve] <= area.area.high)
        for row in difference_rows(transform, [nets[:1], nets[1:]], ["a", "b"], [[0], [0]]):
            if row.curve in true:
                inside.setdefault(f"{row.curve} b - a", []).append(row.delta.low <= 0 <= row.delta.high)
    coverage = {key: np.mean(values) for key, values in inside.items()}
    assert len(coverage) == 9 and min(coverage.values()) >= 0.93 - slack(trials), coverage


def test_nothing_has_no_width_where_all_images_agree() -> None:
    n, amounts = 200, [(float(a),) for a in range(4)]
    transform, labels = TRANSFORMS["translate_y"](INFO.shape, amounts=range(4)), np.zeros(n, dtype=np.int64)
    clean, moved = made(np.zeros((4, n), dtype=np.int64), labels, labels)
    net = curves("net", ("input",), amounts, clean, moved, None, blocks(n), 2)
    least = wilson(n, n)[0]
    for key in ("top1", "consistency", "consistency_right"):
        low, high = bands(net)[key]
        assert (low <= least).all() and (high == 1).all()
    low, high = bands(net)["consistency_corrected"]
    assert (low == 0).all() and (high == 1).all()  # no mistake: nothing is known
    for area in area_rows(transform, net):
        if area.curve in ("top1", "consistency", "consistency_right"):
            assert area.area.low <= least and area.area.high == 1
    parts = blocks(n)
    for row in [
        *aliasing.lags(transform, "net", moved, parts, 2),
        *aliasing.phases(transform, "net", clean, moved, parts, 2),
    ]:
        assert row.consistency.low <= least and row.consistency.high == 1
    (excess,) = aliasing.aliasing(transform, "net", moved, parts, 2)
    assert excess.excess.low <= least - 1 and excess.excess.high >= 1 - least
    for difference in difference_rows(transform, [[net], [net]], ["a", "b"], [[0], [0]]):
        if difference.curve in ("top1", "consistency"):
            delta = difference.delta
            assert delta.value == 0 and delta.low <= least - 1 and delta.high >= 1 - least


def test_one_bad_image_spoils_neither_its_batch_nor_the_means() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1).amax(1).view(-1, 1, 1, 1) > 1.9, x * torch.nan, x)

    split, transform = drawn(9), TRANSFORMS["translate_y"](INFO.shape, amounts=[0, 1])
    split.source.images.clamp_(max=200)
    good = network(("conv", nn.Conv2d(1, 2, 3)), ("fc", chain(f=nn.Flatten(), l=nn.Linear(200, 3))))
    net = chain(picky=Picky(), conv=good.conv, fc=good.fc)
    _, _, well = follow(net, transform, split, batch=9)
    split.source.images[4, 6, 6] = 255
    subject, clean, moved = follow(net, transform, split, batch=9)
    others = np.delete(np.arange(9), 4)
    assert np.isnan(moved.euclidean[1, 1:, 4]).all()
    assert np.array_equal(moved.euclidean[..., others], well.euclidean[..., others])
    found = curves("net", subject.stages, transform.amounts, clean, moved, None, blocks(9), 3)
    assert found.n[1].tolist() == [9, 8, 8, 8]
    assert np.isfinite(found.values["euclidean"]).all()
    assert found.values["euclidean"][0][1, 2] == pytest.approx(well.euclidean[1, 2, others].mean())


def test_batches_of_any_size_give_the_same_rows_to_rounding() -> None:
    split, transform = drawn(11), TRANSFORMS["rotate"](INFO.shape)
    net = convolutions(2, nn.AdaptiveAvgPool2d(1))
    _, one, all_at_once = follow(net, transform, split, batch=11)
    _, two, in_parts = follow(net, transform, split, batch=3)
    for first, second in ((one.to_other, two.to_other), (all_at_once.euclidean, in_parts.euclidean)):
        assert np.allclose(first, second, rtol=1e-4, atol=1e-6)


def curve_of(name: str, shares: Sequence[float], n: int = 400) -> Curves:
    labels = np.zeros(n, dtype=np.int64)
    predicted = np.stack([(np.arange(n) >= share * n).astype(np.int64) for share in shares])
    clean, moved = made(predicted, labels, labels)
    return curves(name, ("input",), [(-1.0,), (0.0,), (3.0,)], clean, moved, None, blocks(n), 2)


def test_areas_differences_and_pools_are_means_of_what_they_join() -> None:
    transform = TRANSFORMS["translate_y"](INFO.shape, amounts=[-1, 0, 3])
    a, b, c = curve_of("a", (0.5, 1, 0.75)), curve_of("b", (0.7, 1, 0.95)), curve_of("c", (0.8, 1, 0.9))
    area = {row.curve: row.area.value for row in area_rows(transform, a)}
    assert area["consistency"] == pytest.approx((0.75 * 1 + 0.875 * 3) / 4)
    both = pooled("bc", [b, c])
    assert both.values["consistency"][0] == pytest.approx([0.75, 1, 0.925])
    rows = difference_rows(transform, [[a, a], [b, c]], ["a", "bc"], [[0, 1], [0, 1]])
    difference = next(row.as_json() for row in rows if row.curve == "consistency")
    expected = np.mean([(0.85 + 3 * 0.975) / 4, (0.9 + 3 * 0.95) / 4]) - area["consistency"]
    assert difference["delta"] == difference["seed_delta"] == pytest.approx(expected) and difference["n_seeds"] == 2
    assert difference["delta_low"] < expected < difference["delta_high"]
    line = invariance_rows("translate_y", both, [b, c])[0].as_json()
    assert line["consistency_seed_low"] < 0.75 < line["consistency_seed_high"]


def test_predictions_that_repeat_with_the_stride_show_as_aliasing() -> None:
    transform = TRANSFORMS["translate_y"](INFO.shape, amounts=list(range(-5, 6)))
    labels = np.zeros(30, dtype=np.int64)
    shifts = np.arange(-5, 6)[:, None]
    periodic = np.broadcast_to(shifts % 4, (11, 30)).copy()
    clean, moved = made(periodic, labels, labels)
    parts = blocks(30)
    found = {row.lag: row.consistency.value for row in aliasing.lags(transform, "net", moved, parts, 4)}
    assert found[4] == found[8] == 1 and found[1] == found[2] == found[3] == 0
    assert aliasing.aliasing(transform, "net", moved, parts, 4)[0].excess.value == 1
    assert aliasing.aliasing(transform, "net", moved, parts, 1) == []
    phases = aliasing.phases(transform, "net", clean, moved, parts, 4)
    kept = {row.phase[0]: row.consistency.value for row in phases}
    assert kept == {0: 1, 1: 0, 2: 0, 3: 0}
    assert class_rows(transform, "net", clean, moved, ("a", "b"))[0].consistency == pytest.approx(3 / 11)


def test_a_shifted_glyph_changes_as_many_pixels_to_white_as_to_black() -> None:
    glyph = torch.zeros(1, 1, 40, 40)
    for row in range(38):  # strokes of at least two pixels give two each way
        glyph[0, 0, row, 5 : 8 + row % 3] = 255
    glyph[0, 0, 38, 9] = 255
    transform = TRANSFORMS["translate_x"]((1, 40, 40), amounts=[-2, 0])
    left = crossings.crossings(glyph, transform.change(glyph, (-2.0,), np.arange(1)))
    assert [int(count) for count in left] == [77, 77]  # the lectures' 154
    rng = np.random.default_rng(0)
    ink = torch.zeros(50, 1, 12, 12)
    ink[:, :, 3:9, 3:9] = torch.from_numpy(255.0 * (rng.random((50, 1, 6, 6)) < 0.5)).float()
    shifts = TRANSFORMS["translate_y"](INFO.shape, amounts=[-3, -1, 0, 2, 5])
    counts = crossings.count_crossings(shifts, ink, np.arange(50))
    for amount, (whitened, blackened) in zip((-3, -1, 0, 2, 5), counts, strict=True):
        moved = torch.roll(ink, amount, 2)
        assert whitened.sum() == ((moved > 0) & (ink == 0)).sum() or amount == 5
        assert (whitened == blackened).all() == (amount < 5)  # at 5 ink leaves the frame
    table = {row.amount: row for row in crossings.pixel_rows(shifts, counts)}
    assert table[2.0].equal == 1 and table[5.0].equal < 1 and table[0.0].changed == 0
    assert crossings.counted_amounts(TRANSFORMS["rotate"](INFO.shape)) == []
