"""Evaluations: what a network answers on a split, measured in one place, kept in a folder and read again."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.config import schema
from cnntrain.data.augment.tta import TTA, WITHOUT_PIXELS
from cnntrain.data.datasets.fingerprint import checksums
from cnntrain.data.loading.loader import eval_batches
from cnntrain.data.storage.images import DatasetInfo, Split, files_of
from cnntrain.nn.precision import precision_for
from cnntrain.runs import records
from cnntrain.runs.folder import RESULTS, provenance, refuse_unwritable
from cnntrain.runs.images import run_images
from cnntrain.runs.load import load_run, read_info, weights_digest
from cnntrain.runtime import disk
from cnntrain.runtime.devices import choose_device, hardware, prepare
from cnntrain.runtime.errors import InputError, as_text
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import say, track
from cnntrain.runtime.tables import render
from cnntrain.stats.paired_tests import Pairs
from cnntrain.tasks import kind_of, task_for, task_of
from cnntrain.tasks.task import Headline, Task
from cnntrain.training.evaluate import answers as answers_of

PREDICTIONS, TABLE = "predictions.npz", "predictions.csv"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation left in its folder."""

    folder: Path
    results: dict[str, Any]  # results.json
    kept: dict[str, np.ndarray]  # what the task keeps of each image, by name
    labels: np.ndarray  # [N, …] as in the split
    checksums: np.ndarray | None  # of the images' pixels, uint64 [N]; None where they were not kept
    files: np.ndarray | None  # text [N]; None for images that are no files

    @property
    def headline(self) -> Headline:
        """The number of the results that stands for the score."""
        return task_of(self.results).headline

    @property
    def score(self) -> float:
        """The headline number."""
        return float(self.results[self.headline.key])

    def paired_with(self, other: "Evaluation") -> Pairs:
        """Compare another evaluation of the same images with this one."""
        return task_of(self.results).paired(self.per_image, other.per_image, self.kept.get("groups"))

    @property
    def probabilities(self) -> np.ndarray:
        """Those of a classification, float32 [N, classes]."""
        return self.kept["probabilities"]

    @property
    def per_image(self) -> np.ndarray:
        """What of each image decides between two networks [N, …]: whether it is classified correctly."""
        return task_of(self.results).per_image(self.kept)


@dataclass(frozen=True)
class EvaluationSetup:
    """What is evaluated, and how images are shown to the network."""

    dataset: str
    weights: str
    device: torch.device
    precision: Literal["fp32", "bf16"]
    batch_size: int
    workers: int
    tta: str = "none"
    other_dataset: dict[str, Any] | None = None  # the options of images that are not the run's own


@dataclass(frozen=True, eq=False)
class SplitAnswers:
    """What a network answers on a split, and on which images."""

    split: str
    kept: dict[str, Tensor]  # by the task, one row an image, on the CPU
    labels: Tensor  # [N, …] as in the split
    checksums: np.ndarray  # of the images' pixels, uint64 [N]
    files: list[str] | None  # None for images that are no files

    def score(self, info: DatasetInfo) -> float:
        """Return the task's headline number."""
        task = task_for(info)
        return float(self.measured(task)[task.headline.key])

    def measured(self, task: Task) -> dict[str, Any]:
        """Return every number of the task.

        Raises `InputError` where nothing is labelled, so that there is no headline.
        """
        numbers = task.measure(self.kept)
        if numbers[task.headline.key] is None:
            raise InputError(f"nothing in the {self.split} images is labelled: they have no {task.headline.label}")
        return numbers


