"""The form that launches a run: a preset or an earlier run, and what to change in it."""

from concurrent.futures import wait
from html import escape
from typing import Any

import streamlit as st

from src import store
from src.config import (
    DEFAULT_PRESET,
    ConfigError,
    RunConfig,
    load_config,
    presets,
    stored_config,
)
from src.panel.launch import data_check, form, measure_button
from src.panel.ui import html, navigation
from src.runs import attempts, estimate, launcher
from src.store.tables import Run

LAUNCH = navigation.OneShotButton("launch")


def page() -> None:
    st.html('<h1 class="unseen">Launch</h1>')
    if run_id := LAUNCH.pressed_twice():
        navigation.go("monitor", {"run": run_id})
    origin, base = start()
    if base is None:
        return
    texts = form.edited(base)
    config, problems = form.read(base, texts)
    seen = None
    outside: dict[str, str] = {}  # what a look at files or the hub found
    if config:
        problems = fork_problems(config) | data_check.out_of_reach(config, base)
    if config and not problems:
        seen, outside = data_check.check(config)
        problems = outside or estimate.memory_problems(config)
    left, right = st.columns([2.1, 1], gap="large")
    with right, st.container(key="summary"):
        launch_button(config, problems)
        to_mend(problems, checked=bool(outside))
        if config:
            measure_button.draw(config, held=bool(outside))
        if config:
            sizes(config, seen)
        form.draw_changes(origin, base, texts)
        if config:
            form.draw_copies(config, origin)
    with left:
        origins(origin)
        form.draw_first(base, texts, problems)
        if config and not problems:
            st.html("<h2>Data</h2>")
            if seen:
                data_check.show(seen)
            else:
                data_check.wait_beside(config)
        st.html("<h2>All other settings</h2>")
        form.draw_rest(base, texts, problems)


def origins(origin: str) -> None:
    """Where the form starts; edits stay when it changes."""
    if forked := fork_of():
        back = navigation.link("launch", "start a new run instead", {"from": forked[0].id})
        text = f"A fork: the new run goes on from step {forked[1]:,} of {escape(forked[0].id)}"
        st.html(f'<p class="banner">{text}, with its optimizer; {back}.</p>')
        return
    names = presets() if origin in presets() else [origin, *presets()]
    if st.session_state.get("origin") != origin:
        st.session_state["origin"] = origin

    def write() -> None:
        st.query_params.pop("from", None)
        st.query_params["preset"] = st.session_state["origin"]

    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Start from", names, default=origin, key="origin", on_change=write, required=True
        )
        with st.popover("Use my own data"):
            data_check.upload()


def launch_button(config: RunConfig | None, problems: dict[str, str]) -> None:
    """The button; pressed, it launches once the data has been checked and goes to the monitor."""
    held = config is None or bool(problems)
    pressed = LAUNCH.draw("Fork" if fork_of() else "Launch", disabled=held)
    if not pressed or not config:
        return
    with st.spinner("Reading the data first"):
        wait([data_check.begun(config)])
    if data_check.check(config)[1]:
        st.rerun()  # the problems now stand at their fields
    try:
        run_id = LAUNCH.submit(lambda: begin(config))
    except attempts.CannotResume as error:
        st.html(f'<p class="problem" role="alert">{escape(str(error))}</p>')
        return
    navigation.go("monitor", {"run": run_id})


def begin(config: RunConfig) -> str:
    """Launch a run, or fork one where the address says so; its id."""
    if (forked := fork_of()) is None:
        return launcher.launch(config)
    row, step = forked
    return attempts.fork(row, config, step=step)


def fork_of() -> tuple[Run, int] | None:
    """The run and the step of `?from=RUN&fork=STEP`."""
    step = st.query_params.get("fork", "")
    if not step.isdigit() or "from" not in st.query_params:
        return None
    with store.reading() as session:
        return store.find(session, st.query_params["from"]), int(step)


def fork_problems(config: RunConfig) -> dict[str, str]:
    forked = fork_of()
    return attempts.fork_problems(forked[0], config, forked[1]) if forked else {}


def to_mend(problems: dict[str, str], *, checked: bool) -> None:
    """What stands against the launch; what the check found may have changed outside the page."""
    if problems:
        items = "".join(
            f"<li><code>{escape(name)}</code> {escape(text)}</li>"
            for name, text in problems.items()
        )
        st.html(f'<div class="problem" role="alert">Before the launch:<ul>{items}</ul></div>')
        if checked:
            st.button("Check again", on_click=data_check.check_again)


def sizes(config: RunConfig, seen: dict[str, Any] | None) -> None:
    """What the settings come to."""
    rows = config.rows_per_step
    pairs = [("rows a step", f"{rows:,}")]
    if seen:
        epoch = config.steps_per_epoch(seen["rows"]["train"])
        pairs += [
            ("tokens a step", f"≈ {rows * seen['tokens']['median']:,.0f}"),
            ("steps an epoch", f"{epoch:,}"),
            ("epochs", f"{config.training.max_steps / epoch:.3g}"),
        ]
    st.html(html.facts(pairs))


def start() -> tuple[str, RunConfig | None]:
    """Where the form starts, in words, and its settings: `?from=RUN` or `?preset=NAME`."""
    if run := st.query_params.get("from"):
        try:
            with store.reading() as session:
                row = store.find(session, run)
            config = stored_config(row.config)
            if "fork" in st.query_params:
                config = config.model_copy(update={"name": f"{row.name} fork"[-80:]})
            return row.id, config
        except (store.UnknownRun, ConfigError) as error:
            back = navigation.link("launch", "Start from a preset", style="button")
            html.draw_empty("Cannot start from that run", f"{escape(str(error))}<br><br>{back}")
            return run, None
    chosen = st.query_params.get("preset")
    if chosen not in presets():
        chosen = DEFAULT_PRESET
    return chosen, load_config(preset=chosen)


page()
