"""The searched settings of the form, a row each: a list of values, or a range with its two ends.

The address keeps the text of each setting as a sweep file has it; a row only shows and writes it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import streamlit as st

from src import setting_labels
from src.config import (
    RunConfig,
    Setting,
    YamlError,
    by_name,
    dump_flow,
    from_text,
    get,
    load_flow,
    to_text,
)  # fmt: skip
from src.panel.launch import words
from src.panel.ui import folds, guarded, html, query_params
from src.panel.ui.problems import draw_at

SPACE = "space."
LIST, RANGE, LOG = "list", "range", "range, log"
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# `0.002 to 0.008`, `1e-3..1e-2`, `0.1 – 0.3`
SPAN = re.compile(
    rf"\s*(?:from\s+)?({NUMBER})\s*(?:to|\.\.\.?|…|–|—)\s*({NUMBER})\s*(log)?\s*", re.I
)
MANY_TIMES = 10  # from here on a typed range is drawn by order of magnitude


@dataclass(frozen=True)
class Row:
    """The values of a searched setting as texts, as its row shows them."""

    kind: str
    values: str = ""
    low: str = ""
    high: str = ""
    step: str = ""
    more: dict[str, Any] = field(default_factory=dict)  # what a row has no field for: `when`


# --- texts ----------------------------------------------------------------------------------------


def flow(value: Any) -> str:
    """A list or a mapping as one line of YAML without its outer brackets; other values as text."""
    return dump_flow(value) if isinstance(value, list | dict) else str(value)


def unflow(text: str) -> Any:
    """The inverse of `flow`; also reads a range such as `0.002 to 0.008`. The text itself if it is
    none of these."""
    if span := SPAN.fullmatch(text):
        low, high = float(span[1]), float(span[2])
        log = bool(span[3]) or (low > 0 and high / low >= MANY_TIMES)
        return {"low": _plain(low), "high": _plain(high)} | ({"log": True} if log else {})
    try:
        return load_flow(text)
    except YamlError:
        return text


def _plain(value: float) -> float:
    return int(value) if value == int(value) else value


def row_of(text: str) -> Row:
    """The row that shows a text."""
    found = unflow(text)
    if not isinstance(found, dict):
        return Row(LIST, values=text)
    if "values" in found:
        more = {name: value for name, value in found.items() if name != "values"}
        return Row(LIST, values=flow(found["values"]), more=more)
    more = {k: v for k, v in found.items() if k not in ("low", "high", "log", "step")}
    low, high, step = (_shown(found.get(name)) for name in ("low", "high", "step"))
    return Row(LOG if found.get("log") else RANGE, low=low, high=high, step=step, more=more)


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def text_of(row: Row) -> str:
    """The text of a row: the inverse of `row_of`."""
    if row.kind == LIST:
        if row.more and not isinstance(values := unflow(row.values), dict):
            return flow({"values": values if isinstance(values, list) else [values]} | row.more)
        return row.values
    found: dict[str, Any] = {"low": _number(row.low), "high": _number(row.high)}
    if row.kind == LOG:
        found["log"] = True
    elif row.step.strip():
        found["step"] = _number(row.step)
    return flow(found | row.more)


def _number(text: str) -> Any:
    """The number of a text; the text itself, which is then refused, if it is none."""
    try:
        return _plain(float(text))
    except (ValueError, OverflowError):
        return text


def turned(row: Row, kind: str) -> Row:
    """The row as one of another kind, with the values that it has."""
    if row.kind == LIST:
        values = unflow(row.values)
        numbers = sorted(v for v in values if isinstance(v, int | float)) if isinstance(
            values, list
        ) else []  # fmt: skip
        low, high = (numbers[0], numbers[-1]) if numbers else ("", "")
        return Row(kind, low=str(low), high=str(high), more=row.more)
    if kind != LIST:
        return Row(kind, low=row.low, high=row.high, more=row.more)
    low, high = _number(row.low), _number(row.high)
    if isinstance(low, str) or isinstance(high, str):
        return Row(LIST, values=f"{row.low}, {row.high}", more=row.more)
    middle = math.sqrt(low * high) if row.kind == LOG and low > 0 else (low + high) / 2
    whole = isinstance(low, int) and isinstance(high, int)
    between = round(middle) if whole else float(f"{middle:.2g}")
    return Row(LIST, values=flow(sorted({low, between, high})), more=row.more)


# --- rows -----------------------------------------------------------------------------------------


def draw(
    base: RunConfig, before: Mapping[str, str], texts: Mapping[str, str],
    problems: Mapping[str, str], *, steps: bool,
) -> None:  # fmt: skip
    """Draw a row for each searched setting, and the choice of further ones. `steps`: ranges of
    fractions need one, as all their values are tried."""
    known = by_name()
    given = {
        name: text for name, text in (dict(before) | dict(texts)).items() if name.startswith(SPACE)
    }
    st.html("<h2>What is tried</h2>")
    if "space" in problems:
        html.draw_problem(problems["space"])
    for place, text in given.items():
        name = place.removeprefix(SPACE)
        if text.strip():
            setting = known.get(name) or Setting(name, str, "")
            wrong = [w for p, w in problems.items() if p == place or p.startswith(f"{place}.")]
            _draw_row(setting, text, wrong, hint=words.hint(setting, base), steps=steps)
    rest = [name for name in known if not given.get(SPACE + name, "").strip()]
    st.selectbox(
        "Try values of one more setting", rest, None, key="one more", on_change=_add, args=(base,),
        format_func=lambda name: f"{setting_labels.label(name)} ({name})",
        placeholder="choose a setting", width=360,
    )  # fmt: skip


def key_of(setting: Setting, text: str) -> str:
    """The key of the field in which a row that is refused is mended."""
    row = row_of(text)
    if row.kind != LIST:
        return f"row low {setting.name}"
    has_words = (setting.type is bool or setting.choices) and not row.more
    return f"row {'words' if has_words else 'values'} {setting.name}"


def _draw_row(setting: Setting, text: str, wrong: Sequence[str], *, hint: str, steps: bool) -> None:
    """Draw the row of a setting, and below it why it is refused or what the setting does."""
    name, row = setting.name, row_of(text)
    kinds = [LIST, RANGE, LOG] if setting.type in (int, float) else [LIST]
    called = setting_labels.label(setting.name)
    with st.container(key=f"row {name}", horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="title">{called}</p>')

        def part(label: str, key: str, value: str, place: str) -> None:
            _text(name, called, label, key, value, place, row)

        if len(kinds) > 1 or row.kind != LIST:
            _kind(name, called, kinds, row)
        if row.kind == LIST:
            choices = ["true", "false"] if setting.type is bool else list(setting.choices)
            if choices and not row.more:
                _several(setting, called, choices, row)
            else:
                part("values", "values", row.values, "4, 8, 16 or 0.001 to 0.01")
        else:
            part("from", "low", row.low, "smallest")
            part("to", "high", row.high, "largest")
            if row.kind == RANGE and (steps or row.step):
                part("step", "step", row.step, "distance")
        guarded.button(
            "Remove", key=f"remove {name}", type="tertiary", help=f"Keep {called} as it is",
            on_click=query_params.write, args=(SPACE + name, ""),
        )  # fmt: skip
        if row.more:
            folds.draw("hint", html.with_code(f"`{flow(row.more)}`"))
        for why in wrong:
            draw_at(key_of(setting, text), why)
        if not wrong:  # in the place of a message, which so moves no row
            folds.draw("hint", escape(hint))


def _write(name: str, row: Row) -> None:
    # A browser that has not heard yet that the row is gone sends its values with the next edit.
    if query_params.current(SPACE + name) == "":
        return
    query_params.write(SPACE + name, text_of(row))


def _text(
    name: str, called: str, label: str, field_name: str, value: str, placeholder: str, row: Row
) -> None:
    key = f"row {field_name} {name}"
    _assign(key, value)

    def keep() -> None:
        now = st.session_state[key]
        own = {one: getattr(row, one) for one in ("kind", "values", "low", "high", "step", "more")}
        _write(name, Row(**own | {field_name: now}))

    if field_name != "values":
        st.html(f'<p class="quiet" aria-hidden="true">{label}</p>', width="content")
    st.text_input(
        f"{called}, {label}", value, key=key, on_change=keep, placeholder=placeholder,
        width="stretch" if field_name == "values" else 96, label_visibility="collapsed",
    )  # fmt: skip


def _kind(name: str, called: str, kinds: list[str], row: Row) -> None:
    key = f"row kind {name}"
    _assign(key, row.kind)

    def keep() -> None:
        _write(name, turned(row, st.session_state[key]))

    st.selectbox(
        f"{called}, kind", kinds, kinds.index(row.kind), key=key, on_change=keep, width=130,
        label_visibility="collapsed",
    )  # fmt: skip


def _several(setting: Setting, called: str, choices: list[str], row: Row) -> None:
    """Draw the choice of several of a setting's own words."""
    found = unflow(row.values)
    now = [to_text(setting, one) for one in (found if isinstance(found, list) else [found])]
    key = f"row words {setting.name}"
    _assign(key, now)

    def keep() -> None:
        chosen = [from_text(setting, one) for one in st.session_state[key]]
        _write(setting.name, Row(LIST, values=flow(chosen) if chosen else ""))

    options = list(dict.fromkeys([*choices, *now]))
    st.multiselect(
        f"{called}, values", options, now, key=key, on_change=keep, width="stretch",
        label_visibility="collapsed",
    )  # fmt: skip


def _assign(key: str, value: Any) -> None:
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value


def _add(base: RunConfig) -> None:
    """Try values of the chosen setting too, starting with its present one."""
    if name := st.session_state["one more"]:
        query_params.write(SPACE + name, flow([get(base, name)]))
        st.session_state["one more"] = None
