"""Runs that are active, the latest ones, and a first step for a newcomer."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from src import store
from src.config import trained_on
from src.format import counted, duration, number, percent
from src.panel.ui import html, meters, navigation, run_status, tab
from src.store.tables import Run, Status

REFRESH_SECONDS = 3.0
MAX_RUNS = 100
FIRST_STEPS = (
    "The settings are filled in. On two CPU cores a run takes about two minutes; you can watch it "
    "learn, and then read the words that it still gets wrong."
)
CHOOSE = "Choose runs below to compare them."
HEAD = {
    "Compare": "fit pick",
    "Run": "",
    "Status": "fit",
    "Progress": "fit",
    "Exact match": "num",
    "Validation loss": "num",
    "Duration": "num",
    "Launched": "fit",
    " ": "fit",
}


def page() -> None:
    with store.reading() as session:
        runs = store.list_runs(session, limit=MAX_RUNS, archived=False)
        latest = store.latest_metrics(session, [r.id for r in runs])
    if not runs:
        button = navigation.link("launch", "Launch the first run", style="button")
        html.draw_empty("Teach a language model to spell", f"{FIRST_STEPS}<br><br>{button}")
        return
    working = any(Status(run.status).active for run in runs)
    tab.show("Overview", *[tally(runs)] * working, status=Status.RUNNING if working else None)
    # Selected runs stand in the address: a refresh keeps them, and so does a link.
    picked = list(dict.fromkeys(st.query_params.get_all("pick")))
    buttons = f"<small>{CHOOSE}</small>"
    if picked:
        text = f"Compare {counted(len(picked), 'run')}"
        buttons = navigation.link("compare", text, {"run": picked}, style="button")
    buttons += navigation.link("launch", "Launch a run", style="button")
    head = f"<h1>Runs</h1><span>{escape(tally(runs))}</span><nav>{buttons}</nav>"
    st.html(f'<div class="top">{head}</div>{meters.line()}')
    labels = store.labels_of(runs)
    rows = (row(run, labels[run.id], latest[run.id], picked) for run in runs)
    st.html(html.table(HEAD, rows))
    if len(runs) == MAX_RUNS:
        more = "<code>spelltune runs</code>"
        st.html(f'<p class="quiet">The last {MAX_RUNS} runs; {more} lists all.</p>')


def tally(runs: Sequence[Run]) -> str:
    """`1 running, 2 queued`, or `nothing is running`."""
    counts = [(s, sum(r.status == s for r in runs)) for s in Status if not s.ended]
    return ", ".join(f"{n} {s.lower()}" for s, n in counts if n) or "nothing is running"


def picker(run: Run, label: str, picked: list[str]) -> str:
    """HTML: a box that chooses the run for a comparison."""
    chosen = run.id in picked
    others = [run_id for run_id in picked if run_id != run.id]
    query = {"pick": others if chosen else [*others, run.id]}
    name = f"Choose {label} for comparison"
    return navigation.pick_box("overview", query, name=name, chosen=chosen)


def row(run: Run, label: str, latest: dict[str, float | None], picked: list[str]) -> list[str]:
    config = run.config
    settings = (
        f"{trained_on(config['data'])} · {config['model']['name']} · rank {config['lora']['r']} · "
        f"lr {config['training']['learning_rate']:g}"
    )
    told = (Status.FAILED, Status.INTERRUPTED, Status.QUEUED)
    why = run.reason if run.status in told else None
    return [
        picker(run, label, picked),
        navigation.link("monitor", run.label, {"run": run.id})
        + "".join(f"<small>{escape(text)}</small>" for text in (settings, why) if text),
        run_status.badge(run),
        f"{run_status.bar(run)}<small>{run_status.steps(run)}</small>",
        percent(latest.get("val/exact_match")),
        number(latest.get("val/loss")),
        duration(run_status.run_seconds(run)),
        html.local_time(run.created_at),
        navigation.link("errors", "Words", {"run": run.id}),
    ]


st.fragment(page, run_every=REFRESH_SECONDS)()
