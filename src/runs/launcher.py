"""Puts runs in the queue, starts their supervisors, stops and deletes them. A queued run without a
slot is only a row."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src import paths, store
from src.config import ConfigError, RunConfig, with_absolute_paths
from src.errors import UserError
from src.paths import base_model
from src.runs import estimate, snapshots
from src.runs.machine import gpus, slot_count, slot_lock
from src.runs.processes import child_environment, holder, host
from src.runs.timeouts import TIMEOUTS
from src.runs.tracking import tracking_problems
from src.store.tables import ACTIVE, Run, Status
from src.training import checkpointing
from src.training.early_stopping import stopping_problems
from src.training.packed.eligibility import packed_problems
from src.training.results import forget_results


def check(config: RunConfig) -> dict[str, Any]:
    """The preview of a config's data (see data_loaders.preview), or ConfigError with all that can
    be known before launch to fail: no GPU for 4-bit, unusable data, rows beyond max_length."""
    # pandas takes longer to load than all else here, and only who looks at data needs it.
    from src.training.data_loaders import DataError, load_splits, preview, tokenizer_file

    check_writable(paths.home() / "checkpoints", lambda text: ConfigError({"": text}))
    problems = stopping_problems(config.early_stopping) | tracking_problems(config.tracking)
    if config.model.load_in_4bit and not gpus():
        problems["model.load_in_4bit"] = (
            "4-bit loading needs an NVIDIA GPU and this machine has none; set it to false"
        )
    if config.backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        problems["backend"] = "unsloth is not installed here; use auto or peft"
    if config.engine == "packed":
        problems |= packed_problems(config)
    model = base_model(config.model.name)
    seen: dict[str, Any] = {}
    tokenizer = source = None
    try:
        tokenizer = tokenizer_file(model, config.model.revision)
    except DataError as error:
        problems["model.name"] = str(error)
    data = config.data
    field = "data.path" if data.path else "data.hub_id" if data.hub_id else "data.task"
    try:
        source = load_splits(
            task=data.task, path=data.path, hub_id=data.hub_id, revision=data.revision
        )
    except DataError as error:
        problems[field] = str(error)
    if source and tokenizer:
        length = config.model.max_length
        seen = preview(source, tokenizer=tokenizer, template=data.template, max_length=length)
        if seen["too_long"]:
            problems["model.max_length"] = (
                f"{seen['too_long']:,} rows are longer than {length:,} tokens, the longest has "
                f"{seen['tokens']['max']:,}; raise it or shorten the rows"
            )
    if problems:
        raise ConfigError(problems)
    return seen


def launch(config: RunConfig) -> str:
    """Queue a run, start what fits, and return the run's id. The run lives on when the caller
    dies."""
    return launch_all([config])[0]


def launch_all(configs: Sequence[RunConfig]) -> list[str]:
    """`launch` several runs together, so that those that may share a pack do; their ids.
    ConfigError, and nothing is launched, where one is known not to fit into memory."""
    for config in configs:
        if problems := estimate.refused(config):
            raise ConfigError(problems)
    store.keep_reserve()
    with store.writing() as session:
        run_ids = [store.enqueue(session, with_absolute_paths(config)).id for config in configs]
    for run_id in run_ids:
        snapshots.remember(run_id)
    fill_slots()
    return run_ids


def check_writable(folder: Path, error: Callable[[str], Exception]) -> None:
    """Raise `error` with a sentence where no checkpoint could be written into `folder`."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        # Trying is the only test that also holds for root and for disks mounted read-only.
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=there))
    except OSError as found:
        raise error(
            f"checkpoints cannot be written to {folder}: {found.strerror}; make it writable, or "
            "set SPELLTUNE_HOME to a folder that is"
        ) from None


def fill_slots() -> None:
    """Start a supervisor for the next queued runs, one for each free slot."""
    started = []
    now = time.time()
    with store.writing() as session:
        waiting = startable(session)
        # One whose supervisor has not claimed it in time is given a slot again.
        ready = [r for r in waiting if not 0 <= now - (r.slot_given_at or 0) < TIMEOUTS.start]
        # A trainer that lost its supervisor still has its GPU, though nobody holds the slot's lock.
        active = store.list_runs(session, statuses=ACTIVE)
        taken = {r.slot for r in active if r.host in (None, host())}
        taken |= {r.slot for r in waiting if r not in ready and r.host in (None, host())}
        free = [s for s in range(slot_count()) if s not in taken and not holder(slot_lock(s))]
        for slot, run in zip(free, ready, strict=False):
            if store.assign_slot(session, run, slot, host=host(), now=now):
                started.append((run.id, slot))
    for run_id, slot in started:
        start_supervisor(run_id, slot)


