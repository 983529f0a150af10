"""How a run goes on after its end: resume, fork, heal, and resume by itself.

Each is a next attempt of the run, or (a fork) the first one of a new run, from a verified
checkpoint; each leaves an event, so that a reader can tell how the result came about.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src import paths, store
from src.config import (
    ConfigError,
    RunConfig,
    affecting,
    differences,
    get,
    stored_config,
    with_overrides,
)
from src.errors import UserError
from src.files import link_or_copy, read_text
from src.format import setting_value
from src.runs import launcher, lease, remedies, snapshots
from src.runs.checks import check_writable
from src.store.outcome import Outcome
from src.store.tables import RESUMABLE, Event, EventKind, Run, Status, Sweep, SweepStatus
from src.training import checkpointing
from src.training.checkpointing import BrokenCheckpoint, is_verified, step_dir

MAX_HEALS = 2


class CannotResume(UserError, ValueError):
    """Why a run cannot go on, and what can be done instead."""


def resume(run: Run, *, step: int | None = None) -> int:
    """Queue a run's next attempt from its newest verified checkpoint, or from `step`; that step.

    Later checkpoints move to the folder attempt-N: they belong to a way that was left. CannotResume
    for a run that is active or complete, a checkpoint that is missing or damaged, or changed data.
    """
    if run.status not in RESUMABLE:
        advice = {
            Status.COMPLETED: "fork it with more training.max_steps: `spelltune fork`",
            Status.CANCELLED: "launch it again, or fork it where it has a checkpoint: "
            f"`spelltune fork {run.id}`",
            Status.QUEUED: "it waits for its turn",
        }.get(Status(run.status), f"stop it first: `spelltune stop {run.id}`")
        raise CannotResume(f"{run.id} is {run.status}: {advice}")
    lease.check()
    check_writable(paths.checkpoints_dir(run.id), CannotResume)
    step = verified_step(run, step)
    check_same_data(run, step)
    text = f"resumed {start_text(step)} after {run.status.lower()}"
    with store.writing() as session:
        if not queue_next_attempt(session, run, EventKind.RESUMED, text, step=step):
            raise CannotResume(f"{run.id} was resumed or changed by someone else meanwhile")
    snapshots.write_run(run.id)
    launcher.fill_slots()
    return step


def verified_step(run: Run, step: int | None = None) -> int:
    """`step`, or the newest one, whose checkpoint is as it was written; CannotResume offers
    others."""
    folder = paths.checkpoints_dir(run.id)
    if step is None:
        if (found := newest_verified_step(run)) is None:
            raise CannotResume(f"{run.id} has no verified checkpoint; launch it again")
        return found
    try:
        checkpointing.verify(step_dir(folder, step))
    except BrokenCheckpoint as error:
        there = checkpointing.steps(folder)
        others = [str(s) for s in there if s != step and is_verified(step_dir(folder, s))]
        offered = f"verified are: {', '.join(others)}" if others else "there is no other one"
        raise CannotResume(f"{run.id}: {error}; {offered}") from None
    return step


def final_adapter(run: Run) -> Path:
    """The folder of the adapter that a run kept, as it was written. UnknownRun without one;
    BrokenCheckpoint where it is damaged, with the checkpoint that holds it too."""
    folder = paths.output_dir(run.id) / "final"
    if not folder.exists():
        why = {
            Status.COMPLETED: "its files are gone",
            Status.FAILED: "it failed before it kept one",
        }.get(Status(run.status), f"it is {run.status.lower()}")
        yet = "" if Status(run.status).ended else " yet"
        raise store.UnknownRun(f"{run.id} has no adapter{yet}: {why}")
    try:
        checkpointing.verify_adapter(folder)
    except BrokenCheckpoint as error:
        best, advice = run.best_step, "launch it again"
        if best is not None and is_verified(step_dir(paths.checkpoints_dir(run.id), best)):
            advice = f"the same adapter is in the checkpoint {run.id}@{best}"
        raise BrokenCheckpoint(f"{run.id}: its adapter {error}; {advice}") from None
    return folder


def adapter_folder(run: Run, step: int | None) -> Path:
    """The folder of a checkpoint's adapter or of a run's final adapter, verified."""
    if step is None:
        return final_adapter(run)
    return step_dir(paths.checkpoints_dir(run.id), verified_step(run, step))


def newest_verified_step(run: Run, *, after: int = -1) -> int | None:
    """Step of the newest checkpoint beyond `after` that is as it was written."""
    folder = paths.checkpoints_dir(run.id)
    later = (s for s in reversed(checkpointing.steps(folder)) if s > after)
    return next((s for s in later if is_verified(step_dir(folder, s))), None)


def check_same_data(run: Run, step: int) -> None:
    """CannotResume where the run's data are not those that the checkpoint has seen."""
    from src.training.data_files import DataError
    from src.training.data_loaders import splits_of  # with pandas, so only here

    known = manifest_of(run, step)["data"]
    config = stored_config(run.config)
    if config.data.hub_id or known is None:
        return  # the trainer compares what it downloads
    try:
        splits = splits_of(config)
        changed = splits.fingerprint != known
    except DataError as error:
        raise CannotResume(
            f"{run.id}: its data cannot be read any more: {error}; bring them back, or fork it "
            f"with other data: `spelltune fork {run.id} --set data.path=FILE`"
        ) from None
    if changed:
        raise CannotResume(
            f"{run.id}: its data changed since step {step:,} was written; bring the old data back, "
            f"or fork it to go on with the new: `spelltune fork {run.id}`"
        )


