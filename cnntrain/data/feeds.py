"""Feeds turn a training split into augmented batches on the device, in an order that is a function of (seed, epoch).

`seek` is all that the host does for a batch; `batch` is a device program without a look at any value. The resident feed
holds every pixel on the device, the streamed one has workers read the images of the batches to come; both render
pixels through the same functions, so their batches agree to the bit.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cnntrain.data.augmentation import Part, Plan
from cnntrain.data.sources import Card, Pixels, Source, Split
from cnntrain.draws import generator
from cnntrain.errors import CnntrainError, InputError

HUNG_SECONDS = 300  # without a batch, until a worker counts as hung


class Batch(NamedTuple):
    """What one step learns from."""

    images: Tensor  # float32 [B, C, H, W], normalised, channels_last
    target: Tensor  # int64 [B], or float32 [B, classes] where labels were mixed
    labels: Tensor  # int64 [B]: the label each image came with, to score against


class Feed(Protocol):
    """Batches by their place: an epoch and a number within it."""

    batches: int  # full batches an epoch
    batch_size: int
    plan: Plan  # of the epoch that `seek` went to

    def seek(self, epoch: int, place: int) -> None: ...

    def batch(self) -> Batch: ...

    def close(self) -> None: ...


class Normalise:
    """uint8 [B, H, W, C] to float32, with the dataset's mean and standard deviation: [B, C, H, W], channels_last."""

    def __init__(self, card: Card, device: torch.device) -> None:
        channels = card.shape[0]
        if not len(card.mean) == len(card.std) == channels:  # one channel would broadcast silently against three
            raise ValueError(f"{channels} channels, but {len(card.mean)} means and {len(card.std)} deviations")
        mean, std = torch.tensor(card.mean), torch.tensor(card.std)
        self.scale = (1 / (255 * std)).to(device)
        self.shift = (-mean / std).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        batch, height, width, channels = pixels.shape
        # One long last axis: broadcasting over three channels alone is ten times slower on a CPU.
        rows = pixels.float().view(batch, height, width * channels)
        out = rows.mul_(self.scale.repeat(width)).add_(self.shift.repeat(width))
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


