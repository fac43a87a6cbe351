"""`cnntrain describe`: the table of a network's stages, or several networks side by side."""

from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch import nn

from cnntrain.config import pretrained, schema
from cnntrain.config.build import build_auxiliary, build_model, dataset_info
from cnntrain.config.read import read_config
from cnntrain.models.external import Preprocessing, remarks
from cnntrain.nn.geometry import StageGeometry, describe
from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import StageError
from cnntrain.report.stages import network, published, stage_json, stage_row, totals, totals_json, totals_row
from cnntrain.runs import records
from cnntrain.runs.folder import find_run
from cnntrain.runs.load import read_info, rebuild
from cnntrain.runtime.progress import say
from cnntrain.runtime.tables import render, terminal_width


def run(composed: DictConfig) -> dict[str, Any]:
    """Print a network's stages; return what `--json` prints. No image is read, and our networks get no memory."""
    cfg = pretrained.with_expected_size(read_config(schema.Describe, composed))
    if cfg.models:
        return compare(cfg, cfg.models)
    if cfg.run:
        folder = find_run(cfg.run)
        settings, info = records.settings(folder), read_info(records.record(folder))
    else:
        settings = {"model": cfg.model}
        info = pretrained.with_expected_statistics(dataset_info(cfg.dataset, cfg.data_root), cfg.model)
    net, options = rebuild(settings, info, device="meta"), settings["model"]
    heads = build_auxiliary(options, net, info, device="meta")
    stages = measured(net, pretrained.expected_preprocessing(options), info.shape)
    total = totals(stages)
    if cfg.table == "text":
        print(f"{network(options)} for {info.examples} of {len(info.classes)} classes\n")
    bottom = {"stage": "total", "output": "", "receptive field": "", "stride": "", **totals_row(total)}
    print(render([*(stage_row(stage) for stage in stages), bottom], cfg.table, terminal_width()))
    if heads and cfg.table == "text":
        print(f"\n{heads.summary()}")
    if options["name"] == "googlenet" and cfg.table == "text":
        print(
            "\nthe paper's table (224×224 images, 1000 classes; K = 1024 weights, M = a million) beside the exact one"
        )
        print("where they differ; its first row is model.stem=separable\n")
        print(render(published(), width=terminal_width()))
    return {
        "model": options["name"],
        "in_shape": list(info.shape),
        **totals_json(total),
        "stages": [stage_json(stage) for stage in stages],
        "heads": heads and {"params": heads.params, "weight": heads.weight, "at": heads.at},
    }


def measured(net: nn.Sequential, expected: Preprocessing | None, shape: Shape, label: str = "") -> list[StageGeometry]:
    """Return a network's stages; say what a person should know of it, and what of the stages is not known."""
    stages, lacking = describe(net, shape)
    for remark in (*remarks(net, expected, shape), lacking):
        if remark:
            say(f"{label}{remark}")
    return stages


check = partial(read_config, schema.Describe)  # of a sweep's jobs, before any of them


def compare(cfg: schema.Describe, names: list[str]) -> dict[str, Any]:
    """Print one line a network, each with its default options for the images of one dataset."""
    info = dataset_info(cfg.dataset, cfg.data_root)
    rows = []
    for name in names:
        try:
            net = build_model({"name": name}, info, device="meta")
        except StageError as error:
            raise StageError(f"{name}: {error}") from error
        stages = measured(net, None, info.shape, f"{name}: ")
        rows.append((name, len(stages), totals(stages)))
    if cfg.table == "text":
        print(f"for {info.examples} of {len(info.classes)} classes\n")
    print(
        render(
            [{"model": name, "stages": n, **totals_row(sums)} for name, n, sums in rows], cfg.table, terminal_width()
        )
    )
    models = [{"model": name, "stages": n, **totals_json(sums)} for name, n, sums in rows]
    return {"in_shape": list(info.shape), "models": models}