def manifest_of(run: Run, step: int) -> dict[str, Any]:
    file = step_dir(paths.checkpoints_dir(run.id), step) / checkpointing.MANIFEST
    return dict(json.loads(read_text(file)))


def queue_next_attempt(
    session: store.Session,
    run: Run,
    kind: EventKind,
    text: str,
    *,
    step: int | None,
    config: RunConfig | None = None,
) -> bool:
    """Queue the next attempt of a run from a checkpoint (None: from scratch) and note why; False
    where somebody else was faster.

    What lies beyond the step, damaged or of a way that is left, goes out of the sight of resume and
    retention before the row is seen: whoever is killed in between leaves the run as it was.
    """
    # A person may resume what somebody stopped; nothing else does.
    if kind != EventKind.RESUMED and store.stop_requested(session, run.id):
        return False
    best = None if step is None else manifest_of(run, step)["best"]["step"]
    if not store.requeue(session, run, resume_step=step, config=config):
        return False
    store.record_event(session, run.id, run.attempt + 1, kind, text, step=step)
    if step is not None:
        store.forget_evaluations(session, run.id, after_step=step)
        store.set_best(session, run.id, best)
        # Last: all that may fail before the commit has not failed.
        folder, name = paths.checkpoints_dir(run.id), f"attempt-{run.attempt}"
        for later in checkpointing.set_aside(folder, after=step, name=name):
            store.remove_checkpoint(session, run.id, later)
    return True


def was(events: Iterable[Event], run: Run, kind: EventKind) -> bool:
    """True if one of these events is of this kind and of the run's present attempt."""
    return any(e.kind == kind and e.attempt == run.attempt for e in events)


def start_text(step: int | None) -> str:
    """Where an attempt begins, in words: `from step 1,200`."""
    return "from scratch" if step is None else f"from step {step:,}"


# --- forks ----------------------------------------------------------------------------------------


def fork_name(run: Run) -> str:
    """The name that a fork of a run has unless another one is given."""
    return f"{run.name.replace('@', ' ')} fork"[-80:]


def fork_problems(run: Run, config: RunConfig, step: int) -> dict[str, str]:
    """A sentence for each setting with which nothing can go on from that checkpoint of `run`."""
    changed = differences(config, stored_config(run.config))
    problems = {
        name: f"a fork keeps the shape of its adapter: this must stay as in {run.id}"
        for name in changed
        if name in affecting("checkpoint")
    }
    if config.training.max_steps <= step:
        problems["training.max_steps"] = f"a fork from step {step:,} must go beyond it"
    return problems


