"""The transitions between the statuses of a run, and how an attempt may end."""

import errno
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from scripts import state_diagram
from src import paths, store
from src.config import load_config
from src.files import write_atomic
from src.runs import result_file
from src.store.migrations import values_of_schema_8
from src.store.outcome import EndReason, Outcome, Remedy
from src.store.status import TRANSITIONS
from src.store.tables import ACTIVE, RESUMABLE, Status
from src.workers import trainer

SRC = Path(__file__).parents[2] / "src"


@pytest.mark.usefixtures("home")
def test_a_transition_that_the_table_lacks_is_an_error_and_writes_nothing() -> None:
    with store.writing() as session:
        run = store.enqueue(session, load_config())
    reasons: dict[Status, EndReason] = {}
    for end_reason in EndReason:
        reasons.setdefault(end_reason.status, end_reason)
    for a, b in product(Status, Status):
        if b in TRANSITIONS[a]:
            continue
        with pytest.raises(store.InvalidTransition), store.writing() as session:
            store.transition(session, run, b, leave=[a], end_reason=reasons.get(b))
    with store.reading() as session:
        assert store.find(session, run.id).status == Status.QUEUED


@pytest.mark.usefixtures("home")
def test_the_reason_of_an_end_fits_its_status() -> None:
    with store.writing() as session:
        run = store.enqueue(session, load_config())
        store.claim(session, run, token="t")
        session.refresh(run)
    for to, end_reason in (
        (Status.RUNNING, EndReason.ERROR),
        (Status.FAILED, EndReason.STOPPED),
        (Status.FAILED, None),
    ):
        with pytest.raises(store.InvalidTransition), store.writing() as session:
            store.transition(session, run, to, leave=[Status.STARTING], end_reason=end_reason)
    with pytest.raises(store.InvalidTransition), store.writing() as session:
        store.update_attempt(session, run, status=Status.FAILED)


def test_every_status_has_a_row_and_only_those_that_go_on_may_be_left() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert {a for a, to in TRANSITIONS.items() if Status.QUEUED in to and a.ended} == {
        *RESUMABLE, Status.CANCELLED
    }  # fmt: skip
    for status in ACTIVE:
        ends = {b for b in TRANSITIONS[status] if b.ended}
        assert ends == {s for s in Status if s.ended} - {Status.CANCELLED}
    assert {end_reason.status for end_reason in EndReason} == {s for s in Status if s.ended}


def test_the_state_diagram_of_the_docs_is_written_from_the_transitions() -> None:
    text = state_diagram.FILE.read_text()
    assert text == state_diagram.with_diagram(text), "run `make diagram`"
    shown = state_diagram.diagram()
    for a, to in TRANSITIONS.items():
        for b in to:
            assert f" {a} --> {b}: " in shown or (a in ACTIVE and f" active --> {b}: " in shown)


def test_a_status_is_written_in_one_place_only() -> None:
    """`_move` checks TRANSITIONS; `enqueue` inserts QUEUED rows."""
    for file in SRC.rglob("*.py"):
        text = file.read_text()
        assert ".status = " not in text, file
        if file.name != "status.py":
            assert "values(status" not in text and '"status": to' not in text, file


@pytest.mark.parametrize(
    ("end_reason", "status", "may_retry", "heals_by"),
    [
        (EndReason.COMPLETED, "COMPLETED", False, None),
        (EndReason.PRUNED, "COMPLETED", False, None),
        (EndReason.STOPPED, "STOPPED", False, None),
        (EndReason.WITHDRAWN, "CANCELLED", False, None),
        (EndReason.ERROR, "FAILED", True, None),
        (EndReason.KILLED, "FAILED", True, None),
        (EndReason.DISK_FULL, "FAILED", True, None),
        (EndReason.DIVERGED, "FAILED", True, Remedy.LOWER_LEARNING_RATE),
        (EndReason.CUDA_OUT_OF_MEMORY, "FAILED", False, Remedy.SMALLER_BATCH),
        (EndReason.OUT_OF_MEMORY, "FAILED", False, Remedy.SMALLER_BATCH),
        (EndReason.OOM_KILLED, "FAILED", False, None),
        (EndReason.LOST, "INTERRUPTED", True, None),
    ],
)
def test_what_follows_from_the_reason_of_an_end(
    end_reason: EndReason, status: str, may_retry: bool, heals_by: Remedy | None
) -> None:
    assert end_reason.status == status
    assert (end_reason.may_retry, end_reason.heals_by) == (may_retry, heals_by)


