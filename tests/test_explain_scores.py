"""What explanations are worth: scores against arithmetic by hand and other implementations, and random weights."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from test_attributions import deciding_net, options_of, planted, subject_of
from torch import nn
from torchvision import ops

from cnntrain.data.storage.images import Centre, Files
from cnntrain.runtime.errors import InputError
from cnntrain.stats.paired_tests import sign_flip
from cnntrain.studies.explain.insertion import STEPS, areas, pixel_ranks
from cnntrain.studies.explain.localisation import (
    Boxes,
    Mask,
    box_around,
    largest_region,
    overlaps,
    pixel_precision,
    points_inside,
)
from cnntrain.studies.explain.paired import ImageScores, all_pairs, pair_matrix
from cnntrain.studies.explain.question import ImageSet, Question, Targets
from cnntrain.studies.explain.references import EDGES, REFERENCES, WHOLE
from cnntrain.studies.explain.sanity import compared, rank_correlation, sanity_sentence, structural_similarity
from cnntrain.studies.explain.scores import summed_up
from cnntrain.studies.explain.truths import find_masks, namesake, read_boxes, seen_boxes, seen_masks

Call = Callable[..., dict[str, Any]]


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# --- insertion and deletion


def test_pixels_come_in_the_order_of_their_values_and_equal_ones_in_an_order_that_is_drawn() -> None:
    maps = drawn(3, 5, 7)
    ranks = pixel_ranks(maps, seed=0)
    for values, places in zip(maps, ranks, strict=True):
        assert sorted(places.ravel()) == list(range(35))
        assert (np.diff(values.ravel()[np.argsort(places.ravel())]) <= 0).all()
    equal = [pixel_ranks(np.zeros((1, 5, 7)), seed).ravel() for seed in (0, 1)]
    assert sorted(equal[0]) == list(range(35)) and (equal[0] != equal[1]).any() and (np.diff(equal[0]) < 0).any()


def question_of(net: nn.Sequential, pixels: np.ndarray, labels: torch.Tensor | None = None) -> Question:
    subject = subject_of(net, pixels.shape[1])
    names = [str(i) for i in range(len(pixels))]
    return Question(subject, ImageSet(names, pixels, labels, subject.logits(pixels, 100)), options_of())


def test_areas_are_those_of_a_loop_over_pixels() -> None:
    side, pixels = 8, np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 4)).eval()
    question, maps, targets = question_of(net, pixels), drawn(2, side, side), Targets(torch.tensor([1, 2]), "logit")
    inserted, deleted = areas(question, targets, maps, "x")
    images = question.subject.inputs(pixels)
    for i in range(2):
        order = np.argsort(-maps[i].ravel())
        changed, curve = images[i].clone(), []
        for step in range(STEPS + 1):
            for place in order[: round(step * side * side / STEPS)]:
                changed[:, place // side, place % side] = 0
            curve.append(float(net(changed[None]).softmax(dim=1)[0, targets.classes[i]].detach()))
        area = np.trapezoid(curve) / STEPS
        assert deleted[i] == pytest.approx(area, abs=1e-5)
    assert inserted.shape == (2,) and (inserted != deleted).all()


def test_the_pixels_that_decide_raise_insertion_and_lower_deletion() -> None:
    x, boxes = planted(8)
    pixels = ((x.permute(0, 2, 3, 1).numpy() + 2) * 63.75).astype(np.uint8)
    question = question_of(deciding_net(), pixels)
    targets = Targets(torch.arange(8) % 4, "logit")
    inside = np.zeros((8, 24, 24))
    for values, ((left, top, right, bottom),) in zip(inside, boxes, strict=True):
        values[int(top) : int(bottom), int(left) : int(right)] = 1
    inserted, deleted = areas(question, targets, inside, "inside")
    later_in, later_out = areas(question, targets, -inside, "outside")
    assert (inserted > 0.8).all() and (deleted < 0.4).all() and (later_in < 0.4).all() and (later_out > 0.7).all()


# --- where things lie


def test_a_point_counts_within_a_box_and_a_little_beside_it() -> None:
    values = np.zeros((100, 100))
    values[40, 60] = 1
    assert points_inside(values, Boxes(np.array([[50.0, 30, 70, 50]]))) == 1
    beside = np.array([[0.0, 0, 10, 10], [50, 30, 58, 50]])  # 2.5 pixels away: 3 %
    assert points_inside(values, Boxes(beside)) == 1
    assert points_inside(values, Boxes(np.array([[50.0, 30, 57, 50]]))) == 0
    assert points_inside(np.ones((100, 100)), Boxes(np.array([[3.0, 3, 53, 53]]))) == pytest.approx(0.56**2)


def test_a_mask_that_is_a_box_holds_the_same_points() -> None:
    edges = np.array([[20.0, 30, 70, 50]])
    mask = np.zeros((100, 100), dtype=bool)
    mask[30:50, 20:70] = True
    for row, column in [(40, 60), (52, 60), (53, 60), (40, 17), (40, 16), (10, 10)]:
        values = np.zeros((100, 100))
        values[row, column] = 1
        assert points_inside(values, Mask(mask)) == points_inside(values, Boxes(edges))


def test_the_box_is_around_the_largest_region_only() -> None:
    values = np.zeros((10, 12))
    values[1:4, 2:5] = 1
    values[4, 5] = 0.8  # touches it at a corner
    values[7:9, 8:10] = 2
    for some, threshold, edges in [
        (values, 0.3, [2, 1, 6, 5]),
        (values, 0.6, [8, 7, 10, 9]),
        (values, 0, [0, 0, 12, 10]),
        (np.full((4, 6), 3.0), 0.9, [0, 0, 6, 4]),
        (-values - 5, 0.9, [0, 0, 12, 10]),
    ]:
        assert box_around(largest_region(some, threshold)).tolist() == edges


def test_overlaps_are_torchvisions() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 10, (20, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1)
    for box in boxes[:5].astype(int):
        region = np.zeros((12, 12), dtype=bool)
        region[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
        theirs = ops.box_iou(torch.from_numpy(box_around(region)[None]), torch.from_numpy(boxes[5:])).max()
        assert Boxes(boxes[5:]).overlap(region) == pytest.approx(float(theirs))
    region = np.zeros((10, 10), dtype=bool)
    region[0, 0] = True
    assert Boxes(np.array([[5.0, 5, 6, 6]])).overlap(region) == 0
    shared = overlaps(np.ones((1, 10, 10)), [Boxes(np.array([[0.0, 0, 10, 5]]))])
    assert np.allclose(shared, 0.5)


def test_a_region_is_compared_with_a_mask_pixel_by_pixel() -> None:
    values, mask = np.zeros((1, 10, 10)), np.zeros((10, 10), dtype=bool)
    values[0, :6, :6], mask[:4, :8] = 1, True
    expected = 24 / (36 + 32 - 24)
    assert np.allclose(overlaps(values, [Mask(mask)])[0, 1:], expected)  # at no threshold the region is the image
    assert overlaps(values, [Mask(mask)])[0, 0] == pytest.approx(0.32)


def test_the_precision_of_pixels_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    values, mask = drawn(9, 9).round(1), drawn(9, 9, seed=1) > 0.5
    assert len(np.unique(values)) < 81
    assert pixel_precision(values, mask) == pytest.approx(metrics.average_precision_score(mask.ravel(), values.ravel()))
    assert pixel_precision(mask.astype(float), mask) == 1
    assert pixel_precision(np.ones((9, 9)), mask) == pytest.approx(mask.mean())


def test_lists_of_boxes_are_read_as_they_are_published(folder: Path) -> None:
    lists = folder / "lists"
    lists.mkdir()
    (lists / "fish.txt").write_text("fish_0.JPEG\t0\t10\t63\t58\nfish_1.JPEG\t14\t2\t54\t49\n")
    (lists / "val.csv").write_text("file,class,x1,y1,x2,y2\nval 2.JPEG,fish,4,0,60,55\nval 2.JPEG,fish,1,1,1,1\n")
    boxes = read_boxes("lists")
    assert boxes["fish_0.JPEG"].tolist() == [[0, 10, 64, 59]]
    assert boxes["val 2.JPEG"].tolist() == [[4, 0, 61, 56], [1, 1, 2, 2]]
    (lists / "bad.txt").write_text("fish_0.JPEG 0 10 63\n")
    with pytest.raises(InputError, match=r"bad.txt, line 1"):
        read_boxes("lists")
    (lists / "bad.txt").write_text("a.png 0 0 9 9\nfish_0.JPEG 10 10 9 20\n")
    with pytest.raises(InputError, match=r"bad.txt, line 2"):
        read_boxes("lists/bad.txt")
    with pytest.raises(InputError, match="nowhere"):
        read_boxes("nowhere")


@pytest.mark.parametrize(("kept", "size"), [((40, 40), (40, 40)), ((64, 64), (48, 48)), ((20, 20), (20, 20))])
def test_a_box_follows_its_image_through_scaling_and_cropping(
    folder: Path, kept: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[20:44, 30:57] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    source = Centre(Files(folder, ["a.png"], kept, 3, resize=True), size)
    (boxes,) = seen_boxes({"a.png": np.array([[30.0, 20, 57, 44]])}, source, size)
    (box,) = boxes.edges
    rows, columns = np.nonzero(source.read([0])[0, :, :, 0].numpy() > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(box - np.array(seen)).max() <= 0.75
    (folder / "masks").mkdir()
    Image.fromarray(pixels[..., 0]).save(folder / "masks/a.png")
    (mask,) = seen_masks(find_masks("masks"), source, size)
    shown = source.read([0])[0, :, :, 0].numpy() / 255
    assert mask.pixels.shape == size and np.abs(mask.pixels - shown).max() <= 0.75
    assert np.abs(mask.pixels - shown).mean() < 0.03
    with pytest.raises(InputError, match=r"a\.png"):
        seen_boxes({}, source, size)


def test_masks_are_found_by_name_and_folder_and_say_what_belongs_to_the_image(folder: Path) -> None:
    values = np.zeros((8, 8), dtype=np.uint8)
    values[2:5, 3:6], values[6, 6] = 7, 255
    for place in ("images/ant", "images/bee", "masks/ant", "masks/bee"):
        (folder / place).mkdir(parents=True)
        Image.fromarray(values if "ant" in place else values // 255 * 255).save(folder / place / "1.png")
    source = Files(folder / "images", ["ant/1.png", "bee/1.png"], (8, 8), 1, resize=False)
    ant, bee = seen_masks(find_masks("masks"), source, (8, 8))
    assert ant.pixels.sum() == 9 and ant.pixels[2:5, 3:6].all()  # a label map: 255 has no class
    assert bee.pixels.sum() == 1 and bee.pixels[6, 6]  # black and white: 255 is what belongs to it
    with pytest.raises(InputError, match="may both be of"):
        namesake(folder / "other/1.png", find_masks("masks")["1"])
    Image.fromarray(values[:4]).save(folder / "masks/bee/1.png")
    with pytest.raises(InputError, match="8×4 pixels"):
        seen_masks(find_masks("masks"), source, (8, 8))
    Image.fromarray(0 * values).save(folder / "masks/bee/1.png")
    with pytest.raises(InputError, match="marks nothing"):
        seen_masks(find_masks("masks"), source, (8, 8))


# --- statistics


def test_methods_are_compared_with_the_edge_map_image_by_image() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.6, 60)
    worse = ImageScores("a", "deletion", base + 0.1 + rng.normal(0, 0.02, 60))
    same = ImageScores("b", "deletion", base + rng.normal(0, 0.02, 60))
    scores = {score.method: score for score in summed_up([worse, same, ImageScores(EDGES, "deletion", base)])}
    assert (
        scores["a"].value == pytest.approx(worse.values.mean())
        and scores["a"].low < scores["a"].value < scores["a"].high
    )
    assert scores[EDGES].difference is None
    tests = {method: score.difference for method, score in scores.items() if score.difference}
    assert tests["a"].verdict == "worse" and tests["a"].p_holm is not None and tests["a"].p_holm < 1e-3
    assert tests["b"].verdict == "not told apart"
    half = 1.96 * (worse.values - base).std(ddof=1) / 60**0.5
    assert tests["a"].delta_high == pytest.approx(float((worse.values - base).mean()) + half, abs=0.3 * half)


def test_each_method_is_compared_with_each_other_on_the_same_images_and_holms_family_is_all_of_them() -> None:
    rng = np.random.default_rng(1)
    base = rng.uniform(0.2, 0.6, 40)
    values = {"a": base, "b": base + 0.1 + rng.normal(0, 0.02, 40), "c": rng.permutation(base)}
    scores = [ImageScores(name, score, each) for score in ("insertion", "deletion") for name, each in values.items()]
    pairs = all_pairs(scores)
    assert list(pairs) == ["insertion", "deletion"]
    for tests in pairs.values():
        assert [(test.name, test.reference) for test in tests] == [("b", "a"), ("c", "a"), ("c", "b")]
    first = pairs["insertion"][0]
    assert first.delta == pytest.approx(float((values["b"] - values["a"]).mean()))
    assert first.p == sign_flip(list(values["b"] - values["a"]))
    assert first.p_holm == pytest.approx(6 * first.p)  # one of the smallest of six
    assert [pairs[score][0].verdict for score in pairs] == ["better", "worse"]
    assert pairs["insertion"][1].verdict == "not told apart"
    (b, c) = pair_matrix("insertion", pairs["insertion"])
    assert b == {"insertion": "b", "a": f"{first.delta:+.3f} *", "b": None} and str(c["b"]).endswith(" *")


@pytest.mark.parametrize("name", REFERENCES)
def test_maps_that_look_at_no_network(name: str) -> None:
    pixels = np.zeros((2, 20, 30, 3), dtype=np.uint8)
    pixels[:, 5:15, 10:20] = 200
    maps = REFERENCES[name](pixels, 0)
    assert maps.shape == (2, 20, 30) and np.isfinite(maps).all()
    if name == EDGES:
        assert maps[0, 10, 10] > 0 and maps[0, 10, 15] == 0 and maps[0, 2, 2] == 0
    elif name == WHOLE:
        assert np.ptp(maps) == 0
    elif name == "centred Gaussian":
        assert np.unravel_index(maps[0].argmax(), (20, 30))[0] in (9, 10) and np.allclose(maps[0], maps[0, ::-1, ::-1])
    else:
        assert np.ptp(maps) > 0 and (maps[0] != maps[1]).any()


# --- random weights


def test_rank_correlation_is_spearmans() -> None:
    first, second = drawn(9, 9), drawn(9, 9, seed=1).round(1)
    assert rank_correlation(first, second) == pytest.approx(stats.spearmanr(first.ravel(), second.ravel()).statistic)
    assert rank_correlation(first, np.exp(first)) == pytest.approx(1)
    assert rank_correlation(first, np.ones((9, 9))) == 0


@pytest.mark.parametrize("signed", [True, False])
def test_structural_similarity_is_scikit_images(*, signed: bool) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    first, second = drawn(30, 24), drawn(30, 24, seed=1)
    second = 0.6 * first + 0.4 * second
    first, second = (first, second) if signed else (np.abs(first), np.abs(second))
    theirs = metrics.structural_similarity(
        first / np.abs(first).max(), second / np.abs(second).max(), data_range=2.0 if signed else 1.0
    )
    assert structural_similarity(first, second, signed=signed) == pytest.approx(theirs, abs=1e-9)
    assert structural_similarity(first, first, signed=signed) == pytest.approx(1)
    assert np.isfinite(structural_similarity(np.zeros((9, 9)), np.zeros((9, 9)), signed=signed))


# --- the command


@pytest.fixture
def boxed_run(cnntrain: Call, folder: Path) -> str:
    """A run on images whose class is the colour of a square; the list of their squares, and these as masks."""
    rng, lines = np.random.default_rng(0), list[list[Any]]()
    (folder / "masks").mkdir()
    for part, count in (("train", 16), ("test", 8)):
        for colour, name in enumerate(("green", "red")):
            (folder / "squares" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(60, 200, (28, 28, 3), dtype=np.uint8)
                top, left = rng.integers(0, 18, 2)
                pixels[top : top + 10, left : left + 10] = (240, 10, 10) if colour else (10, 240, 10)
                file = f"{part}_{name}_{i}.png"
                Image.fromarray(pixels).save(folder / "squares" / part / name / file)
                lines.append([file, left, top, left + 9, top + 9])
                mask = np.zeros((28, 28), dtype=np.uint8)
                mask[top : top + 10, left : left + 10] = 255
                Image.fromarray(mask).save(folder / "masks" / file)
    with (folder / "boxes.csv").open("w") as sink:
        csv.writer(sink).writerows(lines)
    cnntrain(
        *("fit", "model=lenet5", "dataset=folder", "dataset.root=squares", "dataset.val_size=0", "augmentation=none"),
        *("trainer.epochs=1", "trainer.batch_size=16", "optimizer.lr=0.01", "trainer.tensorboard=false", "device=cpu"),
        "output_dir=run",
    )
    return "run=run"


def test_scores_and_sanity_stand_in_the_results_the_tables_and_the_page(
    cnntrain: Call, boxed_run: str, folder: Path
) -> None:
    found = cnntrain(
        *("explain", boxed_run, "what=[gradcam,saliency]", "images=2", "scores=true", "scored=6", "sanity=true"),
        *("dataset.boxes=boxes.csv", "random_labels=run", "output_dir=out", "tensorboard=false"),
    )
    methods = {"gradcam", "saliency", *REFERENCES}
    assert {row["method"] for row in found["scores"]} == methods
    kinds = {row["score"] for row in found["scores"] if row["method"] == "gradcam"}
    boxes = {
        "pointing_game",
        "gt_known_localisation",
        "top1_localisation",
        *(f"max_box_acc_{o}" for o in (0.3, 0.5, 0.7)),
    }
    assert kinds == {"insertion", "deletion"} | boxes
    assert {row["score"] for row in found["scores"] if row["method"] == WHOLE} == boxes
    for row in found["scores"]:
        assert row["n"] == 6 and row["low"] <= row["value"] <= row["high"]
    pairs = [{row["method"], row["other"]} for row in found["pairs"] if row["score"] == "insertion"]
    assert len(pairs) == 10 and all(len(pair) == 2 and pair < methods for pair in pairs)  # of five, WHOLE has no order
    assert {row["method"] for row in found["sanity"]} == {"gradcam", "saliency"}
    stages = [row["stage"] for row in found["sanity"] if row["method"] == "gradcam"]
    assert stages[-1] == "labels" and len(stages) > 2
    labels = [row for row in found["sanity"] if row["stage"] == "labels"]  # the run itself: nothing changes
    assert all(row["rank_correlation"] == pytest.approx(1) and row["ssim"] == pytest.approx(1) for row in labels)
    assert all({"method", "stage", "rank_correlation", "ssim"} <= set(row) for row in found["sanity"])
    for name in ("scores", "pairs", "sanity"):
        assert len((folder / f"out/{name}.csv").read_text().splitlines()) == 1 + len(found[name])
    page = (folder / "out/report.html").read_text()
    assert page.count("Changes when the weights do") == 2 and (folder / "out/figures/sanity.png").is_file()


def test_masks_stand_in_place_of_boxes(cnntrain: Call, boxed_run: str) -> None:
    words = ["explain", boxed_run, "what=gradcam", "images=1", "scores=localisation", "scored=6", "figures=false"]
    boxes, masks = (
        {(row["method"], row["score"]): row for row in cnntrain(*words, said)["scores"]}
        for said in ("dataset.boxes=boxes.csv", "dataset.masks=masks")
    )
    scores = {"pointing_game", "gt_known_localisation", "top1_localisation", "pixel_precision"}
    assert {score for _, score in masks} == scores
    for method in ("gradcam", *REFERENCES):
        same = boxes[method, "pointing_game"]["value"]
        assert masks[method, "pointing_game"]["value"] == pytest.approx(same, abs=0.02)
    assert masks[WHOLE, "pixel_precision"]["value"] == pytest.approx(100 / 784)


def test_a_sentence_says_whether_maps_change_when_the_weights_do() -> None:
    first = np.abs(drawn(8, 12, 12))
    noisy = first + np.abs(drawn(8, 12, 12, seed=2)) / 10
    other = np.abs(drawn(8, 12, 12, seed=1))
    rows = [
        compared(*names, first, after, signed=False)
        for names, after in (
            (("image", "conv2"), other),
            (("image", "conv1"), noisy),
            (("image", "labels"), other),
            (("network", "conv2"), noisy),
            (("network", "conv1"), other),
            (("network", "labels"), first),
        )
    ]
    assert "do: no (" in sanity_sentence(rows, "image") and "do: yes (" in sanity_sentence(rows, "network")
    assert "sanity=true" in sanity_sentence(rows, "another")
    signs = np.sign(drawn(8, 12, 12, seed=3))
    turned = sanity_sentence([compared("signed", "conv1", signs * first, noisy, signed=True)], "signed")
    assert "in size no (" in turned and "in sign yes (" in turned


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["what=filters", "scores=true"], "cam"),
        (["what=gradcam", "scores=localisation"], "dataset.boxes="),
        (["what=gradcam", "scores=true", "dataset.boxes=nowhere.csv"], "nowhere.csv"),
        (["what=gradcam", "scores=true", "dataset.boxes=some.csv"], "test_"),
        (["what=gradcam", "scores=true", "dataset.boxes=boxes.csv", "images=squares/test"], "images="),
        (["what=gradcam", "sanity=true", "random_labels=nothing"], "nothing"),
        (["what=gradcam", "random_labels=run"], "sanity=true"),
        (["what=gradcam", "dataset.boxes=boxes.csv"], "scores=localisation"),
        (["what=gradcam", "scores=true", "dataset.masks=nowhere"], "nowhere"),
        (["what=gradcam", "scores=true", "dataset.masks=squares/train"], "test_"),
        (["what=gradcam", "scores=true", "dataset.boxes=boxes.csv", "dataset.masks=squares"], "one of them"),
        (["what=gradcam", "dataset.masks=squares"], "scores=localisation"),
    ],
)
def test_scores_that_cannot_be_are_refused_in_a_line(
    words: list[str], said: str, boxed_run: str, refused: Callable[..., str], folder: Path
) -> None:
    (folder / "some.csv").write_text("train_red_0.png,0,0,9,9\n")
    assert said in refused("explain", boxed_run, "images=2", *words)


def test_mistakes_are_chosen_the_surest_first(cnntrain: Call, tiny: tuple[str, ...]) -> None:
    cnntrain("fit", *tiny, "trainer.epochs=1", "optimizer.lr=0.0001", "output_dir=run")
    found = cnntrain(
        "explain", "run=run", "what=saliency", "choose=mistakes", "images=5", "figures=false", "output_dir=out"
    )
    rows = found["rows"]["saliency"]
    assert len(rows) == 5 and all(row["true"] != row["predicted"] for row in rows)
    sure = [row["probability"] for row in rows]
    assert sure == sorted(sure, reverse=True)
