"""`spelltune sweep`: plan, launch, follow and control sweeps."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from src import store
from src.cli.options import AsJson, Format, Output, Set, overrides
from src.cli.output import err, note, out, print_json, write_export
from src.format import number, setting_value
from src.runs import cost, reconciler

app = typer.Typer(
    no_args_is_help=True, help="Search settings: plan, launch, follow and control sweeps."
)

SweepFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A sweep file, such as those in configs/sweeps.")
]
SweepArgument = Annotated[
    str, typer.Argument(metavar="ID", help="A sweep's id, or its name for the newest one.")
]
Budget = Annotated[
    str | None, typer.Option(help="`200 trials` or `45m`, instead of the file's budget.")
]


@app.command()
def plan(
    file: SweepFile,
    budget: Budget = None,
    changes: Set = [],
    measure: Annotated[
        bool,
        typer.Option("--measure", help="First measure memory and time with real training steps."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a sweep would take: trials, duplicates, processes, time."""
    from src.sweeps import control, estimate

    asked: dict[str, Any] = {"budget": budget, "overrides": overrides(changes)}
    _, config, planned = control.prepare(file, **asked)
    if measure:
        estimate.measure_missing(config)
        _, _, planned = control.prepare(file, **asked)
    if as_json:
        return print_json(asdict(planned))
    for line in planned.lines():
        out.print(line, highlight=False)
    if planned.seconds is None and not measure:
        note("--measure measures time and memory")


@app.command()
def launch(
    file: SweepFile,
    budget: Budget = None,
    executor: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="Train here or on a Ray cluster, instead of the file's executor."),
    ] = None,
    changes: Set = [],
    as_json: AsJson = False,
) -> None:
    """Start a sweep, and show what it will take.

    It goes on when this command or the panel ends.
    """
    from src.sweeps import control
    from src.sweeps.estimate import SweepEstimate

    def tell_plan(planned: SweepEstimate) -> None:
        for line in planned.lines():
            err.print(line, highlight=False)

    sweep_id = control.launch(
        file,
        budget=budget,
        executor=executor,
        overrides=overrides(changes),
        tell_plan=tell_plan,
        tell=note,
    )
    if as_json:
        from src.sweeps import results  # takes pandas, for which no launch need wait

        return print_json(results.read_document(sweep_id))
    out.print(sweep_id, highlight=False)
    err.print(f"follow it with `spelltune sweep show {sweep_id}` or in the panel", highlight=False)


@app.command("list")
def list_sweeps(as_json: AsJson = False) -> None:
    """List all sweeps, newest first."""
    reconciler.reconcile()
    with store.reading() as session:
        rows = store.list_sweeps(session)
    if as_json:
        return print_json([row.document() for row in rows])
    for row in rows:
        out.print(f"{row.told_status:9} {row.id}", highlight=False)


@app.command()
def show(sweep_id: SweepArgument, as_json: AsJson = False) -> None:
    """Show a sweep: outcomes of its trials, the best settings, and how certain they are."""
    from src.sweeps import results

    reconciler.reconcile()
    with store.reading() as session:
        row = store.find_sweep(session, sweep_id)
        found = results.document(session, results.read(session, row))
    if as_json:
        return print_json(found)
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in found["counts"].items())
    out.print(f"{row.id}  {row.told_status}  {row.reason or ''}".rstrip())
    if row.failed_at is not None:
        out.print(f"resume it with `spelltune sweep resume {row.id}` once that is mended")
    out.print(counts or "no trials yet", highlight=False)
    if best := found["best"]:
        values = ", ".join(f"{n} {setting_value(v)}" for n, v in best["settings"].items())
        of = f" ({best['seeds']} of {best['of_seeds']} seeds)" if best["of_seeds"] > 1 else ""
        out.print(
            f"best: trial {best['trial']}, {found['metric']} {number(best['score'])}{of}: "
            + values,
            highlight=False,
        )
    if used := cost.taken(found["machine_seconds"], found["energy_wh"]):
        out.print(", ".join(f"{name} {text}" for name, text in used), highlight=False)
    for verdict in found["verdicts"]:
        out.print(f"{verdict['claim']}; {found['judged']}".rstrip("; "), highlight=False)
    for trial in found["trials"]:
        if trial["became"] == "failed":
            out.print(f"trial {trial['trial']}: {trial['reason']}", highlight=False)
    for text in (found["note"], *found["notes"]):
        if text:
            note(text)


@app.command()
def pause(sweep_id: SweepArgument, as_json: AsJson = False) -> None:
    """Start no further trials; those that are training go on."""
    from src.sweeps import control

    change(control.pause, sweep_id, as_json=as_json)


@app.command()
def resume(sweep_id: SweepArgument, as_json: AsJson = False) -> None:
    """Resume a paused sweep, or one whose driver failed."""
    from src.sweeps import control

    change(control.resume, sweep_id, as_json=as_json)


@app.command()
def cancel(sweep_id: SweepArgument, as_json: AsJson = False) -> None:
    """End a sweep: cancel its queued trials, and stop those that are training."""
    from src.sweeps import control

    change(control.cancel, sweep_id, as_json=as_json)


@app.command()
def add(
    sweep_id: SweepArgument,
    more: Annotated[str, typer.Argument(metavar="BUDGET", help="`20 trials` or `30m`.")],
    as_json: AsJson = False,
) -> None:
    """Add to a sweep's budget; a completed sweep goes on."""
    from src.sweeps import control

    change(control.add, sweep_id, more, as_json=as_json)


def change(action: Callable[..., object], sweep_id: str, *arguments: str, as_json: bool) -> None:
    """Apply an action to a sweep, and print its new status."""
    with store.reading() as session:
        full_id = store.find_sweep(session, sweep_id).id
    action(full_id, *arguments)
    with store.reading() as session:
        row = store.find_sweep(session, full_id)
    if as_json:
        return print_json(row.document())
    out.print(f"{row.told_status} {row.id}", highlight=False)


@app.command()
def export(
    sweep_id: SweepArgument,
    format: Format = "csv",
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Write a table of a sweep's trials: settings, score, time, outcome."""
    from src.analysis import exports
    from src.sweeps import ranking, results

    with store.reading() as session:
        found = results.read(session, store.find_sweep(session, sweep_id))
    trials = ranking.shown(found.trials, found.sweep)
    chosen = "json" if as_json else format
    content = exports.FORMATS[chosen][2](trials)
    write_export(content, chosen, output, f"{len(trials):,} trials")
