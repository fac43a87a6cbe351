"""How far features move: exact cases, independent oracles, bands that cover, images that stay apart."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnntrain.analysis import aliasing, crossings, invariance
from cnntrain.analysis.bands import band, means, resamples, seed_band, share_band
from cnntrain.analysis.displacement import distances
from cnntrain.analysis.invariance_rows import Curves, areas, curves, differences, pooled, rows, worst_classes
from cnntrain.data.families import WARPS
from cnntrain.data.sources import Card, Pixels, Split
from cnntrain.data.transformations import Warp
from cnntrain.models.blocks import chain

CARD = Card("drawn", ("a", "b", "c"), (1, 12, 12), (0.4,), (0.3,))
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
    net: nn.Sequential, warp: Warp, split: Split, *, stages: Sequence[str] | None = None, batch: int = 5
) -> tuple[invariance.Subject, invariance.Clean, invariance.Moved]:
    subject = invariance.subject(net, CARD, stages=stages)
    batches = invariance.in_batches(split, np.arange(len(split)), batch, CPU)
    moved = invariance.moves(
        subject, batches, warp.against(subject.logits), warp.amounts, move=warp.move, crop=warp.margin
    )
    return subject, invariance.clean(subject, split, batch, warp), moved


@pytest.mark.parametrize("name", list(WARPS))
def test_the_neutral_amount_moves_no_feature_of_any_stage(name: str) -> None:
    warp = WARPS[name](CARD.shape)
    subject, clean, moved = follow(convolutions(2, nn.AdaptiveAvgPool2d(1), "zeros"), warp, drawn(7))
    at = warp.amounts.index(warp.neutral)
    assert subject.stages == ("input", "conv1", "conv2", "pool", "fc")
    assert not moved.euclidean[at].any() and not moved.cosine[at].any()
    assert np.array_equal(moved.predicted[at], clean.predicted) and np.array_equal(moved.p_first[at], clean.p_first)
    assert np.nan_to_num(moved.equivariance[at]).max() == 0
    assert (np.delete(moved.euclidean, at, 0)[:, 0].max(axis=1) > 0).all()  # the others do move the image


def test_circular_shifts_leave_a_globally_pooled_network_without_stride_where_it_is() -> None:
    warp = WARPS["translate_x"](CARD.shape, border="circular")
    split = drawn()
    _, clean, most = follow(convolutions(1, nn.AdaptiveMaxPool2d(1)), warp, split)
    assert not most.euclidean[:, 3:].any() and (most.predicted == clean.predicted).all()
    _, _, mean = follow(convolutions(1, nn.AdaptiveAvgPool2d(1)), warp, split)
    assert mean.euclidean[:, 3:].max() < 1e-6 < mean.euclidean[:, 1].max()
    _, _, strided = follow(convolutions(2, nn.AdaptiveMaxPool2d(1)), warp, split)
    by_amount = {amount[0]: strided.euclidean[a, 3] for a, amount in enumerate(warp.amounts)}
    assert not by_amount[2.0].any() and not by_amount[-4.0].any()  # multiples of the stride
    assert by_amount[1.0].min() > 1e-4 and by_amount[3.0].min() > 1e-4


def test_a_convolution_is_equivariant_away_from_the_border_up_to_its_stride() -> None:
    images = torch.zeros(6, 12, 12, 1, dtype=torch.uint8)
    images[:, 4:8, 4:8] = torch.from_numpy(np.random.default_rng(1).integers(1, 256, (6, 4, 4, 1), dtype=np.uint8))
    split = Split(Pixels(images), torch.arange(6) % 3)
    card = Card("ink", CARD.classes, CARD.shape, (0.0,), (1.0,))  # black stays zero
    warp = WARPS["translate"](CARD.shape, amounts=[-2, -1, 0, 1, 2])
    for stride in (1, 2):
        net = network(
            ("conv", nn.Conv2d(1, 5, 3, stride, 1, bias=False)),
            ("fc", chain(f=nn.Flatten(), l=nn.Linear(5 * (12 // stride) ** 2, 3))),
        )
        subject = invariance.subject(net, card)
        batches = invariance.in_batches(split, np.arange(6), 6, CPU)
        moved = invariance.moves(subject, batches, warp.against(subject.logits), warp.amounts, move=warp.move)
        errors = {amount: moved.equivariance[a, 1].max() for a, amount in enumerate(warp.amounts)}
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
    warp = WARPS["rotate"](CARD.shape, amounts=[-90, 90, 180, 45])
    _, _, moved = follow(net, warp, drawn(6))
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
    split, warp = drawn(15), WARPS["translate_y"](CARD.shape, amounts=[0, 2])
    net = convolutions(1, nn.AdaptiveAvgPool2d(1), "zeros")
    subject, clean, moved = follow(net, warp, split, stages=["input", "conv1"])
    weights = resamples(15, 20)
    found = curves("net", subject.stages, warp.amounts, clean, moved, None, weights, 3)
    other, same = invariance.partners(split.labels.numpy())
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
    line = rows("translate_y", found)[-1]
    assert (line["stage"], line["amount"], line["n"]) == ("conv1", 2.0, 15)
    assert line["distance_low"] <= line["distance"] <= line["distance_high"]


def made(
    predicted: np.ndarray, labels: np.ndarray, before: np.ndarray, name: str = "net"
) -> tuple[invariance.Clean, invariance.Moved]:
    """Return measurements of which only the predictions matter."""
    amounts, n = predicted.shape
    ones = np.ones((1, n), dtype=np.float32)
    clean = invariance.Clean(labels, before, ones[0], ones[0], ones, ones, ones, np.full(n, -1))
    cube = np.ones((amounts, 1, n), dtype=np.float32)
    return clean, invariance.Moved(cube, cube, cube, predicted * 1.0, predicted * 1.0, predicted)


def test_consistency_is_corrected_for_what_two_strangers_of_these_accuracies_would_share() -> None:
    rng = np.random.default_rng(0)
    n, classes = 40_000, 5
    labels = rng.integers(classes, size=n)

    def stranger(accuracy: float) -> np.ndarray:
        wrong = (labels + rng.integers(1, classes, size=n)) % classes
        return np.where(rng.random(n) < accuracy, labels, wrong)

    before = stranger(0.8)
    clean, moved = made(np.stack([stranger(0.6), before]), labels, before)
    found = curves("net", ("input",), [(1.0,), (0.0,)], clean, moved, None, resamples(n, 2), classes).values
    assert found["consistency"][0][0] == pytest.approx(0.8 * 0.6 + 0.2 * 0.4 / 4, abs=0.01)
    assert abs(found["consistency_corrected"][0][0]) < 0.02 and found["consistency_corrected"][0][1] == 1
    assert found["consistency_right"][0][0] == pytest.approx(0.6, abs=0.01)
    assert found["flip_rate"][0][0] == pytest.approx(1 - found["consistency"][0][0])


def test_bands_cover_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits, trials, n = 0, 400, 80
    weights = resamples(n, 400)
    for _ in range(trials):  # a ratio of means over clusters: moved and partner distances of an image go together
        size = rng.lognormal(0, 0.4, n)
        low, high = band(
            means(weights, size * rng.uniform(0.2, 1.0, n)) / means(weights, size * rng.uniform(0.5, 1.5, n))
        )
        hits += bool(low <= 0.6 <= high)
    assert 0.915 <= hits / trials <= 0.98  # 0.95, and four standard errors of it
    inside = 0
    for _ in range(trials):
        low, high = seed_band([np.asarray(value) for value in rng.normal(1, 2, 5)])
        inside += bool(low <= 1 <= high)
    assert 0.905 <= inside / trials <= 0.99
    always = means(weights, np.ones((2, n)))
    low, high = share_band(always, np.array(n))
    assert high == pytest.approx([1, 1]) and low == pytest.approx([0.9542, 0.9542], abs=1e-3)  # Wilson's end
    assert band(always)[0] == pytest.approx([1, 1])


def test_one_bad_image_spoils_neither_its_batch_nor_the_means() -> None:
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x.flatten(1).amax(1).view(-1, 1, 1, 1) > 1.9, x * torch.nan, x)

    split, warp = drawn(9), WARPS["translate_y"](CARD.shape, amounts=[0, 1])
    split.source.images.clamp_(max=200)
    good = network(("conv", nn.Conv2d(1, 2, 3)), ("fc", chain(f=nn.Flatten(), l=nn.Linear(200, 3))))
    net = chain(picky=Picky(), conv=good.conv, fc=good.fc)
    _, _, well = follow(net, warp, split, batch=9)
    split.source.images[4, 6, 6] = 255
    subject, clean, moved = follow(net, warp, split, batch=9)
    others = np.delete(np.arange(9), 4)
    assert np.isnan(moved.euclidean[1, 1:, 4]).all()
    assert np.array_equal(moved.euclidean[..., others], well.euclidean[..., others])
    found = curves("net", subject.stages, warp.amounts, clean, moved, None, resamples(9, 10), 3)
    assert found.n[1].tolist() == [9, 8, 8, 8]
    assert np.isfinite(found.values["euclidean"]).all()
    assert found.values["euclidean"][0][1, 2] == pytest.approx(well.euclidean[1, 2, others].mean())


def test_batches_of_any_size_give_the_same_rows_to_rounding() -> None:
    split, warp = drawn(11), WARPS["rotate"](CARD.shape)
    net = convolutions(2, nn.AdaptiveAvgPool2d(1))
    _, one, all_at_once = follow(net, warp, split, batch=11)
    _, two, in_parts = follow(net, warp, split, batch=3)
    for first, second in ((one.to_other, two.to_other), (all_at_once.euclidean, in_parts.euclidean)):
        assert np.allclose(first, second, rtol=1e-4, atol=1e-6)


def curve_of(name: str, shares: Sequence[float], n: int = 400) -> Curves:
    weights = resamples(n, 50)
    labels = np.zeros(n, dtype=np.int64)
    predicted = np.stack([(np.arange(n) >= share * n).astype(np.int64) for share in shares])
    clean, moved = made(predicted, labels, labels)
    return curves(name, ("input",), [(-1.0,), (0.0,), (3.0,)], clean, moved, None, weights, 2)


def test_areas_differences_and_pools_are_means_of_what_they_join() -> None:
    warp = WARPS["translate_y"](CARD.shape, amounts=[-1, 0, 3])
    a, b, c = curve_of("a", (0.5, 1, 0.75)), curve_of("b", (0.7, 1, 0.95)), curve_of("c", (0.8, 1, 0.9))
    area = {row["curve"]: row["area"] for row in areas(warp, a)}
    assert area["consistency"] == pytest.approx((0.75 * 1 + 0.875 * 3) / 4)
    both = pooled("bc", [b, c])
    assert both.values["consistency"][0] == pytest.approx([0.75, 1, 0.925])
    found = {row["curve"]: row for row in differences(warp, [[a, a], [b, c]], ["a", "bc"], [[0, 1], [0, 1]])}
    expected = np.mean([(0.85 + 3 * 0.975) / 4, (0.9 + 3 * 0.95) / 4]) - area["consistency"]
    assert found["consistency"]["delta"] == pytest.approx(expected) and found["consistency"]["n_seeds"] == 2
    assert found["consistency"]["seed_delta"] == pytest.approx(expected)
    assert found["consistency"]["delta_low"] < expected < found["consistency"]["delta_high"]
    line = rows("translate_y", both, [b, c])[0]
    assert line["consistency_seed_low"] < 0.75 < line["consistency_seed_high"]


def test_predictions_that_repeat_with_the_stride_show_as_aliasing() -> None:
    warp = WARPS["translate_y"](CARD.shape, amounts=list(range(-5, 6)))
    labels = np.zeros(30, dtype=np.int64)
    shifts = np.arange(-5, 6)[:, None]
    periodic = np.broadcast_to(shifts % 4, (11, 30)).copy()
    clean, moved = made(periodic, labels, labels)
    weights = resamples(30, 20)
    found = {row["lag"]: row["consistency"] for row in aliasing.lags(warp, "net", moved, weights, 4)}
    assert found[4] == found[8] == 1 and found[1] == found[2] == found[3] == 0
    assert aliasing.aliasing(warp, "net", moved, weights, 4)[0]["excess"] == 1
    assert aliasing.aliasing(warp, "net", moved, weights, 1) == []
    kept = {row["phase"][0]: row["consistency"] for row in aliasing.phases(warp, "net", clean, moved, weights, 4)}
    assert kept == {0: 1, 1: 0, 2: 0, 3: 0}
    assert worst_classes(warp, "net", clean, moved, ("a", "b"))[0]["consistency"] == pytest.approx(3 / 11)


def test_a_shifted_glyph_changes_as_many_pixels_to_white_as_to_black() -> None:
    glyph = torch.zeros(1, 1, 40, 40)
    for row in range(38):  # strokes of at least two pixels give two each way
        glyph[0, 0, row, 5 : 8 + row % 3] = 255
    glyph[0, 0, 38, 9] = 255
    warp = WARPS["translate_x"]((1, 40, 40), amounts=[-2, 0])
    left = crossings.crossings(glyph, warp.change(glyph, (-2.0,), np.arange(1)))
    assert [int(count) for count in left] == [77, 77]  # the lectures' 154
    rng = np.random.default_rng(0)
    ink = torch.zeros(50, 1, 12, 12)
    ink[:, :, 3:9, 3:9] = torch.from_numpy(255.0 * (rng.random((50, 1, 6, 6)) < 0.5)).float()
    shifts = WARPS["translate_y"](CARD.shape, amounts=[-3, -1, 0, 2, 5])
    counts = crossings.count(shifts, ink, np.arange(50))
    for amount, (whitened, blackened) in zip((-3, -1, 0, 2, 5), counts, strict=True):
        moved = torch.roll(ink, amount, 2)
        assert whitened.sum() == ((moved > 0) & (ink == 0)).sum() or amount == 5
        assert (whitened == blackened).all() == (amount < 5)  # at 5 ink leaves the frame
    table = {row["amount"]: row for row in crossings.rows(shifts, counts)}
    assert table[2.0]["equal"] == 1 and table[5.0]["equal"] < 1 and table[0.0]["changed"] == 0
    assert crossings.counted(WARPS["rotate"](CARD.shape)) == []
