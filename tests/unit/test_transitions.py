"""Random events of supervisors, trainers, the reconciler, users and a sweep's driver on one store.

The functions are the real ones; only processes are played: a "process" is an object here, and dies
by letting its locks go. A trigger of the database logs every change of a run, whoever makes it.
"""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import text

from src import paths, store
from src.config import load_config
from src.runs import attempts, launcher, reconciler, result_file, spawn
from src.runs.locks import FileLock, holder
from src.runs.machine import slot_lock
from src.store.outcome import EndReason, Outcome
from src.store.status import TRANSITIONS
from src.store.tables import ACTIVE, EventKind, Run, Status, Sweep, SweepStatus
from src.sweeps import control, trials
from src.workers import supervisor

SLOTS = 2
MAX_RUNS = 5
# A file system in memory: thousands of commits are synced, which a busy disk does slowly.
MEMORY = Path("/dev/shm")
PICK = st.integers(0, 99)  # of whatever there is then

# What a trainer may say of its end.
OUTCOMES = st.sampled_from(
    [reason for reason in EndReason if reason.status in result_file.REPORTED]
).map(lambda reason: Outcome(reason, f"because {reason}", step=1, best_step=1))

LOGGED = ("status", "attempt", "token", "end_reason", "ended_at", "step", "reason", "held_at")


def log_changes() -> None:
    """Create the trigger that logs each change of a run."""
    both = [f"{side}.{name}" for side in ("OLD", "NEW") for name in LOGGED]
    names = ", ".join(f"{one.replace('.', '_')}" for one in both)
    with store.writing() as session:
        session.execute(text(f"CREATE TABLE change ({names})"))
        session.execute(
            text(
                "CREATE TRIGGER log_changes AFTER UPDATE ON run BEGIN "
                f"INSERT INTO change VALUES ({', '.join(both)}); END"
            )
        )


class Trainer:
    """A process that trains the runs that its supervisor names."""

    def __init__(self, what: tuple[str, ...], token: str):
        self.token, self.what = token, what
        self.pid, self.returncode = os.getpid(), None
        self.read = 0
        self.runs: dict[str, tuple[Run, FileLock]] = {}

    def poll(self) -> int | None:
        return self.returncode

    def read_next(self) -> None:
        """Begin the next run that it is to train, as `workers.trainer.begin` does."""
        members = [(self.what[0], int(self.what[1]))] if self.what != ("--pack",) else [
            tuple(json.loads(line)) for line in paths.pack_file(self.token).read_text().splitlines()
        ]  # fmt: skip
        if self.read >= len(members):
            return
        run_id, attempt = members[self.read]
        self.read += 1
        if holder(paths.trainer_lock(run_id)) is not None:
            return
        with store.reading() as session:
            run = store.find(session, run_id)
            session.expunge(run)
            run.attempt, run.token = attempt, self.token
            if not store.owns(session, run):
                return
        lock = FileLock(paths.trainer_lock(run_id))
        assert lock.acquire()
        self.runs[run_id] = run, lock

    def leave(self, run_id: str) -> None:
        self.runs.pop(run_id)[1].release()

    def exit(self, code: int) -> None:
        self.returncode = code
        for run_id in list(self.runs):
            self.leave(run_id)


