"""RunConfig as a form: what the address says of it, what is changed, and the config to copy.

The address holds the preset (or the run to start from) and the settings that differ from it, as
`config.to_text` writes them; the widgets (widgets.py) only show and write the address.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

import streamlit as st

from src import setting_labels
from src.config import (
    ConfigError,
    RunConfig,
    by_name,
    differences,
    from_text,
    get,
    load_config,
    parse_config,
    presets,
    set_arguments,
    settings,
    stored_config,
    to_text,
    to_yaml,
)
from src.panel.ui import guarded, html, query_params

# --- the address ----------------------------------------------------------------------------------


def edited(base: RunConfig) -> dict[str, str]:
    """{setting: text} of the settings that the address changes from `base`."""
    known = by_name()
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
    known = by_name()
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


# --- what is changed ------------------------------------------------------------------------------


def draw_changes(origin: str, base: RunConfig, texts: dict[str, str]) -> None:
    """Draw what differs from the start, each with a button to undo it."""
    if not texts:
        st.html(f'<p class="quiet">All settings are those of {escape(origin)}.</p>')
        return
    known = by_name()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<h3 class="title">Changed from {escape(origin)}</h3>')
        guarded.button("Undo all", on_click=reset, args=tuple(texts), type="tertiary")
    with st.container(gap="xxsmall"):
        for name, text in texts.items():
            before = to_text(known[name], get(base, name)) or "none"
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                called = escape(setting_labels.label(name))
                st.html(
                    f'<p class="change">{called} <s>{escape(before)}</s> '
                    f"<b>{escape(text or 'none')}</b></p>"
                )
                guarded.button(
                    "Undo", type="tertiary", key=f"undo {name}", on_click=reset, args=(name,)
                )


def draw_copies(config: RunConfig, origin: str) -> None:
    """Draw the config as a command and as YAML, to copy."""
    preset = origin if origin in presets() else nearest_preset(config)
    with st.container(horizontal=True):
        with st.popover("As a command"):
            st.code(as_command(config, preset), language="bash", wrap_lines=True)
        with st.popover("As YAML"):
            st.code(to_yaml(config), language="yaml")


# --- what a config differs in ---------------------------------------------------------------------


def nearest_preset(config: RunConfig) -> str:
    """The preset from which the fewest settings differ."""
    return min(presets(), key=lambda name: len(differences(config, load_config(preset=name))))


def as_command(config: RunConfig, preset: str) -> str:
    """The `spelltune launch` command that gives this config."""
    return command(f"spelltune launch --preset {preset}", config, load_config(preset=preset))


def command(start: str, config: RunConfig, base: RunConfig) -> str:
    """A command that begins from `base`, with what gives this config."""
    given = {name: here for name, (here, _) in differences(config, base).items()}
    return " \\\n  ".join([start, *set_arguments(given)])


def changes_table(values: Mapping[str, Any]) -> str:
    """HTML: the settings in which a run's config differs from the preset nearest to it."""
    try:
        config = stored_config(values)
    except ConfigError as error:
        return f'<p class="problem">These are settings of another version: {escape(str(error))}</p>'
    preset = nearest_preset(config)
    known = by_name()
    rows = (
        [
            f"{escape(setting_labels.label(name))} <small><code>{escape(name)}</code></small>",
            *(escape(to_text(known[name], v) or "none") for v in pair),
        ]
        for name, pair in differences(config, load_config(preset=preset)).items()
    )
    heads = {"Setting": "fit", "This run": "", f"Preset {preset}": ""}
    table = html.table(heads, rows, name="pairs changes")
    return f'{table}<p class="quiet">All others are those of the preset.</p>'
