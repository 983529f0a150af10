"""Rows of the run table and of the tables beside it, and the statuses that they may have."""

import time
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Dialect, Float, Index, String, TypeDecorator
from sqlmodel import Field, SQLModel

from src import paths
from src.config import paths_found
from src.format import run_label


class HomePath(TypeDecorator[str]):
    """A path that is absolute to readers and, inside the home, relative to it in the row."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else paths.to_keep(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else paths.found_again(value)


class HomeConfig(TypeDecorator[dict[str, Any]]):
    """The settings of a run as JSON, in which paths into a home that has moved are found again."""

    impl = JSON
    cache_ok = True

    def process_result_value(
        self, value: dict[str, Any] | None, dialect: Dialect
    ) -> dict[str, Any] | None:
        return paths_found(value) if isinstance(value, dict) else value


class Status(StrEnum):
    """State of a run. Written by `status.py` alone; the panel and the command line ask for QUEUED
    and CANCELLED, a run's supervisor and the reconciler for the rest."""

    QUEUED = "QUEUED"  # waits for a free slot
    STARTING = "STARTING"  # its supervisor has it; the trainer loads
    RUNNING = "RUNNING"  # the first metric is there
    STOPPING = "STOPPING"  # a stop was asked for and is on its way
    STOPPED = "STOPPED"  # ended because somebody asked
    COMPLETED = "COMPLETED"  # at max_steps, by early stopping or pruned (see end_reason)
    FAILED = "FAILED"  # ended by an error (see end_reason)
    INTERRUPTED = "INTERRUPTED"  # its processes are gone without a result
    CANCELLED = "CANCELLED"  # taken out of the queue before it started

    @property
    def active(self) -> bool:
        """True if processes of the run may be alive."""
        return self in ACTIVE

    @property
    def ended(self) -> bool:
        """True if no attempt is waiting or active."""
        return self is not Status.QUEUED and not self.active


ACTIVE = (Status.STARTING, Status.RUNNING, Status.STOPPING)
RESUMABLE = (Status.STOPPED, Status.INTERRUPTED, Status.FAILED)


class SweepStatus(StrEnum):
    """State of a sweep. Its driver writes COMPLETED, whoever launches and steers it the rest."""

    ACTIVE = "ACTIVE"  # its driver queues trials
    PAUSED = "PAUSED"  # none of its trials starts (see failed_at); those that train go on
    CANCELLED = "CANCELLED"  # ended because somebody asked
    COMPLETED = "COMPLETED"  # all trials have ended, or its budget is spent


class Sweep(SQLModel, table=True):
    """A base config, a search space and a budget. Parameters that were tried are in its runs."""

    id: str = Field(primary_key=True)
    name: str
    file: str  # text of the sweep file as it was launched; a later edit changes nothing
    # Resolved settings that all its trials share, as its preset had them at the launch.
    base: dict[str, Any] | None = Field(None, sa_column=Column(JSON))
    # File that the text was read from, and the folder that relative paths in it start from.
    path: str = Field(sa_column=Column(HomePath, nullable=False))
    folder: str = Field(sa_column=Column(HomePath, nullable=False))
    status: str = Field(index=True)
    reason: str | None = None  # one sentence: why it ended before its last trial
    seed: int  # of its sampler
    most_trials: int | None = None  # budget; None: until the grid or the time is exhausted
    seconds: float | None = None  # budget; None: unlimited
    spent_seconds: float = 0.0  # during which a driver ran it
    # Lease of the driver, if machines share the table: its host, and when it last renewed it.
    host: str | None = None
    seen_at: float | None = None
    created_at: float
    ended_at: float | None = None
    # Starts of its driver in a row that ended before the first round; None: none.
    failed_starts: int | None = None
    driver_started_at: float | None = None  # until it has come through its first round
    failed_at: float | None = None  # since when it is paused because its driver failed

    @property
    def told_status(self) -> str:
        """The status for people: FAILED where its driver failed, until somebody resumes it."""
        return self.status if self.failed_at is None else Status.FAILED.value

    def document(self) -> dict[str, Any]:
        """The row as `spelltune sweep list --json` prints it."""
        return self.model_dump(exclude={"file", "base"})


