"""One training in several processes: shares of a batch, sums over all, signals, errors, and restarts by torchrun.

Most processes are forked with torch in them and told what torchrun would have told them; torchrun itself starts those
of the tests that are about it.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cuts import FULL, agree, each_at_once, last, rows
from steps import step_of

from cnntrain.cli.main import main
from cnntrain.data.augment.augmentations import AUGMENTATIONS
from cnntrain.data.loading.loader import ResidentLoader, StreamedLoader
from cnntrain.data.storage.images import Dataset, DatasetInfo, Pixels, Split
from cnntrain.nn.blocks import linear
from cnntrain.nn.stages import assemble
from cnntrain.runs import setup
from cnntrain.runs.setup import TrainingSetup, until
from cnntrain.runtime import distributed
from cnntrain.runtime.distributed import all_or_none, broadcast, gathered, shard
from cnntrain.runtime.errors import CnntrainError
from cnntrain.runtime.seeding import generator
from cnntrain.tasks import task_for
from cnntrain.training import loop
from cnntrain.training.optimizers import sgd
from cnntrain.training.sums import Sums

INFO = DatasetInfo("noise", ("one", "two", "three"), (1, 6, 6), (0.5,), (0.5,))

# What goes wrong, in which process, when optimizer step number 5 is taken.
FAULTS: dict[str, Callable[[], None]] = {
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
    "SIGUSR1": lambda: os.kill(os.getpid(), signal.SIGUSR1),
    "exit": lambda: os._exit(3),
}


def noise(count: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 6, 6, 1), generator=generator, dtype=torch.uint8)
    return Split(Pixels(images), torch.randint(3, (count,), generator=generator))


def become(rank: int, world: int, port: int) -> None:
    """Make this process one of several, as torchrun would have."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.LAUNCHED, distributed.WORLD, distributed.RANK, distributed.LOCAL_RANK = True, world, rank, rank
    torch.set_num_threads(1)


def train_here(rank: int, world: int, port: int, folder: Path, words: Sequence[str], fault: str, at: int) -> None:
    """Train as one of several processes, and leave with the command's exit code; words and images go to files."""
    become(rank, world, port)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if rank == at and fault in START:
        START[fault]()
    patch(fault if rank == at and fault in FAULTS else "", Path(f"images{rank}"))
    code = main(list(words))
    sys.stdout.flush()
    os._exit(code or (99 if any(largest.asked for largest in LARGEST) else 0))  # torch would abort at the exit


LARGEST: list[distributed.Largest] = []  # all that this process has made


def patch(fault: str, images: Path) -> None:
    """Note the images that each step looks at, and have something go wrong when the fifth is taken."""
    update = loop.TrainStep.update

    def watched(self: loop.TrainStep, loader: Any, step: int) -> None:
        if step == 4 and fault:
            FAULTS[fault]()
        update(self, loader, step)
        with images.open("a") as sink:
            sink.write(f"{json.dumps([step, loader.index[int(loader.at) - 1].tolist()])}\n")

    loop.TrainStep.update = watched  # type: ignore[method-assign]
    init = distributed.Largest.__init__

    def noted(self: distributed.Largest) -> None:
        init(self)
        LARGEST.append(self)

    distributed.Largest.__init__ = noted  # type: ignore[method-assign]


def other_weights() -> None:
    build = setup.build_model

    def built(*args: Any, **settings: Any) -> Any:
        net = build(*args, **settings)
        return net if settings.get("device") == "meta" else net.apply(doubled)

    setup.build_model = built  # type: ignore[assignment]


@torch.no_grad()
def doubled(module: Any) -> None:
    for weight in module.parameters(recurse=False):
        weight.mul_(2)


START = {"other weights": other_weights}  # what is wrong in one process from the beginning


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fit(folder: Path, *words: str, world: int = 2, fault: str = "", at: int = 0) -> tuple[list[int], str]:
    """Train in several processes; return their exit codes and all that they said on standard error."""
    port = free_port()
    calls = [(rank, world, port, folder, words, fault, at) for rank in range(world)]
    with each_at_once(train_here, calls) as processes:
        pass
    return [process.exitcode or 0 for process in processes], said(folder, world)


