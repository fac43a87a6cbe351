"""`cnntrain eval`: measure a run on a split."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from cnntrain import config, disk, records, runs, schema
from cnntrain.analysis.metrics import classification
from cnntrain.commands.loading import load_run, weights_digest
from cnntrain.commands.predict import likeliest
from cnntrain.commands.run_images import run_images
from cnntrain.data.datasets import checksums
from cnntrain.data.feeds import sweep
from cnntrain.data.sources import Card, Split, files_of
from cnntrain.data.views import VIEWS
from cnntrain.devices import choose_device, choose_precision, hardware, prepare
from cnntrain.errors import InputError, as_text, setting
from cnntrain.progress import say, track
from cnntrain.tables import interval, percent, render
from cnntrain.training.evaluate import Outputs, outputs

PREDICTIONS, TABLE = "predictions.npz", "predictions.csv"
TOP5_FROM = 6  # classes: of five or fewer every image is among the top five


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


def run(composed: DictConfig) -> dict[str, Any]:
    """Evaluate as configured; return what `--json` prints."""
    cfg = config.read(schema.Eval, composed)
    folder = runs.find(cfg.run)
    output = Path(cfg.output_dir) if cfg.output_dir else None
    argv = config.command_line("eval")
    found, target = evaluate(folder, cfg, argv, tta=cfg.tta, dataset=cfg.dataset, output=output)
    report(found, target)
    return found


check = partial(config.read, schema.Eval)  # of a sweep's jobs, before any of them


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
    runs.refuse_unwritable(output or folder / "eval", word=typed)
    prepare(deterministic=False)
    device = choose_device(cfg.device)
    net, card, settings = load_run(folder, cfg.weights)
    data_root = cfg.data_root or settings["data_root"]
    images = run_images(folder, settings, card, data_root, cfg.split, other=dataset)
    target = output or place(folder, images.name, cfg.weights, tta, images.other)
    runs.refuse_unwritable(target, 4 * len(images.split) * len(card.classes), typed)  # for its logits

    net, precision = net.to(device), choose_precision(cfg.precision, device)
    measured = measure(
        net,
        images.split,
        card,
        batch_size=cfg.batch_size,
        workers=images.workers,
        device=device,
        precision=precision,
        title=f"eval {images.name}",
        tta=tta,
    )
    words = {"split": images.name, "dataset": images.dataset, "weights": cfg.weights, "tta": tta}
    made = {"device": str(device), "precision": precision, "other_dataset": dataset if images.other else None}
    return keep(target, folder, measured, card, words, argv, made), target


def measure(
    net: nn.Module,
    split: Split,
    card: Card,
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
    batches = sweep(
        split, card, batch_size=batch_size, device=device, workers=workers, look=lambda x: seen.append(checksums(x))
    )
    result = outputs(net, track(batches, -(-len(split) // batch_size), title), precision=precision, views=VIEWS[tta])
    files = files_of(split.source)
    names = None if files is None else [as_text(files.path(position)) for position in range(len(split))]
    return Measured(result, np.concatenate(seen), names)


def keep(
    target: Path,
    folder: Path,
    measured: Measured,
    card: Card,
    words: dict[str, str],
    argv: list[str],
    made: dict[str, Any],
) -> dict[str, Any]:
    """Write what a run says of a split into `target`, and return the numbers.

    `words` say which split, dataset, weights and views; `made` on what it was measured.
    """
    result, labels = measured.outputs, measured.outputs.labels.numpy()
    found = {"run_dir": str(folder), **words, **classification(result.logits, result.labels, card.classes)}
    probabilities = result.logits.softmax(dim=1)
    arrays = {
        "logits": result.logits.numpy(),
        "probabilities": probabilities.numpy(),
        "predicted": probabilities.numpy().argmax(axis=1),
        "labels": labels,
        "classes": np.array(card.classes),
        "checksums": measured.checksums,
    }
    if measured.files is not None:
        arrays["files"] = np.array(measured.files)
    with disk.replacing(target / PREDICTIONS) as partial:
        np.savez_compressed(partial, **arrays)
    disk.write(target / TABLE, render(table(measured, probabilities, card.classes), "csv") + "\n")
    made |= {
        "hardware": hardware(),
        "weights": weights_digest(folder, words["weights"]),
        "images": images_digest(labels, measured.checksums),
    }
    runs.write_json(target / runs.RESULTS, found | {"record": runs.provenance(argv) | made})
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
    target = place(folder, cfg.split, cfg.weights)
    found = current(target, weights_digest(folder, cfg.weights))
    if found and (found.checksums is not None or not checked):
        return found
    say(f"evaluating {folder} ({cfg.split} images, {cfg.weights} weights)")
    evaluate(folder, cfg, ["cnntrain", "eval", f"run={folder}", f"split={cfg.split}", f"weights={cfg.weights}"])
    return read(target)


def current(target: Path, weights: str) -> Evaluation | None:
    """Return the evaluation in a folder if it is whole, and one of these weights on the run's own images."""
    if not ((target / runs.RESULTS).is_file() and (target / PREDICTIONS).is_file()):
        return None
    try:
        found = read(target)
    except InputError as error:
        say(f"warning: {error}")
        return None
    record = found.found["record"]
    return found if record["weights"] == weights and not record.get("other_dataset") else None


