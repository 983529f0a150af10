"""The questions and answers of a run: built-in tasks, own files, data sets of the hub.

The panel imports this module, so nothing here imports torch or transformers.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from src import tasks
from src.config import RunConfig
from src.errors import did_you_mean
from src.models.base_files import TOKENIZER, BaseModelError
from src.tasks.words import split_of, target_words, text_hash
from src.text import caseless, composed
from src.training.data_files import SPLITS, DataError, read_path
from src.training.data_hub import read_hub
from src.training.labels import are_labels
from src.training.packed.eligibility import files_of
from src.training.token_words import words_of_several_tokens

COLUMNS = ("question", "answer")


@dataclass(frozen=True)
class Splits:
    """Frames with the columns question, answer and word (what is to be in one split alone: the
    answer or, of labels, the question); where built-in tasks ask any rows also task, which is None
    for others."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    duplicates: int = 0  # rows that were dropped because they repeat within a split
    cut_by: Literal["answer", "question"] | None = None  # None where the data came in splits
    labels: bool = False  # see `are_labels`
    words: frozenset[str] | None = None  # which alone a built-in task may ask; None for all
    right_words: float | None = None  # asked for of the task `correct`; None for other data

    def __getitem__(self, split: str) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self, split)
        return frame

    @property
    def rows(self) -> dict[str, int]:
        return {split: len(self[split]) for split in SPLITS}

    @property
    def rows_by_task(self) -> dict[str, dict[str, int]]:
        """{task: {split: rows}} of a mixture of built-in tasks; empty for other data."""
        if "task" not in self.train:
            return {}
        counts = {split: self[split]["task"].value_counts() for split in SPLITS}
        tasks = [str(task) for task in counts["train"].index]
        if len(tasks) < 2:
            return {}
        return {task: {s: int(counts[s].get(task, 0)) for s in SPLITS} for task in tasks}

    @property
    def multi_token_words(self) -> dict[str, Any]:
        """Where built-in tasks ask only some words: words (different ones in each split), left_out
        (words of the built-in tasks that are not asked). Else empty."""
        if self.words is None:
            return {}
        return {
            "words": {split: self[split]["word"].nunique() for split in SPLITS},
            "left_out": len(set(target_words()) - self.words),
        }

    @property
    def leaks(self) -> dict[str, int]:
        """{"train/validation": number of words in both}, for every pair that shares a word."""
        words = {split: set(self[split]["word"].map(caseless)) for split in SPLITS}
        pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
        shared = {f"{a}/{b}": len(words[a] & words[b]) for a, b in pairs}
        return {pair: count for pair, count in shared.items() if count}

    @property
    def unseen_labels(self) -> dict[str, int]:
        """{split: rows with a label that training does not have}, for the splits with any."""
        if not self.labels:
            return {}
        known = set(self.train["answer"].map(caseless))
        counts = {
            split: int((~self[split]["answer"].map(caseless).isin(known)).sum())
            for split in ("validation", "test")
        }
        return {split: count for split, count in counts.items() if count}

    @property
    def distinct_answers(self) -> int:
        return len({caseless(answer) for split in SPLITS for answer in self[split]["answer"]})

    @cached_property
    def tasks(self) -> tuple[str | None, ...]:
        """The task of each row, in the order of `fingerprint`; empty where there is none."""
        if "task" not in self.train:
            return ()
        return tuple(task for split in SPLITS for task in self[split]["task"])

    @cached_property  # every trial of a pack asks for it
    def fingerprint(self) -> str:
        """sha256 of all questions and answers in their order."""
        digest = hashlib.sha256()
        for split in SPLITS:
            digest.update(json.dumps(self[split][list(COLUMNS)].values.tolist()).encode())
        return digest.hexdigest()


def load_splits(
    *,
    task: str,
    mix: tuple[tuple[str, float], ...] | None = None,
    path: str | None = None,
    hub_id: str | None = None,
    revision: str | None = None,
    right_words: float = 0,
    length_spread: float = 0,
    score_right_words: bool = False,
    separator: tasks.Separator = "space",
    phrasings: int = 1,
    held_out_phrasings: bool = False,
    multi_token_words: bool = False,
    tokenizer: Path | None = None,
) -> Splits:
    """The rows of a built-in task, of a mixture of such tasks or, with `path` or `hub_id`, of the
    user's own data.

    Own data without splits is cut 80/10/10 by the hash of its answers, or of its questions where
    the answers are labels or too few. `multi_token_words` are those of the `tokenizer`, which then
    has to be given. Raises DataError.
    """
    if path:
        return _own(read_path(Path(path)), source=path)
    if hub_id:
        return _own(read_hub(hub_id, revision), source=hub_id)
    asked = tasks.TaskSettings(
        right_words=right_words,
        length_spread=length_spread,
        score_right_words=score_right_words,
        separator=separator,
        phrasings=phrasings,
        held_out_phrasings=held_out_phrasings,
        only=words_of_several_tokens(tokenizer) if multi_token_words and tokenizer else None,
    )
    try:
        rows = {
            split: tasks.mixed(dict(mix), split, settings=asked)
            if mix
            else tasks.examples(task, split, settings=asked)
            for split in SPLITS
        }
    except tasks.TaskError as error:
        raise DataError(str(error)) from None
    frames = {s: pd.DataFrame(rows[s], columns=[*COLUMNS, "word", "task"]) for s in SPLITS}
    share = right_words if "correct" in (dict(mix) if mix else (task,)) else None
    return Splits(**frames, cut_by="answer", words=asked.only, right_words=share)


