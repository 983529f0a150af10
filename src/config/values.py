"""Values as text, in the form, in addresses and after --set, by the type of their setting."""

import json
import re
from typing import Any

from src.config.fields import Setting
from src.config.yaml_text import YamlError, load_flow

NULL = "null"


def from_text(setting: Setting, text: str) -> Any:
    """The value that a text stands for, which RunConfig still has to validate.

    None for an empty text and `null` where the setting may be none. A text setting takes the text
    as it stands; a list is `a, b` or `[a, b]`, a mapping `a: 1, b: 2` or `{a: 1, b: 2}`.
    """
    if setting.optional and text.strip() in ("", NULL):
        return None
    if setting.type is str or setting.choices:
        return text
    if setting.type == list[str]:
        return _list(text.strip())
    if setting.is_mapping:
        return _mapping(text.strip())
    return _number(setting.type, text.strip())


def to_text(setting: Setting, value: Any) -> str:
    """The value as a text that `from_text` reads; empty for None."""
    if value is None:
        return ""
    if setting.type is bool:
        return "true" if value else "false"
    if isinstance(value, list):
        parts = [str(part) for part in value]
        plain = ", ".join(parts)
        return plain if _list(plain) == parts else json.dumps(parts, ensure_ascii=False)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_number_text(part)}" for name, part in value.items())
    return _number_text(value) if isinstance(value, float) else str(value)


def _number_text(value: float) -> str:
    short = f"{value:.12g}"
    return short if float(short) == value else repr(value)


def _list(text: str) -> Any:
    """The parts of a list; the text itself if it has a bracket too many or too few."""
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        found = load_flow(text)
    except YamlError:
        return text
    # Within brackets each part is a text, whatever YAML makes of it.
    parts = found[0] if len(found) == 1 and isinstance(found[0], list) else None
    return text if parts is None else [getattr(part, "text", part) for part in parts]


def _mapping(text: str) -> Any:
    """The numbers of a mapping by name; the text itself if it is none."""
    inner = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    pairs = [part.partition(":") for part in inner.split(",") if part.strip()]
    names = [name.strip().strip("\"'") for name, _, _ in pairs]
    if not all(colon for _, colon, _ in pairs) or len(set(names)) < len(names):
        return text
    return {
        name: _number(float, value.strip())
        for name, (_, _, value) in zip(names, pairs, strict=True)
    }


def _number(kind: Any, text: str) -> Any:
    """The number or boolean of a text; the text itself if it is none, for RunConfig to refuse."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if not re.fullmatch(r"[-+]?[0-9_]{1,30}" if kind is int else r"[-+.0-9_eE]{1,60}", text):
        return text
    try:
        return kind(text)
    except ValueError:
        return text
