"""N-grams: which words win each map of a network that reads sentences, and which of them decide.

A filter over k words followed by the maximum over time looks for k words in a row: the words at the maximum have won
(Kim 2014; Jacovi, Shalom and Goldberg, BlackboxNLP 2018).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.data.storage.words import as_numbers, written
from cnntrain.nn.stages import walk
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.tables import Row
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.question import Question
from cnntrain.studies.explain.search import searched_images

STAGE, PAD = "windows", "·"
USUAL_MAPS, BEST = 4, 3  # maps of each width that are shown, and n-grams of each
SAID = 3  # n-grams that are named for a sentence


@dataclass(frozen=True, eq=False)
class Winners:
    """The maxima over time of the maps of one width, float32 [N, maps], and where they begin, int64 [N, maps]."""

    width: int
    values: Tensor
    places: Tensor


def ngrams(question: Question) -> Explanation:
    """Return for maps of each width the n-grams that excite them most, and for each sentence those that decide."""
    subject, images = question.subject, searched_images(question)
    if STAGE in subject.stages and STAGE not in question.chosen_stages([STAGE]):
        raise InputError(f"what=ngrams shows the stage {STAGE} alone: leave out stages=, or name it there")
    numbers = as_numbers(torch.from_numpy(images.pixels(np.arange(len(images)))))
    found = winners(subject.net, list(images.batches("n-grams")))
    weights = class_weights(subject.net, found)
    rows = [row for name, won in found.items() for row in map_rows(question, won, weights[name], numbers)]
    shown = as_numbers(torch.from_numpy(question.images.pixels))
    of_shown = winners(subject.net, [subject.inputs(question.images.pixels)])
    remarks = [
        f"{which_maps(question.options.units)}, by {len(images):,} sentences of the {images.name} split (search=…). "
        "The class is the one that the map speaks for most, the weight what the last layer gives it beyond the mean of "
        f"the classes. {PAD} is padding.",
        *(sentence_words(question, of_shown, weights, shown, place) for place in range(len(shown))),
    ]
    return Explanation([], rows, remarks)


def which_maps(units: int | list[int] | None) -> str:
    """Say which maps are shown."""
    if isinstance(units, list):
        return f"Of each width the maps {', '.join(map(str, units))}"
    told = " (units=8 shows more)" if units is None else ""
    return f"Of the maps of each width the {units or USUAL_MAPS} that tell the classes apart most{told}"


@torch.inference_mode()
def winners(net: nn.Sequential, batches: list[Tensor]) -> dict[str, Winners]:
    """Return the maxima over time of every window that a network has, by its name.

    Raises `InputError` for a network without windows of words.
    """
    stage = dict(net.named_children()).get(STAGE)
    if stage is None:
        raise InputError("what=ngrams needs windows of words followed by the maximum over time: take model=text_cnn")
    embedded = [dict(walk(net, x, upto=before(net)))[before(net)] for x in batches]
    found = {}
    for name, branch in stage.named_children():
        convolution = branch.get_submodule("conv")
        assert isinstance(convolution, nn.Conv2d)
        maxima = [branch.get_submodule("act")(convolution(x))[..., 0].max(dim=2) for x in embedded]
        values, places = (torch.cat(parts).cpu() for parts in zip(*maxima, strict=True))
        found[name] = Winners(int(convolution.kernel_size[0]), values.float(), places)
    return found


def before(net: nn.Sequential) -> str:
    """Return the stage before the windows."""
    names = [name for name, _ in net.named_children()]
    return names[names.index(STAGE) - 1]


def class_weights(net: nn.Sequential, found: Mapping[str, Winners]) -> dict[str, Tensor]:
    """Return what the last layer gives each class for each map, less the classes' mean: [classes, maps] by window."""
    last = next(module for module in reversed(list(net.modules())) if isinstance(module, nn.Linear))
    sizes = [won.values.shape[1] for won in found.values()]
    if sum(sizes) != last.in_features:
        raise InputError("what=ngrams needs the last layer to read the windows directly")
    centred = (last.weight - last.weight.mean(dim=0)).detach().cpu()
    return dict(zip(found, centred.split(sizes, dim=1), strict=True))


def map_rows(question: Question, won: Winners, weights: Tensor, numbers: np.ndarray) -> list[Row]:
    """Return a line for each of the maps that tell the classes apart most, by the spread that they give the logits."""
    words, units = question.subject.info.words, question.options.units
    spread = weights.abs().amax(dim=0) * won.values.std(dim=0, correction=0)
    order = torch.argsort(spread, descending=True, stable=True)[: units if isinstance(units, int) else USUAL_MAPS]
    chosen = units if isinstance(units, list) else order.tolist()
    rows = list[Row]()
    for unit in chosen:
        if unit >= len(spread):
            raise InputError(f"units: a window has the maps 0 to {len(spread) - 1}, and no {unit}")
        label = int(weights[:, unit].argmax())
        rows.append(
            {
                "words": won.width,
                "map": int(unit),
                "class": question.subject.info.classes[label],
                "weight": float(weights[label, unit]),
                **{f"n-gram {i + 1}": text for i, text in enumerate(best(won, int(unit), numbers, words))},
                "n": len(numbers),
            }
        )
    return rows


def best(won: Winners, unit: int, numbers: np.ndarray, words: tuple[str, ...]) -> list[str]:
    """Return the different n-grams that excite a map most, with what it answers; empty where there are fewer."""
    texts: dict[str, float] = {}
    for place in torch.argsort(won.values[:, unit], descending=True, stable=True).tolist():
        start = int(won.places[place, unit])
        texts.setdefault(written(numbers[place, start : start + won.width], words, PAD), float(won.values[place, unit]))
        if len(texts) == BEST:
            break
    found = [f"{text} ({value:.2f})" for text, value in texts.items()]
    return found + [""] * (BEST - len(found))


def sentence_words(
    question: Question, found: Mapping[str, Winners], weights: Mapping[str, Tensor], numbers: np.ndarray, place: int
) -> str:
    """Say what a sentence is taken for, and which n-grams add most to that class's logit beyond the mean of all."""
    info = question.subject.info
    label = int(question.images.logits[place].argmax())
    parts: dict[str, float] = {}
    for name, won in found.items():
        for value, start, weight in zip(won.values[place], won.places[place], weights[name][label], strict=True):
            text = written(numbers[place, start : start + won.width], info.words, PAD)
            parts[text] = parts.get(text, 0.0) + float(value * weight)
    largest = sorted(parts, key=lambda text: -parts[text])[:SAID]
    said = ", ".join(f"{text} ({parts[text]:+.2f})" for text in largest)
    return f"“{written(numbers[place], info.words)}”: {info.classes[label]}, by {said}."
