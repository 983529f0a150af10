"""What becomes of a sweep's trials. The run table is the only ledger: a trial is a row, its number
is given once, and whoever looks after it can die at any time."""

import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError

from src import paths, store
from src.config import (
    ConfigError,
    RunConfig,
    get,
    parse_yaml,
    read_text,
    settings,
    with_absolute_paths,
)
from src.runs import attempts, launcher, snapshots
from src.runs.machine import slot_count
from src.runs.processes import host
from src.store.tables import ACTIVE, EventKind, Run, Status, Sweep, SweepStatus
from src.sweeps import estimate, spaces
from src.sweeps.spaces import Budget, SweepConfig, Tried
from src.training.results import FailedTraining, write_results
from src.workers import ray_nodes

OPEN = (SweepStatus.ACTIVE, SweepStatus.PAUSED)
# A lost machine is not the trial's fault; one that takes the machine down each time is.
MOST_RELAUNCHES = 10


# --- launch ---------------------------------------------------------------------------------------


def prepare(
    file: Path, *, budget: str | None = None, executor: str | None = None
) -> tuple[str, SweepConfig, estimate.Plan]:
    """The text, the sweep and the plan of a file, with another budget or executor where one is
    given.

    ConfigError with all that can be known before launch to fail.
    """
    text = read_text(file)
    given = {"budget": budget, "executor": executor}
    if own := {name: value for name, value in given.items() if value is not None}:
        text = yaml.safe_dump(parse_yaml(text, file) | own, sort_keys=False)
    return text, *planned(text, file)


def planned(text: str, source: str | Path) -> tuple[SweepConfig, estimate.Plan]:
    """The sweep that a text describes, and what it comes to here."""
    sweep = spaces.parse_sweep(text, source)
    with store.reading() as session:
        known = store.runs(session, statuses=[Status.COMPLETED], limit=100)
    return sweep, estimate.plan(sweep, sweep.seed, known)


def launch(file: Path, *, budget: str | None = None, executor: str | None = None) -> str:
    """Put a sweep into the ledger, start its driver, and return its id."""
    text, sweep, _ = prepare(file, budget=budget, executor=executor)
    if sweep.executor == "ray":
        ray_nodes.check()
    base = spaces.base_config(sweep)
    first = spaces.suggest(sweep, sweep.seed, 0, [])
    assert first is not None
    launcher.check(spaces.trial_config(sweep, base, first, 0))
    store.keep_reserve()
    limits, now = sweep.limits, time.time()
    with store.writing() as session:
        row = Sweep(
            id=store.new_id(session, Sweep, sweep.name, now),
            name=sweep.name,
            file=text,
            base={setting.name: get(base, setting.name) for setting in settings()},
            path=str(file.absolute()),
            folder=str(Path.cwd()),
            status=SweepStatus.ACTIVE,
            seed=sweep.seed,
            most_trials=limits.trials,
            seconds=limits.seconds,
            created_at=now,
            host=host(),
            seen_at=now,
        )
        session.add(row)
    snapshots.remember_sweep(row.id)
    launcher.start_driver(row.id)
    return row.id


def config_of(row: Sweep) -> SweepConfig:
    """The sweep file as it was launched, on the base settings as they were then."""
    text = row.file
    if row.base is not None:
        own = {"base": {"overrides": row.base}}
        text = yaml.safe_dump(parse_yaml(text, row.path) | own, sort_keys=False)
    return spaces.parse_sweep(text, row.path)


def edited(row: Sweep) -> str | None:
    """A sentence where the file or its preset was changed since the launch, which changes
    nothing."""
    goes_on = "the sweep goes on as it was launched"
    then = config_of(row)
    try:
        now = spaces.load_sweep(row.path)
        # What an option of the launch may say otherwise.
        same = {"budget": None, "executor": "local", "base": then.base}
        alike = now.model_copy(update=same) == then.model_copy(update=same)
        if alike and spaces.base_config(now) == spaces.base_config(then):
            return None
    except ConfigError as error:
        return f"{row.path} cannot be read any more ({error}); {goes_on}"
    return (
        f"{row.path} or its preset was changed after the launch; {goes_on}, so launch the file "
        "again to search what it says now"
    )


# --- trials ---------------------------------------------------------------------------------------


