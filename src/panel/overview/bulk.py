"""Actions on the chosen runs: compare, stop, resume, tag, archive, delete

All are callbacks, as on the page of a run (panel/monitor/actions.py). The choice stays whatever
happens; what was done is told, and for which runs it could not be done and why.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

import streamlit as st

from src import store
from src.errors import UserError, explain
from src.format import counted
from src.panel.access.guard import Pool
from src.panel.overview import address
from src.panel.ui import guarded, html, navigation, tags
from src.runs import attempts, deletion, launcher, snapshots
from src.store.tables import RESUMABLE, Status

MAX_COMPARED = 60  # more lines than a chart can tell apart, and an address can name
ENDED = frozenset(status for status in Status if status.ended)
# In the state of the session.
PROBLEM, WORK = "overview: problem", "overview: work"
SOON_SECONDS = 1.0  # work that takes no longer shows no progress


# Such work goes on when its page is left. One at a time: they all write to the run table.
_pool = Pool(max_workers=1, thread_name_prefix="bulk")


@dataclass
class _Work:
    """Work on one run after the other, beside the page."""

    ids: Sequence[str]
    act: Callable[[str], object]
    done: str  # what is said of the runs in the end: "resumed"
    before: int = 0  # runs with which it was done already
    count: int = 0  # runs of `ids` with which it was done
    failed: list[str] = field(default_factory=list)  # why not with others
    future: "Future[None] | None" = None

    def run(self) -> None:
        for run_id in self.ids:
            try:
                self.act(run_id)
                self.count += 1
            except (UserError, OSError) as error:
                self.failed.append(explain(error))


def draw_told() -> None:
    """Tell what the last action did, once, and what it could not do, until the next one; how far it
    is while it goes on."""
    _finish()
    if work := st.session_state.get(WORK):
        through = work.count + len(work.failed)
        text = f"{through:,} of {counted(len(work.ids), 'run')} {work.done}"
        st.progress(through / max(1, len(work.ids)), text)
    guarded.draw_told()
    if why := st.session_state.get(PROBLEM):
        html.draw_problem(why)


def draw(chosen: Sequence[store.RunState], total: int, text: str) -> None:
    """Draw the bar of the chosen runs; `total` runs fit the filter `text`."""
    if not chosen:
        return
    ids = [run.id for run in chosen]
    with st.container(horizontal=True, vertical_alignment="center", key="bulk-bar"):
        st.html(_head(len(ids), total, text), width="content")
        if 1 < len(ids) <= MAX_COMPARED:
            compare = f"Compare {counted(len(ids), 'run')}"
            link = navigation.link("compare", compare, {"run": ids}, style="button")
        elif len(ids) == 1:
            link = navigation.link("compare", "Compare 1 run", {"run": ids}, style="second")
        else:
            link = f"<small>Compare takes up to {MAX_COMPARED}</small>"
        st.html(link, width="content")
        going = [run.id for run in chosen if run.status not in ENDED]
        if going:
            with st.popover(f"Stop {len(going)}", key="bulk-stop"):
                st.write("They stop at their next step with a checkpoint; queued ones never start.")
                guarded.button("Stop them", type="primary", on_click=stop, args=(going,))
        if again := [run.id for run in chosen if run.status in RESUMABLE]:
            guarded.button(f"Resume {len(again)}", on_click=resume, args=(again,))
        with st.popover("Tag", key="bulk-tag"):
            st.text_input("Tags, with commas between", key="bulk tags", max_chars=500)
            with st.container(horizontal=True):
                guarded.button("Add", on_click=tag, args=(ids, True))
                guarded.button("Remove", on_click=tag, args=(ids, False))
        if listed := [run.id for run in chosen if run.archived_at is None]:
            guarded.button("Archive", on_click=archive, args=(listed,))
        if hidden := [run.id for run in chosen if run.archived_at is not None]:
            guarded.button("Unarchive", on_click=archive, args=(hidden, False))
        asked = st.popover("Delete", key="bulk-delete", on_change="rerun")
        with asked:
            if asked.open:  # only then: it looks at every file of theirs
                _draw_deletion(deletion.plan(chosen))


def _head(count: int, total: int, text: str) -> str:
    links = [f"<b>{counted(count, 'run')} chosen</b>"]
    choice = address.choose_all(text)
    if total and choice != address.query():
        every = f"Choose all {total:,}" + (" that fit" if text else "")
        links.append(navigation.link("overview", every, choice))
    none = address.query(pick=None, all=None, drop=None)
    links.append(navigation.link("overview", "Clear", none))
    return f'<p class="chips">{" ".join(links)}</p>'


def _draw_deletion(plan: deletion.Plan) -> None:
    st.write(html.label_text(plan.sentence, 2000))
    if plan.runs:
        text = f"Delete {counted(len(plan.runs), 'run')}"
        ids = [run.id for run in plan.runs]
        guarded.button(text, type="primary", key="bulk-delete-now", on_click=delete, args=(ids,))


def stop(ids: Sequence[str]) -> None:
    """In a callback: ask runs to stop."""
    _each(ids, launcher.stop, "asked to stop")


def resume(ids: Sequence[str]) -> None:
    """In a callback: queue the next attempt of runs."""
    with store.reading() as session:
        runs = {run.id: run for run in store.runs_of(session, ids)}
    _each(list(runs), lambda run_id: attempts.resume(runs[run_id]), "resumed")


def archive(ids: Sequence[str], archived: bool = True) -> None:
    """In a callback: take runs out of the lists, or put them back."""
    done = "archived" if archived else "put back"

    def change(run_id: str) -> None:
        launcher.archive([run_id], archived=archived)

    with store.reading() as session:
        ready = {run.id for run in store.states_of(session, ids) if run.status in ENDED}
    try:
        launcher.archive([run_id for run_id in ids if run_id in ready], archived=archived)
    except (UserError, OSError):
        return _each(ids, change, done)  # one of them went on meanwhile: the others all the same
    rest = [run_id for run_id in ids if run_id not in ready]
    _each(rest, change, done, before=len(ready))


def tag(ids: Sequence[str], added: bool) -> None:
    """In a callback: add the typed tags to runs, or remove them."""
    typed = tags.split(st.session_state.get("bulk tags"))
    if not typed:
        st.session_state[PROBLEM] = "Type a tag first."
        return

    def change(session: store.Session) -> None:
        for run in store.runs_of(session, ids):
            kept = [one for one in run.tags or [] if one not in typed]
            new = [*kept, *typed] if added else kept
            store.set_notes(session, run.id, tags=new, notes=run.notes)

    def write() -> None:
        with store.writing() as session:
            change(session)
        snapshots.write_runs(ids)

    named = ", ".join(typed)
    _told(write, f"{counted(len(ids), 'run')} {'tagged' if added else 'lost the tag'} {named}.")


def delete(ids: Sequence[str]) -> None:
    """In a callback: delete runs with their files."""
    with store.reading() as session:
        runs = store.runs_of(session, ids)
    deleted: list[str] = []
    _told(lambda: deleted.extend(deletion.delete_all(runs)), "")
    if deleted:
        guarded.tell(f"Deleted {counted(len(deleted), 'run')}.")
    if len(deleted) < len(runs) and PROBLEM not in st.session_state:
        left = len(runs) - len(deleted)
        st.session_state[PROBLEM] = f"{counted(left, 'run')} went on meanwhile and stayed."


def _told(act: Callable[[], None], done: str) -> None:
    """Do it and note what is to be told."""
    st.session_state.pop(PROBLEM, None)
    try:
        act()
        guarded.tell(done)
    except (UserError, OSError) as error:
        st.session_state[PROBLEM] = explain(error)


def _each(ids: Sequence[str], act: Callable[[str], object], done: str, *, before: int = 0) -> None:
    """Do it with each run, beside the page where that takes long; tell in the end with how many,
    `before` among them, and why not with the others."""
    if WORK in st.session_state:
        st.session_state[PROBLEM] = "Wait until the runs of before are through."
        return
    st.session_state.pop(PROBLEM, None)
    work = _Work(ids, act, done, before)
    work.future = _pool.submit(work.run)
    st.session_state[WORK] = work
    wait([work.future], timeout=SOON_SECONDS)
    _finish()


def _finish() -> None:
    """Note what is to be told of work that has ended."""
    work: _Work | None = st.session_state.get(WORK)
    if work is None or work.future is None or not work.future.done():
        return
    del st.session_state[WORK]
    work.future.result()  # raises what no sentence is known for
    if count := work.before + work.count:
        guarded.tell(f"{counted(count, 'run')} {work.done}.")
    if failed := work.failed:
        shown = failed[:5]
        more = [f"and {len(failed) - 5:,} more"] if len(failed) > 5 else []
        st.session_state[PROBLEM] = "\n".join([*shown, *more])
