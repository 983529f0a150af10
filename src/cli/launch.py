"""Queue runs: look at data, measure, launch, resume, fork."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from src import store
from src.cli.lookup import find_run
from src.cli.options import (
    AsJson,
    ConfigArgument,
    ConfigArguments,
    Preset,
    RunArgument,
    Set,
    Wait,
    overrides,
)
from src.cli.output import DID_NOT_COMPLETE, err, error, note, out, print_json
from src.cli.runs import print_run
from src.config import ConfigError, RunConfig, load_config, stored_config, with_overrides
from src.errors import UserError
from src.format import duration
from src.runs import attempts, estimate, launcher, packing
from src.store.tables import Status


def preview(
    config: ConfigArgument = None,
    preset: Preset = None,
    changes: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Show the data of a config before launch: rows, token counts, how the tokenizer cuts the
    words, leaks."""
    loaded = load_config(config, preset=preset, overrides=overrides(changes))
    seen = launcher.check(loaded)
    if as_json:
        return print_json(seen)

    from src.training.data_loaders import preview_notes

    out.print(", ".join(f"{n:,} {split} rows" for split, n in seen["rows"].items()))
    tokens = seen["tokens"]
    out.print(
        f"{tokens['min']} to {tokens['max']} tokens a row, median {tokens['median']:g} "
        f"(model.max_length {seen['max_length']:,})"
    )
    for text in preview_notes(seen):
        out.print(f"note: {text}")
    for example in seen["examples"]:
        out.print(escape(" | ".join(example["pieces"])).replace("\n", "⏎"), highlight=False)


def preflight(
    config: ConfigArgument = None,
    preset: Preset = None,
    changes: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Measure what a run would take: three real steps on its longest rows, and a score of the
    longest. Kept by config: a launch that would not fit is refused."""
    loaded = load_config(config, preset=preset, overrides=overrides(changes))
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
        error(text)
    if problems:
        raise typer.Exit(DID_NOT_COMPLETE)


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
    values = overrides(changes)
    configs = [load_config(file, overrides=values) for file in files]
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
        out.print(f"{find_run(run_id).status} {run_id}", highlight=False)


def launch(
    files: ConfigArguments = [],  # noqa: B006 (typer copies it)
    preset: Preset = None,
    changes: Set = [],  # noqa: B006
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Queue a run and start it when a slot is free. It lives on when this command or the panel
    ends. With several files: a run each, queued together; those of `engine: packed` that may share
    a process do. A file that is refused does not hold up the others."""
    values = overrides(changes)

    def checked(file: Path | None) -> RunConfig:
        loaded = load_config(file, preset=preset, overrides=values)
        check(loaded)
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
        except UserError as problem:
            refused[file] = str(problem)
            error(f"{file}: {problem}")
    ids = dict(zip(accepted, launcher.launch_all(list(accepted.values())), strict=True))
    if wait:
        for run_id in ids.values():
            follow(run_id)
    rows = {file: find_run(run_id) for file, run_id in ids.items()}
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


def finish(run_id: str, *, wait: bool, as_json: bool) -> None:
    """Say what became of a run that was just queued, after its end with `wait`."""
    if wait:
        follow(run_id)
    run = find_run(run_id)
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


def check(config: RunConfig) -> None:
    """Print notes on the data of a config; ConfigError if this machine cannot train it."""
    seen = launcher.check(config)

    from src.training.data_loaders import preview_notes

    for text in preview_notes(seen):
        note(text)


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


def resume(
    run: RunArgument,
    step: Annotated[int | None, typer.Option("--from", help="Checkpoint to go on from.")] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a stopped, interrupted or failed run from its newest verified checkpoint."""
    row = find_run(run)
    step = attempts.resume(row, step=step)
    err.print(f"{row.id} goes on from step {step:,}", highlight=False)
    finish(row.id, wait=wait, as_json=as_json)


def fork(
    run: RunArgument,
    step: Annotated[int | None, typer.Option("--from", help="Checkpoint to begin from.")] = None,
    changes: Set = [],  # noqa: B006
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Start a new run from a checkpoint of another one, with other settings."""
    row = find_run(run)
    values = stored_config(row.config).model_dump() | {"name": f"{row.name} fork"}
    loaded = with_overrides(values, overrides(changes))
    check(loaded)
    finish(attempts.fork(row, loaded, step=step), wait=wait, as_json=as_json)
