"""`cnntrain describe`: the table of a network's stages."""

from typing import Any

from omegaconf import DictConfig

from cnntrain import config, runs, schema
from cnntrain.analysis.geometry import StageGeometry, geometry
from cnntrain.commands.loading import read_card
from cnntrain.models.stages import describe_shape
from cnntrain.tables import render


def run(composed: DictConfig) -> dict[str, Any]:
    """Print a network's stages; return what `--json` prints. No weight is drawn and no image read."""
    cfg = config.read(schema.Describe, composed)
    if cfg.run:
        folder = runs.find(cfg.run)
        options = runs.read_json(folder / runs.CONFIG)["model"]
        card = read_card(runs.read_json(folder / runs.RECORD))
    else:
        options, card = cfg.model, config.dataset_card(cfg.dataset, cfg.data_root)
    net = config.build_model(options, card, device="meta")
    stages = geometry(net, card.shape)
    total = {
        "params": sum(stage.params for stage in stages),
        "macs": sum(stage.macs for stage in stages),
        "connections": sum(stage.connections for stage in stages),
    }
    removed = f" without {', '.join(options['remove'])}" if options.get("remove") else ""
    if cfg.table == "text":
        print(f"{options['name']}{removed} for {describe_shape(card.shape)} images of {len(card.classes)} classes\n")
    bottom = {"stage": "total", "output": "", "receptive field": "", "stride": "", **short(total)}
    print(render([*(row(stage) for stage in stages), bottom], cfg.table))
    return {
        "model": options["name"],
        "in_shape": list(card.shape),
        **total,
        "flops": 2 * total["macs"],
        "stages": [as_json(stage) for stage in stages],
    }


def short(counts: dict[str, int]) -> dict[str, int]:
    """Name the counted columns as the table does."""
    return {"parameters": counts["params"], "MACs": counts["macs"], "connections": counts["connections"]}


def row(stage: StageGeometry) -> dict[str, object]:
    """Return a stage as a line of the table."""
    counts = {"params": stage.params, "macs": stage.macs, "connections": stage.connections}
    return {
        "stage": stage.name,
        "output": describe_shape(stage.out_shape),
        "receptive field": describe_shape(stage.receptive_field),
        "stride": "all" if stage.stride[0] is None else describe_shape(tuple(s or 0 for s in stage.stride)),
        **short(counts),
    }


def as_json(stage: StageGeometry) -> dict[str, Any]:
    """Return a stage for `--json`; a stride of null sees the whole image."""
    return {
        "name": stage.name,
        "out_shape": list(stage.out_shape),
        "params": stage.params,
        "macs": stage.macs,
        "connections": stage.connections,
        "receptive_field": list(stage.receptive_field),
        "stride": list(stage.stride),
    }
