"""`cnntrain eval`: measure a run on a split."""

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cnntrain import config, runs, schema
from cnntrain.analysis.metrics import classification
from cnntrain.commands.loading import load_run, run_dataset
from cnntrain.data.feeds import sweep
from cnntrain.data.views import VIEWS
from cnntrain.devices import choose_device, choose_precision, hardware, prepare
from cnntrain.errors import InputError
from cnntrain.progress import track
from cnntrain.tables import interval, percent, render
from cnntrain.training.evaluate import outputs


def run(composed: DictConfig) -> dict[str, Any]:
    """Evaluate as configured; return what `--json` prints."""
    cfg = config.read(schema.Eval, composed)
    prepare(deterministic=False)
    device = choose_device(cfg.device)
    folder = runs.find(cfg.run)
    net, card, settings = load_run(folder, cfg.weights)
    dataset, workers = run_dataset(settings, card, cfg.dataset, cfg.data_root or settings["data_root"], cfg.split)
    split = getattr(dataset, cfg.split)
    if split is None:
        raise InputError(f"split={cfg.split}: {dataset.card.name} has no such images here")

    net, precision = net.to(device), choose_precision(cfg.precision, device)
    batches = sweep(split, card, batch_size=cfg.batch_size, device=device, workers=workers)
    shown = track(batches, -(-len(split) // cfg.batch_size), f"eval {cfg.split}")
    result = outputs(net, shown, precision=precision, views=VIEWS[cfg.tta])
    found = {
        "run_dir": str(folder),
        "split": cfg.split,
        "dataset": dataset.card.name,
        "weights": cfg.weights,
        "tta": cfg.tta,
        **classification(result.logits, result.labels, card.classes),
    }

    views = "" if cfg.tta == "none" else f"_{cfg.tta}"
    target = Path(cfg.output_dir) if cfg.output_dir else folder / "eval" / f"{cfg.split}_{cfg.weights}{views}"
    target.mkdir(parents=True, exist_ok=True)
    probabilities = result.logits.softmax(dim=1).numpy()
    np.savez_compressed(
        target / "predictions.npz",
        logits=result.logits.numpy(),
        probabilities=probabilities,
        predicted=probabilities.argmax(axis=1),
        labels=result.labels.numpy(),
        classes=np.array(card.classes),
    )
    made = {"device": str(device), "precision": precision, "hardware": hardware()}
    runs.write_json(target / runs.RESULTS, found | {"record": runs.provenance(config.command_line("eval")) | made})
    report(found, target)
    return found


def report(found: dict[str, Any], target: Path) -> None:
    """Tell the person what was measured."""
    accuracy = interval(found["top1"], found["top1_low"], found["top1_high"], found["n"])
    print(f"{found['split']} top-1    {accuracy}")
    print(f"top-5         {percent(found['top5'])}")
    print(f"loss          {found['loss']:.4f}")
    print(f"calibration   expected error {percent(found['ece'])}")
    macro = (found["macro_precision"], found["macro_recall"], found["macro_f1"])
    print(f"macro         precision {macro[0]:.4f}, recall {macro[1]:.4f}, F1 {macro[2]:.4f}\n")
    columns = ("class", "n", "precision", "recall", "f1")
    rows = [{key: row[key] for key in columns} for row in found["per_class"]]
    if len(rows) > 20:
        print(f"the 20 of {len(rows)} classes with the lowest F1:")
        rows = sorted(rows, key=lambda row: row["f1"])[:20]
    print(render(rows))
    mistakes = confusions(found["confusion"], [row["class"] for row in found["per_class"]])
    if mistakes:
        print(f"\nmost often confused: {'; '.join(mistakes)}")
    print(f"\nper image     {target / 'predictions.npz'}")
    print(f"next          cnntrain predict run={found['run_dir']} images='path/to/*.png'")


def confusions(confusion: list[list[int]], classes: list[str], most: int = 3) -> list[str]:
    """Return the commonest mistakes in words."""
    cells = [(count, i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if i != j and count]
    cells.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    return [f"{classes[i]} taken for {classes[j]} ({count})" for count, i, j in cells[:most]]
