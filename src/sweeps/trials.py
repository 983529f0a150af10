"""The trials of a sweep: which are queued next, and which are tried again.

The run table is the only record: a trial is a row, its number is given once, and the process that
drives the sweep can die at any time.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError

from src import store
from src.config import DataConfig, RunConfig, with_absolute_paths
from src.runs import attempts, launcher, snapshots
from src.runs.machine import slot_count
from src.runs.result_file import record_failure
from src.store.outcome import EndReason
from src.store.tables import ACTIVE, EventKind, Run, Status, Sweep, SweepStatus
from src.sweeps import search
from src.sweeps.control import OPEN
from src.sweeps.file import SweepConfig, trial_config
from src.sweeps.search import PastTrial

# A lost machine is not the trial's fault; one that takes the machine down each time is.
MAX_RELAUNCHES = 10

# Settings that decide which questions and answers a trial has.
DATA = tuple(f"data.{name}" for name in DataConfig.row_settings())


def data_searched(sweep: SweepConfig) -> list[str]:
    """The searched settings that decide which questions and answers a trial has."""
    names = DATA
    multi = "data.multi_token_words"
    if multi in sweep.space or sweep.base.overrides.get(multi):
        names += ("model.name", "model.revision")
    return [name for name in names if name in sweep.space]


def trial_state(run: Run) -> TrialState:
    """The state of a run as Optuna names it."""
    match Status(run.status):
        case Status.COMPLETED | Status.STOPPED if run.stop_reason:
            return TrialState.PRUNED
        case Status.COMPLETED:
            return TrialState.COMPLETE
        case status if status.ended:
            return TrialState.FAIL
    return TrialState.RUNNING


def on_other_data(
    trials: Iterable[tuple[str, Mapping[str, Any], str | None]], sweep: SweepConfig
) -> set[str]:
    """Ids of those of the trials (run id, searched values, data fingerprint) that have other data
    than most, as when a file was replaced. Of equally many the newer data count.

    Where the data themselves are searched, trials with the same values of them have the same.
    """
    asked = data_searched(sweep)
    groups: dict[str, list[tuple[str, str]]] = {}
    for run_id, values, fingerprint in trials:
        if fingerprint is not None:
            key = repr([values.get(name) for name in asked])
            groups.setdefault(key, []).append((run_id, fingerprint))
    other: set[str] = set()
    for members in groups.values():
        counts = Counter(fingerprint for _, fingerprint in members)
        most = max(counts.values())
        usual = next(one for _, one in reversed(members) if counts[one] == most)
        other |= {run_id for run_id, fingerprint in members if fingerprint != usual}
    return other


def tried(
    sweep: SweepConfig,
    trials: Sequence[Run],
    metrics: dict[str, dict[str, float | None]],
    reports: Sequence[tuple[str, int, float, float]] = (),
    others: Collection[str] = (),
) -> list[PastTrial]:
    """The parameters that were suggested so far, each with the mean score of its seeds. Nothing is
    learned from `others`, which were scored on other data."""
    by_run: dict[str, dict[int, float]] = {}
    for run_id, step, reported, _ in reports:
        by_run.setdefault(run_id, {})[step] = reported
    members: dict[int, list[Run]] = {}
    for run in trials:
        members.setdefault((run.number or 0) // sweep.seeds, []).append(run)
    newest = max(members, default=0)
    found = []
    for number, runs in members.items():
        scores = [
            value
            for run in runs
            if trial_state(run) == TrialState.COMPLETE
            and (value := metrics.get(run.id, {}).get(sweep.metric)) is not None
        ]
        states = {trial_state(run) for run in runs}
        queued = len(runs) == sweep.seeds or number < newest
        # The mean of the seeds that were left is that of the lucky ones, so it is not learned from.
        now = (
            TrialState.FAIL if any(run.id in others for run in runs)
            else TrialState.RUNNING if TrialState.RUNNING in states or not queued
            else TrialState.COMPLETE if len(scores) == sweep.seeds
            else TrialState.PRUNED if TrialState.PRUNED in states
            else TrialState.FAIL
        )  # fmt: skip
        mean = sum(scores) / len(scores) if now == TrialState.COMPLETE else None
        seen = by_run.get(runs[0].id, {})
        found.append(PastTrial(number, runs[0].searched or {}, now, mean, seen))
    return found


def others_of(session: store.Session, sweep: SweepConfig, trials: Sequence[Run]) -> set[str]:
    """Ids of the trials of a sweep that train, or were scored, on other data than most."""
    if not trials or trials[0].sweep_id is None:
        return set()
    fingerprints = store.data_fingerprints(session, trials[0].sweep_id)
    counted = [run for run in trials if trial_state(run) != TrialState.FAIL]
    return on_other_data(
        ((run.id, run.searched or {}, fingerprints.get(run.id)) for run in counted), sweep
    )


def max_concurrent(sweep: SweepConfig, base: RunConfig, trials: Sequence[Run]) -> int:
    """The number of trials that are queued or training at a time.

    Enough to fill a pack and to refill it from the queue; with TPE as few as keep the machine
    busy, since each suggestion learns from the trials that have ended.
    """
    if sweep.at_once:
        return sweep.at_once
    # What waits is enough for one machine more: it may have just joined.
    hosts = {run.host for run in trials if run.status in ACTIVE}
    machines = len(hosts) + 1 if sweep.executor == "ray" else 1
    if sweep.method != "tpe":
        # Else the members of a pack, which often end together, find nobody to take their slots.
        size = base.pack_size if base.engine == "packed" else 1
        return machines * size * (slot_count() + 1)
    return machines * (8 if base.engine == "packed" else slot_count() + 1)


def enqueue(sweep_id: str, sweep: SweepConfig, base: RunConfig) -> int | None:
    """Queue trials up to `max_concurrent`; returns how many, or None where none is left to try."""
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
        trials = store.list_trials(session, sweep_id)
        learns = sweep.method == "tpe"
        metrics = store.trial_metrics(session, sweep_id, [sweep.metric]) if learns else {}
        reports = store.reports(session, sweep_id, sweep.metric) if learns else []
        others = others_of(session, sweep, trials) if learns else set()
    known = tried(sweep, trials, metrics, reports, others)
    settings = {one.number: dict(one.values) for one in known}
    room = max_concurrent(sweep, base, trials) - sum(not Status(run.status).ended for run in trials)
    number = max((run.number or 0 for run in trials), default=-1) + 1
    most = row.most_trials
    # Whole settings only: half of one's seeds would say little.
    most = None if most is None else most - most % sweep.seeds
    chosen: list[tuple[int, dict[str, object]]] = []
    left = True
    while len(chosen) < room:
        place = number // sweep.seeds
        if place not in settings:
            values = None
            if most is None or number < most:
                values = search.suggest(sweep, row.seed, place, known)
            if values is None:
                left = False
                break
            settings[place] = values
            known.append(PastTrial(place, values, TrialState.RUNNING))
        chosen.append((number, settings[place]))
        number += 1
    return (_insert(row, sweep, base, chosen) if chosen else 0) if left or chosen else None


def _insert(
    row: Sweep, sweep: SweepConfig, base: RunConfig, chosen: list[tuple[int, dict[str, object]]]
) -> int:
    if base.tracking.group is None:  # a tracker shows the trials as one group
        own = base.tracking.model_copy(update={"group": row.id})
        base = base.model_copy(update={"tracking": own})
    configs = [trial_config(sweep, base, values, number) for number, values in chosen]
    try:
        with store.writing() as session:
            if store.find_sweep(session, row.id).status != SweepStatus.ACTIVE:
                return 0
            run_ids = [
                store.enqueue(
                    session,
                    with_absolute_paths(config, Path(row.folder)),
                    sweep_id=row.id,
                    number=number,
                    seed_index=number % sweep.seeds,
                    searched=values,
                ).id
                for config, (number, values) in zip(configs, chosen, strict=True)
            ]
    except IntegrityError:
        return 0  # another driver gave these numbers first
    snapshots.write_runs(run_ids)
    launcher.fill_slots()
    return len(run_ids)


def retry(run: Run, retries: int) -> bool:
    """Queue a failed or interrupted trial again, or set it aside; True if it goes on. One that
    somebody stopped ends as it is."""
    if run.stop_requested_at is not None:
        return False
    with store.reading() as session:
        events = store.list_events(session, run.id)
    if attempts.was(events, run, EventKind.SET_ASIDE):
        return False
    failed = run.status == Status.FAILED
    if not failed and not attempts.was(events, run, EventKind.LEFT):
        return True  # the reconciler resumes it, or leaves it to us
    kind = EventKind.RETRIED if failed else EventKind.RELAUNCHED
    allowed = retries if failed else MAX_RELAUNCHES
    # With the same memory it would end in the same way.
    if failed and run.end_reason and not EndReason(run.end_reason).may_retry:
        allowed = 0
    done = sum(e.kind == kind for e in events)
    step = attempts.newest_verified_step(run)
    with store.writing() as session:
        if run.sweep_id and store.find_sweep(session, run.sweep_id).status not in OPEN:
            return False  # it was cancelled just now
        if done >= allowed:
            text = f"set aside after {run.attempt} attempts: {run.reason}"
            store.record_event(session, run.id, run.attempt, EventKind.SET_ASIDE, text)
        else:
            start = attempts.start_text(step)
            text = f"{kind} {start} ({done + 1} of {allowed}) after: {run.reason}"
            if not attempts.queue_next_attempt(session, run, kind, text, step=step):
                return True  # someone else was faster
    snapshots.write_run(run.id)
    if done >= allowed and not failed:
        # A failed attempt entered the summary when it ended.
        record_failure(run.id)
    return done < allowed
