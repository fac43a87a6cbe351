"""One training in several processes, which torchrun or another launcher starts: what each is, and how they agree.

Every process runs the same program. Alone, as nearly always, it finds each function here to do nothing. Numbers of a
few bytes travel through gloo, whatever the device is, so that no process waits for a GPU to hear them.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cnntrain.runtime.errors import CnntrainError, EchoError

if TYPE_CHECKING:  # help and completion do not wait for torch
    from torch import Tensor

T = TypeVar("T")
LAUNCHED = "RANK" in os.environ and "WORLD_SIZE" in os.environ
WORLD = int(os.environ["WORLD_SIZE"]) if LAUNCHED else 1  # processes
RANK = int(os.environ["RANK"]) if LAUNCHED else 0  # of this one; number 0 alone writes and speaks
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0)) if LAUNCHED else 0  # among those of this machine
ATTEMPT = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's number of restarts
PATIENCE = datetime.timedelta(minutes=30)  # images may take one machine that much longer to get ready than another


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Have the processes find each other for as long as the context lasts, in which the first alone is heard."""
    if WORLD == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        shared, rank, world = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun's store outlives its processes: under the same names lie the addresses of those that have died.
        store = dist.PrefixStore(f"attempt {ATTEMPT}", shared)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise CnntrainError(
            f"the {WORLD} processes cannot connect to each other: {str(error).splitlines()[0]}"
        ) from error
    with contextlib.ExitStack() as silence:
        if RANK:
            nowhere = silence.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            silence.enter_context(contextlib.redirect_stdout(nowhere))
            silence.enter_context(contextlib.redirect_stderr(nowhere))
        yield
    dist.destroy_process_group()  # not after an error, when it could wait for a process that is gone


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Have every process come out of a block, or none: the first that fails in it tells why, the others leave with it.

    The block itself must not wait for other processes.
    """
    if WORLD == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    codes = [0.0] * WORLD
    codes[RANK] = getattr(failure, "exit_code", 1) if failure else 0
    failed = {rank: int(code) for rank, code in enumerate(total(*codes)) if code}
    if failed:
        first = min(failed)
        raise failure if failure and first == RANK else EchoError(failed[first])


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Explain what torch says when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if not lost(error):
            raise
        reason = f"another of the {WORLD} processes is gone: {str(error).splitlines()[0]}"
        raise EchoError(1) if RANK else CnntrainError(reason) from error


def lost(error: RuntimeError) -> bool:
    """Say whether an error comes from the connection to other processes."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl"))


def shard(size: int, rank: int | None = None) -> slice:
    """Return which of `size` things in order belong to a process (this one): every thing to one, shares of one length
    where that can be, else lengths that differ by one.
    """
    mine = RANK if rank is None else rank
    return slice(size * mine // WORLD, size * (mine + 1) // WORLD)


def all_reduce(tensors: Sequence["Tensor"]) -> None:
    """Replace tensors of one device by their sums over all processes, in float32 and one message."""
    import torch
    import torch.distributed as dist

    flat = torch.cat([tensor.flatten().float() for tensor in tensors])
    with together():
        dist.all_reduce(flat)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    found = [piece.view(tensor.shape) for tensor, piece in zip(tensors, pieces, strict=True)]
    torch._foreach_copy_(list(tensors), found)


class Waiting(Protocol):
    """A message on its way."""

    def wait(self) -> object:
        """Wait until it has come."""


def begin_all_reduce(tensor: "Tensor") -> Waiting:
    """Begin to replace a tensor by its sum over all processes; `wait` for it before it is read."""
    import torch.distributed as dist

    with together():
        begun: Waiting = dist.all_reduce(tensor, async_op=True)
    return begun


def total(*numbers: float) -> list[float]:
    """Return the sums of some numbers over all processes; whole ones stay exact."""
    if WORLD == 1:
        return list(numbers)
    import torch
    import torch.distributed as dist

    sums = torch.tensor(numbers, dtype=torch.float64)
    with together():
        dist.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


def gathered(rows: "Tensor") -> "Tensor":
    """Return the rows [n, ...] of all processes in the order of the processes, on the CPU; whole numbers stay exact.

    A process without rows need not know how long they are.
    """
    if WORLD == 1:
        return rows
    import torch
    import torch.distributed as dist

    lengths = [int(length) for length in total(*(len(rows) if rank == RANK else 0 for rank in range(WORLD)))]
    begin, first = sum(lengths[:RANK]), next((rank for rank, length in enumerate(lengths) if length), 0)
    sides = [int(side) for side in total(*(rows.shape[1:] if first == RANK else [0] * (rows.dim() - 1)))]
    everything = torch.zeros(sum(lengths), *sides, dtype=torch.float64)
    if len(rows):
        everything[begin : begin + len(rows)] = rows
    with together():
        dist.all_reduce(everything)
    return everything.to(rows.dtype)


def wait() -> None:
    """Wait until every process has come here."""
    total(0)


def broadcast(value: T) -> T:
    """Return the first process's value, in all of them; its tensors lie on the CPU."""
    if WORLD == 1:
        return value
    import torch.distributed as dist

    box: list[Any] = [value]
    with together():
        dist.broadcast_object_list(box, src=0)
    found: T = box[0]
    return found


class Largest:
    """The largest of some whole numbers over all processes, as of the call before: nobody waits to hear it.

    Every process has to call it equally often, and for the `last` time before it ends: with a question on its way torch
    would abort it.
    """

    def __init__(self) -> None:
        self.asked: tuple[Any, Tensor] | None = None

    def __call__(self, *numbers: int, last: bool = False) -> list[int]:
        if WORLD == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        found, asked, self.asked = [0] * len(numbers), self.asked, None
        with together():
            if asked:
                work, answer = asked
                work.wait()
                found = answer.tolist()
            if not last:
                mine = torch.tensor(numbers)
                self.asked = dist.all_reduce(mine, op=dist.ReduceOp.MAX, async_op=True), mine
        return found


def remembered(value: str) -> str:
    """Return what was first kept in this launch: a process that torchrun has started again finds it there."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return value
    import torch.distributed as dist

    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]
    found: bytes = store.compare_set("cnntrain/kept", "", value)
    return found.decode()
