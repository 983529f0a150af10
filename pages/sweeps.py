"""Searches over many settings: which there are, how one goes, and the form that launches one."""

from functools import partial
from html import escape

import streamlit as st

from src.analysis import exports
from src.panel import charts, compare, parts, sweeps
from src.runs import store
from src.runs.table import SweepStatus
from src.sweeps import ledger, results
from src.sweeps.results import Found

REFRESH_SECONDS = 3.0
VIEWS = ["Best so far", "Trials", "Parallel coordinates", "Importance", "Slices"]
HOW = (
    "A sweep tries many settings for you, each as a run of its own, and says which one is worth "
    "having. Choose a file below; `tiny` suits two CPU cores."
)


def page() -> None:
    st.html('<h1 class="unseen">Sweeps</h1>')
    with store.reading() as session:
        rows = list(store.sweeps(session))
        asked = st.query_params.get("sweep")
        try:
            row = store.find_sweep(session, asked) if asked else None
        except store.UnknownRun as error:
            back = parts.link("sweeps", "See all sweeps", style="button")
            parts.empty("No such sweep", f"{escape(str(error))}<br><br>{back}")
            return
    if row:
        living = row.status == SweepStatus.ACTIVE or row.status == SweepStatus.PAUSED
        # A table that is being read must not be drawn anew.
        read = st.query_params.get("view") == "Trials"
        st.fragment(one, run_every=REFRESH_SECONDS if living and not read else None)(row.id)
        return
    if rows:
        st.html(sweeps.list_table(rows))
        st.html("<h2>Launch a sweep</h2>")
    else:
        parts.empty("No sweeps yet", escape(HOW).replace("`tiny`", "<code>tiny</code>"))
    sweeps.form()


def one(sweep_id: str) -> None:
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
        found = results.read(session, row)
        judged, told = results.judge(session, found)
    back = parts.link("sweeps", "All sweeps")
    st.html(
        f'<div class="top"><h1>{escape(row.name)}</h1>{sweeps.badge(row)}'
        f"<span>{escape(about(found))}</span><nav>{back}</nav></div>"
    )
    for note in (row.reason, ledger.edited(row)):
        if note:
            st.html(f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>')
    st.html(sweeps.facts(found))
    sweeps.draw_buttons(found)
    if found.trials.empty:
        parts.empty("No trials yet", "The first ones are queued within seconds.")
        return
    winner(found)
    if judged:
        st.html(compare.verdict_table(judged))
    if told:
        st.html(f'<p class="quiet">Judged {escape(told)}.</p>')
    view = st.segmented_control(
        "View", VIEWS, default=VIEWS[0], required=True, key="view", bind="query-params",
        label_visibility="collapsed",
    )  # fmt: skip
    if view == "Trials":
        trials(found)
    elif found.settings.empty:
        parts.empty("No score yet", "It is there when the first trial has ended.")
    else:
        {"Parallel coordinates": parallel, "Importance": importance, "Slices": slices}.get(
            view, best
        )(found)


def about(found: Found) -> str:
    sweep = found.sweep
    pruned = "" if sweep.pruner == "none" else f", pruned by {sweep.pruner}"
    return f"{sweep.method} over {len(sweep.space)} settings{pruned}"


def winner(found: Found) -> None:
    if found.settings.empty:
        return
    values, row = results.top(found, 1)[0], found.settings.iloc[0]
    link = parts.link("monitor", f"trial {row['trial']}", {"run": row["run"]})
    score = sweeps.score(found, row["score"])
    st.html(
        f'<p class="claim"><b>Best so far: {escape(sweeps.values_text(values))}</b>, with '
        f"{escape(found.sweep.metric)} {score} ({link}).</p>"
    )
    if found.confirming:
        ids = [run.id for run in found.confirming]
        done = sum(run.status == "COMPLETED" for run in found.confirming)
        link = parts.link("compare", "compare them", {"run": ids})
        st.html(f'<p class="quiet">{done} of {len(ids)} confirming runs are done; {link}.</p>')


def best(found: Found) -> None:
    charts.draw(sweeps.best_so_far(found), live=False, key="best so far")


def parallel(found: Found) -> None:
    charts.draw({"Settings and scores": sweeps.parallel(found)}, live=False, key="sweep parallel")
    st.html('<p class="quiet">A line is a setting. Drag along an axis to keep only some.</p>')


def importance(found: Found) -> None:
    shares = results.importance(found)
    if not shares:
        few = f"It takes {results.FEWEST_IMPORTANT} settings with different scores."
        parts.empty("Nothing can be said yet", few)
        return
    st.html(sweeps.importance_table(shares))
    st.html(f'<p class="quiet">Importance {sweeps.METHOD}.</p>')


def slices(found: Found) -> None:
    charts.draw(sweeps.slices(found), live=False, key="slices")
    st.html('<p class="quiet">A mark is a trial; hollow and crossed ones ended early.</p>')


def trials(found: Found) -> None:
    find = st.text_input(
        "Find", placeholder="words, or score > 0.5", key="find", bind="query-params", width=360
    )
    kept = sweeps.matching(found.trials, find)
    percent = st.column_config.NumberColumn(format="percent")
    share = sweeps.score(found, 0.5).endswith("%")
    st.dataframe(
        kept.drop(columns=["setting", "ended_at"]),
        hide_index=True,
        column_config={"score": percent if share else None, "test": percent}
        if share
        else {"test": percent},
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="quiet">{len(kept):,} of {len(found.trials):,} trials.</p>')
        for ending, (kind, mime, write) in exports.FORMATS.items():
            name = f"{found.row.id}.{ending}"
            st.download_button(kind, partial(write, kept), name, mime, on_click="ignore")


page()
