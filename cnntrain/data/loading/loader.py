"""Loaders turn a training split into augmented batches on the device, in an order that depends on (seed, epoch) alone.

`seek` is all that the host does for a batch; `batch` is a device program that never synchronises. It finds its place in
a tensor, so that a GPU can record it once and repeat it for every step. The resident loader holds every pixel on the
device, the streamed one has workers read the images of the batches to come. Both render pixels through the same
functions, so their batches agree to the bit. Of several processes each has its share of every batch, and all draw the
same plan.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cnntrain.data.augment.augmentations import Augmentation, Plan
from cnntrain.data.loading.batch import Batch, Collate, Store, centred_boxes
from cnntrain.data.loading.normalise import Normalise
from cnntrain.data.loading.prefetch import Slots
from cnntrain.data.loading.workers import end_workers, read_batches, torch_loader
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split, has_map, stored
from cnntrain.runtime.distributed import shard
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.seeding import generator


class Loader(Protocol):
    """Batches by their place: an epoch and a number within it. Every `batch` moves on to the next place."""

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
    """What both loaders share: the plan of the epoch and everything drawn for it."""

    def __init__(
        self,
        split: Split,
        info: DatasetInfo,
        *,
        batch_size: int,
        parts: Mapping[str, Augmentation],
        seed: int,
        device: torch.device,
        balanced: bool = False,
    ) -> None:
        if len(split.labels) < batch_size:
            raise InputError(
                f"trainer.batch_size={batch_size} is more than the {len(split):,} training {info.noun}s; make it "
                "smaller"
            )
        self.parts, self.seed, self.device = parts, seed, device
        self.source = stored(split.source)
        self.batch_size, self.batches = batch_size, len(split.labels) // batch_size
        self.balanced, self.host_labels = balanced, split.labels.numpy()
        self.labels = split.labels.to(device)
        self.render = Collate(info, parts, device)
        self.epoch = -1
        self.at = torch.zeros(1, dtype=torch.int64, device=device)  # the place of the batch that comes next
        self.index: Tensor | None = None  # [steps, batch], and what is drawn for them; at one address for good
        self.drawn: dict[str, Tensor] = {}

    def begin(self, epoch: int) -> None:
        """Draw everything that `epoch` needs, on the host, so that every device sees the same."""
        plan = plan_epoch(self.host_labels, self.batch_size, self.seed, epoch, balanced=self.balanced)
        plan = plan._replace(shape=self.source.shape[:2])
        mine = shard(self.batch_size)
        self.epoch, self.plan, self.shown = epoch, plan, plan.index[:, mine]
        self.index = self.laid(torch.from_numpy(self.shown), self.index)
        for name, part in self.parts.items():
            drawn = part.draw(generator(self.seed, name, epoch), plan)[:, mine]
            self.drawn[name] = self.laid(drawn, self.drawn.get(name))

    def laid(self, values: Tensor, where: Tensor | None) -> Tensor:
        """Put an epoch's values on the device, `where` those of the epoch before lie."""
        if where is None:
            where = torch.empty(values.shape, dtype=values.dtype, device=self.device)
        return where.copy_(values.pin_memory() if where.is_cuda else values, non_blocking=True)

    def seek(self, epoch: int, place: int) -> None:
        """Go to batch number `place` of `epoch`."""
        if epoch != self.epoch:
            self.begin(epoch)
        self.at.fill_(place)

    def close(self) -> None:
        """Let go of what the loader holds besides memory."""

    def planned(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return which images this batch shows and what each part has drawn for them, and move on to the next place."""
        assert self.index is not None
        index = self.index.index_select(0, self.at)[0]
        drawn = {name: drawn.index_select(0, self.at)[0] for name, drawn in self.drawn.items()}
        self.at.add_(1)
        return index, drawn


class ResidentLoader(Planned):
    """All pixels on the device: a batch is one gather."""

    def __init__(self, split: Split, info: DatasetInfo, *, device: torch.device, **settings: object) -> None:
        super().__init__(split, info, device=device, **settings)  # type: ignore[arg-type]
        if not isinstance(self.source, Pixels):
            raise TypeError("a resident loader needs the pixels in memory")
        self.store = Store(self.source.images, device)

    def batch(self) -> Batch:
        """Return the batch at this place."""
        index, drawn = self.planned()
        return self.render(self.store, index, self.labels.index_select(0, index), drawn)


class Places:
    """The batches that the workers are to read next."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.rows)


class StreamedLoader(Planned):
    """Workers read the images of the batches to come; draws and augmentation stay with the device.

    On a GPU `seek` sends the `together` batches that one step takes to the device, where they lie at one address for
    good; it is ahead of the device, which computes as they come.
    """

    def __init__(
        self,
        split: Split,
        info: DatasetInfo,
        *,
        device: torch.device,
        workers: int,
        together: int = 1,
        **settings: object,
    ) -> None:
        super().__init__(split, info, device=device, **settings)  # type: ignore[arg-type]
        self.together, self.slots = together, Slots(device) if device.type == "cuda" else None
        self.places = Places()
        self.torch_loader = torch_loader(self.source, self.places, workers, persistent=True, pin=device.type == "cuda")
        self.ahead: Iterator[Tensor] = iter(())
        self.images: Iterator[Tensor] = iter(())
        self.due = (-1, 0)  # what `ahead` reads next

    def close(self) -> None:
        """End the workers."""
        self.ahead = self.images = iter(())
        del self.torch_loader
        end_workers()

    def seek(self, epoch: int, place: int) -> None:
        """Go to batch number `place` of `epoch`; the workers start over unless it is the next one."""
        super().seek(epoch, place)
        if (epoch, place) != self.due:
            self.places.rows = self.shown[place:].tolist()
            self.ahead = read_batches(self.torch_loader)
            self.due = epoch, place
        self.images = self.read()
        if self.slots:
            coming = itertools.islice(self.images, min(self.together, self.batches - place))
            self.images = iter([self.slots.fill(number, images) for number, images in enumerate(coming)])

    def read(self) -> Iterator[Tensor]:
        """Yield the images of the batches from here on, and note how far this has gone."""
        for images in self.ahead:
            self.due = self.due[0], self.due[1] + 1
            yield images

    def batch(self) -> Batch:
        """Return the batch at this place."""
        images = next(self.images)
        shown, drawn = self.planned()
        index = torch.arange(len(images), device=self.device)
        return self.render(Store(images, self.device), index, self.labels.index_select(0, shown), drawn)


def eval_batches(
    split: Split,
    info: DatasetInfo,
    *,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    look: Callable[[Tensor], object] = lambda images: None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels) of a whole split in its order, normalised and never augmented; the last may be short.

    Labels are label maps, uint8 [B, H, W], where the images bring them. `look` sees the pixels of every batch as they
    are read, uint8 [B, H, W, C].
    """
    normalise = Normalise(info, device)
    for images, labels in zip(read_in_order(split, batch_size, workers), split.labels.split(batch_size), strict=True):
        look(images)
        if has_map(images.shape[3]):
            images, labels = images[..., :-1], images[..., -1]
        elif info.targets == "boxes" and labels.dim() == 3:  # images to be predicted have none
            labels = centred_boxes(labels, stored(split.source).shape[:2], info.shape[1:])
        yield normalise(images.to(device, non_blocking=True)), labels.to(device, non_blocking=True)


def read_in_order(split: Split, batch_size: int, workers: int) -> Iterator[Tensor]:
    """Yield the pixels of a split batch by batch, read by workers unless they are in memory."""
    if isinstance(split.source, Pixels):
        yield from split.source.images.split(batch_size)
        return
    rows = [list(range(i, min(i + batch_size, len(split.labels)))) for i in range(0, len(split.labels), batch_size)]
    yield from read_batches(torch_loader(split.source, rows, workers))
