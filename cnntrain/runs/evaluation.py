"""What a run says of a split: measured once, kept, and read again."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.config import schema
from cnntrain.data.augment.tta import TTA
from cnntrain.data.datasets.registry import checksums
from cnntrain.data.loading.loader import eval_batches
from cnntrain.data.storage.images import DatasetInfo, Split, files_of
from cnntrain.runs import records
from cnntrain.runs.folder import RESULTS, provenance, refuse_unwritable
from cnntrain.runs.images import run_images
from cnntrain.runs.load import load_run, weights_digest
from cnntrain.runs.predictions import likeliest
from cnntrain.runtime import disk
from cnntrain.runtime.devices import choose_device, choose_precision, hardware, prepare
from cnntrain.runtime.errors import InputError, as_text
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.progress import say, track
from cnntrain.runtime.tables import render
from cnntrain.stats.metrics import classification
from cnntrain.training.evaluate import Outputs, outputs

PREDICTIONS, TABLE = "predictions.npz", "predictions.csv"


class Evaluation(NamedTuple):
    """What an evaluation left in its folder."""

    folder: Path
    found: dict[str, Any]  # results.json
    probabilities: np.ndarray  # float32 [N, classes]
    labels: np.ndarray  # int64 [N]
    checksums: np.ndarray | None  # of the images' pixels, uint64 [N]; None where they were not kept
    files: np.ndarray | None  # text [N]; None for images that are no files


class Measured(NamedTuple):
    """What a network says of a split, and of which images."""

    outputs: Outputs
    checksums: np.ndarray  # of the images' pixels, uint64 [N]
    files: list[str] | None  # None for images that are no files


def evaluate(
    folder: Path,
    cfg: schema.Evaluated,
    argv: list[str],
    *,
    tta: str = "none",
    dataset: dict[str, Any] | None = None,
    output: Path | None = None,
) -> tuple[dict[str, Any], Path]:
    """Measure the run in `folder`, write what was found and return it with the folder it went to.

    `dataset` changes or replaces the run's own images; `argv` is the command line to remember.
    """
    typed = "output_dir=" if output else ""
    refuse_unwritable(output or folder / "eval", word=typed)
    prepare(deterministic=False)
    device = choose_device(cfg.device)
    net, info, settings = load_run(folder, cfg.weights)
    data_root = cfg.data_root or settings["data_root"]
    images = run_images(folder, settings, info, data_root, cfg.split, other=dataset)
    target = output or evaluation_folder(folder, images.name, cfg.weights, tta, images.other)
    refuse_unwritable(target, 4 * len(images.split) * len(info.classes), typed)  # for its logits

    net, precision = net.to(device), choose_precision(cfg.precision, device)
    measured = measure_split(
        net,
        images.split,
        info,
        batch_size=cfg.batch_size,
        workers=images.workers,
        device=device,
        precision=precision,
        title=f"eval {images.name}",
        tta=tta,
    )
    words = {"split": images.name, "dataset": images.dataset, "weights": cfg.weights, "tta": tta}
    made = {"device": str(device), "precision": precision, "other_dataset": dataset if images.other else None}
    return keep_evaluation(target, folder, measured, info, words, argv, made), target


def measure_split(
    net: nn.Module,
    split: Split,
    info: DatasetInfo,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    precision: Literal["fp32", "bf16"],
    title: str,
    tta: str = "none",
) -> Measured:
    """Show a network all images of a split under a bar with a title; each is told apart by a checksum as it passes."""
    seen: list[np.ndarray] = []
    batches = eval_batches(
        split, info, batch_size=batch_size, device=device, workers=workers, look=lambda x: seen.append(checksums(x))
    )
    result = outputs(net, track(batches, -(-len(split) // batch_size), title), precision=precision, views=TTA[tta])
    files = files_of(split.source)
    names = None if files is None else [as_text(files.path(position)) for position in range(len(split))]
    return Measured(result, np.concatenate(seen), names)


def keep_evaluation(
    target: Path,
    folder: Path,
    measured: Measured,
    info: DatasetInfo,
    words: dict[str, str],
    argv: list[str],
    made: dict[str, Any],
) -> dict[str, Any]:
    """Write what a run says of a split into `target`, and return the numbers.

    `words` say which split, dataset, weights and views; `made` on what it was measured.
    """
    result, labels = measured.outputs, measured.outputs.labels.numpy()
    found = {"run_dir": str(folder), **words, **classification(result.logits, result.labels, info.classes)}
    probabilities = result.logits.softmax(dim=1)
    arrays = {
        "logits": result.logits.numpy(),
        "probabilities": probabilities.numpy(),
        "predicted": probabilities.numpy().argmax(axis=1),
        "labels": labels,
        "classes": np.array(info.classes),
        "checksums": measured.checksums,
    }
    if measured.files is not None:
        arrays["files"] = np.array(measured.files)
    with disk.replacing(target / PREDICTIONS) as partial:
        np.savez_compressed(partial, **arrays)
    disk.write(target / TABLE, render(table(measured, probabilities, info.classes), "csv") + "\n")
    made |= {
        "hardware": hardware(),
        "weights": weights_digest(folder, words["weights"]),
        "images": images_digest(labels, measured.checksums),
    }
    write_json(target / RESULTS, found | {"record": provenance(argv) | made})
    return found


def table(measured: Measured, probabilities: Tensor, classes: Sequence[str]) -> list[dict[str, object]]:
    """Return a line for each image: its file, or its number where it is none, its label and the likeliest classes."""
    labels = measured.outputs.labels.tolist()
    rows: list[dict[str, object]] = []
    for file, label, shares in zip(measured.files or range(len(labels)), labels, probabilities, strict=True):
        likely = likeliest(shares, classes)
        answer = {"predicted": likely["top1"], "probability": likely["top1_probability"]}
        rows.append({"file": file, "label": classes[label], **answer, **likely})
    return rows


def evaluation(folder: Path, cfg: schema.Evaluated, *, checked: bool = False) -> Evaluation:
    """Return a run's evaluation, made first where it is missing or is one of other weights or of another dataset.

    One that is to be `checked` has a checksum of each image.
    """
    target = evaluation_folder(folder, cfg.split, cfg.weights)
    found = current(target, weights_digest(folder, cfg.weights))
    if found and (found.checksums is not None or not checked):
        return found
    say(f"evaluating {folder} ({cfg.split} images, {cfg.weights} weights)")
    evaluate(folder, cfg, ["cnntrain", "eval", f"run={folder}", f"split={cfg.split}", f"weights={cfg.weights}"])
    return read_evaluation(target)


def current(target: Path, weights: str) -> Evaluation | None:
    """Return the evaluation in a folder if it is whole, and one of these weights on the run's own images."""
    if not ((target / RESULTS).is_file() and (target / PREDICTIONS).is_file()):
        return None
    try:
        found = read_evaluation(target)
    except InputError as error:
        say(f"warning: {error}")
        return None
    record = found.found["record"]
    return found if record["weights"] == weights and not record.get("other_dataset") else None


