"""Text as it was typed: Hydra reads `2024` and `true` as something else, and keys of text want the characters."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from cnntrain.config.validate import accepts, kinds

OPENING, CLOSING = "([{", ")]}"


def split(value: str) -> list[str]:
    """Split `value` at the commas that lie outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth = max(depth - 1, 0)
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def typed_values(words: Sequence[str]) -> dict[str, str]:
    """Return by key what the words of a command line set, in the characters that were typed."""
    pairs = (word.lstrip("+").partition("=") for word in words if not word.startswith("~"))
    return {key: value for key, equals, value in pairs if equals and "${" not in value}


def as_typed(value: Any, typed: str | None, hint: Any) -> Any:
    """Return `value` with the characters that were typed wherever its annotation takes text and the value is none.

    Whole numbers that stand in a file become text as well; what else a file holds has lost its characters.
    """
    arms = kinds(hint)
    items = next((get_args(arm)[0] for arm in arms if get_origin(arm) is list), None)  # what a list holds
    if isinstance(value, list) and items is not None:
        inner = split(typed[1:-1]) if typed and typed.startswith("[") else []
        texts = [text.strip() for text in inner] if len(inner) == len(value) else [None] * len(value)
        return [as_typed(item, text, items) for item, text in zip(value, texts, strict=True)]
    text = one_text(value, typed, arms)
    if items is None or isinstance(value, dict) or any(accepts(text, arm) for arm in arms):
        return text
    word = as_typed(value, typed, items)
    return [word] if accepts(word, items) else text


def one_text(value: Any, typed: str | None, arms: Sequence[Any]) -> Any:
    """Return `value` as text where one of the annotations `arms` is text and none takes the value as it was typed."""
    if value is None or isinstance(value, str) or str not in arms:
        return value
    if isinstance(value, list | dict) and any(accepts(value, arm) for arm in arms):
        return value
    text = typed if isinstance(value, bool | float | list | dict) else typed or str(value)
    same = text == str(value) and any(accepts(value, arm) for arm in arms)
    return value if text is None or same else text


def restored(values: Mapping[str, Any], typed: Mapping[str, str], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return by dotted key the values that have to be replaced for every key of text to hold what was typed."""
    changed = {}
    for key, hint in hints.items():
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        text = value if value == "???" else as_typed(value, typed.get(key), hint)
        if text is not value and text != value:
            changed[key] = text
    return changed
