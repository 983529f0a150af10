"""What is running, what ran last, and what to do first."""

import streamlit as st

from src.panel import parts
from src.runs import store
from src.runs.table import Run

REFRESH_SECONDS = 2.0
MOST_RUNS = 100


def view() -> None:
    with store.reading() as session:
        runs = store.runs(session, limit=MOST_RUNS)
        latest = store.latest_metrics(session, [r.id for r in runs])
    if not runs:
        parts.empty(
            "Teach a language model to spell",
            f"{parts.link('launch', 'Launch the first run')}: the settings are filled in, and on two CPU cores it takes about two minutes.",
        )
        return
    st.html(parts.table(
        {"Run": "", "Status": "fit", "Progress": "fit", "Exact match": "num", "Validation loss": "num", "Took": "num", "Launched": "fit", "": "fit"},
        (row(run, latest[run.id]) for run in runs),
    ))  # fmt: skip


def row(run: Run, latest: dict[str, float | None]) -> list[str]:
    return [
        parts.link("monitor", run.name, {"run": run.id}),
        parts.badge(run.status),
        parts.bar(run),
        parts.percent(latest.get("val/exact_match")),
        parts.number(latest.get("val/loss")),
        parts.duration(parts.run_seconds(run)),
        parts.local_time(run.created_at),
        parts.link("errors", "errors", {"run": run.id}),
    ]


st.fragment(view, run_every=REFRESH_SECONDS)()
