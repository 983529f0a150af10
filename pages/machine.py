"""This machine: its meters, what it does and costs, its settings, and who is told."""

import os
import time
from html import escape

import streamlit as st

from src import store
from src.config import ConfigError, load_machine, usable_machine
from src.format import duration
from src.panel.machine import idle, settings_form, told
from src.panel.ui import html, meters, navigation
from src.runs import cost, machine, time_left
from src.runs.meters import gpu_facts, machine_facts
from src.store.tables import Status

REFRESH_SECONDS = 3.0
SLOTS = "A slot trains one run at a time, or a pack of runs: each GPU is one, or the processor."
NO_PRICE = "Say what an hour of this machine costs, and every run says what it has cost."


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
    """Draw what refreshes: the meters, what trains, and the money."""
    found = meters.reading()
    for (name, facts), gpu in zip(gpu_facts(found).items(), found.gpus.values(), strict=True):
        st.html(f"<h2>{name} · {escape(gpu.name)}</h2>{html.facts(facts)}")
    facts = [("cores", f"{len(os.sched_getaffinity(0)):,}"), *machine_facts(found)]
    facts.append(("up for", duration(time.time() - machine.started_at())))
    st.html(f"<h2>This machine · {escape(machine.host())}</h2>{html.facts(facts)}")
    draw_work()
    kept = usable_machine()
    told = f'<p class="quiet">{NO_PRICE}</p>' if kept.price_per_hour is None else ""
    facts = cost.facts()
    if (seconds := cost.seconds_left(kept)) is not None:
        facts.append(("enough for", duration(seconds)))
    st.html(f"<h2>Money since its start</h2>{told or html.facts(facts)}")


def draw_work() -> None:
    """Draw what the machine does, and the way to it."""
    with store.reading() as session:
        here = machine.active_here(session)
        waiting = store.count_runs(session, store.parse_filter("")).get(Status.QUEUED, 0)
        left = time_left.of_queue(session)
    slots = len({run.slot for run in here})
    facts = [
        ("runs that train", f"{len(here):,}"),
        ("slots in use", f"{slots:,} of {machine.slot_count():,}"),
        ("runs that wait", f"{waiting:,}"),
    ]
    if left is not None:
        facts.append(("all runs end in", f"≈ {duration(left)}"))
    way = navigation.link("overview", "See them") if here or waiting else ""
    way = way or navigation.link("launch", "Launch a run")
    st.html(f'<h2>What it does</h2>{html.facts(facts)}<p class="quiet">{SLOTS} {way}.</p>')


page()
