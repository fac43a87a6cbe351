"""The answer of a study: its statistics against scipy, by hand and by simulation, its words, tables and picture."""

import csv
import io
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import stats

from cnntrain.cli.main import config_dir
from cnntrain.report.document import Figure
from cnntrain.report.text import as_markdown
from cnntrain.runtime.drawing import Medium, styled, write_figure
from cnntrain.runtime.tables import render
from cnntrain.stats import looks
from cnntrain.stats.intervals import wilson
from cnntrain.stats.paired_tests import seeds_needed
from cnntrain.stats.power import seeds_for_power, sign_flip_p
from cnntrain.studies.ablation.figures import differences_figure
from cnntrain.studies.ablation.variants import Removal
from cnntrain.studies.answer import Answer, significant, summary
from cnntrain.studies.answer import answer as answer_cells
from cnntrain.studies.answer_report import answer_tables, flat, printed_rows, sentences, study_document
from cnntrain.studies.cells import CellScores
from cnntrain.studies.results import CellResult
from cnntrain.studies.variants import SizedVariant
from cnntrain.tasks.classification import Classification

N = 1000
answer = partial(answer_cells, headline=Classification.headline)
ROW_KEYS = {
    *("variant", "removed", "seed", "params", "params_removed", "macs", "train_top1", "top1", "top1_low", "top1_high"),
    "n",
}
TABLE_KEYS = {
    *("variant", "removed", "n_seeds", "params", "params_removed", "macs", "train_top1_mean", "train_top1_std"),
    *("top1_mean", "top1_std", "n", "top1_low", "top1_high", "delta_mean", "delta_low", "delta_high", "p", "p_holm"),
    *("believable", "seeds_wanted", "seeds_again", "mcnemar", "mcnemar_worse", "mcnemar_better", "verdict"),
}


def variant(name: str, *removed: str, params: int = 500, control: str | None = None) -> SizedVariant:
    removal = Removal(name, {}, stages=removed, control=control)
    return SizedVariant(removal, removed, params, 1000 - params, 10 * params, control=control)


def measured(score: float, correct: np.ndarray, n: int = N) -> CellResult:
    return CellResult(CellScores(0.9, score, n, 1.0), correct)


PLAN = [variant("full", params=1000), variant("no_a", "a"), variant("no_b", "b", params=900)]
PLAN += [variant("no_ab", "a", "b", params=400)]


def study(rights: Sequence[Sequence[int]], plan: Sequence[SizedVariant] = PLAN) -> dict[tuple[str, int], CellResult]:
    """Return a cell for each variant and seed with so many of the thousand test images right, the first ones."""
    return {
        (one.name, seed): measured(right / N, np.arange(N) < right)
        for one, row in zip(plan, rights, strict=True)
        for seed, right in enumerate(row)
    }


def drawn(seeds: int = 8, drops: Sequence[int] = (0, 4, 20, 60)) -> dict[tuple[str, int], CellResult]:
    generator = np.random.default_rng(seeds)
    return study([[int(right) for right in generator.normal(750 - drop, 4, seeds)] for drop in drops])


def report(*args: Any, **options: Any) -> str:
    return as_markdown(study_document(*args, **options))


def picture(folder: Path, found: Answer, kind: str, medium: Medium = "page") -> bytes:
    """Return the file of the figure of the differences."""
    with styled(medium):
        write_figure(differences_figure(found), folder / "differences")
    return (folder / f"differences.{kind}").read_bytes()


def step_down(ps: Sequence[float]) -> list[float]:
    """Return Holm's p by his definition."""
    order = list(np.argsort(ps))
    steps = np.maximum.accumulate([(len(ps) - i) * ps[j] for i, j in enumerate(order)])
    return [float(min(1, steps[order.index(j)])) for j in range(len(ps))]


