"""The views of one sweep, of which its page shows the chosen one."""

from collections.abc import Callable

import streamlit as st

from src import store
from src.panel.launch import measure_button
from src.panel.sweeps import figures, table, trials, view
from src.panel.ui import charts, html, navigation
from src.sweeps import results
from src.sweeps.results import SweepResults


def draw(found: SweepResults) -> None:
    """Draw the choice of a view, and the chosen one."""
    shown = navigation.segments("View", list(VIEWS), key="view")
    if found.settings.empty and shown not in WITHOUT_SCORES:
        view.draw_no_score(found)
    else:
        VIEWS[shown](found)


def _draw_best(found: SweepResults) -> None:
    charts.draw(figures.best_of_page(found), key="best so far")


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
    charts.draw(figures.slices_of_page(found), key="slices")
    st.html('<p class="quiet">A mark is a trial; hollow and crossed ones ended early.</p>')


def _draw_packs(found: SweepResults) -> None:
    with store.reading() as session:
        rows = results.packs(session, found)
    if not rows:
        html.draw_empty("No process has ended yet", "Each stands here with its first ended trial.")
        return
    st.html(table.packs_table(rows))
    form = navigation.link("sweeps", "the form of a sweep")
    missing = f" “{measure_button.MEASURE}” beside {form} predicts both before the launch."
    st.html(
        '<p class="quiet">Trials of a pack share one process over one base model. Times are of all '
        "of it; predicted are the most that it takes, by real steps on the longest rows."
        f"{missing if all(one['predicted_seconds'] is None for one in rows) else ''}</p>"
    )


VIEWS: dict[str, Callable[[SweepResults], None]] = {
    "Best so far": _draw_best,
    "Trials": trials.draw,
    "Parallel coordinates": _draw_parallel,
    "Importance": _draw_importance,
    "Slices": _draw_slices,
    "Packs": _draw_packs,
}
WITHOUT_SCORES = ("Trials", "Packs")  # views that show something before a trial has a score
