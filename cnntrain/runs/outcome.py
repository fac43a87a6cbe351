"""What a training has come to: its numbers, and what to tell the person of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnntrain.data.storage.images import Dataset
from cnntrain.runs.folder import RECORD
from cnntrain.runtime.errors import listed, setting
from cnntrain.runtime.progress import clock, say
from cnntrain.runtime.tables import interval, percent
from cnntrain.training.loop import Record, TrainProgress

SCORES = ("n", "loss", "top1", "top1_low", "top1_high", "balanced_accuracy", "never_predicted")
UNEQUAL = 1.25  # times its even share has the commonest class from which on top-1 alone can mislead


def numbers(history: Sequence[Record], at: TrainProgress, per_epoch: int, dataset: Dataset) -> dict[str, Any]:
    """Return the numbers of the last epoch and of the best, and what always naming the commonest class would reach.

    They are null where the records of a run that has ended are lost, or there are no validation images.
    """
    found: dict[str, Any] = {"steps": at.step, "epochs": at.step // per_epoch, "majority": majority(dataset)}
    found |= dict.fromkeys(("samples_per_second", "train", "val", "best"))
    for record in history:
        if record["kind"] == "train":
            found["train"] = {key: record[key] for key in ("loss", "top1")}
            found["samples_per_second"] = record.get("samples_per_second", found["samples_per_second"])
        elif record["kind"] == "val":
            found["val"] = scores(record)
            if record["best"]:
                found["best"] = found["val"] | {"epoch": record["epoch"]}
    if "epoch" in at.best:  # else of a checkpoint of an older version
        found["best"] = scores(at.best) | {"epoch": at.best["epoch"]}
    chosen = found["best"] or found["train"] or {}
    return found | {"objective": chosen.get("top1")}


def scores(record: Record) -> dict[str, Any]:
    """Return the numbers of a validation; those that an older version did not record are null."""
    return {key: record.get(key) for key in SCORES}


def majority(dataset: Dataset) -> dict[str, Any] | None:
    """Return the commonest class of the validation images with its share, and the share of each if all had as many."""
    if dataset.val is None:
        return None
    counts = np.bincount(dataset.val.labels.numpy())
    name, share = dataset.info.classes[counts.argmax()], counts.max() / counts.sum()
    return {"class": name, "share": float(share), "even_share": 1 / np.count_nonzero(counts)}


def report(result: dict[str, Any]) -> None:
    """Tell the person what came out, where it lies and what to type next."""
    best, train, speed = result["best"], result["train"], result["samples_per_second"]
    if best:
        accuracy = interval(best["top1"], best["top1_low"], best["top1_high"], best["n"])
        print(f"validation top-1  {accuracy}, best of {result['epochs']} epochs (epoch {best['epoch']})")
        report_classes(best, result.get("majority"))
    elif train:
        print(f"training top-1    {percent(train['top1'])} in the last epoch (no validation images)")
    if result["skipped"]:
        print(f"left out          {result['skipped']:,} bad files, named in {result['run_dir']}/{RECORD}")
    print(f"took              {clock(result['seconds'])}{f', {speed:,.0f} images/s' if speed else ''}")
    print(f"run               {result['run_dir']}")
    print(f"next              cnntrain eval {setting('run', result['run_dir'])}")


def report_classes(best: dict[str, Any], common: dict[str, Any] | None) -> None:
    """Tell the person where top-1 alone would mislead: of unequal classes, and of a network that has learnt nothing."""
    balanced, absent = best.get("balanced_accuracy"), best.get("never_predicted")
    if common and balanced is not None and common["share"] > UNEQUAL * common["even_share"]:
        print(f"balanced accuracy {percent(balanced)}, the mean over the classes, which differ in size")
    if common and best["top1_low"] <= common["share"]:
        print(f"                  no better than always predicting {common['class']} ({percent(common['share'])})")
    if absent:
        say(f"warning: never predicted on the validation images: {listed(absent)}")
