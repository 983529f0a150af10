"""This machine: what it is, what it has cost since it was started, and its settings."""

import time

import streamlit as st

from src.config import ConfigError, MachineSettings, load_machine
from src.format import duration, money
from src.panel.machine import idle, settings_form, told
from src.panel.ui import html
from src.runs import cost, machine

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
    try:
        kept = load_machine()
    except ConfigError:  # told below, where it is mended
        kept = MachineSettings()
    st.html(html.facts(money_facts(kept)))
    if kept.price_per_hour is None:
        st.html(f'<p class="quiet">{NO_PRICE}</p>')


def money_facts(kept: MachineSettings) -> list[tuple[str, str]]:
    facts = [("up for", duration(time.time() - machine.started_at()))]
    if (spent := cost.spent(kept)) is not None:
        facts.append(("spent since its start", money(spent, kept.currency)))
    if (left := cost.left(kept)) is not None:
        facts.append(("left of the budget", money(left, kept.currency)))
        facts.append(("enough for", duration(cost.seconds_left(kept))))
    return facts


page()
