"""Notices in words: the message that a person gets, and the document that a webhook gets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from src import store
from src.format import GIB, capital, duration, full_stop, settings_text
from src.models.metrics import in_words, metric_label, value_text
from src.runs import time_left
from src.runs.notifications import LOW_DISK_BYTES
from src.store.tables import Notice, NoticeKind, Run

MAX_TOLD = 20  # messages in one that gathers several

HAPPENED: dict[str, str] = {
    NoticeKind.COMPLETED: "completed",
    NoticeKind.STOPPED: "was stopped",
    NoticeKind.FAILED: "failed",
    NoticeKind.INTERRUPTED: "was interrupted",
    NoticeKind.RESUMED: "goes on",
    NoticeKind.SWEEP_COMPLETED: "is done",
    NoticeKind.SWEEP_CONFIRMED: "has its best settings confirmed",
    NoticeKind.SWEEP_FAILED: "goes no further",
}
OF_RUNS = (
    NoticeKind.COMPLETED, NoticeKind.STOPPED, NoticeKind.FAILED, NoticeKind.INTERRUPTED,
    NoticeKind.RESUMED,
)  # fmt: skip
OF_SWEEPS = (NoticeKind.SWEEP_COMPLETED, NoticeKind.SWEEP_CONFIRMED, NoticeKind.SWEEP_FAILED)
TOLD_OF = (
    "a run completed, was stopped, failed, was interrupted or goes on",
    "a sweep is done, with its best settings and the verdict on them; not that a trial of it ended",
    f"less than {LOW_DISK_BYTES // GIB} GiB are left on the disk, or the budget of this machine "
    "is used",
    "the machine is idle and its command is about to run (`when_idle`), or that it failed",
)
OF_MACHINE: dict[str, str] = {
    NoticeKind.DISK: "The disk is nearly full",
    NoticeKind.BUDGET: "The budget is used",
    NoticeKind.IDLE: "The machine is idle",
    NoticeKind.IDLE_FAILED: "The command of the idle machine failed",
}
SCORES = ("test/exact_match", "val/exact_match", "val/loss")


@dataclass(frozen=True)
class Message:
    """The words in which a person is told of a notice."""

    title: str
    body: str
    kind: str


TEST = Message("A test from Spelltune", "Messages arrive here.", "test")


def message(session: store.Session, notice: Notice) -> Message | None:
    """The message of a notice; None where there is nothing to tell (any more)."""
    if (title := OF_MACHINE.get(notice.kind)) is not None:
        return Message(title, full_stop(notice.text or ""), notice.kind)
    try:
        told = _of_run if notice.kind in OF_RUNS else _of_sweep
        return told(session, notice)
    except store.UnknownRun:
        return None  # it was deleted


def _of_run(session: store.Session, notice: Notice) -> Message:
    run = store.find(session, notice.subject or "")
    sentences = [_sentence(notice.text)] if notice.text else []
    if notice.kind != NoticeKind.RESUMED:
        sentences.append(_scores(session, run))
    title = f"{run.label} {HAPPENED[notice.kind]}"
    return Message(title, " ".join(s for s in sentences if s), notice.kind)


def _scores(session: store.Session, run: Run) -> str:
    """`Validation loss 0.2, ... after 600 of 600 steps in 6 min.`"""
    latest = store.latest_metrics(session, [run.id])[run.id]
    told = [score(name, latest[name]) for name in SCORES if latest.get(name) is not None]
    steps = f"{run.step or 0:,} of {run.max_steps:,} steps"
    took = f" in {duration(run.seconds)}" if run.seconds is not None else ""
    return _sentence(f"{', '.join(told)} after {steps}{took}" if told else f"{steps}{took}")


def _sentence(text: str) -> str:
    text = in_words(text)
    return full_stop(capital(text))


def score(metric: str, value: float | None) -> str:
    """`validation accuracy (exact match) 87.5%`."""
    return f"{metric_label(metric)} {value_text(metric, value)}"


def _of_sweep(session: store.Session, notice: Notice) -> Message | None:
    from src.sweeps import results  # loads pandas and optuna

    row = store.find_sweep(session, notice.subject or "")
    sentences = [_sentence(notice.text)] if notice.text else []
    if notice.kind != NoticeKind.SWEEP_FAILED:
        found = results.read(session, row)
        if notice.kind == NoticeKind.SWEEP_CONFIRMED and results.is_confirming(found):
            return None  # the last of them leaves another one
        counts = ", ".join(f"{many:,} {what}" for what, many in found.counts.items())
        sentences += [f"Trials: {counts or 'none'}.", *_best(found)]
        judged, rest = results.judge(session, found, lambda run: run.label)
        sentences += [_sentence(verdict.sentence) for verdict in judged]
        sentences += [f"Judged {rest}."] if judged and rest else []
    return Message(f"{row.name} {HAPPENED[notice.kind]}", " ".join(sentences), notice.kind)


def _best(found: Any) -> list[str]:
    """Sentences on the best settings of a sweep: none if no trial has a score."""
    from src.sweeps import results

    if found.settings.empty:
        return ["No trial has a score."]
    best = score(found.sweep.metric, float(found.settings["score"].iloc[0]))
    if (tied := results.tied(found.settings)) > 1:
        return [f"No best: {tied:,} of {len(found.settings):,} settings tie at {best}."]
    return [f"Best: {settings_text(results.top(found, 1)[0])}, with {best}."]


def plain(notice: Notice) -> Message:
    """A message for a notice of which no more can be read."""
    happened = HAPPENED.get(notice.kind, notice.kind)
    return Message(f"{notice.subject or 'Spelltune'} {happened}", notice.text or "", notice.kind)


def together(messages: Sequence[Message]) -> Message:
    """One message for several."""
    if len(messages) == 1:
        return messages[0]
    counts = Counter(HAPPENED.get(one.kind, one.title.lower()) for one in messages)
    title = "Spelltune: " + ", ".join(f"{many:,} {what}" for what, many in counts.items())
    lines = [f"{one.title}. {one.body}".strip() for one in messages[:MAX_TOLD]]
    if len(messages) > MAX_TOLD:
        lines.append(f"... and {len(messages) - MAX_TOLD:,} more")
    return Message(title, "\n".join(lines), "several")


def document(session: store.Session, notice: Notice, told: Message) -> dict[str, Any]:
    """The document that a webhook gets: what happened, and the document of the run or the sweep."""
    found: dict[str, Any] = {
        "event": told.kind, "id": notice.id, "at": notice.at, "title": told.title,
        "text": told.body, "run": None, "sweep": None,
    }  # fmt: skip
    if notice.kind in OF_RUNS:
        run = store.find(session, notice.subject or "")
        found["run"] = time_left.document(session, run)
    elif notice.kind in OF_SWEEPS:
        from src.sweeps import results

        row = store.find_sweep(session, notice.subject or "")
        found["sweep"] = results.document(session, results.read(session, row))
    return found
