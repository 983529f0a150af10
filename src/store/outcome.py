"""How an attempt of a run ended, as data: a reason from a closed list, and what follows from it.

The sentence beside it is for people. No program reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from src.store.tables import Status


class Remedy(StrEnum):
    """A change that may let a failed run succeed in its next attempt (`supervision.self_heal`)."""

    SMALLER_BATCH = "smaller_batch"
    LOWER_LEARNING_RATE = "lower_learning_rate"


class EndReason(StrEnum):
    """Why an attempt ended. Kept in the column `end_reason`, so values never change."""

    COMPLETED = "completed"  # trained to max_steps
    EARLY_STOPPED = "early_stopped"  # a criterion of early_stopping was met
    PRUNED = "pruned"  # its sweep had seen enough of it
    STOPPED = "stopped"  # somebody asked, or it had to be killed after a stop
    CANCELLED = "cancelled"  # somebody took it out of the queue
    WITHDRAWN = "withdrawn"  # its sweep took it out of the queue; more budget brings it back
    OUT_OF_MEMORY = "oom"  # an allocation in host memory failed
    OOM_KILLED = "oom_killed"  # the kernel's OOM killer ended the trainer
    CUDA_OUT_OF_MEMORY = "cuda_oom"
    DISK_FULL = "disk_full"
    DIVERGED = "diverged"
    ERROR = "error"  # any other exception, or an exit without a result
    KILLED = "killed"  # a signal ended the trainer
    LOST = "lost"  # its processes or its machine are gone without a result
    TERMINATED = "terminated"  # a signal asked the trainer to end: see `runs/termination.py`

    @property
    def status(self) -> Status:
        """The status of a run whose last attempt ended so."""
        return _STATUS.get(self, Status.FAILED)

    @property
    def may_retry(self) -> bool:
        """True if the same attempt may succeed when a sweep launches it once more."""
        out_of_memory = (self.OUT_OF_MEMORY, self.OOM_KILLED, self.CUDA_OUT_OF_MEMORY)
        return self.status in (Status.FAILED, Status.INTERRUPTED) and self not in out_of_memory

    @property
    def heals_by(self) -> Remedy | None:
        """The change of settings that may help; None if none is known."""
        return _REMEDIES.get(self)


_STATUS = {
    EndReason.COMPLETED: Status.COMPLETED,
    EndReason.EARLY_STOPPED: Status.COMPLETED,
    EndReason.PRUNED: Status.COMPLETED,
    EndReason.STOPPED: Status.STOPPED,
    EndReason.CANCELLED: Status.CANCELLED,
    EndReason.WITHDRAWN: Status.CANCELLED,
    EndReason.LOST: Status.INTERRUPTED,
    EndReason.TERMINATED: Status.INTERRUPTED,
}

# Not OOM_KILLED: how much memory was missing is unknown, and other processes may have taken it.
_REMEDIES = {
    EndReason.OUT_OF_MEMORY: Remedy.SMALLER_BATCH,
    EndReason.CUDA_OUT_OF_MEMORY: Remedy.SMALLER_BATCH,
    EndReason.DIVERGED: Remedy.LOWER_LEARNING_RATE,
}

# What `kind` in result.json may be; None for every other reason.
_KINDS = (
    EndReason.OUT_OF_MEMORY,
    EndReason.CUDA_OUT_OF_MEMORY,
    EndReason.DISK_FULL,
    EndReason.DIVERGED,
)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: what its trainer writes to result.json, and `status.end` to the row."""

    end_reason: EndReason
    reason: str | None = None  # one sentence for people; None if it trained to max_steps
    step: int | None = None
    best_step: int | None = None
    phase: str | None = None  # of a failure: what it was doing, for people
    scoring: bool = False  # of a failure: it was scoring a split, not training

    @property
    def status(self) -> Status:
        return self.end_reason.status

    def to_document(self) -> dict[str, Any]:
        """The content of result.json."""
        document: dict[str, Any] = {"status": str(self.status), "reason": self.reason}
        if self.status == Status.FAILED:
            kind = str(self.end_reason) if self.end_reason in _KINDS else None
            document |= {"kind": kind, "phase": self.phase, "scoring": self.scoring}
        else:
            document |= {"step": self.step, "best_step": self.best_step}
        return document | {"end_reason": str(self.end_reason)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Outcome":
        """Read a result.json, also one without `end_reason`. ValueError if its status is none."""
        status, reason = Status(document["status"]), document.get("reason")
        given = document.get("end_reason")
        phase = document.get("phase")
        if given is None:
            end_reason = end_reason_of_sentence(status, reason, pruned=False)
            scoring = str(phase).startswith(("validation", "test"))
        else:
            end_reason, scoring = EndReason(given), bool(document.get("scoring"))
        if end_reason is None or end_reason.status != status:
            raise ValueError(f"{given} is no reason to be {status}")
        return cls(
            end_reason, reason, document.get("step"), document.get("best_step"), phase, scoring
        )


_OLD_FAILURES = (
    ("oom: the machine ran out of memory", EndReason.OOM_KILLED),
    ("oom:", EndReason.OUT_OF_MEMORY),
    ("cuda_oom:", EndReason.CUDA_OUT_OF_MEMORY),
    ("disk_full:", EndReason.DISK_FULL),
    ("diverged:", EndReason.DIVERGED),
    ("signal ", EndReason.KILLED),
)


def end_reason_of_sentence(status: Status, reason: str | None, *, pruned: bool) -> EndReason | None:
    """Derive the reason from what versions before schema 8 kept: a sentence. None if not ended.

    Nothing else reads such sentences. Migration 8 does so for rows, and whoever meets a result.json
    or a run.json from before.
    """
    text = reason or ""
    match status:
        case Status.COMPLETED if pruned or text.startswith("pruned:"):
            return EndReason.PRUNED
        case Status.COMPLETED if text.startswith("early stopping"):
            return EndReason.EARLY_STOPPED
        case Status.CANCELLED if text.startswith("pruned:"):
            return EndReason.WITHDRAWN
        case Status.FAILED:
            return next(
                (r for start, r in _OLD_FAILURES if text.startswith(start)), EndReason.ERROR
            )
    return next((r for r in EndReason if r.status == status), None)
