"""Brings the status of every run in line with what its processes really do: `reconcile()`.

Runs when a panel starts, while a panel, a supervisor or a sweep's driver lives, and before the
command line reads. It never signals a process that is not the run's own. A lock that is held is
believed as long as its holder writes its heartbeat.
"""

import errno
import sys
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from sqlalchemy.exc import DatabaseError

from src import paths, store
from src.errors import explain_os_error
from src.runs import attempts, launcher, lease, notifications, restore, snapshots
from src.runs.locks import FileLock, LocksUnavailable
from src.runs.machine import boot_id, host, is_here, slot_count, slot_lock
from src.runs.processes import end_hung, kill_by_token, supervisor_lives, trainer_lives
from src.runs.result_file import read_result
from src.runs.timeouts import TIMEOUTS
from src.store.outcome import EndReason, Outcome
from src.store.tables import ACTIVE, Run, Status, Sweep, SweepStatus

# Errors of a home in which no file can be made.
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


def reconcile(wait: float = 0) -> list[str]:
    """Ids of the runs whose status was wrong and is right now. Empty also while another process is
    at it, for which it waits this many seconds, and where the home belongs to another machine."""
    if lease.other_host():
        return []
    lock = FileLock(paths.locks_dir() / "reconciler.lock")
    deadline = time.monotonic() + wait
    try:
        # A command that was suspended just then must not keep the others from it.
        while not lock.acquire() and not (end_hung(lock.path) and lock.acquire()):
            if time.monotonic() >= deadline:
                return []
            time.sleep(TIMEOUTS.poll)
    except LocksUnavailable as error:
        print(f"warning: {error}", file=sys.stderr)
        return []
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        # What is there can be read all the same.
        print(f"warning: no status is brought up to date: {explain_os_error(error)}",
              file=sys.stderr)  # fmt: skip
        return []
    try:
        restore.restore_database()
        try:
            return _reconcile_all()
        except DatabaseError:
            if restore.restore_database() is None:
                raise
            return _reconcile_all()
    finally:
        lock.release()
        notifications.tell()


def keep_reconciling(over: threading.Event) -> None:
    """Reconcile until the training is over, so that the other runs and sweeps of this machine need
    no panel; and show other machines that this one trains."""
    while True:
        with suppress(lease.HomeInUse):
            lease.take()
        try_to_reconcile()
        if over.wait(TIMEOUTS.reconcile):
            return


def try_to_reconcile() -> None:
    """Reconcile, and print what kept it from it: the caller has a run of its own to follow."""
    try:
        reconcile()
    except Exception as error:
        print(f"warning: {error!r}", file=sys.stderr, flush=True)


def _reconcile_all() -> list[str]:
    with store.reading() as session:
        active = store.list_runs(session, statuses=ACTIVE)
    changed = [run.id for run in active if _reconcile(run, active)]
    with store.reading() as session:
        interrupted = store.list_runs(session, statuses=[Status.INTERRUPTED])
        sweeps = store.list_sweeps(session)
    for run in interrupted:
        if _is_resumed_here(run):
            attempts.auto_resume(run)
    for sweep in sweeps:
        if (
            sweep.status == SweepStatus.ACTIVE
            and (end_hung(paths.driver_lock(sweep.id)) or not launcher.driver_lives(sweep.id))
            and not _is_led_elsewhere(sweep)
        ):
            launcher.restart_driver(sweep)
    with store.reading() as session:
        waiting = bool(store.queue(session))
    if waiting or changed:
        for slot in range(slot_count()):
            end_hung(slot_lock(slot))
        launcher.fill_slots()
    return changed


def _is_led_elsewhere(sweep: Sweep) -> bool:
    silent = time.time() - (sweep.seen_at or 0)
    return store.is_shared() and not is_here(sweep.host) and silent <= TIMEOUTS.lease


def _is_resumed_here(run: Run) -> bool:
    """True if this machine may decide how an interrupted run continues.

    The run's own machine has its checkpoints and comes first, as long as it is alive.
    """
    if not store.is_shared() or is_here(run.host):
        return True
    ended = run.ended_at or 0
    lived = ended - (run.heartbeat_at or 0) < TIMEOUTS.stale
    return not lived or time.time() - ended > TIMEOUTS.lease


def end_runs_of_lost_hosts(gone: Collection[str], why: str) -> None:
    """End the runs of machines that are said to be gone, where they give no sign of life either;
    what was queued to go on from a checkpoint there begins anew."""
    with store.reading() as session:
        active = [run for run in store.list_runs(session, statuses=ACTIVE) if run.host in gone]
        # Homes may lie on a shared disk: then a living machine starts these before they are lost.
        queued = [run for run in store.queue(session) if run.host in gone]
    now = time.time()
    for run in active:
        if now - (run.heartbeat_at or 0) > TIMEOUTS.stale:
            _end(run, f"{run.host} is gone: {why}")
    for run in queued:
        if run.resume_step is not None and now - (run.heartbeat_at or 0) > TIMEOUTS.lease:
            with store.writing() as session:
                store.restart_from_scratch(session, run, f"its checkpoint is on {run.host}: {why}")


def _reconcile(run: Run, active: Sequence[Run]) -> bool:
    """End a run whose processes are gone; True if its status was changed."""
    if store.is_shared() and run.host != host():
        # Its locks and pids are another machine's: believe its heartbeat alone.
        silent = time.time() - (run.heartbeat_at or 0)
        return silent > TIMEOUTS.lease and _end(run, f"{run.host} is gone: no sign of life from it")
    if run.boot_id != boot_id():
        if is_here(run.host):
            return _end(run, "the machine restarted while it ran")
        # Of another machine, to which the home belonged until it gave no sign of life any more.
        silent = time.time() - (run.heartbeat_at or 0)
        return silent > TIMEOUTS.lease and _end(run, f"{run.host} is gone: no sign of life from it")
    end_hung(paths.supervisor_lock(run.id))
    if supervisor_lives(run):
        return False
    # The members of a pack share a process, which may not have come to this one yet.
    pack = [r for r in active if run.token and r.token == run.token]
    living = [r for r in pack if trainer_lives(r)]
    if living and not _is_stopped_by_force(pack):
        if run.id == pack[0].id:  # one supervisor takes them all
            launcher.start_adoption(living[0], pack)
        return False
    with store.reading() as session:
        # It ended since it was listed, and its process may be about to train the next runs.
        if not store.owns(session, run):
            return False
    # What is left of it, a data-loader worker say, carries its token in the environment.
    kill_by_token(run.token)
    return _end(run, "its processes are gone without a result")


def _is_stopped_by_force(pack: Sequence[Run]) -> bool:
    """True if all runs of a trainer that no supervisor could adopt were asked to stop, and had the
    time that a supervisor would have given them."""
    asked = [run.stop_requested_at for run in pack if run.stop_requested_at is not None]
    if len(asked) < len(pack) or not any(launcher.adoption_failed(run) for run in pack):
        return False
    return time.time() - max(asked) > TIMEOUTS.stop + TIMEOUTS.terminate


def _end(run: Run, reason: str) -> bool:
    outcome = read_result(run.id, run.attempt) or Outcome(EndReason.LOST, reason)
    # With retries, which free the reserve if the disk is full.
    ended = store.write_with_retry(lambda session: store.end(session, run, outcome), seconds=1)
    if ended:
        snapshots.sync_from_files([run.id])
    return ended
