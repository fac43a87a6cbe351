"""How far a network's features move when its images are changed, stage by stage, image by image.

Batches and their changed copies pass the network side by side, one stage after the other, each as a batch of the same
size: what is the same in stays the same to the bit, and no features are kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.loading.normalise import normalised
from cnntrain.data.storage.images import DatasetInfo, Split
from cnntrain.nn.geometry import stage_spans
from cnntrain.nn.measures import Span, Spans
from cnntrain.nn.stages import require, walk
from cnntrain.runtime.devices import autocast
from cnntrain.runtime.seeding import generator
from cnntrain.studies.invariance.distance import FeatureTransforms, distances, feature_transforms, misfit
from cnntrain.studies.networks import INPUT
from cnntrain.transforms.resampling import Motion
from cnntrain.transforms.transform import Amount, Changes, Transform, floor_of, padding_of

AT_ONCE = 21  # amounts that pass side by side
Progress = Callable[[int], None]  # called with the number of images that have passed
PixelBatches = Callable[[], Iterator[tuple[Tensor, Tensor, np.ndarray]]]  # pixels in 0..255, labels, places


def unseen(passed: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network in evaluation mode as it is measured, with the stages to look at and where their maps lie.

    `spans` holds stride and offset of spatial stages; those of other stages, or of unknown geometry, are missing.
    """

    net: nn.Sequential
    info: DatasetInfo
    stages: tuple[str, ...]
    spans: Mapping[str, Spans]
    precision: Literal["fp32", "bf16"]
    device: torch.device

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits of pixels [B, C, H, W], the same as those that `walk` ends with."""
        with autocast(self.precision, self.device):
            answer: Tensor = self.net(normalised(pixels, self.info).clone(memory_format=torch.channels_last))
        return answer

    def walk(self, views: Sequence[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield each stage's name and what leaves it for each of `views`, pixels [B, C, H, W], the input first."""
        # A copy of one layout for all: a layer may choose its algorithm by the strides, even those of a single channel.
        inputs = [normalised(view, self.info).clone(memory_format=torch.channels_last) for view in views]
        yield INPUT, inputs
        with autocast(self.precision, self.device):
            for steps in zip(*(walk(self.net, x) for x in inputs), strict=True):
                yield steps[0][0], [h for _, h in steps]


class Clean(NamedTuple):
    """What a network makes of unchanged images: [N], and distances to one other image each, [stages, N].

    A distance is nan where there is no such image.
    """

    labels: np.ndarray
    predicted: np.ndarray
    p_true: np.ndarray
    p_first: np.ndarray  # probability of the class that is predicted
    to_other: np.ndarray  # Euclidean, to an image of another class
    cosine_other: np.ndarray
    to_same: np.ndarray  # Euclidean, to another image of the same class
    goal: np.ndarray  # the class that a targeted attack wants the image taken for, -1 under any other warp


class Moved(NamedTuple):
    """What became of each image: float32 [amounts, stages, N], and [amounts, N] for the predictions."""

    euclidean: np.ndarray
    cosine: np.ndarray
    equivariance: np.ndarray  # Euclidean, to the warped features; nan where they cannot be warped
    p_true: np.ndarray
    p_first: np.ndarray  # probability of the class that was predicted of the clean image
    predicted: np.ndarray


class Controls(NamedTuple):
    """What is no answer to the motion: what interpolation alone does, and the border alone.

    `places` [M] are those of the images in their split.
    """

    places: np.ndarray
    floor: Moved
    padding: Moved


def measured_network(
    net: nn.Sequential,
    info: DatasetInfo,
    *,
    stages: Sequence[str] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: torch.device | None = None,
) -> MeasuredNetwork:
    """Return a network as it is measured, at all its stages unless some are named.

    Raises `StageError` naming the nearest stage for one that is none.
    """
    names = [INPUT, *(name for name, _ in net.named_children())]
    require(stages or (), names)
    chosen = tuple(name for name in names if stages is None or name in stages)
    spans = {INPUT: (Span(), Span()), **stage_spans(net, info.shape)}
    where = device or torch.device("cpu")
    return MeasuredNetwork(net.eval().requires_grad_(False).to(where), info, chosen, spans, precision, where)


def pixels_of(split: Split, places: np.ndarray, device: torch.device) -> Tensor:
    """Return the images at `places` as float32 [B, C, H, W] in 0..255."""
    return split.source.read(places).to(device).permute(0, 3, 1, 2).float()


def in_batches(split: Split, places: np.ndarray, size: int, device: torch.device) -> PixelBatches:
    """Return what reads the images of a split at `places`, in batches of `size`."""

    def batches() -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        for at in np.split(places, range(size, len(places), size)):
            yield pixels_of(split, at, device), split.labels[at].to(device), at

    return batches


