"""`cnntrain eval`: measure a run on a split."""

from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.compose import command_line
from cnntrain.config.read import read_config
from cnntrain.runs import records
from cnntrain.runs.evaluation import TABLE, evaluate
from cnntrain.runs.folder import find_run
from cnntrain.runs.load import read_info
from cnntrain.runtime.errors import setting
from cnntrain.tasks import task_of


def run(composed: DictConfig) -> dict[str, Any]:
    """Evaluate as configured; return what `--json` prints."""
    cfg = read_config(schema.Eval, composed)
    folder = find_run(cfg.run)
    output = Path(cfg.output_dir) if cfg.output_dir else None
    results, target = evaluate(folder, cfg, command_line("eval"), tta=cfg.tta, dataset=cfg.dataset, output=output)
    show(results, target, folder)
    return results


check = partial(read_config, schema.Eval)  # of a sweep's jobs, before any of them


def show(results: dict[str, Any], target: Path, folder: Path) -> None:
    """Print the headline, what else the task says, and where the answers for each image lie."""
    task = task_of(results)
    print(f"{results['split']} {task.headline.label}    {task.headline.interval(results)}")
    print(*task.details(results), sep="\n")
    info = read_info(records.record(folder))
    print(f"\n{f'per {info.noun}':<12}  {target / TABLE}")
    told = "sentences=file.txt" if info.words else "images='path/to/*.png'"
    print(f"next          cnntrain predict {setting('run', results['run_dir'])} {told}")
