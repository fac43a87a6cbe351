"""What a probing study leaves in its folder: rows and results."""

from pathlib import Path
from typing import Any

from cnntrain.config.compose import command_line
from cnntrain.runs.folder import RESULTS, create_folder, provenance
from cnntrain.runtime import disk
from cnntrain.runtime.devices import hardware
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.tables import percent, render
from cnntrain.studies.probe.rows import ProbeRow, probe_rows
from cnntrain.studies.probe.study import ProbeStudy

ROWS = "rows.csv"


def write_study(study: ProbeStudy, folder: Path) -> dict[str, Any]:
    """Write the study and return what `--json` prints: where it lies, and all rows."""
    create_folder(folder)
    rows = [row.as_json() for row in probe_rows(study)]
    first = study.networks[0].folder
    results = {
        "run_dir": None if first is None else str(first),
        "output_dir": str(folder),
        "split": study.images.test.name,
        "dataset": study.images.test.dataset,
        "rows": rows,
    }
    disk.write(folder / ROWS, render(rows, "csv") + "\n")
    write_json(folder / RESULTS, results | {"record": provenance(command_line("probe")) | {"hardware": hardware()}})
    return results


def table_line(row: ProbeRow) -> dict[str, object]:
    """Return a row as a line of a table."""
    return {
        "run": row.run,
        "seed": row.seed,
        "stage": row.stage,
        "classifier": row.classifier,
        "control": row.control,
        "dimensions": row.dimensions,
        "C": row.c,
        "top-1": percent(row.top1),
        "95 % interval": f"{100 * row.top1_low:.2f} … {100 * row.top1_high:.2f}",
    }
