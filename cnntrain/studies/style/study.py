"""A picture that is changed until a network sees a photograph's content and a painting's style in it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnntrain.data.loading.normalise import denormalised, normalised
from cnntrain.nn.geometry import describe, on_meta
from cnntrain.nn.stages import stage_shapes
from cnntrain.runtime import disk
from cnntrain.runtime.devices import choose_device
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import CnntrainError, InputError
from cnntrain.runtime.memory import available
from cnntrain.runtime.seeding import generator
from cnntrain.studies.style.losses import WEIGHTS, LossPart, StyleTargets, Weighting, losses, targets
from cnntrain.studies.style.network import Features, find_features
from cnntrain.studies.style.options import Style
from cnntrain.studies.style.pictures import grey_pair, read_picture, size_at, with_colours
from cnntrain.training.checkpoints import State

HISTORY = 100  # steps that L-BFGS remembers, as torch and the authors' program do
AT_ONCE = 10  # steps between two looks at the clock


@dataclass(frozen=True)
class Painting:
    """A picture [1, C, H, W] in 0..255 after `step` steps at a size, and the loss of each layer.

    `steps` are those of all sizes so far. `state` is what the next step depends on, live: to be saved at once.
    """

    pixels: Tensor
    size: int
    step: int
    steps: int
    parts: Mapping[LossPart, float]
    state: State

    @property
    def loss(self) -> float:
        """The loss, which is the sum of its layers'."""
        return sum(self.parts.values())

    def share(self, layer: LossPart) -> float:
        """Return a layer's share of the loss; 0 of none."""
        return self.parts[layer] / self.loss if self.loss else 0.0


def paint(cfg: Style, begun: State | None = None) -> Iterator[Painting]:
    """Yield the picture every `AT_ONCE` steps, size after size; go on from the state of an earlier one.

    A larger size starts from the picture of the smaller one. Raises `InputError` for images that cannot be read or are
    too large for the memory.
    """
    features, device = find_features(cfg), choose_device(cfg.device)
    channels, sizes = features.info.shape[0], [*cfg.coarse, cfg.size]
    if cfg.keep_colours and channels != 3:
        raise InputError("keep_colours=true: this network takes grey images, which have no colours to keep")
    refuse_small(cfg, features)
    refuse_large(cfg, features)
    features.net.to(device)
    pixels: Tensor | None = None
    first, steps = (begun["place"], begun["steps"] - begun["step"]) if begun else (0, 0)
    for place, size in enumerate(sizes[first:], first):
        content, style = (read_picture(expanded(path), size, channels) for path in (cfg.content, cfg.style))
        bright = grey_pair(content, style) if cfg.keep_colours else (content, style)
        start = first_picture(cfg, *bright) if pixels is None else resized(pixels, content)
        seen, wanted, begin = (normalised(each, features.info).to(device) for each in (*bright, start))
        origin: State = begun if begun and place == first else {"step": 0, "picture": begin}
        step = 0
        for state, parts in descend(features.net, targets(features, seen, wanted), weighting(cfg), cfg.steps, origin):
            pixels = denormalised(state["picture"], features.info).cpu()
            shown = with_colours(pixels, content) if cfg.keep_colours else pixels
            step, total = state["step"], steps + state["step"]
            yield Painting(shown, size, step, total, parts, state | {"place": place, "steps": total})
        steps += step


def weighting(cfg: Style) -> Weighting:
    """Return how the differences are weighted: by the recipe, where no weight is asked for."""
    alpha, beta = WEIGHTS[cfg.recipe]
    return Weighting(
        cfg.recipe,
        alpha if cfg.alpha is None else cfg.alpha,
        beta if cfg.beta is None else cfg.beta,
        cfg.variation,
    )


def descend(
    net: nn.Sequential, wanted: StyleTargets, how: Weighting, steps: int, state: State
) -> Iterator[tuple[State, dict[LossPart, float]]]:
    """Take steps of L-BFGS from a state; yield every `AT_ONCE` of them the state then, and each layer's loss.

    The state at the beginning comes first. It ends before `steps` where nothing changes any more. Raises
    `CnntrainError` where the loss is no number any more.
    """
    device = next(iter((*wanted.content.values(), *wanted.style.values()))).device
    picture = state["picture"].detach().to(device, copy=True).contiguous().requires_grad_(True)
    # Its own thresholds stand for losses of another size: it is told how many steps to take.
    optimizer = torch.optim.LBFGS(
        [picture], history_size=HISTORY, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([*losses(net, picture, wanted, how).values()]).sum()
        loss.backward()
        return loss

    step, before = state["step"], -1
    while True:
        with torch.no_grad():
            parts = {layer: loss.item() for layer, loss in losses(net, picture, wanted, how).items()}
        if not math.isfinite(sum(parts.values())):
            raise CnntrainError(f"the loss is {sum(parts.values())} after {step} steps; take a smaller alpha and beta")
        yield {"step": step, "picture": picture.detach(), "optimizer": optimizer.state_dict()}, parts
        if step in (before, steps):
            return
        before = step
        optimizer.param_groups[0]["max_iter"] = min(AT_ONCE, steps - step)
        optimizer.step(closure)
        step = optimizer.state[picture]["n_iter"]


def first_picture(cfg: Style, content: Tensor, style: Tensor) -> Tensor:
    """Return the picture to begin with, of the content's size: the content, the style, or noise of the seed."""
    start = ("noise" if cfg.recipe == "paper" else "content") if cfg.start == "auto" else cfg.start
    if start == "noise":
        return torch.from_numpy(generator(cfg.seed, "style").uniform(0, 255, content.shape)).float()
    return content if start == "content" else resized(style, content)


def resized(pixels: Tensor, like: Tensor) -> Tensor:
    """Return pixels [1, C, H, W] at the size of others."""
    return F.interpolate(pixels, like.shape[2:], mode="bilinear", antialias=True)


def refuse_small(cfg: Style, features: Features) -> None:
    """Raise `InputError` where a stage has nothing left of a picture at one of its sizes."""
    net = on_meta(features.net)
    for size in {*cfg.coarse, cfg.size}:
        for path in (cfg.content, cfg.style):
            height, width = size_at(expanded(path), size)
            try:
                stage_shapes(net, (features.info.shape[0], height, width))
            except (RuntimeError, ValueError) as error:
                raise InputError(
                    f"size={size}: {path} has {height}×{width} pixels then, of which a stage has nothing left; take a "
                    "larger size, or stages that come earlier"
                ) from error


def refuse_large(cfg: Style, features: Features) -> None:
    """Raise `InputError` where the features of a picture, their gradients and the optimizer's memory have no room."""
    size = max(cfg.size, *cfg.coarse, 0)
    shapes = [(features.info.shape[0], *size_at(expanded(path), size)) for path in (cfg.content, cfg.style)]
    channels, height, width = max(shapes, key=math.prod)
    stages, _ = describe(on_meta(features.net), (channels, height, width))
    need = 4 * (2 * sum(stage.activations for stage in stages) + 2 * HISTORY * channels * height * width)
    if need > (free := available()):
        raise InputError(
            f"size={size}: pictures of {height}×{width} need about {disk.size(need)} of memory, and {disk.size(free)} "
            "are free; take a smaller size"
        )