def test_differences_are_those_of_the_paired_t_test_and_of_the_sign_flips() -> None:
    cells, seeds = drawn(), range(8)
    found = answer(PLAN, cells, seeds)
    keys = found.as_json()
    assert found.complete and len(found.rows) == 32 and all(set(row) == ROW_KEYS for row in keys["rows"])
    assert all(set(row) == TABLE_KEYS for row in keys["table"])
    top1 = {one.name: np.array([cells[one.name, seed].scores.test_score for seed in seeds]) for one in PLAN}
    ps = []
    for row in keys["table"][1:]:
        deltas = top1[row["variant"]] - top1["full"]
        oracle = stats.ttest_rel(top1[row["variant"]], top1["full"]).confidence_interval(0.95)
        assert (row["delta_mean"], row["delta_low"], row["delta_high"]) == pytest.approx(
            (deltas.mean(), oracle.low, oracle.high)
        )
        flips = stats.permutation_test((deltas,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert row["p"] == pytest.approx(flips.pvalue)
        assert row["top1_std"] == pytest.approx(top1[row["variant"]].std(ddof=1))
        assert (row["top1_low"], row["top1_high"]) == wilson(round(N * row["top1_mean"]), N)
        ps.append(flips.pvalue)
    ps.append(keys["interactions"][0]["p"])
    corrected = [row["p_holm"] for row in keys["table"][1:] + keys["interactions"]]
    assert corrected == pytest.approx(step_down(ps)) and corrected == [test.p_holm for test in found.tests]
    assert [row["believable"] for row in keys["table"]] == [None, False, True, True]
    assert keys["table"][0]["delta_mean"] is keys["table"][0]["verdict"] is None
    assert re.match("no_b .*worse.* full ", keys["table"][2]["verdict"])


def test_images_are_tested_for_each_seed_and_corrected_over_its_variants() -> None:
    found = answer(PLAN, study([[750, 750], [745, 760], [760, 740], [700, 740]]), range(2))
    for seed in range(2):
        tests = [row.mcnemar[seed] for row in found.table[1:] if row.mcnemar]
        exact = [stats.binomtest(test.only_this, test.only_this + test.only_other).pvalue for test in tests]
        assert [test.p for test in tests] == pytest.approx(exact)
        assert [test.p_holm for test in tests] == pytest.approx(step_down(exact))
    first = found.as_json()["table"][1]["mcnemar"][0]
    assert first | {"p": 0, "p_holm": 0} == {
        **{"seed": 0, "n": N, "only_this": 0, "only_other": 5, "p": 0, "p_holm": 0}
    }
    ways = [(row.mcnemar_worse, row.mcnemar_better) for row in found.table[1:]]
    assert ways == [(0, 1), (1, 1), (2, 0)]
    assert [row["McNemar"] for row in answer_tables(found)[1].rows] == [
        "1 better of 2",
        "1 worse, 1 better of 2",
        "2 worse of 2",
    ]


def test_parts_are_compared_with_their_sum() -> None:
    rights = [[750, 752, 748, 751, 749, 750, 751, 749], [740] * 8, [730] * 8, [700, 699, 700, 702, 698, 701, 700, 700]]
    found = answer(PLAN, study(rights), range(8))
    (row,) = found.as_json()["interactions"]
    full, one, other, both = (np.array(values) / N for values in rights)
    sums = (both - full) - (one - full) - (other - full)
    oracle = stats.ttest_1samp(sums, 0).confidence_interval(0.95)
    assert (row["variant"], row["parts"], row["n_seeds"]) == ("no_ab", ["no_a", "no_b"], 8)
    assert (row["delta_mean"], row["delta_low"], row["delta_high"]) == pytest.approx(
        (sums.mean(), oracle.low, oracle.high)
    )
    assert row["p"] == 2 / 2**8 and row["p_holm"] == 4 * row["p"] and row["believable"]  # one family of four
    assert re.search(r"no_ab .*worse.* no_a and no_b .*2\.00 points", row["verdict"])


def test_interactions_are_of_disjoint_parts_that_are_matched_alike() -> None:
    plan = [variant("full"), *(variant(name, *name) for name in ("a", "b", "c", "ab", "bc", "abc"))]
    plan += [variant("wide_a", "a", control="params"), variant("pooling")]
    found = answer(plan, study([[700 + i, 701] for i in range(len(plan))], plan), range(2))
    pairs = {(row.variant, *row.parts) for row in found.interactions}
    assert pairs == {("ab", "a", "b"), ("bc", "b", "c"), ("abc", "a", "bc"), ("abc", "c", "ab")}


@pytest.mark.parametrize("lost", [[("no_b", 3), ("no_b", 5)], [("full", 0)]])
def test_a_row_with_a_missing_cell_has_no_verdict(lost: list[tuple[str, int]]) -> None:
    cells = {key: cell for key, cell in drawn().items() if key not in lost}
    found = answer(PLAN, cells, range(8))
    rows = {row["variant"]: row for row in found.as_json()["table"]}
    broken = ["no_b"] if lost[0][0] == "no_b" else ["no_a", "no_b", "no_ab"]
    assert not found.complete and len(found.rows) == 32 - len(lost)
    for name in broken:
        empty = ("delta_mean", "delta_low", "p", "p_holm", "believable", "seeds_wanted", "seeds_again", "mcnemar_worse")
        assert [rows[name][key] for key in empty] == [None] * len(empty)
    assert found.interactions[0].test.significant is None and "missing" in str(found.interactions[0].test.verdict)
    if broken == ["no_b"]:
        assert re.match("no_b.* 2 of 8 cells ", rows["no_b"]["verdict"]) and rows["no_b"]["n_seeds"] == 6
        assert rows["no_ab"]["believable"] and re.search("1 .*missing", summary(found))
    else:
        assert re.match("no_b.* 1 of 8 cells of full ", rows["no_b"]["verdict"])
        assert "missing" in summary(found)
        assert sentences(found)[0].startswith("full: 1 of 8 ")
    assert "**Not complete.**" in report("study", {}, [], found)


def test_a_study_that_has_not_begun_says_so() -> None:
    found = answer(PLAN, {}, range(8))
    assert found.rows == [] and not found.complete and found.table[1].score_mean is found.table[1].n is None
    assert "missing" in summary(found)
    assert "None is finished." in report("study", {}, [], found)
    with styled():
        assert differences_figure(found)


def test_what_is_significant_stays_so_as_cells_come_in() -> None:
    cells = list(drawn(drops=(0, 7, 9, 12)).items())
    earlier: dict[str, float] = {}
    for count in range(1, 5):
        for row in answer(PLAN, dict(cells[: 8 * count]), range(8)).table[1:count]:
            assert row.test.p_holm is not None and row.test.p_holm <= earlier.get(row.variant, 1.0)
            earlier[row.variant] = row.test.p_holm
    assert len(earlier) == 3


def test_one_seed_concludes_nothing() -> None:
    found = answer(PLAN, study([[750], [740], [500], [100]]), [0])
    assert found.complete and all(test.p is test.significant is test.delta_low is None for test in found.tests)
    assert found.tests[1].delta == pytest.approx(-0.25) and found.table[2].score_std is None
    assert all("one seed" in str(row.test.verdict) for row in found.table[1:])
    assert "one seed" in summary(found)


def test_the_order_of_cells_and_cells_of_others_change_nothing() -> None:
    cells = drawn()
    keys = list(cells)
    shuffled = {keys[i]: cells[keys[i]] for i in np.random.default_rng(0).permutation(len(cells))}
    other = measured(0.5, np.arange(N) < 500)
    assert answer(PLAN, shuffled | {("no_c", 0): other, ("no_a", 99): other}, range(8)) == answer(PLAN, cells, range(8))
    with pytest.raises(ValueError, match="same images"):
        answer(PLAN, cells | {("full", 0): measured(0.5, np.arange(10) < 5, n=10)}, range(8))


def test_seeds_wanted_of_no_spread_or_no_difference() -> None:
    assert seeds_for_power([0.01] * 3, 4) == 8 and seeds_for_power([0.01] * 9, 4) == 10
    assert seeds_for_power([0.01, -0.01], 1) is None and seeds_for_power([0.0, 0.0], 1) is None
    found = answer(PLAN[:2], study([[750, 760], [760, 750]], PLAN[:2]), range(2))
    assert found.tests[0].seeds_needed is None and "more than 1,000" in str(found.tests[0].verdict)
    assert seeds_for_power([0.01, 0.011], 4, level=1e-6) is None  # out of reach for the draws of signs


# By simulation: accuracies whose paired differences, which share the full network, deviate by half a point. The
# functions are those that the command calls.

FLAT = [variant("full", params=1000), *(variant(f"v{i}", f"v{i}") for i in range(4))]
JOINED = [*FLAT[:3], variant("v01", "v0", "v1", params=400)]
RIGHT = np.ones(1, dtype=bool)


def simulate(studies: int, seeds: int, drops: Sequence[float], plan: Sequence[SizedVariant] = FLAT) -> list[Answer]:
    top1 = np.random.default_rng(seeds).normal(0.75, 0.005 / 2**0.5, (studies, len(plan), seeds)).round(4)
    top1[:, 1:] -= np.array(drops)[:, None]
    return [
        answer(
            plan,
            {
                (one.name, seed): measured(row[seed], RIGHT, n=10_000)
                for one, row in zip(plan, rows, strict=True)
                for seed in range(seeds)
            },
            range(seeds),
        )
        for rows in top1.tolist()
    ]


def above(share: float, trials: int) -> float:
    """Return what a share that is met exactly exceeds in one of a thousand simulations."""
    return share + 3.1 * (share * (1 - share) / trials) ** 0.5


def exact_flips(values: np.ndarray) -> np.ndarray:
    """Return p [R] of the sign flips of [R, n], counted over the bits of 2^(n - 1) numbers."""
    n, reached = values.shape[1], np.zeros(len(values))
    for part in np.array_split(np.arange(2 ** (n - 1)), max(1, 2 ** (n - 10))):
        signs = 1 - 2.0 * ((part[:, None] >> np.arange(n)) & 1)
        reached += (np.abs(signs @ values.T) >= np.abs(values.sum(1)) - 1e-12).sum(axis=0)
    return reached / 2 ** (n - 1)


def told(values: np.ndarray, level: float) -> np.ndarray:
    """Return the verdict [R] on differences [R, m, n], of which the first of m rows counts."""
    p = exact_flips(values.reshape(-1, values.shape[-1])).reshape(values.shape[:2])
    first = np.array([step_down(row)[0] for row in p.tolist()]) <= level
    return np.asarray(first & (stats.ttest_1samp(values[:, 0], 0, axis=1).pvalue < 0.05))


@pytest.mark.parametrize("studies", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("rows", "effect"), [(1, 1.45), (1, 1.2), (1, 2.5), (4, 1.55), (4, 1.1), (10, 1.55), (1, 0.8)])
def test_seeds_wanted_have_the_power_that_they_promise(rows: int, effect: float, studies: int) -> None:
    wanted = seeds_for_power((effect + np.array([-1.0, 0, 1])).tolist(), rows)
    assert wanted is not None and wanted <= 16
    rng = np.random.default_rng(rows)
    power = {}
    for n in (wanted, wanted - 1):
        values = rng.normal(size=(studies, rows, n))
        values[:, 0] += effect
        power[n] = told(values, 0.05).mean()
    assert 1 - power[wanted] <= above(0.205, studies)  # and half a point for the simulation behind it
    assert 1 - power[wanted - 1] >= 0.195 - (above(0.195, studies) - 0.195)  # one fewer would not do


@pytest.mark.parametrize(("effect", "rows", "expected"), [(0.3, 1, 90), (0.2, 4, 283), (0.1, 1, 787), (0.08, 1, 0)])
def test_many_seeds_are_those_of_the_t_test(effect: float, rows: int, expected: int) -> None:
    wanted = seeds_for_power((effect + np.array([-1.0, 0, 1])).tolist(), rows)
    assert (wanted or 0) == pytest.approx(expected, rel=0.01)
    if wanted:
        edge = stats.t.isf(0.025 / rows, wanted - 1)
        assert stats.nct.sf(edge, wanted - 1, effect * wanted**0.5) == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("n", [13, 15])
@pytest.mark.parametrize("effect", [0.0, 0.9])
def test_expanded_sign_flips_reject_as_often_as_counted_ones(n: int, effect: float) -> None:
    values = np.random.default_rng(n).normal(effect, 1, (2000, n))
    found, exact = sign_flip_p(values), exact_flips(values)
    for level in (0.05, 0.0125, 0.005):
        assert -0.02 <= (found <= level).mean() - (exact <= level).mean() <= 0.005


@pytest.mark.parametrize("seeds", [6, 8, 10])
def test_intervals_cover_and_equal_recipes_are_seldom_told_apart(seeds: int) -> None:
    found = simulate(600, seeds, [0, 0, 0, 0])
    tests = [row for study in found for row in study.as_json()["table"][1:]]
    covered = [test["delta_low"] <= 0 <= test["delta_high"] for test in tests]
    assert len(covered) == 2400 and 0.93 <= np.mean(covered) <= 0.97
    wrong = np.mean([any(test.significant for test in study.tests) for study in found])
    assert wrong <= 0.05
    assert (wrong > 0) == (seeds >= 8)  # with four rows six seeds cannot tell anything apart, which the words say


@pytest.mark.parametrize("drops", [(0.01, 0, 0, 0), (0.01, 0.01, 0.01, 0.01)])
def test_a_difference_of_one_point_is_found_with_eight_seeds(drops: tuple[float, ...]) -> None:
    found = simulate(400, 8, drops)
    assert np.mean([bool(study.tests[0].significant) for study in found]) >= 0.75


@pytest.mark.parametrize("drops", [(0, 0, 0), (0.02, 0, 0.02)])  # nothing at all; one stage alone matters
@pytest.mark.parametrize(
    ("seeds", "studies"), [(8, 500), (10, 500), *(pytest.param(n, 2000, marks=pytest.mark.slow) for n in (8, 10, 12))]
)
def test_a_study_with_interactions_finds_nothing_that_is_not_there(
    seeds: int, studies: int, drops: tuple[float, ...]
) -> None:
    wrong = 0
    for study in simulate(studies, seeds, drops, JOINED):
        real = [*map(bool, drops), False]  # there is no interaction
        wrong += any(test.significant for test, there in zip(study.tests, real, strict=True) if not there)
    assert 0 < wrong / studies <= above(0.05, studies)


# Looking again.


@pytest.mark.parametrize("studies", [800, pytest.param(8000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("planned", [1, 5])
@pytest.mark.parametrize("rows", [1, 4])
def test_looking_again_finds_nothing_that_is_not_there(rows: int, planned: int, studies: int) -> None:
    rng = np.random.default_rng(rows)
    values = rng.normal(size=(studies, rows, 16)) - rng.normal(size=(studies, 1, 16))
    earlier: list[looks.Look] = []
    corrected, plain = np.zeros(studies, bool), np.zeros(studies, bool)
    for n in (6, 8, 10, 12, 16):
        now = looks.take_look(earlier, range(n), rows, planned)
        earlier.append(now)
        seen = values[..., :n]
        p = exact_flips(seen.reshape(-1, n)).reshape(studies, rows)
        apart = stats.ttest_1samp(seen, 0, axis=2).pvalue < 0.05
        for level, ever in ((now.level, corrected), (0.05, plain)):
            ever |= ((rows * p <= level) & apart).any(axis=1)  # the first step of Holm decides whether there is one
    assert corrected.mean() <= above(0.05, studies) and plain.mean() > 0.08
    assert sum(one.spent for one in earlier) <= 0.05 + 1e-12


def test_the_first_look_has_the_whole_level_and_others_half_of_what_is_left() -> None:
    first = looks.take_look([], range(8), 4)
    assert first == ((0, 1, 2, 3, 4, 5, 6, 7), 0.05, 6 / 128, ())  # three rows of p <= 0.0167: each 2 of 128
    second = looks.take_look([first], range(16), 4)
    assert second.level == pytest.approx((0.05 - 6 / 128) / 2) and 0 < second.spent <= second.level
    for same in (first, second):  # the same seeds are the same look, with the same verdicts
        again = looks.take_look([first, second], same.seeds, 4)
        assert again.spent == same.spent <= again.level <= same.level
    assert (
        looks.take_look([looks.take_look([], range(6), 4)], range(8), 4) == first
    )  # a look that can find nothing is free
    assert looks.next_level([looks.take_look([], range(20), 1)]) == pytest.approx(0, abs=1e-15)
    assert seeds_needed(4, second.level) == 13 and seeds_needed(1, 0.0) is None


def test_planned_looks_share_the_level() -> None:
    one = looks.take_look([], range(8), 1, planned=2)
    two = looks.take_look([one], range(16), 1, planned=2)
    assert one.level == 0.025 and two.level == pytest.approx(0.05 - one.spent)
    assert "with 8 seeds" in looks.look_words([one], two, 0.0)[0]
    assert "Nothing is left" in looks.look_words([one], two, 0.0)[1]
    (sentence,) = looks.look_words([], one, 0.0266)
    assert "0.027" in sentence


def test_a_later_look_is_held_to_its_level() -> None:
    cells = study([[750] * 8, [740 + i for i in range(8)]], PLAN[:2])
    now, later = answer(PLAN[:2], cells, range(8)), answer(PLAN[:2], cells, range(8), level=0.0016, again=0.0008)
    assert now.tests[0].p == later.tests[0].p == 2 / 2**8
    assert now.tests[0].significant and not later.tests[0].significant
    assert re.search(r"11 seeds .*0\.0016", str(later.tests[0].verdict))
    anew, again = later.tests[0].seeds_needed, later.tests[0].seeds_needed_again
    assert anew and again and anew < again
    assert significant(now) == ["no_a against full"] and significant(later) == []
    still = answer(PLAN[:2], cells, range(8), level=0.0016, again=0.0008, known=significant(now))
    assert significant(still) == significant(now) and "earlier look" in str(still.tests[0].verdict)


# To be read.


def test_tables_are_short_and_csv_holds_everything() -> None:
    plan = [variant("full", params=60_965_224)]
    names = ("no_fc7", "no_fc6_fc7", "no_conv3_conv4", "no_conv3_conv4_fc6_fc7")
    plan += [variant(name, *name.split("_")[1:], params=9_854_568) for name in names]
    cells = study([[750 + seed for seed in range(8)], [749] * 8, [735] * 8, [730] * 8, [600] * 8], plan)
    found = answer(plan, cells, range(8))
    tables = answer_tables(found)
    assert len(tables) == 3  # sizes and errors, differences, interactions
    assert all(len(line) <= 120 for table in tables for line in render(table.rows).splitlines())
    keys = found.as_json()
    lines = list(csv.DictReader(io.StringIO(render(flat(keys["rows"]), "csv"))))
    assert len(lines) == 40 and lines[-1]["removed"] == "conv3 conv4 fc6 fc7" and float(lines[0]["top1"]) == 0.75
    table = list(csv.DictReader(io.StringIO(render(flat(keys["table"]), "csv"))))
    assert float(table[2]["delta_mean"]) == found.tests[1].delta and table[0]["p"] == ""


def test_the_report_holds_setting_plan_answer_and_every_row() -> None:
    found = answer(PLAN, drawn(), range(8))
    plan = [{"variant": one.name, "removed": one.removed} for one in PLAN]
    printed = {"paper, error %": {"full": 18.1, "no_a": 18.4, "no_ab": 50.0}, "lecture, drop": {"no_a": 1.1}}
    setting = {"dataset": "digits", "seeds": [0, 1]}
    figure = Figure("<svg/>", "a", file="a.png")
    text = report("mine", setting, plan, found, figure=figure, printed=printed, source=["Paper: P."])
    assert text.startswith("# mine\n") and "- seeds: 0, 1\n" in text and "| no_ab | a, b |" in text
    assert "](a.png)" in text and "\nPaper: P.\n" in text and all(sentence in text for sentence in sentences(found))
    assert sum(line.startswith(("| full | ", "| no_")) for line in text.split("## Every cell")[1].splitlines()) == 56
    rows = printed_rows(found, printed)
    assert [row["paper, error %"] for row in rows] == ["18.1", "18.4", None, "50.0"]
    assert [row["paper, error %: drop"] for row in rows] == [None, "+0.3", None, "+31.9"]
    assert [row["lecture, drop"] for row in rows] == [None, "1.1", None, None]
    worst = found.as_json()["table"][3]
    assert rows[3]["ours: drop, points"] == (
        f"{-100 * worst['delta_mean']:+.2f} ({-100 * worst['delta_high']:+.2f} … {-100 * worst['delta_low']:+.2f})"
    )


def test_the_lectures_study_has_its_variants_and_the_papers_numbers() -> None:
    content = yaml.safe_load((config_dir() / "study" / "zeiler_fergus.yaml").read_text())
    names = ["no_fc7", "no_fc6_fc7", "no_conv3_conv4", "no_conv3_conv4_fc6_fc7"]
    assert content["name"] == "zeiler_fergus" and list(content["variants"]) == names
    assert content["variants"]["no_conv3_conv4_fc6_fc7"] == ["model.remove=[conv3,conv4,fc6,fc7]"]
    assert all(set(column) <= {"full", *names} for column in content["printed"].values())
    plan = [variant("full"), *(variant(name, name) for name in names)]
    rows = printed_rows(answer(plan, study([[700, 701]] * 5, plan), range(2)), content["printed"])
    assert [row["paper, top-1 error %: drop"] for row in rows[1:]] == ["-0.5", "+4.3", "+4.9", "+30.8"]
    assert [row["paper, top-5 error %: drop"] for row in rows[1:]] == ["+0.3", "+4.3", "+4.0", "+32.0"]
    assert [row["lecture, drop"] for row in rows[1:]] == ["1.1", "5.7", None, "33.5"]
    text = report("z", {}, [], answer(plan, {}, [0]), printed=content["printed"], source=content["source"])
    assert content["source"] and all(f"\n{sentence}\n" in text for sentence in content["source"])


@pytest.mark.usefixtures("no_formulas")
def test_the_picture_sorts_the_variants_by_their_effect_and_is_the_same_again(tmp_path: Path) -> None:
    names = ("a_$x", "b^$", "c", "d")
    plan = [variant("full_$", params=1000), *(variant(name, params=1000) for name in names)]
    found = answer(plan, study([[750, 751], [740, 741], [745, 747], [760, 755], [750, 749]], plan), range(2))
    text = picture(tmp_path, found, "svg").decode()
    assert sorted(names, key=lambda name: text.index(f">{name}<")) == ["c", "d", "b^$", "a_$x"]  # from the axis upwards
    assert ">test top-1 minus that of full_$, percentage points<" in text and ">-1.00 (-1.00 … -1.00)<" in text
    assert text == picture(tmp_path, found, "svg").decode()
    alone = answer(plan[:2], study([[750], [740]], plan[:2]), [0])
    assert ">-1.00<" in picture(tmp_path, alone, "svg").decode()  # one seed has no interval


def test_the_picture_grows_with_the_study_and_cuts_no_name(tmp_path: Path) -> None:
    sizes = []
    for count, length in ((3, 4), (40, 4), (3, 60)):
        plan = [variant("full"), *(variant(f"{i:W>{length}}") for i in range(count))]
        found = answer(plan, study([[750, 752], *([740 + i, 741] for i in range(count))], plan), range(2))
        image = Image.open(io.BytesIO(picture(tmp_path, found, "png"))).convert("L")
        pixels = np.asarray(image)
        edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
        assert image.size[0] > 600 and all((edge == 255).all() for edge in edges)
        sizes.append(image.size)
    assert sizes[1][1] > 4 * sizes[0][1] and sizes[2][0] > sizes[0][0] + 500


def test_on_a_slide_many_rows_fit_and_letters_are_larger(tmp_path: Path) -> None:
    for count in (3, 40):
        plan = [variant("full"), *(variant(f"no_{i}") for i in range(count))]
        found = answer(plan, study([[750, 752], *([740 + i, 741] for i in range(count))], plan), range(2))
        image = Image.open(io.BytesIO(picture(tmp_path, found, "png", "slide")))
        assert image.size == (1920, 1080)
        text = (tmp_path / "differences.svg").read_text()
        sizes = {float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", text)}
        assert max(sizes) > 17 and (min(sizes) < 10) == (count == 40)
