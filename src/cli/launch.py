"""Queue runs: preview their data, measure them, launch, resume, fork."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

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
from src.cli.output import DID_NOT_COMPLETE, err, error, note, out, print_json, print_table
from src.cli.runs import print_run
from src.config import RunConfig, load_config, stored_config, with_overrides
from src.errors import UserError
from src.format import duration
from src.runs import (
    attempts,
    checks,
    estimate,
    launch_notes,
    launcher,
    packing,
    reconciler,
    standby,
)
from src.runs.timeouts import TIMEOUTS
from src.store.tables import Run, Status
from src.training.data_notes import preview_counts, preview_notes


def preview(
    config: ConfigArgument = None,
    preset: Preset = None,
    changes: Set = [],
    as_json: AsJson = False,
) -> None:
    """Show a config's data: rows, token counts, leaks, and how the tokenizer splits the words."""
    loaded = load_config(config, preset=preset, overrides=overrides(changes))
    seen = checks.check(loaded)
    if as_json:
        return print_json(seen)

    out.print(", ".join(f"{n:,} {split} rows" for split, n in seen["rows"].items()))
    tokens = seen["tokens"]
    out.print(
        f"{tokens['min']} to {tokens['max']} tokens per row, median {tokens['median']:g} "
        f"(model.max_length {seen['max_length']:,})"
    )
    for text in [*preview_counts(seen), *preview_notes(seen)]:
        out.print(f"note: {text}")
    for example in seen["examples"]:
        kind = f"{example['kind']}: " if example["kind"] else ""
        out.print(kind + " | ".join(example["pieces"]).replace("\n", "⏎"), highlight=False)


def preflight(
    config: ConfigArgument = None,
    preset: Preset = None,
    changes: Set = [],
    as_json: AsJson = False,
) -> None:
    """Measure the time and memory that a run takes, in three real training steps.

    The steps train on the longest rows, and one batch of them is scored. The result is kept: from
    then on a launch that would not fit into memory is refused.
    """
    loaded = load_config(config, preset=preset, overrides=overrides(changes))
    with err.status("three steps on the longest rows"):
        measured = estimate.measure(loaded)
    launcher.fill_slots()
    problems = measured.problems(loaded)
    seconds = None if problems else measured.seconds(loaded)
    if as_json:
        print_json(asdict(measured) | {"seconds": seconds, "problems": problems})
    elif not problems:
        out.print(measured.sentence(loaded), highlight=False)
    for text in problems.values():
        error(text)
    if problems:
        raise typer.Exit(DID_NOT_COMPLETE)