def read_evaluation(target: Path) -> Evaluation:
    """Return the evaluation in a folder.

    Raises `InputError` naming the file and what is wrong with it.
    """
    found, path = records.evaluation(target), target / PREDICTIONS
    try:
        with path.open("rb") as file, np.load(file) as saved:
            arrays = {key: saved.get(key) for key in ("probabilities", "labels", "checksums", "files")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error or type(error).__name__}") from error
    n, classes = found["n"], len(found["per_class"])
    shapes = {key: None if array is None else array.shape for key, array in arrays.items()}
    per_image = [shape for key, shape in shapes.items() if key == "labels" or (key != "probabilities" and shape)]
    if shapes["probabilities"] != (n, classes) or any(shape != (n,) for shape in per_image):
        raise InputError(f"{path} is not what {target / RESULTS} was written of")
    return Evaluation(target, found, **arrays)


def shows(measured: Evaluation, split: Split) -> bool:
    """Say whether a split holds the images that were evaluated, as far as their checksums are known."""
    if not np.array_equal(split.labels.numpy(), measured.labels):
        return False
    if measured.checksums is None:
        return True
    parts = np.array_split(np.arange(len(split)), -(-len(split) // 500))
    return all((checksums(split.source.read(part)) == measured.checksums[part]).all() for part in parts)


def evaluation_folder(folder: Path, split: str, weights: str, tta: str = "none", other: str = "") -> Path:
    """Return where the evaluation of a run lies, that of `other` images apart from its own."""
    return folder / "eval" / "_".join([split, weights, *([] if tta == "none" else [tta]), *filter(None, [other])])


def images_digest(labels: np.ndarray, sums: np.ndarray) -> str:
    """Return a short digest of the labels and the checksums of images."""
    return hashlib.sha256(labels.tobytes() + sums.tobytes()).hexdigest()[:16]
