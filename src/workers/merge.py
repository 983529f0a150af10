"""Writes a merged model of a checkpoint: `python -m src.workers.merge RUN STEP`."""

import os
import sys

from src import paths, store
from src.config import stored_config
from src.errors import UserError, explain
from src.runs import attempts
from src.runs.locks import FileLock
from src.training import checkpointing


def main(run_id: str, step: int) -> int:
    os.umask(0o077)
    lock = FileLock(paths.merge_lock(run_id))
    if not lock.acquire():
        print(f"a merged model of {run_id} is being written already", file=sys.stderr)
        return 1
    try:
        with store.reading() as session:
            run = store.find(session, run_id)
        verified = attempts.verified_step(run, step)
        from src.training.merge import merge  # loads torch, so after what may refuse

        adapter = checkpointing.step_dir(paths.checkpoints_dir(run_id), verified)
        merge(stored_config(run.config), adapter, paths.merged_dir(run_id, step))
    except (UserError, OSError) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
