"""Layers whose numbers are made from images before training begins, without any class: bins, words, standardisation.

The numbers are parameters that are never trained. Until `calibrate` has made them (`calibration.py`) they are drawn,
or change nothing.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnntrain.nn.filters import SMALLEST, Votes, in_fp32
from cnntrain.nn.layers import Pointwise
from cnntrain.nn.measures import Cost, units_cost
from cnntrain.nn.shapes import Shape
from cnntrain.runtime.errors import InputError

Assignment = Literal["nearest", "triangle"]

SAMPLE = 100_000  # positions that words are learnt from
MOST_BINS = 4096  # maps of a joint histogram
FLOOR = 0.01  # of the largest deviation: numbers that vary less are not blown up further
LEAK = 0.1  # added to the variances of contrast-normalised patches before they are made equal (Coates et al. 2011)


def fixed(*shape: int) -> nn.Parameter:
    """Memory of numbers that are never trained."""
    return nn.Parameter(torch.empty(shape), requires_grad=False)


class ColourBins(Pointwise):
    """Which bin each pixel is in: one-hot maps of each channel's bins, or of all combinations of them (`joint`).

    Bins divide evenly what lies between the smallest and the largest value of a channel. With linear votes a pixel
    counts for the two nearest bins; the maps of a pixel add up to one a channel, or to one if joint.
    """

    def __init__(self, channels: int, bins: int, *, joint: bool = False, votes: Votes = "linear") -> None:
        super().__init__()
        if joint and bins**channels > MOST_BINS:
            raise ValueError(
                f"{bins} bins of {channels} channels have {bins**channels:,} combinations; take fewer bins"
            )
        self.bins, self.joint, self.votes = bins, joint, votes
        self.low, self.high = fixed(channels), fixed(channels)

    def reset_parameters(self) -> None:
        self.low.data.fill_(-2.0)
        self.high.data.fill_(2.0)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Take the smallest and the largest value of each channel of [N, C, H, W]."""
        lows, highs = zip(
            *(x.float().flatten(2).transpose(0, 1).flatten(1).aminmax(dim=1) for x in batches), strict=True
        )
        self.low.copy_(torch.stack(lows).amin(0))
        self.high.copy_(torch.stack(highs).amax(0))

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.low.view(-1, 1, 1), self.high.view(-1, 1, 1)
        place = (x.float() - low) / (high - low).clamp(min=SMALLEST) * self.bins - 0.5  # 0 at the first bin's centre
        place = place.clamp(0, self.bins - 1)
        if self.votes == "hard":
            place = place.round()
        centres = torch.arange(self.bins, device=x.device, dtype=place.dtype).view(-1, 1, 1)
        votes = (1 - (place[:, :, None] - centres).abs()).clamp(min=0)  # [N, C, bins, H, W]
        if not self.joint:
            return votes.flatten(1, 2)
        first, *others = votes.unbind(1)
        for other in others:
            first = (first[:, :, None] * other[:, None]).flatten(1, 2)
        return first

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return Cost(activations=math.prod(out_shape))

    def extra_repr(self) -> str:
        return f"bins={self.bins}, joint={self.joint}, votes={self.votes}"


class Decorrelation(Pointwise):
    """Channels that are uncorrelated and of equal variance, turned back to where they came from (ZCA).

    (x - mean) · V (Λ + 0.1)^-½ Vᵀ, of the covariance V Λ Vᵀ over all positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean, self.matrix = fixed(channels), fixed(channels, channels)

    def reset_parameters(self) -> None:
        self.mean.data.zero_()
        nn.init.eye_(self.matrix.data)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Make the matrix from the positions of [N, C, H, W]."""
        count, total, products = 0, torch.zeros(1), torch.zeros(1)
        for x in batches:
            rows = positions(x)
            count += len(rows)
            total = total + rows.sum(0).double()
            products = products + (rows.T @ rows).double()
        mean = total / count
        variances, directions = torch.linalg.eigh(products / count - mean.outer(mean))
        self.mean.copy_(mean)
        self.matrix.copy_(directions * (variances.clamp(min=0) + LEAK).rsqrt() @ directions.T)

    def forward(self, x: Tensor) -> Tensor:
        with in_fp32(x):
            return F.conv2d(x.float() - self.mean.view(-1, 1, 1), self.matrix[:, :, None, None])

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return units_cost(out_shape, len(self.mean), bias=False)


