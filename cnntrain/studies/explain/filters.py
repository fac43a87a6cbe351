"""What filters have learned: their weights as tiles, their norms, and units that answer nothing.

A layer whose numbers are a linear function of the image has kernels that can be seen in the image: those of the first
layer, and those of a later one as one effective kernel, if nothing before it bends. Other layers read maps, and their
kernels are shown map by map.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.nn.shapes import Shape
from cnntrain.nn.stages import record
from cnntrain.runtime.errors import InputError, listed
from cnntrain.runtime.seeding import generator
from cnntrain.runtime.tables import Row, counted
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.question import Question
from cnntrain.studies.explain.search import MOST_STAGES, searched_images
from cnntrain.studies.explain.tiles import ColourScale, Tile, TiledPicture, scale_of, sheet_of_values
from cnntrain.studies.explain.units import chosen_units, ranges
from cnntrain.training.pictures import mosaic

USUAL_UNITS = 64
MOST_MAPS = 16  # input maps of a kernel that are shown
LINEAR = 1e-4  # of the values' size: what float32 may lose
Kind = Literal["kernels in the image", "kernels by input map", "weights"]


@dataclass(frozen=True, eq=False)
class LayerFilters:
    """The filters of a layer, by its path: one for each of `units`, out of `count`.

    `values` are kernels in the image [units, C, h, w], kernels by input map [units, maps, h, w], or weights
    [units, inputs]; `norms` [count] are the Euclidean norms of the weights of all the layer's units.
    """

    path: str
    kind: Kind
    values: np.ndarray
    units: np.ndarray
    count: int
    norms: np.ndarray

    @property
    def stage(self) -> str:
        """The stage that the layer belongs to."""
        return self.path.partition(".")[0]


def filters(question: Question) -> Explanation:
    """Return the filters of layers as tiles, their norms, and the units of each stage that never change."""
    subject = question.subject
    layers = weighted_layers(subject.net)
    if not layers:
        raise InputError("what=filters: no layer of this network has filters; take what=maps")
    stages = question.chosen_stages(list(dict.fromkeys(path.partition(".")[0] for path in layers))[:MOST_STAGES])
    chosen = {path: layer for path, layer in layers.items() if path.partition(".")[0] in stages}
    if not chosen:
        raise InputError(f"stages=[{','.join(stages)}]: no filters there; those of {listed(list(layers))} have some")
    found = layer_filters(subject.net, subject.info.shape, chosen, question.options.units)
    images = searched_images(question)
    silent = constant_units(ranges(subject.net, images.batches("filters"), list({layer.stage for layer in found})))
    left = len({path.partition(".")[0] for path in layers}) - len({layer.stage for layer in found})
    remark = (
        f"A dead unit has one and the same value on all {len(images):,} images of the {images.name} split (search=…), "
        "at all positions. Zero is white for one channel and grey for three; every layer has its own scale."
    )
    more = [f"{counted(left, 'stage')} with filters left out: stages=[…] names others."] if left else []
    units: dict[str, dict[int, list[Tile]]] = {}
    for layer in found:
        for unit, tile in unit_tiles(layer).items():
            units.setdefault(layer.stage, {}).setdefault(unit, []).append(tile)
    return Explanation([layer_picture(layer) for layer in found], filter_rows(found, silent), [remark, *more], units)


def weighted_layers(net: nn.Module) -> dict[str, nn.Module]:
    """Return by path the convolutions and full connections of a network: leaves whose weights end in units."""
    return {
        path: leaf
        for path, leaf in net.named_modules()
        if isinstance(leaf, nn.Conv2d | nn.Linear) and leaf.weight.numel() > 0
    }


def layer_filters(
    net: nn.Sequential, in_shape: Shape, layers: Mapping[str, nn.Module], asked: int | Sequence[int] | None = None
) -> list[LayerFilters]:
    """Return the filters of some layers; those that are linear in the image as their kernels there."""
    weights = {path: layer.get_parameter("weight").detach().cpu().float() for path, layer in layers.items()}
    units = chosen_units(asked, {path: len(weight) for path, weight in weights.items()}, USUAL_UNITS)
    linear = linear_in_the_image(net, in_shape, list(units))
    made = []
    for path, numbers in units.items():
        weight = weights[path]
        kind: Kind = "weights" if weight.dim() == 2 else "kernels by input map"
        values = weight[numbers, :MOST_MAPS] if weight.dim() == 4 else weight[numbers]
        if path in linear and in_shape[0] in (1, 3):  # what can be drawn as grey or as colours
            kind, values = "kernels in the image", image_kernels(net, in_shape, path, numbers)
        norms = weight.flatten(1).norm(dim=1).numpy()
        made.append(LayerFilters(path, kind, values.numpy(), numbers, len(weight), norms))
    return made


@torch.no_grad()
def linear_in_the_image(net: nn.Sequential, in_shape: Shape, paths: Sequence[str]) -> list[str]:
    """Return those layers whose numbers are a linear function of the image plus a constant.

    It is measured, f(x + y) - f(x) - f(y) + f(0) = 0, so that no layer need be known. What runs more than once gives
    several numbers, and is none.
    """
    device = next(net.parameters()).device
    draws = generator(0, "linear").standard_normal((2, *in_shape), dtype=np.float32)
    x, y = torch.from_numpy(draws).to(device)
    batch = torch.stack([x + y, x, y, torch.zeros_like(x)])
    with record(net, running_once(net, batch[:1], paths)) as found:
        net(batch)
    linear = []
    for path, (both, one, other, none) in found.items():
        size = max(float((each - none).abs().max()) for each in (both, one, other))
        if size > 0 and float((both - one - other + none).abs().max()) <= LINEAR * size:
            linear.append(path)
    return linear


@torch.no_grad()
def running_once(net: nn.Module, images: Tensor, paths: Sequence[str]) -> list[str]:
    """Return those of some modules that run once, and only once."""
    runs = Counter[str]()
    handles = [
        net.get_submodule(path).register_forward_hook(lambda *_, path=path: runs.update([path])) for path in paths
    ]
    try:
        net(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return [path for path in paths if runs[path] == 1]


def image_kernels(net: nn.Sequential, in_shape: Shape, path: str, units: np.ndarray) -> Tensor:
    """Return what each pixel counts for units of a layer that is linear in the image: [units, C, h, w].

    Of a layer of maps it is the unit in the middle of the map. Pixels around that count for none of the units are cut.
    """
    x = torch.zeros(1, *in_shape, device=next(net.parameters()).device, requires_grad=True)
    with record(net, [path]) as found:
        net(x.clone())  # which it may overwrite
    values = found[path][0]
    middle = values if values.dim() == 1 else values[:, values.shape[1] // 2, values.shape[2] // 2]
    slopes = [torch.autograd.grad(middle[int(unit)], x, retain_graph=True)[0][0] for unit in units]
    kernels = torch.stack(slopes).cpu()
    counting = (kernels != 0).flatten(0, 1).any(dim=0)
    rows, columns = counting.any(dim=1).nonzero(), counting.any(dim=0).nonzero()
    if not len(rows):
        return kernels
    return kernels[:, :, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]


def constant_units(found: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, list[int]]:
    """Return by stage the numbers of the units whose smallest and largest values are one."""
    return {stage: (low == high).nonzero()[:, 0].tolist() for stage, (low, high) in found.items()}


def filter_rows(found: Sequence[LayerFilters], silent: Mapping[str, Sequence[int]]) -> list[Row]:
    """Return a line for each layer; the dead units of a stage stand with its last layer."""
    last = {layer.stage: layer.path for layer in found}
    rows = list[Row]()
    for layer in found:
        dead = silent[layer.stage] if last[layer.stage] == layer.path else None
        rows.append(
            {
                "layer": layer.path,
                "units": layer.count,
                "shown": f"{len(layer.units)} {layer.kind}",
                "smallest norm": float(layer.norms.min()),
                "median": float(np.median(layer.norms)),
                "largest": float(layer.norms.max()),
                "dead": None if dead is None else len(dead),
                "which": "" if not dead else listed([str(unit) for unit in dead], 10),
            }
        )
    return rows


def layer_scale(layer: LayerFilters) -> ColourScale:
    """Return the scale of all of a layer's filters, to the largest weight."""
    return scale_of(layer.values, "weight", signed=True, limit=float(np.abs(layer.values).max()) or None)


