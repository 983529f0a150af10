"""The form that launches a run: a preset or an earlier run, and what to change in it."""

import time
from concurrent.futures import wait
from html import escape
from typing import Any

import streamlit as st

from src.config import (
    DEFAULT_PRESET,
    ConfigError,
    RunConfig,
    effective_batch,
    get,
    load_config,
    parse_config,
    presets,
    settings,
    steps_per_epoch,
    to_yaml,
)
from src.panel import data, form, parts
from src.runs import launcher, store

SAME_PRESS_SECONDS = 3.0


def page() -> None:
    origin, base = start()
    if base is None:
        return
    texts = form.edited(base)
    config, problems = form.read(base, texts)
    seen = None
    if config:
        seen, problems = data.check(config)
    left, right = st.columns([2.1, 1], gap="large")
    with right, st.container(key="summary"):
        if config:
            launch_button(config, problems)
        to_mend(problems)
        if config:
            sizes(config, seen)
            changes(origin, base, texts)
            copies(config, origin)
    with left:
        origins(origin)
        form.draw(base, texts, problems)
        if config and not problems:
            st.html('<h3 class="title">Data</h3>')
            data.show(seen) if seen else data.wait_beside(config)


def origins(origin: str) -> None:
    """Where the form starts; edits stay when it changes."""
    names = presets() if origin in presets() else [origin, *presets()]
    if st.session_state.get("origin") != origin:
        st.session_state["origin"] = origin

    def write() -> None:
        st.query_params.pop("from", None)
        st.query_params["preset"] = st.session_state["origin"]

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control("Start from", names, key="origin", on_change=write, required=True)
        with st.popover("Use my own data"):
            data.upload()


def launch_button(config: RunConfig, problems: dict[str, str]) -> None:
    """The button; pressed, it launches once the data has been checked and goes to the monitor."""
    if not st.button("Launch", type="primary", width="stretch", disabled=bool(problems)):
        return
    # Two presses in a row are one: the second may arrive while the first one's page goes.
    last, run_id, at = st.session_state.get("launched", (None, None, 0.0))
    if last != config or time.time() - at > SAME_PRESS_SECONDS:
        with st.spinner("Reading the data first"):
            wait([data.begun(config)])
        if data.check(config)[1]:
            st.rerun()  # the problems now stand at their fields
        run_id = launcher.launch(config)
        st.session_state["launched"] = (config, run_id, time.time())
    parts.go("monitor", {"run": run_id})


def to_mend(problems: dict[str, str]) -> None:
    if problems:
        items = "".join(
            f"<li><code>{escape(n)}</code> {escape(p)}</li>" for n, p in problems.items()
        )
        st.html(f'<div class="problem" role="alert">Before the launch:<ul>{items}</ul></div>')
        st.button("Check again", on_click=data.check_again, type="tertiary")


def sizes(config: RunConfig, seen: dict[str, Any] | None) -> None:
    """What the settings come to."""
    rows = effective_batch(config)
    pairs = [("rows a step", f"{rows:,}")]
    if seen:
        epoch = steps_per_epoch(config, seen["rows"]["train"])
        pairs += [
            ("tokens a step", f"≈ {rows * seen['tokens']['median']:,.0f}"),
            ("steps an epoch", f"{epoch:,}"),
            ("epochs", f"{config.training.max_steps / epoch:.3g}"),
        ]
    st.html(parts.facts(pairs))


def changes(origin: str, base: RunConfig, texts: dict[str, str]) -> None:
    """What differs from the start, each with one press back."""
    if not texts:
        st.html(f'<p class="quiet">All settings are those of {escape(origin)}.</p>')
        return
    known = {s.name: s for s in settings()}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<h3 class="title">Changed from {escape(origin)}</h3>')
        st.button("Undo all", on_click=form.reset, args=tuple(texts), type="tertiary")
    for name, text in texts.items():
        before = form.to_text(known[name], get(base, name))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.html(f'<code>{escape(name)}</code> <s class="quiet">{escape(before or "none")}</s> <b>{escape(text or "none")}</b>')  # fmt: skip
            st.button(
                "Undo", key=f"undo {name}", on_click=form.reset, args=(name,), type="tertiary"
            )


def copies(config: RunConfig, origin: str) -> None:
    preset = origin if origin in presets() else form.nearest_preset(config)[0]
    with st.container(horizontal=True):
        with st.popover("Copy as command"):
            st.code(form.as_command(config, preset), language="bash", wrap_lines=True)
        with st.popover("Copy as YAML"):
            st.code(to_yaml(config), language="yaml")


def start() -> tuple[str, RunConfig | None]:
    """Where the form starts, in words, and its settings: `?from=RUN` or `?preset=NAME`."""
    if run := st.query_params.get("from"):
        try:
            with store.reading() as session:
                row = store.find(session, run)
            return row.id, parse_config(row.config)
        except (store.UnknownRun, ConfigError) as error:
            parts.empty("Cannot start from that run", f"{escape(str(error))}<br>{parts.link('launch', 'Start from a preset')}")  # fmt: skip
            return run, None
    chosen = st.query_params.get("preset")
    if chosen not in presets():
        chosen = DEFAULT_PRESET
    return chosen, load_config(preset=chosen)


page()
