"""Queues runs, starts their supervisors, stops runs and deletes checkpoints.

A queued run without a slot is a row and nothing else.
"""

import time
from collections.abc import Sequence
from typing import Any

from src import paths, store
from src.config import ConfigError, RunConfig, stored_config, with_absolute_paths
from src.errors import UserError
from src.runs import estimate, lease, processes, snapshots, standby
from src.runs.locks import check_locks, holder
from src.runs.logs import last_error
from src.runs.machine import active_here, host, is_here, slot_count, slot_lock
from src.runs.result_file import record_failure
from src.runs.spawn import Worker, start_detached
from src.runs.timeouts import TIMEOUTS
from src.store.tables import Run, Status, Sweep
from src.training import checkpointing


def launch(config: RunConfig) -> str:
    """Queue a run, fill the free slots, and return the run's id. The run outlives the caller."""
    return launch_all([config])[0]


def launch_all(configs: Sequence[RunConfig]) -> list[str]:
    """Queue several runs together, so that those that can share a pack do, and return their ids.

    ConfigError, and nothing is launched, if one is known not to fit into memory.
    """
    check_home()
    for config in configs:
        if problems := estimate.memory_problems(config):
            raise ConfigError(problems)
    store.keep_reserve()
    run_ids = store.write_with_retry(
        lambda session: [store.enqueue(session, with_absolute_paths(c)).id for c in configs],
        seconds=TIMEOUTS.start,
    )
    snapshots.write_runs(run_ids)
    fill_slots()
    return run_ids


def check_home() -> None:
    """LocksUnavailable or HomeInUse if nothing can be supervised in this home from here."""
    check_locks(paths.locks_dir())
    lease.check()


def fill_slots() -> None:
    """Start a supervisor for each free slot, or give it the one that waits there, as long as runs
    are queued and the home is this machine's."""
    if lease.other_host():
        return
    started: list[tuple[str, dict[str, Any], int]] = []
    failed: list[str] = []

    def assign(session: store.Session) -> None:
        now = time.time()
        waiting = startable(session)
        # A run whose supervisor has not claimed it in time is assigned a slot again.
        ready = [r for r in waiting if not is_given(r, now)]
        # A trainer that lost its supervisor still uses its GPU, though the slot's lock is free.
        taken = {r.slot for r in active_here(session)}
        taken |= {r.slot for r in waiting if r not in ready and is_here(r.host)}
        free = [s for s in range(slot_count()) if s not in taken and holder(slot_lock(s)) is None]
        for run in ready:
            if not free:
                return
            if reason := _why_not_started(run):
                if store.fail_start(session, run, reason):
                    failed.append(run.id)
            elif store.assign_slot(session, run, free[0], host=host(), now=now):
                started.append((run.id, run.config, free.pop(0)))

    store.write_with_retry(assign, seconds=TIMEOUTS.start)
    for run_id in failed:
        record_failure(run_id)
    snapshots.write_runs(failed)
    if started:
        lease.take()
    for run_id, config, slot in started:
        if not standby.hand_over(run_id, config, slot):
            start_supervisor(run_id, slot)


def _why_not_started(run: Run) -> str | None:
    """The reason why a run is not given a slot, which ends it: no process could read its settings,
    or it had one of this machine as often as allowed and no supervisor claimed it."""
    if problem := settings_problem(run):
        return problem
    if run.slot_given_at is None or not is_here(run.host):
        return None
    if (run.failed_starts or 0) + 1 < store.MAX_FAILED_STARTS:
        return None
    error = last_error(paths.log_file(run.id)) or "see the log"
    return f"its supervisor did not start, {store.MAX_FAILED_STARTS} times: {error}"


def settings_problem(run: Run) -> str | None:
    """A sentence where the stored settings of a run cannot be read by this version."""
    try:
        stored_config(run.config)
    except ConfigError as error:
        told = "; ".join(str(error).splitlines())
        return f"its settings, as they are stored, cannot be read: {told}"
    return None


def is_given(run: Run, now: float) -> bool:
    """True while a run that was given a slot may still start there.

    Only its machine sees if a supervisor is on its way, however slow. Another one takes the run
    once that machine would count as gone.
    """
    if run.slot_given_at is None:
        return False
    waited = now - run.slot_given_at
    if not is_here(run.host):
        return 0 <= waited < TIMEOUTS.lease
    return (
        0 <= waited < TIMEOUTS.start
        or holder(paths.supervisor_lock(run.id)) is not None
        or processes.is_running(Worker.SUPERVISOR, run.id)
    )


def startable(session: store.Session) -> list[Run]:
    """Queued runs that can start on this machine, in the order of the queue."""
    return [
        run for run in store.queue(session) if not store.is_shared() or _has_start_checkpoint(run)
    ]


def _has_start_checkpoint(run: Run) -> bool:
    """True unless the checkpoint that the run resumes from is on another machine."""
    step = run.resume_step
    folder = paths.checkpoints_dir(run.id)
    return step is None or checkpointing.step_dir(folder, step).exists()


