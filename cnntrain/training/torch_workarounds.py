"""Workarounds for torch; each says at which version it can go."""

import logging
import os
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch import optim
from torch.optim import Optimizer

# torch wraps the methods of its optimizers to keep its compiler out, and the wrapper's first call imports the compiler
# (1.5 s). The loop never compiles an optimizer's own work.
# Goes with the first torch whose optimizers step without `torch._dynamo` in sys.modules; 2.14 is not.


class Uncompiled(Optimizer):
    """The wrapped methods without their wrapper."""

    add_param_group = unwrap(Optimizer.add_param_group)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, as torch does but for a wrapper that records it for torch's profiler."""
        assert set_to_none
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def plain_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return an optimizer's method without torch's wrappers, of which one records its name for torch's profiler."""
    plain: Callable[..., Any] = torch.no_grad()(unwrap(step))
    plain.__dict__["hooked"] = True  # or the first instance wraps it again
    return plain


class SGD(Uncompiled, optim.SGD):
    """Torch's SGD."""

    step = plain_step(optim.SGD.step)

    # The fused kernel takes the momenta of all parameters of a group or of none: one that begins to learn later than
    # the others of its group starts from zero, which is what the first step does anyway.
    # Goes with the first torch whose fused SGD takes a group in which some have a momentum; 2.15 is not.
    def _init_group(self, group: Any, params: Any, grads: Any, momentum_buffer_list: list[Any]) -> Any:
        sparse = super()._init_group(group, params, grads, momentum_buffer_list)  # type: ignore[no-untyped-call]
        if any(momentum is not None for momentum in momentum_buffer_list):
            for place, parameter in enumerate(params):
                if momentum_buffer_list[place] is None:
                    momentum_buffer_list[place] = torch.zeros_like(parameter)
        return sparse


class Adam(Uncompiled, optim.Adam):
    """Torch's Adam."""

    step = plain_step(optim.Adam.step)


class AdamW(Uncompiled, optim.AdamW):
    """Torch's AdamW."""

    step = plain_step(optim.AdamW.step)


# torch.profiler reports the time of operators, not that of a step's parts on the host and the device together.
# Goes with the first torch whose profiler reports how long `record_function` ranges keep a GPU busy.


class WrappedMethods:
    """Methods of single objects with a wrapper before them, until `remove`: the objects' classes know nothing of it."""

    def __init__(self) -> None:
        self.wrapped: list[tuple[object, str]] = []

    def put(self, owner: object, name: str, wrapper: Callable[..., Any]) -> None:
        """Set a wrapper before a method of this object."""
        setattr(owner, name, wrapper)
        self.wrapped.append((owner, name))

    def remove(self) -> bool:
        """Take the wrappers away; return whether there were any."""
        wrapped, self.wrapped = self.wrapped, []
        for owner, name in wrapped:
            delattr(owner, name)
        return bool(wrapped)


# The profiler's library, Kineto, prints its own stages on standard error.
# Goes with the first torch whose profiler has an argument for it.


def silence_kineto() -> None:
    """Let the profiler's library print nothing, unless the environment asks it to."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


# Importing torch's timer imports `torch.utils.cpp_extension`, which logs "No CUDA runtime is found" on a machine that
# has CUDA's compiler and no GPU.
# Goes with the first torch whose `torch.utils.benchmark` is imported in silence there; 2.12 is not.


def torch_timer(statement: str, names: dict[str, Any]) -> Any:
    """Return torch's timer of a statement over these names, in as many threads as torch computes with."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils.benchmark import Timer
    finally:
        logger.setLevel(level)
    return Timer(statement, globals=names, num_threads=torch.get_num_threads())
