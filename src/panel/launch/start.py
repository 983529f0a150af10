"""Where the Launch form starts: a preset, an earlier run, or a run to fork."""

from collections.abc import Mapping
from html import escape

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
from src.format import whole_number
from src.panel.launch import cards, upload
from src.panel.ui import html, navigation
from src.runs import attempts
from src.store.tables import Run

STILL = "Still that of the run it starts from. A name of its own tells them apart."


def read() -> tuple[str, RunConfig | None]:
    """Name and settings of what the form starts from: `?from=RUN` or `?preset=NAME`.

    The settings are None, after an explanation is drawn, if there is no such run.
    """
    if run := st.query_params.get("from"):
        try:
            with store.reading() as session:
                row = store.find(session, run)
            config = stored_config(row.config)
            if "fork" in st.query_params:
                config = config.model_copy(update={"name": attempts.fork_name(row)})
            return row.id, config
        except (store.UnknownRun, ConfigError) as error:
            back = navigation.link("launch", "Start from a preset", style="button")
            html.draw_empty("Cannot start from that run", f"{escape(str(error))}<br><br>{back}")
            return run, None
    chosen = st.query_params.get("preset")
    if chosen not in presets():
        chosen = DEFAULT_PRESET
    return chosen, load_config(preset=chosen)


def called(origin: str) -> str:
    """The name of what the form starts from, for people: of a run its name and seed."""
    if "from" not in st.query_params:
        return origin
    with store.reading() as session:
        found = store.runs_of(session, [origin])
        return store.label_of(found[0]) if found else origin


def hints(texts: Mapping[str, str]) -> dict[str, str]:
    """{setting: hint} that follows from the start: an edited copy of a run is still called like it,
    since people name their runs."""
    is_copy = "from" in st.query_params and fork_of() is None
    is_edited = "name" not in texts and bool(texts.keys() - {"training.seed"})
    return {"name": STILL} if is_copy and is_edited else {}


def draw(origin: str, base: RunConfig) -> None:
    """Draw the choice of a start, which keeps edits, and of own data; for a fork, what it forks."""
    if forked := fork_of():
        back = navigation.link("launch", "start a new run instead", {"from": forked[0].id})
        text = f"A fork: the new run goes on from step {forked[1]:,} of {escape(called(origin))}"
        st.html(f'<p class="banner">{text}, with its optimizer; {back}.</p>')
        return
    cards.draw(origin)
    # In the page, not over it: the form below and the launch beside tell what follows from a file.
    with st.expander("Use my own data", key="own data"):
        upload.draw(base)


def fork_of() -> tuple[Run, int] | None:
    """The run and the step of `?from=RUN&fork=STEP`, None for a new run."""
    step = whole_number(st.query_params.get("fork", ""))
    if step is None or "from" not in st.query_params:
        return None
    with store.reading() as session:
        return store.find(session, st.query_params["from"]), step


def fork_problems(config: RunConfig) -> dict[str, str]:
    """{setting: why a fork cannot change it}; empty for a new run."""
    forked = fork_of()
    return attempts.fork_problems(forked[0], config, forked[1]) if forked else {}