def start_driver(sweep_id: str) -> None:
    """Start the driver of a sweep. It ends at once if another one holds the sweep's lock.

    A start is counted, unless a driver lives: it is told from one that died by its first round.
    """
    if not driver_lives(sweep_id):
        store.write_with_retry(
            lambda session: store.record_driver_start(session, store.find_sweep(session, sweep_id)),
            seconds=TIMEOUTS.start,
        )
    start_detached(Worker.SWEEP_DRIVER, sweep_id, log=paths.sweep_log(sweep_id))


def driver_lives(sweep_id: str) -> bool:
    """True while a driver of a sweep holds its lock, or is on its way to it."""
    if holder(paths.driver_lock(sweep_id)) is not None:
        return True
    return processes.is_running(Worker.SWEEP_DRIVER, sweep_id)


def restart_driver(sweep: Sweep) -> None:
    """Start a driver for a sweep that lost its own; after MAX_FAILED_STARTS in a row that died
    before their first round the sweep has failed, until somebody resumes it."""
    if not store.driver_died(sweep):
        return start_driver(sweep.id)
    error = last_error(paths.sweep_log(sweep.id)) or "see its log"
    fail_sweep(sweep.id, f"its driver did not start, {store.MAX_FAILED_STARTS} times: {error}")


def fail_sweep(sweep_id: str, reason: str) -> None:
    """Pause a sweep because its driver failed."""
    with store.writing() as session:
        store.fail_sweep(session, sweep_id, reason)
    snapshots.write_sweep(sweep_id)


def start_supervisor(run_id: str, slot: int, *, adopt: bool = False) -> None:
    """Start a run's supervisor; with `adopt` it takes over a living trainer that lost its own."""
    arguments = [run_id, "--slot", str(slot), *(["--adopt"] if adopt else [])]
    start_detached(Worker.SUPERVISOR, *arguments, log=paths.log_file(run_id))


def start_adoption(run: Run, pack: Sequence[Run]) -> None:
    """Start a supervisor that adopts the trainer of a run and of those that share it.

    A start is counted in the row. After MAX_FAILED_STARTS in a row that died before they adopted
    it the trainer goes on without one: it reads a stop by itself, and the reconciler ends the run.
    """
    if processes.is_running(Worker.SUPERVISOR, run.id):
        return
    failed = adoption_failed(run)
    columns: dict[str, Any] = {"failed_starts": (run.failed_starts or 0) + 1}
    if failed:
        error = last_error(paths.log_file(run.id)) or "see the log"
        columns = {"reason": "its supervisor died, and the next one did not start, "
                             f"{store.MAX_FAILED_STARTS} times: {error}"}  # fmt: skip
    told = pack if failed else [run]

    def write(session: store.Session) -> None:
        for one in told:
            store.update_attempt(session, one, **columns)

    if not failed or run.reason is None:
        store.write_with_retry(write, seconds=TIMEOUTS.start)
    if not failed:
        start_supervisor(run.id, run.slot or 0, adopt=True)


def adoption_failed(run: Run) -> bool:
    """True if as many supervisors as allowed died before they adopted the trainer of a run."""
    return (run.failed_starts or 0) >= store.MAX_FAILED_STARTS


class CheckpointNeeded(UserError, ValueError):
    """This checkpoint must not be deleted."""


def delete_checkpoint(run: Run, step: int) -> None:
    """Delete one checkpoint of a run. CheckpointNeeded for the best one, the two newest verified
    ones, and one that a fork began from."""
    folder = paths.checkpoints_dir(run.id)
    steps = checkpointing.steps(folder)
    if step not in steps:
        raise CheckpointNeeded(f"{run.id} has no checkpoint of step {step:,}")
    verified = [s for s in steps if checkpointing.is_verified(checkpointing.step_dir(folder, s))]
    why = (
        "it is the best one" if step == run.best_step
        else "the last two are kept for a resume" if step in verified[-2:]
        else "a fork began from it" if checkpointing.is_kept_for_fork(folder, step)
        else None
    )  # fmt: skip
    if why:
        raise CheckpointNeeded(f"step {step:,} of {run.id} stays: {why}")
    checkpointing.remove_folder(checkpointing.step_dir(folder, step))
    with store.writing() as session:
        store.remove_checkpoint(session, run.id, step)


def stop(run_id: str) -> Status:
    """Ask a run to stop at its next step, or cancel it if it is queued; return its status."""
    with store.writing() as session:
        run_id = store.find(session, run_id).id
        status = store.request_stop(session, run_id)
    snapshots.write_run(run_id)  # so that the wish outlives the table
    return status


def hold(names: Sequence[str], *, held: bool) -> list[str]:
    """Hold queued runs back, or release them to their old places; returns their ids."""
    with store.writing() as session:
        ids = store.hold(session, [store.find(session, name) for name in names], held=held)
    snapshots.write_runs(ids)
    if not held:
        fill_slots()
    return ids


def archive(names: Sequence[str], *, archived: bool) -> list[str]:
    """Take runs that have ended out of the lists, or put them back; returns their ids."""
    with store.writing() as session:
        runs = [store.find(session, name) for name in names]
        ids = store.archive(session, runs, archived=archived)
    snapshots.write_runs(ids)
    return ids


def move_to_front(names: Sequence[str]) -> list[str]:
    """Make queued runs the next to start, in this order; returns their ids."""
    with store.writing() as session:
        ids = store.move_to_front(session, [store.find(session, name) for name in names])
    snapshots.write_runs(ids)
    return ids
