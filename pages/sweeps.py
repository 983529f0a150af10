"""Searches over many settings: which there are, how one goes, and the form that launches one."""

from functools import partial
from html import escape
from pathlib import Path

import streamlit as st

from src import store
from src.analysis import exports
from src.panel.compare import verdicts
from src.panel.sweeps import buttons, figures, form, table, view
from src.panel.ui import charts, html, navigation, tags
from src.store.tables import Status, Sweep
from src.sweeps import control, results
from src.sweeps.results import SweepResults

REFRESH_SECONDS = 3.0
VIEWS = ["Best so far", "Trials", "Parallel coordinates", "Importance", "Slices", "Packs"]
HOW = (
    "A sweep tries many settings for you, each as a run of its own, and says which one is worth "
    "having. Start from a file below; `tiny` suits two CPU cores."
)


def page() -> None:
    st.html('<h1 class="unseen">Sweeps</h1>')
    with store.reading() as session:
        rows = list(store.list_sweeps(session))
        asked = st.query_params.get("sweep")
        try:
            row = store.find_sweep(session, asked) if asked else None
        except store.UnknownRun as error:
            back = navigation.link("sweeps", "See all sweeps", style="button")
            html.draw_empty("No such sweep", f"{escape(str(error))}<br><br>{back}")
            return
        anew = bool(row) and refreshes(session, row)
    if row:
        st.fragment(one, run_every=REFRESH_SECONDS if anew else None)(row.id, anew)
        return
    if rows:
        st.html(view.list_table(rows))
        st.html("<h2>Launch a sweep</h2>")
    else:
        html.draw_empty("No sweeps yet", html.with_code(HOW))
    form.draw()


def refreshes(session: store.Session, row: Sweep) -> bool:
    """Whether the page is drawn anew by itself: something is under way, and no table is being
    read."""
    if st.query_params.get("view") == "Trials":
        return False
    statuses = {*store.trial_counts(session).get(row.id, {})}
    statuses |= {run.status for run in store.confirmations(session, row.id)}
    return row.status in control.OPEN or not all(Status(status).ended for status in statuses)


