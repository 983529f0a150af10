"""The rows of the run table and of the tables beside it. Queries live in store.py."""

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Float, Index
from sqlmodel import Field, SQLModel


class Status(StrEnum):
    """Where a run is. Written by the panel or the command line (QUEUED, CANCELLED) and by its
    supervisor (the rest)."""

    QUEUED = "QUEUED"  # waits for a free slot
    STARTING = "STARTING"  # its supervisor has it; the trainer loads
    RUNNING = "RUNNING"  # the first metric is there
    STOPPING = "STOPPING"  # a stop was asked for and is on its way
    STOPPED = "STOPPED"  # ended because somebody asked
    COMPLETED = "COMPLETED"  # ended by itself, at max_steps or by early stopping (see reason)
    FAILED = "FAILED"  # ended by an error (see reason)
    INTERRUPTED = "INTERRUPTED"  # its processes are gone without a result
    CANCELLED = "CANCELLED"  # taken out of the queue before it started

    @property
    def active(self) -> bool:
        """Whether processes of the run may be alive."""
        return self in ACTIVE

    @property
    def ended(self) -> bool:
        return self is not Status.QUEUED and not self.active


ACTIVE = (Status.STARTING, Status.RUNNING, Status.STOPPING)
RESUMABLE = (Status.STOPPED, Status.INTERRUPTED, Status.FAILED)


class SweepStatus(StrEnum):
    """Where a sweep is. Written by who launches and steers it, COMPLETED by its driver."""

    ACTIVE = "ACTIVE"  # its driver queues trials
    PAUSED = "PAUSED"  # none of its trials starts; those that train go on
    CANCELLED = "CANCELLED"  # ended because somebody asked
    COMPLETED = "COMPLETED"  # all trials have ended, or its budget is spent


class Sweep(SQLModel, table=True):
    """A base config, a search space and a budget. What is tried stands in the rows of its runs."""

    id: str = Field(primary_key=True)
    name: str
    file: str  # text of the sweep file as it was launched; a later edit changes nothing
    # Every setting that its trials have in common, as its preset had them then.
    base: dict[str, Any] | None = Field(None, sa_column=Column(JSON))
    path: str  # where that text was read
    folder: str  # from where its relative paths go
    status: str = Field(index=True)
    reason: str | None = None  # one sentence: why it ended, where it was not with its last trial
    seed: int  # of its sampler
    most_trials: int | None = None  # budget; None: the grid's end, or the time, is the limit
    seconds: float | None = None  # budget; None sets no limit
    spent_seconds: float = 0.0  # for which a driver looked after it
    # Machine whose driver looks after it, and when it last said so; where several share a table.
    host: str | None = None
    seen_at: float | None = None
    created_at: float
    ended_at: float | None = None


class Run(SQLModel, table=True):
    """One training job. Times are UTC epoch seconds."""

    # Two drivers that are at it at once cannot both launch a trial.
    __table_args__ = (Index("trial_of_sweep", "sweep_id", "number", unique=True),)

    id: str = Field(primary_key=True)
    name: str = Field(index=True)
    status: str = Field(index=True)
    reason: str | None = None  # one sentence for people: why it ended as it did
    end_reason: str | None = None  # the same for programs (outcome.EndReason); None until it ends
    config: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))  # RunConfig.model_dump()
    used: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    attempt: int = 1  # a resume is the next attempt
    resume_step: int | None = None  # checkpoint that this attempt goes on from; None: from scratch
    # Of the supervisor that owns this attempt; who has another one must not write.
    token: str | None = None
    slot: int | None = None
    slot_given_at: float | None = None
    step: int | None = None  # last reported optimizer step; None until the first metric
    max_steps: int
    phase: str | None = None  # what goes on now, in a few words
    best_step: int | None = None
    supervisor_pid: int | None = None
    trainer_pid: int | None = None
    # Of the machine when the pids were written: a pid means nothing after a reboot.
    boot_id: str | None = None
    host: str | None = None  # machine of the pids and the slot; matters where several share a table
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    heartbeat_at: float | None = None
    stop_requested_at: float | None = None
    # Why, where that completes the run: it was pruned. None where a person asked.
    stop_reason: str | None = None
    queue_at: float | None = None  # its place in the queue, where that is not its launch
    held_at: float | None = None  # since then a person lets it wait, whatever slot is free
    parent_id: str | None = None  # of a fork: the run whose checkpoint it went on from
    parent_step: int | None = None
    # What people say of a run; None in rows from before there was a place for it.
    tags: list[str] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    notes: str | None = None
    sweep_id: str | None = Field(default=None, index=True)
    number: int | None = None  # of a trial in its sweep; None: it confirms a setting afterwards
    seed_index: int | None = None  # of a trial: which of the seeds of its setting it has
    # {setting: value} that its sweep searched; a healed trial goes on with others.
    searched: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON, nullable=True))
    # Of a run that confirms parameters: their rank in its sweep when it was launched, from 1.
    confirmed_rank: int | None = None


class Metric(SQLModel, table=True):
    """One recorded scalar. The key's order serves reading one curve beyond a step."""

    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE")
    name: str = Field(primary_key=True)
    step: int = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    value: float | None = Field(
        default=None, sa_column=Column(Float, nullable=True)
    )  # None for nan and infinities
    at: float


class LatestMetric(SQLModel, table=True):
    """The value of each metric that was written last: a page must not search millions of rows for
    it."""

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
    path: str
    size_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    is_best: bool = False
    created_at: float


class Evaluation(SQLModel, table=True):
    """One scoring of a split; its predictions lie in the Parquet file at `path`, one row a
    question."""

    __table_args__ = (Index("evaluation_by_split", "run_id", "split", "step"),)

    run_id: str = Field(primary_key=True, foreign_key="run.id", ondelete="CASCADE")
    step: int = Field(primary_key=True)
    split: str = Field(primary_key=True)  # validation or test
    attempt: int
    path: str
    rows: int
    correct: int
    created_at: float


class EventKind(StrEnum):
    """What happens to a run besides its status."""

    RESUMED = (
        "resumed"  # a next attempt was queued; `step` is the checkpoint's (None: from scratch)
    )
    AUTO_RESUMED = "auto-resumed"  # the same, by itself after an interruption
    LEFT = "left"  # not resumed by itself, and why
    SET_ASIDE = "set aside"  # its sweep launches it no more, and why
    HEALED = "healed"  # the same, by itself after a failure and with other settings
    RETRIED = "retried"  # the same, by its sweep after a failure
    RELAUNCHED = "relaunched"  # the same, by its sweep where an interruption left no checkpoint
    FORKED = "forked"  # it began from another run's checkpoint
    WARNING = "warning"  # something failed that did not end the run


BEGIN_AN_ATTEMPT = (
    EventKind.RESUMED,
    EventKind.AUTO_RESUMED,
    EventKind.HEALED,
    EventKind.RETRIED,
    EventKind.RELAUNCHED,
)


class Event(SQLModel, table=True):
    """One line of a run's lineage: what was done to it, by whom, and why."""

    id: int | None = Field(default=None, primary_key=True)
    run_id: str = Field(foreign_key="run.id", ondelete="CASCADE", index=True)
    attempt: int  # that it begins, or in which it happened
    step: int | None = None
    kind: str
    text: str
    at: float
