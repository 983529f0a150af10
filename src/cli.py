"""The `spelltune` command. With --json a command prints one JSON document on standard output and
nothing else there."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from sqlalchemy.exc import SQLAlchemyError

from src import paths, store
from src.config import (
    ConfigError,
    RunConfig,
    load_config,
    parse_override,
    presets,
    stored_config,
    with_overrides,
)
from src.errors import UserError
from src.format import duration
from src.runs import attempts, estimate, launcher, machine, packing, reconciler
from src.runs.processes import FileLock
from src.store.tables import Run, Status
from src.training import checkpointing

# pandas takes as long to load as all of this together, so src.analysis, which stands on it, is
# imported by the commands that need it.
if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teach a language model to spell: launch fine-tunings, follow them, read their mistakes.",
)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


@app.callback()
def private() -> None:
    # What runs leave behind is for their owner alone.
    os.umask(0o077)


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or its name where only one has it.")
]
CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN[@STEP]", help="A run, for the adapter that it kept, or one of its checkpoints."
    ),
]
ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file of settings.")
]
Configs = Annotated[
    list[Path], typer.Argument(metavar="[CONFIG]...", help="YAML files of settings.")
]
Preset = Annotated[str | None, typer.Option(help=f"Start from a preset: {', '.join(presets())}.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Stay until the run ends; exit 0 only if it completed.")
]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="SETTING=VALUE", help="Change one setting, such as lora.r=16."),
]

# Exit codes: 1 the run did not complete, 2 the call cannot be carried out as written.
DID_NOT_COMPLETE, BAD_CALL = 1, 2


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the errors that a person can mend into a sentence on standard error and exit code 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            # UnknownRun is a LookupError, whose str() is plain; a KeyError's would be quoted.
            refuse(str(error))
        except (SQLAlchemyError, ImportError) as error:
            if why := store.no_table(error):
                refuse(why)
            raise

    return wrapped


def refuse(why: str) -> NoReturn:
    err.print(f"[red]error:[/] {escape(why)}", highlight=False)
    raise typer.Exit(BAD_CALL) from None


def print_json(document: Any) -> None:
    print(store.to_json(document))


@app.command()
@told
def launch(
    files: Configs = [],  # noqa: B006 (typer copies it)
    preset: Preset = None,
    changes: Set = [],  # noqa: B006
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Queue a run and start it when a slot is free. It lives on when this command or the panel
    ends. With several files: a run each, queued together; those of `engine: packed` that may share
    a process do. A file that is refused does not hold up the others."""
    overrides = dict(parse_override(text) for text in changes)

    def checked(file: Path | None) -> RunConfig:
        loaded = load_config(file, preset=preset, overrides=overrides)
        for note in data_notes(launcher.check(loaded)):
            err.print(f"note: {note}", highlight=False)
        if measured := estimate.kept(loaded):
            if problems := measured.problems(loaded):
                raise ConfigError(problems)
            err.print(f"it {measured.sentence(loaded)}", highlight=False)
        return loaded

    if len(files) < 2:
        only = checked(files[0] if files else None)
        finish(launcher.launch(only), wait=wait, as_json=as_json)
        return
    accepted: dict[Path, RunConfig] = {}
    refused: dict[Path, str] = {}
    for file in files:
        try:
            accepted[file] = checked(file)
        except UserError as error:
            refused[file] = str(error)
            err.print(f"[red]error:[/] {escape(f'{file}: {error}')}", highlight=False)
    ids = dict(zip(accepted, launcher.launch_all(list(accepted.values())), strict=True))
    if wait:
        for run_id in ids.values():
            follow(run_id)
    rows = {file: find(run_id) for file, run_id in ids.items()}
    if as_json:
        with store.reading() as session:
            print_json([
                store.show(session, rows[file]) if file in rows
                else {"config": str(file), "status": Status.FAILED, "reason": refused[file]}
                for file in files
            ])  # fmt: skip
    else:
        for run in rows.values():
            out.print(f"{run.status} {run.id}", highlight=False)
    if refused or wait and any(run.status != Status.COMPLETED for run in rows.values()):
        raise typer.Exit(DID_NOT_COMPLETE)


