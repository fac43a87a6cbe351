"""Words at random: whatever is typed ends with 0, or with 2 and one line, and then nothing has been made.

Lines are drawn from real commands, groups, options, keys and flags, and from odd values, and are mutated. What takes
long is stubbed where it begins, behind every check: reading images, training, measuring, exporting.
"""

import importlib
import itertools
import random
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cuts import FULL
from made import picture

from cnntrain.cli import main
from cnntrain.cli.groups import FLAGS, compose, groups, options
from cnntrain.commands import export, report
from cnntrain.config.build import dataset_options, read_dataset
from cnntrain.runs import setup
from cnntrain.runs.export import FORMATS
from cnntrain.runtime.jsonfile import flat
from cnntrain.studies import comparison, duration
from cnntrain.studies.invariance import study

CONF = main.config_dir()
SEEDS, LINES = (range(25), 120) if FULL else (range(1), 30)
HEAVY = {"resnet50", "resnet101", "resnet152", "resnet110", "preact_resnet1001", "preact_resnet164", "lm_resnet110"}
NOTES = ("given twice; the last counts", "imported", "cnntrain: job ", "warning: ", "[W", "left out: ")
SIMPLE = r"""
null true FALSE yes -1 0 1 7 1e5 1e-3 0.5 1_000 007 nan -inf a x=y a,b 1,2 é 日本 auto none latest relu run lenet5
digits [] [[]] [null] [1,2] [a,b] [conv1] [[conv1],[pool1]] {} {a:1} {conv1:0.5} {a:{b:1}} 'a' "a it's \ a\ ( ] { ~ ~x
* ? @ % # - -- = . .. / /dev/null a/b $HOME $(x) run/config.json image.png synthetic ${seed} ${model} ${nowhere} ${
${oc.env:HOME} ${oc.env:NO_SUCH} ??? range(1,3) choice(a,b) glob(*) interval(0,1) shuffle(1,2) sort(2,1) tag(t,1) int(3)
cast json_str({})
"""
ODD = ["", " ", "a b", "\n", "\t", "x" * 300, "9" * 40, *SIMPLE.split()]
UNUSUAL = """
~~=~ = == + ++ ~ +=1 @ model@x=mlp model@_global_=mlp x@y:z=1 a[0]=1 a.=1 .a=1 a..b=1 +a.b.c=1 ++model.a.b=1 ~model ~x
~trainer=[null] ~seed=3 ~trainer.epochs hydra/launcher=basic hydra/launcher=nowhere hydra=x hydra/job_logging=none
hydra.verbose=true hydra.job.id=3 hydra.mode=RUN hydra.sweep.subdir=x hydra.job.num=x hydra.sweeper.max_batch_size=2
hydra.searchpath=[file://.] hydra.searchpath=x common=dataset /model=mlp +common/dataset=x fit=1 _global_=1 defaults=[]
_target_=1 model/mlp model:mlp run image.png experiment=[a]
"""
STRANGE = UNUSUAL.split()


@cache
def keys(command: str) -> dict[str, dict[str, Any]]:
    """Return the dotted keys of a command with their values, and for each `group=option` the option's own."""
    catalog = compose([CONF], command, {})
    found = {"": flat(catalog.keys)}
    for group in catalog.choices.keys() - {"experiment"}:
        for option in set(options([CONF], group)) - HEAVY:
            own = compose([CONF], f"{group}/{option}", {}).keys
            found[f"{group}={option}"] = {f"{group}.{key}": value for key, value in flat(own).items()}
    return dict(sorted(found.items()))


def likely(rng: random.Random, value: Any) -> str:
    """Draw a value of a default's kind."""
    if isinstance(value, bool):
        return rng.choice(["true", "false"])
    if isinstance(value, int | float):
        return rng.choice(["0", "1", "2", "3", "8", "-1", "0.5", "0.1", "1000", "1000000000", "1e-9", str(value)])
    if isinstance(value, list):
        return rng.choice(["[]", "[1]", "[4,8]", "[0.5,0.7]", "[conv1]", "[8,8,8,8,8,8]", "[0]", "[conv1,conv1]"])
    return rng.choice(["null", "{}", "{conv1:0.5}", "{conv1:2}", "3", "0.5", "none", "auto", "[1,2]", str(value)])


def settings(rng: random.Random, command: str) -> list[str]:
    """Draw settings: an option of a group with keys of its own, a key with a likely or an odd value, a strange word."""
    kind, own = rng.random(), keys(command)
    if kind < 0.1:
        return [f"{rng.choice(groups([CONF]))}={rng.choice(ODD)}"]
    if kind < 0.2:
        return [rng.choice(STRANGE)]
    choice = rng.choice(list(own)) if kind < 0.7 else ""
    names = list(own[choice])
    drawn = rng.sample(names, min(len(names), rng.choice([0, 1, 2]) if choice else 1))
    values = [likely(rng, own[choice][name]) if rng.random() < 0.6 else rng.choice(ODD) for name in drawn]
    signs = [rng.choice(["", "", "", "", "", "", "+", "++", "~"]) for _ in drawn]
    words = [f"{sign}{name}={value}" for sign, name, value in zip(signs, drawn, values, strict=True)]
    return [choice, *words] if choice else words


