"""Train, evaluate and explain convolutional networks from the command line, or from Python.

The functions named in `__all__` are the public Python interface, defined in `cnntrain.api`. They are loaded when they
are first used: importing cnntrain stays instant, and torch is imported by who needs it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnntrain.api import (
        Run,
        ablate,
        build_model,
        compare,
        describe,
        evaluate,
        features,
        invariance,
        load_dataset,
        load_run,
        train,
    )
    from cnntrain.nn.stages import record, tail, walk

__version__ = "0.1.0"

__all__ = [
    "Run",
    "ablate",
    "build_model",
    "compare",
    "describe",
    "evaluate",
    "features",
    "invariance",
    "load_dataset",
    "load_run",
    "record",
    "tail",
    "train",
    "walk",
]


def __getattr__(name: str) -> Any:
    """Return a function of the public interface (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'cnntrain' has no attribute {name!r}")
    from cnntrain import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
