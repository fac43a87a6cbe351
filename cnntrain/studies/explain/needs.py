"""What a method needs of memory, known before anything is computed: values of one image, by the geometry of the layers.

A pass forward holds the values of one stage at a time; a pass back needs those of all stages that it passes.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cnntrain.data.storage.images import spread
from cnntrain.nn.geometry import StageGeometry, describe
from cnntrain.runs.predictions import find_images
from cnntrain.runtime import memory
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.tables import counted
from cnntrain.studies.explain.cam import last_maps
from cnntrain.studies.explain.gradcam import chosen_stage
from cnntrain.studies.explain.neighbours import check_memory
from cnntrain.studies.explain.occlusion import patch_and_stride, patches
from cnntrain.studies.explain.options import Explain, explores
from cnntrain.studies.explain.patches import PATCHES
from cnntrain.studies.explain.question import ImageSet, Question, Subject, find_split
from cnntrain.studies.explain.search import units_to_show

SLOPES = ("saliency", "guided", "integrated", "smoothgrad")
SEARCHING = ("filters", "patches", "deconvnet", "maximise", "neighbours", "ngrams")
VALUE = 4  # bytes


@dataclass(frozen=True)
class Pass:
    """So many images that are in a network at a time, and the bytes of each; `key` sets how many, if any does."""

    images: int
    each: int
    key: str | None


def refuse_what_does_not_fit(subject: Subject, names: Sequence[str], options: Explain) -> None:
    """Raise `InputError` for the first method whose passes need more memory than is free, with what fits.

    What else a method does not allow it says itself.
    """
    device = subject.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available()
    rows, _ = describe(subject.net, subject.info.shape)
    for name in names:
        needed = list[Pass]()
        with contextlib.suppress(InputError):
            needed = passes(subject, name, options, rows)
        for some in needed:
            if some.images * some.each > free:
                raise InputError(f"what={name}: {too_much(some, free)}")
    if "neighbours" in names and not explores(options):  # where it says so itself, among what is not possible
        found = find_split(subject, options)
        count = len(spread(len(found.split), options.search))
        check_memory(units_to_show(unasked(subject, options), 1).shapes, count, shown(options))


def too_much(some: Pass, free: int) -> str:
    """Say what a pass needs, and what would fit."""
    needed = f"{counted(some.images, 'image')} at a time need {some.images * some.each / 2**30:.1f} GiB of memory"
    fitting = free // some.each
    helps = f"take {some.key}={fitting}" if some.key and fitting else "take a network of smaller images"
    return f"{needed}, and {free / 2**30:.1f} are free; {helps}"


def passes(subject: Subject, name: str, options: Explain, rows: Sequence[StageGeometry]) -> list[Pass]:
    """Return the largest passes of a method."""
    batch, looked_at = options.batch_size, min(options.batch_size, shown(options))
    forward, back = forward_bytes(rows, subject), backward_bytes(rows)
    made = [Pass(looked_at, forward, "batch_size")]  # the logits
    if name in SEARCHING:
        made.append(Pass(min(batch, options.search), forward, "batch_size"))
    if options.scores:
        made.append(Pass(min(batch, options.scored), forward, "batch_size"))
    if name in SLOPES:
        most = options.scored if options.scores else 1
        made.append(Pass(min(batch, max(shown(options), most)), back, "batch_size"))
    elif name == "gradcam" and subject.maps():
        stage = chosen_stage(subject, options) if options.stages else last_maps(subject, name)
        made.append(Pass(looked_at, backward_bytes(rows[subject.stages.index(stage) + 1 :]), "batch_size"))
    elif name == "occlusion":
        windows = patches(subject.info.shape[1:], *patch_and_stride(options.occlusion, subject.info.shape))
        made.append(Pass(min(batch, len(windows)), forward, "batch_size"))
    elif name == "maximise":
        made.append(Pass(options.maximise.starts, back, "maximise.starts"))
    elif name == "deconvnet":
        made.append(Pass(PATCHES, back, None))
    return made


def forward_bytes(rows: Sequence[StageGeometry], subject: Subject) -> int:
    """Return the bytes that an image takes on its way forward: the largest stage's values, and what reaches it."""
    reaching = [math.prod(subject.info.shape), *(math.prod(row.out_shape) for row in rows)]
    return VALUE * max(row.activations + before for row, before in zip(rows, reaching, strict=False))


def backward_bytes(rows: Sequence[StageGeometry]) -> int:
    """Return the bytes that an image takes on its way back: the values of all stages, and slopes of the largest one."""
    return VALUE * (sum(row.activations for row in rows) + max((row.activations for row in rows), default=0))


def shown(options: Explain) -> int:
    """Return how many images `images=` means."""
    return options.images if isinstance(options.images, int) else len(find_images(options.images)[0])


def unasked(subject: Subject, options: Explain) -> Question:
    """Return a question about no image."""
    height, width = subject.info.shape[1:]
    pixels = np.empty((0, height, width, subject.info.shape[0]), dtype=np.uint8)
    return Question(subject, ImageSet([], pixels, None, torch.empty(0, len(subject.info.classes))), options)
