"""The plan of a study of removals: what each variant is and what it costs; no image is read."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from cnntrain.nn.geometry import StageGeometry as Row
from cnntrain.nn.geometry import count_parameters
from cnntrain.nn.shapes import Shape, describe_shape
from cnntrain.nn.stages import check_size
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import clock
from cnntrain.studies.ablation.variants import Removal
from cnntrain.studies.sizes import last_field, network, rows_of
from cnntrain.studies.variants import SizedVariant, info_of


def sized_variants(variants: Sequence[Removal]) -> list[SizedVariant]:
    """Return the variants with their sizes; the first is the full one.

    Raises `InputError` for a stage that is too large to be trained.
    """
    full, sized = network(variants[0]), list[SizedVariant]()
    shape = info_of(variants[0].settings).shape
    full_rows = rows_of(full, shape)[0]
    for variant in variants:
        net = network(variant)
        rows, macs = rows_of(net, shape)
        same = variant.settings["model"]["name"] == variants[0].settings["model"]["name"]
        changed = replumbed(full, net, full_rows, rows, shape) if same else ("another network",)
        size = count_parameters(net)
        check_sizes(variant, net)
        removed = variant.stages if variant.control or variant.only_removes(variants[0]) else ()
        sized.append(
            SizedVariant(
                variant,
                removed,
                size,
                count_parameters(full) - size,
                macs,
                last_field(rows),
                changed,
                variant.control,
            )
        )
    return sized


def check_sizes(variant: Removal, net: nn.Sequential) -> None:
    """Refuse a variant whose removal blows up a stage beyond what can be trained."""
    for name, stage in net.named_children():
        try:
            check_size(stage)
        except ValueError as error:
            raise InputError(f"{variant.name}: stage {name!r}: {error}") from error


def replumbed(
    full: nn.Sequential, net: nn.Sequential, before: Sequence[Row], after: Sequence[Row], shape: Shape
) -> tuple[str, ...]:
    """Say which of the stages that are left have other parameters than in the full network, and why."""
    parts, changed = dict(full.named_children()), []
    arrived, arrives = (arriving(rows, shape) for rows in (before, after))
    for name, stage in net.named_children():
        old, new = ([tuple(p.shape) for p in part.parameters()] for part in (parts[name], stage))
        if old != new and arrived[name] != arrives[name]:
            changed.append(f"{name} takes {arrives[name]}, not {arrived[name]}")
        elif old != new:
            changed.append(f"{name} has {count_parameters(stage):,} parameters, not {count_parameters(parts[name]):,}")
    return tuple(changed)


def arriving(rows: Sequence[Row], shape: Shape) -> dict[str, str]:
    """Return the shape that reaches each stage when images of `shape` come in."""
    shapes = [shape, *(row.out_shape for row in rows)]
    return {row.name: describe_shape(before) for row, before in zip(rows, shapes, strict=False)}


def short(line: SizedVariant, most: int = 2) -> str:
    """Return what is wider and what is re-plumbed, as far as a table has room for it."""
    widen = line.variant.settings["model"].get("widen") or {}
    words = [f"{name} × {factor:.3g}" for name, factor in widen.items()] + list(line.replumbed)
    more = f"; {len(words) - most} more" if len(words) > most else ""
    return "; ".join(words[:most]) + more


def rows(planned: Sequence[SizedVariant], seconds: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """Return the plan as a table."""
    table = []
    for line in planned:
        field = line.receptive_field
        row: dict[str, Any] = {
            "variant": line.variant.name,
            "parameters": line.params,
            "removed": line.params_removed,
            "MACs": line.macs,
            "receptive field": describe_shape(field) if field else None,
            "re-plumbed": short(line),
        }
        if seconds is not None:
            row["a run"] = clock(seconds[line.variant.name])
        table.append(row)
    return table