def arguments_of(config: RunConfig) -> dict[str, Any]:
    """The arguments of `load_splits` for a run, each hashable. DataError where its words are to be
    chosen by a tokenizer that cannot be read."""
    data, tokenizer = config.data, None
    if data.multi_token_words and data.built_in:
        files = files_of(config)
        try:
            files.download()
        except BaseModelError as error:
            raise DataError(f"data.multi_token_words asks the base model: {error}") from None
        tokenizer = files.find(TOKENIZER)
        if tokenizer is None:
            raise DataError(
                f"data.multi_token_words reads the words from {TOKENIZER}, which {files.name} does "
                "not have; turn it off"
            )
    return data.source | {"tokenizer": tokenizer}


def splits_of(config: RunConfig) -> Splits:
    """The rows of a run, as of `load_splits`."""
    return load_splits(**arguments_of(config))


def _cut(frame: pd.DataFrame, *, by: str) -> dict[str, pd.DataFrame]:
    """Splits of a frame by the hash of a column, sorted by hash: the first N are a sample."""
    frame = frame.iloc[frame["question"].map(text_hash).argsort(kind="stable")]
    split = frame[by].map(split_of)
    return {s: frame[split == s].reset_index(drop=True) for s in SPLITS}


# --- own data -------------------------------------------------------------------------------------


def load_rows(path: Path) -> pd.DataFrame:
    """All rows of a file or folder, whatever its splits: columns question, answer, word and, as in
    `Splits`, task."""
    tables = read_path(path)
    checked = [_check(table, f"{path} {name}".strip()) for name, table in tables.items()]
    (frame,) = _with_tasks({"": pd.concat(checked, ignore_index=True)}).values()
    return frame


def _own(tables: dict[str, pd.DataFrame], *, source: str) -> Splits:
    """Splits of checked rows; one unnamed table ("") is cut."""
    checked = _with_tasks(
        {name: _check(table, f"{source} {name}".strip()) for name, table in tables.items()}
    )
    every = _unique(pd.concat(checked.values(), ignore_index=True))
    labels = are_labels(every["question"].tolist(), every["answer"].tolist())
    cut_by: Literal["answer", "question"] | None = None
    if "" in checked:
        cut_by = "question" if labels else "answer"
        splits = _cut(checked[""], by=cut_by)
        if not labels and any(map(_is_empty, splits.values())):
            # Too few answers to share them out; the questions may still do.
            by_question = _cut(checked[""], by="question")
            if not any(map(_is_empty, by_question.values())):
                cut_by, splits = "question", by_question
    else:
        none = pd.DataFrame(columns=[*COLUMNS, "word"], dtype=object)
        splits = {split: checked.get(split, none) for split in SPLITS}
    unique = {split: _unique(frame) for split, frame in splits.items()}
    for split, frame in unique.items():
        if frame.empty:
            found = ", ".join(f"{len(splits[s]):,} {s}" for s in SPLITS)
            advice = "or give no splits at all and they are cut 80/10/10"
            if cut_by:
                advice = f"too few were there to cut 80/10/10 by their {cut_by}s"
            raise DataError(f"{source} has 0 {split} rows ({found}); add rows, {advice}")
    if labels:
        unique = {
            split: frame.assign(word=frame["question"].str.strip())
            for split, frame in unique.items()
        }
    dropped = sum(len(splits[split]) - len(unique[split]) for split in SPLITS)
    return Splits(**unique, duplicates=dropped, cut_by=cut_by, labels=labels)


def _is_empty(frame: pd.DataFrame) -> bool:
    return frame.empty


def _unique(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows without those that repeat an earlier one, in whatever Unicode form."""
    repeated = frame[list(COLUMNS)].map(composed).duplicated()
    return frame[~repeated].reset_index(drop=True)


def _with_tasks(checked: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The frames without the column task where no row of any of them has one."""
    known = any(frame["task"].notna().any() for frame in checked.values())
    return checked if known else {n: frame.drop(columns="task") for n, frame in checked.items()}


def _check(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The columns question, answer, word and task of a table: every cell a text that is not empty,
    but for the task, which is None where it names no built-in one."""
    for column in COLUMNS:
        if column not in table.columns:
            there = [str(name) for name in table.columns]
            raise DataError(
                f"{source} has no column {column!r}; it has {', '.join(there) or 'none'}"
                f"{did_you_mean(column, there) or '.'} Rename one: question and answer are both "
                "needed. Other formats are imported: spelltune data import FILE"
            )
    first = ("line", 0) if table.index.name == "line" else ("row", 1)
    for column in COLUMNS:
        for place, cell in zip(table.index, table[column], strict=True):
            if why := cell_problem(cell):
                where = f"{first[0]} {place + first[1]}"
                raise DataError(f"{source}, {where}: {column} {why}")
    answers = table["answer"].str.strip()
    named = table["task"] if "task" in table.columns else [None] * len(table)
    own = [name if isinstance(name, str) and name in tasks.TASKS else None for name in named]
    columns = {"question": table["question"], "answer": answers, "word": answers}
    return pd.DataFrame(columns | {"task": pd.Series(own, index=table.index, dtype=object)})


def cell_problem(cell: Any) -> str | None:
    """The reason that keeps a cell from being a text to train on, or None."""
    if not isinstance(cell, str):
        nothing = cell is None or cell != cell
        kind = "nothing" if nothing else f"the {type(cell).__name__} {str(cell)[:80]}"
        return f"holds {kind}; it must be text"
    if not cell.strip():
        return "is empty"
    # JSON can escape half a character, which no tokenizer and no file takes.
    half = any("\ud800" <= letter <= "\udfff" for letter in cell)
    return "holds half a character" if half else None
