"""`cnntrain verify`: what five lectures on convolutional networks state, computed."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config.read import read_config
from cnntrain.runs.folder import refuse_unwritable
from cnntrain.runtime.errors import CnntrainError
from cnntrain.runtime.progress import say
from cnntrain.runtime.tables import Format, render
from cnntrain.studies.verify import study
from cnntrain.studies.verify.registry import chosen, verify_all

JSON_KEYS = ("id", "lecture", "line", "printed", "computed", "verdict", "why")


@dataclass(frozen=True)
class Verify:
    """The keys of `cnntrain verify`."""

    items: list[str]
    lecture: str | None
    table: Format
    output_dir: str | None
    plugins: list[str]


def run(composed: DictConfig) -> dict[str, Any]:
    """Compute the items asked for and print them; return what `--json` prints.

    Raises `CnntrainError` where a computed value is not the right one: a fault of this program.
    """
    cfg = read_config(Verify, composed)
    items = chosen(cfg.items, cfg.lecture)
    folder = Path(cfg.output_dir) if cfg.output_dir else None
    if folder:
        refuse_unwritable(folder)
    rows, seconds = verify_all(items)
    width = min(shutil.get_terminal_size().columns, 110)
    print(study.told(rows, width) if cfg.table == "text" else render(study.lines(rows), cfg.table))
    numbers = study.counts(rows)
    words = zip(numbers.values(), ("reproduced", "differ", "not decidable here"), strict=True)
    say(f"\n{', '.join(f'{count} {word}' for count, word in words)}; {seconds:.1f} s")
    if folder:
        study.write(rows, seconds, folder)
        say(f"report {folder / 'report.html'}")
    if faults := [fault for row in rows for fault in row.faults]:
        raise CnntrainError(f"{len(faults)} values are not what they should be: {'; '.join(faults)}")
    return {
        "items": [{key: getattr(row, key) for key in JSON_KEYS} for row in rows],
        "reproduced": numbers["reproduced"],
        "differs": numbers["differs"],
        "undecidable": numbers["not decidable here"],
        "seconds": seconds,
    }


check = partial(read_config, Verify)  # of a sweep's jobs, before any of them
