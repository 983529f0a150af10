"""result.json: how a trainer says that an attempt ended, to its supervisor or the reconciler."""

import errno
import json
import time
from collections.abc import Mapping
from typing import Any

from src import paths
from src.files import write_atomic
from src.store.tables import Status

# Exit code of a trainer that found no space even for this file.
EXIT_DISK_FULL = errno.ENOSPC

# Statuses that a trainer may report.
REPORTED = (Status.COMPLETED, Status.STOPPED, Status.FAILED)


def write_result(run_id: str, attempt: int, result: Mapping[str, object]) -> None:
    """Write the result file of an attempt."""
    document = {"attempt": attempt, "ended_at": time.time(), **result}
    write_atomic(paths.result_file(run_id), json.dumps(document, indent=2) + "\n")


def read_result(run_id: str, attempt: int) -> dict[str, Any] | None:
    """The result {status, reason, step, best_step} of this attempt; None if the file is missing,
    unreadable or of another attempt."""
    try:
        result = json.loads(paths.result_file(run_id).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("attempt") != attempt:
        return None
    return result if result.get("status") in REPORTED else None


def forget_result(run_id: str) -> None:
    """Remove the result file of an earlier attempt."""
    paths.result_file(run_id).unlink(missing_ok=True)
