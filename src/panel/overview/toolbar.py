"""Around the table: filter, statuses with counts, columns and order, saved views, and pages"""

from collections.abc import Mapping
from html import escape

import streamlit as st

from src import store
from src.errors import UserError, explain
from src.models.metrics import metric_label
from src.panel.overview import address, table
from src.panel.overview.address import View
from src.panel.ui import choices, guarded, html, navigation, query_params
from src.runs import views
from src.store import run_filter
from src.store.run_columns import OWN, setting_columns
from src.store.tables import Status

KEPT = ("find", "sort", "columns", "group")  # parameters that a saved view has
PROBLEM = "overview: problem of a view"
HELP = """
Words are looked for in names, ids, tags and notes. Conditions, all of which must hold:

- `status:failed,stopped`, `tag:spell`, `name:rank`, `sweep:rates`
- `lr>0.001`, `lora.r=16`, `engine=packed`: settings
- `val/exact_match>50%`, `val/loss<0.5`: metrics
- `duration>10m`, `since:2d`, `until:2026-11-28`
- `archived:yes`, `archived:any`; a `-` before one turns it: `-tag:old`
"""


def draw(view: View) -> None:
    """Draw the fields above the table."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="run-filter"):
        st.text_input(
            "Filter", key="find", bind="query-params", on_change=_to_first_page,
            placeholder="rank16 status:failed lr>0.001 val/exact_match>50% since:2d", help=HELP,
        )  # fmt: skip
        st.toggle("Group by config", key="group", bind="query-params", on_change=_to_first_page)
        _draw_columns(view)
        _draw_views()
    for problem in view.problems:
        html.draw_problem(problem)


def _to_first_page() -> None:
    query_params.write("page", None)


def chips(view: View, counts: Mapping[Status, int], tags: list[str]) -> str:
    """HTML: links that filter by status, with how many there are, and by tag."""
    chosen = view.found.statuses
    parts = []
    for status, number in sorted(counts.items(), key=lambda pair: list(Status).index(pair[0])):
        word = status.lower()
        words = {str(s).lower() for s in chosen or ()}
        is_on = chosen is not None and status in chosen
        query = address.filtered(run_filter.with_statuses(view.text, sorted(words ^ {word})))
        parts.append(_chip(f"{word} {number:,}", query, is_on, word))
    for tag in tags[:8]:
        term = run_filter.term_of("tag", tag)
        after = run_filter.with_term(view.text, term)
        parts.append(_chip(f"# {tag}", address.filtered(after), len(after) < len(view.text), ""))
    if view.text:
        parts.append(navigation.link("overview", "Clear the filter", address.filtered("")))
    return f'<p class="chips filters">{"".join(parts)}</p>'


def _chip(text: str, query: Mapping[str, object], is_on: bool, tone: str) -> str:
    href = escape(navigation.address("overview", query))
    pressed = ' aria-current="true"' if is_on else ""
    return f'<a class="inner chip {tone}" href="{href}" target="_self"{pressed}>{escape(text)}</a>'


def _draw_columns(view: View) -> None:
    box = st.popover("Columns", key="run-columns", on_change="rerun")
    with box:
        if not box.open:  # only then: it asks for the names of all metrics
            return
        with store.reading() as session:
            metrics = store.recorded_metrics(session)
        names = [*OWN, "tags", *metrics, *setting_columns()]
        names = [name for name in dict.fromkeys(names) if name != "name"]
        shown = [column.name for column in view.columns]
        names += [name for name in shown if name not in names]
        chosen = choices.several(
            "Columns", names, address.FIRST_COLUMNS, _column_name, key="columns"
        )
        orders = ["launched", "name", *chosen, view.sort.name]
        orders = [one for name in dict.fromkeys(orders) if name != "tags"
                  for one in (name, f"-{name}")]  # fmt: skip
        choices.one("Order", orders, _order_name, key="sort")


def _column_name(name: str) -> str:
    return metric_label(name) if "/" in name else name


def _order_name(order: str) -> str:
    column = store.find_column(order.removeprefix("-"))
    first = {"time": "newest", "text": "A to Z"}.get(column.type, "highest")
    last = {"time": "oldest", "text": "Z to A"}.get(column.type, "lowest")
    end = last if order.startswith("-") else first
    return f"{table.title(column)}, {end}{'' if ' ' in end else ' first'}"


def _draw_views() -> None:
    with st.popover("Views", key="run-views"):
        known = views.saved()
        links = "".join(
            f"<li>{navigation.link('overview', name, query)}</li>" for name, query in known.items()
        )
        if known:
            st.html(f'<ul class="views">{links}</ul>')
        else:
            st.html('<p class="quiet">A view keeps filter, order, columns and grouping.</p>')
        st.text_input("Save this view as", key="view name", max_chars=views.MAX_NAME)
        guarded.button("Save", key="save view", on_click=_save)
        if known:
            st.selectbox("View to delete", list(known), key="old view")
            guarded.button("Delete this view", key="delete view", on_click=_delete)
        if why := st.session_state.pop(PROBLEM, None):
            html.draw_problem(why)


def _save() -> None:
    query = {name: values for name, values in address.query().items() if name in KEPT}
    try:
        views.save(st.session_state["view name"], query)
    except (UserError, OSError) as error:
        st.session_state[PROBLEM] = explain(error)


def _delete() -> None:
    try:
        views.delete(st.session_state["old view"])
    except OSError as error:
        st.session_state[PROBLEM] = explain(error)
