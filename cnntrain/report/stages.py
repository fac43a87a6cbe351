"""A network as a table of its stages."""

from collections.abc import Mapping
from typing import Any

from cnntrain.models.googlenet import PUBLISHED, googlenet
from cnntrain.nn.geometry import StageGeometry, geometry
from cnntrain.nn.shapes import Shape, describe_shape
from cnntrain.nn.stages import BuildOptions

BYTES = 4  # of an activation in fp32


def network(options: Mapping[str, Any]) -> str:
    """Name a network by its options: torchvision resnet18, lenet5 without conv2."""
    name = " ".join(filter(None, (options["name"], options.get("arch"))))
    return f"{name} without {', '.join(options['remove'])}" if options.get("remove") else name


def totals(stages: list[StageGeometry]) -> dict[str, Any]:
    """Return the sums over the stages; connections are None where one is not known."""
    connections = [stage.connections for stage in stages if stage.connections is not None]
    macs = sum(stage.macs for stage in stages)
    return {
        "params": sum(stage.params for stage in stages),
        "macs": macs,
        "flops": 2 * macs,
        "activation_bytes": BYTES * sum(stage.activations for stage in stages),
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


def stage_row(stage: StageGeometry) -> dict[str, object]:
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


def stage_json(stage: StageGeometry) -> dict[str, Any]:
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
    net = googlenet(shape, 1000, BuildOptions(device="meta"))
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
