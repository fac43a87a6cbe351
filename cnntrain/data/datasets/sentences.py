"""Labelled sentences in text files: one a line with its label first, one file a class, folders of files, or CSV."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split
from cnntrain.data.storage.words import BYTES, MOST_WORDS, as_pixels, numbered
from cnntrain.runtime.errors import InputError, as_text, unknown
from cnntrain.runtime.ranges import Count, Natural
from cnntrain.runtime.tables import counted

Encoding = Literal["utf-8", "latin-1"]
Tokens = Literal["kim", "spaces"]
BEYOND = re.compile(r"[^\W\d_A-Za-z]")  # letters that are none of A to Z
PARTS = {"train": "train", "val": "val", "dev": "val", "valid": "val", "test": "test"}  # words in names of files


class LabelledText(NamedTuple):
    """A labelled sentence as it is read."""

    label: str
    words: list[str]
    torn: str = ""  # the first word that is split at a letter that Kim's experiments did not know


Texts = dict[str, list[LabelledText]]  # by part: train, val, test


def tokenised(text: str, tokens: Tokens, *, lower: bool) -> list[str]:
    """Return the words of a text, split at spaces, or as Kim's experiments did.

    Kim (2014): letters, digits and (),!?'` are kept, the endings of it's, don't, they've and so on stand alone, and so
    does punctuation.
    """
    if lower:
        text = text.lower()
    if tokens == "kim":
        text = re.sub(r"[^A-Za-z0-9(),!?'`]", " ", text)
        text = re.sub(r"n't|'(?:s|ve|re|d|ll)|[(),!?]", lambda found: space_around(found[0]), text)
    return text.split()


def space_around(piece: str) -> str:
    """Return punctuation between spaces, and an ending behind one."""
    return f" {piece} " if len(piece) == 1 else f" {piece}"


@dataclass(frozen=True)
class Sentences:
    """Sentences with a class each. `root` is a file, or a folder of files; the form follows from what lies there.

    A file: `label text` a line, or CSV (.csv, .tsv) with a header that has the columns `label` and `text`. A file whose
    name holds the word train brings those beside it with val (or dev) and test in its place. A folder: such files; one
    file a class, a sentence a line, the class being what sets their names apart; or folders of the classes, a file
    each sentence; and all that again in folders train, val and test.
    """

    root: Path
    encoding: Encoding = "utf-8"
    tokens: Tokens = "kim"
    lower: bool = True
    vocabulary: Literal["train", "all"] = "train"
    length: Count | None = None
    padding: Natural = 4
    label: str = "label"
    text: str = "text"

    @cached_property
    def texts(self) -> Texts:
        """The sentences of every part."""
        found = self.find(self.root)
        if not found.get("train"):
            raise InputError(f"dataset.root={self.root} holds no training sentences")
        labels = {text.label for text in found["train"]}
        if "test" not in found and len(found["train"]) < 2 * len(labels) > 4:
            raise InputError(
                f"dataset.root={self.root} has {len(labels):,} different labels in {len(found['train']):,} sentences; "
                "a label is the first word of a line, or a column of CSV"
            )
        return found

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word of all parts, the most frequent first."""
        counts = Counter(word for texts in self.texts.values() for text in texts for word in text.words)
        if len(counts) > MOST_WORDS:
            raise InputError(f"{self.root} has {len(counts):,} different words, more than {MOST_WORDS:,}")
        return tuple(sorted(counts, key=lambda word: (-counts[word], word)))

    def info(self) -> DatasetInfo:
        """Return the classes, the size of a padded sentence, and its words."""
        classes = tuple(sorted({text.label for texts in self.texts.values() for text in texts}))
        info = sentence_info("sentences", classes, self.positions, self.words)
        return replace(info, called=self.root.resolve().stem)

    @property
    def positions(self) -> int:
        """Words of a sentence with its padding."""
        longest = max(len(text.words) for texts in self.texts.values() for text in texts)
        return (self.length or longest) + 2 * self.padding

    def read(self) -> Dataset:
        """Return the sentences; unless `vocabulary` is all, `divide` leaves out what no training sentence has."""
        info = self.info()
        parts = {name: self.split(texts, info) for name, texts in self.texts.items()}
        dataset = Dataset(info, parts["train"], parts.get("val"), parts.get("test"), remarks=tuple(self.remarks()))
        return replace(dataset, words_of_training=self.vocabulary == "train")

    def remarks(self) -> Iterator[str]:
        """Yield what to know of the words before a network learns from them."""
        if torn := [text.torn for texts in self.texts.values() for text in texts if text.torn]:
            yield (
                f"{counted(len(torn), 'sentence')} with letters beyond A to Z, at which dataset.tokens=kim splits a "
                f"word ({torn[0]}); dataset.tokens=spaces keeps them"
            )

    def knowing(self, words: tuple[str, ...], positions: int) -> "KnownSentences":
        """Return the sentences as a network reads them that knows these words, in as many positions."""
        return KnownSentences(replace(self, length=positions - 2 * self.padding), words)

    def split(self, texts: Sequence[LabelledText], info: DatasetInfo) -> Split:
        """Return sentences as images of the numbers of their words."""
        length = info.shape[1] - 2 * self.padding
        numbers = numbered([text.words for text in texts], info.words, length, self.padding)
        labels = torch.tensor([info.classes.index(text.label) for text in texts])
        return Split(Pixels(as_pixels(numbers)), labels)

    # Reading.

    def find(self, root: Path) -> Texts:
        """Return the sentences of every part that `root` means."""
        if root.is_file():
            return {part: self.labelled(path) for part, path in beside(root).items()}
        if not root.is_dir():
            raise InputError(f"dataset.root={root} does not exist; name a file of labelled sentences, or a folder")
        seen = sorted(path for path in root.iterdir() if not path.name.startswith("."))
        folders, files = [path for path in seen if path.is_dir()], [path for path in seen if path.is_file()]
        if folders and any(path.name in PARTS for path in folders):
            return {PARTS[path.name]: self.of_folder(path) for path in folders if path.name in PARTS}
        if not folders and any(part_of(path) for path in files):
            return {part: self.labelled(path) for part, path in one_each(files).items()}
        return {"train": self.of_folder(root)}

    def of_folder(self, folder: Path) -> list[LabelledText]:
        """Return the sentences of one part: those of class folders, or of files of a class each."""
        seen = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        if classes := [path for path in seen if path.is_dir()]:
            files = [(path.name, file) for path in classes for file in sorted(path.iterdir()) if file.is_file()]
            return [self.checked(label, " ".join(self.lines(file)), as_text(file)) for label, file in files]
        names = class_names([path for path in seen if path.is_file()])
        return [
            self.checked(label, line, f"{as_text(path)}:{number}")
            for path, label in names.items()
            for number, line in enumerate(self.lines(path), 1)
            if line.strip()
        ]

    def labelled(self, path: Path) -> list[LabelledText]:
        """Return the sentences of a file that has their labels."""
        if path.suffix.lower() in (".csv", ".tsv"):
            return self.of_table(path)
        found = []
        for number, line in enumerate(self.lines(path), 1):
            if line.strip():
                label, text = [*line.split(maxsplit=1), ""][:2]
                found.append(self.checked(label, text, f"{as_text(path)}:{number}"))
        return found

    def of_table(self, path: Path) -> list[LabelledText]:
        """Return the sentences of a file of named columns."""
        text = "\n".join(self.lines(path))
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for column in (self.label, self.text):
            if column not in (rows.fieldnames or ()):
                raise unknown(f"column of {as_text(path)}", column, rows.fieldnames or ())
        found = []
        try:
            for row in rows:
                where = f"{as_text(path)}:{rows.line_num}"
                if None in row:  # which DictReader gives the fields beyond the last column
                    raise InputError(
                        f"{where} has more fields than columns; put a text with {delimiter!r} in quotation marks"
                    )
                found.append(self.checked((row[self.label] or "").strip(), row[self.text] or "", where))
        except csv.Error as error:  # of an open quotation mark, which would hide every row after it
            raise InputError(
                f'{as_text(path)}:{rows.line_num + 1} begins a row that is no CSV ({error}); write "" for a quotation '
                "mark within a field"
            ) from error
        return found

    def checked(self, label: str, text: str, where: str) -> LabelledText:
        """Return a labelled sentence; raise `InputError` for one without words or label."""
        if not label:
            raise InputError(f"{where} has no label")
        words = tokenised(text, self.tokens, lower=self.lower)
        if not words:
            raise InputError(f"{where} has no words; leave the line out, or take dataset.tokens=spaces")
        torn = next(filter(BEYOND.search, text.split()), "") if self.tokens == "kim" else ""
        return LabelledText(label, words, torn)

    def lines(self, path: Path) -> list[str]:
        """Return the lines of a text file.

        Raises `InputError` for what cannot be read or is no text.
        """
        return read_lines(path, self.encoding)


