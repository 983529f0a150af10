"""RunConfig as a form: a widget per setting, with its value in the address and its problem below.

The address holds the preset (or the run to start from) and the settings that differ from it, as
`config.to_text` writes them; the widgets only show and write the address.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby
from typing import Any

import streamlit as st

from src import paths
from src.config import (
    ConfigError,
    RunConfig,
    Setting,
    differences,
    from_text,
    get,
    load_config,
    override_text,
    parse_config,
    presets,
    settings,
    stored_config,
    to_text,
    to_yaml,
)
from src.format import full_stop
from src.models.metrics import MONITORED
from src.panel.ui import guarded, html, query_params
from src.tasks import TASKS

# Choices offered for settings that are free text.
SUGGESTED = {
    "data.task": tuple(TASKS),
    "model.name": (
        *sorted(folder.parent.name for folder in paths.BASE_MODELS.glob("*/config.json")),
        "gpt2",
        "Qwen/Qwen2.5-0.5B",
    ),
    "early_stopping.metric": MONITORED,
    "metric": MONITORED,  # of a sweep
}


# Labels of settings whose own names say too little.
LABELS = {
    "name": "Name of the run",
    "lora.r": "Rank",
    "data.mix": "Mixture of tasks",
    "training.per_device_train_batch_size": "Batch size",
    "training.gradient_accumulation_steps": "Accumulation",
    "evaluation.eval_steps": "Evaluate every",
    "checkpointing.save_steps": "Save every",
    "early_stopping.patience": "Patience",
}


def label(setting: Setting) -> str:
    """`Learning rate` of training.learning_rate; a section's `name` is called like the section."""
    section, _, leaf = setting.name.rpartition(".")
    words = (section if leaf == "name" and section else leaf).replace("_", " ")
    return LABELS.get(setting.name, words[:1].upper() + words[1:])


# --- the address ----------------------------------------------------------------------------------


def edited(base: RunConfig) -> dict[str, str]:
    """{setting: text} of the settings that the address changes from `base`."""
    known = {s.name: s for s in settings()}
    given = {name: st.query_params[name] for name in st.query_params if name in known}
    return {n: text for n, text in given.items() if text != to_text(known[n], get(base, n))}


def read(base: RunConfig, texts: Mapping[str, str]) -> tuple[RunConfig | None, dict[str, str]]:
    """`base` with the changes, and {setting: why it cannot be used}; None if any cannot."""
    values = base.model_dump()
    for setting in settings():
        if setting.name in texts:
            *sections, leaf = setting.name.split(".")
            target = values
            for section in sections:
                target = target[section]
            target[leaf] = from_text(setting, texts[setting.name])
    try:
        return parse_config(values), {}
    except ConfigError as error:
        return None, error.problems


def query(config: RunConfig, preset: str) -> dict[str, str]:
    """The address that opens the form with this config."""
    known = {s.name: s for s in settings()}
    changed = differences(config, load_config(preset=preset))
    return {"preset": preset} | {n: to_text(known[n], here) for n, (here, _) in changed.items()}


def use_own_data(base: RunConfig, path: str) -> None:
    """Train on a file, which takes the place of a mixture and of a data set of the hub."""
    for name in ("data.mix", "data.hub_id"):
        if get(base, name) is None:
            reset(name)
        else:
            query_params.write(name, "")
    query_params.write("data.path", path)


def reset(*names: str) -> None:
    """Reset settings to the form's start."""
    for name in names:
        query_params.write(name, None)


# --- widgets --------------------------------------------------------------------------------------


def draw_first(
    base: RunConfig, texts: Mapping[str, str], problems: Mapping[str, str], notes: Mapping[str, str]
) -> None:
    """Draw the settings that people change first, with the notes on them."""
    fields([s for s in settings() if s.basic], base, texts, problems, notes)


def notes_beside(notes: Mapping[str, str]) -> list[str]:
    """The notes on settings that `draw_first` does not draw."""
    first = {s.name for s in settings() if s.basic}
    return [text for name, text in notes.items() if name not in first]


def draw_rest(base: RunConfig, texts: Mapping[str, str], problems: Mapping[str, str]) -> None:
    """Draw the other settings, folded by section; a section with a problem is open."""
    rest = [s for s in settings() if not s.basic]
    with st.container(gap="xxsmall"):
        for section, group in groupby(rest, key=_section):
            found = list(group)
            changed = sum(s.name in texts for s in found)
            wrong = any(s.name in problems for s in found)
            title = section + (f" · {changed} changed" if changed else "")
            with st.expander(title, expanded=wrong, key=f"section {section} {wrong}"):
                fields(found, base, texts, problems)


def _section(setting: Setting) -> str:
    section, dot, _ = setting.name.partition(".")
    words = section.replace("_", " ").capitalize()
    return {"Lora": "LoRA"}.get(words, words) if dot else "Engine"


