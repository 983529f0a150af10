"""Links between pages, reruns of a page, buttons that submit once, and the choice of a run."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import streamlit as st

from src import store
from src.format import as_sentence, percent
from src.panel.ui import choices, guarded, html, query_params
from src.paths import ROOT
from src.store.tables import Run, Status

PAGES = ROOT / "pages"
MAX_SEGMENTS = 6  # choices beside each other; more of them open as a list
MAX_CHOICES = 300  # runs in the list to choose from; an address reaches older ones too


def address(page: str, query: Mapping[str, object] | None = None) -> str:
    """The address of a page of the panel, relative to the panel's own."""
    path = "./" if page == "overview" else page
    return path + (f"?{urlencode(query, True)}" if query else "")


def link(
    page: str, text: str, query: Mapping[str, object] | None = None, *, style: str = "",
    label: str = "", then: str = "",
) -> str:  # fmt: skip
    """HTML of a link to a page of the panel; `style` is a class of panel.css, such as "button".

    `label` is the accessible name of a link whose text is a symbol. `then` is a selector of what on
    this page the reader is taken to. A plain click keeps the session (links.js).
    """
    href = escape(address(page, query))
    name = f' aria-label="{escape(label)}" title="{escape(label)}"' if label else ""
    name += f' data-then="{escape(then)}"' if then else ""
    return f'<a class="inner {style}" href="{href}" target="_self"{name}>{escape(text)}</a>'


def pick_box(ids: Collection[str], *, name: str, chosen: bool, base: Collection[str] = ()) -> str:
    """HTML of a box that picks a row: a tick puts its ids into `pick` of the address or takes them
    out; those in `base`, which the address picks by a filter, out of `drop` or into it
    (links.js)."""
    own = " ".join(run_id for run_id in ids if run_id not in base)
    filtered = " ".join(run_id for run_id in ids if run_id in base)
    checked = " checked" if chosen else ""
    return (
        f'<label class="pick"><input type="checkbox" data-pick="{escape(own)}" '
        f'data-drop="{escape(filtered)}"{checked} aria-label="{escape(name)}"></label>'
    )