class Words(Pointwise):
    """How much each word of a dictionary is in each position: [N, C, H, W] to [N, words, H, W].

    The nearest word is a 1×1 convolution and winner takes all: argmin ‖x - c‖² = argmax (c·x - ‖c‖² / 2). With
    `triangle` a word has max(0, mean distance of all words - its own distance) (Coates et al. 2011, section 3.2.1).

    The one-hot maps of nearest words pass on the gradient of a softmax, so that attacks find a direction.
    """

    def __init__(self, channels: int, words: int, assignment: Assignment = "nearest") -> None:
        super().__init__()
        self.assignment, self.seed = assignment, 0
        self.centres = fixed(words, channels)

    def reset_parameters(self) -> None:
        self.seed = int(torch.randint(2**31, ()))  # of k-means
        nn.init.normal_(self.centres.data)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Learn the words from some positions of [N, C, H, W] by k-means (Sculley 2010, in scikit-learn).

        Raises `InputError` for fewer positions than words.
        """
        from sklearn.cluster import MiniBatchKMeans  # half a second
        from threadpoolctl import threadpool_limits

        words, generator = len(self.centres), np.random.default_rng(self.seed)
        rows = sample(map(positions, batches), SAMPLE, generator)
        if len(rows) < words:
            raise InputError(f"{words} words cannot be learnt from {len(rows)} positions of images: take fewer words")
        means = MiniBatchKMeans(words, random_state=self.seed, batch_size=max(1024, 3 * words), n_init=1)
        with threadpool_limits(1), warnings.catch_warnings():  # the same sums whatever the number of threads
            warnings.simplefilter("ignore")  # that several words are equal, where positions are
            self.centres.copy_(torch.from_numpy(means.fit(rows).cluster_centers_))

    def forward(self, x: Tensor) -> Tensor:
        with in_fp32(x):
            x, kernels, sizes = x.float(), self.centres[:, :, None, None], self.centres.square().sum(1)
            if self.assignment == "triangle":  # in place, and the words of a position side by side: maps are large
                x = x.contiguous(memory_format=torch.channels_last)
                squares = F.conv2d(x, -2 * kernels, sizes).add_(x.square().sum(1, keepdim=True))
                distance = squares.clamp_(min=SMALLEST).sqrt_()
                return (distance.mean(1, keepdim=True) - distance).relu_()
            scores = F.conv2d(x, kernels, -0.5 * sizes)
            nearest = torch.zeros_like(scores).scatter(1, scores.argmax(1, keepdim=True), 1.0)
            if not scores.requires_grad:
                return nearest
            soft = scores.softmax(1)
            return nearest + (soft - soft.detach())

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return units_cost(out_shape, self.centres.shape[1], bias=True)

    def extra_repr(self) -> str:
        return f"{len(self.centres)} words of {self.centres.shape[1]}, {self.assignment}"


class Standardisation(Pointwise):
    """Every number with mean zero and the same deviation over the images, so that all n of them have length about 1."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.mean, self.scale = fixed(numbers), fixed(numbers)

    def reset_parameters(self) -> None:
        self.mean.data.zero_()
        self.scale.data.fill_(len(self.scale) ** -0.5)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Take the mean and the deviation of each number of [N, numbers]."""
        count, total, squares = 0, torch.zeros(1), torch.zeros(1)
        for x in batches:
            rows = x.cpu().double()
            count += len(rows)
            total = total + rows.sum(0)
            squares = squares + rows.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        floor = max(FLOOR * float(deviation.max()), SMALLEST)
        self.mean.copy_(mean)
        self.scale.copy_(1 / (deviation.clamp(min=floor) * math.sqrt(len(mean))))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) * self.scale

    def cost(self, in_shape: Shape, out_shape: Shape) -> Cost:
        return Cost(activations=math.prod(out_shape))


def positions(x: Tensor) -> Tensor:
    """Return the positions of maps [N, C, H, W] as rows of their channels."""
    return x.cpu().float().permute(0, 2, 3, 1).flatten(0, 2)


def sample(parts: Iterable[Tensor], most: int, generator: np.random.Generator) -> np.ndarray:
    """Return at most so many rows of all parts, each row with the same chance, in their order."""
    kept, marks = np.empty(0, np.float32), np.empty(0)
    for part in parts:
        kept = np.concatenate([kept, part]) if len(kept) else part.numpy()
        marks = np.concatenate([marks, generator.random(len(part))])
        if len(kept) > most:
            smallest = np.sort(np.argpartition(marks, most)[:most])
            kept, marks = kept[smallest], marks[smallest]
    return kept
