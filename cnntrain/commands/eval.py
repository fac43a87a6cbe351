"""`cnntrain eval`: measure a run on a split."""

from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.compose import command_line
from cnntrain.config.read import read_config
from cnntrain.runs.evaluation import TABLE, evaluate
from cnntrain.runs.folder import find_run
from cnntrain.runtime.errors import setting
from cnntrain.runtime.tables import interval, percent, render
from cnntrain.stats.metrics import TOP5_FROM, confusions


def run(composed: DictConfig) -> dict[str, Any]:
    """Evaluate as configured; return what `--json` prints."""
    cfg = read_config(schema.Eval, composed)
    folder = find_run(cfg.run)
    output = Path(cfg.output_dir) if cfg.output_dir else None
    argv = command_line("eval")
    found, target = evaluate(folder, cfg, argv, tta=cfg.tta, dataset=cfg.dataset, output=output)
    report(found, target)
    return found


check = partial(read_config, schema.Eval)  # of a sweep's jobs, before any of them


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
