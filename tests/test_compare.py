"""Comparisons: the statistics against scipy and by simulation, and the command on runs whose difference is known."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cnntrain.cli.main import main
from cnntrain.stats.paired_tests import (
    DiscordantPairs,
    compare_over_images,
    compare_over_seeds,
    conclude,
    discordant_pairs,
    holm_correction,
    image_interval,
    is_significant,
    mcnemar,
    seed_interval,
    seeds_needed,
    sign_flip,
)

Call = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 9), (10, 10), (40, 17), (300, 410)])
def test_mcnemar_is_the_binomial_test_of_the_disagreements(first: int, second: int) -> None:
    images = DiscordantPairs(first, second, 1000)
    assert mcnemar(images) == pytest.approx(stats.binomtest(first, first + second, 0.5).pvalue)
    assert mcnemar(DiscordantPairs(second, first, 1000)) == pytest.approx(mcnemar(images))


def test_networks_that_never_disagree_do_not_differ() -> None:
    right = np.array([True, False, True])
    images = discordant_pairs(right, right)
    assert images == DiscordantPairs(0, 0, 3) and mcnemar(images) == 1 and images.delta == 0
    low, high = image_interval(images)
    assert low < 0 < high


def test_disagreement_counts_each_side_and_refuses_other_images() -> None:
    first, second = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 0], bool)
    images = discordant_pairs(first, second)
    assert images == DiscordantPairs(2, 1, 5)
    assert images.delta == pytest.approx(second.mean() - first.mean())
    with pytest.raises(ValueError, match="same images"):
        discordant_pairs(first, second[:4])


@pytest.mark.parametrize("cells", [(0.90, 0.02, 0.05, 0.03), (0.60, 0.15, 0.15, 0.10), (0.97, 0.0, 0.01, 0.02)])
def test_the_interval_over_images_covers_the_true_difference(cells: tuple[float, ...]) -> None:
    drawn = np.random.default_rng(1).multinomial(200, cells, size=4000)  # both, only first, only second, neither
    true = cells[2] - cells[1]
    held = [
        low <= true <= high for low, high in (image_interval(DiscordantPairs(int(c[1]), int(c[2]), 200)) for c in drawn)
    ]
    assert 0.94 < np.mean(held) < 0.99


def test_the_interval_over_images_is_the_set_of_differences_that_the_score_test_keeps() -> None:
    low, high = image_interval(DiscordantPairs(0, 0, 200))
    z = stats.norm.ppf(0.975)
    assert (low, high) == pytest.approx((-(z**2) / (200 + z**2), z**2 / (200 + z**2)))  # without disagreement, closed
    for first, second in ((3, 9), (40, 17), (0, 7), (25, 25)):
        low, high = image_interval(DiscordantPairs(first, second, 300))
        assert low < (second - first) / 300 < high
        assert image_interval(DiscordantPairs(second, first, 300)) == pytest.approx((-high, -low))
        chi_squared = (second - first) ** 2 / (first + second)  # McNemar's statistic is the score at no difference
        assert (low > 0 or high < 0) == (chi_squared > z**2)
    assert image_interval(DiscordantPairs(0, 5, 5))[1] == 1 and image_interval(DiscordantPairs(5, 0, 5))[0] == -1


def test_the_interval_over_seeds_is_that_of_the_paired_t_test() -> None:
    generator = np.random.default_rng(2)
    for n in (2, 5, 11):
        first, second = generator.normal(0.9, 0.02, n), generator.normal(0.92, 0.02, n)
        oracle = stats.ttest_rel(second, first).confidence_interval(0.95)
        mean, low, high = seed_interval(list(second - first))
        assert (mean, low, high) == pytest.approx(((second - first).mean(), oracle.low, oracle.high))
    with pytest.raises(ValueError, match="at least two"):
        seed_interval([0.1])


def test_the_interval_over_six_seeds_covers_nineteen_times_in_twenty() -> None:
    drawn = np.random.default_rng(3).normal(0.01, 0.005, size=(4000, 6))
    held = [low <= 0.01 <= high for _, low, high in map(seed_interval, drawn.tolist())]
    assert 0.94 < np.mean(held) < 0.96


@pytest.mark.parametrize("n", [2, 3, 6, 9, 12])
def test_sign_flips_are_counted_exactly(n: int) -> None:
    generator = np.random.default_rng(n)
    first = generator.integers(940, 980, n) / 1000  # accuracies on a thousand images: ties happen
    second = generator.integers(945, 985, n) / 1000
    oracle = stats.permutation_test(
        (second, first), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip(list(second - first)) == pytest.approx(oracle.pvalue)


def test_many_seeds_are_sampled_close_to_the_exact_p() -> None:
    differences = list(np.random.default_rng(8).normal(0.3, 1, 14))
    flips = 1 - 2 * ((np.arange(2**14)[:, None] >> np.arange(14)) & 1)
    exact = (np.abs(flips @ np.array(differences)) >= abs(sum(differences)) - 1e-9).mean()
    assert sign_flip(differences) == pytest.approx(exact, abs=0.006)
    assert sign_flip(differences) == sign_flip(differences)


def test_sign_flips_do_not_cry_wolf() -> None:
    drawn = np.random.default_rng(4).normal(0, 1, size=(1000, 7))
    assert np.mean([sign_flip(row) <= 0.05 for row in drawn.tolist()]) < 0.065
    assert sign_flip([0.0, 0.0, 0.0]) == 1
    assert sign_flip([0.1, 0.1, 0.1]) == 0.25  # the sums 0.3 and -0.3 of eight patterns


def test_holm_corrects_the_rows_that_were_tested() -> None:
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.02, None, 0.03]) == [pytest.approx(0.04), None, pytest.approx(0.04)]
    assert holm_correction([0.8, 0.9]) == [1, 1] and holm_correction([]) == []
    ps = np.random.default_rng(5).random(20)
    order = np.argsort(ps)
    by_definition = [max(min(1.0, (20 - j) * ps[order[j]]) for j in range(i + 1)) for i in range(20)]
    assert np.array(holm_correction(ps.tolist()))[order] == pytest.approx(by_definition)


@pytest.mark.parametrize("rows", [1, 2, 4, 9, 10, 40])
def test_fewer_seeds_than_needed_cannot_reach_the_level(rows: int) -> None:
    n = seeds_needed(rows)
    assert n is not None
    assert rows * sign_flip_floor(n) <= 0.05 < rows * sign_flip_floor(n - 1)


def sign_flip_floor(n: int) -> float:
    return sign_flip([1.0] * n) if n <= 12 else 2.0 ** (1 - n)


def test_sentences_say_what_the_numbers_allow() -> None:
    rows = compare_over_images(
        "a", ["b", "c", "d"], [DiscordantPairs(2, 40, 500), DiscordantPairs(5, 7, 500), "measured on 3 images"]
    )
    assert [row.significant for row in rows] == [True, False, None]
    assert re.search(r"b .*better.* a .*7\.60 points", str(rows[0].verdict))
    assert "not differ" in str(rows[1].verdict) and "+0.40 points" in str(rows[1].verdict)
    assert "3 images" in str(rows[2].verdict)
    assert re.fullmatch(r"Of 2 .* a\W.* 1 .*Holm.* b \(\+7\.60 points\)\.", conclude(rows))
    assert conclude(rows[1:2]) == str(rows[1].verdict)
    assert "worse than" in str(compare_over_images("a", ["b"], [DiscordantPairs(40, 2, 500)])[0].verdict)


def test_few_seeds_conclude_nothing_however_equal_they_are() -> None:
    few, enough, noise = [0.02] * 3, [0.02, 0.021, 0.019, 0.02, 0.022, 0.018], [0.02, -0.021, 0.019, -0.02, 0.022, 0.0]
    assert "6 seeds" in str(compare_over_seeds("A", ["B"], [few])[0].verdict)
    (row,) = compare_over_seeds("A", ["B"], [enough])
    assert row.significant and re.search(r"B .*better.* A .*2\.00 points", str(row.verdict))
    rows = compare_over_seeds("A", ["B", "C"], [enough, noise])
    assert not any(row.significant for row in rows)  # six seeds are too few for two comparisons
    assert re.search("2 comparisons .*7 seeds", str(rows[0].verdict))
    assert "not differ" in str(compare_over_seeds("A", ["B"], [noise])[0].verdict)


def test_p_and_interval_must_agree() -> None:
    assert is_significant(0.1, 0.2, 0.05) and is_significant(-0.2, -0.1, 0.01)
    assert (
        not is_significant(-0.01, 0.2, 0.01)
        and not is_significant(0.1, 0.2, 0.06)
        and not is_significant(0.1, 0.2, None)
    )


# The command.

IMAGE_KEYS = {
    *("name", "against", "n", "only_this", "only_other", "delta", "delta_low", "delta_high", "p", "p_holm"),
    *("believable", "verdict"),
}
SEED_KEYS = {
    *("name", "against", "n_seeds", "delta", "delta_low", "delta_high", "p", "p_holm", "believable", "verdict"),
    "seeds",
}


@pytest.fixture
def trained(cnntrain: Call, folder: Path) -> Path:
    """A folder with a trained and evaluated run `a`."""
    words = ["model=softmax", "dataset=synthetic", "dataset.train_images=96", "dataset.test_images=200"]
    cnntrain("fit", *words, "augmentation=none", "trainer.epochs=1", "trainer.batch_size=16", "output_dir=a")
    cnntrain("eval", "run=a")
    return folder


def forge(root: Path, name: str, *, wrong: int, seed: int = 0, start: int = 0, **settings: Any) -> Path:
    """Copy the run `a`, change its settings, and have it err on so many images from `start` on."""
    target = root / name
    shutil.copytree(root / "a", target)
    config = json.loads((target / "config.json").read_text()) | {"seed": seed}
    config["trainer"] |= settings
    (target / "config.json").write_text(json.dumps(config))
    place = target / "eval" / "test_best"
    with np.load(place / "predictions.npz") as saved:
        arrays = dict(saved)
    answers = arrays["labels"].copy()
    answers[start : start + wrong] = (answers[start : start + wrong] + 1) % 10
    arrays["probabilities"] = np.eye(10, dtype=np.float32)[answers]
    np.savez(place / "predictions.npz", **arrays)
    results = json.loads((place / "results.json").read_text()) | {"top1": 1 - wrong / len(answers)}
    (place / "results.json").write_text(json.dumps(results))
    return target


def test_two_runs_are_compared_on_the_same_images(cnntrain: Call, trained: Path) -> None:
    forge(trained, "b", wrong=40)
    forge(trained, "c", wrong=8, start=20, epochs=7)
    found = cnntrain("compare", "runs=[b,c]")
    assert set(found) == {"split", "weights", "differing", "runs", "groups", "over_images", "over_seeds", "verdict"}
    assert found["differing"] == ["trainer.epochs"] and found["over_seeds"] == []
    assert [row["settings"] for row in found["runs"]] == [{"trainer.epochs": 1}, {"trainer.epochs": 7}]
    assert [row["group"] for row in found["runs"]] == ["A", "B"]
    (row,) = found["over_images"]
    assert set(row) == IMAGE_KEYS
    assert (row["name"], row["against"], row["n"], row["only_this"], row["only_other"]) == ("c", "b", 200, 32, 0)
    assert row["delta"] == pytest.approx(0.16) and row["p"] == pytest.approx(2 * 0.5**32)
    assert row["believable"] and found["verdict"] == row["verdict"]
    assert re.search(r"c .*better.* b .*16\.00 points", row["verdict"])
    assert found["runs"][0]["params"] == 7850 and found["runs"][0]["macs"] == 7840


def test_seeds_are_paired_where_groups_share_them(cnntrain: Call, trained: Path) -> None:
    for seed in range(7):
        forge(trained, f"one/{seed}", wrong=20 + seed, seed=seed)
        forge(trained, f"two/{seed}", wrong=10 + seed % 3, seed=seed, epochs=7)
    forge(trained, "two/9", wrong=100, seed=9, epochs=7)  # has no partner
    found = cnntrain("compare", "runs=[one,two]")
    assert [row["run"] for row in found["runs"][:2]] == ["one/0", "one/1"] and len(found["runs"]) == 15
    (row,) = found["over_seeds"]
    assert set(row) == SEED_KEYS
    assert row["seeds"] == list(range(7)) and row["n_seeds"] == 7
    deltas = [(20 + seed - 10 - seed % 3) / 200 for seed in range(7)]
    assert row["delta"] == pytest.approx(np.mean(deltas)) and row["p"] == pytest.approx(2 / 2**7)
    assert row["believable"] and found["verdict"] == row["verdict"]
    one = found["groups"][0]
    assert one["top1_mean"] == pytest.approx(1 - 23 / 200)
    assert one["top1_std"] == pytest.approx(np.std([s / 200 for s in range(7)], ddof=1))


def test_missing_and_outdated_evaluations_are_made(
    cnntrain: Call, trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "a", trained / "b")
    shutil.rmtree(trained / "b" / "eval")
    assert main(["compare", "runs=[a,b]"]) == 0
    out, err = capfd.readouterr()
    assert "evaluating b" in err and "evaluating a" not in err and "their seed" in out
    assert (trained / "b" / "eval" / "test_best" / "predictions.npz").is_file()
    assert main(["compare", "runs=[a,b]"]) == 0
    assert "evaluating" not in capfd.readouterr().err
    cnntrain("eval", "run=b", "dataset.test_images=100")  # other images lie apart
    shutil.copy(trained / "b" / "checkpoints" / "last.pt", trained / "b" / "checkpoints" / "best.pt")
    assert main(["compare", "runs=[a,b]"]) == 0
    assert "evaluating b" in capfd.readouterr().err


def test_other_images_give_no_verdict_but_a_reason(cnntrain: Call, trained: Path) -> None:
    words = ["model=softmax", "dataset=synthetic", "dataset.train_images=96", "augmentation=none", "trainer.epochs=1"]
    cnntrain("fit", *words, "dataset.test_images=100", "trainer.batch_size=16", "output_dir=few")
    cnntrain(
        "fit", *words, "dataset.test_images=200", "trainer.batch_size=16", "output_dir=big", "dataset.image_size=20"
    )
    rows = cnntrain("compare", "runs=[a,few,big]")["over_images"]
    assert [row["believable"] for row in rows] == [None, None] and [row["p"] for row in rows] == [None, None]
    assert re.search("100 images, a .*200", rows[0]["verdict"])
    assert "other images" in rows[1]["verdict"]


def test_tables_in_three_styles(cnntrain: Call, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    forge(trained, "b", wrong=40, epochs=7)
    assert main(["compare", "runs=[a,b]", "table=csv"]) == 0
    rows = list(csv.DictReader(capfd.readouterr().out.splitlines()))
    assert [row["run"] for row in rows] == ["a", "b"] and rows[0]["p"] == "" and 0 <= float(rows[1]["p"]) <= 1
    assert [row["trainer.epochs"] for row in rows] == ["1", "7"]
    assert main(["compare", "runs=[a,b]", "table=markdown"]) == 0
    assert "| trainer.epochs | 1 | 7 |" in capfd.readouterr().out
    assert main(["compare", "runs=[a,b]"]) == 0
    assert "trainer.epochs  1  7" in capfd.readouterr().out


def test_a_comparison_leaves_a_report_where_it_is_asked_to(
    cnntrain: Call, trained: Path, refused: Callable[..., str]
) -> None:
    forge(trained, "b", wrong=40)
    forge(trained, "c", wrong=8, start=20, epochs=7)
    found = cnntrain("compare", "runs=[b,c]", "output_dir=both")
    files = {str(path.relative_to("both")) for path in Path("both").rglob("*.*")}
    assert files == {"report.md", "report.html", "figures/differences.png", "figures/differences.svg"}
    for name in ("report.md", "report.html"):
        assert found["verdict"] in (Path("both") / name).read_text()
    assert "![" in Path("both/report.md").read_text()
    assert "already holds a report" in refused("compare", "runs=[b,c]", "output_dir=both")
    cnntrain("compare", "runs=[b,c]", "output_dir=plain", "figures=false")
    assert not Path("plain/figures").exists() and "<svg" not in Path("plain/report.html").read_text()


def test_a_comparison_draws_the_gradients_of_the_runs_that_noted_them(cnntrain: Call, trained: Path) -> None:
    for name in "bc":
        metrics = forge(trained, name, wrong=40) / "metrics.jsonl"
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        noted = [row | ({"gradients": {"fc1": 0.5}} if row["kind"] == "train" else {}) for row in rows]
        metrics.write_text("".join(json.dumps(row) + "\n" for row in noted))
    cnntrain("compare", "runs=[a,b,c]", "output_dir=three")
    drawing = Path("three/figures/gradients.svg").read_text()
    assert ">b<" in drawing and ">c<" in drawing and ">a<" not in drawing
    assert "figures/gradients.png" in Path("three/report.md").read_text()


def test_a_comparison_needs_two_runs(trained: Path, refused: Callable[..., str]) -> None:
    assert "two runs" in refused("compare", "runs=[a]")
    assert "two runs" in refused("compare", "runs=a")  # a single word is a list of one
    assert " a twice" in refused("compare", "runs=[a,a]")
    assert "nowhere" in refused("compare", "runs=[a,nowhere]")
    assert "runs=<value>" in refused("compare")
    assert "table=csv" in refused("compare", "runs=[a,a]", "table=cvs")
