"""A sweep's head, facts and sentences."""

from html import escape

from src.format import duration, settings_text
from src.models.metrics import is_share, metric_label, short_label, value_text
from src.panel.ui import html, navigation
from src.runs import cost
from src.store.tables import Status, Sweep, SweepStatus
from src.sweeps import control, ranking, results
from src.sweeps.file import base_config
from src.sweeps.results import SweepResults

BY_LOSS = "val/loss"  # tells settings apart while none of them gives a right answer
MEANING: dict[str, str] = {  # tooltip of a status
    SweepStatus.ACTIVE: "queues trials",
    SweepStatus.PAUSED: "starts no further trial",
    SweepStatus.CANCELLED: "was ended by a person",
    SweepStatus.COMPLETED: "has ended",
    Status.FAILED: "starts no further trial, as its driver failed, until it is resumed",
}


def badge(row: Sweep) -> str:
    """HTML: the status as a coloured word, its meaning as a tooltip."""
    status = row.told_status
    meaning = MEANING[status]
    return f'<span class="badge {status.lower()}" title="{meaning}">{status.lower()}</span>'


def head(found: SweepResults) -> str:
    """HTML: name, status and method of a sweep."""
    sweep, many = found.sweep, len(found.sweep.space)
    pruned = "" if sweep.pruner == "none" else f", pruned by {sweep.pruner}"
    about = f"{sweep.method} over {many} {'setting' if many == 1 else 'settings'}{pruned}"
    return f"<h1>{escape(found.row.name)}</h1>{badge(found.row)}<span>{escape(about)}</span>"


def facts(found: SweepResults) -> str:
    """HTML: trials by outcome, time spent and the best score."""
    row, counts = found.row, found.counts
    total = results.total(found)
    of = "" if total is None else f" of {total:,}"
    pairs = [("trials launched", f"{len(found.trials):,}{of}")]
    pairs += [(what, f"{count:,}") for what, count in counts.items()]
    limit = f" of {duration(row.seconds)}" if row.seconds else ""
    pairs.append(("time", duration(row.spent_seconds) + limit))
    if (left := results.seconds_left(found)) is not None:
        pairs.append(("time left", f"≈ {duration(left)}"))
    pairs += cost.taken(*found.usage)
    if len(found.settings):
        pairs.append((f"best {short_label(found.sweep.metric)}", best_score(found)))
    return html.facts(pairs)


def draw_no_trials(found: SweepResults) -> None:
    """Draw why there are no trials, and what to do."""
    if found.row.status in control.OPEN:
        html.draw_empty("No trials yet", "The first ones are queued within seconds.")
        return
    again = navigation.link("sweeps", "Launch another sweep", style="button")
    html.draw_empty("No trials", f"This sweep ended before it had queued one.<br><br>{again}")


def draw_no_score(found: SweepResults) -> None:
    """Draw why no trial has a score, and where to look."""
    if found.row.status in control.OPEN:
        html.draw_empty("No score yet", "It is there when the first trial has ended.")
        return
    why = "None of its trials ended with a score. The view Trials says how each of them ended."
    html.draw_empty("No score", why)


def best_claim(found: SweepResults) -> str:
    """HTML: the best settings with their score."""
    values, row = results.top(found, 1)[0], found.settings.iloc[0]
    seeds = ranking.seeds_text(int(row["seeds"]), found.sweep)
    told = f"{best_score(found)}{f' by {seeds}' if seeds else ''}"
    best = "Best so far" if found.row.status in control.OPEN else "Best"
    return (
        f"<b>{best}: {escape(settings_text(values))}</b>, with "
        f"{escape(metric_label(found.sweep.metric))} {told}"
    )


def tie_claim(found: SweepResults, tied: int) -> str:
    """HTML: that several settings share the best score, and what would tell them apart."""
    best, metric = found.settings["score"].iloc[0], found.sweep.metric
    steps = base_config(found.sweep).training.max_steps
    advice = f"Score more validation rows, or rank them by {escape(metric_label(BY_LOSS))}."
    if is_nothing_right(found):
        advice = (
            f"{steps:,} steps may be too few for a right answer: launch the sweep with more, or "
            f"rank its trials by {escape(metric_label(BY_LOSS))}."
        )
    return (
        f"<b>No best: {tied:,} of {len(found.settings):,} settings tie</b> at "
        f"{escape(metric_label(metric))} {value_text(metric, best)}. {advice}"
    )


def is_nothing_right(found: SweepResults) -> bool:
    """True if the best score is 0%, so that nothing is to be gained from any of the settings."""
    scores = found.settings["score"]
    return is_share(found.sweep.metric) and len(scores) > 0 and scores.iloc[0] == 0


def best_score(found: SweepResults) -> str:
    """The best score as text; the mean of several seeds with their standard deviation."""
    row = found.settings.iloc[0]
    return value_text(found.sweep.metric, row["score"], row["sd"] if row["seeds"] > 1 else None)


def confirmed(found: SweepResults) -> str:
    """`2 of 20 confirming runs are done, 18 were stopped`."""
    statuses = [Status(run.status) for run in found.confirming]
    stopped = sum(status in (Status.STOPPED, Status.CANCELLED) for status in statuses)
    failed = sum(status in (Status.FAILED, Status.INTERRUPTED) for status in statuses)
    said = f"{statuses.count(Status.COMPLETED)} of {len(statuses)} confirming runs are done"
    for many, what in ((stopped, "stopped"), (failed, "lost to an error")):
        said += f", {many} {'was' if many == 1 else 'were'} {what}" if many else ""
    return said