class Processes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.home = Path(tempfile.mkdtemp(dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        self.patch.setenv("SPELLTUNE_HOME", str(self.home))
        self.patch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
        self.asked: list[tuple[str, int, bool]] = []  # for a supervisor, which has not begun
        self.supervisors: list[tuple[supervisor.Supervisor, FileLock]] = []
        self.trainers: dict[str, Trainer] = {}  # by token
        self.seen: list[Run] = []  # rows as somebody read them at some time
        self.trials = self.checked = 0
        self.patch.setattr(launcher, "start_supervisor", self.ask)
        self.patch.setattr(launcher, "start_driver", lambda sweep_id: None)
        self.patch.setattr(launcher, "slot_count", lambda: SLOTS)
        self.patch.setattr(reconciler, "kill_by_token", lambda token: None)
        self.patch.setattr(spawn, "start_detached", self.start_trainer)
        self.patch.setattr(supervisor, "memory_kills", lambda pid: 0)
        # Every lock here is this process's own, and it must not end itself.
        self.patch.setattr(supervisor.Supervisor, "signal_trainer", lambda own, number: None)
        with store.writing() as session:
            session.add(Sweep(id="s", name="s", file="", path="", folder="", seed=0,
                              status=SweepStatus.ACTIVE, created_at=time.time()))  # fmt: skip
        log_changes()

    def teardown(self) -> None:
        for _, slot in self.supervisors:
            slot.release()
        for own, _ in self.supervisors:
            for one in own.runs:
                one.lock.release()
        for trainer in self.trainers.values():
            trainer.exit(0)
        self.patch.undo()
        shutil.rmtree(self.home)

    def ask(self, run_id: str, slot: int, *, adopt: bool = False) -> None:
        self.asked.append((run_id, slot, adopt))

    def start_trainer(self, worker: Any, *what: str, **environment: Any) -> Trainer:
        token = environment["SPELLTUNE_TOKEN"]
        return self.trainers.setdefault(token, Trainer(what, token))

    def rows(self) -> list[Run]:
        with store.reading() as session:
            rows = list(store.list_runs(session))
            session.expunge_all()
        self.seen = (self.seen + rows)[-60:]
        return rows

    def pick(self, index: int, *statuses: Status) -> Run | None:
        rows = [run for run in self.rows() if not statuses or run.status in statuses]
        return rows[index % len(rows)] if rows else None

    # --- all of them ---

    @rule(index=PICK)
    def time_passes(self, index: int) -> None:
        """Each process takes its next step; the rules below do so in any other order."""
        for _ in list(self.asked):
            self.supervisor_begins(0)
        for place in range(len(self.trainers)):
            if self.trainer(place):
                self.trainer_reads(place)
                self.trainer_reports(place, index)
        for place in range(len(self.supervisors)):
            self.supervisor_looks(place)
        if self.widowed():
            self.supervisor_ends(index)

    # --- a user, and a sweep's driver ---

    @rule(engine=st.sampled_from(["trl", "packed"]), heals=st.booleans(), trial=st.booleans())
    def launch(self, engine: str, heals: bool, trial: bool) -> None:
        if len(self.rows()) >= MAX_RUNS:
            return
        config = load_config(overrides={"engine": engine, "supervision.self_heal": heals})
        columns = {"sweep_id": "s", "number": self.trials} if trial else {}
        self.trials += trial
        with store.writing() as session:
            store.enqueue(session, config, **columns)
        launcher.fill_slots()

    @initialize(engines=st.lists(st.sampled_from(["trl", "packed"]), min_size=3, max_size=3))
    def begin(self, engines: list[str]) -> None:
        for number, engine in enumerate(engines):
            self.launch(engine, heals=True, trial=number > 0)

    @rule(index=PICK)
    def stop(self, index: int) -> None:
        """Mostly of a run that trains: what is cancelled takes no further part."""
        statuses = ACTIVE if index % 5 else ()
        if run := self.pick(index, *statuses):
            after = launcher.stop(run.id)
            assert after == (Status.CANCELLED if run.status == Status.QUEUED else run.status)

    @rule(index=PICK, held=st.booleans())
    def hold(self, index: int, held: bool) -> None:
        run = self.pick(index)
        if run is None:
            return
        try:
            with store.writing() as session:
                store.hold(session, [store.find(session, run.id)], held=held)
        except store.InvalidState:
            assert run.status != Status.QUEUED or not held

    @precondition(lambda self: self.seen)
    @rule(index=PICK)
    def resume(self, index: int) -> None:
        """Also by who has looked at an old page."""
        seen = self.seen[index % len(self.seen)]
        if seen.status not in (Status.STOPPED, Status.FAILED, Status.INTERRUPTED):
            return
        now = next(run for run in self.rows() if run.id == seen.id)
        with store.writing() as session:
            done = attempts.queue_next_attempt(
                session, seen, EventKind.RESUMED, "resumed", step=None
            )
        resumable = now.status in (Status.STOPPED, Status.FAILED, Status.INTERRUPTED)
        assert done == (resumable and (now.attempt, now.token) == (seen.attempt, seen.token))
        launcher.fill_slots()

    @rule(index=PICK)
    def sweep_ends_a_trial(self, index: int) -> None:
        """It is pruned, or taken out of the queue."""
        run = self.pick(index, *(ACTIVE if index % 3 else [Status.QUEUED]))
        if run and run.sweep_id:
            control.stop_runs([run], reason="pruned: the sweep has seen enough")

    @rule()
    def sweep_is_given_more(self) -> None:
        control._requeue_cancelled("s")

    @rule(index=PICK)
    def sweep_retries(self, index: int) -> None:
        run = self.pick(index, Status.FAILED, Status.INTERRUPTED)
        if run and run.sweep_id:
            trials.retry(run, retries=1)

    # --- supervisors ---

    @precondition(lambda self: self.asked)
    @rule(index=PICK)
    def supervisor_begins(self, index: int) -> None:
        run_id, slot, adopt = self.asked.pop(index % len(self.asked))
        if holder(slot_lock(slot)) is not None:
            return
        with store.reading() as session:
            token = store.find(session, run_id).token
            alike = [r.id for r in store.list_runs(session) if adopt and r.token == token]
        # Locks are a process's: here all share one, so ask first.
        if any(holder(paths.supervisor_lock(one)) is not None for one in {run_id, *alike}):
            return
        lock = FileLock(slot_lock(slot))
        assert lock.acquire()
        own = supervisor.Supervisor(slot)
        if adopt:
            own.adopt(run_id)
        else:
            own.start(run_id)
        if own.runs:
            self.supervisors.append((own, lock))
        else:
            lock.release()

    @precondition(lambda self: self.asked)
    @rule(index=PICK)
    def supervisor_dies_before_it_claims(self, index: int) -> None:
        run_id, _, _ = self.asked.pop(index % len(self.asked))
        with store.writing() as session:  # as it is when the time to claim it is over
            session.execute(text("UPDATE run SET slot_given_at = 0 WHERE id = :id"), {"id": run_id})

    @precondition(lambda self: self.supervisors)
    @rule(index=PICK)
    def supervisor_looks(self, index: int) -> None:
        own, _ = self.supervisors[index % len(self.supervisors)]
        own.follow(time.monotonic())
        if own.pack is not None:
            own.end_members()
            own.claim_more(3 - len(own.runs))

    @precondition(lambda self: self.widowed())
    @rule(index=PICK)
    def supervisor_ends(self, index: int) -> None:
        own, lock = self.widowed()[index % len(self.widowed())]
        own.end(own.outcomes())
        self.supervisors.remove((own, lock))
        lock.release()
        launcher.fill_slots()

    def widowed(self) -> list[tuple[supervisor.Supervisor, FileLock]]:
        """Supervisors whose trainer is gone."""
        return [one for one in self.supervisors if not (one[0].runs and one[0].alive())]

    @precondition(lambda self: self.supervisors)
    @rule(index=PICK)
    def supervisor_dies(self, index: int) -> None:
        if index % 3:
            return
        own, lock = self.supervisors.pop(index % len(self.supervisors))
        for one in own.runs:
            one.lock.release()
        lock.release()

    # --- trainers ---

    def trainer(self, index: int) -> Trainer | None:
        living = [one for one in self.trainers.values() if one.returncode is None]
        return living[index % len(living)] if living else None

    @precondition(lambda self: self.trainer(0))
    @rule(index=PICK)
    def trainer_reads(self, index: int) -> None:
        if one := self.trainer(index):
            one.read_next()

    @precondition(lambda self: self.trainer(0))
    @rule(index=PICK, which=PICK)
    def trainer_reports(self, index: int, which: int) -> None:
        """A metric, as `workers.reporter` writes it."""
        one = self.trainer(index)
        assert one is not None
        if not one.runs:
            one.read_next()
        if not one.runs:
            return
        run, _ = list(one.runs.values())[which % len(one.runs)]
        with store.writing() as session:
            now = store.find(session, run.id)
            current = (now.attempt, now.token) == (run.attempt, run.token)
            current = current and now.status in ACTIVE
            assert store.owns(session, run) == current
            assert store.update_attempt(session, run, step=1) == current
        if not current:
            one.leave(run.id)

    @precondition(lambda self: self.trainer(0))
    @rule(index=PICK, which=PICK, outcome=OUTCOMES)
    def trainer_ends_a_run(self, index: int, which: int, outcome: Outcome) -> None:
        one = self.trainer(index)
        if one is None or not one.runs:
            return
        run, _ = list(one.runs.values())[which % len(one.runs)]
        paths.output_dir(run.id).mkdir(parents=True, exist_ok=True)
        result_file.write_result(run.id, run.attempt, outcome)
        one.leave(run.id)
        if one.what != ("--pack",):
            one.exit(0)

    @precondition(lambda self: self.trainer(0))
    @rule(index=PICK, code=st.sampled_from([0, 1, 2, -9, -11, result_file.EXIT_DISK_FULL]))
    def trainer_dies(self, index: int, code: int) -> None:
        if one := self.trainer(index):
            one.exit(code)

    # --- the reconciler, and who comes too late ---

    @rule()
    def reconcile(self) -> None:
        reconciler.reconcile()

    @precondition(lambda self: self.seen)
    @rule(index=PICK, outcome=OUTCOMES)
    def a_stale_token_writes(self, index: int, outcome: Outcome) -> None:
        seen = self.seen[index % len(self.seen)]
        now = next(run for run in self.rows() if run.id == seen.id)
        same = (now.attempt, now.token) == (seen.attempt, seen.token)
        if same and not Status(now.status).ended:
            return
        with store.writing() as session:
            assert not store.owns(session, seen)
            assert not store.update_attempt(session, seen, step=99)
            assert not store.end(session, seen, outcome)
            assert not store.release(session, seen)
            if not same:
                assert not store.requeue(session, seen, resume_step=None, config=None)
        assert next(r for r in self.rows() if r.id == now.id).model_dump() == now.model_dump()

    # --- what always holds ---

    @invariant()
    def every_change_was_allowed(self) -> None:
        with store.reading() as session:
            query = text("SELECT * FROM change ORDER BY rowid LIMIT -1 OFFSET :seen")
            changes = session.execute(query, {"seen": self.checked}).all()
        self.checked += len(changes)
        for change in changes:
            half = len(LOGGED)
            old, new = (
                SimpleNamespace(**dict(zip(LOGGED, side, strict=True)))
                for side in (change[:half], change[half:])
            )
            was, now = Status(old.status), Status(new.status)
            again = was.ended and now == Status.QUEUED
            if was != now:
                assert now in TRANSITIONS[was], f"{was} -> {now}"
                assert now != Status.STARTING or old.held_at is None, "a held run was claimed"
            elif was.ended:
                assert old == new, "an ended row changed"
            next_attempt = again and was != Status.CANCELLED
            assert new.attempt == old.attempt + next_attempt
            if was.active and now.active:
                assert new.token == old.token

    @invariant()
    def rows_are_consistent(self) -> None:
        by_slot: dict[int | None, set[str | None]] = {}
        for run in self.rows():
            status = Status(run.status)
            assert status.ended == (run.end_reason is not None)
            if run.end_reason:
                assert EndReason(run.end_reason).status == status
            if status.active:
                assert run.token is not None and run.slot is not None
                by_slot.setdefault(run.slot, set()).add(run.token)
            if status == Status.QUEUED:
                assert run.token is None and run.ended_at is None
        assert all(len(tokens) == 1 for tokens in by_slot.values()), "two processes in one slot"


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(
    max_examples=12,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
