"""Launching a sweep and steering it: pause, resume, cancel, raise its budget."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from src import store
from src.config import (
    ConfigError,
    RunConfig,
    by_name,
    dump_yaml,
    flattened,
    get,
    parse_yaml,
    paths_found,
    read_text,
    values_before,
)
from src.runs import checks, launcher, lease, snapshots, standby
from src.runs.machine import host
from src.store.outcome import EndReason
from src.store.tables import ACTIVE, Run, Status, Sweep, SweepStatus
from src.sweeps import estimate, trial_checks
from src.sweeps.budget import Budget
from src.sweeps.file import (
    SweepConfig,
    base_config,
    load_sweep,
    parse_sweep,
    read_document,
)

OPEN = (SweepStatus.ACTIVE, SweepStatus.PAUSED)

Limits = tuple[int | None, float | None]  # trials and seconds of a budget


def prepare(
    file: Path,
    *,
    budget: str | None = None,
    executor: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[str, SweepConfig, estimate.SweepEstimate]:
    """The text, the sweep and the estimate of a file, with another budget or executor if given, and
    with `overrides` of the settings that all its trials share.

    ConfigError with all that can be known before launch to fail.
    """
    text = _text(file, budget, executor, overrides)
    return text, *read_and_estimate(text, file)


def _text(
    file: Path, budget: str | None, executor: str | None, overrides: Mapping[str, Any] | None
) -> str:
    text = read_text(file)
    given = {"budget": budget, "executor": executor}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if overrides:
        base = parse_sweep(text, file).base
        own["base"] = {
            "preset": base.preset,
            "overrides": flattened(base.overrides) | dict(overrides),
        }
    if own:
        text = dump_yaml(parse_yaml(text, file) | own)
    return text


def read_and_estimate(text: str, source: str | Path) -> tuple[SweepConfig, estimate.SweepEstimate]:
    """The sweep that a text describes, and its estimate on this machine."""
    sweep = parse_sweep(text, source)
    with store.reading() as session:
        known = store.list_runs(session, statuses=[Status.COMPLETED], limit=100)
    return sweep, estimate.estimate_sweep(sweep, sweep.seed, known)


def launch(
    file: Path,
    *,
    budget: str | None = None,
    executor: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    tell_plan: Callable[[estimate.SweepEstimate], object] = lambda planned: None,
    tell: Callable[[str], object] = lambda note: None,
) -> str:
    """Record a sweep, start its driver, and return its id. Before, `tell_plan` gets its estimate
    and `tell` each note on its trials; a trainer loads its libraries meanwhile."""
    launcher.check_home()
    text = _text(file, budget, executor, overrides)
    sweep = parse_sweep(text, file)
    if sweep.executor == "ray":
        checks.check_ray()
    base = base_config(sweep)
    loading = standby.loading_for(base, later=True) if sweep.executor == "local" else nullcontext()
    with loading:
        tell_plan(read_and_estimate(text, file)[1])
        for note in trial_checks.check_trials(sweep, base):
            tell(note)
        row = _record(sweep, base, text, file)
        snapshots.write_sweep(row.id)
        launcher.start_driver(row.id)
    return row.id


def _record(sweep: SweepConfig, base: RunConfig, text: str, file: Path) -> Sweep:
    """Insert the row of a sweep."""
    store.keep_reserve()
    limits, now = sweep.limits, time.time()
    with store.writing() as session:
        row = Sweep(
            id=store.new_id(session, Sweep, sweep.name, now),
            name=sweep.name,
            file=text,
            base={name: get(base, name) for name in by_name()},
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
    return row


def launched_config(row: Sweep) -> SweepConfig:
    """The sweep file as it was launched, on the base settings as they were then."""
    return launched_file(row.file, row.path, row.base)


def launched_file(text: str, path: str, base: Mapping[str, Any] | None) -> SweepConfig:
    """The same of the columns of a sweep's row."""
    # An older version launched files in which a key stands twice, and took the last one.
    document = parse_yaml(text, path, unique=False)
    if base is not None:
        # It also took an empty text for none.
        base = {name: None if value == "" else value for name, value in base.items()}
        base = paths_found(base)
        document |= {"base": {"overrides": base | values_before(base)}}
    return read_document(document)


def drift_notice(row: Sweep) -> str | None:
    """A sentence where the file or its preset was changed since the launch, which changes
    nothing."""
    goes_on = "the sweep goes on as it was launched"
    then = launched_config(row)
    try:
        now = load_sweep(row.path)
        # What an option of the launch may say otherwise.
        same = {"budget": None, "executor": "local", "base": then.base}
        alike = now.model_copy(update=same) == then.model_copy(update=same)
        if alike and _found(base_config(now)) == _found(base_config(then)):
            return None
    except ConfigError as error:
        return f"{row.path} cannot be read any more ({error}); {goes_on}"
    return (
        f"{row.path} or its preset was changed after the launch; {goes_on}, so launch the file "
        "again to search what it says now"
    )


def _found(config: RunConfig) -> dict[str, Any]:
    """The settings with their paths in the home as it is now."""
    return paths_found(config.model_dump())


