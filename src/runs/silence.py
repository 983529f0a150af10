"""Signs of life of a run, and for how long it has given none."""

import time

from src.runs.timeouts import TIMEOUTS
from src.store.tables import Run, Status


def seconds(run: Run, now: float | None = None) -> float | None:
    """Seconds since the last sign of life of an active run, where that is too long ago."""
    now = time.time() if now is None else now
    silent = now - (run.heartbeat_at or now)
    return silent if Status(run.status).active and silent > TIMEOUTS.stale else None
