"""Numbers and values as people read them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

from src import setting_labels

GIB = 2**30  # bytes
MAX_TOLD = 3  # settings in the label of a run or a config


def whole_number(text: str) -> int | None:
    """The number of a text of digits, such as a step; None for any other text, also `²`."""
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


def number(value: float | None, spec: str = ",.4g", unit: str = "") -> str:
    """The value with its unit; a dash for None and nan."""
    if value is None or value != value:
        return "–"
    if spec.endswith("%"):
        return f"{decimal(value * 100, int(spec.rpartition('.')[2][:-1]))}%"
    return f"{value:{spec}} {unit}".strip()


def decimal(value: float, digits: int, *, plus: bool = False) -> str:
    """A number of so many decimals, with a minus sign, never `-0.0`; `plus` signs those above 0.

    Rounded twice: numbers that are equal but for how they were computed look equal.
    """
    shown = round(round(value, 6), digits) + 0.0
    return f"{shown:{'+' if plus and shown else ''},.{digits}f}".replace("-", "−")


def points(share: float, *, plus: bool = False) -> str:
    """`2.5` of 0.025: a share, or a difference of two, in points of percent."""
    return decimal(share * 100, 1, plus=plus)


def money(amount: float | None, currency: str) -> str:
    """`2.49 USD`; `< 0.01 USD` of what would be rounded to nothing, and a dash for None."""
    if amount is not None and 0 < amount < 0.005:
        return f"< 0.01 {currency}"
    return number(amount, ",.2f", currency)


def energy(wh: float | None) -> str:
    """`12.3 Wh`, `4.56 kWh`; a dash for None."""
    if wh is not None and wh >= 999.5:
        return number(wh / 1000, ",.3g" if wh < 999_500 else ",.0f", "kWh")
    return number(wh, ".3g", "Wh")


def percent(fraction: float | None) -> str:
    """`87.5%` of 0.875; a dash for None and nan."""
    return number(fraction, ".1%")


def spread(sd: float | None, *, is_share: bool) -> str:
    """A standard deviation as it stands behind `±`: of shares in points."""
    if not is_share:
        return number(sd, ",.2g")
    return "–" if sd is None else points(sd)


def chance(probability: float | None) -> str:
    """`87.5%` of 0.875, and `< 0.1%` of what would be rounded to nothing."""
    if probability is not None and 0 < probability < 0.0005:
        return "< 0.1%"
    return percent(probability)


def setting_value(value: Any, spec: str = "") -> str:
    """A setting's value as text: floats by `spec` (exact by default), lists and mappings with
    commas."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {setting_value(part, spec)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:{spec}}" if isinstance(value, float) else str(value)


def settings_text(values: Mapping[str, Any], *, most: int | None = None) -> str:
    """`learning rate 0.002, rank 16`; of more settings than `most` the first ones."""
    told = islice(values.items(), most)
    text = ", ".join(
        f"{setting_labels.inline(name)} {setting_value(value, '.3g')}" for name, value in told
    )
    return f"{text}, …" if most is not None and len(values) > most else text


def run_label(name: str, searched: Mapping[str, Any] | None) -> str:
    """The name of a run for people: of a trial of a sweep the settings that it tries, then its
    name, which is a number."""
    return f"{settings_text(searched, most=MAX_TOLD)} · {name}" if searched else name


def cut(text: str, limit: int) -> str:
    """The text, of at most `limit` characters, the last one `…` where more follow."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def listed(names: Sequence[str], most: int | None = None) -> str:
    """`a, b and c`; where more than one is left after `most`, their number: `a, b and 27 more`."""
    if most is not None and len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most:,} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def full_stop(text: str) -> str:
    """The text as a sentence: with a full stop at its end, unless it ends in a sign already."""
    text = text.strip()
    return text if text.endswith((".", "?", "!")) else f"{text}."


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def as_sentence(text: str, names: Iterable[str] = ()) -> str:
    """The text as a sentence: with a capital, unless it begins with a name, such as one of `names`,
    or a path, and a full stop."""
    text = full_stop(text)
    if any(text == name or text.startswith((f"{name} ", f"{name},")) for name in names):
        return text
    return capital(text) if re.match(r"[a-z]+[,;]?(?=\s|$)", text) else text


def duration(seconds: float | None) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`, `4 d 2 h`."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    sizes = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    for (size, unit), (small, small_unit) in pairwise(sizes):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def data_size(size_bytes: float) -> str:
    """`512 B`, `3.1 KiB`, `12.0 MiB`, `1.4 GiB`."""
    names = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(int(size_bytes).bit_length() - 1, 0) // 10, len(names) - 1)
    return f"{size_bytes / 1024**power:,.{1 if power else 0}f} {names[power]}"


def counted(count: int, noun: str) -> str:
    """`1 answer`, `2,000 answers`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
