"""A widget for each setting: of those that people change first, and of the others in a list."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import streamlit as st

from src import paths, setting_labels
from src.config import RunConfig, Setting, by_name, get, settings, to_text
from src.format import as_sentence, counted
from src.models.metrics import MONITORED, metric_label
from src.panel.launch import words
from src.panel.ui import chooser, folds, html, problems, query_params
from src.tasks import TASKS

# Choices offered for settings that are free text.
SUGGESTED = {
    "data.task": tuple(TASKS),
    "model.name": (
        *sorted(folder.parent.name for folder in paths.BASE_MODELS.glob("*/config.json")),
        "gpt2",
        "Qwen/Qwen2.5-0.5B",
    ),
}
METRICS = ("early_stopping.metric", "metric")  # of a run, and of a sweep: shown in words
LONG = ("data.mix", "data.template", "data.path", "data.system_prompt", "evaluation.suites")

Write = Callable[
    [str, str | None], None
]  # keeps the text of a setting; None: it is as at the start


@dataclass(frozen=True)
class Form:
    """A form of settings: what it starts from, what was changed, and where a change is written."""

    base: RunConfig
    texts: Mapping[str, str]
    problems: Mapping[str, str]
    notes: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)  # in the place of the usual ones
    config: RunConfig | None = None  # with the changes, if they can be used
    write: Write = query_params.write
    key: str = "set"  # of its widgets; a page with two forms has two
    opened: str = "open"  # parameter of the address: settings of the list that have a field
    without: frozenset[str] = frozenset()  # settings that this form does not have


# --- the form -------------------------------------------------------------------------------------


def draw_all(form: Form) -> None:
    """Draw all settings."""
    draw_first(form)
    draw_rest(form)


def draw_first(form: Form) -> None:
    """Draw the settings that people change first, each with a line on what it does."""
    known = by_name()
    for part, names in words.FIRST.items():
        shown = [known[name] for name in names if name in known and name not in form.without]
        if not shown:
            continue
        st.html(f'<h3 class="title">{escape(part)}</h3>')
        _draw_fields(form, part, shown)


def draw_rest(form: Form) -> None:
    """Draw all other settings: a field for those that are changed, wrong or opened, and a list to
    search for the rest, in which a press opens the field."""
    apart = {*words.first(), *form.without}
    rest = [setting for setting in settings() if setting.name not in apart]
    shown = [setting for setting in rest if has_field(form, setting.name)]
    changed = sum(setting.name in form.texts for setting in rest)
    told = f" · {changed} changed" if changed else ""
    st.html(f"<h2>All other settings{told}</h2>")
    if shown:
        _draw_fields(form, "others", shown)
    closed = [setting for setting in rest if setting not in shown]

    def open_field(name: str) -> None:
        now = st.query_params.get_all(form.opened)
        query_params.write(form.opened, [*now, name])

    chooser.draw(
        _list(form, closed),
        key=f"{form.key} list",
        on_choose=open_field,
        find=f"Find among {counted(len(closed), 'more setting')}",
        placeholder="name, meaning or dotted name",
        focus=f"{form.key} ",
    )


def has_field(form: Form, name: str) -> bool:
    """True if a setting has a field: it stands first, is changed or wrong, or was opened."""
    opened = st.query_params.get_all(form.opened)
    return name in (*words.first(), *form.texts, *form.problems, *opened)


def notes_beside(form: Form) -> list[str]:
    """The notes on settings that have no field, below which they would stand."""
    return [text for name, text in form.notes.items() if not has_field(form, name)]


def _list(form: Form, shown: Iterable[Setting]) -> str:
    """HTML: a row for each setting with its value and its meaning; its button opens the field."""
    rows = []
    for setting in shown:
        name, called = setting.name, setting_labels.label(setting.name)
        value = to_text(setting, get(form.base, name)).replace("\n", " ⏎ ")
        if setting.type is bool:
            value = "on" if value == "true" else "off"
        first, rest = words.first_sentence(setting)
        rows.append(
            f'<li data-find="{escape(rest)}"><button data-choose="{escape(name)}">'
            f"<b>{escape(called)}</b><i>{escape(value) or 'none'}</i>"
            f"<small>{escape(first)} <code>{escape(name)}</code></small>"
            "</button></li>"
        )
    return f'<ul class="settings">{"".join(rows)}</ul>'


def _draw_fields(form: Form, part: str, shown: Iterable[Setting]) -> None:
    """Draw a widget for each setting, below it its problem, the note on it or what it does."""
    mix = form.texts.get("data.mix", to_text(by_name()["data.mix"], form.base.data.mix))
    with st.container(horizontal=True, key=f"fields {form.key} {part}"):
        for setting in shown:
            name, before = setting.name, to_text(setting, get(form.base, setting.name))
            kind = "long" if name in LONG else "short"
            state = "changed" if name in form.texts else "kept"
            with st.container(width=216, gap=None, key=f"{state} {kind} {form.key} {name}"):
                if name == "data.task" and mix:
                    _draw_mixture(mix)
                else:
                    text = form.texts.get(name, before)
                    draw_field(setting, before, text, write=form.write, key=form.key)
                if name in form.problems:
                    problems.draw_at(f"{form.key} {name}", form.problems[name])
                elif name in form.notes:
                    folds.draw("note", escape(as_sentence(form.notes[name])))
                else:
                    hint = form.hints.get(name) or words.hint(setting, form.config)
                    folds.draw("hint", escape(hint))


def _draw_mixture(mix: str) -> None:
    """Draw the mixture of tasks in the place of the one task, which is not used."""
    told = (
        "A mixture takes the place of one task: **Mixture of tasks**, in the list below. Empty it "
        "there."
    )
    st.selectbox("Task", [mix], disabled=True, key=f"mixture {mix}", help=f"{told}\n\n`data.mix`")


# --- a widget -------------------------------------------------------------------------------------


def draw_field(
    setting: Setting, before: str, text: str, title: str | None = None, *,
    write: Write = query_params.write, key: str = "set", show_label: bool = True,
) -> None:  # fmt: skip
    """Draw one widget that shows `text`; an edit is written if it differs from `before`."""
    key = f"{key} {setting.name}"
    value = _widget_value(setting, text)
    # Assigned only if it differs, or it would wipe what is being typed; and passed to the widget
    # as well, because a rerun that overlaps another one shows what it is passed.
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value

    def keep() -> None:
        now = st.session_state[key]
        new = to_text(setting, now) if not isinstance(now, str) else now
        write(setting.name, None if new == before else new)

    shown: dict[str, Any] = {"key": key, "on_change": keep, "help": _help(setting)}
    if not show_label:
        shown["label_visibility"] = "collapsed"
    name = title or setting_labels.label(setting.name)
    if text != before:
        name += f" (was {_short(before)})"
    placeholder = "none" if setting.optional else None
    if setting.type is bool:
        st.toggle(name, value, **shown)
    elif setting.choices:
        options = list(setting.choices)
        st.selectbox(name, options, None if value is None else options.index(value), **shown)
    elif setting.name in METRICS:
        options = list(dict.fromkeys([*MONITORED, before, text]))
        st.selectbox(name, options, options.index(text), format_func=metric_label, **shown)
    elif setting.name in SUGGESTED:
        options = list(dict.fromkeys([*SUGGESTED[setting.name], before, text]))
        st.selectbox(name, options, options.index(text), accept_new_options=True, **shown)
    elif setting.type is int:
        # No limits here: the browser would not send a number out of bounds, and the launch would
        # use the one before it. RunConfig refuses it, with a sentence below.
        st.number_input(name, value=value, step=1, placeholder=placeholder, **shown)
    elif "\n" in before:
        st.text_area(name, value, height=72, **shown)
    else:
        st.text_input(name, value, placeholder=placeholder, **shown)


def _widget_value(setting: Setting, text: str) -> Any:
    if setting.type is bool:
        return text == "true"
    if setting.type is int:
        return int(text) if re.fullmatch(r"-?\d{1,15}", text) else None
    if setting.choices:
        return text if text in setting.choices else None
    return text


def _short(text: str) -> str:
    return html.label_text(json.dumps(text, ensure_ascii=False)[1:-1] if text else "none", 24)


def _help(setting: Setting) -> str:
    low, high = (f"{b:,.12g}" if b is not None else None for b in (setting.low, setting.high))
    bounds = []
    if low is not None:
        bounds.append(f"{'more than' if setting.low_open else 'at least'} {low}")
    if high is not None:
        bounds.append(f"{'less than' if setting.high_open else 'at most'} {high}")
    limits = f"\n\n{', '.join(bounds).capitalize()}." if bounds else ""
    return f"{setting.help}{limits}\n\n`{setting.name}`"
