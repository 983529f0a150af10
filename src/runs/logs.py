"""The log of a run: RUN.log, and RUN.log.1 with its older end."""

import os
from contextlib import suppress

from src import paths

MAX_BYTES = 32 * 2**20


def append_to_log(run_id: str, text: str) -> None:
    """Append to a run's own log, of which the process may have many. Ignores a full disk."""
    with suppress(OSError), open(paths.log_file(run_id), "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def cut_log(run_id: str) -> None:
    """Keep the log below MAX_BYTES: move its last quarter to a second file, and empty it."""
    log = paths.log_file(run_id)
    if not log.exists() or log.stat().st_size <= MAX_BYTES:
        return
    # Its writers append, so they go on at the new end.
    with open(log, "r+b") as file:
        file.seek(-MAX_BYTES // 4, os.SEEK_END)
        paths.older_log_file(run_id).write_bytes(file.read(MAX_BYTES // 4))
        file.truncate(0)
