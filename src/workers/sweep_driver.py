"""Looks after one sweep: `python -m src.workers.sweep_driver SWEEP`. No torch.

Queues its trials, tries those again that failed, prunes those that fall behind, and ends the sweep
with its last trial or its budget. Where it dies the reconciler starts another one, which goes on
from the run rows; after two in a row that died before their first round the sweep has failed.
"""

import os
import subprocess
import sys
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.config import ConfigError
from src.runs import launcher, lease, notifications, reconciler, snapshots, standby
from src.runs.environment import ignore_output_errors
from src.runs.locks import FileLock
from src.runs.machine import host
from src.runs.spawn import Worker, start_attached
from src.runs.timeouts import TIMEOUTS
from src.store.tables import ACTIVE, Run, Status, Sweep, SweepStatus
from src.sweeps import control
from src.sweeps.file import base_config
from src.sweeps.pruning import Pruning
from src.sweeps.trials import enqueue, others_of, retry


def main() -> int:
    parser = ArgumentParser(prog="python -m src.workers.sweep_driver")
    parser.add_argument("sweep")
    sweep_id = parser.parse_args().sweep
    lock = FileLock(paths.driver_lock(sweep_id))
    if not lock.acquire():
        return 0  # another one is at it
    os.umask(0o077)
    ignore_output_errors()
    try:
        driver = SweepDriver(sweep_id)
        goes_on = driver.run_round()
        store.write_with_retry(
            lambda session: store.driver_came_up(session, sweep_id), seconds=TIMEOUTS.write
        )
        while goes_on:
            time.sleep(TIMEOUTS.sweep)
            goes_on = driver.run_round()
    except ConfigError as error:
        # Settings that are good one by one may not be together, or a preset is gone.
        control.abort(sweep_id, f"no further trial can be launched: {error}")
    # A driver that dies is started again, and would die again, unseen.
    except Exception as error:
        traceback.print_exc()
        launcher.fail_sweep(sweep_id, f"its driver failed, {type(error).__name__}: {error}")
    notifications.tell()
    return 0