def said(folder: Path, world: int = 2) -> str:
    return "".join((folder / f"err{rank}").read_text() for rank in range(world))


# --- shares


def alone(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(distributed, "WORLD", world)
    monkeypatch.setattr(distributed, "RANK", rank)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_are_a_partition_in_order(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    monkeypatch.setattr(distributed, "WORLD", world)
    for size in range(40):
        shares = [list(range(size))[shard(size, rank)] for rank in range(world)]
        assert list(itertools.chain(*shares)) == list(range(size))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("kind", [ResidentLoader, StreamedLoader])
def test_f21_all_shares_of_a_batch_are_the_batch(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """Every draw of every augmentation with them."""
    parts = {
        "crop": AUGMENTATIONS["crop"](padding=2),
        "alternating_flip": AUGMENTATIONS["alternating_flip"](),
        "affine": AUGMENTATIONS["affine"](rotate=20, zoom=0.2),
        "cutout": AUGMENTATIONS["cutout"](size=2),
    }
    more = {"workers": 0} if kind is StreamedLoader else {}

    def batches(rank: int, world: int) -> list[Any]:
        alone(monkeypatch, rank, world)
        loader = kind(noise(30), INFO, batch_size=12, parts=parts, seed=3, device=torch.device("cpu"), **more)
        found = []
        for epoch, place in ((0, 0), (0, 1), (1, 1)):
            loader.seek(epoch, place)
            found.append(loader.batch())
        return found

    whole = batches(0, 1)
    for world in (2, 3):
        for expected, *shares in zip(whole, *(batches(rank, world) for rank in range(world)), strict=True):
            for one, several in zip(expected, zip(*shares, strict=True), strict=True):
                assert torch.equal(one, torch.cat(several))


def sizes() -> list[tuple[int, int]]:
    return list(itertools.product((1, 2, 3, 7, 10), (1, 2, 4, 100)))


def score_here(rank: int, world: int, port: int, folder: Path) -> None:
    become(rank, world, port)
    with distributed.joined():
        found = [validated(size, batch) for size, batch in sizes()]
    if rank == 0:
        (folder / "scores.json").write_text(json.dumps(found))


def validated(size: int, batch: int) -> Any:
    """Return what the processes together say of so many images."""
    cfg: Any = SimpleNamespace(trainer=SimpleNamespace(eval_batch_size=batch), dataset={"workers": 0})
    data: Any = Dataset(INFO, noise(size), noise(size), None)
    step: Any = SimpleNamespace(task=task_for(INFO))
    built = TrainingSetup(cfg, torch.device("cpu"), "fp32", data, step, *[None] * 2)  # type: ignore[arg-type]
    net = assemble({"fc1": linear(3)}, INFO.shape, out_shape=(3,))
    stop = distributed.Largest()  # as a signal would be asked after
    return built.validate(net, lambda: bool(stop(0)[0]))


def test_f21_an_evaluation_counts_every_image_once_for_every_size_and_batch(folder: Path) -> None:
    port = free_port()
    with each_at_once(score_here, [(rank, 3, port, folder) for rank in range(3)]) as processes:
        pass
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = json.loads((folder / "scores.json").read_text())
    for (size, batch), together in zip(sizes(), found, strict=True):
        expected = validated(size, batch)
        assert together.pop("loss") == pytest.approx(expected.pop("loss"), abs=1e-6)
        assert together == expected and together["n"] == size


def test_a_validation_asks_equally_often_in_every_process() -> None:
    asked: list[int] = []
    assert list(until(lambda: bool(asked.append(1)), iter("ab"), 3)) == ["a", "b"]  # type: ignore[func-returns-value]
    assert len(asked) == 3


# --- trainings


EXACT = ("trainer.precision=fp32", "trainer.log_every=1", "trainer.checkpoint_seconds=0", "trainer.gradients=true")
EVERYTHING = (
    *("model=resnet20", "model.remove=[block1_2,block1_3,block2_2,block2_3,block3_2,block3_3]", "trainer.ema=0.9"),
    *("augmentation=strong", "trainer.accumulate=2", "trainer.clip=1", "trainer.epochs=4", "trainer.log_every=3"),
)
WEIGHTED = ("dataset.balance=weights", "trainer.label_smoothing=0.1", "trainer.accumulate=2", "trainer.epochs=4")


def images(folder: Path, world: int) -> dict[int, list[int]]:
    """Return the images of each step, in the order of the processes."""
    found: dict[int, list[int]] = {}
    for rank in range(world):
        for line in (folder / f"images{rank}").read_text().splitlines():
            step, shown = json.loads(line)
            found[step] = found.get(step, []) + shown
        (folder / f"images{rank}").unlink()
    return found


def near(one: Path, other: Path) -> None:
    """Hold the metrics of two runs against each other."""
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a.pop("loss") == pytest.approx(b.pop("loss"), abs=1e-5)
        assert a.pop("gradients", {}) == pytest.approx(b.pop("gradients", {}), rel=1e-3, abs=1e-6)
        assert a == b


@pytest.mark.parametrize("settings", [(), WEIGHTED], ids=["plain", "weighted"])
def test_f21_two_processes_train_as_one_does(folder: Path, tiny: tuple[str, ...], settings: tuple[str, ...]) -> None:
    words = ["fit", *tiny, *EXACT, *settings]
    assert fit(folder, *words, "output_dir=one", world=1)[0] == [0]
    alone = images(folder, 1)
    codes, err = fit(folder, *words, "output_dir=two")
    assert codes == [0, 0] and err.count("lenet5 (61,706 parameters)") == 1, err
    assert images(folder, 2) == alone
    near(folder / "one", folder / "two")
    if not settings:  # on another kind of processor weights made from images may come out otherwise
        assert fit(folder, *words, "trainer.ema=0.9", "output_dir=three")[0] == [0, 0]
        assert fit(folder, *words, "trainer.ema=0.9", "output_dir=four", fault="other weights", at=1)[0] == [0, 0]
        agree(folder / "three", folder / "four")
    assert json.loads((folder / "two" / "run.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_f19_f21_a_stopped_training_goes_on_in_two_processes_to_the_bit_and_in_one(
    folder: Path, tiny: tuple[str, ...]
) -> None:
    """Batch norm, dropout and all: the same bits in two; another number of processes is said."""
    words = ["fit", *tiny, *EXACT, *EVERYTHING]
    assert fit(folder, *words, "output_dir=whole")[0] == [0, 0]
    for at in (0, 1):
        cut = f"output_dir=cut{at}"
        codes, err = fit(folder, *words, cut, fault="SIGTERM", at=at)
        assert codes == [143, 143] and err.count("resumes it") == 1, err
        step = last(folder / f"cut{at}")["progress"]["step"]
        assert 5 <= step <= 6
        codes, err = fit(folder, *words, cut)
        assert codes == [0, 0] and f"resuming from step {step}" in err and "will not repeat" not in err, err
        agree(folder / "whole", folder / f"cut{at}")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_f21_a_training_goes_on_in_another_number_of_processes(
    folder: Path, tiny: tuple[str, ...], before: int, after: int
) -> None:
    words = ["fit", *tiny, *EXACT]
    assert fit(folder, *words, "output_dir=whole", world=1)[0] == [0]
    assert fit(folder, *words, "output_dir=cut", world=before, fault="SIGTERM")[0] == [143] * before
    codes, err = fit(folder, *words, "output_dir=cut", world=after)
    assert codes == [0] * after and err.count(f"processes was {before} and is {after}") == 1, err
    near(folder / "whole", folder / "cut")


def test_f19_a_signal_to_one_process_saves_for_all(folder: Path, tiny: tuple[str, ...]) -> None:
    codes, err = fit(folder, "fit", *tiny, "output_dir=run", fault="SIGUSR1", at=1)
    assert codes == [0, 0] and err.count("saved at step") == 1, err


def test_f23_a_loss_that_is_no_number_ends_all_processes_at_the_same_step(folder: Path, tiny: tuple[str, ...]) -> None:
    codes, err = fit(folder, "fit", *tiny, "optimizer.lr=1e30", "output_dir=run")
    assert codes == [3, 3] and err.count("NaN or infinite") == 1, err
    bad = json.loads((folder / "run" / "run.json").read_text())["bad_batch"]
    assert len(bad["images"]) == 16


def test_a_process_that_dies_ends_the_others(folder: Path, tiny: tuple[str, ...]) -> None:
    codes, err = fit(folder, "fit", *tiny, "output_dir=run", fault="exit", at=1)
    assert codes == [1, 3] and "of the 2 processes" in err, err
    assert json.loads((folder / "run" / "run.json").read_text())["exit"].startswith("CnntrainError")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trainer.batch_size=15"], r"trainer\.batch_size=15 .*2 processes.* 14 or 16"),
        (["augmentation.mixup.alpha=0.2"], r"augmentation\.mixup"),
        (["model=resnet20", "dataset.image_size=4", "trainer.batch_size=2"], "trainer.batch_size=2 in 2 processes"),
        (["optimizer.lr=fast"], "optimizer.lr"),
        (["model=lenet6"], "'lenet5'"),
        (["-m", "seed=0,1"], r"2 processes .*\(fit\)"),
        (["output_dir=err0"], "output_dir=err0"),
    ],
)
def test_what_is_wrong_is_said_once_and_ends_all_processes(
    folder: Path, tiny: tuple[str, ...], words: list[str], line: str
) -> None:
    codes, err = fit(folder, "fit", *tiny, *words)
    said = [found for found in err.splitlines() if "given twice" not in found]
    assert codes == [2, 2] and len(said) == 1 and re.search(line, said[0]), err
    assert {path.name for path in folder.iterdir()} == {"out0", "out1", "err0", "err1"}


def test_only_a_training_takes_several_processes(folder: Path) -> None:
    codes, err = fit(folder, "eval", "run=latest")
    assert codes == [2, 2] and re.fullmatch(r"cnntrain: 2 processes .*\(fit\).* one process\n", err), err


def test_the_first_process_alone_prints_the_result(folder: Path, tiny: tuple[str, ...]) -> None:
    words = ["fit", *tiny, "trainer.epochs=1", "output_dir=run", "--json"]
    for _ in range(2):  # the second time it is finished
        assert fit(folder, *words)[0] == [0, 0]
        assert json.loads((folder / "out0").read_text())["steps"] == 5
        assert (folder / "out1").read_text() == ""


# --- what one process cannot do alone


def combined(rank: int, weights: torch.Tensor | None) -> list[object]:
    """Return what becomes of a step whose loss is no number in the second process: whether it counts, its sums and
    gradient; and whether dropout draws what it draws alone.
    """
    net = assemble({"fc1": linear(3)}, INFO.shape, out_shape=(3,))
    train_step = step_of(net, sgd(net), [0.1], class_weights=weights)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 1.0 + rank)
    program = train_step.program
    mine = Sums(program.sums.counts, program.device)
    mine.add(torch.tensor(0.5 + rank), {"right": torch.tensor(3 + rank)})
    check = program.combine(mine, torch.tensor(torch.nan if rank else 0.5), torch.tensor(2.0 + rank), images=10)
    gradients = {float(g) for p in net.parameters() if p.grad is not None for g in p.grad.flatten()}
    train_step.seed_dropout(0, 0, 5)
    alone = generator(0, "dropout", 0).integers(2**32, size=5).tolist()
    loss, right = program.sums.tensors.values()
    return [bool(check.isfinite()), float(loss), int(right), gradients, train_step.seeds[1] == alone]


def fail_here(rank: int, world: int, port: int, folder: Path) -> None:
    become(rank, world, port)
    told = []
    with distributed.joined():
        for failing in ((), (1,), (0, 1)):
            try:
                with all_or_none():
                    if rank in failing:
                        raise CnntrainError(f"of {rank}")
                told.append("")
            except CnntrainError as error:
                told.append(f"{type(error).__name__}: {error.exit_code}")
        told.append(str(distributed.total(rank + 1, 2**40 + 1)))
        told.append(broadcast(f"of {rank}"))
        told.append(str(gathered(torch.full((1 + rank, 2), 2**40 + rank)).tolist()))
        told.append(str(combined(rank, None)))
        told.append(str(combined(rank, torch.ones(3))))
    (folder / str(rank)).write_text("\n".join(told))


def test_processes_agree_on_errors_sums_and_values(folder: Path) -> None:
    port = free_port()
    with each_at_once(fail_here, [(rank, 2, port, folder) for rank in range(2)]) as processes:
        pass
    assert [process.exitcode for process in processes] == [0, 0]
    sums = [f"[3.0, {2.0**41 + 2}]", "of 0", str([[2**40] * 2, *[[2**40 + 1] * 2] * 2])]
    steps = ["[False, 2.0, 7, {1.5}, ", "[False, 4.0, 7, {3.0}, "]  # the second: ten images of weights that sum to five
    for rank, codes in enumerate((["EchoError: 1", "CnntrainError: 1"], ["CnntrainError: 1", "EchoError: 1"])):
        assert (folder / str(rank)).read_text().splitlines() == [
            "",
            *codes,
            *sums,
            *(f"{step}{rank == 0}]" for step in steps),
        ]


# --- torchrun

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def torchrun(folder: Path, words: Sequence[str], *flags: str, fault: str = "") -> subprocess.Popen[str]:
    """Start two processes by torchrun, of which the second meets a fault unless it has been started again."""
    script = folder / "script.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_distributed import patch\n"
        f"fault = {fault!r} if os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else ''\n"
        "patch(fault, Path('images' + os.environ['RANK']))\n"
        "if os.environ['RANK'] == '0' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '1':\n"
        "    time.sleep(3)  # the other one finds what the process that died has left\n"
        "from cnntrain.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    return subprocess.Popen(
        [*TORCHRUN, *flags, str(script), *words],
        cwd=folder, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_f20_a_process_that_dies_is_started_again_in_the_same_folder(folder: Path, tiny: tuple[str, ...]) -> None:
    words = ["fit", *tiny, *EXACT, "trainer.epochs=3"]
    with torchrun(folder, [*words, "--json"], "--max-restarts=1", fault="exit") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    (run,) = (folder / "runs" / "fit" / "lenet5-synthetic").iterdir()
    found = json.loads(out)
    assert found["run_dir"] == str(run.relative_to(folder)) and found["steps"] == 15
    assert fit(folder, *words, "output_dir=whole")[0] == [0, 0]
    agree(folder / "whole", run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT] if FULL else [signal.SIGTERM])
@pytest.mark.parametrize("to", ["torchrun", "all"] if FULL else ["all"])
def test_f19_a_signal_to_torchrun_saves_once_and_ends_all(
    folder: Path, tiny: tuple[str, ...], number: signal.Signals, to: str
) -> None:
    """Sent to the whole group, as a terminal and a scheduler do, the processes get it twice."""
    words = ["fit", *tiny, *EXACT, "trainer.epochs=9999", "output_dir=run"]
    with torchrun(folder, words) as process:
        deadline = time.monotonic() + 200
        while not (folder / "run" / "checkpoints" / "last.pt").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        began = time.monotonic()
        (os.killpg if to == "all" else os.kill)(process.pid, number)
        assert process.stderr
        assert any("resumes it" in line for line in process.stderr)
        assert time.monotonic() - began < 10
        _, err = process.communicate(timeout=60)
    assert "resumes it" not in err
    step = last(folder / "run")["progress"]["step"]
    assert f"stopped by {number.name}" in json.loads((folder / "run" / "run.json").read_text())["exit"]
    assert rows(folder / "run")[-1]["step"] == step > 5
