"""Actions on a run from its page: stop, delete, resume, move in the queue.

All are callbacks. The page refreshes itself, and Streamlit resets all buttons at the end of each
script, in a thread of its own: a press that the script has not come to by then would be lost.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from src import store
from src.errors import explain_os_error
from src.panel.ui import failure, guarded, html, navigation
from src.runs import attempts, deletion, launcher
from src.store.tables import RESUMABLE, Run, Status

PROBLEM = "problem of an action"  # in the state of the session


def stage(run: Run) -> str:
    """held, queued, active or ended: what decides which buttons there are."""
    status = Status(run.status)
    if status == Status.QUEUED:
        return "held" if run.held_at else "queued"
    return "ended" if status.ended else "active"


def draw(run: Run) -> None:
    """Draw the buttons that fit the run's stage; stop and delete ask first."""
    draw_told()
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
            guarded.button("Stop this run", type="primary", on_click=_stop, args=(run.id,))
        return
    if status in RESUMABLE and status not in failure.BADLY:  # which have it in their banner
        guarded.button("Resume", on_click=resume, args=(run,))
    with st.popover("Delete", key="delete"):
        st.write(
            f"**{html.label_text(store.label_of(run), 80)}**  \n{deletion.plan([run]).sentence}"
        )
        guarded.button(
            "Delete this run", type="primary", key="delete-now", on_click=_delete, args=(run,)
        )


def _stop(run_id: str) -> None:
    launcher.stop(run_id)


def resume(run: Run) -> None:
    """Resume a run from its last checkpoint, or note why it cannot be."""
    with problems_told():
        attempts.resume(run)


def _delete(run: Run) -> None:
    with problems_told():
        deletion.delete(run)
        called = html.label_text(store.label_of(run), 80)
        navigation.go_next("overview", said=f"Deleted {called}.")


@contextmanager
def problems_told() -> Iterator[None]:
    """In a callback: note why an action is refused or failed, for `draw_told`."""
    try:
        yield
    except (attempts.CannotResume, launcher.CheckpointNeeded) as error:
        st.session_state[PROBLEM] = str(error)
    except OSError as error:
        st.session_state[PROBLEM] = explain_os_error(error)


def draw_told() -> None:
    """Show why the last action was not done, once."""
    # Not by the callback: before a fragment is run anew it must draw nothing.
    if why := st.session_state.pop(PROBLEM, None):
        st.toast(why, duration="long")


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
