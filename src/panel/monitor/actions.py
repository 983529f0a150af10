"""Actions on a run from its page: stop, delete, resume, move in the queue.

All are callbacks. The page refreshes itself, and Streamlit resets all buttons at the end of each
script, in a thread of its own: a press that the script has not come to by then would be lost.
"""

from contextlib import suppress

import streamlit as st

from src import store
from src.panel.ui import failure, guarded, html, navigation
from src.runs import attempts, deletion, launcher
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
            guarded.button("Start next", on_click=_steer, args=("first", run.id))
        what = "release" if run.held_at else "hold"
        guarded.button(what.capitalize(), on_click=_steer, args=(what, run.id))
    if not status.ended:
        # Another popover once it is asked for, which is closed: this one would lie over the answer.
        asked = run.stop_requested_at is not None
        with st.popover("Stop", key="stop again" if asked else "stop"):
            st.write("It stops at its next step and keeps a checkpoint; a queued run never starts.")
            guarded.button("Stop this run", type="primary", on_click=launcher.stop, args=(run.id,))
        return
    if status in RESUMABLE and status not in failure.BADLY:  # which have it in their banner
        guarded.button("Resume", on_click=attempts.resume, args=(run,))
    with st.popover("Delete", key="delete"):
        st.write(
            f"**{html.label_text(store.label_of(run), 80)}**  \n{deletion.plan([run]).sentence}"
        )
        guarded.button(
            "Delete this run", type="primary", key="delete-now", on_click=_delete, args=(run,)
        )


def _delete(run: Run) -> None:
    with suppress(store.UnknownRun):  # another press or tab did it
        deletion.delete(run)
    called = html.label_text(store.label_of(run), 80)
    navigation.go_next("overview", said=f"Deleted {called}.")


def _steer(what: str, run_id: str) -> None:
    """Move a queued run to the front, hold it or release it; a toast says if it just started."""
    try:
        if what == "first":
            launcher.move_to_front([run_id])
            guarded.tell("It is the next to start.")
        else:
            launcher.hold([run_id], held=what == "hold")
    finally:
        launcher.fill_slots()