def partners(labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return for each image the place of one of another class and of another one of its class, -1 where there is none.

    They are fixed by (seed, labels), so that all networks are measured by the same pairs.
    """
    rng = generator(seed, "pairs")
    other, same = np.full(len(labels), -1), np.full(len(labels), -1)
    for label in np.unique(labels):
        members, strangers = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        if len(strangers):
            other[members] = rng.choice(strangers, len(members))
        if len(members) > 1:  # a step along a random circle of all members meets no one twice and never oneself
            circle = rng.permutation(members)
            same[circle] = np.roll(circle, 1)
    return other, same


def clean(
    subject: MeasuredNetwork, split: Split, batch_size: int, transform: Transform, *, progress: Progress = unseen
) -> Clean:
    """Pass unchanged images and their partners, without the margin that `transform` has them read with."""
    labels = split.labels.numpy()
    other, same = partners(labels)
    batches = []
    for start in range(0, len(labels), batch_size):
        places = np.arange(start, min(start + batch_size, len(labels)))
        # An image without a partner passes beside itself, and its distance is left out.
        at = [places, *(np.where(partner[places] < 0, places, partner[places]) for partner in (other, same))]
        views = [framed(pixels_of(split, index, subject.device), transform.margin) for index in at]
        here = split.labels[places].to(subject.device)
        wanted = transform.goals(subject.logits, views[0], here) if transform.goals else torch.full_like(here, -1)
        batches.append([*beside_partners(subject, views, here), wanted.cpu().numpy()])
        progress(len(places))
    predicted, p_true, p_first, to_other, cosine, to_same, goal = (
        np.concatenate(parts, -1) for parts in zip(*batches, strict=True)
    )
    to_other[:, other < 0], cosine[:, other < 0], to_same[:, same < 0] = np.nan, np.nan, np.nan
    return Clean(labels, predicted, p_true, p_first, to_other, cosine, to_same, goal)


def beside_partners(subject: MeasuredNetwork, views: Sequence[Tensor], labels: Tensor) -> list[np.ndarray]:
    """Return predictions and probabilities [B], and distances [stages, B] to the second and third view."""
    rows = []
    with torch.no_grad():
        for name, (x, other, same) in subject.walk(views):
            if name in subject.stages:
                rows.append([*distances(x, other), distances(x, same)[0]])
    shares = x.float().softmax(dim=1)
    first, predicted = shares.max(dim=1)
    columns = [predicted, shares.gather(1, labels[:, None])[:, 0], first]
    columns += [torch.stack(column) for column in zip(*rows, strict=True)]
    return [values.cpu().numpy() for values in columns]


def moves(
    subject: MeasuredNetwork,
    batches: PixelBatches,
    changed: Changes,
    amounts: Sequence[Amount],
    *,
    move: Callable[[Amount], Motion] | None = None,
    crop: int = 0,
    progress: Progress = unseen,
) -> Moved:
    """Pass images and what `changed` makes of them, under each of `amounts`, and measure how far features move.

    With `move` the features of spatial stages are warped too, and compared with those of the warped image.
    """
    parts: list[Moved] = []
    warped = feature_transforms(subject.spans, subject.info.shape[1:], move)
    with torch.no_grad():
        for pixels, labels, places in batches():
            base, rest = framed(pixels, crop), changed(pixels, labels, places)
            pieces = []
            for start in range(0, len(amounts), AT_ONCE):
                some = amounts[start : start + AT_ONCE]
                views = [base, *(next(rest) for _ in some)]
                pieces.append(one_batch(subject, views, labels, some, warped))
            parts.append(Moved(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))))
            progress(len(places) * len(amounts))
    return Moved(*(np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)))


def one_batch(
    subject: MeasuredNetwork,
    views: Sequence[Tensor],
    labels: Tensor,
    amounts: Sequence[Amount],
    warped: FeatureTransforms,
) -> Moved:
    """Measure one batch `views[0]` against its changed copies, the others."""
    rows: list[list[Tensor]] = []  # [stages * amounts][3][B]
    for name, features in subject.walk(views):
        if name in subject.stages:
            first, norm = features[0], features[0].float().flatten(1).norm(dim=1)
            for h, amount in zip(features[1:], amounts, strict=True):
                how = warped(name, amount, first)
                error = torch.full_like(norm, torch.nan) if how is None else misfit(first, h, how)
                rows.append([*distances(first, h, norm), error])
    euclidean, cosine, equivariance = (
        torch.stack(column).unflatten(0, (-1, len(amounts))).transpose(0, 1).cpu().numpy()
        for column in zip(*rows, strict=True)
    )
    shares = torch.stack([h.float() for h in features]).softmax(dim=2)
    p_true, p_first = (
        shares[1:].gather(2, at.expand(len(amounts), -1)[..., None])[..., 0].cpu().numpy()
        for at in (labels, shares[0].argmax(dim=1))
    )
    return Moved(euclidean, cosine, equivariance, p_true, p_first, shares[1:].argmax(dim=2).cpu().numpy())


def controls(
    subject: MeasuredNetwork,
    split: Split,
    places: np.ndarray,
    size: int,
    transform: Transform,
    *,
    progress: Progress = unseen,
) -> Controls | None:
    """Measure what interpolation alone moves, and what the border alone does; None where no position moves."""
    if transform.move is None:
        return None
    batches = in_batches(split, places, size, subject.device)

    def moved_by(changes: Sequence[Callable[[Tensor], Tensor]]) -> Moved:
        def changed(pixels: Tensor, labels: Tensor, places: np.ndarray) -> Iterator[Tensor]:
            return (change(framed(pixels, transform.margin)) for change in changes)

        return moves(subject, batches, changed, transform.amounts, crop=transform.margin, progress=progress)

    floors = [floor_of(transform, amount, subject.device) for amount in transform.amounts]
    borders = [padding_of(transform, amount, subject.device) for amount in transform.amounts]
    return Controls(places, moved_by(floors), moved_by(borders))


def framed(pixels: Tensor, crop: int) -> Tensor:
    """Return the middle of images, without `crop` pixels on every side."""
    return pixels[:, :, crop : pixels.shape[2] - crop, crop : pixels.shape[3] - crop] if crop else pixels