@pytest.mark.parametrize(
    ("status", "reason", "stop_reason", "end_reason"),
    [
        ("COMPLETED", None, None, "completed"),
        ("COMPLETED", "early stopping: val/loss was not better", None, "early_stopped"),
        ("COMPLETED", "pruned: lr 1 fell behind", "pruned: lr 1 fell behind", "pruned"),
        ("STOPPED", "stopped by force: it did not end in time", "pruned: x", "stopped"),
        ("CANCELLED", "cancelled before it started", None, "cancelled"),
        ("CANCELLED", "pruned: the 60 seconds of the sweep are over", None, "withdrawn"),
        ("FAILED", "oom: the machine ran out of memory and killed the trainer", None, "oom_killed"),
        ("FAILED", "oom: RuntimeError: DefaultCPUAllocator", None, "oom"),
        ("FAILED", "cuda_oom: OutOfMemoryError: CUDA out of memory", None, "cuda_oom"),
        ("FAILED", "disk_full: no space left on the disk", None, "disk_full"),
        ("FAILED", "diverged: Diverged: the loss is nan", None, "diverged"),
        ("FAILED", "signal 9 (SIGKILL) ended the trainer", None, "killed"),
        ("FAILED", "ValueError: no", None, "error"),
        ("FAILED", None, None, "error"),
        ("INTERRUPTED", "its processes are gone without a result", None, "lost"),
        ("RUNNING", None, None, None),
        ("QUEUED", "held until somebody releases it", None, None),
    ],
)
def test_a_row_from_before_the_column_gets_its_reason_from_its_sentence(
    status: str, reason: str | None, stop_reason: str | None, end_reason: str | None
) -> None:
    row = {"name": "n", "status": status, "reason": reason, "stop_reason": stop_reason}
    row |= {"sweep_id": None, "number": None}
    assert values_of_schema_8(row) == {"end_reason": end_reason, "confirmed_rank": None}


def test_a_confirming_run_from_before_the_column_gets_its_rank_from_its_name() -> None:
    row = {"name": "tiny place 2", "status": "QUEUED", "reason": None, "stop_reason": None}
    rank = {number: values_of_schema_8(row | {"sweep_id": "s", "number": number}) for number in
            (None, 3)}  # fmt: skip
    assert (rank[None]["confirmed_rank"], rank[3]["confirmed_rank"]) == (2, None)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("written", "outcome"),
    [
        (
            {"status": "COMPLETED", "reason": "early stopping: x", "step": 9, "best_step": 6},
            Outcome(EndReason.EARLY_STOPPED, "early stopping: x", 9, 6),
        ),
        (
            {"status": "FAILED", "reason": "cuda_oom: x", "kind": "cuda_oom",
             "phase": "validation 3 of 9"},
            Outcome(EndReason.CUDA_OUT_OF_MEMORY, "cuda_oom: x", phase="validation 3 of 9",
                    scoring=True),
        ),
        ({"status": "RUNNING"}, None),
        ({"status": "COMPLETED", "end_reason": "error"}, None),
        ({"reason": "x"}, None),
    ],
)  # fmt: skip
def test_a_result_of_older_code_is_read_and_an_invalid_one_is_none(
    written: dict[str, Any], outcome: Outcome | None
) -> None:
    (paths.output_dir("r")).mkdir(parents=True)
    write_atomic(paths.output_dir("r") / "result.json", json.dumps({"attempt": 2, **written}))
    assert result_file.read_result("r", 2) == outcome
    assert result_file.read_result("r", 1) is None


@pytest.mark.usefixtures("home")
def test_a_result_is_read_as_it_was_written_with_the_keys_that_it_always_had() -> None:
    paths.output_dir("r").mkdir(parents=True)
    failed = Outcome(EndReason.OUT_OF_MEMORY, "oom: x", phase="test 1 of 2", scoring=True)
    for outcome in (failed, Outcome(EndReason.COMPLETED, None, 9, 6)):
        result_file.write_result("r", 1, outcome)
        assert result_file.read_result("r", 1) == outcome
    keys = {"attempt", "ended_at", "status", "reason", "step", "best_step", "end_reason"}
    assert json.loads((paths.output_dir("r") / "result.json").read_text()).keys() == keys
    known = failed.to_document()
    assert (known["status"], known["kind"], known["phase"]) == ("FAILED", "oom", "test 1 of 2")


@pytest.mark.parametrize(
    ("error", "end_reason"),
    [
        (OSError(errno.ENOSPC, "x"), EndReason.DISK_FULL),
        (OSError(errno.EDQUOT, "x"), EndReason.DISK_FULL),
        (Exception("I/O error: Disk quota exceeded (os error 122)"), EndReason.DISK_FULL),
        (Exception("Os { code: 28, kind: StorageFull, message: x }"), EndReason.DISK_FULL),
        (RuntimeError("PytorchStreamWriter failed: No space left on device"), EndReason.DISK_FULL),
        (type("OutOfMemoryError", (RuntimeError,), {})("x"), EndReason.CUDA_OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), EndReason.CUDA_OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't"), EndReason.OUT_OF_MEMORY),
        (MemoryError(), EndReason.OUT_OF_MEMORY),
        (type("Diverged", (ArithmeticError,), {})("x"), EndReason.DIVERGED),
        (ValueError("x"), EndReason.ERROR),
    ],
)
def test_an_error_of_a_training_has_a_reason(error: Exception, end_reason: EndReason) -> None:
    assert trainer.end_reason_of(error) == end_reason
