"""The buttons that steer a sweep: pause, cancel, rerun the best, raise the budget."""

import streamlit as st

from src import store
from src.format import counted, duration
from src.panel.report import button as report
from src.panel.sweeps import view
from src.panel.ui import guarded
from src.runs import time_left
from src.store.tables import SweepStatus
from src.sweeps import control, ranking, results
from src.sweeps.file import base_config
from src.sweeps.results import SweepResults


def draw(found: SweepResults) -> None:
    """Draw the buttons that fit the sweep's status."""
    guarded.draw_told()
    row, status = found.row, SweepStatus(found.row.status)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if status in control.OPEN:
            goes_on = status == SweepStatus.ACTIVE
            guarded.button(
                "Pause" if goes_on else "Resume", key=f"steer {status}",
                on_click=control.pause if goes_on else control.resume, args=(row.id,),
            )  # fmt: skip
            _draw_end(
                row.id, "Cancel", "Cancel this sweep",
                "It is final: trials that wait never start, those that train stop at their next "
                "step.",
            )  # fmt: skip
        if offers_rerun(found):
            guarded.button(
                f"{rerun_label(found)} ({_takes(found)})",
                key="confirm sweep",
                on_click=confirm,
                args=(row.id,),
                help="The default tells how much the search gained. The best of many is the best "
                "partly by luck; new seeds tell how much of it stays.",
            )
        elif status == SweepStatus.COMPLETED and results.is_confirming(found):
            _draw_end(
                row.id, "Stop the confirming runs", "Stop these runs",
                "Those that wait never start, those that train stop at their next step. The trials "
                "stay as they are.",
            )  # fmt: skip
        # A grid without a budget ends with its last cell.
        if status != SweepStatus.CANCELLED and (row.most_trials or row.seconds):
            label, shown = (
                ("More trials", "20 trials") if row.most_trials else ("More time", "30 minutes")
            )
            with st.container(
                horizontal=True, width="content", gap="small", vertical_alignment="bottom"
            ):
                st.text_input(label, placeholder=shown, key="more", width=110)
                limits = control.limits_of(row)
                # The key is another one once the budget is raised: a second press of this button
                # was sent before the browser heard that the field is empty.
                guarded.button(
                    "Add to the budget", key=f"add to {limits}", on_click=add,
                    args=(row.id, limits),
                    help="Raises the budget; a sweep that has ended goes on.",
                )  # fmt: skip
        report.draw([], row.id)


def rerun_label(found: SweepResults) -> str:
    """`Rerun the top 3 and the default, 5 new seeds each`."""
    best = results.top(found)
    base = base_config(found.sweep)
    among = any(results.is_default(base, values) for values in best)
    default = ", the default among them" if among else " and the default"
    return f"Rerun the top {len(best)}{default}, {results.CONFIRMATION_SEEDS} new seeds each"


def _takes(found: SweepResults) -> str:
    """`20 runs, ≈ 13 min`: how many the rerun launches, and their time where earlier runs tell."""
    configs = [config for _, config in results.confirming_configs(found)]
    with store.reading() as session:
        needed = time_left.Earlier(session).of_all(configs)
    time = "" if needed is None else f", ≈ {duration(needed.seconds)}"
    return f"{counted(len(configs), 'run')}{time}"


def offers_rerun(found: SweepResults) -> bool:
    """True if the best settings may be rerun: there are some, no trial goes on that may be better,
    and something is right in them."""
    several = len(found.settings) > 1 and not results.is_confirming(found)
    # In a paused sweep those that train go on.
    goes_on = found.row.status == SweepStatus.ACTIVE
    goes_on |= bool(found.trials["became"].isin(ranking.GOING_ON).any())
    return several and not goes_on and not view.is_nothing_right(found)


def _draw_end(sweep_id: str, label: str, action: str, what: str) -> None:
    """Draw a button that asks before it cancels, which cannot be undone."""
    with st.popover(label, key=f"ask {label}"):
        st.write(what)
        guarded.button(action, type="primary", on_click=control.cancel, args=(sweep_id,))


def add(sweep_id: str, seen: control.Limits) -> None:
    """Raise the budget by the typed amount; text that cannot be used stays in its field."""
    control.add(sweep_id, st.session_state["more"], seen=seen)
    guarded.tell(f"Added {st.session_state['more']}.")
    st.session_state["more"] = ""


def confirm(sweep_id: str) -> None:
    """Launch the confirming runs; a second press finds them and launches none."""
    with store.reading() as session:
        found = results.read(session, store.find_sweep(session, sweep_id))
    if not results.is_confirming(found):
        results.confirm(found)
