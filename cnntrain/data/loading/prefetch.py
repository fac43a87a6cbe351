"""Where batches that come from the host wait on a GPU: copied on a stream of their own, while the device computes."""

from dataclasses import dataclass

import torch
from torch import Tensor

RING = 3  # batches that may be on their way


@dataclass
class Slot:
    """Memory of one batch on its way: `filled` when it has come over, `free` when it has been taken out."""

    images: Tensor
    filled: torch.cuda.Event
    free: torch.cuda.Event


class Slots:
    """Batches from pinned memory to addresses that do not change, so that a recorded step finds them there.

    A copy over the bus waits for nothing but a slot of the ring, and the computing stream for that copy. The host waits
    only when it is `RING` batches ahead of the bus, for pinned memory would pile up.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.ring: list[Slot] = []
        self.sent = 0
        self.ready: dict[int, Tensor] = {}  # by the batch's number in a step

    def fill(self, number: int, images: Tensor) -> Tensor:
        """Send `images` from pinned memory to where batch `number` of every step lies; return that place."""
        computing = torch.cuda.current_stream(self.stream.device)
        slot = self.slot(images)
        slot.filled.synchronize()  # of the batch that was in it before
        self.stream.wait_event(slot.free)
        with torch.cuda.stream(self.stream):
            slot.images.copy_(images, non_blocking=True)
            slot.filled.record(self.stream)
        if number not in self.ready:
            self.ready[number] = torch.empty_like(slot.images)
        computing.wait_event(slot.filled)
        self.ready[number].copy_(slot.images)
        slot.free.record(computing)
        return self.ready[number]

    def slot(self, images: Tensor) -> Slot:
        """Return the slot whose turn it is, made the first time."""
        if len(self.ring) < RING:
            memory = torch.empty(images.shape, dtype=images.dtype, device=self.stream.device)
            made = Slot(memory, torch.cuda.Event(), torch.cuda.Event())
            made.free.record(torch.cuda.current_stream(self.stream.device))
            self.ring.append(made)
        self.sent += 1
        return self.ring[(self.sent - 1) % RING]
