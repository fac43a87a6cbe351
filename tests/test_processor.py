"""What training is told of the processor, and what it says when others use it."""

import subprocess
import sys
from pathlib import Path

import pytest

from cnntrain.runtime import devices
from cnntrain.runtime.processor import SPINS, Times, is_busy, queued, slowed, spin_briefly


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """What Linux says of processes, where more run than there are cores."""
    path = tmp_path / "stat"
    path.write_text("cpu 1 2 3\nprocs_running 999\nprocs_blocked 0\n")
    return path


@pytest.mark.parametrize(
    ("typed", "spins"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_a_persons_own_settings_of_openmp_hold(typed: dict[str, str], spins: str | None, busy: Path) -> None:
    environment = dict(typed)
    spin_briefly(environment, busy)
    assert environment == typed | ({"GOMP_SPINCOUNT": spins} if spins else {})


@pytest.mark.parametrize("text", ["procs_running 1\n", "cpu 1 2 3\n", None])
def test_on_an_idle_machine_or_one_that_tells_nothing_openmp_is_left_alone(text: str | None, tmp_path: Path) -> None:
    path, environment = tmp_path / "stat", dict[str, str]()
    if text is not None:
        path.write_text(text)
    spin_briefly(environment, path)
    assert environment == {} and not is_busy(path)


def test_openmp_is_told_before_torch_is_imported() -> None:
    code = "import os, sys\nfrom cnntrain.runtime import processor\nprocessor.is_busy = lambda *_: True\n"
    code += "from cnntrain.cli.main import main\nmain(['--version'])\n"
    code += "sys.exit('torch' in sys.modules or 'GOMP_SPINCOUNT' not in os.environ)"
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("core", "queue", "words"),
    [(20, 0, None), (14, 4, None), (12, 9, "other processes"), (1, 0.1, "disk"), (1, 18, "other processes")],
)
def test_a_slow_training_says_what_kept_it_from_the_processor(core: float, queue: float, words: str | None) -> None:
    line = slowed(Times(5, 1, 2), Times(15, 1 + core, 2 + queue))
    assert line is None if words is None else line is not None and words in line


def test_the_wait_for_a_core_is_summed_over_threads(tmp_path: Path) -> None:
    for thread, text in {"1": "9000000000 1500000000 3\n", "2": "1 250000000 1\n", "3": "", "4": None}.items():
        (tmp_path / thread).mkdir()
        if text is not None:
            (tmp_path / thread / "schedstat").write_text(text)
    assert queued(tmp_path) == 1.75
    assert queued(tmp_path / "not_linux") == 0


@pytest.mark.parametrize(("most", "kept"), [(1 << 25, 1 << 25), (1 << 40, 1 << 30)])
def test_freed_memory_is_kept_by_the_largest_threshold_that_the_library_takes(
    most: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some releases of glibc refuse more than 32 MiB, and would then fetch every tensor of 128 KiB from the system."""
    taken = dict[int, int]()

    class Library:
        def mallopt(self, which: int, value: int) -> int:
            if which == -3 and value > most:
                return 0
            taken[which] = value
            return 1

    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(devices.platform, "libc_ver", lambda: ("glibc", "2.31"))
    devices.keep_freed_memory()
    assert taken == {-3: kept, -1: (1 << 31) - 1}