def fork(run: Run, config: RunConfig, *, step: int | None = None) -> str:
    """Queue a new run that goes on from a checkpoint of `run` with the settings of `config`; its
    id.

    It gets the checkpoint's files for its own (as hard links, where the disk has them), so neither
    run needs the other. CannotResume as in `resume`, ConfigError for a setting that cannot change.
    """
    lease.check()
    step = verified_step(run, step)
    if problems := fork_problems(run, config, step):
        raise ConfigError(problems)
    source = paths.checkpoints_dir(run.id)
    check_writable(source.parent, CannotResume)
    checkpointing.keep_for_fork(source, step)
    manifest = manifest_of(run, step) | {
        # A new run begins its own comparison, and may have other data.
        "best": {"step": None, "value": None, "without_better": 0},
        "best_values": {},
        "evaluations": [],
        "evaluation_owed": True,
        "data": None,
        "forked_from": {"run": run.id, "step": step},
    }
    staging = Path(tempfile.mkdtemp(prefix=".fork-", dir=source.parent))
    try:
        copy = step_dir(staging, step)
        shutil.copytree(step_dir(source, step), copy, copy_function=link_or_copy)
        (copy / checkpointing.MANIFEST).unlink()  # it may be a link to the parent's
        checkpointing.write_manifest(copy, manifest)
        checkpointing.verify(copy)
        with store.writing() as session:
            child = store.enqueue(session, config)
            child.parent_id, child.parent_step = run.id, step
            child.resume_step = child.step = step
            text = f"forked from step {step:,} of {run.id}"
            store.record_event(session, child.id, 1, EventKind.FORKED, text, step=step)
            # Before the row is seen: whoever starts the run finds its checkpoint.
            os.replace(staging, paths.checkpoints_dir(child.id))
            copied = step_dir(paths.checkpoints_dir(child.id), step)
            store.record_checkpoint(session, child.id, 1, step, copied, is_best=False)
            child_id = child.id
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    snapshots.write_run(child_id)
    launcher.fill_slots()
    return child_id


# --- by itself ------------------------------------------------------------------------------------


def remedy(run: Run, outcome: Outcome) -> tuple[RunConfig, str] | None:
    """The settings with which a failed run may go on, and what changed in words; None where nothing
    helps."""
    config = stored_config(run.config)
    if not config.supervision.self_heal:
        return None
    changes = remedies.changes(
        outcome.end_reason.heals_by,
        config,
        engine=run.used.get("engine"),
        scoring=outcome.scoring,
    )
    if changes is None:
        return None
    words = [
        f"{n} {setting_value(get(config, n), 'g')} -> {setting_value(new, 'g')}"
        for n, new in changes.items()
    ]
    return with_overrides(config.model_dump(), changes), ", ".join(words)


def heal(session: store.Session, run: Run, outcome: Outcome, step: int | None) -> bool:
    """Queue the next attempt of a run that just failed, mended, where its settings allow it.

    In the session that wrote the outcome; `step` is its newest verified checkpoint (None: from
    scratch).
    """
    before = sum(e.kind == EventKind.HEALED for e in store.list_events(session, run.id))
    # The trainer wrote what it used after the run was claimed.
    found = remedy(store.find(session, run.id), outcome)
    if found is None or before >= MAX_HEALS:
        return False
    config, words = found
    text = f"healed after {outcome.end_reason}: {words}; goes on {start_text(step)}"
    return queue_next_attempt(session, run, EventKind.HEALED, text, step=step, config=config)


def is_over(session: store.Session, run: Run) -> bool:
    """True for a run that has ended and does not resume by itself: INTERRUPTED may be for a moment
    only."""
    return Status(run.status).ended and not awaits_resume(session, run)


def awaits_resume(session: store.Session, run: Run) -> bool:
    """True for an interrupted run of which the next reconciling decides if it resumes by itself."""
    if run.status != Status.INTERRUPTED or run.stop_requested_at is not None:
        return False
    # A run that confirms a setting has no number, and begins when the search is over.
    if run.sweep_id is not None and run.number is not None:
        sweep = session.get(Sweep, run.sweep_id)
        if sweep is not None and sweep.status in (SweepStatus.CANCELLED, SweepStatus.COMPLETED):
            return False
    try:
        allowed = stored_config(run.config).supervision.auto_resume
    except ConfigError:
        return False  # the settings of another version, with which nothing here can train
    events = store.list_events(session, run.id) if allowed else ()
    return bool(allowed) and not was(events, run, EventKind.LEFT)


def auto_resume(run: Run) -> bool:
    """Resume an interrupted run as often as its `supervision.auto_resume` allows, each time only
    from a checkpoint that is newer than where it began."""
    with store.reading() as session:
        if not awaits_resume(session, run):
            return False
        events = store.list_events(session, run.id)
    allowed = stored_config(run.config).supervision.auto_resume
    done = sum(e.kind == EventKind.AUTO_RESUMED for e in events)
    began = -1 if run.resume_step is None else run.resume_step
    step = newest_verified_step(run, after=began) if done < allowed else None
    with store.writing() as session:
        if step is None:
            why = "no checkpoint since it began" if done < allowed else f"it was {done} times"
            text = f"not resumed by itself: {why}"
            store.record_event(session, run.id, run.attempt, EventKind.LEFT, text)
            return False
        text = f"resumed by itself {start_text(step)} ({done + 1} of {allowed})"
        return queue_next_attempt(session, run, EventKind.AUTO_RESUMED, text, step=step)