def state(run: Run) -> TrialState:
    """What a trial is to the search."""
    match Status(run.status):
        case Status.COMPLETED | Status.STOPPED if run.stop_reason:
            return TrialState.PRUNED
        case Status.COMPLETED:
            return TrialState.COMPLETE
        case status if status.ended:
            return TrialState.FAIL
    return TrialState.RUNNING


def tried(
    sweep: SweepConfig,
    trials: Sequence[Run],
    metrics: dict[str, dict[str, float | None]],
    reports: Sequence[tuple[str, int, float, float]] = (),
) -> list[Tried]:
    """The settings that were suggested, each with the mean of its seeds."""
    by_run: dict[str, dict[int, float]] = {}
    for run_id, step, reported, _ in reports:
        by_run.setdefault(run_id, {})[step] = reported
    members: dict[int, list[Run]] = {}
    for run in trials:
        members.setdefault((run.number or 0) // sweep.seeds, []).append(run)
    found = []
    for number, runs in members.items():
        scores = [
            value
            for run in runs
            if state(run) == TrialState.COMPLETE
            and (value := metrics.get(run.id, {}).get(sweep.metric)) is not None
        ]
        states = {state(run) for run in runs}
        now = (
            TrialState.RUNNING if TrialState.RUNNING in states
            else TrialState.COMPLETE if scores
            else TrialState.PRUNED if TrialState.PRUNED in states
            else TrialState.FAIL
        )  # fmt: skip
        mean = sum(scores) / len(scores) if scores else None
        seen = by_run.get(runs[0].id, {})
        found.append(Tried(number, runs[0].searched or {}, now, mean, seen))
    return found


def ahead(sweep: SweepConfig, base: RunConfig, trials: Sequence[Run]) -> int:
    """Trials that are queued or training at a time: enough to fill a pack and to refill it from
    the queue, and with tpe as few as keep the machine at work, for each is drawn from those that
    have ended."""
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
    """Queue trials up to as many as should be under way; how many, None where none is left to
    try."""
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
        trials = store.trials(session, sweep_id)
        learns = sweep.method == "tpe"
        metrics = store.trial_metrics(session, sweep_id, [sweep.metric]) if learns else {}
        reports = store.reports(session, sweep_id, sweep.metric) if learns else []
    known = tried(sweep, trials, metrics, reports)
    settings = {one.number: dict(one.values) for one in known}
    room = ahead(sweep, base, trials) - sum(not Status(run.status).ended for run in trials)
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
                values = spaces.suggest(sweep, row.seed, place, known)
            if values is None:
                left = False
                break
            settings[place] = values
            known.append(Tried(place, values, TrialState.RUNNING))
        chosen.append((number, settings[place]))
        number += 1
    return (_insert(row, sweep, base, chosen) if chosen else 0) if left or chosen else None


def _insert(
    row: Sweep, sweep: SweepConfig, base: RunConfig, chosen: list[tuple[int, dict[str, object]]]
) -> int:
    if base.tracking.group is None:  # a tracker shows the trials as one group
        own = base.tracking.model_copy(update={"group": row.id})
        base = base.model_copy(update={"tracking": own})
    configs = [spaces.trial_config(sweep, base, values, number) for number, values in chosen]
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
    for run_id in run_ids:
        snapshots.remember(run_id)
    launcher.fill_slots()
    return len(run_ids)


def try_again(run: Run, retries: int) -> bool:
    """Launch a trial that failed or was interrupted as its next attempt, or set it aside with its
    reason; whether it goes on."""
    with store.reading() as session:
        events = store.events(session, run.id)
    if any(e.kind == EventKind.SET_ASIDE and e.attempt == run.attempt for e in events):
        return False
    failed = run.status == Status.FAILED
    decided = any(e.kind == EventKind.LEFT and e.attempt == run.attempt for e in events)
    if not failed and not decided:
        return True  # the reconciler resumes it, or leaves it to us
    kind = EventKind.RETRIED if failed else EventKind.RELAUNCHED
    allowed = retries if failed else MOST_RELAUNCHES
    # With the same memory it would end in the same way.
    if failed and (run.reason or "").startswith(("oom:", "cuda_oom:")):
        allowed = 0
    done = sum(e.kind == kind for e in events)
    step = attempts.newest_verified(run)
    with store.writing() as session:
        if run.sweep_id and store.find_sweep(session, run.sweep_id).status not in OPEN:
            return False  # it was cancelled just now
        if done >= allowed:
            text = f"set aside after {run.attempt} attempts: {run.reason}"
            store.record_event(session, run.id, run.attempt, EventKind.SET_ASIDE, text)
        else:
            start = "from scratch" if step is None else f"from step {step:,}"
            text = f"{kind} {start} ({done + 1} of {allowed}) after: {run.reason}"
            if not attempts.go_on(session, run, kind, text, step=step):
                return True  # someone else was faster
    snapshots.remember(run.id)
    if done >= allowed:
        with store.reading() as session:
            config = store.find(session, run.id).config  # trials are read without theirs
        write_results(
            FailedTraining(run.reason),
            run_id=run.id,
            output_dir=paths.output_dir(run.id),
            metrics_file=paths.final_metrics(run.id),
            summary_file=paths.summary_file(),
            config=config,
        )
    return done < allowed


# --- steering -------------------------------------------------------------------------------------


def pause(sweep_id: str, *, reason: str | None = None) -> None:
    """Let no further trial start; those that train go on."""
    _change(sweep_id, "paused", SweepStatus.PAUSED, leave=[SweepStatus.ACTIVE], reason=reason)


def resume(sweep_id: str) -> None:
    _change(sweep_id, "resumed", SweepStatus.ACTIVE, leave=[SweepStatus.PAUSED], reason=None)
    launcher.start_driver(sweep_id)
    launcher.fill_slots()


def cancel(sweep_id: str) -> None:
    """End a sweep: its queued trials are cancelled, those that train stop at their next step. Of a
    complete one the runs that confirm its best settings are."""
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
        confirming = any(not Status(r.status).ended for r in store.confirmations(session, row.id))
    if row.status != SweepStatus.COMPLETED or not confirming:
        _change(row.id, "cancelled", SweepStatus.CANCELLED, leave=OPEN, ended_at=time.time())
    with store.reading() as session:
        runs = store.runs_of_sweep(session, row.id)
    end_runs(runs)


def give_up(sweep_id: str, reason: str) -> None:
    """End a sweep that cannot go on; trials that are queued or train already do."""
    ended_at = time.time()
    _change(sweep_id, "ended", SweepStatus.CANCELLED, leave=OPEN, ended_at=ended_at, reason=reason)


def end_runs(runs: Sequence[Run], *, reason: str | None = None) -> None:
    """Ask those of these runs to stop that are queued or train; a `reason` completes them."""
    with store.writing() as session:
        for run in runs:
            if run.status == Status.QUEUED or run.status in ACTIVE:
                store.request_stop(session, run.id, reason=reason)


def add(sweep_id: str, more: str) -> None:
    """Raise the budget of a sweep by `20 trials` or `30 minutes`; one that is complete goes on."""
    try:
        extra = Budget.parse(more)
    except ValueError as error:
        raise ConfigError({"": str(error)}) from None
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
    name = "most_trials" if extra.trials is not None else "seconds"
    has, amount = getattr(row, name), extra.trials if extra.trials is not None else extra.seconds
    if has is None:
        kind = "trials" if name == "most_trials" else "time"
        raise store.CannotSteer(f"{row.id} has no budget of {kind} that could be raised")
    leave = (*OPEN, SweepStatus.COMPLETED)
    columns = {name: has + amount, "ended_at": None, "reason": None}
    to = SweepStatus.ACTIVE if row.status == SweepStatus.COMPLETED else None
    _change(row.id, "given more", to, leave=leave, **columns)
    _requeue_cancelled(row.id)
    launcher.start_driver(row.id)


def _requeue_cancelled(sweep_id: str) -> None:
    """Queue those trials again that waited when the time of the sweep was over: their settings
    would else be missing from the search."""
    with store.writing() as session:
        for run in store.trials(session, sweep_id):
            if run.status == Status.CANCELLED and (run.reason or "").startswith("pruned:"):
                store.uncancel(session, run.id)


def _change(
    sweep_id: str,
    done: str,
    to: SweepStatus | None,
    *,
    leave: Sequence[SweepStatus],
    **columns: object,
) -> None:
    with store.writing() as session:
        row = store.find_sweep(session, sweep_id)
        if not store.change_sweep(session, row.id, to, leave=leave, **columns):
            may = " or ".join(leave)
            raise store.CannotSteer(
                f"{row.id} is {row.status}: only a sweep that is {may} can be {done}"
            )
    snapshots.remember_sweep(row.id)
