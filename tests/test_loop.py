"""The loop: what it records and saves, and that a step is a device program."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from steps import step_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.loading.loader import ResidentLoader
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.nn.blocks import conv, dense, global_average, linear
from cnntrain.nn.stages import BuildOptions, assemble
from cnntrain.runtime.errors import InputError, NonFiniteError
from cnntrain.tasks import task_for
from cnntrain.tasks.classification import Classification, smoothed
from cnntrain.training.evaluate import answers, outputs
from cnntrain.training.loop import TrainProgress, train
from cnntrain.training.optimizers import OPTIMIZERS, sgd
from cnntrain.training.schedule_events import freeze_schedule
from cnntrain.training.step import TrainStep

CPU = torch.device("cpu")
INFO = DatasetInfo("stripes", ("flat", "upright"), (1, 8, 8), (0.5,), (0.5,))
TASK = task_for(INFO)


def stripes(count: int = 64) -> Split:
    """Horizontal and vertical stripes with noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    pattern = (torch.arange(8) % 2 * 200).expand(8, 8)
    images = torch.where(labels[:, None, None] == 1, pattern, pattern.T)
    noise = torch.randint(55, (count, 8, 8), generator=generator)
    return Split(Pixels((images + noise).to(torch.uint8).unsqueeze(-1)), labels)


def network(seed: int = 0, dropout: float = 0.3) -> nn.Sequential:
    makers = {"conv1": conv(4, 3, norm=True), "fc2": dense(8, dropout=dropout), "fc3": linear(2)}
    return assemble(makers, (1, 8, 8), out_shape=(2,), build=BuildOptions(seed=seed))


def train_step(net: nn.Sequential, steps: int = 100, optimizer: str = "sgd", **settings: Any) -> TrainStep:
    return step_of(net, OPTIMIZERS[optimizer](net, lr=0.05), [0.05] * steps, **settings)


def loader(batch_size: int = 16, seed: int = 0) -> ResidentLoader:
    return ResidentLoader(stripes(), INFO, batch_size=batch_size, parts={}, seed=seed, device=CPU)


def validated(net: nn.Sequential) -> dict[str, Any]:
    return TASK.validate(answers(net, _whole(), precision="fp32"))


def run(net: nn.Sequential, epochs: int = 4, **settings: Any) -> list[dict[str, Any]]:
    return list(
        train(train_step(net, **settings), loader(), None, at=TrainProgress(), epochs=epochs, save=lambda which: None)
    )


def test_it_learns_stripes() -> None:
    net = network()
    run(net, epochs=12)
    assert validated(net)["top1"] > 0.95


def _whole() -> list[tuple[Tensor, Tensor]]:
    from cnntrain.data.loading.loader import eval_batches

    return list(eval_batches(stripes(), INFO, batch_size=20, device=CPU))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_trainings_with_one_seed_are_equal_to_the_bit_and_another_seed_is_not(precision: str) -> None:
    nets = [network() for _ in range(3)]
    records = [run(net, precision=precision, seed=seed, ema=0.9) for net, seed in zip(nets, (0, 0, 1), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[2].parameters(), strict=True))
    times = ("seconds", "samples_per_second")
    kept = [[{k: v for k, v in record.items() if k not in times} for record in rows] for rows in records]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
@pytest.mark.parametrize("weighted", [{}, {"accumulate": 2, "class_weights": torch.tensor([1.0, 3.0])}])
def test_a_step_looks_at_no_value(optimizer: str, weighted: dict[str, Any]) -> None:
    student, data = (
        train_step(network(), optimizer=optimizer, clip=1.0, ema=0.9, label_smoothing=0.1, gradients=True, **weighted),
        loader(),
    )
    student.update(data, 0)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for step in range(1, 21):
            student.update(data, step)
    counts = {event.key: event.count for event in seen.key_averages()}
    assert counts["aten::convolution"] == 20 * student.accumulate
    assert counts.get("aten::_local_scalar_dense", 0) == 0