def evaluate(
    folder: Path,
    cfg: schema.Evaluated,
    argv: list[str],
    *,
    tta: str = "none",
    dataset: dict[str, Any] | None = None,
    output: Path | None = None,
) -> tuple[dict[str, Any], Path]:
    """Measure the run in `folder`, write the results and return them with the folder they went to.

    `dataset` changes or replaces the run's own images; `argv` is the command line to remember.
    """
    typed = "output_dir=" if output else ""
    refuse_unwritable(output or folder / "eval", word=typed)
    prepare(deterministic=False)
    device = choose_device(cfg.device)
    net, info, settings = load_run(folder, cfg.weights, any_task=True)
    if tta != "none" and info.targets != "classes":
        gives = kind_of(info).gives
        raise InputError(f"tta={tta} averages one answer an image, and this network gives {gives}; take none")
    if info.words and tta not in WITHOUT_PIXELS:
        raise InputError(f"tta={tta} moves pixels, and {folder} reads words: take {' or '.join(WITHOUT_PIXELS)}")
    data_root = cfg.data_root or settings["data_root"]
    images = run_images(folder, settings, info, data_root, cfg.split, other=dataset)
    target = output or evaluation_folder(folder, images.name, cfg.weights, tta, images.other)
    refuse_unwritable(target, 4 * len(images.split) * len(info.classes), typed)  # about what is kept of the images

    precision = precision_for(cfg.precision, device, (net, info.shape))
    other = dataset if images.other else None
    setup = EvaluationSetup(
        images.dataset, cfg.weights, device, precision, cfg.batch_size, images.workers, tta, other_dataset=other
    )
    answers = measure_split(net.to(device), images.split, info, setup, images.name, title=f"eval {images.name}")
    return write_evaluation(target, folder, answers, info, setup, argv), target


