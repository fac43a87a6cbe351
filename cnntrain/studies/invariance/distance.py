"""How far features are from those of another image: Euclidean, cosine, and from the warped features themselves."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cnntrain.data.augment.resize import Size
from cnntrain.nn.measures import Span, Spans
from cnntrain.transforms.resampling import Motion, Sampling, sample, sampling
from cnntrain.transforms.transform import Amount


def distances(x: Tensor, y: Tensor, norm: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the Euclidean and the cosine distance [B] of features [B, …]; equal features are at 0 exactly.

    1 - cos = (‖x - y‖² - (‖x‖ - ‖y‖)²) / (2 ‖x‖ ‖y‖). Two zero vectors are at 0, a zero and another at 1.
    """
    a, b = x.float().flatten(1), y.float().flatten(1)
    far = (a - b).norm(dim=1)
    norm_a, norm_b = a.norm(dim=1) if norm is None else norm, b.norm(dim=1)
    product = 2 * norm_a * norm_b
    cosine = (far.square() - (norm_a - norm_b).square()).clamp(min=0) / product
    return far, torch.where(product == 0, (far > 0).float(), cosine)


# Features that are warped themselves.

FeatureTransforms = Callable[[str, Amount, Tensor], Sampling | None]


def feature_transforms(
    spans: Mapping[str, Spans], image: Size, move: Callable[[Amount], Motion] | None
) -> FeatureTransforms:
    """Return what says how a stage's maps would move under an amount, or None where that has no meaning."""
    known: dict[tuple[str, Amount], Sampling | None] = {}

    def how(name: str, amount: Amount, features: Tensor) -> Sampling | None:
        if move is None or features.dim() != 4 or name not in spans:
            return None
        if (name, amount) not in known:
            size = (features.shape[2], features.shape[3])
            down, across = (
                (span.jump or 1, lies(span, positions, side))
                for span, positions, side in zip(spans[name], size, image, strict=True)
            )
            motion = move(amount).on_map((down[0], across[0]), (across[1], down[1]))
            moved = sampling(motion, size, device=features.device)
            known[name, amount] = moved if bool(moved.inside.any()) else None
        return known[name, amount]

    return how


def lies(span: Span, positions: int, side: int) -> float:
    """Return where the middle of a map lies on one axis, in pixels from the middle of the image."""
    assert span.jump is not None
    return span.jump * (positions - 1) / 2 + (span.low + span.high) / 2 - (side - 1) / 2


def misfit(before: Tensor, after: Tensor, how: Sampling) -> Tensor:
    """Return the Euclidean distance [B] of warped features to those of the warped image.

    Positions that show what was no feature before are left out, and the others stand for them.
    """
    gap = (sample(before, how) - after.float()).flatten(2) * how.inside
    far: Tensor = gap.flatten(1).norm(dim=1) / how.inside.float().mean().sqrt()
    return far