class Run(SQLModel, table=True):
    """One training job. Times are in UTC epoch seconds."""

    __table_args__ = (
        # Unique, so that two drivers cannot both launch a trial.
        Index("trial_of_sweep", "sweep_id", "number", unique=True),
        # What a list of thousands sorts and counts by, without reading their settings.
        Index("listed_runs", "archived_at", "created_at", "id", "status", "config_key"),
    )

    id: str = Field(primary_key=True)
    name: str = Field(index=True)
    status: str = Field(index=True)
    reason: str | None = None  # one sentence for people: why it ended as it did
    config: dict[str, Any] = Field(
        sa_column=Column(HomeConfig, nullable=False)
    )  # RunConfig.model_dump()
    used: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    attempt: int = 1  # each resume, heal or retry is the next one
    resume_step: int | None = None  # checkpoint that this attempt resumes from; None: from scratch
    # Fencing token of the supervisor that owns this attempt; a process with another must not write.
    token: str | None = None
    slot: int | None = None
    slot_given_at: float | None = None
    step: int | None = None  # last reported optimizer step; None until the first metric
    max_steps: int
    phase: str | None = None  # what the trainer is doing, in a few words
    best_step: int | None = None
    supervisor_pid: int | None = None
    trainer_pid: int | None = None
    # Boot id of the machine at the time: a pid means nothing after a reboot.
    boot_id: str | None = None
    host: str | None = None  # machine of the pids and the slot, if machines share the table
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    heartbeat_at: float | None = None
    stop_requested_at: float | None = None
    # Why its sweep asked it to stop, which completes it (PRUNED); None if a person asked.
    stop_reason: str | None = None
    queue_at: float | None = None  # place in the queue, if moved; else created_at
    held_at: float | None = None  # since when a person holds it back
    parent_id: str | None = None  # of a fork: the run whose checkpoint it started from
    parent_step: int | None = None
    # By people; None in rows of schema 2 and older.
    tags: list[str] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    notes: str | None = None
    sweep_id: str | None = Field(default=None, index=True)
    number: int | None = None  # of a trial in its sweep; None: it confirms parameters afterwards
    seed_index: int | None = None  # of a trial: index among the seeds of its parameters
    # Parameters {setting: value} that its sweep suggested; a healed trial trains with others.
    searched: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    # Of a run that confirms parameters: their rank in its sweep when it was launched, from 1.
    confirmed_rank: int | None = None
    end_reason: str | None = None  # outcome.EndReason of the last attempt; None until it has ended
    # Starts in a row of this attempt that ended before a trainer had read it; None: none.
    failed_starts: int | None = None
    # Since when it is out of the lists, though not deleted; None: it is in them.
    archived_at: float | None = None
    # Equal for runs of one config (`config.config_key`), so that a list can fold their seeds.
    config_key: str | None = None
    # Of all its attempts: its share of the machine's time, which its GPU and its pack divide among
    # them, and of the energy of its GPU. None where nothing was measured.
    machine_seconds: float | None = None
    energy_wh: float | None = None
    # That the attempts before this one took; None: it is the first, or none of them started.
    earlier_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """Seconds that all attempts took, the current one up to its end or to now; None before the
        first start. What lies between two attempts does not count."""
        if self.started_at is None:
            return self.earlier_seconds
        this = (self.ended_at or time.time()) - self.started_at
        return (self.earlier_seconds or 0.0) + max(0.0, this)

    @property
    def label(self) -> str:
        """`format.run_label` of this run."""
        return run_label(self.name, self.searched)


class MachineSample(SQLModel, table=True):
    """Meters of a machine while a slot of it trains, for all runs that train there."""

    __tablename__ = "machine_sample"

    host: str = Field(primary_key=True)
    slot: int = Field(primary_key=True)
    at: float = Field(primary_key=True)
    gpu_utilization: float | None = None  # shares, in [0, 1]
    gpu_memory_gib: float | None = None
    gpu_power_watts: float | None = None
    gpu_temperature_celsius: float | None = None
    cpu_utilization: float | None = None
    memory_gib: float | None = None
    disk_free_gib: float | None = None


