"""A step's kernels recorded once as a CUDA graph and repeated with one call: the host no longer names each of them.

What a recording holds are addresses: everything that a step reads or leaves behind has to lie where it lay. Random
numbers follow the generator's seed, which the host sets before each repetition (Note [CUDA Graph-safe RNG states] in
torch), so that dropout's masks are those of the step taken kernel by kernel.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cnntrain.runtime.errors import CnntrainError

WARM_UP = 3  # steps taken kernel by kernel first: they choose algorithms and make the tensors that optimizers keep
WAITING = "called a synchronizing CUDA operation"  # torch's words for a look at a value


class CudaGraph:
    """Runs a device program: the first times kernel by kernel, then captured and replayed.

    It returns why a program cannot be captured instead of running it, once it knows; where a graph is `required` it
    raises `CnntrainError`. A program that synchronises with the device is noticed at its last run before the capture,
    so that no capture begins that would break.
    """

    def __init__(self, device: torch.device, *, required: bool) -> None:
        self.stream, self.required = torch.cuda.Stream(device), required
        self.reset()

    def reset(self) -> None:
        """Begin again: what was captured does not hold any more."""
        self.runs, self.reason = 0, ""
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: object = None

    def __call__(self, program: Callable[[Any], None], inputs: object) -> str:
        if inputs is not self.inputs:
            self.reset()
            self.inputs = inputs
        if self.graph is None and self.runs < WARM_UP:
            self.runs += 1
            self.warm_up(program, inputs)
            return ""
        if self.graph is None and not self.reason:
            self.capture(program, inputs)
        if self.graph is None:
            if self.required:
                raise CnntrainError(f"trainer.graph=true: the step cannot be captured as a CUDA graph, {self.reason}")
            return self.reason
        self.graph.replay()
        return ""

    def warm_up(self, program: Callable[[Any], None], inputs: object) -> None:
        """Run the program on the stream that it is to be captured on, and notice whether it synchronises."""
        here = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)
        last = self.runs == WARM_UP
        watched: contextlib.AbstractContextManager[list[str]] = waits() if last else contextlib.nullcontext([])
        with torch.cuda.stream(self.stream), watched as synchronisations:
            program(inputs)
        here.wait_stream(self.stream)
        if synchronisations:
            self.reason = "since something in them synchronises with the device"

    def capture(self, program: Callable[[Any], None], inputs: object) -> None:
        """Capture the program, which computes nothing yet."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Another thread may be putting images into pinned memory.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                program(inputs)
        except RuntimeError as error:
            self.reason = f"since CUDA says: {str(error).splitlines()[0]}"
        else:
            self.graph = graph


@contextlib.contextmanager
def waits() -> Iterator[list[str]]:
    """Yield a list that holds, once the context ends, a line for each time that the host waited for the device."""
    before, synchronisations = torch.cuda.get_sync_debug_mode(), list[str]()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield synchronisations
        finally:
            torch.cuda.set_sync_debug_mode(before)
    synchronisations += [text for warning in seen if WAITING in (text := str(warning.message))]
