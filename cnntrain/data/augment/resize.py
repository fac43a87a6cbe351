"""Windows of stored images at the network's size, bilinear with antialiasing, in whole grey values."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

# What F.interpolate(mode="bilinear", antialias=True) calls; of F's own, every result would have to be copied.
scaled = torch.ops.aten._upsample_bilinear2d_aa.out
ALONE = 1 << 15  # numbers that torch changes in the thread that asks for it; more are for all threads
Size = tuple[int, int]  # height, width
PixelRun = tuple[list[int], list[int]]  # of each image, the first position and whether they go up (1) or down (-1)


def resized_one_by_one(
    images: Tensor, index: Tensor, rows: PixelRun, cols: PixelRun, windows: Tensor, size: Size
) -> Tensor:
    """Return a window of each of the images at `index` [B] in another `size`, uint8 [B, *size, C], on a CPU.

    `images` are uint8 [N, H, W, C], of which only the windows are read. `rows` and `cols` say where the pixels of an
    image lie that was mirrored before; `windows` [B, 4] are (top, left, height, width) in the mirrored image.
    """
    out = torch.empty(len(index), *size, images.shape[3], dtype=torch.uint8)
    tops, lefts, heights, widths = windows.T.tolist()
    down, across = spans(rows, tops, heights), spans(cols, lefts, widths)
    pixels = images.numpy()
    tasks = list(zip(out, index.tolist(), down, across, strict=True))

    def resize_every(first: int, step: int) -> None:
        for into, place, (top, bottom, upside), (left, right, mirrored) in tasks[first::step]:
            window = in_one_piece(pixels[place, top:bottom, left:right], upside=upside, mirrored=mirrored)
            scaled(window.permute(2, 0, 1)[None], size, False, None, None, out=into.permute(2, 0, 1)[None])

    # torch scales one image in one thread. Threads of our own, which begin here and end here, share the images.
    threads = min(torch.get_num_threads(), len(tasks))
    with ThreadPoolExecutor(threads) as pool:
        others = [pool.submit(resize_every, first, threads) for first in range(1, threads)]
        resize_every(0, threads)
        for other in others:
            other.result()
    return out


def in_one_piece(window: np.ndarray, *, upside: bool, mirrored: bool) -> Tensor:
    """Return a copy of a window [H, W, C], turned over where asked for, made in the thread that asks for it.

    Of large tensors torch would have all threads copy some, which takes longer here than the copy.
    """
    window = window[::-1] if upside else window
    if not mirrored:
        return torch.from_numpy(window.copy())
    copy = torch.empty(window.shape, dtype=torch.uint8)
    rows = max(1, ALONE // math.prod(window.shape[1:]))
    for first in range(0, len(window), rows):
        some = torch.from_numpy(window[first : first + rows].copy())
        copy[first : first + rows] = some.permute(2, 0, 1).flip(2).permute(1, 2, 0)
    return copy


def spans(runs: PixelRun, firsts: list[int], lengths: list[int]) -> Iterator[tuple[int, int, bool]]:
    """Yield where each window begins and ends along an axis of the stored image, and whether it is read backwards."""
    for start, step, first, length in zip(*runs, firsts, lengths, strict=True):
        begin = start + first if step == 1 else start - first - length + 1
        yield begin, begin + length, step == -1


def runs_of(positions: Tensor) -> PixelRun | None:
    """Return positions [B, P] as runs that go up or down by one; None where one image's do not."""
    steps = positions.diff(dim=1)
    if not steps.shape[1] or not ((steps == steps[:, :1]) & (steps.abs() == 1)).all():
        return None
    return positions[:, 0].tolist(), steps[:, 0].tolist()


def resized_at_once(x: Tensor, windows: Tensor, size: Size) -> Tensor:
    """Return a window of each image `x`, uint8 [B, H, W, C], in another `size` (height, width), on any device.

    `windows` [B, 4] are (top, left, height, width) in pixels. A pixel is the mean of the window's pixels, weighted by a
    triangle as wide as the scale, at least one pixel to each side, and rounded.
    """
    top, left, height, width = windows.float().unbind(1)
    batch, tall, wide, channels = x.shape
    down, across = triangles(top, height, tall, size[0]), triangles(left, width, wide, size[1])
    # Two products of matrices, over rows of all columns and channels, then over columns of all new rows and channels.
    rows = torch.bmm(down, x.float().view(batch, tall, -1))
    rows = rows.view(batch, size[0], wide, channels).transpose(1, 2).reshape(batch, wide, -1)
    scaled_windows = torch.bmm(across, rows).view(batch, size[1], size[0], channels).transpose(1, 2)
    return (scaled_windows + 0.5).to(torch.uint8)


def nearest(first: Tensor, length: Tensor, side: int) -> Tensor:
    """Return the nearest positions [B, side] where the `length` [B] pixels after `first` [B] are scaled to `side`."""
    middle = (torch.arange(side, device=first.device) + 0.5) * (length[:, None] / side)
    return first[:, None] + middle.long()


def triangles(first: Tensor, length: Tensor, total: int, side: int) -> Tensor:
    """Return the weights [B, side, total] that scale the `length` [B] pixels after `first` [B] of `total` to `side`."""
    scale = (length / side)[:, None, None]
    begin, end = first[:, None, None], (first + length)[:, None, None]
    middle = begin + (torch.arange(side, device=first.device, dtype=first.dtype)[:, None] + 0.5) * scale
    pixel = torch.arange(total, device=first.device, dtype=first.dtype) + 0.5
    weights = (1 - (pixel - middle).abs() / scale.clamp_min(1)).clamp_min(0) * ((pixel > begin) & (pixel < end))
    return weights / weights.sum(2, keepdim=True)
