"""The plan of a study: what each variant is, what it costs, and the widths of its controls; no image is read."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from cnntrain.config.build import build_model
from cnntrain.nn.geometry import StageGeometry as Row
from cnntrain.nn.geometry import count_parameters, describe
from cnntrain.nn.shapes import Shape, describe_shape
from cnntrain.nn.stages import check_size
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.progress import clock
from cnntrain.stats.looks import Look
from cnntrain.stats.paired_tests import LEVEL, seeds_needed
from cnntrain.stats.power import detectable
from cnntrain.studies.ablation.variants import Removal, SizedVariant
from cnntrain.studies.variants import info_of


def network(variant: Removal) -> nn.Sequential:
    """Build a variant's network without memory."""
    return build_model(variant.settings["model"], info_of(variant.settings), device="meta")


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
            SizedVariant(variant, removed, size, count_parameters(full) - size, macs, last_field(rows), changed)
        )
    return sized


def check_sizes(variant: Removal, net: nn.Sequential) -> None:
    """Refuse a variant whose removal blows up a stage beyond what can be trained."""
    for name, stage in net.named_children():
        try:
            check_size(stage)
        except ValueError as error:
            raise InputError(f"{variant.name}: stage {name!r}: {error}") from error


def rows_of(net: nn.Sequential, shape: tuple[int, ...]) -> tuple[list[Row], int | None]:
    """Return a network's stages and its multiplications, None where a foreign layer's are not known."""
    rows, lacking = describe(net, shape)
    return rows, None if lacking else sum(row.macs for row in rows)


def last_field(rows: Sequence[Row]) -> tuple[int, int] | None:
    """Return what one position of the last maps sees; None where no stage gives maps."""
    maps = [row.receptive_field for row in rows if row.receptive_field and len(row.out_shape) == 3]
    return maps[-1] if maps else None


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


# As a table.


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


# What can be concluded.


def prospects(look: Look, comparisons: int) -> str:
    """Say what a study can conclude at this look; nothing has to be known of it but seeds and variants."""
    n, level = len(look.seeds), look.level
    family, needed = (
        "one comparison" if comparisons == 1 else f"{comparisons} comparisons",
        seeds_needed(comparisons, level),
    )
    at = f"level {level:.2g}{'' if level == LEVEL else f' of {LEVEL} at this look'}"
    if n == 1:
        return "one seed cannot show that a difference is significant"
    if needed is None:
        return f"nothing is left of the significance level {LEVEL}: take other seeds in a new study"
    if n < needed:
        need = f"{family} need{'s' if comparisons == 1 else ''} at least {needed} ({at})"
        return f"{n} seeds are too few to show a significant difference: {need}"
    effect, holm = detectable(n, level / comparisons), " after Holm's correction" if comparisons > 1 else ""
    return (
        f"{n} seeds, {family}, {at}{holm}: 80 % power for a difference of {effect:.1f} standard deviations over seeds"
    )