def measure_split(
    net: nn.Module,
    split: Split,
    info: DatasetInfo,
    setup: EvaluationSetup,
    name: str,
    *,
    title: str,
) -> SplitAnswers:
    """Show a network all images of the split `name` under a bar with a title; each gets a checksum as it passes."""
    sums: list[np.ndarray] = []
    size = setup.batch_size
    batches = eval_batches(
        split,
        info,
        batch_size=size,
        device=setup.device,
        workers=setup.workers,
        look=lambda images: sums.append(checksums(images)),
    )
    shown = track(batches, -(-len(split) // size), title)
    seed = 0 if setup.tta == "dropout" else None
    answered = answers_of(net, shown, precision=setup.precision, views=TTA[setup.tta], dropout_seed=seed)
    task = task_for(info)
    parts = [{key: x.cpu() for key, x in task.kept(*pair).items()} for pair in answered]
    kept = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    if split.groups is not None:
        kept["groups"] = split.groups
    files = files_of(split.source)
    names = None if files is None else [as_text(files.path(position)) for position in range(len(split))]
    return SplitAnswers(name, kept, split.labels, np.concatenate(sums), names)


def write_evaluation(
    target: Path, folder: Path, answers: SplitAnswers, info: DatasetInfo, setup: EvaluationSetup, argv: list[str]
) -> dict[str, Any]:
    """Write what the run in `folder` answers on a split into `target`, and return the numbers."""
    task, labels = task_for(info), answers.labels.numpy()
    asked = {"split": answers.split, "dataset": setup.dataset, "weights": setup.weights, "tta": setup.tta}
    results = {"run_dir": str(folder), **asked, **answers.measured(task)}
    arrays: dict[str, Any] = {
        **{key: value.numpy() for key, value in answers.kept.items()},
        "labels": labels,
        "classes": np.array(info.classes),
        "checksums": answers.checksums,
    }
    if "logits" in arrays:
        arrays["probabilities"] = answers.kept["logits"].softmax(dim=1).numpy()
        arrays["predicted"] = arrays["probabilities"].argmax(axis=1)
    if answers.files is not None:
        arrays["files"] = np.array(answers.files)
    with disk.replacing(target / PREDICTIONS) as partial:
        np.savez_compressed(partial, **arrays)
    disk.write(target / TABLE, render(image_rows(answers, task), "csv") + "\n")
    record = provenance(argv) | {
        "device": str(setup.device),
        "precision": setup.precision,
        "other_dataset": setup.other_dataset,
        "hardware": hardware(),
        "weights": weights_digest(folder, setup.weights),
        "images": images_digest(labels, answers.checksums),
    }
    write_json(target / RESULTS, results | {"record": record})
    return results


def image_rows(answers: SplitAnswers, task: Task) -> list[dict[str, object]]:
    """Return a line for each image: its file, or its number where it is none, and what the task says of it."""
    columns = task.image_columns(answers.kept)
    return [{"file": file, **row} for file, row in zip(answers.files or range(len(columns)), columns, strict=True)]


def ensure_evaluation(folder: Path, cfg: schema.Evaluated, *, checksums: bool = False) -> Evaluation:
    """Return a run's evaluation, made first where it is missing or is one of other weights or of another dataset.

    With `checksums` one that lacks those of the images is made again.
    """
    target = evaluation_folder(folder, cfg.split, cfg.weights)
    evaluation = reusable_evaluation(target, weights_digest(folder, cfg.weights))
    if evaluation and (evaluation.checksums is not None or not checksums):
        return evaluation
    noun = read_info(records.record(folder)).noun
    say(f"evaluating {folder} ({cfg.split} {noun}s, {cfg.weights} weights)")
    evaluate(folder, cfg, ["cnntrain", "eval", f"run={folder}", f"split={cfg.split}", f"weights={cfg.weights}"])
    return read_evaluation(target)


def reusable_evaluation(target: Path, weights: str) -> Evaluation | None:
    """Return the evaluation in a folder if it is complete, and one of these weights on the run's own images."""
    if not ((target / RESULTS).is_file() and (target / PREDICTIONS).is_file()):
        return None
    try:
        evaluation = read_evaluation(target)
    except InputError as error:
        say(f"warning: {error}")
        return None
    record = evaluation.results["record"]
    return evaluation if record["weights"] == weights and not record.get("other_dataset") else None


def read_evaluation(target: Path) -> Evaluation:
    """Return the evaluation in a folder.

    Raises `InputError` naming the file and what is wrong with it.
    """
    results, path = records.evaluation(target), target / PREDICTIONS
    try:
        with path.open("rb") as file, np.load(file) as saved:
            arrays = {key: saved[key] for key in saved.files if key != "classes"}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error or type(error).__name__}") from error
    n, classes, sums = results["n"], len(results["per_class"]), arrays.pop("checksums", None)
    files = arrays.pop("files", None)
    of_classes = {key: arrays[key].shape[1] for key in ("probabilities", "confusion") if key in arrays}
    rows = {len(array) for array in (*arrays.values(), sums, files) if array is not None}
    needed = {"labels", task_of(results).decisive}
    if rows != {n} or not set(of_classes.values()) <= {classes} or not needed <= arrays.keys():
        raise InputError(f"{path} does not belong to {target / RESULTS}")
    return Evaluation(target, results, arrays, arrays["labels"], sums, files)


def is_evaluation_of(evaluation: Evaluation, split: Split) -> bool:
    """Say whether a split holds the images that were evaluated, as far as their checksums are known."""
    if not np.array_equal(split.labels.numpy(), evaluation.labels):
        return False
    if evaluation.checksums is None:
        return True
    parts = np.array_split(np.arange(len(split)), -(-len(split) // 500))
    return all((checksums(split.source.read(part)) == evaluation.checksums[part]).all() for part in parts)


def evaluation_folder(folder: Path, split: str, weights: str, tta: str = "none", other: str = "") -> Path:
    """Return where the evaluation of a run lies, that of `other` images apart from its own."""
    return folder / "eval" / "_".join([split, weights, *([] if tta == "none" else [tta]), *filter(None, [other])])


def images_digest(labels: np.ndarray, sums: np.ndarray) -> str:
    """Return a short digest of the labels and the checksums of images."""
    return hashlib.sha256(labels.tobytes() + sums.tobytes()).hexdigest()[:16]