def launch(
    files: ConfigArguments = [],
    preset: Preset = None,
    changes: Set = [],
    once: Annotated[
        bool,
        typer.Option("--once", help="Train only the first of configs that take the same steps."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Launch nothing; measure which runs are best trained in one process, and how long "
            "they take.",
        ),
    ] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Queue one run per config, and start them as slots become free.

    Runs go on when this command or the panel ends. Those of `engine: packed` that can share a
    process do. A file that is refused does not hold up the others.
    """
    values = overrides(changes)
    if dry_run:
        asked: list[Path | None] = [*files] or [None]
        configs = [load_config(file, preset=preset, overrides=values) for file in asked]
        print_plan(files, configs, once=once, as_json=as_json)
    elif len(files) < 2:
        config = load_config(files[0] if files else None, preset=preset, overrides=values)
        with standby.loading_for(config) as wait_for_supervisor:
            check(config)
            wait_for_supervisor()
            run_id = launcher.launch(config)
        finish(run_id, wait=wait, as_json=as_json)
    else:
        accepted: dict[Path, RunConfig] = {}
        refused: dict[Path, str] = {}
        for file in files:
            try:
                config = load_config(file, preset=preset, overrides=values)
                check(config)
                accepted[file] = config
            except UserError as problem:
                refused[file] = str(problem)
                error(f"{file}: {problem}")
        if once:
            accepted = without_duplicates(accepted)
        ids = dict(zip(accepted, launcher.launch_all(list(accepted.values())), strict=True))
        finish_all(files, ids, refused, wait=wait, as_json=as_json)


def check(config: RunConfig) -> None:
    """Print notes on a config's data and what it is known to take; ConfigError if it cannot be
    trained here."""
    notes, takes = launch_notes.check(config)
    for text in notes:
        note(text)
    if takes:
        err.print(takes, highlight=False)


def check_data(config: RunConfig) -> None:
    """Print notes on a config and its data; ConfigError if it cannot be trained here."""
    seen = checks.check(config)

    for text in launch_notes.notes(config, seen):
        note(text)


def without_duplicates(configs: Mapping[Path, RunConfig]) -> dict[Path, RunConfig]:
    """The configs that no earlier one makes superfluous by taking the same steps."""
    files = list(configs)
    duplicates = packing.duplicates(list(configs.values()))
    for place, first in duplicates.items():
        note(f"{files[place]} takes the same steps as {files[first]} and is left out")
    return {f: configs[f] for place, f in enumerate(files) if place not in duplicates}


def print_plan(
    files: Sequence[Path], configs: Sequence[RunConfig], *, once: bool, as_json: bool
) -> None:
    """Print which runs are best trained in one process, from measurements of one and of a few."""
    for config in configs:
        check_data(config)
    with err.status("three steps of one run and of a few"):
        plan = packing.plan(configs, once=once)
    launcher.fill_slots()
    if as_json:
        return print_json(asdict(plan) | {"seconds": plan.seconds, "launched": []})
    rows = [
        (
            f"{len(pack.members):,}",
            f"{pack.size:,}",
            pack.engine,
            duration(pack.seconds),
            f"{pack.peak_gib:.1f} of {pack.room_gib:.1f}",
            pack.why,
        )
        for pack in plan.packs
    ]
    print_table(["runs", "at once", "engine", "at most", "GiB", "why"], rows)
    for pack in plan.packs:
        if {packing_of(configs[i], len(pack.members)) for i in pack.members} != {
            (pack.engine, pack.size)
        }:
            names = " ".join(str(files[i]) for i in pack.members)
            sets = f"--set engine={pack.engine} --set pack_size={pack.size}"
            out.print(f"spelltune launch {names} {sets}", highlight=False)
    for place, first in plan.duplicates.items():
        text = f"{files[place]} takes the same steps as {files[first]}"
        out.print(text + (" and is left out" if once else "; --once trains one of them"))


def packing_of(config: RunConfig, runs: int) -> tuple[str, int]:
    """Engine, and adapters at once, if so many runs like this one are launched as they are."""
    return config.engine, min(config.pack_size, runs) if config.engine == "packed" else 1


def finish(run_id: str, *, wait: bool, as_json: bool) -> None:
    """Print a run that was just queued, after its end with `wait`."""
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


def finish_all(
    files: Sequence[Path],
    ids: Mapping[Path, str],
    refused: Mapping[Path, str],
    *,
    wait: bool,
    as_json: bool,
) -> None:
    """Print the runs of several files, after their end with `wait`, and the refused files."""
    if wait:
        for run_id in ids.values():
            follow(run_id)
    rows = {file: find_run(run_id) for file, run_id in ids.items()}
    if as_json:
        with store.reading() as session:
            print_json([
                store.show(session, rows[file]) if file in rows
                else {"config": str(file), "status": Status.FAILED, "reason": refused[file]}
                for file in files if file in rows or file in refused
            ])  # fmt: skip
    else:
        for run in rows.values():
            out.print(f"{run.status} {run.id}", highlight=False)
    if refused or wait and any(run.status != Status.COMPLETED for run in rows.values()):
        raise typer.Exit(DID_NOT_COMPLETE)


def follow(run_id: str) -> None:
    """Show a run's progress on standard error until it ends; Ctrl-C leaves it running."""
    columns = (
        TextColumn("{task.fields[status]:9}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}", markup=False),
    )

    def read(session: store.Session) -> tuple[Run, dict[str, float | None], bool]:
        run = store.find(session, run_id)
        latest = store.latest_metrics(session, [run_id])[run_id]
        return run, latest, attempts.is_over(session, run)

    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=1, status="QUEUED", values="")
        reconciled_at = time.monotonic()
        try:
            while True:
                # Where no supervisor and no panel lives, nobody else would end or start a run.
                if time.monotonic() - reconciled_at >= TIMEOUTS.reconcile:
                    reconciler.try_to_reconcile()
                    reconciled_at = time.monotonic()
                run, latest, over = store.read_with_retry(read, seconds=TIMEOUTS.write)
                values = [
                    f"{name} {value:.3f}"
                    for name in ("train/loss", "val/exact_match")
                    if (value := latest.get(name)) is not None
                ]
                progress.update(
                    task,
                    total=run.max_steps,
                    completed=run.step or 0,
                    status=run.status,
                    values="  ".join([*values, run.phase or ""]),
                )
                if over:
                    return
                time.sleep(0.5)
        except KeyboardInterrupt:
            err.print(
                f"{run_id} goes on in the background; `spelltune stop {run_id}` ends it",
                highlight=False,
            )


def resume(
    run: RunArgument,
    step: Annotated[
        int | None, typer.Option("--from", help="Step of the checkpoint; by default the newest.")
    ] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Resume a stopped, interrupted or failed run from its newest verified checkpoint."""
    row = find_run(run)
    step = attempts.resume(row, step=step)
    err.print(f"{row.id} resumes from step {step:,}", highlight=False)
    finish(row.id, wait=wait, as_json=as_json)


def fork(
    run: RunArgument,
    step: Annotated[
        int | None, typer.Option("--from", help="Step of the checkpoint; by default the newest.")
    ] = None,
    changes: Set = [],
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Start a new run from a checkpoint of another run, with changed settings."""
    row = find_run(run)
    values = stored_config(row.config).model_dump() | {"name": attempts.fork_name(row)}
    config = with_overrides(values, overrides(changes))
    check_data(config)
    finish(attempts.fork(row, config, step=step), wait=wait, as_json=as_json)