def fields(
    shown: Iterable[Setting], base: RunConfig, texts: Mapping[str, str],
    problems: Mapping[str, str], notes: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Draw a widget for each setting, its problem below it, or else the note on it."""
    known = {s.name: s for s in settings()}
    mix = texts.get("data.mix", to_text(known["data.mix"], base.data.mix))
    with st.container(horizontal=True, gap="small"):
        for setting in shown:
            long = setting.name in ("name", "data.mix", "data.template", "data.path")
            before = to_text(setting, get(base, setting.name))
            key = f"changed {setting.name}" if setting.name in texts else None
            with st.container(width=448 if long else 216, gap=None, key=key):
                if setting.name == "data.task" and mix:
                    _draw_mixture(mix)
                else:
                    field(setting, before, texts.get(setting.name, before))
                if setting.name in problems:
                    html.draw_problem(problems[setting.name])
                elif notes and setting.name in notes:
                    st.html(f'<p class="note">{escape(full_stop(notes[setting.name]))}</p>')


def _draw_mixture(mix: str) -> None:
    """Draw the mixture of tasks in the place of the one task, which is not used."""
    told = (
        "A mixture takes the place of one task: **Mixture of tasks**, under Data. Empty it there."
    )
    st.selectbox("Task", [mix], disabled=True, key=f"mixture {mix}", help=f"{told}\n\n`data.mix`")


def field(setting: Setting, before: str, text: str, title: str | None = None) -> None:
    """Draw one widget that shows `text`; an edit writes the address if it differs from `before`."""
    key = f"set {setting.name}"
    value = _widget_value(setting, text)
    # Assigned only if it differs, or it would wipe what is being typed; and passed to the widget
    # as well, because a rerun that overlaps another one shows what it is passed.
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value

    def write() -> None:
        now = st.session_state[key]
        new = to_text(setting, now) if not isinstance(now, str) else now
        if new == before:
            reset(setting.name)
        else:
            query_params.write(setting.name, new)

    shown: dict[str, Any] = {"key": key, "on_change": write, "help": _help(setting)}
    name = (title or label(setting)) + (f" (was {_short(before)})" if text != before else "")
    if setting.type is bool:
        st.toggle(name, value, **shown)
    elif setting.choices:
        options = list(setting.choices)
        st.selectbox(name, options, None if value is None else options.index(value), **shown)
    elif setting.name in SUGGESTED:
        options = list(dict.fromkeys([*SUGGESTED[setting.name], before, text]))
        st.selectbox(name, options, options.index(text), accept_new_options=True, **shown)
    elif setting.type is int:
        # No limits here: the browser would not send a number out of bounds, and the launch would
        # use the one before it. RunConfig refuses it, with a sentence below.
        st.number_input(name, value=value, step=1, placeholder="none", **shown)
    elif "\n" in before:
        st.text_area(name, value, height=72, **shown)
    else:
        st.text_input(name, value, placeholder="none" if setting.optional else None, **shown)


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


# --- what is changed ------------------------------------------------------------------------------


def draw_changes(origin: str, base: RunConfig, texts: dict[str, str]) -> None:
    """Draw what differs from the start, each with a button to undo it."""
    if not texts:
        st.html(f'<p class="quiet">All settings are those of {escape(origin)}.</p>')
        return
    known = {s.name: s for s in settings()}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<h3 class="title">Changed from {escape(origin)}</h3>')
        guarded.button("Undo all", on_click=reset, args=tuple(texts), type="tertiary")
    with st.container(gap="xxsmall"):
        for name, text in texts.items():
            before = to_text(known[name], get(base, name)) or "none"
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.html(
                    f'<p class="change"><code>{escape(name)}</code> <s>{escape(before)}</s> '
                    f"<b>{escape(text or 'none')}</b></p>"
                )
                guarded.button(
                    "Undo", type="tertiary", key=f"undo {name}", on_click=reset, args=(name,)
                )


def draw_copies(config: RunConfig, origin: str) -> None:
    """Draw the config as a command and as YAML, to copy."""
    preset = origin if origin in presets() else nearest_preset(config)
    with st.container(horizontal=True):
        with st.popover("Copy as command"):
            st.code(as_command(config, preset), language="bash", wrap_lines=True)
        with st.popover("Copy as YAML"):
            st.code(to_yaml(config), language="yaml")


# --- what a config differs in ---------------------------------------------------------------------


def nearest_preset(config: RunConfig) -> str:
    """The preset from which the fewest settings differ."""
    return min(presets(), key=lambda name: len(differences(config, load_config(preset=name))))


def as_command(config: RunConfig, preset: str) -> str:
    """The `spelltune launch` command that gives this config."""
    known = {s.name: s for s in settings()}
    changed = differences(config, load_config(preset=preset))
    texts = (override_text(known[name], here) for name, (here, _) in changed.items())
    given = [f"--set {shlex.quote(text)}" for text in texts]
    return " \\\n  ".join([f"spelltune launch --preset {preset}", *given])


def changes_table(values: Mapping[str, Any]) -> str:
    """HTML: the settings in which a run's config differs from the preset nearest to it."""
    try:
        config = stored_config(values)
    except ConfigError as error:
        return f'<p class="problem">These are settings of another version: {escape(str(error))}</p>'
    preset = nearest_preset(config)
    known = {s.name: s for s in settings()}
    rows = (
        [f"<code>{escape(name)}</code>", *(escape(to_text(known[name], v) or "none") for v in pair)]
        for name, pair in differences(config, load_config(preset=preset)).items()
    )
    table = html.table({"Setting": "fit", "This run": "", f"Preset {preset}": ""}, rows)
    return f'{table}<p class="quiet">All others are those of the preset.</p>'
