"""Look at runs, stop and delete them."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from src import store
from src.cli.lookup import find_checkpoint, find_run
from src.cli.options import AsJson, CheckpointArgument, RunArgument
from src.cli.output import err, out, print_json
from src.format import number
from src.runs import launcher, reconciler
from src.store.tables import Run, Status
from src.training import checkpointing


def runs(as_json: AsJson = False) -> None:
    """List all runs, newest first."""
    reconciler.reconcile()
    with store.reading() as session:
        found = store.list_runs(session)
        latest = store.latest_metrics(session, [r.id for r in found])
        if as_json:
            return print_json(
                [
                    {
                        "id": r.id,
                        "name": r.name,
                        "status": r.status,
                        "reason": r.reason,
                        "step": r.step or 0,
                        "max_steps": r.max_steps,
                        "metrics": latest[r.id],
                        "created_at": r.created_at,
                        "started_at": r.started_at,
                        "ended_at": r.ended_at,
                    }
                    for r in found
                ]
            )
    if not found:
        err.print("no runs yet; start one with `spelltune launch`")
        return None
    heads = ("run", "status", "step", "exact match", "loss", "launched")
    columns = [Column(head, no_wrap=True) for head in heads]
    table = Table(*columns, box=None, header_style="bold")
    for run in found:
        values = latest[run.id]
        table.add_row(
            escape(run.id),
            run.status,
            f"{run.step or 0:,}/{run.max_steps:,}",
            number(values.get("val/exact_match")),
            number(values.get("train/loss")),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created_at)),
        )
    # An id is there to be copied and a status to be read: nothing is cut, however narrow the
    # terminal or the pipe.
    widest = Console(width=1000).measure(table).maximum
    Console(width=max(out.width, widest)).print(table)


def show(run: RunArgument, as_json: AsJson = False) -> None:
    """Show one run: status, last metrics, best step, paths and attempts.

    With --json its settings, checkpoints and evaluations too.
    """
    row = find_run(run)
    if as_json:
        with store.reading() as session:
            return print_json(store.show(session, row))
    print_run(row)


def print_run(run: Run) -> None:
    with store.reading() as session:
        document = store.show(session, run)
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key in ("id", "status", "reason", "phase"):
        if document[key]:
            table.add_row(key, escape(str(document[key])))
    table.add_row("step", f"{document['step']:,} of {document['max_steps']:,}")
    if best := document["best"]:
        table.add_row("best", f"step {best['step']:,}, {best['metric']} {number(best['value'])}")
    for name, value in sorted(document["metrics"].items()):
        table.add_row(name, number(value))
    for name, path in document["paths"].items():
        if path:
            table.add_row(name, escape(str(path)))
    for event in document["lineage"]:
        table.add_row(f"attempt {event['attempt']}", escape(event["text"]))
    for child in document["forks"]:
        table.add_row("fork", escape(child))
    out.print(table)


def metrics(run: RunArgument, as_json: AsJson = False) -> None:
    """Print every recorded value of a run's metrics: step, name, value."""
    with store.reading() as session:
        points = store.metric_points(session, store.find(session, run).id)
    if as_json:
        return print_json(points)
    for point in points:
        print(f"{point['step']}\t{point['name']}\t{point['value']}")


def checkpoints(run: RunArgument, as_json: AsJson = False) -> None:
    """List a run's checkpoints, and verify the files of each."""
    row = find_run(run)
    with store.reading() as session:
        kept = store.list_checkpoints(session, row.id)
    found = [
        {
            "step": c.step,
            "is_best": c.is_best,
            "verified": checkpointing.is_verified(Path(c.path)),
            "size_bytes": c.size_bytes,
            "path": c.path,
        }
        for c in kept
    ]
    if as_json:
        return print_json(found)
    table = Table("step", "best", "verified", "MiB", "path", box=None, header_style="bold")
    for c, whole in zip(kept, found, strict=True):
        best, verified = "best" if c.is_best else "", "yes" if whole["verified"] else "NO"
        size = f"{c.size_bytes / 2**20:.1f}"
        table.add_row(f"{c.step:,}", best, verified, size, escape(c.path))
    out.print(table)


def stop(run: RunArgument, as_json: AsJson = False) -> None:
    """Stop a run after its current step, with a checkpoint; cancel a queued run."""
    row = find_run(run)
    status = launcher.stop(row.id)
    if as_json:
        return print_json({"id": row.id, "status": status})
    if Status(row.status).ended:
        done = f"had already ended: {status}"
    elif status == Status.CANCELLED:
        done = "is removed from the queue"
    else:
        done = "stops at its next step, with a checkpoint"
    out.print(f"{row.id} {done}", highlight=False)


def delete(
    checkpoint: CheckpointArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a run with all its files, or one of its checkpoints.

    A run's metrics, checkpoints, adapter, predictions and logs go with it. The best checkpoint, the
    last two that are intact and those that a fork started from cannot be deleted alone.
    """
    row, step = find_checkpoint(checkpoint)
    what = f"step {step:,} of {row.id}" if step is not None else row.id
    if not yes:
        all_of_it = "" if step is not None else " with its checkpoints, predictions and logs"
        typer.confirm(f"Delete {what}{all_of_it}?", abort=True, err=True)
    if step is None:
        launcher.delete(row)
    else:
        launcher.delete_checkpoint(row, step)
    if as_json:
        return print_json({"id": row.id, "step": step, "deleted": True})
    out.print(f"deleted {what}", highlight=False)
