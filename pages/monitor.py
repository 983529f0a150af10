"""One run as it goes: status, curves, log and settings; stop it, delete it, or launch it again."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

import streamlit as st

from src import paths
from src.panel import charts, form, parts
from src.runs import launcher, store
from src.runs.table import Checkpoint, Run, Status

REFRESH_SECONDS = 2.0
LOG_BYTES = 16_384


def page() -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        run = parts.pick_run()
        if run is not None:
            actions(run)
    if run is not None:
        living = not Status(run.status).ended
        st.fragment(view, run_every=REFRESH_SECONDS if living else None)(run.id)


def actions(run: Run) -> None:
    status = Status(run.status)
    st.html(parts.link("launch", "Launch again with edits", {"from": run.id}), width="content")
    st.html(parts.link("errors", "Misspelled words", {"run": run.id}), width="content")
    if not status.ended:
        with st.popover("Stop", disabled=run.stop_requested_at is not None):
            queued = status is Status.QUEUED
            st.write("It leaves the queue." if queued else "It stops at its next step and keeps a checkpoint.")  # fmt: skip
            if st.button("Stop this run", type="primary"):
                launcher.stop(run.id)
                st.rerun()
        return
    with st.popover("Delete"):
        st.write("Its curves, checkpoints, adapter, predictions and log are deleted too.")
        if st.button("Delete this run", type="primary"):
            launcher.delete(run)
            parts.go("overview")


def view(run_id: str) -> None:
    with store.reading() as session:
        run = store.find(session, run_id)
        latest = store.latest_metrics(session, [run.id])[run.id]
        frames = charts.read_curves(session, run)
        checkpoints = store.checkpoints(session, run.id)
    head(run, latest, charts.pace(frames.get("train/loss")))
    if frames:
        shown = charts.charts(frames)
        charts.draw(
            {c.title: charts.figure(c, frames, revision=run.id) for c in shown}, key="curves"
        )
    elif not Status(run.status).ended:
        parts.empty("No curve yet", f"The first points come after the model has loaded: {escape(run.phase or 'it waits for a free slot')}.")  # fmt: skip
    below(run, checkpoints)
    if Status(run.status).ended and st.session_state.get("watched") == run.id:
        # It ended while we looked: the page's buttons change and the refresh stops.
        del st.session_state["watched"]
        st.rerun()
    if not Status(run.status).ended:
        st.session_state["watched"] = run.id


def head(run: Run, latest: dict[str, float | None], pace: float | None) -> None:
    status = Status(run.status)
    said = run.reason or (run.phase if status.active else None) or parts.MEANING[status]
    st.html(
        f'<div class="run-head">{parts.badge(run.status)}'
        f'<span class="reason">{escape(said)}</span>'
        f'<span class="step">step {run.step or 0:,} of {run.max_steps:,}</span>{parts.bar(run)}</div>'
    )
    memory = latest.get("gpu/memory_gib", latest.get("cpu/memory_gib"))
    left = parts.remaining_seconds(run, pace)
    st.html(
        parts.facts(
            [
                ("exact match", parts.percent(latest.get("val/exact_match"))),
                ("validation loss", parts.number(latest.get("val/loss"))),
                ("training loss", parts.number(latest.get("train/loss"))),
                ("speed", parts.number(latest.get("tokens_per_second"), ",.0f") + " tokens/s"),
                ("memory", parts.number(memory, ".2f") + " GiB"),
                ("took" if status.ended else "running for", parts.duration(parts.run_seconds(run))),
                ("launched", parts.local_time(run.created_at, "%d %b, %H:%M"))
                if status.ended
                else ("time left", "about " + parts.duration(left) if left else "–"),
            ]
        )
    )


def below(run: Run, checkpoints: Sequence[Checkpoint]) -> None:
    shown = st.segmented_control(
        "Below the curves", ["Log", "Settings", "Checkpoints"], default="Log", required=True,
        key="view", bind="query-params", label_visibility="collapsed",
    )  # fmt: skip
    if shown == "Settings":
        preset, changed = form.nearest_preset(run.config)
        st.html(form.changes_table(preset, changed))
        st.html(parts.table({"The trainer used": "fit", "": ""}, ((escape(str(k)), escape(str(v))) for k, v in run.used.items())))  # fmt: skip
    elif shown == "Checkpoints":
        st.html(checkpoint_table(checkpoints))
    else:
        lines = log_tail(paths.log_file(run.id)) or "nothing yet"
        st.html(f'<div class="log" tabindex="0" role="log"><pre>{escape(lines)}</pre></div>')


def checkpoint_table(checkpoints: Sequence[Checkpoint]) -> str:
    rows = (
        [f"{c.step:,}", "best" if c.is_best else "", f"{c.size_bytes / 2**20:,.1f} MiB", f"<code>{escape(c.path)}</code>"]
        for c in checkpoints
    )  # fmt: skip
    return parts.table({"Step": "num", "": "fit", "Size": "num", "Folder": ""}, rows)


def log_tail(path: Path) -> str:
    """The last lines of a log; reads at most LOG_BYTES of it."""
    try:
        with open(path, "rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - LOG_BYTES)
            file.seek(start)
            text = file.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    # A progress bar overwrites its line with carriage returns: keep what it said last.
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(lines[1 if start else 0 :])


page()
