"""Sentences: files in every form, words and numbers, Kim's network and its counts, and the commands on it."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnntrain.cli.main import main
from cnntrain.data.datasets import grammar
from cnntrain.data.datasets.grammar import Grammar
from cnntrain.data.datasets.registry import load
from cnntrain.data.datasets.sentences import Sentences, tokenised
from cnntrain.data.storage.images import Dataset, Split
from cnntrain.data.storage.words import FIRST, UNKNOWN, as_numbers, as_pixels, numbered, written
from cnntrain.models.text_cnn import text_cnn
from cnntrain.nn.embedding import WordEmbedding
from cnntrain.nn.geometry import geometry
from cnntrain.nn.stages import BuildOptions, walk
from cnntrain.runtime.errors import InputError
from cnntrain.training import optimizers
from cnntrain.training.optimizers import adadelta

Call = Callable[..., dict[str, Any]]
SMALL = (
    *("model=text_cnn", "model.dim=12", "model.maps=8", "dataset=grammar", "dataset.train_images=600"),
    *("dataset.test_images=60", "augmentation=none", "optimizer=adam", "optimizer.lr=0.02", "trainer.epochs=4"),
    *("trainer.batch_size=20", "trainer.tensorboard=false", "device=cpu"),
)


def words(count: int) -> BuildOptions:
    """Build for so many words."""
    return BuildOptions(words=tuple(f"w{number}" for number in range(count)))


def sentence_images(numbers: np.ndarray) -> torch.Tensor:
    """Return numbers of words [N, length] as a network takes them, float32 [N, 3, length, 1]."""
    return as_pixels(numbers).permute(0, 3, 1, 2).float()


# --- files


def texts(dataset: Dataset, split: Split | None) -> set[tuple[str, str]]:
    assert split is not None
    numbers = as_numbers(split.source.read(range(len(split))))
    labels = [dataset.info.classes[label] for label in split.labels]
    return {(label, written(row, dataset.info.words)) for label, row in zip(labels, numbers, strict=True)}


LINES = {"pos": ["a fine film", "so good !"], "neg": ["it is n't good", "dull"]}
EVERY = {(label, line) for label, lines in LINES.items() for line in lines}


def write_form(form: str, root: Path) -> Path:
    labelled = "\n".join(f"{label} {line}" for label, lines in LINES.items() for line in lines) + "\n"
    match form:
        case "lines":
            root.write_text(labelled)
        case "files":
            root.mkdir()
            for label, lines in LINES.items():
                (root / f"reviews.{label}").write_text("\n".join(lines))
        case "stems":
            root.mkdir()
            for label, lines in LINES.items():
                (root / f"{label}.txt").write_text("\r\n".join(lines) + "\r\n\r\n")
        case "folders":
            for label, lines in LINES.items():
                for number, line in enumerate(lines):
                    (root / label).mkdir(parents=True, exist_ok=True)
                    (root / label / f"{number}.txt").write_text(line.replace(" ", "\n"))
        case "table":
            root = root.with_suffix(".csv")
            rows = [[label, line] for label, lines in LINES.items() for line in lines]
            with root.open("w", newline="") as sink:
                csv.writer(sink).writerows([["label", "text"], *rows])
    return root


@pytest.mark.parametrize("form", ["lines", "files", "stems", "folders", "table"])
def test_every_form_of_files_holds_the_same_sentences(form: str, tmp_path: Path) -> None:
    dataset = Sentences(write_form(form, tmp_path / "data")).read()
    assert texts(dataset, dataset.train) == EVERY and dataset.test is None
    assert dataset.info.shape == (3, 4 + 8, 1) and dataset.info.classes == ("neg", "pos")


@pytest.mark.parametrize("named", ["T.train.all", "folder", "Train.txt", "trainset.train.txt"])
def test_parts_lie_beside_each_other(named: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    place = tmp_path / named / "T.train.all" if named == "folder" else tmp_path / named
    before, word, after = ("", "Train", ".txt") if named == "Train.txt" else place.name.rpartition("train")
    for part, line in (("train", "1 yes\n0 no no"), ("dev", "1 well yes"), ("test", "0 never")):
        place.with_name(before + (part.title() if word.istitle() else part) + after).write_text(line)
    dataset = Sentences(tmp_path / named).read()
    assert texts(dataset, dataset.train) == {("1", "yes"), ("0", "no no")}
    assert texts(dataset, dataset.val) == {("1", "well yes")} and texts(dataset, dataset.test) == {("0", "never")}


def test_two_files_of_one_part_are_refused(tmp_path: Path) -> None:
    for name in ("train.pos", "train.neg", "test.pos"):
        (tmp_path / name).write_text("a film\na good one\n")
    with pytest.raises(InputError, match=r"train.neg and .*train.pos are both named as train sentences"):
        Sentences(tmp_path).read()


def test_words_are_those_of_training_sentences_unless_all_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.train.txt").write_text("0 one two\n1 two three\n")
    (tmp_path / "a.test.txt").write_text("0 one four\n")
    for vocabulary, seen in (("train", "one ⟨?⟩"), ("all", "one four")):
        dataset = load("sentences", tmp_path, {"vocabulary": vocabulary}, val_size=0)
        assert texts(dataset, dataset.test) == {("0", seen)}
        assert ("four" in dataset.info.words) == (vocabulary == "all") and len(dataset.info.words) == 4


def test_words_are_split_as_kim_did_or_at_spaces() -> None:
    said = "They've said: it's NOT (so) bad, isn't it?"
    kim = ["they", "'ve", "said", "it", "'s", "not", "(", "so", ")", "bad", ",", "is", "n't", "it", "?"]
    assert tokenised(said, "kim", lower=True) == kim
    assert tokenised(said, "spaces", lower=False) == said.split()


def test_numbers_of_words_survive_as_bytes() -> None:
    numbers = np.array([[0, 1, 2, 255, 256, 65535, 65536, 2**24 - 1]])
    assert (as_numbers(as_pixels(numbers)) == numbers).all()
    row = numbered([["b", "x", "a", "a"]], ["a", "b"], 3, 1)[0]
    assert row.tolist() == [0, FIRST + 1, UNKNOWN, FIRST, 0] and written(row, ["a", "b"], ".") == ". b ⟨?⟩ a ."


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"0 caf\xe9\n1 x\n", "latin-1"),
        (b"0 a\x00b\n1 x\n", "zero"),
        (b"0 one\n1 :-:\n", "data:2"),
        (b"0 one\n0 two\n", "two classes"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, key: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(InputError, match=key):
        load("sentences", tmp_path / "data", {})


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.txt", "the first\nof all\nis here\n", "3 different labels"),
        ("a.csv", "label,text\npos,fine\n,nobody\n", "a.csv:3 has no label"),
        ("a.csv", "text,label\nfine,pos\nalone\n", "a.csv:3 has no label"),
        ("a.csv", 'label,text\npos,fine\nneg,"open\npos,good\n', "a.csv:3 "),
        ("a.csv", "label,text\npos,fine\nneg,dull, and long\n", "a.csv:3 has more fields than columns"),
        ("a.TSV", "label\ttext\npos\tfine\tyes\n", "a.TSV:2 has more fields"),
        ("a.tsv", f"label\ttext\npos\t{'word ' * 30000}\n", "a.tsv:2 "),
        ("a.txt", "pos fine\nneg dull\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_lines_that_would_be_misread_are_refused(name: str, text: str | bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=told):
        Sentences(tmp_path / name).read()


def test_labels_end_at_any_space_and_torn_words_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("pos\tschöne Dinge\nneg  dull\npos fine\nneg bad\n")
    dataset = Sentences(tmp_path / "a.txt").read()
    assert dataset.info.classes == ("neg", "pos") and "sch" in dataset.info.words
    (remark,) = dataset.remarks
    assert "schöne" in remark and "dataset.tokens=spaces" in remark
    whole = Sentences(tmp_path / "a.txt", tokens="spaces").read()
    assert whole.remarks == () and "schöne" in whole.info.words


def test_in_the_grammar_no_single_word_tells_the_class() -> None:
    dataset = Grammar(Path(), train_images=4000).read()
    numbers, labels = as_numbers(dataset.train.source.read(range(4000))), dataset.train.labels.numpy()
    for word in ("not", "dull", "superb", "very"):
        has = (numbers == FIRST + grammar.WORDS.index(word)).any(axis=1)
        assert abs(labels[has].mean() - 0.5) < 0.1 and has.any()
    assert max(len(grammar.sentence(True, np.random.default_rng(seed))) for seed in range(2000)) <= grammar.LONGEST


# --- the network


def test_the_counts_of_the_paper() -> None:
    drawn = geometry(text_cnn((3, 64, 1), 2, words(18_765)), (3, 64, 1))
    assert sum(row.params for row in drawn) == 5_990_402 and sum(row.macs for row in drawn) == 21_900_600
    fixed = geometry(text_cnn((3, 64, 1), 2, words(18_765), tables="fixed"), (3, 64, 1))
    assert sum(row.params for row in fixed) == 360_902
    assert [row.out_shape for row in drawn] == [(300, 64, 1), (300, 1, 1), (2,)]


def test_seven_words_and_windows_of_three_give_five_places() -> None:
    net = text_cnn((3, 7, 1), 2, words(9), windows=[3], maps=2, dim=4)
    branch = net.get_submodule("windows.words3")
    embedded = next(iter(dict(walk(net, sentence_images(np.arange(7)[None]), upto="embed")).values()))
    assert branch.get_submodule("conv")(embedded).shape == (1, 2, 5, 1)


def test_windows_are_one_dimensional_convolutions_and_padding_is_nothing() -> None:
    net = text_cnn((3, 10, 1), 3, words(30), windows=[2, 4], maps=5, dim=6).eval()
    numbers = np.random.default_rng(0).integers(0, 32, (8, 10))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight)
        table = torch.cat([torch.zeros(2, 6), net.get_submodule("embed.words").weight])  # type: ignore[list-item]
        x, joined = table[torch.from_numpy(numbers)].transpose(1, 2), []
        for width in (2, 4):
            conv = net.get_submodule(f"windows.words{width}.conv")
            assert isinstance(conv, nn.Conv2d)
            joined.append(F.conv1d(x, conv.weight[..., 0], conv.bias).relu().amax(dim=2))
        expected = net.get_submodule("fc.linear")(torch.cat(joined, dim=1))
        assert torch.allclose(net(sentence_images(numbers)), expected, atol=1e-5)


def test_two_tables_begin_equal_and_one_learns() -> None:
    layer = WordEmbedding(5, 3, "both")
    layer.reset_parameters()
    x = sentence_images(np.array([[2, 3, 0, 1]]))
    out = layer(x)
    assert torch.equal(out[0, :, 0, 0], 2 * layer.tables[0][0]) and not out[0, :, 2:].any()
    out.sum().backward()
    assert layer.weight is not None and layer.weight.grad is not None
    assert layer.weight.grad.sum(dim=1).tolist() == [3, 3, 0, 0, 0] and not layer.fixed.requires_grad


def test_vectors_come_from_a_file_and_other_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("2 3\nw1 1 2 3\nelsewhere 4 5 6\n")
    net = text_cnn((3, 6, 1), 2, words(4), dim=3, vectors=str(path), tables="fixed")
    table = net.get_submodule("embed.words").fixed
    assert table[1].tolist() == [1, 2, 3] and (table[[0, 2, 3]].abs() <= 0.25).all()  # type: ignore[index,union-attr]
    path.write_text("\nw1\t1\t2\t3\nw1 w2 4 5 6\nw1\xa0w2 4 5 6\n")
    net = text_cnn((3, 6, 1), 2, words(4), dim=3, vectors=str(path), tables="fixed")
    assert net.get_submodule("embed.words").fixed[1].tolist() == [1, 2, 3]  # type: ignore[index,union-attr]
    for content, key in (
        ("w1 1 2\n", "model.dim=2"),
        ("x 1 2 3\n", "none of the 4"),
        ("w1 1 b 3\n", "no text with a word and its numbers"),
        ("x 1 2 3\nw1 1 b 3\n", "'w1'"),
        ("x 1 2 3\nw1 1\n", "'w1'"),
        ("x 1 2 3\nw1 1 nan 3\n", "'w1'"),
        ("2 3\nw1 \x00\x01\n", "no text with a word and its numbers"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=key):
            text_cnn((3, 6, 1), 2, words(4), dim=3, vectors=str(path))


def test_adadelta_is_torchs_and_steps_nowhere_where_nothing_may_change() -> None:
    nets = [nn.Linear(4, 3) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    ours = adadelta(nets[0], weight_decay=0.1, decay_all=True)
    torchs = torch.optim.Adadelta(nets[1].parameters(), lr=1.0, rho=0.95, eps=1e-6, weight_decay=0.1)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        for net, optimizer in zip(nets, (ours, torchs), strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    assert torch.allclose(nets[0].weight, nets[1].weight, atol=1e-6)
    before = nets[0].weight.clone()
    ours.found_inf = torch.ones(())  # type: ignore[attr-defined]
    ours.step()
    assert torch.equal(nets[0].weight, before)


def test_a_parameter_changed_by_parts_is_the_whole_one_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(cached: int) -> list[torch.Tensor]:
        monkeypatch.setattr(optimizers, "CACHED", cached)
        drawn = torch.Generator().manual_seed(0)
        net = nn.Module()
        for name, shape in (("table", (333, 30)), ("filters", (77, 6, 3, 1)), ("bias", (101,)), ("step", ())):
            layout = torch.channels_last if len(shape) == 4 else torch.preserve_format
            value = torch.randn(shape, generator=drawn).to(memory_format=layout)
            net.register_parameter(name, nn.Parameter(value))
        optimizer = adadelta(net, weight_decay=0.1, max_norm=3.0)
        for _ in range(3):
            for p in net.parameters():
                p.grad = torch.randn(p.shape, generator=drawn)
            optimizer.step()
        return [*net.parameters(), *(tensor for state in optimizer.state.values() for tensor in state.values())]

    whole, parts = trained(2**40), trained(64)
    assert len(whole) == 3 * 4
    assert all(map(torch.equal, whole, parts))


# --- commands


@pytest.fixture
def run(cnntrain: Call, folder: Path) -> Path:
    """A network that has learnt the grammar."""
    cnntrain("fit", *SMALL, "output_dir=run")
    return folder / "run"


def test_a_network_of_sentences_is_measured_reported_explained_and_asked(
    cnntrain: Call, run: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = cnntrain("eval", "run=run")
    assert found["n"] == 60 and found["top1"] > 0.9
    (folder / "said.txt").write_text("the film is not very dull\n\nher new song is dull\n")
    told = cnntrain("predict", "run=run", "sentences=said.txt", "output_dir=told")
    (folder / "long.txt").write_text("the film is dull" + " in the end" * 9)
    capfd.readouterr()
    assert main(["predict", "run=run", "sentences=long.txt", "output_dir=cut"]) == 0
    assert "1 sentence longer" in capfd.readouterr().err
    with Path(told["output"]).open() as table:
        rows = list(csv.DictReader(table))
    assert [row["class"] for row in rows] == ["praise", "blame"] and rows[1]["unknown words"] == "0"
    explained = cnntrain("explain", "run=run", "what=ngrams", "images=2", "output_dir=why", "figures=false")
    words_of = {len(row["n-gram 1"].rpartition(" (")[0].split()) for row in explained["rows"]["ngrams"]}
    assert words_of == {3, 4, 5}
    cnntrain("report", "run=run", "output=page.html")
    assert cnntrain("export", "run=run", "format=safetensors", "output=net.safetensors")["max_difference"] == 0
    shutil.copytree("run", "twin")
    assert cnntrain("compare", "runs=[run,twin]")["runs"][1]["n"] == 60
    for line, key in (
        (["invariance", "run=run", "warp=translate_y"], "words"),
        (["explain", "run=run", "what=cam"], "ngrams"),
        (["predict", "run=run", "images=said.txt"], "sentences="),
        (["predict", "run=run", "sentences=said.txt", "report=true"], "report=true"),
        (["convert", "run=run"], "reads words"),
        (["explain", "run=run", "what=ngrams", "images=said.txt"], "said.txt"),
        (["explain", "run=run", "what=ngrams", "stages=[fc]"], "the stage windows alone"),
        (["eval", "run=run", "tta=shift"], "tta=shift"),
    ):
        capfd.readouterr()
        assert main(line) == 2
        assert key in capfd.readouterr().err


def test_other_sentences_are_read_with_the_words_of_the_run(
    cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.txt").write_text("".join(f"{n % 2} {'good' if n % 2 else 'bad'} w{n % 5}\n" for n in range(40)))
    (folder / "b.txt").write_text("1 something good\n0 a bad thing\n")
    (folder / "vectors.txt").write_text("good 1 1 1 1 1 1 1 1 1 1 1 1\n")
    words = [*SMALL[:3], "dataset=sentences", "dataset.root=a.txt", *SMALL[6:]]
    words = [word for word in words if "batch" not in word] + ["trainer.batch_size=4", "model.windows=[1,2]"]
    cnntrain("fit", *words, "model.vectors=vectors.txt", "output_dir=run")
    (folder / "vectors.txt").unlink()  # the run has its own
    assert cnntrain("eval", "run=run")["top1"] == 1
    found = cnntrain("eval", "run=run", "dataset.root=b.txt")
    assert found["n"] == 2 and found["top1"] == 1
    (folder / "dots.txt").write_text("…\na bad thing\n***\n")
    assert main(["predict", "run=run", "sentences=dots.txt", "output_dir=dots"]) == 0
    assert "2 sentences without words" in capfd.readouterr().err


def test_windows_are_removed_one_by_one_and_folds_are_held_out(cnntrain: Call) -> None:
    words = [word for word in SMALL if "epochs" not in word] + ["trainer.epochs=1", "jobs=1", "figures=false"]
    removed = "remove=[[windows.words3],[windows.words5]]"
    found = cnntrain("ablate", *words, removed, "seeds=1", "output_dir=study")
    assert [row["params_removed"] for row in found["table"]] == [0, 8 * (3 * 12 + 1) + 16, 8 * (5 * 12 + 1) + 16]
    assert cnntrain("crossval", *words, "folds=2", "output_dir=folds")["table"][0]["n"] == 600


def test_no_command_calls_sentences_images(cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Other than in words for settings and files: train_images, images=3."""
    small = [*(word for word in SMALL if "epochs" not in word and "train_images" not in word), "trainer.epochs=1"]
    small += ["dataset.train_images=120", "figures=false"]
    fit = [word for word in small if word != "figures=false"]
    cnntrain("fit", *fit, "output_dir=run")
    cnntrain("fit", *fit, "seed=1", "output_dir=other")
    lines = [
        ["eval", "run=run"],
        ["report", "run=run", "output=page.html"],
        ["compare", "runs=[run,other]", "output_dir=compared", "figures=false"],
        ["explain", "run=run", "what=ngrams", "images=2", "output_dir=why"],
        ["describe", "run=run"],
        ["probe", "run=run", "train_images=60", "folds=2", "classifier=softmax", "figures=false", "output_dir=probed"],
        ["time", "model=text_cnn", "dataset=grammar", "seconds=0.1", "batch=4", "figures=false", "output_dir=timed"],
        ["crossval", *small, "optimizer.lr=0.02,0.001", "folds=2", "jobs=1", "plan=true"],
        ["crossval", *small, "optimizer.lr=0.02,0.001", "folds=2", "jobs=1", "output_dir=folds"],
        ["ablate", *small, "remove=[[windows.words3]]", "seeds=1", "jobs=1", "output_dir=study"],
        ["fit", *fit, "dataset.folds=3", "dataset.fold=0", "trainer.profile=true", "output_dir=profiled"],
    ]
    word = re.compile(r"(?<![._\w])images?(?![=_\w])", re.IGNORECASE)
    for line in lines:
        capfd.readouterr()
        assert main(line) == 0
        said = "".join(capfd.readouterr())
        assert said and not word.search(said), (line, said)
    written = [path for suffix in ("md", "csv", "html") for path in folder.rglob(f"*.{suffix}")]
    assert {path.parent.name for path in written} >= {"compared", "why", "probed", "timed", "folds", "study"}
    for path in written:
        text = re.sub(r"data:image/|<style.*?</style>", "", path.read_text(), flags=re.DOTALL)
        assert not word.search(text), path


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["trainer.batch_size=5000"], "540 training sentences"),
        (["dataset.val_size=599"], "600 sentences"),
        (["trainer.resize={10:0.5}"], "trainer.resize"),
        (["dataset.folds=400", "dataset.fold=0"], "at most 300"),
        (["dataset.train_size=1"], "dataset.train_size"),
    ],
)
def test_bad_input_is_told_in_words_for_sentences(refused: Callable[..., str], words: list[str], key: str) -> None:
    given = {word.partition("=")[0] for word in words}
    line = refused("fit", *(word for word in SMALL if word.partition("=")[0] not in given), *words, "output_dir=run")
    assert key in line and "image" not in line


