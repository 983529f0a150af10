"""Cards above the table: the runs that train, and those that ended without a result of late"""

import time
from html import escape

import streamlit as st

from src import store
from src.config import DEFAULT_PRESET, load_config
from src.errors import UserError, explain
from src.format import duration, percent
from src.models.metrics import metric_label
from src.panel.overview import address, bulk
from src.panel.ui import failure, html, navigation, run_status
from src.runs import launcher, time_left
from src.store.tables import ACTIVE, Run, Status

FIRST_RUN = navigation.OneShotButton("first run")
MAX_CARDS, MAX_FAILED = 6, 2
RECENT_SECONDS = 2 * 86_400


def draw() -> frozenset[str]:
    """Draw the cards; nothing where nothing trains and nothing failed. Returns the ids of the runs
    whose failure they tell."""
    with store.reading() as session:
        active = store.list_runs(session, statuses=ACTIVE, limit=MAX_CARDS + 1)
        failed = store.failed_since(session, time.time() - RECENT_SECONDS, limit=MAX_FAILED + 1)
        shown = [*active[:MAX_CARDS], *failed[:MAX_FAILED]]
        latest = store.latest_metrics(session, [run.id for run in shown])
        last = store.last_checkpoints(session, [run.id for run in failed[:MAX_FAILED]])
        cards = [_card(session, run, latest[run.id]) for run in active[:MAX_CARDS]]
    if len(active) > MAX_CARDS:
        cards.append(_more("all that train", "status:active"))
    if cards:
        st.html(f'<section class="cards" aria-label="Training now">{"".join(cards)}</section>')
    for run in failed[:MAX_FAILED]:
        own = ([run.id],)
        failure.draw(run, last.get(run.id), resume=bulk.resume, args=own, archive=bulk.archive)
    if len(failed) > MAX_FAILED:
        text = "More runs ended without a result in the last two days"
        link = navigation.link("overview", text, address.filtered("status:failed,interrupted"))
        st.html(f'<p class="quiet">{link}</p>')
    return frozenset(run.id for run in failed[:MAX_FAILED])


def _more(text: str, find: str) -> str:
    link = navigation.link("overview", text, address.filtered(find))
    return f'<article class="card more">{link}</article>'


def _card(session: store.Session, run: Run, latest: dict[str, float | None]) -> str:
    left = time_left.of_run(session, run)
    score = latest.get("val/exact_match")
    told = f"≈ {duration(left.ends)} left" if left else run.phase or run_status.meaning(run)
    silent = run_status.silent(run)
    more = [f'<strong class="silent">{silent}</strong>' if silent else escape(told)]
    for processor in ("GPU", "CPU"):
        if (memory := latest.get(f"{processor.lower()}/memory_gib")) is not None:
            more.append(f"{memory:.1f} GiB of {processor} memory")
            break
    name = navigation.link("monitor", run.label, {"run": run.id})
    return (
        f'<article class="card"><header>{name}{run_status.badge(run)}</header>'
        f"{run_status.bar(run)}"
        f"<footer><b>{percent(score)}</b><small>{metric_label('val/exact_match')}</small>"
        f"<span>{run_status.steps(run)}<br>{', '.join(more)}</span></footer></article>"
    )


def tally(counts: dict[Status, int]) -> str:
    """`1 running, 2 queued`, or `nothing is running`."""
    known = [(s, counts.get(s, 0)) for s in Status if not s.ended]
    return ", ".join(f"{n:,} {s.lower()}" for s, n in known if n) or "nothing is running"


def draw_first_visit() -> None:
    """Draw what to do where there are no runs: the launch of the first one, and its settings."""
    steps = (
        "Launch a run with the settings that are known to work: two minutes on two CPU cores.",
        "Watch it learn: its score rises with each evaluation.",
        "Read the words that it still gets wrong, and change a setting.",
    )
    listed = "".join(f"<li>{escape(step)}</li>" for step in steps)
    with st.container(horizontal_alignment="center", key="first-visit"):
        html.draw_empty("Teach a language model to spell", f'<ol class="steps">{listed}</ol>')
        with st.container(horizontal=True, vertical_alignment="center", width=320):
            pressed = FIRST_RUN.draw("Launch now", disabled=False)
            st.html(navigation.link("launch", "Change settings", style="second"), width="content")
        if pressed:
            _launch_first(pressed)


def _launch_first(press: navigation.Press) -> None:
    config = load_config(preset=DEFAULT_PRESET)
    try:
        with st.spinner("Launching"):
            run_id = press.submit(lambda: launcher.launch(config))
    except (UserError, OSError) as error:
        return html.draw_problem(explain(error))
    navigation.go("monitor", {"run": run_id})
