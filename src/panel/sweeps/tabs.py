"""The views of one sweep, of which its page shows the chosen one."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from src import setting_labels, store
from src.models.metrics import metric_label
from src.panel.sweeps import figures, table, view
from src.panel.ui import charts, downloads, guarded, html, navigation, tags
from src.sweeps import ranking, results
from src.sweeps.results import SweepResults


def draw(found: SweepResults) -> None:
    """Draw the choice of a view, and the chosen one."""
    shown = navigation.segments("View", list(VIEWS), key="view")
    if found.settings.empty and shown not in WITHOUT_SCORES:
        view.draw_no_score(found)
    else:
        VIEWS[shown](found)


def _draw_best(found: SweepResults) -> None:
    charts.draw(figures.best_so_far(found), key="best so far")


TRIAL_COLUMNS = ("trial", "became", "score", "test", "step", "max_steps", "seconds", "attempt",
                 "process", "reason", "tags", "run")  # fmt: skip


def _draw_trials(found: SweepResults) -> None:
    find = st.text_input(
        "Find", placeholder="words, or score > 0.5", key="find", bind="query-params", width=360
    )
    if wrong := table.unknown(found.trials, find):
        html.draw_problem(wrong)
    kept = table.matching(found.trials, find)
    number = st.column_config.NumberColumn
    shares = ["test", *(["score"] if charts.is_share(found.sweep.metric) else [])]
    shown = ranking.shown(kept, found.sweep)
    order = [*TRIAL_COLUMNS, *(["data_fingerprint"] if found.others.any() else [])]
    shown = shown[[order[0], *found.sweep.space, *order[1:]]]
    for name in shares:
        shown[name] = 100 * shown[name].astype("float64")
    shown["tags"] = shown["tags"].map(tags.joined)
    shown["run"] = [navigation.address("monitor", {"run": run_id}) for run_id in shown["run"]]
    key = f"tagged {hash(tuple(kept['run']))}"  # edits are kept by row number
    guarded.data_editor(
        shown,
        key=key,
        hide_index=True,
        disabled=[name for name in shown if name != "tags"],
        placeholder="",
        column_config={
            "score": number(
                metric_label(found.sweep.metric), format="%.1f%%" if "score" in shares else None
            ),
            "test": number("test accuracy (exact match)", format="%.1f%%"),
            "max_steps": number("of steps"),
            "seconds": number("duration (s)", format="%.1f"),
            "tags": tags.COLUMN,
            "run": st.column_config.LinkColumn("run", display_text=r"run=(.+)$"),
            "became": st.column_config.TextColumn("outcome"),
            **{
                name: st.column_config.Column(
                    setting_labels.inline(name), help=f"In the field Find: `{name}`"
                )
                for name in found.sweep.space
            },
        },
        on_change=partial(tags.save_edits, key, list(kept["run"])),
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html(f'<p class="quiet">{len(kept):,} of {len(found.trials):,} trials.</p>')
        downloads.draw(ranking.shown(kept, found.sweep), found.row.id)


def _draw_parallel(found: SweepResults) -> None:
    charts.draw({"Settings and scores": figures.parallel_figure(found)}, key="sweep parallel")
    many = figures.highlighted_count(found)
    best = "the best one is" if many == 1 else f"the best {many} are"
    st.html(
        f'<p class="quiet">A line is a setting; {best} coloured. Drag along an axis to keep only '
        "some.</p>"
    )


def _draw_importance(found: SweepResults) -> None:
    shares = results.importance(found)
    if not shares:
        few = f"It takes {results.MIN_FOR_IMPORTANCE} settings with different scores."
        html.draw_empty("Nothing can be said yet", few)
        return
    st.html(table.importance_table(shares))
    st.html(f'<p class="quiet">Importance {table.IMPORTANCE_METHOD}.</p>')


def _draw_slices(found: SweepResults) -> None:
    named = figures.slices(found).items()
    charts.draw({setting_labels.label(name): one for name, one in named}, key="slices")
    st.html('<p class="quiet">A mark is a trial; hollow and crossed ones ended early.</p>')


def _draw_packs(found: SweepResults) -> None:
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


VIEWS: dict[str, Callable[[SweepResults], None]] = {
    "Best so far": _draw_best,
    "Trials": _draw_trials,
    "Parallel coordinates": _draw_parallel,
    "Importance": _draw_importance,
    "Slices": _draw_slices,
    "Packs": _draw_packs,
}
WITHOUT_SCORES = ("Trials", "Packs")  # views that show something before a trial has a score