def test_sentences_that_have_changed_are_no_longer_those_of_a_run(
    cnntrain: Call, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "".join(f"{n % 2} {'good' if n % 2 else 'bad'} w{n % 5}\n" for n in range(60))
    (folder / "a.txt").write_text(text)
    words = [*SMALL[:3], "dataset=sentences", "dataset.root=a.txt", *SMALL[6:], "model.windows=[1,2]"]
    words = [word for word in words if "batch" not in word] + ["trainer.batch_size=10"]
    cnntrain("fit", *words, "output_dir=run")
    crossval = ["crossval", *words, "folds=2", "jobs=1", "figures=false", "output_dir=folds"]
    cnntrain(*crossval)
    for changed, line in (
        (text.replace("good", "fine"), ["eval", "run=run"]),
        ("\n".join(text.splitlines()[:40]), ["eval", "run=run"]),
        ("\n".join(text.splitlines()[:40]), [*crossval, "seeds=2"]),
    ):
        (folder / "a.txt").write_text(changed)
        capfd.readouterr()
        assert main(line) == 2
        assert "sentences" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["model=text_cnn", "dataset=digits"], "dataset=sentences"),
        (["model=lenet5", "dataset=grammar"], "text_cnn"),
        (["model=text_cnn", "dataset=sentences"], "dataset.root"),
        (["model=text_cnn", "dataset=sentences", "dataset.root=nowhere.txt"], "nowhere.txt"),
        (["model=text_cnn", "dataset=grammar", "augmentation=crop_flip"], "augmentation=none"),
        (["model=text_cnn", "dataset=grammar", "model.windows=[30]"], "30 words"),
        (["model=text_cnn", "dataset=grammar", "model.vectors=nowhere.txt"], "nowhere.txt"),
        (["model=text_cnn", "dataset=grammar", "model.remove=[windows]"], "windows"),
    ],
)
def test_what_does_not_fit_sentences_is_refused(refused: Callable[..., str], words: list[str], key: str) -> None:
    given = any(word.startswith("augmentation=") for word in words)
    assert key in refused("fit", *words, *([] if given else ["augmentation=none"]))
