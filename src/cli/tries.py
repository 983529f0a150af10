"""Words and prompts that are tried on adapters, beside their base model."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.status import Status

from src.cli.options import AsJson, CheckpointArgument
from src.cli.output import err, out, print_json, print_table
from src.format import chance, counted, cut
from src.runs import answering, reconciler

if TYPE_CHECKING:
    from src.training.questions import Answer, Speller

MAX_SHOWN = 60  # letters of a cell

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[WORD]...",
        help="Words, or prompts in quotes; without any, the lines of standard input.",
    ),
]
Beside = Annotated[
    list[str] | None,
    typer.Option(
        "--vs", metavar="RUN[@STEP]", help="Another adapter to ask beside; may be repeated."
    ),
]
Baseline = Annotated[bool, typer.Option(help="Ask the base model too.")]
Add = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Add what an adapter got wrong to this JSONL file, for `spelltune evaluate --data` "
        "and data.path.",
    ),
]


def try_(
    run: CheckpointArgument,
    words: Words = None,
    *,
    vs: Beside = None,
    baseline: Baseline = True,
    add: Add = None,
    as_json: AsJson = False,
) -> None:
    """Ask adapters words or prompts, beside their base model, and show what they answer.

    A word is asked as the run's task asks it and judged by the task's checker. A text with spaces
    is a prompt as it stands; a right answer may follow it after a tab. Each answer comes with its
    probability, and that of the three likeliest ones.
    """
    from src.training import questions

    if not words and sys.stdin.isatty():
        raise typer.BadParameter("name a word to try, or pipe a list: spelltune try RUN < FILE")
    texts = questions.texts_of(words or sys.stdin)
    reconciler.reconcile()
    spellers = questions.with_bases(answering.spellers_of([run, *(vs or ())]), baseline=baseline)
    rows = answered(spellers, texts)
    added = None
    if add is not None:
        added = questions.keep_questions(add, questions.missed(rows, spellers))
        err.print(f"{add} has {counted(added, 'new question')}", highlight=False)
    if as_json:
        return print_json(answering.document(spellers, rows, added))
    print_answers(rows)
    return None


def answered(spellers: "Sequence[Speller]", texts: Sequence[str]) -> "list[Sequence[Answer]]":
    """For each text the answers of all spellers, with their progress on the terminal."""
    with err.status("loading the model") as status:
        from src.training.answers import Spellers

        loaded = Spellers()
        columns = [
            loaded.ask(speller, texts, progress=partial(_tell, status, speller.name))
            for speller in spellers
        ]
    return list(zip(*columns, strict=True))


def _tell(status: Status, by: str, done: int) -> None:
    status.update(f"{by}: {done:,} answered")


def print_answers(rows: "Sequence[Sequence[Answer]]") -> None:
    """Print all answers as a table, and below it the other likely answers and the tokens of a
    single text."""
    heads = ["text", "by", "answer", "right", "probability", "seconds"]
    print_table(heads, [_cells(answer) for row in rows for answer in row])
    for answer in rows[0] if len(rows) == 1 else ():
        others = [one for one in answer.likeliest if one.answer != answer.predicted]
        told = ", ".join(f"{_short(one.answer)} ({chance(one.probability)})" for one in others)
        pieces = "|".join((*answer.prompt_tokens, *answer.answer_tokens)).replace("\n", "⏎")
        out.print(f"{answer.by}: next likeliest {told or 'is none'}", highlight=False)
        out.print(f"{answer.by}: its tokens {pieces}", highlight=False)
    for answers in zip(*rows, strict=True):
        judged = [one.correct for one in answers if one.correct is not None]
        if judged:
            text = f"{answers[0].by}: {sum(judged):,} of {len(judged):,} right"
            out.print(text, highlight=False)


def _cells(answer: "Answer") -> list[str]:
    known = {True: "yes", False: f"no: {answer.expected}", None: ""}
    return [
        _short(answer.text),
        answer.by,
        _short(answer.predicted),
        known[answer.correct],
        chance(answer.probability),
        f"{answer.seconds:.2f}",
    ]


def _short(text: str) -> str:
    return cut(text, MAX_SHOWN) or "(nothing)"
