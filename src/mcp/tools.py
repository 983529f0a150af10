"""The tools on runs. Each does what the command of its name does, and answers with the document
that this command prints with --json."""

import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from src import paths, store
from src.analysis.evaluating import Order
from src.config import load_config, stored_config, with_overrides
from src.mcp import caller, evaluations, reach
from src.mcp.registry import Told, not_done, tool
from src.mcp.schemas import Checkpoint, Confirm, Preset, RunName, SameSettings, Settings, Split
from src.runs import (
    answering,
    attempts,
    deletion,
    launch_notes,
    launcher,
    reconciler,
    standby,
    time_left,
)
from src.runs.timeouts import TIMEOUTS
from src.store.tables import Run, Status
from src.training import questions

MAX_WAIT = 100  # seconds

_answering = answering.Answering()

Limit = Annotated[int | None, Field(ge=1, description="At most so many; null lists all.")]


@tool(reads=True)
def runs(
    filter: Annotated[
        str,
        Field(
            description="Only runs that fit, such as 'status:failed tag:spell lr>0.001 "
            "val/exact_match>50% since:2d -tag:old'; words are looked for in names, ids, tags and "
            "notes."
        ),
    ] = "",
    sort: Annotated[
        str,
        Field(
            description="A setting, a metric, or launched, name, status, progress, duration; "
            "numbers from the highest, - before the name turns the order."
        ),
    ] = "launched",
    limit: Limit = 50,
    archived: Annotated[bool, Field(description="List the archived runs, which are hidden.")] = (
        False
    ),
) -> Told:
    """List runs, newest first: id, status, step, last value of each metric."""
    found = store.find_runs(filter, sort=sort, limit=limit, archived=archived)
    return Told(found.document(), _cut(len(found.rows), found.total, "runs"))


@tool(reads=True)
def show(
    run: RunName,
    wait_seconds: Annotated[
        float,
        Field(ge=0, le=MAX_WAIT, description="Answer when the run has ended, or after so long."),
    ] = 0,
) -> dict[str, Any]:
    """Show one run: status and why, metrics, settings, checkpoints, evaluations, seconds left."""
    row = _find(run)
    until = time.monotonic() + wait_seconds
    reconciled_at = time.monotonic()
    while not _is_over(row) and time.monotonic() < until:
        caller.check_waiting()
        if time.monotonic() - reconciled_at >= TIMEOUTS.reconcile:
            caller.as_server(reconciler.try_to_reconcile)
            reconciled_at = time.monotonic()
        time.sleep(0.5)
        row = _find(row.id)
    with store.reading() as session:
        return time_left.document(session, row)


@tool(reads=True)
def metrics(
    run: RunName,
    name: Annotated[
        str | None, Field(description="Only this metric, such as train/loss or val/exact_match.")
    ] = None,
    limit: Limit = 500,
) -> Told:
    """List the recorded values of a run's metrics, the last ones: step, name, value."""
    with store.reading() as session:
        points = store.metric_points(session, store.find(session, run).id)
    found = [point for point in points if name in (None, point["name"])]
    kept = found if limit is None else found[-limit:]
    return Told(kept, _cut(len(kept), len(found), "values"))


@tool(reads=True)
def compare(
    runs: Annotated[list[str], Field(description="Two or more runs, by id or name.")] = [],
    sweep: Annotated[
        str | None, Field(description="All runs of this sweep: its id, or name for the newest.")
    ] = None,
) -> dict[str, Any]:
    """Compare runs: which adapter spells better, which config, and how certain that is.

    Runs that differ in their seed alone are one config. A verdict says what may be claimed; do not
    claim more than it does.
    """
    from src.analysis.compared import compare_named

    return compare_named(runs, sweep).document()


