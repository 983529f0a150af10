"""Look at runs, archive, stop and delete them."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from src import store
from src.cli.lookup import find_checkpoint, find_run
from src.cli.options import AsJson, CheckpointArgument, RunArgument, RunsArgument
from src.cli.output import err, out, print_facts, print_json, print_line, print_table, terminal
from src.config import stored_values
from src.format import duration, number, setting_value
from src.runs import cost, deletion, launcher, reconciler, time_left
from src.store.tables import Run, Status
from src.training import checkpointing

SHOWN = {"val/exact_match": "accuracy", "train/loss": "loss"}  # metric -> title


def runs(
    filter: Annotated[
        str,
        typer.Option(
            metavar="CONDITIONS",
            help="Only runs that fit, such as 'status:failed tag:spell lr>0.001 "
            "val/exact_match>50% since:2d'; words are looked for in names, ids, tags and notes.",
        ),
    ] = "",
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Sort by a setting, a metric, or launched, name, status, progress, duration; "
            "numbers from the highest, - before the name turns the order.",
        ),
    ] = "launched",
    limit: Annotated[int | None, typer.Option(min=1, help="Show so many of them.")] = None,
    archived: Annotated[
        bool, typer.Option("--archived", help="List the archived runs, which are hidden.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    reconciler.reconcile()
    found = store.find_runs(filter, sort=sort, limit=limit, archived=archived)
    if as_json:
        return print_json(found.document())
    if found.rows:
        _print_runs(found)
    elif filter or archived:
        err.print("no run fits")
    else:
        err.print("no runs yet; start one with `spelltune launch`")
    if (shown := len(found.rows)) < found.total:
        err.print(f"{shown:,} of {found.total:,} runs; --limit shows more", highlight=False)
    return None


def _print_runs(found: store.FoundRuns) -> None:
    """Print a line for each run, with the setting or metric by which they are sorted."""
    sorted_by = found.sorted_by
    shown = [sorted_by.name] if sorted_by.kind != "run" and sorted_by.name not in SHOWN else []
    heads = ("run", "status", "step", *SHOWN.values(), *shown, "launched")
    table = Table(*(Column(head, no_wrap=True) for head in heads), box=None, header_style="bold")
    for run in found.rows:
        metrics, settings = found.latest[run.id], stored_values(run.config)
        table.add_row(
            run.id,
            run.status,
            f"{run.step or 0:,}/{run.max_steps:,}",
            *(number(metrics.get(name)) for name in SHOWN),
            *(
                number(metrics.get(name))
                if sorted_by.kind == "metric"
                else setting_value(settings[name])
                for name in shown
            ),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.created_at)),
        )
    # Ids are copied and statuses read, so neither is cut, however narrow the terminal or the pipe.
    widest = terminal(width=1000).measure(table).maximum
    terminal(width=max(out.width, widest)).print(table)


def archive(runs: RunsArgument, as_json: AsJson = False) -> None:
    """Hide runs that have ended from lists and pickers; nothing of them is deleted."""
    _archive(runs, as_json, archived=True)


def unarchive(runs: RunsArgument, as_json: AsJson = False) -> None:
    """Put archived runs back into the lists."""
    _archive(runs, as_json, archived=False)


def _archive(names: list[str], as_json: bool, *, archived: bool) -> None:
    reconciler.reconcile()
    ids = launcher.archive(names, archived=archived)
    if as_json:
        return print_json([{"id": run_id, "archived": archived} for run_id in ids])
    for run_id in ids:
        done = "is archived; --archived lists it" if archived else "is in the lists again"
        out.print(f"{run_id} {done}", highlight=False)


def show(run: RunArgument, as_json: AsJson = False) -> None:
    """Show one run: status, last metrics, best step, paths and attempts.

    With --json its settings, checkpoints and evaluations too.
    """
    row = find_run(run)
    if as_json:
        with store.reading() as session:
            return print_json(time_left.document(session, row))
    print_run(row)


def print_run(run: Run) -> None:
    with store.reading() as session:
        document = store.show(session, run)
        left = time_left.of_run(session, run)
    heads = ("id", "status", "reason", "phase")
    facts = [(name, str(document[name])) for name in heads if document[name]]
    facts.append(("step", f"{document['step']:,} of {document['max_steps']:,}"))
    if left and left.starts >= 1:
        facts.append(("starts in", f"≈ {duration(left.starts)}"))
    if left:
        facts.append(("time left", f"≈ {duration(left.ends)}"))
    if best := document["best"]:
        facts.append(("best", f"step {best['step']:,}, {best['metric']} {number(best['value'])}"))
    facts += [(name, number(value)) for name, value in sorted(document["metrics"].items())]
    facts.append(("duration", duration(run.seconds)))
    facts += cost.taken(run.machine_seconds, run.energy_wh)
    facts += [(name, str(path)) for name, path in document["paths"].items() if path]
    facts += [(f"attempt {event['attempt']}", event["text"]) for event in document["lineage"]]
    facts += [("fork", child) for child in document["forks"]]
    print_facts(facts)


def metrics(run: RunArgument, as_json: AsJson = False) -> None:
    """Print every recorded value of a run's metrics: step, name, value."""
    with store.reading() as session:
        points = store.metric_points(session, store.find(session, run).id)
    if as_json:
        return print_json(points)
    for point in points:
        print_line(point["step"], point["name"], point["value"])


def checkpoints(run: RunArgument, as_json: AsJson = False) -> None:
    """List a run's checkpoints, and verify the files of each."""
    row = find_run(run)
    with store.reading() as session:
        kept = store.list_checkpoints(session, row.id)
    documents: list[dict[str, Any]] = [
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
        return print_json(documents)
    rows = [
        (
            f"{c['step']:,}",
            "best" if c["is_best"] else "",
            "yes" if c["verified"] else "NO",
            f"{c['size_bytes'] / 2**20:.1f}",
            str(c["path"]),
        )
        for c in documents
    ]
    print_table(["step", "best", "verified", "MiB", "path"], rows)


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
        if step is None and Status(row.status).ended:
            err.print(deletion.plan([row]).sentence, highlight=False)
        typer.confirm(f"Delete {what}?", abort=True, err=True)
    deletion.delete_named(row, step)
    if as_json:
        return print_json({"id": row.id, "step": step, "deleted": True})
    out.print(f"deleted {what}", highlight=False)
