"""A network as a table of its stages."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Totals:
    """The sums over stages for one image: parameters, multiplications, bytes of the activations in fp32, connections.

    Connections are None where those of a layer are not known.
    """

    params: int
    macs: int
    activation_bytes: int
    connections: int | None


def totals(stages: list[StageGeometry]) -> Totals:
    """Return the sums over stages."""
    connections = [stage.connections for stage in stages if stage.connections is not None]
    return Totals(
        params=sum(stage.params for stage in stages),
        macs=sum(stage.macs for stage in stages),
        activation_bytes=BYTES * sum(stage.activations for stage in stages),
        connections=sum(connections) if len(connections) == len(stages) else None,
    )


def totals_row(sums: Totals) -> dict[str, object]:
    """Return sums as the columns of a table."""
    return {
        "parameters": sums.params,
        "MACs": sums.macs,
        "FLOPs": 2 * sums.macs,
        "activations kB": round(sums.activation_bytes / 1024),
        "connections": sums.connections,
    }


def totals_json(sums: Totals) -> dict[str, Any]:
    """Return sums for `--json`."""
    return {**asdict(sums), "flops": 2 * sums.macs}


def stage_row(stage: StageGeometry) -> dict[str, object]:
    """Return a stage as a line of the table."""
    field = stage.receptive_field
    return {
        "stage": stage.name,
        "output": describe_shape(stage.out_shape),
        "receptive field": None if field is None else describe_shape(field),
        "stride": stride_word(stage.stride),
        **totals_row(totals([stage])),
    }


def stride_word(stride: tuple[int | None, int | None] | None) -> str | None:
    """Write a stride; None where it is not known."""
    if stride is None:
        return None
    return "all" if None in stride else "upsampled" if 0 in stride else describe_shape(tuple(s or 0 for s in stride))


def stage_json(stage: StageGeometry) -> dict[str, Any]:
    """Return a stage for `--json`; of its stride [null, null] is the whole image, [0, 0] upsampled, null not known."""
    return {
        "name": stage.name,
        "out_shape": list(stage.out_shape),
        **totals_json(totals([stage])),
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
