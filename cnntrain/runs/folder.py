"""The run folder: what a run leaves behind, as files that rebuild it."""

import contextlib
import errno
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cnntrain import __version__
from cnntrain.runtime import disk
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import DiskError, InputError, InUseError, setting
from cnntrain.runtime.jsonfile import as_plain, read_lines
from cnntrain.tasks import task_of

CONFIG, RECORD, METRICS, RESULTS = "config.json", "run.json", "metrics.jsonl", "results.json"

SPLITS = "splits.csv.gz"  # which image file is in which split

RUNS = Path("runs")

LEAST_ROOM = 2**16  # bytes without which no command that writes begins

INDEX = RUNS / ".index"  # the absolute path of every training that was started from here, in JSON, a line each

RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "scikit-learn", "pillow")

RECORDED_VARIABLES = (
    "CUDA",
    "NCCL",
    "OMP",
    "GOMP",
    "MKL",
    "SLURM",
    "CNNTRAIN",
)  # what a record may hold of the environment


def new_folder(command: str, name: str) -> Path:
    """Return the path of a folder that no other run has: runs/<command>/<name>/<time>_<id>."""
    return RUNS / command / name / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(2)}"


def refuse_existing(folder: Path) -> None:
    """Raise `InputError` when `folder` already holds a run."""
    if (folder / CONFIG).exists():
        raise InputError(f"output_dir={folder} already holds a run; name another folder, or resume=auto")


def refuse_unwritable(folder: Path, need: float = LEAST_ROOM, word: str = "output_dir=") -> None:
    """Raise `InputError` when `folder`, or the nearest folder above it that exists, cannot take `need` bytes.

    `word` is the key that a person has typed before the folder, if any.
    """
    existing = next(place for place in (folder, *folder.parents) if os.access(place, os.F_OK))
    if not existing.is_dir():
        reason = "is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = "cannot be written to"
    elif (usage := shutil.disk_usage(existing)).total == 0:
        reason = "belongs to the system and keeps no files"
    elif usage.free < need:
        reason = f"is on a full disk ({disk.size(need)} are needed, {disk.size(usage.free)} are free)"
    else:
        return
    raise InputError(f"{word}{folder} cannot be made: {existing} {reason}")


def create_folder(folder: Path) -> Path:
    """Make the folder of a run.

    Raises `InputError` when it cannot be made.
    """
    try:
        disk.make_folder(folder)
    except DiskError as error:
        raise InputError(f"output_dir={error}") from error
    return folder


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a run's folder against other processes; the system lets go when the holder dies.

    Raises `InUseError` naming the holder when another process has it.
    """
    lock, holder = FileLock(folder / ".lock", timeout=0), folder / ".holder"
    try:
        lock.acquire()
    except Timeout as error:
        raise InUseError(f"output_dir={folder} is in use by {name_in(holder)}") from error
    except OSError as error:  # it is a link, or not ours to open
        raise InputError(f"{folder / '.lock'} cannot be locked: {error.strerror}") from error
    try:
        disk.write(holder, f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def name_in(holder: Path) -> str:
    """Return who holds a folder, by the file that the holder writes in the first moment after it has the lock."""
    for _ in range(20):
        with contextlib.suppress(OSError):
            return holder.read_text(encoding="utf-8")
        time.sleep(0.05)
    return "another process"


def append_metrics(folder: Path, record: Mapping[str, object]) -> None:
    """Add one line to the run's metrics, or nothing where the disk takes only a part of it.

    Raises `OSError`.
    """
    line = (json.dumps(as_plain(record)) + "\n").encode()
    with disk.appending(folder / METRICS) as handle:
        before = os.fstat(handle).st_size
        if os.write(handle, line) < len(line):
            os.ftruncate(handle, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_metrics(folder: Path, count: int | None = None) -> list[dict[str, Any]]:
    """Return the records of a run, of its first `count` lines; a line that is none is left out."""
    return [value for value in read_lines(folder / METRICS)[:count] if is_record(value)]


def is_record(value: object) -> bool:
    """Say whether a value is a record of the loop, with all that is read of one."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    counts = [value.get(key) for key in ("step", "epoch")]
    headline = task_of(value).headline
    needed = {
        "train": (headline.key, "lr")[not headline.of_steps :],
        "val": ("n", headline.key, headline.low, headline.high, "best"),
    }
    numbers = [value.get(key) for key in needed.get(value["kind"], ("unknown",))]
    numbers += [value.get(key, 0.0) for key in ("seconds", "samples_per_second")]
    return (
        all(type(count) is int and count > 0 for count in counts)
        and all(isinstance(number, float | int) for number in numbers)
        and isinstance(value.get("loss", ""), float | int | None)  # null is no number
    )