class Metric(SQLModel, table=True):
    """One recorded scalar. The order of the key serves reading one curve after a step."""

    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE")
    name: str = Field(primary_key=True)
    step: int = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    value: float | None = Field(
        default=None, sa_column=Column(Float, nullable=True)
    )  # None for nan and infinities
    at: float


class LatestMetric(SQLModel, table=True):
    """The last written value of each metric, so that a page need not search millions of rows."""

    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE")
    name: str = Field(primary_key=True)
    step: int
    attempt: int
    value: float | None = None


class Checkpoint(SQLModel, table=True):
    """A complete checkpoint directory."""

    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE")
    step: int = Field(primary_key=True)
    attempt: int
    path: str = Field(sa_column=Column(HomePath, nullable=False))
    size_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    is_best: bool = False
    created_at: float


class Evaluation(SQLModel, table=True):
    """One evaluation of a split; `path` is the Parquet file of its predictions, one row each."""

    __table_args__ = (Index("evaluation_by_split", "run_id", "split", "step"),)

    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE")
    step: int = Field(primary_key=True)
    split: str = Field(primary_key=True)  # validation, test or suite/NAME
    attempt: int
    path: str = Field(sa_column=Column(HomePath, nullable=False))
    rows: int
    correct: int
    created_at: float


class EventKind(StrEnum):
    """Kinds of events in a run's lineage."""

    RESUMED = (
        "resumed"  # a next attempt was queued; `step` is the checkpoint's (None: from scratch)
    )
    AUTO_RESUMED = "auto-resumed"  # the same, automatically after an interruption
    LEFT = "left"  # not resumed automatically, and why
    SET_ASIDE = "set aside"  # its sweep does not retry it any more, and why
    HEALED = "healed"  # a next attempt, automatically after a failure and with other settings
    RETRIED = "retried"  # a next attempt, by its sweep after a failure
    RELAUNCHED = "relaunched"  # the same after an interruption that left no checkpoint
    FORKED = "forked"  # it began from another run's checkpoint
    WARNING = "warning"  # something failed that did not end the run


BEGIN_AN_ATTEMPT = (
    EventKind.RESUMED,
    EventKind.AUTO_RESUMED,
    EventKind.HEALED,
    EventKind.RETRIED,
    EventKind.RELAUNCHED,
)


class NoticeKind(StrEnum):
    """Kinds of notices: what people are told of by the services that are set."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    RESUMED = "resumed"  # a next attempt is queued, by a person or by itself
    SWEEP_COMPLETED = "sweep-completed"
    SWEEP_CONFIRMED = "sweep-confirmed"  # the last run ended that confirms its best settings
    SWEEP_FAILED = "sweep-failed"  # it goes no further until a person resumes it, or never
    DISK = "disk"  # little space is left
    BUDGET = "budget"  # the money for this machine is spent
    IDLE = "idle"  # the machine is idle, and its command is about to run
    IDLE_FAILED = "idle-failed"  # that command failed
    SET_UP = "set-up"  # told to nobody: what lies before it was not to be told


class Notice(SQLModel, table=True):
    """Something that happened and that people are to be told.

    In the transaction that makes it true, so that it is there once, whoever is killed when.
    """

    id: int | None = Field(default=None, primary_key=True)
    kind: str
    subject: str | None = None  # id of the run or the sweep
    text: str | None = None  # one sentence for people: why
    at: float
    host: str | None = None  # machine that left it
    # {service: what went wrong, None if it was told}; services that are not named are to be told.
    told: dict[str, str | None] = Field(
        default_factory=dict, sa_column=Column(JSON, nullable=False)
    )
    told_at: float | None = Field(default=None, index=True)  # since when no service is left to tell
    processes: int = 0  # that began to tell it


class Event(SQLModel, table=True):
    """One line of a run's lineage: what was done to it and why."""

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(foreign_key="run.id", ondelete="CASCADE", index=True)
    attempt: int  # that the event starts, or in which it happened
    step: int | None = None
    kind: str
    text: str
    at: float
