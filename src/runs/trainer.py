"""The process that trains one attempt of one run: `python -m src.runs.trainer RUN ATTEMPT`, started
by a supervisor.

It writes metrics, checkpoints and its result file, never a status.
"""

import errno
import json
import os
import sys
import time
import traceback

from src import paths
from src.config import stored_config
from src.runs import reconciler, store
from src.runs.processes import FileLock, holder, print_even_on_a_full_disk

# Exit code where not even the result file could be written.
DISK_FULL = errno.ENOSPC


def main(run_id: str, attempt: int) -> int:
    os.umask(0o077)
    print_even_on_a_full_disk()
    # Before the heavy imports: whoever looks must find the lock held from the first moment on.
    lock = FileLock(paths.trainer_lock(run_id))
    if not lock.acquire():
        print(f"{run_id} is being trained by another process; leaving", file=sys.stderr)
        return 1
    with store.reading() as session:
        run = store.find(session, run_id)
        run.attempt, run.token = attempt, os.environ["SPELLTUNE_TOKEN"]
        session.expunge(run)
        if not store.owns(session, run):
            print(f"attempt {attempt} of {run_id} is not this process's; leaving", file=sys.stderr)
            return 1
    config = stored_config(run.config)

    from src.runs.reporter import Fenced, RunReporter
    from src.runs.tracking import Tracker

    output_dir = paths.output_dir(run_id)
    output_dir.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(config, run_id, output_dir)
    reporter = RunReporter(run, tracker)
    result: dict[str, object] = {}
    try:
        reporter.phase("loading libraries")
        from src.training.checkpointing import step_dir
        from src.training.train import train
        from src.training.utils import write_results

        checkpoints = paths.checkpoints_dir(run_id)
        start = None if run.resume_step is None else step_dir(checkpoints, run.resume_step)
        outcome = train(
            config,
            reporter,
            output_dir=output_dir,
            checkpoints_dir=checkpoints,
            resume_from=start,
        )
        write_results(
            outcome,
            run_id=run_id,
            output_dir=output_dir,
            metrics_file=paths.final_metrics(run_id),
            summary_file=paths.summary_file(),
            config=config.model_dump(),
        )
        result = {
            "status": "STOPPED" if outcome.stopped else "COMPLETED",
            "reason": outcome.reason,
            "step": outcome.step,
            "best_step": outcome.best_step,
        }
    except Fenced as error:
        print(error, file=sys.stderr)
        return 1
    # The process's outermost frame: the reason goes to the row, the traceback to the log.
    except Exception as error:
        traceback.print_exc()
        kind = kind_of(error)
        reason = f"{kind}: {reason_of(error)}" if kind else reason_of(error)
        result = {"status": "FAILED", "reason": reason, "kind": kind, "phase": reporter.doing}
    finally:
        tracker.close()
        reporter.close()
    try:
        write_result(run_id, attempt, result)
    except OSError as error:
        print(f"cannot write the result: {error}", file=sys.stderr)
        return DISK_FULL if kind_of(error) == "disk_full" else 1
    if holder(paths.supervisor_lock(run_id)) is None:
        reconciler.start_detached()  # nobody else would write the verdict
    return 1 if result["status"] == "FAILED" else 0


def kind_of(error: BaseException) -> str | None:
    """disk_full, cuda_oom, oom or diverged, for what a supervisor or a reader treats apart."""
    text = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
        return "disk_full"
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return "cuda_oom"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "oom"
    return "diverged" if type(error).__name__ == "Diverged" else None


def reason_of(error: Exception) -> str:
    """One sentence: the error's own where it was written for people, else with its kind."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def write_result(run_id: str, attempt: int, result: dict[str, object]) -> None:
    from src.training.utils import write_atomic

    document = {"attempt": attempt, "ended_at": time.time(), **result}
    write_atomic(paths.output_dir(run_id) / "result.json", json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    code = main(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Leave at once: a tracker's thread that hangs must not keep the GPU.
    os._exit(code)