@tool(reads=True)
def errors(
    run: Checkpoint,
    vs: Annotated[str | None, Field(description="Another adapter: RUN or RUN@STEP.")] = None,
    all_words: Annotated[bool, Field(description="List the correct words too.")] = False,
    split: Split = "validation",
    limit: Limit = 50,
) -> Told:
    """List the words that an adapter misspells, and how: question, expected, predicted, kind.

    With vs: the words that the other adapter fixed, broke, or still has wrong, and their counts.
    """
    from src.analysis import error_lists

    if vs is None:
        found = error_lists.misspelled(run, split, all_words=all_words)
        listed = found.document()
        return Told(listed[:limit], _cut(len(listed[:limit]), len(listed), "words"))
    document = error_lists.changed(run, vs, split).document()
    notes = []
    for group in ("fixed", "broken", "still_wrong"):
        shown = document[group][:limit]
        notes += _cut(len(shown), len(document[group]), f"words of {group}")
        document[group] = shown
    return Told(document, notes)


@tool()
def launch(settings: Settings = {}, preset: Preset = None) -> Told:
    """Queue a run, which starts as soon as a slot is free, and go on without waiting for it.

    Follow it with show. Settings that cannot be trained here are refused, each with a sentence.
    """
    config = load_config(preset=preset, overrides=settings)
    reach.check_settings(config)
    with standby.loading_for(config) as wait_for_supervisor:
        notes, takes = launch_notes.check(config)
        wait_for_supervisor()
        run_id = launcher.launch(config)
    return Told(_shown(run_id), notes + ([takes] if takes else []))


@tool()
def resume(
    run: RunName,
    step: Annotated[
        int | None, Field(description="Step of the checkpoint; the newest without one.")
    ] = None,
) -> Told:
    """Resume a stopped, interrupted or failed run from its newest verified checkpoint."""
    row = _find(run)
    step = attempts.resume(row, step=step)
    return Told(_shown(row.id), [f"{row.id} resumes from step {step:,}"])


@tool()
def fork(
    run: RunName,
    settings: SameSettings = {},
    step: Annotated[
        int | None, Field(description="Step of the checkpoint; the newest without one.")
    ] = None,
) -> Told:
    """Start a new run from a checkpoint of another run, with changed settings."""
    row = _find(run)
    base = stored_config(row.config)
    values = base.model_dump() | {"name": attempts.fork_name(row)}
    config = with_overrides(values, settings)
    reach.check_settings(config, base)
    notes = launch_notes.check(config)[0]
    return Told(_shown(attempts.fork(row, config, step=step)), notes)


@tool(destroys=True)
def stop(run: RunName, confirm: Confirm = False) -> dict[str, Any]:
    """Stop a run after its current step, with a checkpoint; cancel a queued run."""
    row = _find(run)
    if not confirm:
        would = (
            f"nothing, it has ended: {row.status}" if _is_over(row)
            else "it does not resume by itself" if Status(row.status).ended
            else "it is removed from the queue" if row.status == Status.QUEUED
            else "it stops at its next step, with a checkpoint from which it can be resumed"
        )  # fmt: skip
        return not_done(row.id, would)
    return {"id": row.id, "status": launcher.stop(row.id)}


@tool(destroys=True)
def delete(run: Checkpoint, confirm: Confirm = False) -> dict[str, Any]:
    """Delete a run with all its files, or one of its checkpoints.

    To take runs out of the lists use archive, which deletes nothing.
    """
    with store.reading() as session:
        row, step = store.find_checkpoint(session, run)
    if not confirm:
        if step is not None:
            return not_done(row.id, f"the checkpoint of step {step:,} is deleted for good")
        return not_done(row.id, deletion.plan([row]).sentence)
    deletion.delete_named(row, step)
    return {"id": row.id, "step": step, "deleted": True}