def pause(sweep_id: str) -> None:
    """Pause a sweep: no further trial starts, those that train go on."""
    _change(sweep_id, "paused", SweepStatus.PAUSED, leave=[SweepStatus.ACTIVE], reason=None)


def resume(sweep_id: str) -> None:
    """Go on with a paused sweep, also with one whose driver failed."""
    lease.check()
    _change(
        sweep_id, "resumed", SweepStatus.ACTIVE, leave=[SweepStatus.PAUSED], reason=None,
        failed_starts=None, driver_started_at=None,
    )  # fmt: skip
    launcher.start_driver(sweep_id)
    launcher.fill_slots()


def cancel(sweep_id: str) -> None:
    """End a sweep: its queued trials are cancelled, those that train stop at their next step. Of a
    complete one the runs that confirm its best settings are."""
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
        confirming = any(not Status(r.status).ended for r in store.confirmations(session, row.id))
    if row.status != SweepStatus.COMPLETED or not confirming:
        ended_at = time.time()
        _change(
            row.id, "cancelled", SweepStatus.CANCELLED, leave=OPEN, stop=True, ended_at=ended_at
        )
    else:
        with store.reading() as session:
            stopped = store.runs_of_sweep(session, row.id)
        stop_runs(stopped)


def abort(sweep_id: str, reason: str) -> None:
    """End a sweep that cannot go on; trials that are queued or train already do."""
    ended_at = time.time()
    _change(sweep_id, "ended", SweepStatus.CANCELLED, leave=OPEN, ended_at=ended_at, reason=reason)


def stop_runs(runs: Sequence[Run], *, reason: str | None = None) -> None:
    """Stop the runs that are queued or training; with a `reason` they count as completed."""
    with store.writing() as session:
        stopped = _stop_runs(session, runs, reason)
    snapshots.write_runs(stopped)


def _stop_runs(session: store.Session, runs: Sequence[Run], reason: str | None) -> list[str]:
    """Stop the runs that are queued or training; returns their ids."""
    ids = [run.id for run in runs if run.status == Status.QUEUED or run.status in ACTIVE]
    for run_id in ids:
        store.request_stop(session, run_id, reason=reason)
    return ids


def add(sweep_id: str, more: str, *, seen: Limits | None = None) -> None:
    """Raise the budget of a sweep by `20 trials` or `30 minutes`; one that is complete goes on.

    InvalidState if its `limits_of` are not those that somebody has `seen` any more.
    """
    lease.check()
    try:
        extra = Budget.parse(more)
    except ValueError as error:
        raise ConfigError({"": str(error)}) from None
    name = "most_trials" if extra.trials is not None else "seconds"
    amount = extra.trials if extra.trials is not None else extra.seconds
    with store.writing() as session:
        row = store.find_sweep(session, sweep_id)
        if seen is not None and limits_of(row) != seen:
            raise store.InvalidState(f"the budget of {row.id} was raised meanwhile; look at it")
        if (has := getattr(row, name)) is None:
            kind = "trials" if name == "most_trials" else "time"
            raise store.InvalidState(f"{row.id} has no budget of {kind} that could be raised")
        columns = {name: has + amount, "ended_at": None}
        if row.failed_at is None:
            columns["reason"] = None
        to = SweepStatus.ACTIVE if row.status == SweepStatus.COMPLETED else None
        leave, goes_on = (*OPEN, SweepStatus.COMPLETED), row.status != SweepStatus.PAUSED
        _change_row(session, row, "given more", to, leave, columns)
    snapshots.write_sweep(row.id)
    _requeue_cancelled(row.id)
    if goes_on:
        launcher.start_driver(row.id)


def limits_of(row: Sweep) -> Limits:
    """The most trials and seconds of a sweep; None is no limit."""
    return row.most_trials, row.seconds


def _requeue_cancelled(sweep_id: str) -> None:
    """Requeue the trials that still waited when the sweep's time was over.

    Their parameters would otherwise be missing from the search.
    """
    with store.writing() as session:
        for run in store.list_trials(session, sweep_id):
            if run.end_reason == EndReason.WITHDRAWN:
                store.requeue_cancelled(session, run.id)


def _change(
    sweep_id: str,
    done: str,
    to: SweepStatus | None,
    *,
    leave: Sequence[SweepStatus],
    stop: bool = False,
    **columns: object,
) -> None:
    """Write a sweep's status and columns, and with `stop` stop its runs in the same transaction."""
    with store.writing() as session:
        row = store.find_sweep(session, sweep_id)
        _change_row(session, row, done, to, leave, columns)
        runs = store.runs_of_sweep(session, row.id) if stop else []
        stopped = _stop_runs(session, runs, None)
    snapshots.write_sweep(row.id)
    snapshots.write_runs(stopped)


def _change_row(
    session: store.Session,
    row: Sweep,
    done: str,
    to: SweepStatus | None,
    leave: Sequence[SweepStatus],
    columns: Mapping[str, object],
) -> None:
    if not store.change_sweep(session, row.id, to, leave=leave, **columns):
        may = " or ".join(leave)
        raise store.InvalidState(
            f"{row.id} is {row.status}: only a sweep that is {may} can be {done}"
        )