@app.command(name="preflight")
@told
def measure(
    config: ConfigArgument = None,
    preset: Preset = None,
    changes: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Measure what a run would take: three real steps on its longest rows, and a score of the
    longest. Kept by config: a launch that would not fit is refused."""
    overrides = dict(parse_override(text) for text in changes)
    loaded = load_config(config, preset=preset, overrides=overrides)
    with err.status("three steps on the longest rows"):
        found = estimate.measure(loaded)
    launcher.fill_slots()
    problems = found.problems(loaded)
    seconds = None if problems else found.seconds(loaded)
    if as_json:
        print_json(asdict(found) | {"seconds": seconds, "problems": problems})
    elif not problems:
        out.print(found.sentence(loaded), highlight=False)
    for text in problems.values():
        err.print(f"[red]error:[/] {escape(text)}", highlight=False)
    if problems:
        raise typer.Exit(DID_NOT_COMPLETE)


@app.command()
@told
def plan(
    files: Annotated[
        list[Path], typer.Argument(metavar="CONFIG...", help="YAML files, a run each.")
    ],
    changes: Set = [],  # noqa: B006
    start: Annotated[bool, typer.Option("--launch", help="Launch the runs as planned.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Of those that take the same steps train only the first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say which runs would share a process and what that takes, from a measurement of one and of a
    few of them."""
    overrides = dict(parse_override(text) for text in changes)
    configs = [load_config(file, overrides=overrides) for file in files]
    for config in configs:
        launcher.check(config)
    with err.status("three steps of one run and of a few"):
        found = packing.plan(configs, once=once)
    launched = packing.launch(found, configs) if start else []
    launcher.fill_slots()
    if as_json:
        print_json(asdict(found) | {"seconds": found.seconds, "launched": launched})
        return
    table = Table("runs", "at once", "engine", "at most", "GiB", "why", box=None,
                  header_style="bold")  # fmt: skip
    for pack in found.packs:
        table.add_row(
            f"{len(pack.members):,}", f"{pack.size:,}", pack.engine, duration(pack.seconds),
            f"{pack.peak_gib:.1f} of {pack.room_gib:.1f}", escape(pack.why),
        )  # fmt: skip
    out.print(table)
    for place, first in found.duplicates.items():
        text = f"{files[place]} takes the same steps as {files[first]}"
        out.print(escape(text + (" and is left out" if once else "; --once trains one of them")))
    for run_id in launched:
        out.print(f"{find(run_id).status} {run_id}", highlight=False)


def finish(run_id: str, *, wait: bool, as_json: bool) -> None:
    """Say what became of a run that was just queued, after its end with `wait`."""
    if wait:
        follow(run_id)
    run = find(run_id)
    if as_json:
        with store.reading() as session:
            print_json(store.show(session, run))
    elif wait:
        print_run(run)
    else:
        out.print(f"{run.status} {run.id}", highlight=False)
        err.print(
            f"follow it with `spelltune show {run.id}` or in the panel (`spelltune panel`)",
            highlight=False,
        )
    if wait and run.status != Status.COMPLETED:
        raise typer.Exit(DID_NOT_COMPLETE)


def data_notes(seen: dict[str, Any]) -> list[str]:
    """What a person should know of the data before the launch, though it does not forbid it."""
    notes = [f"{n:,} words stand in both {pair.replace('/', ' and ')}: scores on them say little"
             for pair, n in seen["leaks"].items()]  # fmt: skip
    if seen["duplicates"]:
        notes.append(f"{seen['duplicates']:,} duplicate rows were dropped")
    return notes


def follow(run_id: str) -> None:
    """Show a run's progress on standard error until it ends; Ctrl-C leaves it running."""
    columns = (
        TextColumn("{task.fields[status]:9}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=1, status="QUEUED", values="")
        try:
            while True:
                with store.reading() as session:
                    run = store.find(session, run_id)
                    latest = store.latest_metrics(session, [run_id])[run_id]
                shown = [
                    f"{n} {v:.3f}"
                    for n in ("train/loss", "val/exact_match")
                    if (v := latest.get(n)) is not None
                ]
                progress.update(
                    task,
                    total=run.max_steps,
                    completed=run.step or 0,
                    status=run.status,
                    values=escape("  ".join([*shown, run.phase or ""])),
                )
                if Status(run.status).ended:
                    return
                time.sleep(0.5)
        except KeyboardInterrupt:
            err.print(
                f"{run_id} goes on in the background; `spelltune stop {run_id}` ends it",
                highlight=False,
            )


def find(name: str) -> Run:
    """The run, its status true as of now."""
    reconciler.reconcile()
    with store.reading() as session:
        return store.find(session, name)


@app.command()
@told
def runs(as_json: AsJson = False) -> None:
    """List all runs, newest first."""
    reconciler.reconcile()
    with store.reading() as session:
        found = store.runs(session)
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


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


@app.command()
@told
def show(run: RunArgument, as_json: AsJson = False) -> None:
    """Print what is known of one run: status, settings, last metrics, best step, paths,
    checkpoints."""
    row = find(run)
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


@app.command()
@told
def metrics(run: RunArgument, as_json: AsJson = False) -> None:
    """Print every recorded point of a run."""
    with store.reading() as session:
        points = store.metrics(session, store.find(session, run).id)
    if as_json:
        return print_json(points)
    for point in points:
        print(f"{point['step']}\t{point['name']}\t{point['value']}")


@app.command()
@told
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two or more runs.")],
    as_json: AsJson = False,
) -> None:
    """Say which of several runs spell better, and what may be claimed of their configs."""
    from src.analysis import comparison

    reconciler.reconcile()
    with store.reading() as session:
        chosen = {row.id: row for row in (store.find(session, name) for name in runs)}
        if len(chosen) < 2:
            raise store.UnknownRun("compare takes two different runs or more")
        found = comparison.compare(session, list(chosen.values()))
    if as_json:
        return print_json(comparison.document(found))
    for verdict in (*found.configs, *found.adapters):
        out.print(escape(verdict.claim), highlight=False)
    if found.summary:
        out.print(escape(found.summary), highlight=False)


SplitOption = Annotated[
    Literal["val", "validation", "test"], typer.Option(help="The test split once it was scored.")
]


@app.command()
@told
def errors(
    run: CheckpointArgument,
    vs: Annotated[
        str | None, typer.Option(metavar="RUN[@STEP]", help="What became of RUN's words here.")
    ] = None,
    all_words: Annotated[
        bool, typer.Option("--all", help="Every word, not only the wrong ones.")
    ] = False,
    split: SplitOption = "validation",
    as_json: AsJson = False,
) -> None:
    """Print the words that an adapter misspells and how, or which ones another adapter fixed, broke
    and still has wrong."""
    from src.analysis import misspellings as mistakes

    name = "test" if split == "test" else "validation"
    with store.reading() as session:
        row, evaluation, _ = store.scored(session, run, split=name)
        other = store.scored(session, vs, split=name)[:2] if vs else None
    frame = mistakes.read(evaluation.path)
    if other:
        both = mistakes.compared(frame, mistakes.read(other[1].path))
        names = [f"{r.id}@{e.step}" for r, e in ((row, evaluation), other)]
        if both.empty:
            raise store.UnknownRun(
                f"{names[0]} and {names[1]} have no {name} question in common, so nothing can be "
                "called fixed or broken; name two that were scored on the same data"
            )
        left_out = mistakes.left_out(len(frame), other[1].rows, both)
        if left_out:
            err.print(f"{left_out:,} {name} questions that only one of them was asked are left out")
        return tell_changes(both, names, name, as_json=as_json)
    shown = frame if all_words else frame[~frame["correct"]]
    if as_json:
        return print_json(records(shown))
    print_words(shown)
    told = ", ".join(f"{count:,} {kind}" for kind, count in mistakes.counts(frame).items())
    wrong = evaluation.rows - evaluation.correct
    out.print(f"{wrong:,} of {evaluation.rows:,} wrong at step {evaluation.step:,}: {told}")


def tell_changes(both: "pd.DataFrame", names: list[str], split: str, *, as_json: bool) -> None:
    """Print what became of the words of `names[0]` in `names[1]`."""
    from src.analysis import misspellings as mistakes

    sums = mistakes.balance(both)
    groups = {
        "fixed": both[both["outcome"] == "fixed"],
        "broken": both[both["outcome"] == "broken"],
        "still_wrong": both[both["outcome"].isin(["same mistake", "another mistake"])],
    }
    if as_json:
        about = {"a": names[0], "b": names[1], "split": split, "counts": sums}
        return print_json(about | {group: records(words) for group, words in groups.items()})
    table = Table("", "question", "expected", *names, box=None, header_style="bold")
    for group, words in groups.items():
        for row in words.itertuples():
            cells = (row.question, row.expected, row.predicted_a, row.predicted_b)
            table.add_row(group.replace("_", " "), *(escape(str(cell)) for cell in cells))
    out.print(table)
    out.print(
        f"{sums['fixed']:,} fixed, {sums['broken']:,} broken, {sums['still_wrong']:,} still wrong "
        f"({sums['same_mistake']:,} with the same answer) of {sums['questions']:,} questions: "
        f"{sums['difference'] * 100:+.1f} points",
        highlight=False,
    )
    return None


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a frame as JSON has them: no nan."""
    from src.analysis import exports

    return cast("list[dict[str, Any]]", json.loads(exports.to_json(frame)))


SHOWN = ["question", "expected", "predicted", "correct", "edit_distance"]


def print_words(frame: "pd.DataFrame") -> None:
    table = Table("question", "expected", "predicted", "edits", "kind", box=None,
                  header_style="bold")  # fmt: skip
    for row in frame[[*SHOWN, "kind"]].itertuples():
        cells = (row.question, row.expected, row.predicted)
        table.add_row(*(escape(str(c)) for c in cells), str(row.edit_distance), str(row.kind))
    out.print(table)


@app.command()
@told
def export(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN[@STEP]...", help="Runs or checkpoints.")
    ],
    format: Annotated[
        Literal["csv", "json", "parquet", "xlsx"], typer.Option(help="Kind of file.")
    ] = "csv",
    split: Annotated[
        Literal["val", "validation", "test"] | None,
        typer.Option(help="One split only; else all that were scored."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write; else standard output.")
    ] = None,
) -> None:
    """Write every prediction of runs with its kind of error as one table."""
    from src.analysis import exports

    wanted = [split if split in (None, "test") else "validation"]
    found = []
    with store.reading() as session:
        for name in runs:
            run, step = store.find_checkpoint(session, name)
            there = {e.split for e in store.evaluations(session, run.id) if step in (None, e.step)}
            for one in wanted if split else sorted(there, reverse=True) or ["validation"]:
                found.append(store.scored(session, name, split=str(one))[1])
    content = exports.FORMATS[format][2](exports.predictions(found))
    if output:
        output.write_bytes(content)
        err.print(f"{output} holds {sum(e.rows for e in found):,} predictions", highlight=False)
    elif sys.stdout.isatty() and format in ("parquet", "xlsx"):
        raise typer.BadParameter(f"{format} is no text; name a file with --output")
    else:
        sys.stdout.buffer.write(content)


@app.command()
@told
def evaluate(
    checkpoint: CheckpointArgument,
    data: Annotated[Path, typer.Option(help="File with the columns question and answer.")],
    as_json: AsJson = False,
) -> None:
    """Score an adapter on any file of questions and answers."""
    row, step = checkpoint_of(checkpoint)
    adapter = adapter_of(row, step)

    from src.analysis import misspellings as mistakes
    from src.training.evaluate import evaluate as score

    with err.status("loading the model") as status:
        values, frame = score(
            stored_config(row.config),
            adapter,
            data,
            progress=lambda done: status.update(f"{done:,} words scored"),
        )
    wrong = mistakes.described(frame)[~frame["correct"]]
    if as_json:
        document = {"id": row.id, "adapter": str(adapter), "data": str(data), "rows": len(frame)}
        return print_json(document | {"metrics": values, "errors": records(wrong)})
    for name, value in values.items():
        out.print(f"{name} {number(value)}", highlight=False)
    print_words(wrong)
    out.print(f"{len(wrong):,} of {len(frame):,} wrong")


@app.command()
@told
def stop(run: RunArgument, as_json: AsJson = False) -> None:
    """Stop a run at its next step, with a checkpoint; a queued one is taken out of the queue."""
    row = find(run)
    status = launcher.stop(row.id)
    if as_json:
        return print_json({"id": row.id, "status": status})
    if Status(row.status).ended:
        done = f"had ended already: {status}"
    elif status == Status.CANCELLED:
        done = "is taken out of the queue"
    else:
        done = "stops at its next step, with a checkpoint"
    out.print(f"{row.id} {done}", highlight=False)


@app.command()
@told
def resume(
    run: RunArgument,
    step: Annotated[int | None, typer.Option("--from", help="Checkpoint to go on from.")] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a stopped, interrupted or failed run from its newest verified checkpoint."""
    row = find(run)
    step = attempts.resume(row, step=step)
    err.print(f"{row.id} goes on from step {step:,}", highlight=False)
    finish(row.id, wait=wait, as_json=as_json)


@app.command()
@told
def fork(
    run: RunArgument,
    step: Annotated[int | None, typer.Option("--from", help="Checkpoint to begin from.")] = None,
    changes: Set = [],  # noqa: B006
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Start a new run from a checkpoint of another one, with other settings."""
    row = find(run)
    values = stored_config(row.config).model_dump() | {"name": f"{row.name} fork"}
    loaded = with_overrides(values, dict(parse_override(text) for text in changes))
    for note in data_notes(launcher.check(loaded)):
        err.print(f"note: {note}", highlight=False)
    finish(attempts.fork(row, loaded, step=step), wait=wait, as_json=as_json)


@app.command()
@told
def merge(
    checkpoint: CheckpointArgument,
    to: Annotated[Path | None, typer.Option(help="Folder to write; it must not exist.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the base model with an adapter merged into it, to use without Spelltune."""
    row, step = checkpoint_of(checkpoint)
    adapter = adapter_of(row, step)
    target = to or paths.merged_dir(row.id, step)
    if to and to.exists():
        raise typer.BadParameter(f"{to} exists already; name another folder")
    lock = FileLock(paths.merge_lock(row.id))
    if not lock.acquire():
        raise typer.BadParameter(f"a merged model of {row.id} is being written already")

    from src.training.merge import merge as write

    with err.status("loading the model"):
        write(stored_config(row.config), adapter, target.absolute())
    if as_json:
        return print_json({"id": row.id, "step": step, "path": str(target)})
    out.print(f"{target} holds the merged model", highlight=False)


@app.command()
@told
def capsule(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option(help="Zip to write; else RUN.zip here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a completed run as one zip: settings, data, adapter, predictions, verdicts, and a
    script that scores and trains it again elsewhere and compares."""
    from src.analysis import capsule as capsules

    row = find(run)
    target = output or Path(f"{row.id}.zip")
    if target.exists():
        raise typer.BadParameter(f"{target} exists already; name another file")
    with err.status("packing"):
        capsules.write(row, target)
    if as_json:
        return print_json({"id": row.id, "path": str(target), "size_bytes": target.stat().st_size})
    out.print(f"{target} holds {row.id}, {target.stat().st_size / 2**20:.1f} MiB", highlight=False)


@app.command()
@told
def push(
    run: RunArgument,
    repo: Annotated[str, typer.Option(help="Model repository on the hub, such as me/speller.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="The base model with the adapter merged into it.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="For everybody to see, where it is made anew.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only write the folder that would be sent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send the kept adapter to the Hugging Face hub with a model card, as PEFT wrote it or
    merged."""
    from src.analysis import misspellings as mistakes
    from src.analysis import model_card

    row = find(run)
    adapter = adapter_of(row, None)
    with store.reading() as session:
        about = store.show(session, row)
        evaluation = store.final_evaluation(session, row, split="test")
    folder = paths.output_dir(row.id) / "hub"
    with err.status("writing"):
        files = model_card.write(
            stored_config(row.config),
            adapter,
            folder,
            merged=merged,
            about=about,
            predictions=mistakes.read(evaluation.path) if evaluation else None,
        )
    address = None if dry_run else model_card.push(folder, repo, private=not public)
    if as_json:
        names = [str(file.relative_to(folder)) for file in files]
        return print_json({"id": row.id, "folder": str(folder), "files": names, "url": address})
    for file in files:
        out.print(f"{file.stat().st_size:>12,} {file.relative_to(folder)}", highlight=False)
    if address:
        out.print(f"{address} has it", highlight=False)
    else:
        out.print(f"{folder} is what would go to {escape(repo)}", highlight=False)


def checkpoint_of(name: str) -> tuple[Run, int | None]:
    """`RUN@STEP` -> the run and its step; `RUN` -> the run and None, its kept adapter."""
    reconciler.reconcile()
    with store.reading() as session:
        return store.find_checkpoint(session, name)


def adapter_of(row: Run, step: int | None) -> Path:
    """The folder of a checkpoint's adapter, verified, or of the one that the run kept."""
    if step is not None:
        return checkpointing.step_dir(paths.checkpoints_dir(row.id), attempts.verified(row, step))
    adapter = paths.output_dir(row.id) / "final"
    if not (adapter / "adapter_config.json").exists():
        raise store.UnknownRun(f"{row.id} has no adapter yet; its status is {row.status}")
    return adapter


@app.command()
@told
def checkpoints(run: RunArgument, as_json: AsJson = False) -> None:
    """List a run's checkpoints and whether each is whole."""
    row = find(run)
    with store.reading() as session:
        kept = store.checkpoints(session, row.id)
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


@app.command()
@told
def delete(
    checkpoint: CheckpointArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a run with its metrics, checkpoints, adapter, predictions and logs, or RUN@STEP: one
    checkpoint."""
    row, step = checkpoint_of(checkpoint)
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


@app.command()
@told
def reconcile(as_json: AsJson = False) -> None:
    """Bring the status of every run in line with what its processes really do."""
    changed = reconciler.reconcile()
    if as_json:
        return print_json(changed)
    for run_id in changed:
        out.print(run_id, highlight=False)


@app.command()
@told
def preview(
    config: ConfigArgument = None,
    preset: Preset = None,
    changes: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show the data of a config before launch: rows, token counts, how the tokenizer cuts the
    words, leaks."""
    loaded = load_config(
        config, preset=preset, overrides=dict(parse_override(text) for text in changes)
    )
    seen = launcher.check(loaded)
    if as_json:
        return print_json(seen)
    out.print(", ".join(f"{n:,} {split} rows" for split, n in seen["rows"].items()))
    tokens = seen["tokens"]
    out.print(
        f"{tokens['min']} to {tokens['max']} tokens a row, median {tokens['median']:g} "
        f"(model.max_length {seen['max_length']:,})"
    )
    for note in data_notes(seen):
        out.print(f"note: {note}")
    for example in seen["examples"]:
        out.print(escape(" | ".join(example["pieces"])).replace("\n", "⏎"), highlight=False)


# --- sweeps ---------------------------------------------------------------------------------------
# Optuna takes its time to load, so only these commands import it.

sweep = typer.Typer(no_args_is_help=True, help="Search settings: launch, follow and steer sweeps.")
app.add_typer(sweep, name="sweep")

SweepFile = Annotated[Path, typer.Argument(metavar="FILE", help="A sweep, as in configs/sweeps/.")]
SweepArgument = Annotated[
    str, typer.Argument(metavar="ID", help="A sweep's id, or its name for the newest one.")
]
Budget = Annotated[
    str | None, typer.Option(help="`200 trials` or `45m`, in place of the file's own.")
]


@sweep.command("plan")
@told
def sweep_plan(
    file: SweepFile,
    budget: Budget = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Take real steps for memory and time first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a sweep comes to: trials, duplicates, processes, time."""
    from src.sweeps import estimate, ledger

    _, config, plan = ledger.prepare(file, budget=budget)
    if measure:
        estimate.measured(config)
        _, _, plan = ledger.prepare(file, budget=budget)
    if as_json:
        return print_json(asdict(plan))
    for line in plan.lines():
        out.print(line, highlight=False)


@sweep.command("launch")
@told
def sweep_launch(
    file: SweepFile,
    budget: Budget = None,
    executor: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="Train here or on a Ray cluster, in place of the file's own."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a sweep, and say what it comes to. It goes on when this command or the panel ends."""
    from src.sweeps import ledger

    _, _, plan = ledger.prepare(file, budget=budget, executor=executor)
    for line in plan.lines():
        err.print(line, highlight=False)
    sweep_id = ledger.launch(file, budget=budget, executor=executor)
    if as_json:
        return print_json(sweep_document(sweep_id))
    out.print(sweep_id, highlight=False)
    err.print(f"follow it with `spelltune sweep show {sweep_id}` or in the panel", highlight=False)


@sweep.command("list")
@told
def sweep_list(as_json: AsJson = False) -> None:
    """List all sweeps, newest first."""
    reconciler.reconcile()
    with store.reading() as session:
        rows = store.sweeps(session)
    if as_json:
        return print_json([row.model_dump(exclude={"file", "base"}) for row in rows])
    for row in rows:
        out.print(f"{row.status:9} {row.id}", highlight=False)


@sweep.command("show")
@told
def sweep_show(sweep_id: SweepArgument, as_json: AsJson = False) -> None:
    """Print what became of a sweep's trials, the best setting and what may be claimed of it."""
    reconciler.reconcile()
    document = sweep_document(sweep_id)
    if as_json:
        return print_json(document)
    told = ", ".join(f"{count:,} {what}" for what, count in document["counts"].items())
    out.print(f"{document['id']}  {document['status']}  {document['reason'] or ''}".rstrip())
    out.print(told or "no trials yet", highlight=False)
    if best := document["best"]:
        values = ", ".join(f"{name} {value}" for name, value in best["settings"].items())
        out.print(
            f"best: trial {best['trial']}, {document['metric']} {number(best['score'])}: "
            + escape(values),
            highlight=False,
        )
    for verdict in document["verdicts"]:
        out.print(escape(f"{verdict['claim']}; {document['judged']}".rstrip("; ")), highlight=False)
    for trial in document["trials"]:
        if trial["became"] == "failed":
            out.print(escape(f"trial {trial['trial']}: {trial['reason']}"), highlight=False)
    if document["note"]:
        err.print(f"note: {document['note']}", highlight=False)


def sweep_document(sweep_id: str) -> dict[str, Any]:
    from src.sweeps import results

    with store.reading() as session:
        return results.document(session, results.read(session, store.find_sweep(session, sweep_id)))


@sweep.command("pause")
@told
def sweep_pause(sweep_id: SweepArgument, as_json: AsJson = False) -> None:
    """Let no further trial start; those that train go on."""
    steer("pause", sweep_id, as_json=as_json)


@sweep.command("resume")
@told
def sweep_resume(sweep_id: SweepArgument, as_json: AsJson = False) -> None:
    """Go on with a paused sweep."""
    steer("resume", sweep_id, as_json=as_json)


@sweep.command("cancel")
@told
def sweep_cancel(sweep_id: SweepArgument, as_json: AsJson = False) -> None:
    """End a sweep: queued trials are cancelled, those that train stop at their next step."""
    steer("cancel", sweep_id, as_json=as_json)


@sweep.command("add")
@told
def sweep_add(
    sweep_id: SweepArgument,
    more: Annotated[str, typer.Argument(metavar="BUDGET", help="`20 trials` or `30m`.")],
    as_json: AsJson = False,
) -> None:
    """Raise a sweep's budget; one that is complete goes on."""
    steer("add", sweep_id, more, as_json=as_json)


def steer(what: str, sweep_id: str, *arguments: str, as_json: bool) -> None:
    from src.sweeps import ledger

    with store.reading() as session:
        found = store.find_sweep(session, sweep_id).id
    getattr(ledger, what)(found, *arguments)
    with store.reading() as session:
        row = store.find_sweep(session, found)
    if as_json:
        return print_json(row.model_dump(exclude={"file", "base"}))
    out.print(f"{row.status} {row.id}", highlight=False)


@sweep.command("export")
@told
def sweep_export(
    sweep_id: SweepArgument,
    format: Annotated[
        Literal["csv", "json", "parquet", "xlsx"], typer.Option(help="Kind of file.")
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option(help="File to write; else standard output.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Write one row a trial: its settings, score, time and what became of it."""
    from src.analysis import exports
    from src.sweeps import results

    with store.reading() as session:
        found = results.read(session, store.find_sweep(session, sweep_id))
    content = exports.FORMATS["json" if as_json else format][2](found.trials)
    if output:
        output.write_bytes(content)
        err.print(f"{output} holds {len(found.trials):,} trials", highlight=False)
    else:
        sys.stdout.buffer.write(content)


@app.command()
@told
def first(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Queued runs.")],
    as_json: AsJson = False,
) -> None:
    """Let queued runs be the next to start, in this order."""
    with store.writing() as session:
        ids = store.move_to_front(session, [store.find(session, name) for name in runs])
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} next", highlight=False)


@app.command()
@told
def hold(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Queued runs.")],
    as_json: AsJson = False,
) -> None:
    """Let queued runs wait, whatever slot is free, until they are released."""
    with store.writing() as session:
        ids = store.hold(session, [store.find(session, name) for name in runs], held=True)
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} held", highlight=False)


@app.command()
@told
def release(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Held runs.")],
    as_json: AsJson = False,
) -> None:
    """Let held runs start when it is their turn, in their old places of the queue."""
    with store.writing() as session:
        ids = store.hold(session, [store.find(session, name) for name in runs], held=False)
    launcher.fill_slots()
    if as_json:
        return print_json(ids)
    out.print(f"{', '.join(ids)} released", highlight=False)


@app.command()
def panel(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8501) -> None:
    """Open the panel in the browser."""
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(paths.ROOT / "app.py"),
        "--server.port",
        str(port),
    ]
    os.chdir(paths.ROOT)  # Streamlit reads .streamlit/config.toml there
    os.execv(command[0], command)


@app.command()
@told
def doctor(as_json: AsJson = False) -> None:
    """Say what would run here: GPU, versions, backends, disk."""
    document = diagnosis()
    if as_json:
        return print_json(document)
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in document.items():
        text = "\n".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        table.add_row(key, escape(", ".join(text) if isinstance(text, list) else str(text)))
    out.print(table)


PACKAGES = [
    "torch",
    "transformers",
    "trl",
    "peft",
    "unsloth",
    "bitsandbytes",
    "datasets",
    "streamlit",
    "wandb",
]


def diagnosis() -> dict[str, Any]:
    versions = {package: installed(package) for package in PACKAGES}
    gpus = list(machine.gpus().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = shutil.disk_usage(existing(paths.home()))
    why = store.why_not_wal()
    journal = f"DELETE mode: {why}" if why else "WAL"
    unsloth, four_bit = (needs_gpu(gpus, versions[name]) for name in ("unsloth", "bitsandbytes"))
    return {
        "python": platform.python_version(),
        "gpus": gpus or ["none: training runs on the CPU"],
        "slots": machine.slot_count(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "disk_free_gib": round(disk.free / 2**30, 1),
        "home": str(paths.home()),
        "database": store.make_url(paths.database_url()).render_as_string(hide_password=True),
        "sqlite": f"{store.sqlite_driver.sqlite_version} ({journal})",
        "versions": versions,
        "backends": {"peft": "yes", "unsloth": unsloth, "4-bit": four_bit},
        "a_launch_would_use": f"{'unsloth' if unsloth == 'yes' else 'peft'} on "
        + (gpus[0] if gpus else "the CPU"),
    }


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def needs_gpu(gpus: list[str], version: str) -> str:
    """`yes`, or why a package that works on NVIDIA GPUs only cannot be used here."""
    if not gpus:
        return "no: it needs an NVIDIA GPU"
    return "yes" if version != "not installed" else "no: not installed"


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


if __name__ == "__main__":
    app()
