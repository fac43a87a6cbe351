"""`cnntrain fit`: train a network and leave a run folder, or go on with the one that is there."""

import contextlib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import pretrained
from cnntrain.config.compose import command_line, plain_config
from cnntrain.config.read import read_config
from cnntrain.config.schema import Fit
from cnntrain.nn.geometry import count_parameters
from cnntrain.nn.shapes import describe_shape
from cnntrain.runs import messages, records, resume, setup
from cnntrain.runs.check import check_fit
from cnntrain.runs.folder import CONFIG, RUNS, create_folder, lock_folder, new_folder, refuse_unwritable, remember
from cnntrain.runs.images import noted, refuse_unlike_record
from cnntrain.runs.load import read_info
from cnntrain.runs.train import Training
from cnntrain.runs.verify_resume import verify_resume
from cnntrain.runs.worker import refuse_differing_images, train_rank
from cnntrain.runtime import distributed
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.distributed import all_or_none, broadcast, remembered
from cnntrain.runtime.tables import counted
from cnntrain.training import checkpoints


def read_fit(composed: DictConfig) -> tuple[Fit, dict[str, Any]]:
    """Return the configuration, and the settings that a run keeps of it."""
    cfg = pretrained.with_expected_size(read_config(Fit, composed))
    return cfg, plain_config(composed) | {"dataset": cfg.dataset}


def run(composed: DictConfig) -> dict[str, Any]:
    """Train as configured; return what `--json` prints."""
    with all_or_none():
        cfg, settings = read_fit(composed)
        prepare(deterministic=cfg.deterministic)
        folder, finished = place(cfg, settings) if distributed.RANK == 0 else (Path(), None)
        begun = bool(checkpoints.resumable(checkpoints.folder_of(folder)))
        cfg = resume.as_begun(cfg, folder) if begun and not finished else cfg
        resumed = distributed.RANK == 0 and not finished and (folder / CONFIG).exists()
        files = noted(folder) if resumed else None
    cfg, folder, finished, begun, files = broadcast((cfg, folder, finished, begun, files))
    if finished:
        messages.report(finished, read_info(records.record(folder)).noun)
        return finished
    with all_or_none():
        checked = check_fit(cfg, begun=begun)
        dataset = setup.load_data(checked, files)
        if resumed and files is None:
            refuse_unlike_record(folder, dataset, cfg.dataset, cfg.data_root, setup.ANEW)
        built = None if cfg.check_resume else setup.build(checked, dataset)
    refuse_differing_images(dataset)
    if built is None:
        return verify_resume(checked, dataset)
    with contextlib.ExitStack() as locked:
        with all_or_none():
            if distributed.RANK == 0:
                refuse_unwritable(folder, 2 * checkpoints.size(built.train_step.state_dict()))  # best and last
                locked.enter_context(lock_folder(create_folder(folder)))
        if distributed.RANK:
            return train_rank(built, folder)
        training = Training(built, folder, settings, command_line("fit"))
        remember(folder)
        return training.run()


def place(cfg: Fit, settings: dict[str, Any]) -> tuple[Path, dict[str, Any] | None]:
    """Return the folder of a training, and its result if nothing is left to do."""
    fresh = new_folder("fit", f"{cfg.model['name']}-{cfg.dataset['name']}")
    wanted = resume.wanted_folder(cfg)
    refuse_unwritable(wanted or RUNS)
    folder = wanted or Path(remembered(str(fresh)))
    if not (folder / CONFIG).exists():
        return folder, None
    resume.refuse_changes(records.settings(folder), settings)
    return folder, resume.finished_result(folder, cfg)


def check(composed: DictConfig) -> None:
    """Find what is wrong with a configuration before anything is read or made."""
    check_fit(read_fit(composed)[0])


def preview(composed: DictConfig) -> dict[str, Any]:
    """Say what `fit` would do, without reading an image or making anything; return what `--json` prints."""
    cfg, settings = read_fit(composed)
    checked = check_fit(cfg)
    info, shape, params = checked.info, describe_shape(checked.info.shape), count_parameters(checked.outline)
    epochs = counted(cfg.trainer.epochs, "epoch")
    print(
        f"valid: {cfg.model['name']} ({params:,} parameters) on {info} ({shape}, {len(info.classes)} "
        f"classes), augmentation {', '.join(checked.augmentations) or 'none'}, {cfg.optimizer['name']}, "
        f"{cfg.schedule['name']}, {epochs} of batches of {cfg.trainer.batch_size}, {checked.device}"
    )
    return {
        "model": cfg.model["name"],
        "params": params,
        "dataset": info.name,
        "config": settings,
    }
