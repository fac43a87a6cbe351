"""Networks as files for other programs, each read back and compared."""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnntrain.config import pretrained
from cnntrain.config.build import build_model
from cnntrain.data.loading.normalise import Normalise
from cnntrain.data.storage.images import DatasetInfo
from cnntrain.data.storage.words import FIRST
from cnntrain.runs import records
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import as_plain
from cnntrain.runtime.seeding import generator

TOLERANCE = 1e-4  # of a logit, in fp32

BATCHES = (1, 3)  # the sizes that are compared; the file takes any

Metadata = dict[str, str]  # every value is JSON text

LogitsFunction = Callable[[Tensor], Tensor]


def describe_file(folder: Path, info: DatasetInfo, settings: dict[str, Any], weights: str) -> Metadata:
    """Return what a program needs to feed the network and to read its answer, and where it comes from."""
    record = records.record(folder)
    facts = {
        "model": settings["model"],
        "classes": info.classes,
        "shape": info.shape,
        "mean": info.mean,
        "std": info.std,
        "input": "float32 [batch, channels, height, width], (pixel / 255 - mean) / std",
        "output": "float32 [batch, classes], logits",
        "dataset": info.name,
        "weights": weights,
        "cnntrain": record["cnntrain"],
        "commit": record["commit"],
    }
    if info.words:
        numbers = f"the bytes of each word's number, the lowest first; {FIRST} is the first word"
        facts |= {"words": info.words, "input": f"float32 [batch, 3, length, 1], {numbers}"}
    return {key: json.dumps(as_plain(value), ensure_ascii=False) for key, value in facts.items()}


def largest_difference(net: nn.Module, other: LogitsFunction, info: DatasetInfo) -> float:
    """Return the largest difference between two networks' logits for random pixels; not a number counts as infinite."""
    channels, height, width = info.shape
    largest = 0.0
    for size in BATCHES:
        pixels = generator(0, "export", size).integers(256, size=(size, height, width, channels))
        x = Normalise(info, torch.device("cpu"))(torch.from_numpy(pixels)).contiguous()
        with torch.inference_mode():
            gap = float((net(x) - other(x)).abs().max())
        largest = max(largest, gap if gap == gap else float("inf"))
    return largest


def write_safetensors(net: nn.Sequential, info: DatasetInfo, metadata: Metadata) -> bytes:
    from safetensors.torch import save

    return save(net.state_dict(), metadata={"format": "pt", **metadata})


def read_safetensors(path: Path) -> LogitsFunction:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = {key: json.loads(text) for key, text in file.metadata().items() if key != "format"}
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    channels, height, width = metadata["shape"]
    info = DatasetInfo(
        metadata["dataset"],
        tuple(metadata["classes"]),
        (channels, height, width),
        tuple(metadata["mean"]),
        tuple(metadata["std"]),
        words=tuple(metadata.get("words", ())),
    )
    net = build_model(pretrained.without_weights(metadata["model"]), info)
    net.load_state_dict(weights)
    return net.eval()


def write_pt2(net: nn.Sequential, info: DatasetInfo, metadata: Metadata) -> bytes:
    program = torch.export.export(net, (example(info),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    sink = io.BytesIO()
    torch.export.save(program, sink, extra_files={"metadata.json": json.dumps(metadata, ensure_ascii=False)})
    return sink.getvalue()


def read_pt2(path: Path) -> LogitsFunction:
    return torch.export.load(path).module()


def require_onnx() -> None:
    """Raise `InputError` saying what to install when the packages of the extra are not there."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"format=onnx needs the package {package}: pip install 'cnntrain[onnx]'")


def write_onnx(net: nn.Sequential, info: DatasetInfo, metadata: Metadata) -> bytes:
    program = torch.onnx.export(
        net,
        (example(info),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content


def read_onnx(path: Path) -> LogitsFunction:
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(str(path))
    return lambda x: torch.from_numpy(evaluator.run(["logits"], {"images": x.numpy()})[0])


def example(info: DatasetInfo) -> Tensor:
    """Return a batch to trace with; its size, two, becomes any size."""
    return torch.zeros(2, *info.shape)


# Written into memory first: torch and onnx write files from C++, which ends the process when a disk is full.
FORMATS: dict[str, tuple[Callable[[nn.Sequential, DatasetInfo, Metadata], bytes], Callable[[Path], LogitsFunction]]] = {
    "safetensors": (write_safetensors, read_safetensors),
    "pt2": (write_pt2, read_pt2),
    "onnx": (write_onnx, read_onnx),
}
