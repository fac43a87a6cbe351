"""`cnntrain env`: what a report of a problem needs."""

import os
import shutil
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.runs.folder import RECORDED_PACKAGES, provenance
from cnntrain.runtime.devices import cpu_computes_in_bf16, hardware
from cnntrain.runtime.disk import expanded

PACKAGES = (
    *RECORDED_PACKAGES,
    *("scipy", "matplotlib", "tensorboard", "safetensors", "filelock", "jinja2", "tqdm"),
    *(
        "hydra-joblib-launcher",
        "hydra-submitit-launcher",
        "hydra-ray-launcher",
        "hydra-optuna-sweeper",
        "onnx",
        "onnxscript",
        "onnxruntime",
    ),
    "torchcodec",
)


def run(composed: DictConfig) -> dict[str, Any]:
    """Print the environment; return what `--json` prints."""
    cfg = read_config(schema.Env, composed)
    made = provenance([])
    found = {key: made[key] for key in ("cnntrain", "commit", "python", "platform")} | {
        "versions": {name: installed(name) for name in PACKAGES},
        **hardware(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "bf16": cpu_computes_in_bf16(),
        "memory_gib": memory_gib(),
        "gpu_memory_gib": [
            torch.cuda.get_device_properties(i).total_memory / 2**30 for i in range(torch.cuda.device_count())
        ],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "environment": made["environment"],
        "data_root": folder_facts(expanded(cfg.data_root)),
    }
    facts = [line for key, value in found.items() for line in lines(key, value)]
    space = max(len(name) for name, _ in facts)
    for name, text in facts:
        print(f"{name:<{space}}  {text}")
    return found


check = partial(read_config, schema.Env)  # of a sweep's jobs, before any of them


def installed(package: str) -> str | None:
    """Return the version of a package, None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def memory_gib() -> float | None:
    """Return the memory of the machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return None


def folder_facts(folder: Path) -> dict[str, Any]:
    """Say whether a folder exists, whether one could write there, and how much room there is."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return {
        "path": str(folder.absolute()),
        "exists": folder.is_dir(),
        "writable": there.is_dir() and os.access(there, os.W_OK),
        "free_gib": shutil.disk_usage(there).free / 2**30,
    }


def lines(key: str, value: object) -> list[tuple[str, str]]:
    """Return a fact as lines of (name, text): a mapping has one for each entry."""
    if isinstance(value, dict):
        own = "" if key == "versions" else f"{key} "
        return [line for name, item in value.items() for line in lines(f"{own}{name}", item)]
    if isinstance(value, list):
        return [(key, ", ".join(text(item) for item in value) or "none")]
    return [(key, text(value))]


def text(value: object) -> str:
    """Write one value as people do."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
