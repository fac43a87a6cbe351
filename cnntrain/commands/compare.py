"""`cnntrain compare`: runs side by side, and which of their differences are significant."""

from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.report.files import PAGE, write_report
from cnntrain.report.text import as_text
from cnntrain.runs.folder import create_folder, refuse_existing, refuse_unwritable
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.tables import Format, render, terminal_width
from cnntrain.studies.comparison import Comparison, compare, comparison_json, one_table
from cnntrain.studies.comparison_report import comparison_blocks, comparison_document


def run(composed: DictConfig) -> dict[str, Any]:
    """Compare as configured; return what `--json` prints."""
    cfg = read_config(schema.Compare, composed)
    folder = new_folder(cfg.output_dir) if cfg.output_dir else None
    comparison = compare(cfg)
    show(comparison, cfg.table)
    if folder:
        write_report(comparison_document(comparison, folder, cfg.figures), folder)
        print(f"\nreport {folder / PAGE}")
    return comparison_json(comparison)


check = partial(read_config, schema.Compare)  # of a sweep's jobs, before any of them


def new_folder(name: str) -> Path:
    """Return the folder for the report, made.

    Raises `InputError` when it holds a report already, or is a file.
    """
    folder = Path(name)
    if (folder / PAGE).exists():
        raise InputError(f"output_dir={folder} already holds a report; name another folder")
    refuse_existing(folder)
    refuse_unwritable(folder)
    return create_folder(folder)


def show(comparison: Comparison, style: Format) -> None:
    """Print tables and sentences, or for `csv` one table with everything known of each run."""
    if style == "csv":
        print(render(one_table(comparison), "csv"))
    else:
        print(as_text(comparison_blocks(comparison), style, terminal_width()))
