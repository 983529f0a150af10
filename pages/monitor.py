"""One run as it goes: status, curves, log and settings; stop it, delete it, or launch it again."""

import os
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

import streamlit as st

from src import paths, store
from src.format import duration, number, percent
from src.panel.launch import form
from src.panel.monitor import checkpoints
from src.panel.ui import charts, html, navigation, run_status
from src.runs import attempts, launcher
from src.runs.timeouts import TIMEOUTS
from src.store.tables import (
    RESUMABLE,
    Checkpoint,
    Event,
    EventKind,
    Run,
    Status,
    Sweep,
    SweepStatus,
)

REFRESH_SECONDS = 2.0
LOG_BYTES = 16_384


def page() -> None:
    st.html('<h1 class="unseen">Monitor</h1>')
    with st.container(horizontal=True, vertical_alignment="center"):
        run = navigation.pick_run()
        if run is None:
            return
        st.html(navigation.link("errors", "Misspelled words", {"run": run.id}), width="content")
        st.html(
            navigation.link("launch", "Launch again with edits", {"from": run.id}), width="content"
        )
        if run.sweep_id:
            st.html(
                navigation.link("sweeps", "Its sweep", {"sweep": run.sweep_id}), width="content"
            )
        actions(run)
    living = not Status(run.status).ended
    st.fragment(view, run_every=REFRESH_SECONDS if living else None)(run.id, stage(run))


def stage(run: Run) -> str:
    """What decides which buttons there are."""
    status = Status(run.status)
    if status == Status.QUEUED:
        return "held" if run.held_at else "queued"
    return "ended" if status.ended else "active"


def actions(run: Run) -> None:
    """Stop or delete, each after asking; resume what did not come to its end; steer the queue."""
    status = Status(run.status)
    if status == Status.QUEUED:
        if run.held_at is None:
            st.button("Start next", on_click=steer, args=("first", run.id))
        what = "release" if run.held_at else "hold"
        st.button(what.capitalize(), on_click=steer, args=(what, run.id))
    if not status.ended:
        with st.popover("Stop", key="stop"):
            st.write("It stops at its next step and keeps a checkpoint; a queued run never starts.")
            if st.button("Stop this run", type="primary"):
                launcher.stop(run.id)
                st.rerun()
        return
    if status in RESUMABLE and st.button("Resume"):
        try:
            attempts.resume(run)
            st.rerun()
        except attempts.CannotResume as error:
            st.html(f'<p class="problem" role="alert">{escape(str(error))}</p>')
    with st.popover("Delete", key="delete"):
        st.write("Its curves, checkpoints, adapter, predictions and log are deleted with it.")
        if st.button("Delete this run", type="primary"):
            launcher.delete(run)
            navigation.go("overview")


def steer(what: str, run_id: str) -> None:
    """Move a queued run to the front, hold it or release it; one that just started says so."""
    try:
        with store.writing() as session:
            run = store.find(session, run_id)
            if what == "first":
                store.move_to_front(session, [run])
                st.toast("It is the next to start.")
            else:
                store.hold(session, [run], held=what == "hold")
    except store.InvalidState as error:
        st.toast(str(error))
    launcher.fill_slots()


def view(run_id: str, drawn: str) -> None:
    with store.reading() as session:
        try:
            run = store.find(session, run_id)
        except store.UnknownRun:
            navigation.rerun_page()  # somebody deleted it
        latest = store.latest_metrics(session, [run.id])[run.id]
        curves = charts.read_curves(session, run)
        kept = store.list_checkpoints(session, run.id)
        events = store.list_events(session, run.id)
        forks = store.forks(session, run.id)
        sweep = session.get(Sweep, run.sweep_id) if run.sweep_id else None
    if stage(run) != drawn:
        navigation.rerun_page()  # started or ended meanwhile: other buttons, or no refreshes
    living = drawn != "ended"
    paused = sweep is not None and sweep.status == SweepStatus.PAUSED
    now = (run.phase if Status(run.status).active else None) or run_status.meaning(
        run, paused=paused
    )
    head(run, latest, charts.pace(curves.frames.get("train/loss")), run.reason or now)
    stand_out(run, events)
    if curves.frames:
        more = {"revision": run.id, "branches": curves.branches, "marks": charts.marks(run)}
        shown = charts.charts(curves.frames)
        drawn = {chart.title: charts.figure(chart, curves.frames, **more) for chart in shown}
        charts.draw(drawn, live=living, key="curves")
    elif living:
        first = "The first points come once the model is there."
        html.draw_empty("No curve yet", f"{first} Now: {escape(now)}.")
    below(run, kept, curves, events, forks)