TWO_LAYERS = {"fc1": dense(6), "fc2": linear(2)}


def test_accumulating_two_batches_is_one_step_on_both_without_batch_norm() -> None:
    def plain() -> nn.Sequential:
        return assemble(TWO_LAYERS, (1, 8, 8), out_shape=(2,))

    halves, wholes = plain(), plain()
    accumulating, at_once = train_step(halves, accumulate=2), train_step(wholes)
    data = loader(batch_size=16)
    joined = loader(batch_size=32)
    for step in range(4):
        accumulating.update(data, step)
        at_once.update(joined, step)
    assert (data.plan.index.ravel() == joined.plan.index.ravel()).all()
    for a, b in zip(halves.parameters(), wholes.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"clip": 0.01}, {"accumulate": 2}, {"frozen": True}])
def test_gradients_are_those_of_the_whole_step_before_clipping_and_noting_them_changes_no_bit(
    settings: dict[str, Any],
) -> None:
    """Held against autograd on all images of a step at once."""
    frozen = settings.pop("frozen", False)
    noting, silent, oracle = (assemble(TWO_LAYERS, (1, 8, 8), out_shape=(2,)) for _ in range(3))
    freeze = {"freeze": "fc1"} if frozen else {}
    steps = [train_step(net, gradients=net is noting, **settings, **freeze) for net in (noting, silent)]
    batch = 16 // settings.get("accumulate", 1)
    data, same, whole = loader(batch_size=batch), loader(batch_size=batch), loader(batch_size=16)
    norms: dict[str, list[float]] = {"fc1": [], "fc2": []}
    for step in range(3):
        oracle.load_state_dict(noting.state_dict())
        oracle.zero_grad()
        whole.seek(0, step)
        x, target, _ = whole.batch()
        F.cross_entropy(oracle(x), target).backward()
        for name, stage in oracle.named_children():
            squares = sum(float(p.grad.square().sum()) for p in stage.parameters() if p.grad is not None)
            norms[name].append(0.0 if frozen and name == "fc1" else math.sqrt(squares))
        steps[0].update(data, step)
        steps[1].update(same, step)
    expected = {name: pytest.approx(sum(each) / 3, rel=1e-5) for name, each in norms.items()}
    assert steps[0].read(3)["gradients"] == expected
    assert "gradients" not in steps[1].read(3)
    assert all(torch.equal(a, b) for a, b in zip(noting.parameters(), silent.parameters(), strict=True))


