"""`cnntrain report`: a run as one page that needs nothing beside itself."""

from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.report.document import plain
from cnntrain.report.files import PAGE
from cnntrain.report.html import as_html
from cnntrain.report.run import run_document
from cnntrain.runs import records
from cnntrain.runs.evaluation import ensure_evaluation
from cnntrain.runs.folder import find_run, refuse_unwritable
from cnntrain.runs.images import run_images
from cnntrain.runs.load import load_run
from cnntrain.runtime import disk
from cnntrain.runtime.errors import InputError


def run(composed: DictConfig) -> dict[str, Any]:
    """Write the page as configured; return what `--json` prints."""
    cfg = read_config(schema.Report, composed)
    folder = find_run(cfg.run)
    target = Path(cfg.output) if cfg.output else folder / PAGE
    if not target.parent.is_dir():
        raise InputError(f"output={cfg.output}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise InputError(f"output={cfg.output} is a folder; name a file")
    if (other := target.with_suffix(".md")).exists():
        raise InputError(f"{target} would replace the page of another report, to which {other} belongs; name output=")
    refuse_unwritable(target.parent, word="output=" if cfg.output else "")
    net, info, settings = load_run(folder, cfg.weights, any_task=True)
    record = records.record(folder)
    measured = ensure_evaluation(folder, cfg, checksums=True)
    data_root = cfg.data_root or settings["data_root"]
    split = run_images(folder, settings, info, data_root, cfg.split, cache="none").split  # a few images are shown

    headline = measured.headline
    document = run_document(folder, cfg, net, info, settings, record, measured, split)
    disk.write(target, as_html(document))
    print(plain(document.claim))
    print(f"report      {target}")
    return {"run_dir": str(folder), "report": str(target), "split": cfg.split, "weights": cfg.weights} | {
        key: measured.results[key] for key in ("n", headline.key, headline.low, headline.high)
    }


check = partial(read_config, schema.Report)  # of a sweep's jobs, before any of them