class Store:
    """Pixels in one flat tensor, so that any mixture of shuffling, cropping and flipping is a single gather.

    Three channels lie as RGBX in one int32 a pixel. The last pixel is black: positions outside an image point there.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.count, self.height, self.width, self.channels = images.shape
        size = self.count * self.height * self.width
        if self.channels == 1:
            self.flat = torch.zeros(size + 1, dtype=torch.uint8, device=device)
            self.flat[:size] = images.reshape(size).to(device)
        else:
            packed = torch.zeros(size + 1, 4, dtype=torch.uint8, device=device)
            packed[:size, : self.channels] = images.reshape(size, self.channels).to(device)
            self.flat = packed.view(torch.int32).view(-1)
        self.black = size
        self.rows = torch.arange(self.height, device=device)
        self.cols = torch.arange(self.width, device=device)

    def images(self, index: Tensor) -> Tensor:
        """Return the images at `index` [B] as uint8 [B, H, W, C]."""
        whole = self.flat[: self.black].view(self.count, self.height * self.width)
        return self.unpack(whole.index_select(0, index).view(-1, self.height, self.width))

    def gather(self, index: Tensor, rows: Tensor, cols: Tensor, *, outside: bool) -> Tensor:
        """Return uint8 [B, H', W', C] from rows [B, H'] and columns [B, W'] of the images at `index` [B].

        Where positions can fall `outside` the image, black stands there.
        """
        place = (index * (self.height * self.width))[:, None, None] + (rows * self.width)[:, :, None] + cols[:, None, :]
        if outside:
            inside_rows = (rows >= 0) & (rows < self.height)
            inside_cols = (cols >= 0) & (cols < self.width)
            place = torch.where(inside_rows[:, :, None] & inside_cols[:, None, :], place, self.black)
        return self.unpack(torch.take(self.flat, place))

    def unpack(self, pixels: Tensor) -> Tensor:
        """Return packed pixels [B, H, W] as bytes [B, H, W, C]."""
        if self.channels == 1:
            return pixels.unsqueeze(-1)
        return pixels.view(torch.uint8).view(*pixels.shape, 4)[..., : self.channels]


class Render:
    """Stored pixels to a normalised, augmented batch; parts act in the order of their mapping."""

    def __init__(self, card: Card, parts: Mapping[str, Part], device: torch.device) -> None:
        self.normalise, self.classes = Normalise(card, device), len(card.classes)
        # Output positions are traced back to the image, so the part that acts last maps them first.
        self.places = [(name, part.place) for name, part in reversed(list(parts.items())) if part.place]
        self.outside = any(part.outside for part in parts.values())
        self.pixels = [(name, part.pixels) for name, part in parts.items() if part.pixels]
        self.mixers = [(name, part.batch) for name, part in parts.items() if part.batch]

    def __call__(self, store: Store, index: Tensor, labels: Tensor, drawn: Mapping[str, Tensor]) -> Batch:
        if self.places:
            rows, cols = store.rows.expand(len(index), -1), store.cols.expand(len(index), -1)
            for name, place in self.places:
                rows, cols = place(rows, cols, store.height, store.width, drawn[name])
            pixels = store.gather(index, rows, cols, outside=self.outside)
        else:
            pixels = store.images(index)
        if self.pixels:
            values = pixels.float().permute(0, 3, 1, 2)
            for name, change in self.pixels:
                values = change(values, drawn[name])
            pixels = values.permute(0, 2, 3, 1).contiguous()
        x, target = self.normalise(pixels), labels
        for name, mix in self.mixers:
            x, target = mix(x, target, drawn[name], self.classes)
        return Batch(x.contiguous(memory_format=torch.channels_last), target, labels)


def plan_epoch(labels: np.ndarray, batch_size: int, seed: int, epoch: int, *, balanced: bool) -> Plan:
    """Return which image stands at each place of an epoch of full batches.

    `balanced` draws a class for each place, each as often as any other, and then one of its images.
    """
    rng, count = generator(seed, "order", epoch), len(labels)
    steps = count // batch_size
    if balanced:
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        picks = rng.integers(len(members), size=steps * batch_size)
        shares = rng.random(steps * batch_size)
        order = np.array([members[c][int(u * len(members[c]))] for c, u in zip(picks, shares, strict=True)])
    else:
        order = rng.permutation(count)[: steps * batch_size]
    return Plan(seed, epoch, count, order.reshape(steps, batch_size))


class Planned:
    """What both feeds share: the plan of the epoch and everything drawn for it."""

    def __init__(
        self,
        split: Split,
        card: Card,
        *,
        batch_size: int,
        parts: Mapping[str, Part],
        seed: int,
        device: torch.device,
        balanced: bool = False,
    ) -> None:
        if len(split.labels) < batch_size:
            raise InputError(
                f"trainer.batch_size={batch_size} is more than the {len(split):,} training images; make it smaller"
            )
        self.parts, self.seed, self.device = parts, seed, device
        self.batch_size, self.batches = batch_size, len(split.labels) // batch_size
        self.balanced, self.host_labels = balanced, split.labels.numpy()
        self.labels = split.labels.to(device)
        self.render = Render(card, parts, device)
        self.epoch, self.place = -1, 0

    def begin(self, epoch: int) -> None:
        """Draw everything that `epoch` needs, on the host, so that every device sees the same."""
        plan = plan_epoch(self.host_labels, self.batch_size, self.seed, epoch, balanced=self.balanced)
        self.epoch, self.plan = epoch, plan
        self.index = torch.from_numpy(plan.index).to(self.device)
        self.drawn = {
            name: part.draw(generator(self.seed, name, epoch), plan).to(self.device)
            for name, part in self.parts.items()
        }

    def seek(self, epoch: int, place: int) -> None:
        """Go to batch number `place` of `epoch`."""
        if epoch != self.epoch:
            self.begin(epoch)
        self.place = place

    def close(self) -> None:
        """Let go of what the feed holds besides memory."""

    def drawn_here(self) -> dict[str, Tensor]:
        """Return what each part has drawn for this batch."""
        return {name: drawn[self.place] for name, drawn in self.drawn.items()}


class ResidentFeed(Planned):
    """All pixels on the device: a batch is one gather."""

    def __init__(self, split: Split, card: Card, *, device: torch.device, **settings: object) -> None:
        super().__init__(split, card, device=device, **settings)  # type: ignore[arg-type]
        if not isinstance(split.source, Pixels):
            raise TypeError("a resident feed needs the pixels in memory")
        self.store = Store(split.source.images, device)

    def batch(self) -> Batch:
        """Return the batch that `seek` went to."""
        index = self.index[self.place]
        return self.render(self.store, index, self.labels.index_select(0, index), self.drawn_here())


class Reading(Dataset[Tensor]):
    """A source as `DataLoader` workers read it: a whole batch at once, or the error of a bad file.

    An error that crossed the process as an exception would come out wrapped in the worker's traceback.
    """

    def __init__(self, source: Source, workers: int) -> None:
        self.source = source
        self.reading = torch.full((max(workers, 1), 2), -1).share_memory_()  # process and image of each worker

    def __getitems__(self, index: Sequence[int]) -> Tensor | InputError:
        worker, images = get_worker_info(), []
        try:
            for position in index:
                self.reading[worker.id if worker else 0] = torch.tensor([os.getpid(), position])
                images.append(self.source.read([position]))
        except InputError as error:
            return error
        return torch.cat(images)

    def suspects(self, complaint: str) -> str:
        """Name what the workers that a complaint of the loader names (or else all) were reading."""
        rows = [row for row in self.reading.tolist() if row[1] >= 0]
        named = [row for row in rows if str(row[0]) in complaint] or rows
        path = getattr(self.source, "path", lambda position: f"image {position}")
        return ", ".join(str(path(position)) for _, position in named)


class Places:
    """The batches that the workers are to read next."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.rows)


