"""Puts runs in the queue, starts their supervisors, takes them back and deletes them.

A slot is a lock file, one per GPU and one on a machine without: whoever holds it may train. A
queued run without a slot is only a row.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from src import paths
from src.config import ConfigError, RunConfig, with_absolute_paths
from src.paths import base_model
from src.runs import store
from src.runs.processes import child_environment, holder
from src.runs.table import ACTIVE, RESUMABLE, Run, Status
from src.training import checkpointing
from src.training.checkpointing import is_verified, step_dir
from src.training.data_loaders import DataError, load_splits, preview, tokenizer_file
from src.training.stopping import stopping_problems
from src.training.utils import forget_results

# A run that was given a slot and whose supervisor has not claimed it by then is given one again.
START_SECONDS = 30.0


def gpus() -> dict[str, str]:
    """NVIDIA GPUs that a run may use: {CUDA_VISIBLE_DEVICES value: "NVIDIA H200, 139.8 GiB"}; empty
    without a driver."""
    import pynvml  # only here: a machine without a GPU need not load it

    try:
        pynvml.nvmlInit()
        found = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            gib = pynvml.nvmlDeviceGetMemoryInfo(device).total / 2**30
            found[str(index)] = f"{pynvml.nvmlDeviceGetName(device)}, {gib:.1f} GiB"
    except pynvml.NVMLError:
        return {}
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if allowed is None else {i: found[i] for i in allowed.split(",") if i in found}


def slot_count() -> int:
    """Runs that may train at once: one per GPU, one on a machine without."""
    return max(1, len(gpus()))


def slot_lock(slot: int) -> Path:
    return paths.locks_dir() / f"slot-{slot}.lock"


def check(config: RunConfig) -> dict[str, Any]:
    """The preview of a config's data (see data_loaders.preview), or ConfigError with all that can
    be known before launch to fail: no GPU for 4-bit, unusable data, rows beyond max_length."""
    problems = stopping_problems(config.early_stopping)
    if config.model.load_in_4bit and not gpus():
        problems["model.load_in_4bit"] = (
            "4-bit loading needs an NVIDIA GPU and this machine has none; set it to false"
        )
    if config.backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        problems["backend"] = "unsloth is not installed here; use auto or peft"
    if config.engine == "packed":
        problems["engine"] = "the packed engine is not built yet; use auto or trl"
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
    with store.writing() as session:
        run_id = store.enqueue(session, with_absolute_paths(config)).id
    fill_slots()
    return run_id


def fill_slots() -> None:
    """Start a supervisor for the next queued runs, one for each free slot."""
    started = []
    now = time.time()
    with store.writing() as session:
        waiting = store.queue(session)
        ready = [r for r in waiting if not 0 <= now - (r.slot_given_at or 0) < START_SECONDS]
        # A trainer that lost its supervisor still has its GPU, though nobody holds the slot's lock.
        taken = {r.slot for r in store.runs(session, statuses=ACTIVE)}
        taken |= {r.slot for r in waiting if r not in ready}
        free = [s for s in range(slot_count()) if s not in taken and not holder(slot_lock(s))]
        for slot, run in zip(free, ready, strict=False):
            store.give_slot(session, run.id, slot, now=now)
            started.append((run.id, slot))
    for run_id, slot in started:
        start_supervisor(run_id, slot)


def start_supervisor(run_id: str, slot: int, *, adopt: bool = False) -> None:
    """Start a run's supervisor in a session of its own: Ctrl-C on the caller does not reach it.

    With `adopt` it takes over a living trainer that lost its supervisor.
    """
    log = paths.log_file(run_id)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "src.runs.supervisor", run_id, "--slot", str(slot)]
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


def stop(run_id: str) -> Status:
    """Ask a run to stop and return its status: CANCELLED where it was only queued, else it stops at
    its next step."""
    with store.writing() as session:
        return store.request_stop(session, store.find(session, run_id).id)


class CannotResume(ValueError):
    """Why a run cannot go on, and what can be done instead."""


def resume(run: Run, *, step: int | None = None) -> int:
    """Queue a run's next attempt from its newest verified checkpoint, or from `step`; that step.

    CannotResume for a run that is active or complete, or a checkpoint that is missing or damaged.
    """
    if run.status not in RESUMABLE:
        advice = {
            Status.COMPLETED: "launch a new run with more training.max_steps",
            Status.CANCELLED: "launch it again",
        }.get(Status(run.status), "it needs no resume")
        raise CannotResume(f"{run.id} is {run.status}: {advice}")
    folder = paths.checkpoints_dir(run.id)
    there = checkpointing.steps(folder)
    if step is None:
        good = (s for s in reversed(there) if is_verified(step_dir(folder, s)))
        step = next(good, None)
        if step is None:
            raise CannotResume(f"{run.id} has no verified checkpoint; launch it again")
    else:
        try:
            checkpointing.verify(step_dir(folder, step))
        except checkpointing.BrokenCheckpoint as error:
            others = [str(s) for s in there if s != step and is_verified(step_dir(folder, s))]
            offered = f"verified are: {', '.join(others)}" if others else "there is no other one"
            raise CannotResume(f"{run.id}: {error}; {offered}") from None
    with store.writing() as session:
        if not store.requeue(session, run, resume_step=step):
            raise CannotResume(f"{run.id} was resumed or changed by someone else meanwhile")
    fill_slots()
    return step


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
        paths.metrics_log(run.id),
        paths.final_metrics(run.id),
        paths.trainer_lock(run.id),
        paths.supervisor_lock(run.id),
    ):
        file.unlink(missing_ok=True)
    forget_results(run.id, paths.summary_file())
