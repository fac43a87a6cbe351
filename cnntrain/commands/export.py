"""`cnntrain export`: a run's network as a file for other programs, read back and compared before it is kept."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cnntrain.config import schema
from cnntrain.config.read import read_config
from cnntrain.runs.export import FORMATS, TOLERANCE, describe_file, largest_difference, require_onnx
from cnntrain.runs.folder import find_run, refuse_unwritable
from cnntrain.runs.load import load_run
from cnntrain.runtime import disk
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.errors import CnntrainError, InputError


def run(composed: DictConfig) -> dict[str, Any]:
    """Export as configured; return what `--json` prints."""
    cfg = read_config(schema.Export, composed)
    write, read = FORMATS[cfg.format]
    folder = find_run(cfg.run)
    if cfg.format == "onnx":
        require_onnx()
    prepare(deterministic=False)
    net, info, settings = load_run(folder, cfg.weights, any_task=True)
    target = Path(cfg.output) if cfg.output else folder / "export" / f"{settings['model']['name']}.{cfg.format}"
    if target.suffix != f".{cfg.format}" or target.is_dir():
        raise InputError(f"output={target} should be the name of a file that ends in .{cfg.format}")
    need = sum(tensor.nbytes for tensor in net.state_dict().values())
    refuse_unwritable(target.parent, need, "output=" if cfg.output else "")
    content = write(net, info, describe_file(folder, info, settings, cfg.weights))
    with disk.replacing(target, len(content)) as partial:
        partial.write_bytes(content)
        difference = largest_difference(net, read(partial), info)
        if not difference <= TOLERANCE:
            raise CnntrainError(
                f"the {cfg.format} file gives other results: its logits differ by {difference:.3g}, "
                f"more than {TOLERANCE:g}; it was not kept"
            )
    size, digest = target.stat().st_size, hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"file        {target} ({size:,} bytes, {cfg.weights} weights)")
    print(f"difference  {difference:.3g} at most between its logits and the run's, batches of 1 and 3")
    print(f"sha256      {digest}")
    return {
        "run_dir": str(folder),
        "format": cfg.format,
        "weights": cfg.weights,
        "output": str(target),
        "bytes": size,
        "sha256": digest,
        "max_difference": difference,
    }


check = partial(read_config, schema.Export)  # of a sweep's jobs, before any of them


# safetensors: the weights, from which cnntrain rebuilds the network by the model options in the header.


# pt2: a program that torch.export.load runs without cnntrain.


# onnx: a graph for any runtime; read back with ONNX's own reference, so that no runtime is needed.