def one(sweep_id: str, anew: bool) -> None:
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
        if refreshes(session, row) != anew:
            navigation.rerun_page()  # only a rerun of the whole page changes `run_every`
        found = results.read(session, row)
        judged, told = results.judge(session, found)
    back = navigation.link("sweeps", "All sweeps")
    st.html(
        f'<div class="top"><h1>{escape(row.name)}</h1>{view.badge(row)}'
        f"<span>{escape(about(found))}</span><nav>{back}</nav></div>"
    )
    for note in (row.reason, control.drift_notice(row)):
        if note:
            st.html(f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>')
    st.html(view.facts(found))
    buttons.draw(found)
    if found.trials.empty:
        html.draw_empty("No trials yet", "The first ones are queued within seconds.")
        return
    winner(found)
    if judged:
        st.html(verdicts.verdict_table(judged))
    if told:
        st.html(f'<p class="quiet">Judged {escape(told)}.</p>')
    elif judged and not results.is_confirming(found):
        st.html(f'<p class="quiet">“{buttons.RERUN}” above would tell.</p>')
    shown = st.segmented_control(
        "View", VIEWS, default=VIEWS[0], required=True, key="view", bind="query-params",
        label_visibility="collapsed",
    )  # fmt: skip
    if shown == "Trials":
        trials(found)
    elif shown == "Packs":
        packs(found)
    elif found.settings.empty:
        html.draw_empty("No score yet", "It is there when the first trial has ended.")
    else:
        {"Parallel coordinates": parallel, "Importance": importance, "Slices": slices}.get(
            shown, best
        )(found)
    with st.expander(Path(row.path).name, expanded=False, key="sweep file"):
        st.code(row.file, language="yaml")


def about(found: SweepResults) -> str:
    sweep, many = found.sweep, len(found.sweep.space)
    pruned = "" if sweep.pruner == "none" else f", pruned by {sweep.pruner}"
    return f"{sweep.method} over {many} {'setting' if many == 1 else 'settings'}{pruned}"


def winner(found: SweepResults) -> None:
    if found.settings.empty:
        return
    values, row = results.top(found, 1)[0], found.settings.iloc[0]
    link = navigation.link("monitor", f"trial {row['trial']}", {"run": row["run"]})
    again = navigation.link("launch", "launch these settings", view.launch_query(found, values))
    score = view.score(found, row["score"])
    st.html(
        f'<p class="claim"><b>Best so far: {escape(view.values_text(values))}</b>, with '
        f"{escape(found.sweep.metric)} {score} ({link}); {again}.</p>"
    )
    if found.confirming:
        link = navigation.link(
            "compare", "compare them", {"run": [run.id for run in found.confirming]}
        )
        st.html(f'<p class="quiet">{view.confirmed(found)}; {link}.</p>')


def best(found: SweepResults) -> None:
    charts.draw(figures.best_so_far(found), live=False, key="best so far")


def parallel(found: SweepResults) -> None:
    charts.draw(
        {"Settings and scores": figures.parallel_figure(found)}, live=False, key="sweep parallel"
    )
    many = figures.lines_that_stand_out(found)
    best = "the best one is" if many == 1 else f"the best {many} are"
    st.html(
        f'<p class="quiet">A line is a setting; {best} coloured. Drag along an axis to keep only '
        "some.</p>"
    )


def importance(found: SweepResults) -> None:
    shares = results.importance(found)
    if not shares:
        few = f"It takes {results.MIN_FOR_IMPORTANCE} settings with different scores."
        html.draw_empty("Nothing can be said yet", few)
        return
    st.html(table.importance_table(shares))
    st.html(f'<p class="quiet">Importance {table.IMPORTANCE_METHOD}.</p>')


def slices(found: SweepResults) -> None:
    charts.draw(figures.slices(found), live=False, key="slices")
    st.html('<p class="quiet">A mark is a trial; hollow and crossed ones ended early.</p>')


def packs(found: SweepResults) -> None:
    with store.reading() as session:
        rows = results.packs(session, found)
    if not rows:
        html.draw_empty("No process has ended yet", "Each stands here with its first ended trial.")
        return
    st.html(table.packs_table(rows))
    asked = "<code>spelltune sweep plan FILE --measure</code>"
    missing = f" Measure before the launch for a prediction: {asked}."
    st.html(
        '<p class="quiet">Trials of a pack share one process over one base model. Times are of all '
        "of it; predicted are the most that it takes, by real steps on the longest rows."
        f"{missing if all(one['predicted_seconds'] is None for one in rows) else ''}</p>"
    )


def trials(found: SweepResults) -> None:
    find = st.text_input(
        "Find", placeholder="words, or score > 0.5", key="find", bind="query-params", width=360
    )
    if wrong := table.unknown(found.trials, find):
        html.draw_problem(wrong)
    kept = table.matching(found.trials, find)
    percent = "percent" if charts.is_share(found.sweep.metric) else None
    number = st.column_config.NumberColumn
    shown = kept.drop(columns=["setting", "ended_at"])
    key = f"tagged {hash(tuple(kept['run']))}"  # edits are kept by row number
    st.data_editor(
        shown,
        key=key,
        hide_index=True,
        disabled=[name for name in shown if name != "tags"],
        placeholder="",
        column_config={
            "score": number(f"score ({found.sweep.metric})", format=percent),
            "test": number("test exact match", format="percent"),
            "seconds": number(format="%.1f"),
            "tags": st.column_config.ListColumn("tags ✎"),
        },
        on_change=partial(tags.save_edits, key, list(kept["run"])),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="quiet">{len(kept):,} of {len(found.trials):,} trials.</p>')
        for ending, (kind, mime, write) in exports.FORMATS.items():
            name = f"{found.row.id}.{ending}"
            st.download_button(kind, partial(write, kept), name, mime, on_click="ignore")


page()
