"""`cnntrain convert`: a run's network as a fully convolutional one, held against windows."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from cnntrain.config.read import read_config
from cnntrain.config.schema import SplitName
from cnntrain.nn.fully_convolutional import Head, cell_step, fully_convolutional
from cnntrain.runs.export import describe_file, write_safetensors
from cnntrain.runs.folder import RESULTS, find_run, refuse_unwritable
from cnntrain.runs.images import run_images
from cnntrain.runs.load import load_run
from cnntrain.runtime import disk
from cnntrain.runtime.drawing import styled
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import write_json
from cnntrain.runtime.ranges import Count
from cnntrain.runtime.tables import render, terminal_width
from cnntrain.studies.conversion import report, study

MOST_PICTURES = 6


@dataclass(frozen=True)
class Convert:
    """The keys of `cnntrain convert`."""

    run: str
    head: Head
    tiles: list[Count]
    count: Count
    split: SplitName
    weights: Literal["best", "last"]
    data_root: str | None
    output_dir: str | None
    plugins: list[str]


def run(composed: DictConfig) -> dict[str, Any]:
    """Convert as configured; return what `--json` prints."""
    cfg = read_convert(composed)
    folder = find_run(cfg.run)
    target = Path(cfg.output_dir) if cfg.output_dir else folder / "convert"
    refuse_unwritable(target)
    net, info, settings = load_run(folder, cfg.weights)
    if info.words:
        raise InputError(f"run={cfg.run} reads words, which have no image to be larger: name a network of images")
    whole = fully_convolutional(net, info.shape, cfg.head)
    split = run_images(folder, settings, info, cfg.data_root or settings["data_root"], cfg.split).split
    found, drawings = [], []
    for tiles in cfg.tiles:
        try:
            pixels = study.mosaic(split, tiles, cfg.count)
        except ValueError as error:
            raise InputError(f"tiles={cfg.tiles}, count={cfg.count}: {error}") from error
        images = study.normalised(pixels, info)
        found.append(study.exactness(net, whole, images, info.shape))
        maps = study.class_maps(whole, images)
        step, size = cell_step(whole, info.shape), (info.shape[1], info.shape[2])
        if tiles == max(cfg.tiles):
            with styled():
                drawings = [
                    report.cells_figure(image.numpy(), each.numpy(), info.classes, step, size)
                    for image, each in zip(pixels[:MOST_PICTURES], maps, strict=False)
                ]
    print(render(study.rows(found), width=terminal_width()))
    metadata = describe_file(folder, info, settings, cfg.weights)
    disk.write(target / "model.safetensors", write_safetensors(whole, info, metadata))
    report.write(target, settings["model"]["name"], found, drawings)
    first = found[0]
    result = {
        "run_dir": str(folder),
        "output_dir": str(target),
        "out_shape": [len(info.classes), *first.cells],
        "max_difference": first.max_difference,
        "median_difference": first.median_difference,
        "agreement": first.agreement,
        "macs": first.macs,
        "macs_windows": first.macs_windows,
        "sizes": [asdict(one) for one in found],
    }
    write_json(target / RESULTS, result)
    print(f"\nnetwork {target / 'model.safetensors'}\nreport  {target / 'report.html'}")
    return result


def read_convert(composed: DictConfig) -> Convert:
    """Return the configuration, checked."""
    cfg = read_config(Convert, composed)
    if not cfg.tiles:
        raise InputError("tiles=[] leaves no mosaic to try; name how many images a side: tiles=[2,3]")
    return cfg


check = read_convert  # of a sweep's jobs, before any of them
