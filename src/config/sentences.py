"""Sentences on one value that cannot be used: what arrived, and what to do."""

from typing import Any

NUMBERS = ("float_parsing", "float_type", "int_parsing", "int_type", "int_from_float")


def sentence(kind: str, message: str, value: Any, example: Any = None) -> str:
    """The sentence of an error of pydantic: its kind, its own message, and the value that arrived.

    `example` is a value that the setting could have.
    """
    is_empty = value is None or value == ""
    if kind in NUMBERS:
        what = "a whole number" if kind.startswith("int") else "a number"
        is_number = isinstance(example, int | float) and not isinstance(example, bool)
        told = f"{what}, such as {example}" if is_number else what
        return f"is empty; enter {told}" if is_empty else f"takes {told}; got {shortened(value)}"
    if kind in ("string_too_short", "string_type") and is_empty:
        return "is empty; give it a value"
    if kind.startswith("bool"):
        return f"is on or off (true or false); got {shortened(value)}"
    return f"{message[0].lower()}{message[1:]}; got {shortened(value)}"


def shortened(value: Any) -> str:
    """A refused value for a sentence; a long one is cut."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text):,} characters)"
