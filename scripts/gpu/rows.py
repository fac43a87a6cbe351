"""What every check is told, and what it answers."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

Row = dict[str, Any]


class Given(NamedTuple):
    """Where data lie, which record is compared, and whether tiny work on a CPU only shows that a check runs."""

    data_root: str = "data"
    reference: str = ""  # path of airbench94_muon.py
    smoke: bool = False

    @property
    def device(self) -> torch.device:
        """The device."""
        return torch.device("cpu" if self.smoke else "cuda")


Check = Callable[[Given], Iterator[Row]]  # each row as it is found


def row(what: str, value: float | None, unit: str, note: str = "") -> Row:
    """Return a line of the table."""
    return {"what": what, "value": value, "unit": unit, "note": note}


def now(device: torch.device) -> float:
    """Return the time at which all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(calls: Callable[[int], object], given: Given) -> float:
    """Return the mean seconds of numbered calls, after some that warm up."""
    warm, timed = (1, 2) if given.smoke else (10, 50)
    for number in range(warm):
        calls(number)
    began = now(given.device)
    for number in range(warm, warm + timed):
        calls(number)
    return (now(given.device) - began) / timed
