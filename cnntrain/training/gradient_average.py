"""The mean of all processes' gradients, which travel while the backward pass goes on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnntrain.runtime import distributed
from cnntrain.runtime.distributed import begin_all_reduce, together

BUCKET = 2**22  # numbers of a message: 16 MiB


class GradientAverage:
    """Replaces gradients by their means over all processes, in buckets that leave as soon as the backward pass fills
    them, in the gradients' own precision.

    The buckets follow the parameters from the last to the first, about as gradients come. They and their order are the
    same in every process and after every start, since sums of three numbers depend on their order. A parameter that no
    gradient reaches counts as zero and gets none.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        learning = [p for p in reversed(parameters) if p.requires_grad]
        self.buckets = divided(learning, BUCKET)
        self.bucket_of = {p: i for i, bucket in enumerate(self.buckets) for p in bucket}
        self.handles = [p.register_post_accumulate_grad_hook(self.arrive) for p in learning]
        self.awaited: list[int] = []  # gradients of each bucket, while a pass goes on
        self.sent = list[tuple[Tensor, distributed.Waiting]]()

    def begin(self) -> None:
        """Let the gradients of the next backward pass, with all that were added up before it, travel."""
        self.awaited = [len(bucket) for bucket in self.buckets]

    def arrive(self, parameter: Tensor) -> None:
        """Send every bucket that is full with the gradient of this parameter, in their order."""
        if not self.awaited:
            return
        self.awaited[self.bucket_of[parameter]] -= 1  # type: ignore[index]
        while len(self.sent) < len(self.buckets) and self.awaited[len(self.sent)] == 0:
            self.send()

    def send(self) -> None:
        """Send the next bucket."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.buckets[len(self.sent)]]
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(distributed.WORLD)
        self.sent.append((flat, begin_all_reduce(flat)))

    def finish(self) -> None:
        """Wait until every gradient is the mean."""
        while len(self.sent) < len(self.buckets):
            self.send()
        for bucket, (flat, waiting) in zip(self.buckets, self.sent, strict=True):
            with together():
                waiting.wait()
            pieces = zip(bucket, flat.split([p.numel() for p in bucket]), strict=True)
            came = [(p.grad, piece.view(p.shape)) for p, piece in pieces if p.grad is not None]
            torch._foreach_copy_([gradient for gradient, _ in came], [mean for _, mean in came])
        self.awaited, self.sent = [], []

    def remove(self) -> None:
        """Let gradients stay where they are from now on."""
        for handle in self.handles:
            handle.remove()


def divided(parameters: Sequence[nn.Parameter], size: int) -> list[list[nn.Parameter]]:
    """Divide parameters, in their order, into lists of at most `size` numbers, or of one."""
    lists, room = list[list[nn.Parameter]](), 0
    for p in parameters:
        if not lists or p.numel() > room:
            lists.append([])
            room = size
        lists[-1].append(p)
        room -= p.numel()
    return lists