@dataclass(frozen=True)
class KnownSentences:
    """Sentences as a network reads them that was trained on others: other words are unknown to it."""

    sentences: Sentences
    words: tuple[str, ...]

    def info(self) -> DatasetInfo:
        """Return the classes and the network's words."""
        return replace(self.sentences.info(), words=self.words)

    def read(self) -> Dataset:
        """Return the sentences in the network's numbers."""
        info, texts = self.info(), self.sentences.texts
        parts = {name: self.sentences.split(each, info) for name, each in texts.items()}
        return Dataset(info, parts["train"], parts.get("val"), parts.get("test"))


def sentence_info(name: str, classes: tuple[str, ...], positions: int, words: tuple[str, ...]) -> DatasetInfo:
    """Return what is known of sentences; their bytes reach a network as they are."""
    return DatasetInfo(name, classes, (BYTES, positions, 1), (0.0,) * BYTES, (1 / 255,) * BYTES, words=words)


def read_lines(path: Path, encoding: Encoding, advice: str = "take dataset.encoding=latin-1") -> list[str]:
    """Return the lines of a text file, at the end of which may be an empty one.

    `advice` is for a file that is not UTF-8. Raises `InputError` for what cannot be read or is no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{as_text(path)} cannot be read: {error.strerror}") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{as_text(path)} is UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise InputError(f"{as_text(path)} is no text: it holds a byte of zero")
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{as_text(path)} is not UTF-8 at byte {error.start}; {advice}") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def part_of(path: Path) -> str | None:
    """Return the part that a file's name says it is."""
    found = [PARTS[word] for word in re.split(r"[\W_]+", path.name.lower()) if word in PARTS]
    return found[0] if found else None


