"""What is explained: a network, images as it sees them, and the class whose evidence is looked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.loading.normalise import Normalise, normalised
from cnntrain.data.storage.images import Centre, DatasetInfo, files_of, spread
from cnntrain.nn.stages import require, stage_shapes
from cnntrain.runs.folder import find_run
from cnntrain.runs.images import RunImages, run_images
from cnntrain.runs.load import load_run
from cnntrain.runs.predictions import files_as_trained, find_images
from cnntrain.runtime.devices import choose_device
from cnntrain.runtime.errors import InputError, as_text, unknown
from cnntrain.runtime.progress import counting
from cnntrain.studies.explain.options import Explain, Quantity
from cnntrain.training.pictures import worst_mistakes


@dataclass(frozen=True)
class Subject:
    """A run's network in evaluation mode, on a device; `settings` are the configuration that it was trained with."""

    folder: Path
    net: nn.Sequential
    info: DatasetInfo
    settings: dict[str, Any]
    device: torch.device

    @property
    def stages(self) -> list[str]:
        """The names of the stages."""
        return [name for name, _ in self.net.named_children()]

    def maps(self) -> dict[str, tuple[int, int, int]]:
        """Return the channels, height and width of each stage that gives maps of more than one position."""
        shapes = stage_shapes(self.net, self.info.shape).items()
        return {name: (s[0], s[1], s[2]) for name, s in shapes if len(s) == 3 and s[1] * s[2] > 1}

    def inputs(self, pixels: np.ndarray) -> Tensor:
        """Return pixels uint8 [N, H, W, C] as the network takes them, float32 [N, C, H, W] on its device."""
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        return Normalise(self.info, self.device)(batch).contiguous()

    def logits(self, pixels: np.ndarray, batch_size: int) -> Tensor:
        """Return the logits [N, classes] of pixels uint8 [N, H, W, C], on the host."""
        with torch.inference_mode():
            starts = range(0, len(pixels), batch_size)
            return torch.cat([self.net(self.inputs(pixels[at : at + batch_size])).cpu() for at in starts])


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images that are looked at: pixels uint8 [N, H, W, C] as the network sees them, and its logits [N, classes].

    `labels` are int64 [N], or None where nobody has said what the images show; `names` are for a person.
    """

    names: Sequence[str]
    pixels: np.ndarray
    labels: Tensor | None
    logits: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def take(self, places: np.ndarray) -> "ImageSet":
        """Return the images at some places."""
        labels = None if self.labels is None else self.labels[places]
        return ImageSet([self.names[i] for i in places], self.pixels[places], labels, self.logits[places])


@dataclass(frozen=True, eq=False)
class Targets:
    """For each image the class whose evidence is looked for, int64 [N], and the number that stands for it."""

    classes: Tensor
    quantity: Quantity

    def take(self, places: slice) -> "Targets":
        """Return those of some images."""
        return Targets(self.classes[places], self.quantity)

    def of(self, logits: Tensor) -> Tensor:
        """Return the numbers [N] that are explained, from the logits [N, classes] of the same images."""
        values = logits if self.quantity == "logit" else logits.softmax(dim=1)
        return values.gather(1, self.classes.to(logits.device)[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class Question:
    """What a method is asked."""

    subject: Subject
    images: ImageSet
    options: Explain

    def targets(self, usual: Quantity) -> Targets:
        """Return the classes to explain; `usual` is the method's own quantity, for `quantity=auto`."""
        quantity = usual if self.options.quantity == "auto" else self.options.quantity
        return Targets(target_classes(self.options.target, self.images, self.subject.info), quantity)

    def batches(self, targets: Targets) -> Iterator[tuple[slice, Tensor, Targets]]:
        """Yield the images as the network takes them, a batch at a time, with their places and targets."""
        for start in range(0, len(self.images), self.options.batch_size):
            places = slice(start, start + self.options.batch_size)
            yield places, self.subject.inputs(self.images.pixels[places]), targets.take(places)

    def chosen_stages(self, usual: Sequence[str]) -> list[str]:
        """Return the stages that `stages=` names, or the method's own.

        Raises `StageError` naming the nearest for one that there is not.
        """
        if self.options.stages is None:
            return list(usual)
        require(self.options.stages, self.subject.stages)
        return list(self.options.stages)