class SweepDriver:
    """One process that drives a sweep."""

    def __init__(self, sweep_id: str):
        self.sweep_id = sweep_id
        self.sweep = store.read_with_retry(
            lambda session: control.launched_config(store.find_sweep(session, sweep_id)),
            seconds=TIMEOUTS.write,
        )
        self.base = base_config(self.sweep)
        self.pruning = Pruning(sweep_id, self.sweep, self.base)
        self.others: set[str] = set()  # trials on other data than most
        self.set_aside: set[tuple[str, int]] = set()  # run and attempt
        self.looked_at = time.monotonic()
        self.reconciled_at = -TIMEOUTS.reconcile
        self.lease_acquired_at = -TIMEOUTS.heartbeat
        self.nodes: subprocess.Popen[bytes] | None = None
        self.nodes_at = -TIMEOUTS.start

    def run_round(self) -> bool:
        """One round; False once the sweep has ended."""
        try:
            lease.take()
            if not self.acquire_lease():
                return False
            self.ensure_ray_nodes()
            if time.monotonic() - self.reconciled_at >= TIMEOUTS.reconcile:
                self.reconciled_at = time.monotonic()
                reconciler.reconcile()
                standby.keep_ready()
            return self.look_after_trials()
        except lease.HomeInUse as error:
            print(error, file=sys.stderr)
            return False
        except (SQLAlchemyError, OSError) as error:
            # A locked table or a full disk is no reason to leave the trials alone.
            print(f"warning: {error}", file=sys.stderr, flush=True)
            return True

    def acquire_lease(self) -> bool:
        """True if no other machine's driver has the sweep; renews this one's lease."""
        if not store.is_shared() or time.monotonic() - self.lease_acquired_at < TIMEOUTS.heartbeat:
            return True  # the lock is enough on one machine
        with store.writing() as session:
            mine = store.acquire_lease(session, self.sweep_id, host=host(), lease=TIMEOUTS.lease)
        self.lease_acquired_at = time.monotonic()
        return mine

    def ensure_ray_nodes(self) -> None:
        """Have the nodes of the Ray cluster train too. Without it the sweep goes on here alone."""
        lost = self.nodes is None or self.nodes.poll() is not None
        now = time.monotonic()
        if self.sweep.executor == "ray" and lost and now - self.nodes_at >= TIMEOUTS.start:
            self.nodes, self.nodes_at = (
                start_attached(Worker.RAY_NODES, output=sys.stderr, RAY_USAGE_STATS_ENABLED="0"),
                now,
            )

    def look_after_trials(self) -> bool:
        with store.reading() as session:
            row = store.find_sweep(session, self.sweep_id)
            trials = store.list_trials(session, self.sweep_id)
        if row.status not in control.OPEN:
            return False
        paused = row.status == SweepStatus.PAUSED
        if paused and not any(run.status in ACTIVE for run in trials):
            self.looked_at = time.monotonic()
            return True
        spent = self.count_time(row)
        if paused:
            return True
        over = row.seconds is not None and spent >= row.seconds
        if over:
            why = f"pruned: the {row.seconds:,.0f} seconds of the sweep are over"
            control.stop_runs(trials, reason=why)
            left = False
        else:
            again = [self.try_again(run) for run in trials]
            self.prune(trials)
            more = enqueue(row.id, self.sweep, self.base)
            left = any(again) or more is not None
        if left or any(not Status(run.status).ended for run in trials):
            return True
        self.end("its time is over" if over else self.why_exhausted(row, trials))
        return False

    def why_exhausted(self, row: Sweep, trials: Sequence[Run]) -> str | None:
        """A sentence where there is nothing left to try before the budget is spent."""
        most = row.most_trials
        if self.sweep.method == "grid" or most is None or len(trials) > most - self.sweep.seeds:
            return None
        return f"all {len(trials) // self.sweep.seeds:,} settings of its space were tried"

    def count_time(self, row: Sweep) -> float:
        """Seconds for which drivers have looked after the sweep while it was active, or trials of
        it trained on."""
        now = time.monotonic()
        spent = row.spent_seconds + now - self.looked_at
        if now - self.looked_at >= TIMEOUTS.heartbeat:
            self.looked_at = now
            with store.writing() as session:
                store.change_sweep(session, row.id, None, leave=control.OPEN, spent_seconds=spent)
        return spent

    def try_again(self, run: Run) -> bool:
        """True if a trial that ended early goes on."""
        early = run.status in (Status.FAILED, Status.INTERRUPTED)
        if not early or (run.id, run.attempt) in self.set_aside:
            return False
        if retry(run, self.sweep.retries):
            return True
        self.set_aside.add((run.id, run.attempt))
        return False

    def prune(self, trials: Sequence[Run]) -> None:
        if self.sweep.pruner == "none":
            return
        with store.reading() as session:
            reports = store.reports(session, self.sweep_id, self.sweep.metric)
            others = others_of(session, self.sweep, trials)
        if others != self.others:  # what was scored on other data is no measure of the rest
            self.pruning = Pruning(self.sweep_id, self.sweep, self.base)
            self.others = others
        trials = [run for run in trials if run.id not in others]
        known = {run.id for run in trials}
        for run in self.pruning.look(trials, [report for report in reports if report[0] in known]):
            step, value = list(self.pruning.reported[run.number or 0].items())[-1]
            why = f"pruned: {self.sweep.metric} {value:.4g} at step {step:,} fell behind"
            with store.writing() as session:
                store.request_stop(session, run.id, reason=f"{why} ({self.sweep.pruner})")

    def end(self, reason: str | None) -> None:
        with store.writing() as session:
            store.change_sweep(
                session, self.sweep_id, SweepStatus.COMPLETED, leave=[SweepStatus.ACTIVE],
                ended_at=time.time(), reason=reason,
            )  # fmt: skip
        snapshots.write_sweep(self.sweep_id)


if __name__ == "__main__":
    sys.exit(main())
