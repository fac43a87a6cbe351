"""Feeds turn a training split into augmented batches on the device, in an order that is a function of (seed, epoch).

`seek` is all that the host does for a batch; `batch` is a device program without a look at any value. The resident feed
holds every pixel on the device, the streamed one has workers read the images of the batches to come; both render
pixels through the same functions, so their batches agree to the bit. Of several processes each has its share of every
batch, and all draw the same plan.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cnntrain import ranks
from cnntrain.data.augmentation import Part, Plan
from cnntrain.data.rendering import Batch, Normalise, Render, Store
from cnntrain.data.sources import Card, Pixels, Split, stored
from cnntrain.data.workers import end_workers, loader, read_batches
from cnntrain.draws import generator
from cnntrain.errors import InputError


class Feed(Protocol):
    """Batches by their place: an epoch and a number within it."""

    batches: int  # full batches an epoch
    batch_size: int  # of all processes
    plan: Plan  # of the epoch that `seek` went to

    def seek(self, epoch: int, place: int) -> None: ...

    def batch(self) -> Batch: ...

    def close(self) -> None: ...


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
        self.source = stored(split.source)
        self.batch_size, self.batches = batch_size, len(split.labels) // batch_size
        self.balanced, self.host_labels = balanced, split.labels.numpy()
        self.labels = split.labels.to(device)
        self.render = Render(card, parts, device)
        self.epoch, self.place = -1, 0

    def begin(self, epoch: int) -> None:
        """Draw everything that `epoch` needs, on the host, so that every device sees the same."""
        plan = plan_epoch(self.host_labels, self.batch_size, self.seed, epoch, balanced=self.balanced)
        plan = plan._replace(shape=self.source.shape[:2])
        mine = ranks.share(self.batch_size)
        self.epoch, self.plan, self.shown = epoch, plan, plan.index[:, mine]
        self.index = torch.from_numpy(self.shown).to(self.device)
        self.drawn = {
            name: part.draw(generator(self.seed, name, epoch), plan)[:, mine].to(self.device)
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
        if not isinstance(self.source, Pixels):
            raise TypeError("a resident feed needs the pixels in memory")
        self.store = Store(self.source.images, device)

    def batch(self) -> Batch:
        """Return the batch that `seek` went to."""
        index = self.index[self.place]
        return self.render(self.store, index, self.labels.index_select(0, index), self.drawn_here())


class Places:
    """The batches that the workers are to read next."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.rows)


class StreamedFeed(Planned):
    """Workers read the images of the batches to come; draws and augmentation stay with the device."""

    def __init__(self, split: Split, card: Card, *, device: torch.device, workers: int, **settings: object) -> None:
        super().__init__(split, card, device=device, **settings)  # type: ignore[arg-type]
        self.places = Places()
        self.loader = loader(self.source, self.places, workers, persistent=True, pin=device.type == "cuda")
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
            self.places.rows = self.shown[place:].tolist()
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
    yield from read_batches(loader(split.source, rows, workers))
