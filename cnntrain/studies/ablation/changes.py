"""Trained networks changed without training: stages taken out, or put back to other weights."""

from collections.abc import Sequence

from cnntrain.config import pretrained
from cnntrain.config.build import build_model
from cnntrain.runs import records
from cnntrain.runs.folder import CONFIG, RECORD, SPLITS
from cnntrain.runs.load import load_run, weights_digest
from cnntrain.runtime import disk
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.seeding import generator
from cnntrain.studies.cells import Cell
from cnntrain.studies.networks import with_stages_of
from cnntrain.training import checkpoints


def write_changed(cell: Cell, mode: str, stages: Sequence[str]) -> None:
    """Write a trained network without some stages, or with other weights in them, as a run of its own."""
    assert cell.start is not None
    net, info, settings = load_run(cell.start, "last", any_task=True)
    if mode == "lesion":
        weights = {key: value for key, value in net.state_dict().items() if key.partition(".")[0] not in stages}
    else:
        options, seed = settings["model"], settings["seed"]
        if mode == "rerandomize":
            options, seed = pretrained.without_weights(options), int(generator(seed, "rerandomize").integers(2**31))
        weights = with_stages_of(net, build_model(options, info, seed=seed), stages).state_dict()
    state = checkpoints.without_training(checkpoints.load(checkpoints.path_of(cell.start, "last")))
    rest = {key: value for key, value in state.items() if key not in ("model", "ema")}
    checkpoints.save(checkpoints.path_of(cell.folder, "last"), rest | {"model": weights})
    made = {"made_from": str(cell.start), "made_from_weights": weights_digest(cell.start, "last")}
    record = records.record(cell.start) | made | {"mode": mode, "stages": stages}
    if (cell.start / SPLITS).is_file():
        disk.write(cell.folder / SPLITS, (cell.start / SPLITS).read_bytes())
    write_json(cell.folder / RECORD, record)
    write_json(cell.folder / CONFIG, cell.settings)