def plain_mean(logits: Tensor, target: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Return the weighted cross-entropy of images by its formula, with class numbers or probabilities as the target."""
    shares = target if target.is_floating_point() else F.one_hot(target, logits.shape[1]).float()
    smoothed = shares * (1 - smoothing) + smoothing / logits.shape[1]
    return -(weights * smoothed * logits.log_softmax(dim=1)).sum() / (shares @ weights).sum()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("batch", "accumulate"), [(16, 1), (4, 4), (1, 16)])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 5.0)])
def test_a_step_is_the_mean_over_all_of_its_images(
    mixed: bool, smoothing: float, batch: int, accumulate: int, weights: tuple[float, ...]
) -> None:
    """Small batches count by the weights of their images, whatever their size; the loss that is read too."""
    net = assemble({"fc1": dense(6), "fc2": linear(2)}, (1, 8, 8), out_shape=(2,))
    reference, weighing = copy.deepcopy(net), torch.tensor(weights)
    parts = {"mixup": AUGMENTATIONS["mixup"](alpha=1.0)} if mixed else {}
    data = ResidentLoader(stripes(), INFO, batch_size=batch, parts=parts, seed=0, device=CPU)
    settings = {"accumulate": accumulate, "label_smoothing": smoothing}
    optimizer = OPTIMIZERS["sgd"](net, lr=0.5, momentum=0.0, weight_decay=0.0)
    student = step_of(net, optimizer, [0.5], class_weights=weighing if max(weights) > 1 else None, **settings)
    student.update(data, 0)
    data.seek(0, 0)
    images, targets, _ = (torch.cat(part) for part in zip(*(data.batch() for _ in range(accumulate)), strict=True))
    loss = plain_mean(reference(images), targets, weighing, smoothing)
    loss.backward()
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        assert b.grad is not None
        torch.testing.assert_close(a, b - 0.5 * b.grad, rtol=1e-5, atol=1e-6)
    assert student.read(1)["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_smoothed_labels_with_class_weights_are_torchs_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    for images, classes in ((1, 2), (7, 3), (64, 10)):
        logits = torch.randn(images, classes, generator=generator)
        target = torch.randint(classes, (images,), generator=generator)
        weights = torch.rand(classes, generator=generator) + 0.1
        assert torch.equal(
            smoothed(logits, target, weights, 0.1), F.cross_entropy(logits, target, weights, label_smoothing=0.1)
        )


def test_one_update_is_what_plain_torch_does() -> None:
    net = network(dropout=0.0)
    reference = copy.deepcopy(net)
    student, data = train_step(net, label_smoothing=0.1, clip=0.01, class_weights=torch.tensor([1.0, 3.0])), loader()
    student.update(data, 0)
    data.seek(0, 0)
    x, y, _ = data.batch()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    F.cross_entropy(reference(x), y, torch.tensor([1.0, 3.0]), label_smoothing=0.1).backward()
    nn.utils.clip_grad_norm_(reference.parameters(), 0.01)
    for p in reference.parameters():
        if p.ndim > 1 and p.grad is not None:
            p.grad += 5e-4 * p.detach()
    optimizer.step()
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_moving_average_follows_its_formula_batch_norm_included() -> None:
    net = network()
    student, data = train_step(net, ema=0.5), loader()
    expected = {k: v.clone() for k, v in net.state_dict().items()}
    for step in range(12):
        student.update(data, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {k: decay * v + (1 - decay) * net.state_dict()[k] for k, v in expected.items()}
    assert student.trained.average and student.evaluated is student.trained.average.net
    for key, value in student.trained.average.net.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


def test_a_stage_rests_from_its_share_of_the_steps_on() -> None:
    """It changes until then, not after, and what lies before it has no gradient either."""
    net = network()
    student, data = train_step(net, steps=10, freeze={"fc2": 0.45, "conv1": 0.0}), loader()
    seen = [{key: value.clone() for key, value in net.named_parameters()}]
    for step in range(10):
        student.update(data, step)
        seen.append({key: value.clone() for key, value in net.named_parameters()})
    moved = {key: [not torch.equal(a[key], b[key]) for a, b in itertools.pairwise(seen)] for key in seen[0]}
    for key, steps in moved.items():
        share = {"conv1": 0, "fc2": 5, "fc3": 10}[key.partition(".")[0]]
        assert steps == [True] * share + [False] * (10 - share), key
    assert [p.requires_grad for p in net.parameters()] == [key.startswith("fc3") for key in moved]
    train_step(network(), freeze=dict.fromkeys(("conv1", "fc2", "fc3"), 1.0))  # to the end: all of them learn


@pytest.mark.parametrize("freeze", ["backbone", ["conv1", "fc2"], {"*": 0.0, "fc3": 1.0}])
def test_a_frozen_backbone_is_a_head_learning_on_its_features(freeze: Any) -> None:
    """Stages that rest compute as in evaluation, with dropout off and statistics that stay, also after validations."""
    net = network()
    head, features = copy.deepcopy(net[2]), copy.deepcopy(net[:2]).eval()
    frozen = copy.deepcopy(net[:2].state_dict())
    student, data = train_step(net, steps=8, freeze=freeze, ema=0.9), loader()
    list(train(student, data, validated, at=TrainProgress(), epochs=2, save=lambda which: None))
    optimizer = sgd(head, lr=0.05)
    for step in range(8):
        data.seek(*divmod(step, data.batches))
        images, labels, _ = data.batch()
        with torch.no_grad():
            seen = features(images)
        F.cross_entropy(head(seen), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(net[2].parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for kept in (net[:2].state_dict(), student.evaluated[:2].state_dict()):
        assert all(torch.equal(kept[key], value) for key, value in frozen.items())
    assert not any(p in student.trained.optimizer.state for p in net[:2].parameters())
    assert net[2].training and not any(module.training for stage in net[:2] for module in stage.modules())


def test_a_stage_goes_on_normalising_by_its_batches_until_it_rests() -> None:
    net = network()
    student, data, seen = train_step(net, steps=8, freeze={"conv1": 0.5}), loader(), list[Tensor]()
    for step in range(8):
        student.update(data, step)
        seen.append(net.get_submodule("conv1.norm").running_mean.clone())  # type: ignore[operator]
    assert [not torch.equal(a, b) for a, b in itertools.pairwise(seen)] == [True] * 3 + [False] * 4


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_the_statistics_of_a_frozen_stage_move_in_training_mode_only(mode: Any) -> None:
    """Its weights stay in both, and so do the weights and statistics of one that computes as in evaluation."""
    net = network()
    student, data = train_step(net, steps=6, freeze="conv1", frozen_mode=mode), loader()
    before = {key: value.clone() for key, value in net[0].state_dict().items()}
    for step in range(6):
        student.update(data, step)
    moved = {key for key, value in net[0].state_dict().items() if not torch.equal(value, before[key])}
    statistics = {key for key, _ in net[0].named_buffers()}
    assert statistics and moved == (statistics if mode == "training" else set())


def test_a_stage_that_was_frozen_learns_again_from_its_share_of_the_steps_on() -> None:
    """Its weights and statistics stay until then and move afterwards; what never learnt before does not begin to."""
    net = network()
    fixed = net.get_parameter("conv1.norm.bias").requires_grad_(False)
    student, data = train_step(net, steps=10, freeze={"backbone": [0, 0.35], "fc3": [0.5, 0.7]}), loader()
    seen = [{key: value.clone() for key, value in net.state_dict().items()}]
    for step in range(10):
        student.update(data, step)
        seen.append({key: value.clone() for key, value in net.state_dict().items()})
    for key in seen[0]:
        steps = [not torch.equal(a[key], b[key]) for a, b in itertools.pairwise(seen)]
        if key.startswith("fc3"):
            assert steps == [True] * 5 + [False] * 2 + [True] * 3, key
        else:
            assert steps == [False] * 4 + [key != "conv1.norm.bias"] * 6, key
    assert not fixed.requires_grad and all(module.training for module in net.modules())


@pytest.mark.parametrize(
    "freeze", [{"conv1": [0.5, 0.2]}, {"conv1": [0.1, 0.2, 0.3]}, {"backbone": [0, 0.5], "fc3": [0.3, 0.4]}]
)
def test_spans_that_go_backwards_or_leave_nothing_to_learn_are_refused(freeze: Any) -> None:
    with pytest.raises(InputError, match="trainer.freeze"):
        train_step(network(), freeze=freeze)


def test_patterns_and_the_backbone_mean_stages_and_a_name_counts_before_a_pattern() -> None:
    makers = {"conv1": conv(2, 3), "conv2": conv(2, 3), "fc3": linear(2), "last": lambda shape: nn.Identity()}
    net = assemble(makers, (1, 8, 8), out_shape=(2,))
    assert [step for step, _ in freeze_schedule(net, {"conv1": 0.2, "conv*": 0.5}, 10)] == [2, 5]
    assert (
        len(freeze_schedule(net, "backbone", 10)) == 2
    )  # the last stage has no weights, the classifier is the one before it
    assert freeze_schedule(net, None, 10) == freeze_schedule(net, {}, 10) == []


def test_images_grow_at_their_shares_of_the_steps() -> None:
    """What a network sees are the loader's images as Pillow scales them, and whole ones at last."""
    makers = {"conv1": conv(4, 3, norm=True), "average": global_average(), "fc2": linear(2)}
    net = assemble(makers, (1, 8, 8), out_shape=(2,))
    student, data, shown = train_step(net, steps=10, resize={6: 0.45, 4: 0.2}), loader(), loader()
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    for step, side in enumerate((4, 4, 6, 6, 6, 8, 8, 8, 8, 8)):
        student.update(data, step)
        shown.seek(*divmod(step, shown.batches))
        images = shown.batch().images.numpy()[:, 0]
        expected = [np.asarray(Image.fromarray(image).resize((side, side), Resampling.BILINEAR)) for image in images]
        np.testing.assert_allclose(seen[step].numpy()[:, 0], np.stack(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("freeze", "says"),
    [
        (
            {"conv2": 0.5},
            r"trainer\.freeze\W.*'conv2'.*'conv1'.*conv1, fc2, fc3",
        ),
        ("block*", r"'block\*'.*conv1, fc2, fc3"),
        (dict.fromkeys(("conv1", "fc2", "fc3"), 0.5), "trainer.freeze.* no stage"),
        ("*", "trainer.freeze.* no stage"),
    ],
)
def test_what_cannot_be_frozen_is_refused(freeze: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        train_step(network(), freeze=freeze)


def test_records_come_at_their_steps_and_saves_after_them() -> None:
    happened: list[Any] = []
    scores = iter([0.5, 0.7, 0.7, 0.6, 0.6])

    def validate(net: nn.Module) -> dict[str, float]:
        return {"n": 10, "loss": 1.0, "top1": next(scores), "top1_low": 0.0, "top1_high": 1.0}

    student = train_step(network())
    for record in train(
        student, loader(), validate, at=TrainProgress(), epochs=5, log_every=3, patience=2, save=happened.append
    ):
        happened.append((record["kind"], record["step"]))
    assert happened[:7] == [
        *(("train", 3), ("train", 4), ("val", 4), "best", "epoch"),
        *(("train", 6), ("train", 8)),
    ]
    assert [step for step in happened if step[0] == "val"] == [("val", 4), ("val", 8), ("val", 12), ("val", 16)]
    assert happened.count("best") == 2 and happened.count("epoch") == 4  # patience ended it


def test_the_best_of_equal_accuracies_is_the_one_of_smaller_loss() -> None:
    saved: list[str] = []
    losses = iter([1.0, 0.5, 0.8])

    def validate(net: nn.Module) -> dict[str, float]:
        return {"loss": next(losses), "top1": 0.5}

    records = train(train_step(network()), loader(), validate, at=TrainProgress(), epochs=3, save=saved.append)
    assert [record["best"] for record in records if record["kind"] == "val"] == [True, True, False]


def test_without_validation_the_last_weights_are_the_best() -> None:
    saved: list[str] = []
    list(train(train_step(network()), loader(), None, at=TrainProgress(), epochs=2, save=saved.append))
    assert saved == ["epoch", "epoch", "best"]


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    net = network()
    student = step_of(net, sgd(net, lr=0.05), [1e30] * 100)
    with pytest.raises(NonFiniteError, match="optimizer.lr"):
        list(train(student, loader(), None, at=TrainProgress(), epochs=9, save=lambda which: None))


def test_evaluation_leaves_the_network_as_it_was() -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    outputs(net, _whole(), precision="fp32")
    assert net.training and all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_views_are_averaged_by_their_weights() -> None:
    net = network(dropout=0.0).eval()
    views = [(0.25, lambda x: x), (0.75, lambda x: x.flip(3))]
    found = outputs(net, _whole(), precision="fp32", views=views)
    x = torch.cat([x for x, _ in _whole()])
    with torch.no_grad():
        torch.testing.assert_close(found.logits, 0.25 * net(x) + 0.75 * net(x.flip(3)), rtol=1e-4, atol=1e-5)


def test_scores_hold_n_and_an_interval() -> None:
    found = Classification(tuple("abcd")).validate([(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
    assert found["n"] == 4 and found["top1"] == 0.75
    assert found["top1_low"] < 0.75 < found["top1_high"]
