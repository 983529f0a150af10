"""Results of runs: verdicts, misspellings and predictions."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from src import store
from src.cli.options import AsJson, CheckpointArgument, Format, Output, split_of
from src.cli.output import err, note, out, print_json, print_table, write_export
from src.runs import reconciler

if TYPE_CHECKING:
    import pandas as pd


def compare(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Two or more runs.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="ID", help="All runs of this sweep: its id, or name for the newest."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: which adapters spell better, which configs, and how certain that is.

    Of runs that are scored on suites also what rose and fell there, from the base model to each
    config and between configs.
    """
    from src.analysis import comparison, suite_comparison

    reconciler.reconcile()
    with store.reading() as session:
        chosen = {row.id: row for row in (store.find(session, name) for name in runs or ())}
        if sweep is not None:
            trials = store.runs_of_sweep(session, store.find_sweep(session, sweep).id)
            # Trials are listed without what they used.
            full = store.runs_of(session, [row.id for row in trials])
            chosen |= {row.id: row for row in full}
        if len(chosen) < 2:
            raise store.UnknownRun("compare needs two or more different runs")
        compared = comparison.compare(session, list(chosen.values()))
        on_suites = suite_comparison.compare(session, compared.groups)
    if as_json:
        return print_json(comparison.document(compared) | suite_comparison.document(on_suites))
    for verdicts in (compared.configs, compared.adapters):
        apart = Counter(verdict.claim for verdict in verdicts if not verdict.is_compared)
        for verdict in verdicts:
            if apart[verdict.claim] <= 1:
                out.print(verdict.sentence, highlight=False)
        for claim, pairs in apart.items():
            if pairs > 1:  # in a sweep there may be a thousand of them
                out.print(f"{pairs:,} pairs of {verdicts[0].about} are {claim}", highlight=False)
    if compared.summary:
        out.print(compared.summary, highlight=False)
    for suite in (*on_suites.base, *on_suites.configs):
        out.print(suite.claim, highlight=False)
    for sentence in on_suites.study:
        out.print(sentence, highlight=False)
    for text in compared.notes:
        note(text)


def errors(
    run: CheckpointArgument,
    vs: Annotated[
        str | None, typer.Option(metavar="RUN[@STEP]", help="Another adapter to compare with.")
    ] = None,
    all_words: Annotated[bool, typer.Option("--all", help="List the correct words too.")] = False,
    split: Annotated[
        str,
        typer.Option(
            metavar="SPLIT",
            help="The split whose predictions are read: validation, test or suite/NAME.",
        ),
    ] = "validation",
    as_json: AsJson = False,
) -> None:
    """List the words that an adapter misspells, and how.

    With --vs: the words that the other adapter fixed, broke, or still has wrong.
    """
    from src.analysis import misspellings

    name = split_of(split)
    with store.reading() as session:
        row, evaluation, _ = store.scored(session, run, split=name)
        other = store.scored(session, vs, split=name)[:2] if vs else None
    frame = misspellings.read(evaluation.path)
    if other:
        names = [f"{r.id}@{e.step}" for r, e in ((row, evaluation), other)]
        return print_changes(frame, misspellings.read(other[1].path), names, name, as_json=as_json)
    listed = frame if all_words else frame[~frame["correct"]]
    if as_json:
        return print_json(records(listed))
    print_words(listed)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in misspellings.counts(frame).items())
    wrong = evaluation.rows - evaluation.correct
    out.print(f"{wrong:,} of {evaluation.rows:,} wrong at step {evaluation.step:,}: {kinds}")


def print_changes(
    before: "pd.DataFrame",
    after: "pd.DataFrame",
    names: list[str],
    split: str,
    *,
    as_json: bool,
) -> None:
    """Print the words that `names[1]` fixed, broke or still has wrong, against `names[0]`."""
    from src.analysis import paired

    both = paired.pair_answers(before, after)
    if both.empty:
        raise store.UnknownRun(
            f"{names[0]} and {names[1]} have no {split} question in common, so nothing can be "
            "called fixed or broken; name two that were scored on the same data"
        )
    if left_out := paired.unpaired(len(before), len(after), both):
        err.print(f"{left_out:,} {split} questions that only one of them was asked are left out")
    sums = paired.balance(both)
    groups = {
        "fixed": both[both["outcome"] == "fixed"],
        "broken": both[both["outcome"] == "broken"],
        "still_wrong": both[both["outcome"].isin(["same mistake", "another mistake"])],
    }
    if as_json:
        about = {"a": names[0], "b": names[1], "split": split, "counts": sums}
        return print_json(about | {group: records(words) for group, words in groups.items()})
    rows = [
        (group.replace("_", " "), *map(str, cells))
        for group, words in groups.items()
        for cells in words[["question", "expected", "predicted_a", "predicted_b"]].to_numpy()
    ]
    print_table(["", "question", "expected", *names], rows)
    out.print(
        f"{sums['fixed']:,} fixed, {sums['broken']:,} broken, {sums['still_wrong']:,} still wrong "
        f"({sums['same_mistake']:,} with the same answer) of {sums['questions']:,} questions: "
        f"{sums['difference'] * 100:+.1f} points "
        f"(95% CI {sums['ci_low'] * 100:+.1f} to {sums['ci_high'] * 100:+.1f})",
        highlight=False,
    )
    return None


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a frame as JSON values, nan as null."""
    from src.analysis import exports

    return cast("list[dict[str, Any]]", json.loads(exports.to_json(frame)))


def print_words(frame: "pd.DataFrame") -> None:
    columns = ["question", "expected", "predicted", "edit_distance", "kind"]
    rows = [[str(cell) for cell in row] for row in frame[columns].to_numpy()]
    print_table(["question", "expected", "predicted", "edits", "kind"], rows)


def export(
    runs: Annotated[list[str], typer.Argument(metavar="RUN[@STEP]", help="Runs or checkpoints.")],
    format: Format = "csv",
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Only this split (validation, test or suite/NAME); by default, all that were "
            "scored.",
        ),
    ] = None,
    output: Output = None,
) -> None:
    """Write all predictions of runs, with their kinds of error, as one table."""
    from src.analysis import exports

    evaluations = []
    with store.reading() as session:
        for name in runs:
            run, step = store.find_checkpoint(session, name)
            scored = store.list_evaluations(session, run.id)
            splits = sorted({e.split for e in scored if step in (None, e.step)}, reverse=True)
            if split or not splits:
                splits = [split_of(split or "validation")]
            evaluations += [store.scored(session, name, split=one)[1] for one in splits]
    content = exports.FORMATS[format][2](exports.predictions(evaluations))
    write_export(content, format, output, f"{sum(e.rows for e in evaluations):,} predictions")
