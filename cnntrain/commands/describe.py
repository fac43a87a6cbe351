"""`cnntrain describe`: the table of a network's stages, or several networks side by side."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch import nn

from cnntrain import config, records, runs, schema
from cnntrain.analysis.geometry import StageGeometry, geometry, outline
from cnntrain.commands import pretrained
from cnntrain.commands.loading import read_card, rebuild
from cnntrain.models import MODELS
from cnntrain.models.foreign import remarks
from cnntrain.models.googlenet import PUBLISHED
from cnntrain.models.shapes import Shape, describe_shape
from cnntrain.models.stages import StageError
from cnntrain.progress import say
from cnntrain.tables import render

BYTES = 4  # of a number in fp32


def run(composed: DictConfig) -> dict[str, Any]:
    """Print a network's stages; return what `--json` prints. No image is read, no weight of ours drawn."""
    cfg = pretrained.follow(config.read(schema.Describe, composed))
    if cfg.models:
        return compare(cfg, cfg.models)
    if cfg.run:
        folder = runs.find(cfg.run)
        settings, card = records.settings(folder), read_card(records.record(folder))
    else:
        settings = {"model": cfg.model}
        card = pretrained.normalised(config.dataset_card(cfg.dataset, cfg.data_root), cfg.model)
    net, options = rebuild(settings, card, device="meta"), settings["model"]
    heads = config.build_heads(options, net, card, device="meta")
    for remark in remarks(net, pretrained.expected(options), card.shape):
        say(remark)
    stages, lacking = measured(net, card.shape)
    if lacking:
        say(lacking)
    total = totals(stages)
    if cfg.table == "text":
        print(f"{network(options)} for {describe_shape(card.shape)} images of {len(card.classes)} classes\n")
    bottom = {"stage": "total", "output": "", "receptive field": "", "stride": "", **short(total)}
    print(render([*(row(stage) for stage in stages), bottom], cfg.table))
    if heads and cfg.table == "text":
        print(f"\n{heads.summary()}")
    if options["name"] == "googlenet" and cfg.table == "text":
        print(
            "\nthe paper's table (224×224 images, 1000 classes; K = 1024 weights, M = a million) beside the exact one"
        )
        print("where they differ; its first row is model.stem=separable\n")
        print(render(published()))
    return {
        "model": options["name"],
        "in_shape": list(card.shape),
        **total,
        "stages": [as_json(stage) for stage in stages],
        "heads": heads and {"params": heads.params, "weight": heads.weight, "at": heads.at},
    }


check = partial(config.read, schema.Describe)  # of a sweep's jobs, before any of them


def compare(cfg: schema.Describe, names: list[str]) -> dict[str, Any]:
    """Print one line a network, each with its default options for the images of one dataset."""
    card = config.dataset_card(cfg.dataset, cfg.data_root)
    found = []
    for name in names:
        try:
            net = config.build_model({"name": name}, card, device="meta")
        except StageError as error:
            raise StageError(f"{name}: {error}") from error
        for remark in remarks(net, None, card.shape):
            say(f"{name}: {remark}")
        stages, lacking = measured(net, card.shape)
        if lacking:
            say(f"{name}: {lacking}")
        found.append({"model": name, "stages": len(stages), **totals(stages)})
    if cfg.table == "text":
        print(f"for {describe_shape(card.shape)} images of {len(card.classes)} classes\n")
    print(render([{"model": one["model"], "stages": one["stages"], **short(one)} for one in found], cfg.table))
    return {"in_shape": list(card.shape), "models": found}


def network(options: Mapping[str, Any]) -> str:
    """Name a network by its options: torchvision resnet18, lenet5 without conv2."""
    name = " ".join(filter(None, (options["name"], options.get("arch"))))
    return f"{name} without {', '.join(options['remove'])}" if options.get("remove") else name


def measured(net: nn.Sequential, shape: Shape) -> tuple[list[StageGeometry], str]:
    """Return the rows of a network on the meta device, and what they lack.

    A network of other libraries, whose layers have no known receptive field, is outlined.
    """
    try:
        return geometry(net, shape), ""
    except (TypeError, ValueError) as error:
        return outline(net, shape), f"without receptive fields and connections: {error}"


def totals(stages: list[StageGeometry]) -> dict[str, Any]:
    """Return the sums over the stages; connections are None where one is not known."""
    connections = [stage.connections for stage in stages if stage.connections is not None]
    macs = sum(stage.macs for stage in stages)
    return {
        "params": sum(stage.params for stage in stages),
        "macs": macs,
        "flops": 2 * macs,
        "activation_bytes": BYTES * sum(stage.numbers for stage in stages),
        "connections": sum(connections) if len(connections) == len(stages) else None,
    }


def short(counts: dict[str, Any]) -> dict[str, Any]:
    """Name the counted columns as the table does; activations are those of one image in fp32."""
    return {
        "parameters": counts["params"],
        "MACs": counts["macs"],
        "FLOPs": counts["flops"],
        "activations kB": round(counts["activation_bytes"] / 1024),
        "connections": counts["connections"],
    }


def row(stage: StageGeometry) -> dict[str, object]:
    """Return a stage as a line of the table."""
    field, stride = stage.receptive_field, stage.stride
    steps = None if stride is None else "all" if None in stride else describe_shape(tuple(s or 0 for s in stride))
    return {
        "stage": stage.name,
        "output": describe_shape(stage.out_shape),
        "receptive field": None if field is None else describe_shape(field),
        "stride": steps,
        **short(totals([stage])),
    }


def as_json(stage: StageGeometry) -> dict[str, Any]:
    """Return a stage for `--json`; a stride of [null, null] sees the whole image, null is not known."""
    return {
        "name": stage.name,
        "out_shape": list(stage.out_shape),
        **totals([stage]),
        "receptive_field": stage.receptive_field and list(stage.receptive_field),
        "stride": stage.stride and list(stage.stride),
    }


def published() -> list[dict[str, object]]:
    """Return GoogLeNet's rows of weights and multiplications as printed and as they are, where they differ."""
    shape: Shape = (3, 224, 224)
    net = MODELS["googlenet"](shape, 1000, device="meta")
    weights = {
        name: sum(tensor.numel() for tensor in stage.parameters() if tensor.ndim > 1)
        for name, stage in net.named_children()
    }
    macs = {stage.name: stage.macs for stage in geometry(net, shape)}
    for counts in (weights, macs):
        counts["conv2"] += counts["conv2_reduce"]  # one row in the paper
    rows: list[dict[str, object]] = []
    for name, (thousands, millions) in PUBLISHED.items():
        exact = round(weights[name] / 1024, 1), round(macs[name] / 1e6, 1)
        if abs(exact[0] - thousands) > 1 or abs(exact[1] - millions) > 1:
            printed = {"stage": name, "printed K": thousands, "exact K": exact[0]}
            rows.append(printed | {"printed M": millions, "exact M": exact[1]})
    return rows
