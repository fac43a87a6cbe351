"""What a network is asked for: headlines, classification, and that a training knows nothing else of its task."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.data.loading.batch import Batch
from cnntrain.runtime.errors import InputError
from cnntrain.stats.metrics import confusion_matrix
from cnntrain.tasks import task_of
from cnntrain.tasks.classification import Classification, answer_columns
from cnntrain.tasks.task import Headline, Numbers
from cnntrain.training.evaluate import answers
from cnntrain.training.loop import TrainProgress, train
from cnntrain.training.optimizers import sgd
from cnntrain.training.step import TrainStep
from cnntrain.training.step_program import StepSettings
from cnntrain.training.train_state import TrainState

CLASSES, IGNORED = 3, 255


# --- headlines


def test_the_better_of_two_scores_has_the_better_headline_and_of_equal_ones_the_smaller_loss() -> None:
    top1, error = Headline("top1", "top-1"), Headline("error", "error", higher_is_better=False)
    ranked = [{}, {"top1": 0.4, "loss": 0.1}, {"top1": 0.5, "loss": 2.0}, {"top1": 0.5, "loss": 1.0}]
    assert sorted(ranked, key=top1.rank) == ranked
    assert error.rank({"error": 0.1, "loss": 1.0}) > error.rank({"error": 0.2, "loss": 1.0}) > error.rank({})
    assert not top1.rank({"top1": float("nan"), "loss": 1.0}) > top1.rank({})


def test_a_headline_writes_its_value_with_its_interval() -> None:
    scores = {"top1": 0.98611, "top1_low": 0.96789, "top1_high": 0.994, "n": 1360}
    assert Classification.headline.interval(scores) == "98.61 % (95 % interval 96.79 … 99.40 %, n = 1,360)"


def test_a_record_without_a_task_is_a_classification_and_an_unknown_task_is_refused() -> None:
    assert task_of({"kind": "val"}) is Classification
    with pytest.raises(InputError, match="'pose'"):
        task_of({"task": "pose"})


# --- classification


def test_the_score_of_summed_counts_is_that_of_all_images() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(60, 4, generator=generator), torch.randint(4, (60,), generator=generator)
    task = Classification(tuple("abcd"))
    sums = task.no_counts["right"]
    for part in range(3):
        sums = sums + task.counts(logits[part::3], labels[part::3])["right"]
    scores = task.validate([(logits[:37], labels[:37]), (logits[37:], labels[37:])])
    expected = float((logits.argmax(1) == labels).double().mean())
    assert task.score({"right": sums}, 60) == {"top1": pytest.approx(expected)}
    assert scores["top1"] == pytest.approx(expected) and scores["n"] == 60
    assert scores["loss"] == pytest.approx(F.cross_entropy(logits, labels).item())
    assert set(scores) == set(task.val_keys) and task.reads((4,)) and not task.reads((4, 2, 2))


def test_an_answer_is_a_row_of_the_likeliest_classes() -> None:
    assert answer_columns(torch.tensor([0.2, 0.7, 0.1]), "abc", "class") == {
        **{"class": "b", "probability": "0.700000", "top1": "b", "top1_probability": "0.700000"},
        **{"top2": "a", "top2_probability": "0.200000", "top3": "c", "top3_probability": "0.100000"},
    }


# --- any task


class PixelLabels:
    """A class for every pixel: another shape of answers, targets and counts than those of classification."""

    headline: ClassVar[Headline] = Headline("overlap", "overlap")
    train_keys: ClassVar[tuple[str, ...]] = ("loss", "overlap")
    val_keys: ClassVar[tuple[str, ...]] = ("n", "loss", "overlap")
    answer, weighted = (CLASSES, 6, 6), True

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(answer.float(), target.long(), ignore_index=IGNORED)

    def weight(self, target: Tensor) -> Tensor:
        return (target != IGNORED).sum()

    @property
    def no_counts(self) -> dict[str, Tensor]:
        return {
            "confusion": torch.zeros(CLASSES, CLASSES, dtype=torch.int64),
            "pixels": torch.zeros(1, dtype=torch.int64),
        }

    def counts(self, answer: Tensor, target: Tensor) -> dict[str, Tensor]:
        cells = (target.long() * CLASSES + answer.argmax(1))[..., None] == torch.arange(CLASSES**2)
        return {"confusion": cells.flatten(0, 2).sum(0).view(CLASSES, CLASSES)}

    def score(self, sums: Mapping[str, Tensor], n: int) -> Numbers:
        confusion = sums["confusion"].double()
        union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
        return {"overlap": float((confusion.diag() / union.clamp(min=1)).mean())}

    def validate(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Numbers:
        sums, n, loss = self.no_counts, 0, 0.0
        for answer, target in pairs:
            sums = {key: sums[key] + count for key, count in self.counts(answer, target).items()}
            n, loss = n + len(target), loss + float(self.loss(answer, target)) * len(target)
        return {"n": n, "loss": loss / n, **self.score(sums, n)}

    def measure(self, answer: Tensor, target: Tensor) -> Numbers:
        return self.validate([(answer, target)])

    def baseline(self, targets: Tensor | None) -> Numbers:
        return {}

    @staticmethod
    def remarks(result: Mapping[str, Any]) -> Iterator[str]:
        return iter(())

    warnings = details = remarks


class Drawings:
    """A loader of images whose pixels say their own class; the corner of each is not labelled."""

    batches, batch_size = 4, 8

    def __init__(self) -> None:
        classes = torch.randint(CLASSES, (32, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        self.images, self.maps, self.place = classes.float()[:, None] - 1, classes.clone(), 0
        self.maps[:, 0, 0] = IGNORED

    def seek(self, epoch: int, place: int) -> None:
        self.place = place

    def batch(self) -> Batch:
        rows = slice(self.place * 8, self.place * 8 + 8)
        self.place += 1
        return Batch(self.images[rows].contiguous(memory_format=torch.channels_last), self.maps[rows], self.maps[rows])


def test_the_loop_trains_sums_and_scores_a_task_of_other_shapes() -> None:
    """Its counts are a matrix, its targets maps of bytes, and its mean is over the labelled pixels of a step."""
    task, loader = PixelLabels(), Drawings()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, CLASSES, 1)).to(memory_format=torch.channels_last)
    step = TrainStep(TrainState(net, sgd(net, lr=0.3)), [0.3] * 60, task, StepSettings("fp32", 0, accumulate=2))
    with torch.no_grad():
        answer, maps = net(loader.images[:16]), loader.maps[:16]
    step.update(loader, 0)  # type: ignore[arg-type]
    labelled = maps != IGNORED
    expected = confusion_matrix(answer.argmax(1)[labelled], maps[labelled].long(), CLASSES)
    assert step.program.sums.counts["confusion"].tolist() == expected.tolist()
    assert step.read(1)["loss"] == pytest.approx(float(task.loss(answer, maps)), rel=1e-5)
    pairs = [(loader.images, loader.maps)]
    records = list(
        train(
            step,
            loader,  # type: ignore[arg-type]
            lambda net: task.validate(answers(net, pairs, precision="fp32")),
            at=(at := TrainProgress()),
            epochs=30,
            save=lambda which: None,
        )
    )
    overlaps = [record["overlap"] for record in records if record["kind"] == "val"]
    assert overlaps[-1] > 0.99 > overlaps[0] and at.best["overlap"] == max(overlaps)