# Links in our HTML are real ones, to be copied or opened in a tab. links.js handles plain clicks,
# so that they do not load the panel again, and opens what `go` asks for.
_links = st.components.v2.component(
    "spelltune.links",
    js=Path(__file__).with_name("links.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def draw_links() -> None:
    """Have the browser follow links to other pages. Ends the script if `go` or `go_next` has called
    one."""
    to = st.session_state.pop("go to", None)
    # The number tells two calls of one address apart.
    _links(key="links", data={"to": to, "number": time.time_ns() if to else 0})
    if to is not None:
        st.stop()
    if said := st.session_state.pop("said", None):
        st.toast(said)


def go(
    page: str, query: Mapping[str, str | list[str]] | None = None, *, said: str | None = None
) -> None:
    """End the script and show another page, with a message of what was done."""
    go_next(page, query, said=said)
    rerun_page()


def go_next(
    page: str, query: Mapping[str, str | list[str]] | None = None, *, said: str | None = None
) -> None:
    """In a callback: show another page in the place of this one, with a message."""
    st.session_state.update({"go to": address(page, query), "said": said})


def segments(label: str, options: Sequence[str], *, key: str, show_label: bool = False) -> str:
    """Draw a choice that stands in the address, and return what is chosen: the first option where
    the address names none of them.

    It is not bound to the address by Streamlit, which on the way back from another page with a
    choice of that key would take it out.
    """
    visibility = "visible" if show_label else "collapsed"
    if len(options) > MAX_SEGMENTS:
        return choices.one(label, options, str, key=key, width=240, label_visibility=visibility)
    return choices.segment(label, options, str, key=key, label_visibility=visibility)


def rerun_page() -> None:
    """Rerun the page. Yields first, so that a pending click wins: `st.rerun` would discard its
    navigation."""
    st.empty()  # any Streamlit call yields: the script ends here if a click waits
    st.rerun()


@dataclass(frozen=True)
class Press:
    """A press of a `OneShotButton`."""

    created: list[str]  # ids of what presses of this button created in this session
    number: int  # of them, when the button was drawn
    lock: AbstractContextManager[Any]

    def submit(self, create: Callable[[], str]) -> str:
        """Call `create` and return the id that it returns; that of another press of the same button
        if it came first."""
        with self.lock:  # nothing may yield to Streamlit between `create` and the list
            if len(self.created) == self.number:
                self.created.append(create())
            return self.created[self.number]


class OneShotButton:
    """A button that submits once, also on a double click.

    Streamlit ends a running script when the button is pressed again, which may be after the script
    launched something and before it could show the result. So the session keeps the ids of what
    each button created, and the button's widget key changes with each of them: in the rerun, a
    pressed widget under an older key is the second press. It may also come while the script of the
    first one still launches: then it waits for that one's id. A press is noted by a callback, as a
    page that refreshes itself may lose it otherwise.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # unique in the panel: part of the widget's key

    def draw(self, label: str, *, disabled: bool) -> "Press | None":
        """Draw the button; its press, if it was pressed."""
        created = self._created()
        number = len(created)
        guarded.button(
            label,
            type="primary",
            width="stretch",
            disabled=disabled,
            shortcut="Mod+Enter",
            key=self._key(number),
            on_click=self._note,
            args=(number,),
        )
        pressed = st.session_state.pop(self._noted, None) == number
        return Press(created, number, guarded.one_at_a_time()) if pressed else None

    def pressed_twice(self) -> str | None:
        """Id of what the last press created if the button was then pressed a second time."""
        created = self._created()
        if created and st.session_state.get(self._key(len(created) - 1)):
            return created[-1]
        return None

    def _note(self, number: int) -> None:
        st.session_state[self._noted] = number

    @property
    def _noted(self) -> str:
        return f"press of {self.name}"

    def _key(self, number: int) -> str:
        return f"{self.name} {number}"

    def _created(self) -> list[str]:
        return cast("list[str]", st.session_state.setdefault(f"created by {self.name}", []))


def draw_unknown_run(error: store.UnknownRun) -> None:
    """Draw that an address names a run that there is not, with a link to all of them."""
    back = link("overview", "See all runs")
    st.html(f'<p class="problem" role="alert">{_unknown(error)} {back}</p>')


def _unknown(error: store.UnknownRun) -> str:
    """HTML: that no run is called so."""
    return html.with_code(as_sentence(error.text))


def known_runs() -> dict[str, str]:
    """{id: label with state and score} of the runs that one may choose from, newest first."""
    with store.reading() as session:
        return with_outcomes(session, store.run_labels(session, limit=MAX_CHOICES))


def with_outcomes(session: store.Session, labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of runs with how each ended and its score: `rank16 · seed 2 · 95.4%`. Of a run
    that goes on, the score would be old soon."""
    outcomes = store.run_outcomes(session, list(labels), "val/exact_match")
    told = {}
    for run_id, label in labels.items():
        status, score = outcomes[run_id]
        state = [] if status is Status.COMPLETED else [status.lower()]
        last = [percent(score)] if status.ended and score is not None else []
        told[run_id] = " · ".join([label, *state, *last])
    return told


def pick_run(
    labels: Mapping[str, str], *, will: str, scored: bool = False, show_label: bool = False
) -> Run | None:
    """Draw the choice of a run among `known_runs`; return the one of `?run=` in the address, else
    the newest, or with `scored` the newest one that has been scored. `will` says what stands here
    once there is a run.

    None, after an explanation is drawn, if there is no such run.
    """
    known = list(labels)
    with store.reading() as session:
        asked = st.query_params.get("run")
        if asked is None and scored:
            asked = store.newest_scored(session)
        asked = asked or next(iter(known), None)
        try:
            found = store.find(session, asked) if asked else None
        except store.UnknownRun as error:
            back = link("overview", "See all runs")
            html.draw_empty("No such run", f"{_unknown(error)}<br>{back}")
            return None
    if found is None:
        first = link("launch", "Set up the first run", style="button")
        html.draw_empty("No runs yet", f"{escape(will)}<br><br>{first}")
        return None
    chosen = found.id
    if chosen not in known:
        known.append(chosen)
    if st.query_params.get("run") != chosen:
        query_params.write("run", chosen)
    # The address decides; the widget only writes it. Assigned each time, so that the browser shows
    # what the run is called now.
    st.session_state["picked run"] = chosen
    st.selectbox(
        "Run",
        known,
        known.index(chosen),
        format_func=choices.noting(lambda run_id: labels.get(run_id, run_id), "picked run"),
        label_visibility="visible" if show_label else "collapsed",
        key="picked run",
        on_change=lambda: query_params.write("run", choices.meant("picked run")),
    )
    return found