def flag(rng: random.Random) -> list[str]:
    """Draw a flag, with or without a value."""
    name = rng.choice([*FLAGS, "-m", "-c", "-p", "-i", "-cd", "-h", "--", "-", "-x", "--epochs", "--lr=1", "--no-such"])
    value = rng.choice([*(FLAGS.get(name) or ()), "job", "mine", ".", rng.choice(ODD)])
    return [[name], [name, value], [f"{name}={value}"]][rng.randrange(3)]


def mutated(rng: random.Random, word: str) -> str:
    """Change a character or two of a word."""
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(word) + 1)
        new = rng.choice("abz019=.,:[]{}()'\"\\~+-_/@$%*? é")
        word = rng.choice([word[:at] + word[at + 1 :], word[:at] + new + word[at:], word[:at] + new + word[at + 1 :]])
    return word


def lines(seed: int) -> Iterator[list[str]]:
    """Yield command lines."""
    rng = random.Random(seed)  # noqa: S311
    base = {
        **{command: ["run=run"] for command in ("eval", "export", "report", "invariance")},
        **{"predict": ["run=run", "images=image.png"], "compare": ["runs=[run,other]"], "ablate": ["remove=[[conv1]]"]},
    }
    while True:
        command = rng.choice(["fit"] * 4 + ["check"] * 8 + [*main.COMMANDS, "config", "completion"])
        if command in ("config", "completion"):
            names = [
                "list",
                "show",
                "copy",
                "query",
                "bash",
                "fish",
                "cnntrain fit mod",
                "model/mlp",
                "optimizer=sgd",
                "fit",
            ]
            words = [rng.choice([*names, rng.choice(ODD)]) for _ in range(rng.randrange(4))]
            yield [command, *words]
            continue
        words = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            words += settings(rng, "fit" if command == "check" else command)
        words = [mutated(rng, word) if rng.random() < 0.1 else word for word in words]
        if rng.random() < 0.25:
            at = rng.randrange(len(words) + 1)
            words[at:at] = flag(rng)
        start = (
            ["config", "check"] if command == "check" else [command, *(base.get(command, []) * (rng.random() < 0.9))]
        )
        yield [*start, *words]


def begins(*_: Any, **__: Any) -> NoReturn:
    """Stand for work that takes long: what was typed has passed every check."""
    raise SystemExit(0)


def read_little(options: dict[str, Any], data_root: str) -> Any:
    """Read images that are drawn, and few; for others nothing is left to check without them."""
    _, own = dataset_options(options)
    small = max(own.get("train_images", 0), own.get("test_images", 0), 8 * own.get("image_size", 0)) < 1000
    return read(options, data_root) if options["name"] == "synthetic" and small else begins()


read = read_dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, an image and options of a person's own."""
    folder = tmp_path_factory.mktemp("words")
    for name, seed in (("run", 0), ("other", 1)):
        words = ["model=softmax", "dataset=synthetic", "dataset.train_images=64", "dataset.test_images=32"]
        words += ["augmentation=none", "trainer.epochs=1", "trainer.batch_size=16", "trainer.tensorboard=false"]
        assert main.main(["fit", *words, f"seed={seed}", f"output_dir={folder / name}"]) == 0
    picture(0).save(folder / "image.png")
    (folder / "mine" / "optimizer").mkdir(parents=True)
    (folder / "mine" / "optimizer" / "mine.yaml").write_text("name: sgd\nlr: 1\n")
    return folder


@pytest.fixture
def idle(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, with all work that takes long stubbed."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("CNNTRAIN_DATA", raising=False)
    for command in main.COMMANDS:  # what is imported later would keep a stub for good
        importlib.import_module(f"cnntrain.commands.{command}")
    for module, name in (
        (setup, "load_data"),
        (duration, "seconds_of"),
        (comparison, "evaluated"),
        (study, "measure_all"),
        (report, "ensure_evaluation"),
    ):
        monkeypatch.setattr(module, name, begins)
    monkeypatch.setattr(export, "FORMATS", dict.fromkeys(FORMATS, (begins, begins)))
    for module in [module for name, module in sys.modules.items() if name.startswith("cnntrain.")]:
        if getattr(module, "read_dataset", None) is read:
            monkeypatch.setattr(module, "read_dataset", read_little)
    return place


def wrong(words: list[str], folder: Path, captured: Callable[[], tuple[str, str]]) -> str | None:
    """Run a command line; return what is not as it should be."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    code = main.main(words)
    _, err = captured()
    after = {path for path in folder.rglob("*") if path.is_file()}
    spoken = [line for line in err.splitlines() if line and not line.startswith("latest is ")]
    said = [line for line in spoken if not any(note in line for note in NOTES)]
    if code not in (0, 2):
        return f"exit {code}: {err[-600:]}"
    if code == 2 and "cnntrain: job 0: " not in err:  # of a sweep that has begun every job speaks and has a folder
        if (len(said) != 1 or not said[0].startswith("cnntrain: ")) and "usage: cnntrain" not in err:
            return f"{len(said)} lines: {err[-600:]}"
        if before != after:
            return f"made or removed {before ^ after}"
    for path in after - before:
        path.unlink()
    for path in sorted(set(folder.iterdir()) - {folder / name for name in ("run", "other", "mine", "image.png")}):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


@pytest.mark.parametrize("seed", SEEDS)
def test_f34_whatever_is_typed_ends_in_one_line_with_nothing_made(
    idle: Path, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in itertools.islice(lines(seed), LINES):
        found = wrong(words, idle, capfd.readouterr)
        assert found is None, f"cnntrain {shlex.join(words)}\n{found}"
