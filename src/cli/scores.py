"""Scores of an adapter or a base model on a file of questions or on a suite."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from src.cli.options import AsJson, OptionalCheckpoint
from src.cli.output import err, note, out, print_json, print_table
from src.cli.results import print_words
from src.format import counted, number, percent
from src.runs import reconciler

if TYPE_CHECKING:
    from src.analysis.evaluating import Evaluated


Data = Annotated[Path | None, typer.Option(help="A file with the columns question and answer.")]
SuiteName = Annotated[
    str | None, typer.Option(metavar="NAME", help="A suite instead (see `spelltune suite list`).")
]
Base = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Score this base model, without an adapter.")
]
Baseline = Annotated[
    bool, typer.Option(help="Ask the adapter's base model too, which takes as long again.")
]
Examples = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="K",
        help="Ask the base model also with K answered questions in its prompt (few-shot).",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="Sample the answers at this temperature, such as 0.7; 0, the default, is greedy.",
        show_default=False,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Sample from the most likely tokens that together have this probability.",
    ),
]
TopK = Annotated[
    int | None, typer.Option(metavar="K", help="Sample from so many of the most likely tokens.")
]
NumSamples = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Sample so many answers to each question; scores are means over them."
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed that draws the K examples and samples the answers.")
]
Seen = Annotated[
    bool,
    typer.Option("--seen", help="Ask also rows of a suite whose words the run was trained on."),
]


def evaluate(
    checkpoint: OptionalCheckpoint = None,
    *,
    data: Data = None,
    suite: SuiteName = None,
    base: Base = None,
    baseline: Baseline = True,
    examples: Examples = 0,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    num_samples: NumSamples = None,
    seed: Seed = 0,
    seen: Seen = False,
    as_json: AsJson = False,
) -> None:
    """Score an adapter or a base model on a file of questions and answers, or on a suite.

    Rows of a file whose answers the run was trained on are counted and scored apart; those of a
    suite are left out. Beside the adapter stand its base model, with --examples also after K
    answered questions, and, on corrections, the dictionary word with the fewest edits.

    Answers are greedy, as in training. With --temperature, --top-p, --top-k or --num-samples they
    are sampled, at a temperature of 1 unless another one is given.
    """
    from src.analysis import evaluating

    order = evaluating.Order(
        run=checkpoint,
        base=base,
        data=str(data) if data else None,
        suite=suite,
        baseline=baseline,
        examples=examples,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        num_samples=num_samples,
        seed=seed,
        seen=seen,
    )
    order.check()
    if checkpoint:
        reconciler.reconcile()
    with err.status("loading the model") as status:
        found = evaluating.evaluate(order, lambda done: status.update(f"{done:,} words scored"))
    if as_json:
        return print_json(found.document())
    print_evaluation(found)
    return None


def print_evaluation(found: "Evaluated") -> None:
    """Print the metrics and predictions of an evaluation."""
    from src.training.suite_scores import BITS

    out.print(f"decoding: {found.decoding}", highlight=False)
    for name, value in found.values.items():
        out.print(f"{name} {number(value)}", highlight=False)
    print_words(found.wrong)
    told = ", ".join(f"{count:,} {kind}" for kind, count in found.kinds.items())
    answers = f"{len(found.wrong):,} of {len(found.answers):,}"
    out.print(f"{answers} wrong{': ' if told else ''}{told}")
    if BITS not in found.values:
        print_scores(found.scores)
    if left_out := found.about["left_out"]:
        note(f"left out: {counted(left_out, 'row')} whose words the run was trained on (--seen)")
    if found.note:
        note(found.note)


def print_scores(scores: dict[str, dict[str, Any]]) -> None:
    """Print the shares of right answers of `evaluation.scores`, with their 95% intervals."""
    names = {"all": "all rows", "seen": "answers seen in training", "unseen": "other answers"}
    who = {
        "model": "model",
        "base": "base model",
        "few_shot": "base model after examples",
        "dictionary": "dictionary word",
        "constant": "always the most frequent answer",
    }
    rows = [
        (
            who[name],
            names[group],
            f"{share['rows']:,}",
            percent(share["exact_match"] if share["rows"] else None),
            f"{share['ci_low']:.1%} to {share['ci_high']:.1%}" if share["rows"] else "",
        )
        for name, of in scores.items()
        for group, share in of.items()
    ]
    print_table(["by", "of", "rows", "right", "95% interval"], rows)