def layer_picture(layer: LayerFilters) -> TiledPicture:
    """Return the picture of a layer's filters, all on one scale."""
    values, shown = layer.values, f"{len(layer.units)} of {counted(layer.count, 'unit')}"
    if layer.kind == "kernels in the image":
        tile = sheet_of_values(values.transpose(0, 2, 3, 1))
    elif layer.kind == "weights":
        tile, shown = values, f"{shown}, a row each"
    else:
        tile = mosaic(values.reshape(-1, *values.shape[2:]), columns=values.shape[1], between=np.nan)
        shown = f"{shown}, a row each;\na column for each of {values.shape[1]} input maps"
    return TiledPicture(
        f"filters_{layer.path.replace('.', '_')}",
        f"{layer.path}: {layer.kind}",
        [Tile(shown, tile, layer_scale(layer))],
        side=3.4,
        about=layer.stage,
    )


def unit_tiles(layer: LayerFilters) -> dict[int, Tile]:
    """Return by its number the filter of each unit of a layer, on the layer's scale."""
    scale, tiles = layer_scale(layer), dict[int, Tile]()
    for unit, values in zip(layer.units.tolist(), layer.values, strict=True):
        if layer.kind == "kernels in the image":
            tile = sheet_of_values(values.transpose(1, 2, 0)[None])
        else:
            tile = mosaic(
                values if values.ndim == 3 else values[:, None, None], between=np.nan, gap=int(values.ndim == 3)
            )
        tiles[unit] = Tile(f"{layer.path}: {layer.kind}", tile, scale)
    return tiles
