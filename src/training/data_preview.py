"""A preview of a run's data: counts, and how the tokenizer cuts the rows

The panel imports this module, so nothing here imports torch or transformers.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from src.models.prompt_format import PromptFormat
from src.tasks.built_in.correct import asks_right_word
from src.text import composed
from src.training.data_files import SPLITS
from src.training.data_loaders import COLUMNS, Splits

if TYPE_CHECKING:
    from src.training.suites import Suite

LOST_SHOWN = 3  # answers that the tokenizer does not give back
KINDS: dict[bool | None, str] = {
    False: "misspelled",
    True: "already right",
}  # of rows of the task `correct`


def preview(
    splits: Splits, *, tokenizer: Path, form: PromptFormat, max_length: int, rows: int = 5
) -> dict[str, Any]:
    """A preview of the data for the user before launch.

    rows, rows_by_task of a mixture, multi_token_words, corrections (training rows of each of KINDS,
    and the share of right words that was asked for), leaks, duplicates and labels; tokens (min,
    median, max of prompt, answer and end); too_long: rows beyond `max_length`; not_composed:
    answers in another Unicode form than that of comparisons; lost: answers that the tokenizer does
    not give back; examples: {question, answer, kind, pieces} of training rows, of each of KINDS by
    turns; pieces is how the tokenizer cuts prompt and answer, the leading space of a piece shown as
    it is.
    """
    from tokenizers import Tokenizer

    cutter = Tokenizer.from_file(str(tokenizer))
    counts, lost = _cut_rows(cutter, splits, form)
    pairs = [(str(q), str(a)) for q, a in splits.train[list(COLUMNS)].to_numpy()]
    kinds = [asks_right_word(*pair) for pair in pairs]
    return {
        "rows": splits.rows,
        "rows_by_task": splits.rows_by_task,
        "multi_token_words": splits.multi_token_words,
        "corrections": _corrections(kinds, splits.right_words),
        "leaks": splits.leaks,
        "duplicates": splits.duplicates,
        "cut_by": splits.cut_by,
        "labels": splits.distinct_answers if splits.labels else 0,
        "unseen_labels": splits.unseen_labels,
        "not_composed": sum(composed(a) != a for split in SPLITS for a in splits[split]["answer"]),
        "lost": {"count": len(lost), "examples": lost[:LOST_SHOWN]},
        "tokens": {
            "min": int(counts.min()),
            "median": float(counts.median()),
            "max": int(counts.max()),
        },
        "max_length": max_length,
        "too_long": int((counts > max_length).sum()),
        "examples": [
            {
                "question": question,
                "answer": answer,
                "kind": kind,
                "pieces": _pieces(cutter, form, question, answer),
            }
            for question, answer, kind in _examples(pairs, kinds, rows)
        ],
    }


def _cut_rows(
    cutter: Any, splits: Splits, form: PromptFormat
) -> tuple[pd.Series, list[dict[str, str]]]:
    """The tokens of each row, and the answers that the tokenizer does not give back."""
    lengths: list[int] = []
    lost: list[dict[str, str]] = []
    for split in SPLITS:
        frame = splits[split]
        prompts = [form.prompt(question) for question in frame["question"]]
        answers = [form.before_answer + answer for answer in frame["answer"]]
        # As in training: what a tokenizer puts before a text stands before the prompt alone.
        cut = cutter.encode_batch(answers, add_special_tokens=False)
        asked = cutter.encode_batch(prompts, add_special_tokens=not form.is_chat)
        lengths += [len(p.ids) + len(a.ids) + 1 for p, a in zip(asked, cut, strict=True)]
        returned = cutter.decode_batch([answer.ids for answer in cut])
        for answer, text in zip(frame["answer"], returned, strict=True):
            if composed(text).strip() != composed(answer):
                lost.append({"answer": answer, "returned": composed(text).strip()})
    return pd.Series(lengths), lost


def suite_preview(
    suites: "Sequence[Suite]", *, tokenizer: Path, form: PromptFormat, max_length: int
) -> dict[str, dict[str, int]]:
    """{suite: rows, left_out (rows whose words stand in the training rows), tokens of the longest
    row, too_long (rows beyond `max_length`)}."""
    from tokenizers import Tokenizer

    cutter = Tokenizer.from_file(str(tokenizer))
    told = {}
    for suite in suites:
        own = suite.form(form)
        prompts = [own.prompt(question) for question in suite.frame["question"]]
        answers = [own.before_answer + answer for answer in suite.frame["answer"]]
        cut = cutter.encode_batch(answers, add_special_tokens=False)
        asked = cutter.encode_batch(prompts, add_special_tokens=not own.is_chat)
        lengths = [len(p.ids) + len(a.ids) + 1 for p, a in zip(asked, cut, strict=True)]
        told[suite.name] = {
            "rows": len(lengths),
            "left_out": suite.seen,
            "tokens": max(lengths),
            "too_long": sum(length > max_length for length in lengths),
        }
    return told


def _corrections(kinds: Sequence[bool | None], asked: float | None) -> dict[str, Any]:
    """Training rows of each of KINDS, and the share of right ones that was asked for; empty where
    no row is a correction."""
    counts = {name: kinds.count(kind) for kind, name in KINDS.items()}
    return counts | {"asked": asked} if any(counts.values()) else {}


def _examples(
    pairs: Sequence[tuple[str, str]], kinds: Sequence[bool | None], count: int
) -> list[tuple[str, str, str | None]]:
    """(question, answer, kind) of so many rows: the first of each kind, then the second, ..."""
    seen: Counter[bool | None] = Counter()
    turns: list[tuple[int, int, bool | None]] = []
    for place, kind in enumerate(kinds):
        turns.append((seen[kind], place, kind))
        seen[kind] += 1
    first = sorted(turns, key=lambda turn: turn[:2])[:count]
    return [(*pairs[place], KINDS.get(kind)) for _, place, kind in first]


def _pieces(cutter: Any, form: PromptFormat, question: str, answer: str) -> list[str]:
    """A row in the pieces that the tokenizer cuts it into; joined they are its text. In a chat the
    token that ends the answer is one of them.

    A letter that takes several tokens stands in one piece.
    """
    text = form.prompt(question) + form.before_answer + answer + (form.end or "")
    return pieces_of(cutter, text, form)


def pieces_of(cutter: Any, text: str, form: PromptFormat) -> list[str]:
    """The pieces that the tokenizer cuts a text of a format into; joined they are the text."""
    pieces, done = [], 0
    for _, end in cutter.encode(text, add_special_tokens=not form.is_chat).offsets:
        if end > done:
            pieces.append(text[done:end])
            done = end
    if done < len(text):  # what the tokenizer drops at the end
        pieces.append(text[done:])
    return pieces