def stand_out(run: Run, events: Sequence[Event]) -> None:
    """What a reader must not miss: no sign of life, and what failed without ending the run."""
    silent = time.time() - (run.heartbeat_at or time.time())
    if Status(run.status).active and silent > TIMEOUTS.stale:
        text = f"No sign of life for {duration(silent)}: the machine is stopped or overloaded."
        st.html(f'<p class="banner" role="status">{text} The run is not lost.</p>')
    warnings = [event for event in events if event.kind == EventKind.WARNING]
    if warnings:
        many = f" ({len(warnings)} warnings, see Lineage)" if len(warnings) > 1 else ""
        st.html(f'<p class="banner" role="status">{escape(warnings[-1].text)}{many}</p>')


def head(run: Run, latest: dict[str, float | None], pace: float | None, said: str) -> None:
    """Status and why, progress, and the numbers that one looks for first."""
    status = Status(run.status)
    if run.best_step is not None:
        said += f" · best at step {run.best_step:,}"
    processor = "GPU" if "gpu/memory_gib" in latest else "CPU"
    memory = latest.get(f"{processor.lower()}/memory_gib")
    left = run_status.remaining_seconds(run, pace)
    tested = latest.get("test/exact_match")
    # At its end a run restores its best step and scores that one: not the step of the last loss.
    restored = status in (Status.COMPLETED, Status.STOPPED) and run.best_step is not None
    apart = restored and run.best_step != run.step
    best, last = (", best step", ", last step") if apart else ("", "")
    pairs = [
        *([("test exact match", percent(tested))] if tested is not None else []),
        (f"exact match{best}", percent(latest.get("val/exact_match"))),
        (f"validation loss{best}", number(latest.get("val/loss"))),
        (f"training loss{last}", number(latest.get("train/loss"))),
        ("speed", number(latest.get("tokens_per_second"), ",.0f", "tokens/s")),
        (f"{processor} memory", number(memory, ".2f", "GiB")),
        ("took" if status.ended else "so far", duration(run_status.run_seconds(run))),
    ]
    if status.ended:
        pairs.append(("launched", html.local_time(run.created_at, "%d %b, %H:%M")))
    else:
        pairs.append(("time left", f"≈ {duration(left)}" if left else "–"))
    # One element, not two: each costs the browser a few milliseconds at every refresh.
    st.html(
        f'<div class="run-head">{run_status.badge(run)}<span class="reason">{escape(said)}</span>'
        f'<span class="step">{run_status.steps(run)}</span>{run_status.bar(run)}</div>'
        f"{html.facts(pairs)}"
    )


def below(
    run: Run,
    kept: Sequence[Checkpoint],
    curves: charts.Curves,
    events: Sequence[Event],
    forks: Sequence[Run],
) -> None:
    shown = st.segmented_control(
        "Below the curves", ["Log", "Checkpoints", "Lineage", "Settings"], default="Log",
        required=True, key="view", bind="query-params", label_visibility="collapsed",
    )  # fmt: skip
    if shown == "Log":
        lines = log_tail(paths.log_file(run.id)) or "nothing yet"
        st.html(f'<div class="log" tabindex="0" role="log"><pre>{escape(lines)}</pre></div>')
    elif shown == "Settings":
        st.html(form.changes_table(run.config))
        used = ([escape(str(k)), escape(str(v))] for k, v in run.used.items())
        st.html(html.table({"What the trainer used": "fit", "": ""}, used))
    elif shown == "Checkpoints":
        checkpoints.draw(run, kept, curves)
    else:
        st.html(lineage_of(run, events, forks))


def lineage_of(run: Run, events: Sequence[Event], forks: Sequence[Run]) -> str:
    """HTML: what happened to a run since its launch, and the runs that went on from it."""
    lines = [(run.created_at, "launched", "launched")]
    lines += [(e.at, e.kind, f"attempt {e.attempt}: {e.text}") for e in events]
    if run.ended_at:
        reason = f": {run.reason}" if run.reason else ""
        lines.append((run.ended_at, "ended", f"{run.status.lower()}{reason}"))
    items = [
        f'<li class="{kind}"><time>{html.local_time(at, "%d %b, %H:%M:%S")}</time>'
        f"<span>{escape(text)}</span></li>"
        for at, kind, text in sorted(lines)
    ]
    if run.parent_id:
        link = navigation.link("monitor", run.parent_id, {"run": run.parent_id})
        items.insert(0, f'<li class="forked"><span>parent {link}</span></li>')
    for fork in forks:
        link = navigation.link("monitor", fork.id, {"run": fork.id})
        items.append(
            f'<li class="forked"><span>fork at step {fork.parent_step:,} {link}</span></li>'
        )
    return f'<ol class="lineage">{"".join(items)}</ol>'


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
    return "\n".join(lines[1 if start else 0 :]).rstrip()


page()
