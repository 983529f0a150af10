"""Writes or uploads an export of a run's model: `python -m src.workers.export RUN FORM`."""

import os
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
from typing import Any

from src import paths, store
from src.errors import UserError, explain, reason
from src.runs import exporting
from src.runs.exporting import HUB, Form
from src.runs.locks import FileLock
from src.runs.timeouts import TIMEOUTS


def main() -> int:
    parser = ArgumentParser(prog="python -m src.workers.export")
    parser.add_argument("run")
    parser.add_argument("what", choices=[*Form, HUB])
    parser.add_argument("--step", type=int)
    parser.add_argument("--repo")
    parser.add_argument("--merged", type=int, default=0)
    parser.add_argument("--public", type=int, default=0)
    asked = parser.parse_args()
    os.umask(0o077)
    lock = FileLock(paths.export_lock(asked.run))
    # The one before may be about to end.
    deadline = time.monotonic() + TIMEOUTS.start
    while not (mine := lock.acquire()) and time.monotonic() < deadline:
        time.sleep(TIMEOUTS.poll)
    if not mine:
        told = {"problem": "another export of this run is being written; start it again after it"}
    else:
        told = done(asked)
    exporting.note(asked.run, asked.step, asked.what, **told)
    lock.release()  # now: this process takes a while to end
    return 1 if "problem" in told else 0


def done(asked: Namespace) -> dict[str, Any]:
    """Write or upload what is asked for; what is to be noted of it."""
    try:
        with store.reading() as session:
            run = store.find(session, asked.run)
        from src.analysis import model_files

        if asked.what != HUB:
            model_files.write(run, asked.step, Form(asked.what))
            return {}
        folder = paths.output_dir(run.id) / HUB
        model_files.write_repository(run, asked.step, folder, merged=bool(asked.merged))
        return {"url": model_files.push(folder, asked.repo, private=not asked.public)}
    except (UserError, OSError) as error:
        return {"problem": explain(error)}
    # Such as no memory for the model. The page shows the line, the log all of it.
    except Exception as error:
        traceback.print_exc()
        return {"problem": reason(error)}


if __name__ == "__main__":
    sys.exit(main())
