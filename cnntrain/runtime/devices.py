"""Where a network runs and in which precision."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from cnntrain.runtime import distributed
from cnntrain.runtime.errors import InputError

Precision = Literal["auto", "fp32", "bf16"]
Graph = Literal["auto"] | bool  # whether a GPU captures steps and replays them: if it can, or else an error
Compile = Literal["max"] | bool  # whether operators are merged by torch.compile, and kernels chosen by trial


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is a GPU where there is one, else the CPU.

    That GPU is the first; of several processes on a machine each takes the one of its own number. Raises `InputError`
    for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if distributed.WORLD > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise InputError(
                f"device={name} is one GPU, and {distributed.WORLD} processes take one each; type device=cuda"
            )
        name = f"cuda:{distributed.LOCAL_RANK}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        gpus = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        raise InputError(f"device={name} is not available here; choose from auto, cpu{gpus and ', ' + gpus}") from error
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)  # whose generator dropout draws from
    return device


def choose_precision(name: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision that "auto" is by the device alone: bf16 where it computes in it, else fp32.

    A CPU without AVX512-BF16 or AMX emulates bf16, which makes training up to eight times slower.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and cpu_computes_in_bf16() else "fp32"


def cpu_computes_in_bf16() -> bool:
    """Say whether the processor has instructions for bf16."""
    # The names are private to torch; a release without them counts as a CPU without bf16.
    tests = [getattr(torch.cpu, test, None) for test in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(test() for test in tests if test)


def cpu_multiplies_tiles() -> bool:
    """Say whether the processor multiplies tiles of bf16 (AMX), many times as fast as its vectors of fp32."""
    test = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(test and test())


def autocast(precision: Literal["fp32", "bf16"], device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return the context in which a forward pass runs in `precision`; weights stay fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    # Weights are converted once a pass anyway, and a recorded step must not find those of another.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=device.type != "cuda")


def prepare(*, deterministic: bool) -> None:
    """Set what holds for the whole process: tiny numbers count as zero, freed memory is kept, and repeatable
    algorithms if asked for.
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    if deterministic != torch.are_deterministic_algorithms_enabled():  # setting it imports the compiler: a second
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def keep_freed_memory() -> None:
    """Have the C library keep freed memory: a step frees and asks for the same large tensors again and again, and
    fetching their pages anew from the system costs a CPU 5 to 10 % of it.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, of which some take no more
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def hardware() -> dict[str, Any]:
    """Describe the machine: processor with its vector instructions, cores, torch's threads, GPUs."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    vectors = torch.backends.cpu.get_cpu_capability() + "-BF16" * cpu_computes_in_bf16()
    vectors += ", AMX" * cpu_multiplies_tiles()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts = {"cpu": f"{cpu} ({vectors})", "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return facts | {"gpus": gpus}


def machine(found: Mapping[str, Any]) -> str:
    """Write what `hardware` found in words."""
    counts = [f"{found[name]} {name if found[name] != 1 else name[:-1]}" for name in ("cores", "threads")]
    return ", ".join([found["cpu"], *counts, *found["gpus"]])