def one_each(files: Sequence[Path]) -> dict[str, Path]:
    """Return the file of every part; others are left out.

    Raises `InputError` for two of one part.
    """
    found = dict[str, Path]()
    for path in files:
        if (part := part_of(path)) and found.setdefault(part, path) != path:
            raise InputError(
                f"{as_text(found[part])} and {as_text(path)} are both named as {part} sentences; name the file "
                "itself, or give each part one file or a folder"
            )
    return found


def beside(path: Path) -> dict[str, Path]:
    """Return a file by its part, and those beside it whose names differ in the word for the part alone."""
    if part_of(path) != "train":
        return {"train": path}
    found = {"train": path}
    for other in sorted(path.parent.iterdir()):
        part = part_of(other)
        if part and part != "train" and without_part(other) == without_part(path) and other.is_file():
            found.setdefault(part, other)
    return found


def without_part(path: Path) -> list[str]:
    """Return the pieces of a file's name but the word for its part."""
    pieces = re.split(r"([\W_]+)", path.name.lower())
    if word := next((piece for piece in pieces if piece in PARTS), None):
        pieces.remove(word)
    return pieces


def class_names(files: Sequence[Path]) -> dict[Path, str]:
    """Return what sets the names of files apart: pos and neg of reviews.pos and reviews.neg, or of pos.txt and neg.txt.

    Raises `InputError` for fewer than two.
    """
    if len(files) < 2:
        raise InputError(
            f"{as_text(files[0].parent) if files else 'the folder'} holds {len(files)} file; a folder has one a class, "
            "or name the file itself"
        )
    stems = [path.stem for path in files]
    apart = stems if len(set(stems)) == len(stems) else [path.suffix[1:] or path.name for path in files]
    return dict(zip(files, apart, strict=True))
