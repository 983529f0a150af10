"""A run's status and progress as every page shows them."""

from src import store
from src.format import duration
from src.runs import silence
from src.store.tables import Run, Status

# Shown beside the status word: colour is never the only mark.
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


def meaning(run: Run, *, paused: bool = False) -> str:
    """The meaning of a status in a few words; `paused` if its sweep is paused."""
    if run.status == Status.QUEUED and run.held_at:
        return store.HELD_REASON
    if run.status == Status.QUEUED and paused:
        return "waits while its sweep is paused"
    return MEANING[Status(run.status)]


def silent(run: Run) -> str:
    """`No sign of life for 7 min`; empty for another run than an active one that gives none."""
    seconds = silence.seconds(run)
    return "" if seconds is None else f"No sign of life for {duration(seconds)}"


def badge(run: Run, score: float | None = None) -> str:
    """HTML: the status as a coloured word, its meaning as a tooltip; with its `score`, the exact
    match, a completed run that has no right answer says so."""
    if gave_nothing(run, score):
        title = "ended by itself, but no answer of the validation set is right"
        return f'<span class="badge completed nothing" title="{title}">no right answer</span>'
    shown = "held" if run.status == Status.QUEUED and run.held_at else run.status.lower()
    return f'<span class="badge {shown}" title="{meaning(run)}">{shown}</span>'


def gave_nothing(run: Run, score: float | None) -> bool:
    """True for a completed run that has no right answer."""
    return run.status == Status.COMPLETED and score == 0


def steps(run: Run) -> str:
    """`attempt 2 · step 30 of 600`."""
    attempt = f"attempt {run.attempt} · " if run.attempt > 1 else ""
    return f"{attempt}step {run.step or 0:,} of {run.max_steps:,}"


def bar(run: Run, score: float | None = None) -> str:
    """HTML: progress as a bar, in the colour of the badge; a screen reader says `step N of M`."""
    share = min(1.0, (run.step or 0) / run.max_steps)
    tone = run.status.lower() + " nothing" * gave_nothing(run, score)
    return (
        f'<span class="bar {tone}" role="progressbar" aria-label="{steps(run)}" '
        f'aria-valuenow="{share * 100:.0f}" aria-valuemin="0" aria-valuemax="100">'
        f'<i style="width:{share * 100:.1f}%"></i></span>'
    )
