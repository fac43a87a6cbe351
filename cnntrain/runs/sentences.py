"""Sentences classified by a run's network."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from cnntrain.config import schema
from cnntrain.data.datasets.sentences import read_lines, tokenised
from cnntrain.data.loading.loader import eval_batches
from cnntrain.data.storage.images import DatasetInfo, Pixels, Split
from cnntrain.data.storage.words import as_pixels, numbered
from cnntrain.nn.precision import precision_for
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError
from cnntrain.tasks.classification import answer_columns
from cnntrain.training.evaluate import outputs

AS_DRAWN: schema.Options = {"encoding": "utf-8", "tokens": "spaces", "lower": True}  # of sentences that no file holds


def find_sentences(named: str, settings: schema.Options) -> list[tuple[str, list[str]]]:
    """Return the sentences of a text file, one a line, with their words as those of the training were split.

    Empty lines are left out. Raises `InputError` for a file that is no text, or has no sentence.
    """
    path = expanded(named)
    if not path.is_file():
        raise InputError(f"sentences={named} is no file; name a text file with a sentence a line")
    how = AS_DRAWN | settings["dataset"]
    lines = [line.strip() for line in read_lines(path, how["encoding"], "save it as UTF-8")]
    found = [(line, tokenised(line, how["tokens"], lower=how["lower"])) for line in lines if line]
    if not found:
        raise InputError(f"sentences={named} holds no sentence")
    return found


def longer(found: Sequence[tuple[str, list[str]]], info: DatasetInfo, settings: schema.Options) -> int:
    """Return how many sentences have more words than the network reads; it sees the first of them."""
    most = info.shape[1] - 2 * settings["dataset"]["padding"]
    return sum(len(words) > most for _, words in found)


def classified_sentences(
    net: nn.Sequential,
    found: Sequence[tuple[str, list[str]]],
    info: DatasetInfo,
    settings: schema.Options,
    cfg: schema.Predict,
) -> Iterator[dict[str, str]]:
    """Yield a line of the table for each sentence: it, its class and probability, and how many words are unknown."""
    device, padding = next(net.parameters()).device, settings["dataset"]["padding"]
    numbers = numbered([words for _, words in found], info.words, info.shape[1] - 2 * padding, padding)
    split = Split(Pixels(as_pixels(numbers)), torch.zeros(len(found), dtype=torch.int64))
    batches = eval_batches(split, info, batch_size=cfg.batch_size, device=device)
    precision = precision_for(cfg.precision, device, (net, info.shape))
    shares = outputs(net, batches, precision=precision).logits.softmax(dim=1)
    known = set(info.words)
    for (text, words), probabilities in zip(found, shares, strict=True):
        unknown = sum(word not in known for word in words)
        yield {"sentence": text, **answer_columns(probabilities, info.classes, "class"), "unknown words": str(unknown)}