def target_classes(target: str, images: ImageSet, info: DatasetInfo) -> Tensor:
    """Return the class that is explained of each image, int64 [N].

    Raises `InputError` for an unknown class, and for the true class of images that have none.
    """
    if target == "predicted":
        return images.logits.argmax(dim=1)
    if target == "true":
        if images.labels is None:
            raise InputError("target=true: files have no true class here; take target=predicted, or name a class")
        return images.labels
    if target not in info.classes:
        raise unknown("target", target, ("predicted", "true", *info.classes))
    return torch.full((len(images),), info.classes.index(target))


def grey_image(subject: Subject, fill: int | None) -> Tensor:
    """Return a grey image [C, H, W] as the network takes it, of a level 0 to 255; None: the mean of training pixels."""
    mean = torch.zeros(subject.info.shape, device=subject.device)
    return mean if fill is None else normalised(torch.full_like(mean, float(fill))[None], subject.info)[0]


def find_subject(options: Explain) -> Subject:
    """Return the network of a run."""
    folder = find_run(options.run)
    device = choose_device(options.device)
    net, info, settings = load_run(folder, options.weights)
    return Subject(folder, net.to(device), info, settings, device)


def find_split(subject: Subject, options: Explain) -> RunImages:
    """Return all images of the split that `split=` names, as the run has them."""
    root = options.data_root or subject.settings["data_root"]
    return run_images(subject.folder, subject.settings, subject.info, root, options.split)


def find_image_set(subject: Subject, options: Explain) -> ImageSet:
    """Return the images that `images=` means: so many of the split, evenly spaced or mistakes, or files.

    Raises `InputError` for a file that cannot be read.
    """
    if isinstance(options.images, int):
        split = find_split(subject, options)
        mistakes = options.choose == "mistakes"
        places = surest_mistakes(subject, options, split) if mistakes else spread(len(split.split), options.images)
        return split_images(subject, options, split, places)
    if subject.info.words:
        raise InputError(f"images={options.images} names files, and {subject.folder} reads words: take a number")
    paths, _ = find_images(options.images)
    files = files_as_trained(paths, subject.info, subject.settings, invert=options.invert)
    pixels = Centre(files, subject.info.shape[1:]).read(range(len(files))).numpy()
    names = [as_text(path.name) for path in paths]
    return ImageSet(names, pixels, None, subject.logits(pixels, options.batch_size))


def surest_mistakes(subject: Subject, options: Explain, images: RunImages) -> np.ndarray:
    """Return the places of the images of a split that the network is surest to be something else.

    Raises `InputError` where it makes no mistake.
    """
    count, parts = len(images.split), list[Tensor]()
    with counting(count, "looking for mistakes", subject.info.noun) as progress:
        for start in range(0, count, options.batch_size):
            some = np.arange(start, min(start + options.batch_size, count))
            parts.append(subject.logits(images.split.source.read(some).numpy(), options.batch_size))
            progress(len(some))
    shares = torch.cat(parts).softmax(dim=1).numpy()
    assert isinstance(options.images, int)
    places = worst_mistakes(shares, images.split.labels.numpy(), options.images)
    if not places:
        shown = f"{count} {images.name} {subject.info.noun}s"
        raise InputError(f"choose=mistakes: the network makes none on {shown}; leave choose= out")
    return np.array(places)


def split_images(subject: Subject, options: Explain, images: RunImages, places: np.ndarray) -> ImageSet:
    """Return the images at some places of a split."""
    chosen = images.split.take(places)
    files = files_of(chosen.source)
    names = [f"{images.name} {at}" if files is None else as_text(files.path(i).name) for i, at in enumerate(places)]
    pixels = chosen.source.read(np.arange(len(chosen))).numpy()
    return ImageSet(names, pixels, chosen.labels, subject.logits(pixels, options.batch_size))
