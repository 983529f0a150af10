"""The runs that train now, and the table of all: filtered, folded by config, many at once."""

from html import escape

import streamlit as st

from src import store
from src.format import counted
from src.panel.overview import address, bulk, now, table, toolbar
from src.panel.ui import html, meters, navigation, paging, tab
from src.store.tables import Status

REFRESH_SECONDS = 3.0


def page() -> None:
    if run_id := now.FIRST_RUN.pressed_twice():
        navigation.go("monitor", {"run": run_id})
    view = address.read()
    with store.reading() as session:
        everything = store.count_runs(session, store.parse_filter("archived:any"))
        counts = store.count_runs(session, view.found)
        tags = store.tags_in_use(session)
    if not everything:
        tab.show("Overview")
        return now.draw_first_visit()
    tally = now.tally(everything)
    working = any(Status(status).active for status in everything)
    tab.show("Overview", *[tally] * working, status=Status.RUNNING if working else None)
    button = navigation.link("launch", "Launch a run", style="button")
    head = f"<h1>Runs</h1><span>{escape(tally)}</span><nav>{button}</nav>"
    st.html(f'<div class="top">{head}</div>{meters.line()}')
    bulk.draw_told()
    told = now.draw()
    toolbar.draw(view)
    st.html(toolbar.chips(view, counts, tags))
    draw_table(view, counts, told)


def draw_table(view: address.View, counts: dict[Status, int], told: frozenset[str]) -> None:
    """Draw the rows of the page that the view is at, and the bar of what is chosen; why the runs
    in `told` failed stands above."""
    statuses = view.found.statuses
    total = sum(n for status, n in counts.items() if statuses is None or status in statuses)
    order = {"sort": view.sort.name, "ascending": view.ascending}
    with store.reading() as session:
        chosen, base = address.selection().read(session)
        marked = frozenset(run.id for run in chosen)
        shown = store.count_configs(session, view.found) if view.folded else total
        page = paging.page_of_address(shown)
        order |= {"offset": page * paging.ROWS, "limit": paging.ROWS}
        if view.folded:
            configs = store.page_of_configs(session, view.found, **order)
            drawn = table.draw_configs(session, view, configs, marked, base, told)
        else:
            runs = store.page_of_runs(session, view.found, **order)
            drawn = table.draw_rows(session, view, runs, marked, base, told)
    if shown:
        st.html(drawn)
        what = "config" if view.folded else "run"
        all_told = f'<p class="quiet pager">{counted(shown, what)}</p>'
        st.html(paging.pager("overview", page, shown, what) or all_told)
    else:
        clear = navigation.link("overview", "Clear the filter", address.filtered(""))
        html.draw_empty("No run fits", clear if view.text else "All runs are archived.")
    bulk.draw(chosen, total, view.text)


st.fragment(page, run_every=REFRESH_SECONDS)()
