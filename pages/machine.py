"""This machine: its meters, what it has cost since it was started, and its settings."""

import time
from html import escape

import streamlit as st

from src import store
from src.config import ConfigError, load_machine, usable_machine
from src.format import duration
from src.panel.machine import idle, settings_form, told
from src.panel.ui import html, meters
from src.runs import cost, machine, time_left
from src.runs.meters import gpu_facts, machine_facts

REFRESH_SECONDS = 3.0
NO_PRICE = "Say below what an hour of it costs, and every run says what it has cost."


def page() -> None:
    st.html("<h1>Machine</h1>")
    st.fragment(draw_live, run_every=REFRESH_SECONDS)()
    try:
        settings_form.draw(load_machine())
    except ConfigError as error:
        html.draw_problem(str(error))
    st.fragment(idle.draw, run_every=REFRESH_SECONDS)()
    told.draw()


def draw_live() -> None:
    """Draw what refreshes: the meters, and the money."""
    found = meters.reading()
    for (name, facts), gpu in zip(gpu_facts(found).items(), found.gpus.values(), strict=True):
        st.html(f"<h2>{name} · {escape(gpu.name)}</h2>{html.facts(facts)}")
    st.html(f"<h2>{escape(machine.host())}</h2>{html.facts(machine_facts(found))}")
    kept = usable_machine()
    facts = [("up for", duration(time.time() - machine.started_at())), *cost.facts()]
    if (seconds := cost.seconds_left(kept)) is not None:
        facts.append(("enough for", duration(seconds)))
    with store.reading() as session:
        left = time_left.of_queue(session)
    if left is not None:
        facts.append(("all runs end in", f"≈ {duration(left)}"))
    st.html(f"<h2>Since its start</h2>{html.facts(facts)}")
    if kept.price_per_hour is None:
        st.html(f'<p class="quiet">{NO_PRICE}</p>')


page()
