"""Sentences on one value that cannot be used: what arrived, and what to do.

The only place that turns an error of pydantic into words.
"""

import re
from collections.abc import Mapping
from typing import Any

from src.errors import did_you_mean

# What the context of an error calls a bound, and what the sentence calls it.
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
SIGNS = {".": "dots", "_": "underscores", "-": "dashes"}  # that a pattern may allow


def sentence(error: Mapping[str, Any], example: Any = None) -> str:
    """The sentence of an error as `ValidationError.errors()` lists it.

    `example` is a value that the setting could have.
    """
    kind, value, context = error["type"], error["input"], error.get("ctx") or {}
    got = f"; got {shortened(value)}"
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind.startswith(("int", "float", "finite")):
        return _number(kind, value, example)
    for bound, words in BOUNDS.items():
        if bound in context:
            return f"must be {words} {context[bound]:,.12g}{got}"
    if kind.startswith("string"):
        return _text(kind, value, context, str(error["loc"][-1]), example)
    if kind.startswith("bool"):
        return f"is on or off (true or false){got}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        *others, last = known or [context["expected"]]
        choices = f"{', '.join(others)} or {last}" if others else last
        return f"takes {choices}{got}{did_you_mean(str(value), known)}"
    if kind == "list_type":
        return f"takes a list, such as [a, b]{got}"
    if kind == "dict_type":
        return f"takes names and values, such as {{a: 1, b: 2}}{got}"
    if kind == "too_short":
        return "is an empty list; name at least one"
    if kind in ("model_type", "model_attributes_type"):
        return f"holds settings, each on a line of its own{got}"
    if kind == "missing":
        return "no value given"
    if kind == "unexpected_keyword_argument":
        return "no such argument"
    return f"cannot be used{got}"


def _number(kind: str, value: Any, example: Any) -> str:
    """The sentence on a value that is no number, or not the kind of number that is asked for."""
    what = "a whole number" if kind.startswith("int") else "a number"
    is_number = isinstance(example, int | float) and not isinstance(example, bool)
    told = f"{what}, such as {example:.12g}" if is_number else what
    if value is None or value == "":
        return f"is empty; enter {told}"
    if kind == "finite_number":
        return f"takes a finite number; got {shortened(value)}"
    return f"takes {told}; got {shortened(value)}"


def _text(kind: str, value: Any, context: Mapping[str, Any], leaf: str, example: Any) -> str:
    """The sentence on a text that is none, empty, too long or has characters that it may not."""
    if value is None or value == "":
        if leaf == "name":
            return "is empty; give it a name"
        is_short = isinstance(example, str) and 0 < len(example) <= 40 and example.isprintable()
        return f"is empty; enter a value{f', such as {example}' if is_short else ''}"
    if kind == "string_too_long":
        return f"has {len(value):,} characters; {context['max_length']:,} at most"
    if kind == "string_pattern_mismatch":
        allowed = [word for sign, word in SIGNS.items() if sign in context["pattern"]]
        *others, last = ["letters", "digits", *allowed]
        return f"takes {', '.join(others)} and {last}, no space; got {shortened(value)}"
    return f"takes a text; got {shortened(value)}"


def shortened(value: Any) -> str:
    """A refused value for a sentence; a long one is cut."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text):,} characters)"
