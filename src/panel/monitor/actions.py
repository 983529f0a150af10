"""Actions on a run from its page: stop, delete, resume, move in the queue."""

import streamlit as st

from src import store
from src.panel.ui import html, navigation
from src.runs import attempts, launcher
from src.store.tables import RESUMABLE, Run, Status


def stage(run: Run) -> str:
    """held, queued, active or ended: what decides which buttons there are."""
    status = Status(run.status)
    if status == Status.QUEUED:
        return "held" if run.held_at else "queued"
    return "ended" if status.ended else "active"


def draw(run: Run) -> None:
    """Draw the buttons that fit the run's stage; stop and delete ask first."""
    status = Status(run.status)
    if status == Status.QUEUED:
        if run.held_at is None:
            st.button("Start next", on_click=_steer, args=("first", run.id))
        what = "release" if run.held_at else "hold"
        st.button(what.capitalize(), on_click=_steer, args=(what, run.id))
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
            html.draw_problem(str(error))
    with st.popover("Delete", key="delete"):
        st.write("Its curves, checkpoints, adapter, predictions and log are deleted with it.")
        if st.button("Delete this run", type="primary"):
            launcher.delete(run)
            navigation.go("overview", said=f"Deleted {html.label_text(run.name, 80)}.")


def _steer(what: str, run_id: str) -> None:
    """Move a queued run to the front, hold it or release it; a toast says if it just started."""
    try:
        if what == "first":
            launcher.move_to_front([run_id])
            st.toast("It is the next to start.")
        else:
            launcher.hold([run_id], held=what == "hold")
    except store.InvalidState as error:
        st.toast(str(error))
    launcher.fill_slots()
