"""Results of runs: verdicts, misspellings and predictions."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from src import store
from src.cli.options import AsJson, CheckpointArgument, Format, Output
from src.cli.output import err, note, out, print_json, print_table, write_export
from src.format import percent, points
from src.runs import reconciler

if TYPE_CHECKING:
    import pandas as pd

    from src.analysis.error_lists import Changed


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
    from src.analysis import guessing
    from src.analysis.compared import compare_named

    reconciler.reconcile()
    found = compare_named(runs or (), sweep)
    if as_json:
        return print_json(found.document())
    compared, on_suites = found.runs, found.suites
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
    for name, score in compared.scores.items():
        if told := guessing.sentence(score["constant"]):
            out.print(f"{name}: {percent(score['exact_match'])}; {told}", highlight=False)
    for suite in (*on_suites.base, *on_suites.configs):
        told = guessing.sentence(suite.constant)
        out.print("; ".join(filter(None, (suite.claim, told))), highlight=False)
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
    from src.analysis import error_lists

    if vs:
        changes = error_lists.changed(run, vs, split)
        if changes.left_out:
            told = f"{changes.left_out:,} {split} questions"
            err.print(f"{told} that only one of them was asked are left out")
        return print_json(changes.document()) if as_json else print_changes(changes)
    found = error_lists.misspelled(run, split, all_words=all_words)
    if as_json:
        return print_json(found.document())
    print_words(found.listed)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.kinds.items())
    scored = found.evaluation
    wrong = scored.rows - scored.correct
    out.print(f"{wrong:,} of {scored.rows:,} wrong at step {scored.step:,}: {kinds}")
    return None


def print_changes(changed: "Changed") -> None:
    """Print the words that an adapter fixed, broke or still has wrong, against another one."""
    rows = [
        (group.replace("_", " "), *map(str, cells))
        for group, words in changed.groups.items()
        for cells in words[["question", "expected", "predicted_a", "predicted_b"]].to_numpy()
    ]
    print_table(["", "question", "expected", changed.before, changed.after], rows)
    sums = changed.counts
    out.print(
        f"{sums['fixed']:,} fixed, {sums['broken']:,} broken, {sums['still_wrong']:,} still wrong "
        f"({sums['same_mistake']:,} with the same answer) of {sums['questions']:,} questions: "
        f"{points(sums['difference'], plus=True)} points (95% CI "
        f"{points(sums['ci_low'], plus=True)} to {points(sums['ci_high'], plus=True)})",
        highlight=False,
    )


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
    from src.analysis.error_lists import split_of

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