def whole(batch: Any) -> Any:
    """Take a batch, or the error instead of it, as it was read."""
    return batch


def ignore_signals(worker: int) -> None:
    """Leave signals to the main process: a terminal or a scheduler sends them to the whole group."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def read_batches(loader: DataLoader) -> Iterator[Tensor]:
    """Yield what the workers read; raise what they could not.

    Raises `CnntrainError` naming the image at which a worker died or hung.
    """
    assert isinstance(loader.dataset, Reading)
    try:
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        complaint = str(error).splitlines()[0]
        raise CnntrainError(f"{complaint}; it was reading {loader.dataset.suspects(complaint)}") from error


def end_workers(seconds: float = 5.0) -> None:
    """Wait for worker processes that were told to end, and kill those that do not: they ignore signals.

    Python would wait for them for ever when it ends itself.
    """
    deadline = time.monotonic() + seconds
    for child in multiprocessing.active_children():
        child.join(max(0.0, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()
            child.join()


class StreamedFeed(Planned):
    """Workers read the images of the batches to come; draws and augmentation stay with the device."""

    def __init__(self, split: Split, card: Card, *, device: torch.device, workers: int, **settings: object) -> None:
        super().__init__(split, card, device=device, **settings)  # type: ignore[arg-type]
        self.places = Places()
        self.loader = DataLoader(
            Reading(split.source, workers),
            batch_sampler=self.places,
            num_workers=workers,
            collate_fn=whole,
            persistent_workers=workers > 0,
            timeout=HUNG_SECONDS if workers else 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=ignore_signals,
            generator=torch.Generator(),  # the default one belongs to dropout
        )
        self.ahead: Iterator[Tensor] = iter(())
        self.due = (-1, 0)

    def close(self) -> None:
        """End the workers."""
        self.ahead = iter(())
        del self.loader
        end_workers()

    def seek(self, epoch: int, place: int) -> None:
        """Go to batch number `place` of `epoch`; the workers start over unless it is the next one."""
        if epoch != self.epoch:
            self.begin(epoch)
        if (epoch, place) != self.due:
            self.places.rows = self.plan.index[place:].tolist()
            self.ahead = read_batches(self.loader)
        self.place, self.due = place, (epoch, place + 1)

    def batch(self) -> Batch:
        """Return the batch that `seek` went to."""
        images = next(self.ahead).to(self.device, non_blocking=True)
        index = torch.arange(len(images), device=self.device)
        labels = self.labels.index_select(0, self.index[self.place])
        return self.render(Store(images, self.device), index, labels, self.drawn_here())


def sweep(
    split: Split, card: Card, *, batch_size: int, device: torch.device, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels) of a whole split in its order, normalised and never augmented; the last may be short."""
    normalise = Normalise(card, device)
    for images, labels in zip(read_in_order(split, batch_size, workers), split.labels.split(batch_size), strict=True):
        yield normalise(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)


def read_in_order(split: Split, batch_size: int, workers: int) -> Iterator[Tensor]:
    """Yield the pixels of a split batch by batch, read by workers unless they are in memory."""
    if isinstance(split.source, Pixels):
        yield from split.source.images.split(batch_size)
        return
    rows = [list(range(i, min(i + batch_size, len(split.labels)))) for i in range(0, len(split.labels), batch_size)]
    loader = DataLoader(
        Reading(split.source, workers),
        batch_sampler=rows,
        timeout=HUNG_SECONDS if workers else 0,
        num_workers=workers,
        collate_fn=whole,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),
    )
    yield from read_batches(loader)