def startable(session: store.Session) -> list[Run]:
    """Queued runs that may start on this machine, the next one first."""
    return [run for run in store.queue(session) if not store.is_shared() or _has_its_start(run)]


def _has_its_start(run: Run) -> bool:
    """Whether this machine has the checkpoint that a run goes on from: another one may have it."""
    step = run.resume_step
    folder = paths.checkpoints_dir(run.id)
    return step is None or checkpointing.step_dir(folder, step).exists()


def start_driver(sweep_id: str) -> None:
    """Start the driver of a sweep, in a session of its own as a supervisor is. Where one lives
    already it ends at once."""
    log = paths.sweep_log(sweep_id)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(log, "ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "src.workers.sweep_driver", sweep_id],
            cwd=paths.ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def start_supervisor(run_id: str, slot: int, *, adopt: bool = False) -> None:
    """Start a run's supervisor in a session of its own: Ctrl-C on the caller does not reach it.

    With `adopt` it takes over a living trainer that lost its supervisor.
    """
    log = paths.log_file(run_id)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "src.workers.supervisor", run_id, "--slot", str(slot)]
    with open(log, "ab") as output:
        subprocess.Popen(
            [*command, "--adopt"] if adopt else command,
            cwd=paths.ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def start_merge(run_id: str, step: int) -> None:
    """Write a merged model of a checkpoint from a process of its own: `spelltune merge`."""
    with open(_merge_log(run_id, step), "wb") as log:
        subprocess.Popen(
            [sys.executable, "-m", "src.cli", "merge", f"{run_id}@{step}"],
            cwd=paths.ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def merge_failure(run_id: str, step: int) -> str | None:
    """The last line of a merge that wrote no model, or None."""
    try:
        lines = _merge_log(run_id, step).read_text(errors="replace").strip().splitlines()
    except OSError:
        return None
    return lines[-1] if lines else None


def _merge_log(run_id: str, step: int) -> Path:
    return paths.merged_dir(run_id, step).with_suffix(".log")


class CheckpointNeeded(UserError, ValueError):
    """Why a checkpoint is not deleted."""


def delete_checkpoint(run: Run, step: int) -> None:
    """Delete one checkpoint of a run; CheckpointNeeded for the best, one of the last two that are
    whole, or a fork's."""
    folder = paths.checkpoints_dir(run.id)
    there = checkpointing.steps(folder)
    if step not in there:
        raise CheckpointNeeded(f"{run.id} has no checkpoint of step {step:,}")
    whole = [s for s in there if checkpointing.is_verified(checkpointing.step_dir(folder, s))]
    why = (
        "it is the best one" if step == run.best_step
        else "the last two are kept for a resume" if step in whole[-2:]
        else "a fork began from it" if checkpointing.is_kept_for_fork(folder, step)
        else None
    )  # fmt: skip
    if why:
        raise CheckpointNeeded(f"step {step:,} of {run.id} stays: {why}")
    checkpointing.remove_folder(checkpointing.step_dir(folder, step))
    with store.writing() as session:
        store.remove_checkpoint(session, run.id, step)


def stop(run_id: str) -> Status:
    """Ask a run to stop and return its status: CANCELLED where it was only queued, else it stops at
    its next step."""
    with store.writing() as session:
        return store.request_stop(session, store.find(session, run_id).id)


def delete(run: Run) -> None:
    """Delete a run's rows and then its files. RunIsActive while it is queued or running."""
    with store.writing() as session:
        store.delete_rows(session, run.id)
    for folder in (
        paths.output_dir(run.id),
        paths.checkpoints_dir(run.id),
        paths.predictions_dir(run.id),
    ):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (
        paths.log_file(run.id),
        paths.older_log_file(run.id),
        paths.metrics_log(run.id),
        paths.final_metrics(run.id),
        paths.trainer_lock(run.id),
        paths.supervisor_lock(run.id),
        paths.merge_lock(run.id),
    ):
        file.unlink(missing_ok=True)
    forget_results(run.id, paths.summary_file())