@tool()
def report(
    runs: Annotated[list[str], Field(description="One run or several.")] = [],
    sweep: Annotated[str | None, Field(description="A sweep instead: its id or name.")] = None,
    file: Annotated[
        str | None,
        Field(
            description="File to write: FILE.html is the page, FILE.tex a LaTeX table of scores. "
            "By default a page in the home."
        ),
    ] = None,
) -> dict[str, Any]:
    """Write a report on runs or a sweep as one page that needs no network, and say where it is.

    Verdicts, curves, settings that differ, kinds of error, and how to train the runs again.
    """
    from src.panel.report.files import write

    reach.check_output(file)
    files = [Path(file)] if file is not None else []
    return write(runs, sweep, files, folder=paths.results() / "reports").document()


@tool()
def archive(runs: Annotated[list[str], Field(min_length=1)]) -> list[dict[str, Any]]:
    """Hide runs that have ended from lists; nothing of them is deleted."""
    return _archive(runs, archived=True)


@tool()
def unarchive(runs: Annotated[list[str], Field(min_length=1)]) -> list[dict[str, Any]]:
    """Put archived runs back into the lists."""
    return _archive(runs, archived=False)


@tool(seconds=TIMEOUTS.evaluation)
def try_(
    run: Checkpoint,
    words: Annotated[
        list[str],
        Field(
            min_length=1,
            description="Words, asked as the run's task asks them; a text with spaces is a prompt "
            "as it stands, and a right answer may follow it after a tab.",
        ),
    ],
    vs: Annotated[list[str], Field(description="Other adapters to ask beside.")] = [],
    baseline: Annotated[bool, Field(description="Ask the base model too.")] = True,
) -> dict[str, Any]:
    """Ask adapters words or prompts, beside their base model: answers with their probability.

    Not while a run trains on this machine: answers would slow it down.
    """
    texts = questions.texts_of(words)
    spellers = questions.with_bases(answering.spellers_of([run, *vs]), baseline=baseline)
    rows = _answering.ask(spellers, texts, caller.progress)
    return answering.document(spellers, rows, None)


@tool(seconds=TIMEOUTS.evaluation)
def evaluate(
    run: Annotated[str | None, Field(description="RUN, or RUN@STEP.")] = None,
    data: Annotated[
        str | None, Field(description="A file with the columns question and answer.")
    ] = None,
    suite: Annotated[str | None, Field(description="A suite instead, such as count.")] = None,
    base: Annotated[
        str | None, Field(description="Score this base model, without an adapter.")
    ] = None,
    baseline: Annotated[bool, Field(description="Ask the adapter's base model too.")] = True,
    examples: Annotated[
        int, Field(ge=0, description="Answered questions in the prompt of the base model.")
    ] = 0,
    temperature: Annotated[
        float | None, Field(description="Sample the answers; 0, the default, is greedy.")
    ] = None,
    top_p: float | None = None,
    top_k: int | None = None,
    num_samples: Annotated[int | None, Field(description="Answers to each question.")] = None,
    seed: Annotated[int, Field(ge=0)] = 0,
    seen: Annotated[
        bool, Field(description="Ask also rows of a suite that the run was trained on.")
    ] = False,
) -> dict[str, Any]:
    """Score an adapter or a base model on a file of questions and answers, or on a suite.

    It loads the model each time, so it takes from half a minute to many minutes.
    """
    reach.check_questions(data, suite)
    order = Order(
        run, base, data, suite, baseline, examples, temperature, top_p, top_k, num_samples, seed,
        seen,
    )  # fmt: skip
    return evaluations.evaluate(order)


def _find(name: str) -> Run:
    with store.reading() as session:
        return store.find(session, name)


def _is_over(row: Run) -> bool:
    with store.reading() as session:
        return attempts.is_over(session, row)


def _shown(run_id: str) -> dict[str, Any]:
    with store.reading() as session:
        return store.show(session, store.find(session, run_id))


def _archive(names: list[str], *, archived: bool) -> list[dict[str, Any]]:
    ids = launcher.archive(names, archived=archived)
    return [{"id": run_id, "archived": archived} for run_id in ids]


def _cut(shown: int, there: int, what: str) -> list[str]:
    return [] if shown == there else [f"{shown:,} of {there:,} {what}; limit shows more"]
