"""What several pages show: statuses, times, numbers, links and the choice of a run.

Whatever comes from a run (names, reasons, model output) is untrusted text: `html.escape` it.
"""

import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from typing import cast
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import streamlit as st

from src import store
from src.paths import ROOT
from src.store.tables import Run, Status

PAGES = ROOT / "pages"
MOST_CHOICES = 300  # runs in the list to choose from; an address reaches older ones too

# What a status means to the reader, beside its word: colour is never the only mark.
MEANING = {
    Status.QUEUED: "waits for a free slot",
    Status.STARTING: "is loading",
    Status.RUNNING: "is training",
    Status.STOPPING: "stops at its next step",
    Status.STOPPED: "was stopped",
    Status.COMPLETED: "ended by itself",
    Status.FAILED: "ended by an error",
    Status.INTERRUPTED: "lost its processes",
    Status.CANCELLED: "was taken out of the queue",
}


# --- text and times -------------------------------------------------------------------------------


def label_text(text: str, limit: int) -> str:
    """Escape text for a widget's label, which is Markdown, and cut it to `limit` characters."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return re.sub(r"([\[\]\\`*_$:<>~#])", r"\\\1", short)


def local_time(at: float | None, form: str = "%d %b %Y, %H:%M") -> str:
    """A UTC time in the reader's time zone."""
    if at is None:
        return "–"
    try:
        zone = ZoneInfo(st.context.timezone) if st.context.timezone else None
    except (KeyError, ValueError, OSError):
        zone = None
    return datetime.fromtimestamp(at, zone).strftime(form)


def run_seconds(run: Run) -> float | None:
    """How long a run has been training, or trained."""
    if run.started_at is None:
        return None
    return (run.ended_at or time.time()) - run.started_at


def remaining_seconds(run: Run, pace: float | None) -> float | None:
    """Seconds to the last step at `pace` steps a second; None while that is not known."""
    if not pace or not run.step or Status(run.status) is not Status.RUNNING:
        return None
    return (run.max_steps - run.step) / pace


# --- HTML -----------------------------------------------------------------------------------------


def link(
    page: str, text: str, query: Mapping[str, object] | None = None, *, style: str = "",
    label: str = "",
) -> str:  # fmt: skip
    """An anchor to a page of the panel, also as a `button`; `label` names it where `text` is a
    sign. A plain click stays in the session (links.js)."""
    address = ("" if page == "overview" else page) + (f"?{urlencode(query, True)}" if query else "")
    href = escape(address or "./")
    name = f' aria-label="{escape(label)}" title="{escape(label)}"' if label else ""
    return f'<a class="inner {style}" href="{href}" target="_self"{name}>{escape(text)}</a>'


def go(page: str, query: Mapping[str, str | list[str]] | None = None) -> None:
    """Show another page."""
    st.switch_page(PAGES / f"{page}.py", query_params=query)


def draw_anew() -> None:
    """Run the page anew, unless its reader clicked meanwhile: `st.rerun` merges with a click that
    waits, and of a click on another page's link it keeps this page."""
    st.empty()  # where something waits, the script ends here
    st.rerun()


def made(what: str) -> list[str]:
    """Ids of what the button called so has made in this session. Append in the very line that makes
    one: where a second press waits, the next call of Streamlit ends the script."""
    return cast("list[str]", st.session_state.setdefault(f"made by {what}", []))


def key_of(what: str) -> str:
    """Key of that button: another one once it has made something."""
    return f"{what} {len(made(what))}"


def pressed_again(what: str) -> str | None:
    """Id of what that button made last, where it was pressed once more before it was gone: two
    presses are one, and the second keeps the first one's page from going where it goes."""
    ids = made(what)
    return ids[-1] if ids and st.session_state.get(f"{what} {len(ids) - 1}") else None


def meaning(run: Run, *, paused: bool = False) -> str:
    """What the status means to the reader; `paused` says that its sweep is."""
    if run.status == Status.QUEUED and run.held_at:
        return "held until somebody releases it"
    if run.status == Status.QUEUED and paused:
        return "waits while its sweep is paused"
    return MEANING[Status(run.status)]


def badge(run: Run) -> str:
    shown = "held" if run.status == Status.QUEUED and run.held_at else run.status.lower()
    return f'<span class="badge {shown}" title="{meaning(run)}">{shown}</span>'


def steps(run: Run) -> str:
    attempt = f"attempt {run.attempt} · " if run.attempt > 1 else ""
    return f"{attempt}step {run.step or 0:,} of {run.max_steps:,}"


def bar(run: Run) -> str:
    """Progress as a bar, for those who cannot see it as `step N of M`."""
    share = min(1.0, (run.step or 0) / run.max_steps)
    return (
        f'<span class="bar {run.status.lower()}" role="progressbar" aria-label="{steps(run)}" '
        f'aria-valuenow="{share * 100:.0f}" aria-valuemin="0" aria-valuemax="100">'
        f'<i style="width:{share * 100:.1f}%"></i></span>'
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A row of small labels over large values; both are text."""
    cells = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="facts">{"".join(cells)}</dl>'


def table(head: Mapping[str, str], rows: Iterable[Iterable[str]], *, name: str = "") -> str:
    """An HTML table. `head` maps a column's title to its class; cells are HTML: escape what is
    not."""
    titles = "".join(f'<th scope="col" class="{c}">{escape(t)}</th>' for t, c in head.items())
    classes = list(head.values())
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{c}">{cell}</td>' for c, cell in zip(classes, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="rows {name}"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def with_code(text: str) -> str:
    """HTML of a text in which backticks stand around code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def problem(text: str) -> None:
    """What is wrong, each line on one of its own."""
    lines = "<br>".join(escape(line) for line in text.split("\n"))
    st.html(f'<p class="problem" role="alert">{lines}</p>')


def empty(title: str, advice: str) -> None:
    """What an empty page says: why, and what to do next (HTML)."""
    st.html(f'<div class="empty"><h2>{escape(title)}</h2><p>{advice}</p></div>')


# --- the run of a page ----------------------------------------------------------------------------


def pick_run() -> Run | None:
    """The run that the page shows: `?run=` in the address, else the newest.

    None, after drawing what to do about it, where there is none.
    """
    with store.reading() as session:
        known = store.run_ids(session, limit=MOST_CHOICES)
        asked = st.query_params.get("run") or next(iter(known), None)
        try:
            found = store.find(session, asked) if asked else None
        except store.UnknownRun as error:
            empty("No such run", f"{escape(str(error))}<br>{link('overview', 'See all runs')}")
            return None
    if found is None:
        empty("No runs yet", link("launch", "Launch the first run", style="button"))
        return None
    chosen = found.id
    if chosen not in known:
        known.append(chosen)
    if st.query_params.get("run") != chosen:
        st.query_params["run"] = chosen
    # The address decides; the widget only writes it. Its options are told apart by their text, so
    # that must not change with the status.
    if st.session_state.get("picked run") != chosen:
        st.session_state["picked run"] = chosen
    st.selectbox(
        "Run",
        known,
        known.index(chosen),
        label_visibility="collapsed",
        key="picked run",
        on_change=lambda: st.query_params.update(run=st.session_state["picked run"]),
    )
    return found
