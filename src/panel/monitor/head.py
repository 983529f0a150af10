"""The head of a run's page: status, progress, the numbers that one looks for first, warnings."""

from collections.abc import Mapping, Sequence
from html import escape

import streamlit as st

from src.format import as_sentence, duration, full_stop, number, percent
from src.models.metrics import in_words, short_label
from src.panel.ui import failure, folds, html, navigation, run_status
from src.panel.ui.charts import Curves
from src.runs import attempts, cost, diagnosis
from src.runs.time_left import TimeLeft
from src.store.tables import Checkpoint, Event, EventKind, Run, Status


def as_html(
    run: Run, latest: Mapping[str, float | None], left: TimeLeft | None, said: str, *,
    best: int | None, zone_name: str | None = None,
) -> str:  # fmt: skip
    """HTML of status and `said`, which explains it, of progress, of the latest metrics and of the
    time that is left; `best` is the best step, if one is better than others. Times are in the
    named zone, or else in the reader's."""
    status, pairs = Status(run.status), facts(run, latest)
    if not status.ended:
        if left and status is Status.QUEUED:
            starts = f"≈ {duration(left.starts)}" if left.starts >= 1 else "at once"
            pairs.append(("starts in", starts))
        pairs.append(("time left", f"≈ {duration(left.ends)}" if left else "–"))
    if not status.active:  # what it has not measured, it will not now
        pairs = [(name, value) for name, value in pairs if value != "–"]
        pairs.append(("launched", html.local_time(run.created_at, "%d %b, %H:%M", zone_name)))
    log = ""
    if status in failure.BADLY:
        log = ' · <a class="inner" href="#" data-jump=".st-key-chosen-view">See the log</a>'
    score = latest.get("val/exact_match")
    return f"{status_line(run, said, best, log, score=score)}{html.facts(pairs)}"


def status_line(
    run: Run, said: str, best: int | None, more: str = "", *, score: float | None = None
) -> str:
    """HTML: status and `said`, which explains it, the best step, `more` (HTML) and progress.

    `score` is the exact match.
    """
    said = escape(in_words(said))
    if best is not None:
        said += f" · best at step {best:,}"
    tone = "reason"
    # In the place of what the run does, so that nothing moves when it comes and goes.
    if silent := run_status.silent(run):
        tone = "reason silent"
        said = f"{silent}: the machine is stopped or overloaded. The run is not lost."
    return (
        f'<div class="run-head">{run_status.badge(run, score)}'
        f'<span class="{tone}">{said}{more}</span>'
        f'<span class="step">{run_status.steps(run)}</span>{run_status.bar(run, score)}</div>'
    )


def silence(run: Run) -> str:
    """Words for a screen reader on an active run without a sign of life; empty for another one.

    It names no time, so that it is told once and not at each refresh.
    """
    return "The run gives no sign of life." if run_status.silent(run) else ""


def facts(run: Run, latest: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """(name, value) of the numbers that one looks for first."""
    status = Status(run.status)
    processor = "GPU" if "gpu/memory_gib" in latest else "CPU"
    memory = latest.get(f"{processor.lower()}/memory_gib")
    tested = latest.get("test/exact_match")
    # At its end a run restores its best step and scores that one: not the step of the last loss.
    restored = status in (Status.COMPLETED, Status.STOPPED) and run.best_step is not None
    apart = restored and run.best_step != run.step
    best, last = (", best step", ", last step") if apart else ("", "")
    return [
        *([(short_label("test/exact_match"), percent(tested))] if tested is not None else []),
        (f"{short_label('val/exact_match')}{best}", percent(latest.get("val/exact_match"))),
        (f"validation loss{best}", number(latest.get("val/loss"))),
        (f"training loss{last}", number(latest.get("train/loss"))),
        ("speed", number(latest.get("tokens_per_second"), ",.0f", "tokens/s")),
        (f"{processor} memory", number(memory, ".2f", "GiB")),
        ("duration" if status.ended else "so far", duration(run.seconds)),
        *cost.taken(run.machine_seconds, run.energy_wh),
    ]


def diagnosed(run: Run, curves: Curves) -> diagnosis.Diagnosis | None:
    """Why a completed run learned nothing, by its curves; None for another one."""
    frames = curves.frames
    values = {n: frames[n]["value"].dropna().tolist() if n == "val/exact_match" else
              frames[n]["value"].tolist() for n in diagnosis.METRICS if n in frames}  # fmt: skip
    return diagnosis.diagnose(run, values)


def draw_diagnosis(run: Run, curves: Curves) -> None:
    """Draw why a completed run learned nothing, and the launch that would mend it."""
    if (found := diagnosed(run, curves)) is None:
        return
    query = {"from": run.id, found.setting: f"{found.value:g}"}
    link = navigation.link("launch", f"Launch with {found.action}", query, style="button")
    text = escape(full_stop(found.text))
    st.html(f'<div class="banner" role="status"><span>{text}</span>{link}</div>')


def draw_failure(run: Run, kept: Sequence[Checkpoint]) -> None:
    """Draw why a run ended badly, and what to do next."""
    if run.status in failure.BADLY:
        last = max((checkpoint.step for checkpoint in kept), default=None)
        failure.draw(run, last, resume=attempts.resume, args=(run,))


def draw_warnings(events: Sequence[Event]) -> None:
    """Draw in a banner of one line what failed last without ending the run."""
    warnings = [event for event in events if event.kind == EventKind.WARNING]
    if warnings:
        many = f" ({len(warnings)} warnings, see Lineage)" if len(warnings) > 1 else ""
        text = escape(as_sentence(in_words(warnings[-1].text))) + many
        st.html(f'<div class="banner" role="status">{folds.folded("line", text)}</div>')