def keep_metrics(folder: Path, count: int) -> list[dict[str, Any]]:
    """Keep the first `count` records of a run, those that its checkpoint knows of, and return them."""
    lines = read_metrics(folder, count)
    disk.write(folder / METRICS, "".join(json.dumps(record) + "\n" for record in lines))
    return lines


def provenance(argv: list[str]) -> dict[str, object]:
    """Return where a run comes from: command line, versions, commit, environment, start."""
    return {
        "argv": argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cnntrain": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version(name) for name in RECORDED_PACKAGES},
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(RECORDED_VARIABLES)},
    }


def commit() -> str | None:
    """Return the commit of the checkout that this package runs from, marked where it was changed; None elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)  # noqa: S603, S607
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "cnntrain", "conf") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def remember(folder: Path) -> None:
    """Note where a training lies, so that `latest` finds it; a note that cannot be written costs no training."""
    with contextlib.suppress(OSError):
        INDEX.parent.mkdir(exist_ok=True)
        with INDEX.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps(str(folder.resolve())) + "\n")


def started() -> list[Path]:
    """Return the folders of the trainings that were started from here and are still there, the newest last."""
    here = Path.cwd()
    noted = (Path(line) for line in read_lines(INDEX) if isinstance(line, str))
    folders = {*noted, *(path.parent for path in here.glob(f"{RUNS}/fit/*/*/{CONFIG}"))}
    runs = sorted((folder for folder in folders if (folder / CONFIG).is_file()), key=begun)
    return [folder.relative_to(here) if folder.is_relative_to(here) else folder for folder in runs]


def begun(folder: Path) -> int:
    """Return when a training began or resumed, in nanoseconds."""
    return (folder / CONFIG).stat().st_mtime_ns


def find_run(run: str, key: str = "run") -> Path:
    """Return the folder of a finished or running training; "latest" is the newest that was started from here.

    Raises `InputError` naming the `key` and the nearest thing when there is none.
    """
    if run == "latest":
        runs = started()
        if not runs:
            raise InputError(f"{key}=latest: no run was started from here yet; start one with cnntrain fit")
        print(f"latest is {runs[-1]}", file=sys.stderr)
        return runs[-1]
    folder = expanded(run)
    if (folder / CONFIG).is_file():
        return folder
    if folder.is_dir():
        inside = sorted(path.parent for path in folder.glob(f"**/{CONFIG}"))
        hint = f"; runs inside: {', '.join(map(str, inside[-3:]))}" if inside else ""
        raise InputError(f"{key}={run} holds no {CONFIG}, so it is not a run{hint}")
    if folder.exists():
        run_folder = next((place for place in folder.parents if (place / CONFIG).is_file()), None)
        hint = setting(key, run_folder) if run_folder else "or latest"
        raise InputError(f"{key}={run} is a file; give its run's folder, {hint}")
    raise InputError(f"{key}={run} does not exist; give the folder that fit printed, or latest")


def find_all_runs(words: Sequence[str]) -> list[Path]:
    """Return the folders of several runs; a folder of runs, as a sweep leaves it, stands for them in order.

    Raises `InputError` for one that is named twice, or is no run.
    """
    folders: list[Path] = []
    for word in words:
        folder = expanded(word)
        inside = [] if (folder / CONFIG).is_file() else [path.parent for path in folder.glob(f"*/{CONFIG}")]
        folders += sorted(inside, key=lambda path: (len(path.name), path.name)) or [find_run(word, "runs")]
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise InputError(f"runs names {folder} twice")
    return folders
