"""`cnntrain style`: a photograph painted in the style of a picture."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from cnntrain.config.read import read_config
from cnntrain.runs.folder import find_run, new_folder, refuse_unwritable
from cnntrain.runs.load import weights_digest
from cnntrain.runtime.devices import prepare
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, StoppedError
from cnntrain.runtime.progress import clock, say
from cnntrain.runtime.signals import Signals
from cnntrain.runtime.tables import percent, render, terminal_width
from cnntrain.studies.style.options import Style
from cnntrain.studies.style.pictures import write_picture
from cnntrain.studies.style.study import Painting, paint
from cnntrain.training import checkpoints
from cnntrain.training.checkpoints import State

SUFFIXES = (".png", ".jpg", ".jpeg")
SAVE_SECONDS = 10.0  # between two saves, each with a line of progress
FREE = ("output", "device", "plugins", "data_root")  # what may differ where a picture goes on


def run(composed: DictConfig) -> dict[str, Any]:
    """Paint as configured; return what `--json` prints."""
    cfg = read_style(composed)
    prepare(deterministic=False)
    names = "_".join(expanded(path).stem for path in (cfg.content, cfg.style))
    output = Path(cfg.output) if cfg.output else new_folder("style", names) / "picture.png"
    refuse_unwritable(output.parent, word="output=" if cfg.output else "")
    kept = output.with_name(f"{output.name}.state.pt")
    asked = settings(cfg)
    with alone(output):
        painting = follow(cfg, output, kept, earlier(asked, output, kept), asked)
        write_picture(painting.pixels, output)
        kept.unlink(missing_ok=True)
    shares = {layer: painting.share(layer) for layer in painting.parts}
    rows = [
        {"layer": name, "kind": kind, "share of the loss": percent(share, 1)} for (kind, name), share in shares.items()
    ]
    print(f"{render(rows, width=terminal_width())}\n\nloss     {painting.loss:.4g} after {painting.steps} steps")
    print(f"picture  {output}")
    layers = [{"layer": name, "kind": kind, "share": share} for (kind, name), share in shares.items()]
    return {"output": str(output), "steps": painting.steps, "loss": painting.loss, "layers": layers}


def read_style(composed: DictConfig) -> Style:
    """Return the configuration, checked."""
    cfg = read_config(Style, composed)
    if cfg.output and Path(cfg.output).suffix.lower() not in SUFFIXES:
        raise InputError(f"output={cfg.output}: a picture is written as {', '.join(SUFFIXES)}")
    if cfg.alpha == 0 and cfg.beta == 0 and not cfg.variation:
        raise InputError("alpha=0 beta=0: nothing is left that the picture could come nearer to")
    for key, weight in (("content_stages", "alpha"), ("style_stages", "beta")):
        if getattr(cfg, key) == []:
            raise InputError(f"{key}=[] names no stage; leave it out for those of the paper, or take {weight}=0")
    return cfg


check = read_style  # of a sweep's jobs, before any of them


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keep other commands from painting the same picture meanwhile; raise `InputError` where one does already."""
    place = output.with_name(f"{output.name}.lock")
    lock = FileLock(place, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"output={output} is being painted by another command; name another file") from error
    except OSError as error:
        raise InputError(f"{place} cannot be locked: {error.strerror}") from error
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        lock.release()


def earlier(asked: Mapping[str, Any], output: Path, kept: Path) -> State | None:
    """Return the state that an interrupted command has left, None where there is none.

    Raises `InputError` where the picture is there already, or where other settings have left the state.
    """
    if not kept.exists():
        if output.exists():
            raise InputError(f"output={output} is there already; name another file")
        return None
    saved = checkpoints.load_state(kept)
    if changed := [key for key in asked if saved["settings"].get(key) != asked[key]]:
        raise InputError(f"output={output} was begun with another {', '.join(changed)}; name another file")
    say(f"going on after {saved['steps']} steps")
    return saved


def settings(cfg: Style) -> dict[str, Any]:
    """Return what a picture depends on: the settings, and in place of the names of the files what they hold."""
    files = {key: digest(expanded(getattr(cfg, key))) for key in ("content", "style")}
    if cfg.run is not None and cfg.model is None:
        files["run"] = weights_digest(find_run(cfg.run), cfg.weights)
    return {key: value for key, value in asdict(cfg).items() if key not in FREE} | files


def digest(path: Path) -> str:
    """Return a digest of a file; none of one that cannot be read, which is said where its pixels are wanted."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    except OSError:
        return ""


def follow(cfg: Style, output: Path, kept: Path, begun: State | None, asked: Mapping[str, Any]) -> Painting:
    """Paint to the end and return the picture; write it, its state and a line of progress every `SAVE_SECONDS`.

    Raises `StoppedError` when a signal ended the work; the same command goes on.
    """
    painting, began, saved = None, 0.0, time.perf_counter()
    total = cfg.steps * (1 + len(cfg.coarse))
    with Signals() as signals:
        for painting in paint(cfg, begun):
            stopped = signals.stop()
            if not began:
                began, at_first = time.perf_counter(), painting.steps
            if not stopped and time.perf_counter() - saved < SAVE_SECONDS:
                continue
            write_picture(painting.pixels, output)
            checkpoints.save(kept, painting.state | {"settings": asked})
            saved, done = time.perf_counter(), painting.steps - at_first
            left = f"  {clock((total - painting.steps) * (saved - began) / done)} left" if done else ""
            say(f"{progress(painting)}{left}")
            if stopped:
                break
    assert painting is not None
    if signals.stopped_by is not None:
        signals.pass_on(signals.stopped_by)
        raise StoppedError(
            f"stopped by {signals.stopped_by.name} after {painting.steps} steps; the same command with output={output} "
            "goes on",
            signals.stopped_by,
        )
    return painting


def progress(painting: Painting) -> str:
    """Say where a picture is, with each layer's share of the loss."""
    shares = ", ".join(f"{kind} {stage} {percent(painting.share((kind, stage)), 0)}" for kind, stage in painting.parts)
    return f"{painting.size} pixels, step {painting.step}  loss {painting.loss:.4g} ({shares})"