def read(target: Path) -> Evaluation:
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
        raise InputError(f"{path} is not what {target / runs.RESULTS} was written of")
    return Evaluation(target, found, **arrays)


def shows(measured: Evaluation, split: Split) -> bool:
    """Say whether a split holds the images that were evaluated, as far as their checksums are known."""
    if not np.array_equal(split.labels.numpy(), measured.labels):
        return False
    if measured.checksums is None:
        return True
    parts = np.array_split(np.arange(len(split)), -(-len(split) // 500))
    return all((checksums(split.source.read(part)) == measured.checksums[part]).all() for part in parts)


def place(folder: Path, split: str, weights: str, tta: str = "none", other: str = "") -> Path:
    """Return where the evaluation of a run lies, that of `other` images apart from its own."""
    return folder / "eval" / "_".join([split, weights, *([] if tta == "none" else [tta]), *filter(None, [other])])


def images_digest(labels: np.ndarray, sums: np.ndarray) -> str:
    """Return a short digest of the labels and the checksums of images."""
    return hashlib.sha256(labels.tobytes() + sums.tobytes()).hexdigest()[:16]


def report(found: dict[str, Any], target: Path) -> None:
    """Tell the person what was measured."""
    accuracy = interval(found["top1"], found["top1_low"], found["top1_high"], found["n"])
    print(f"{found['split']} top-1    {accuracy}")
    if len(found["per_class"]) >= TOP5_FROM:
        print(f"top-5         {percent(found['top5'])}")
    print(f"loss          {found['loss']:.4f}")
    print(f"calibration   expected error {percent(found['ece'])}")
    macro = (found["macro_precision"], found["macro_recall"], found["macro_f1"])
    print(f"macro         precision {macro[0]:.4f}, recall {macro[1]:.4f} (balanced accuracy), F1 {macro[2]:.4f}\n")
    columns = ("class", "n", "precision", "recall", "f1")
    rows = [{key: row[key] for key in columns} for row in found["per_class"]]
    if len(rows) > 20:
        print(f"the 20 of {len(rows)} classes with the lowest F1:")
        rows = sorted(rows, key=lambda row: row["f1"])[:20]
    print(render(rows))
    mistakes = confusions(found["confusion"], [row["class"] for row in found["per_class"]])
    if mistakes:
        print(f"\nmost often confused: {'; '.join(mistakes)}")
    print(f"\nper image     {target / TABLE}")
    print(f"next          cnntrain predict {setting('run', found['run_dir'])} images='path/to/*.png'")


def confusions(confusion: list[list[int]], classes: list[str], most: int = 3) -> list[str]:
    """Return the commonest mistakes in words."""
    cells = [(count, i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if i != j and count]
    cells.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    return [f"{classes[i]} taken for {classes[j]} ({count})" for count, i, j in cells[:most]]
