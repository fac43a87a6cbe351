"""Words with several values in Hydra's own syntax, `optimizer.lr=0.01,0.1`: all of them, or one that is drawn."""

import math

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException

from cnntrain.runtime.errors import InputError

DIGITS = 3  # to which a drawn number is rounded, so that it is the same typed again


def parse_sweep(word: str) -> Override:
    """Return a word as Hydra reads it.

    Raises `InputError` where it has a single value, or one that nothing can be drawn from.
    """
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise InputError(f"cannot read {word!r}: {str(error).splitlines()[0]}") from error
    if not override.is_sweep_override() or isinstance(override.value(), Glob):
        raise InputError(f"{word!r} holds no values to choose among; list them: key=a,b, or an interval(low,high)")
    return override


def listed_values(word: str) -> tuple[str, ...]:
    """Return the words that a word with several values stands for, one a value: key=a, key=b.

    Raises `InputError` for an interval, whose values are not listed.
    """
    override = parse_sweep(word)
    if not override.is_discrete_sweep():
        raise InputError(f"{word!r} is an interval, from which values are drawn: add search=random trials=20")
    return tuple(f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator())


def drawn_value(word: str, rng: np.random.Generator) -> str:
    """Return one of the words that a word with several values stands for, drawn evenly.

    Of an interval a number rounded to three digits, of `int(interval(a,b))` an integer; of `tag(log,interval(a,b))` one
    whose logarithm is drawn evenly.
    """
    override = parse_sweep(word)
    if override.is_discrete_sweep():
        values = listed_values(word)
        return values[rng.integers(len(values))]
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None
    low, high = sweep.start, sweep.end
    if "log" in sweep.tags and low <= 0:
        raise InputError(f"{word!r}: a logarithm needs numbers above 0")
    number = math.exp(rng.uniform(math.log(low), math.log(high))) if "log" in sweep.tags else rng.uniform(low, high)
    whole = isinstance(low, int) and isinstance(high, int)
    return f"{override.get_key_element()}={round(number) if whole else float(f'{number:.{DIGITS}g}')}"
