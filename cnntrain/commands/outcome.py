"""What a training has come to: its numbers, and what to tell the person of them."""

from collections.abc import Sequence
from typing import Any

from cnntrain import runs
from cnntrain.errors import setting
from cnntrain.progress import clock
from cnntrain.tables import interval, percent
from cnntrain.training.loop import Progress, Record

SCORES = ("n", "loss", "top1", "top1_low", "top1_high")


def numbers(history: Sequence[Record], at: Progress, per_epoch: int) -> dict[str, Any]:
    """Return the numbers of the last epoch and of the best; null where the records of a run that has ended are lost."""
    found: dict[str, Any] = {"steps": at.step, "epochs": at.step // per_epoch}
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
    """Return the numbers of a validation."""
    return {key: record[key] for key in SCORES}


def report(result: dict[str, Any]) -> None:
    """Tell the person what came out, where it lies and what to type next."""
    best, train, speed = result["best"], result["train"], result["samples_per_second"]
    if best:
        accuracy = interval(best["top1"], best["top1_low"], best["top1_high"], best["n"])
        print(f"validation top-1  {accuracy}, best of {result['epochs']} epochs (epoch {best['epoch']})")
    elif train:
        print(f"training top-1    {percent(train['top1'])} in the last epoch (no validation images)")
    if result["skipped"]:
        print(f"left out          {result['skipped']:,} bad files, named in {result['run_dir']}/{runs.RECORD}")
    print(f"took              {clock(result['seconds'])}{f', {speed:,.0f} images/s' if speed else ''}")
    print(f"run               {result['run_dir']}")
    print(f"next              cnntrain eval {setting('run', result['run_dir'])}")
