"""Suites: sets of questions that a run is scored on besides its own data

A suite is a built-in task, `general`, one of CUTE's, a file of the user's own kept in the home, or
a path. In a run it is one more split, `suite/NAME`. The panel imports this module, so nothing here
imports torch.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from src import paths
from src.config import EvaluationConfig, names_file
from src.errors import did_you_mean
from src.files import read_text, write_atomic
from src.format import counted
from src.models.metrics import SUITE
from src.models.prompt_format import PromptFormat, raw_format
from src.tasks import TASKS, examples
from src.tasks.registry import separator_of
from src.tasks.words import text_hash
from src.text import caseless, composed
from src.training import data_formats, data_import
from src.training.data_files import DataError
from src.training.data_hub import read_hub_tables
from src.training.data_loaders import COLUMNS, Splits
from src.training.labels import are_labels

GENERAL = "general"
GENERAL_FILE = Path(__file__).with_name("general_sentences.txt")
GENERAL_PROMPT_WORDS = 3  # of each sentence; the rest is what is scored
CUTE, CUTE_HUB_ID = "cute/", "Leukas/CUTE"
MAX_WORDS = 3  # in a question about words; one with more is about a sentence


@dataclass(frozen=True)
class Suite:
    """The questions of a suite, in an order that is the same for every run."""

    name: str
    frame: pd.DataFrame  # question, answer and word
    task: str | None = None  # the built-in task that it asks
    seen: int = 0  # rows that were left out, because their words stand in the training rows

    @property
    def split(self) -> str:
        return SUITE + self.name

    @property
    def is_text(self) -> bool:
        """True if it is running text, which is measured in bits and not in right answers."""
        return self.name == GENERAL

    def form(self, own: PromptFormat) -> PromptFormat:
        """The prompt format of its questions: that of the run, and none for running text."""
        return raw_format("{question}") if self.is_text else own

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the questions and answers."""
        return hashlib.sha256(
            json.dumps(self.frame[list(COLUMNS)].values.tolist()).encode()
        ).hexdigest()

    def limited(self, rows: int | None) -> "Suite":
        """The suite with at most so many rows: the same ones in every run, whatever its seed, and
        as far as possible also where other rows were left out, so that runs can be compared."""
        if rows is None or len(self.frame) <= rows:
            return self
        order = self.frame["question"].map(text_hash).argsort(kind="stable")
        return replace(self, frame=self.frame.iloc[sorted(order[:rows])].reset_index(drop=True))

    def marked(self, training_words: Iterable[str], *, keep: bool) -> "Suite":
        """The suite with a column `seen`: True where a word of a row stands in the training rows.
        Such rows are left out unless `keep`."""
        known = {caseless(_joined(word)) for word in training_words}
        seen = pd.Series(
            [not known.isdisjoint(words) for words in self._words],
            index=self.frame.index,
            dtype=bool,
        )
        frame = self.frame.assign(seen=seen)
        if keep:
            return replace(self, frame=frame)
        return replace(self, frame=frame[~seen].reset_index(drop=True), seen=int(seen.sum()))

    @property
    def _words(self) -> list[set[str]]:
        """The words that each row is about, as of `caseless`."""
        if self.is_text:
            return [set() for _ in range(len(self.frame))]
        if self.task is not None:
            return [{caseless(word)} for word in self.frame["word"]]
        questions, answers = self.frame["question"], self.frame["answer"]
        asked = [set(re.findall(r"[^\W\d_]{2,}", caseless(q))) for q in questions]
        times = Counter(word for words in asked for word in words)
        # A word in most of the questions belongs to their phrasing.
        usual = {word for word, count in times.items() if 2 * count > len(asked) > 1}
        return [
            {caseless(_joined(answer)), caseless(question)}
            | (words - usual if len(words - usual) <= MAX_WORDS else set())
            for words, question, answer in zip(asked, questions, answers, strict=True)
        ]


def _joined(answer: str) -> str:
    """The word of an answer that spells it letter by letter; any other answer itself."""
    answer = answer.strip()
    return answer.replace(separator, "") if (separator := separator_of(answer)) else answer


# --- names ----------------------------------------------------------------------------------------


def folder() -> Path:
    """Where the home keeps the suites that were added to it."""
    return paths.home() / "data" / "suites"


def own_names() -> list[str]:
    """Names of the suites that were added to the home."""
    return sorted(file.stem for file in folder().glob("*.jsonl"))


def known_names() -> list[str]:
    """Names of all suites but those of CUTE that only the hub has."""
    return [*TASKS, GENERAL, *own_names(), *(CUTE + task for task in data_formats.CUTE)]


def listed() -> list[tuple[str, str, str]]:
    """(name, source, what it asks) of every suite."""
    own = [(name, "yours", str(folder() / f"{name}.jsonl")) for name in own_names()]
    built_in = [(name, "built in", _asks(load(name))) for name in TASKS]
    general = (GENERAL, "built in", "how well plain English is still predicted (forgetting)")
    # In place of the letters and words that a question of theirs has.
    cute = [
        (CUTE + task, CUTE_HUB_ID, asked.format(*"XYZ"))
        for task, asked in data_formats.CUTE.items()
    ]
    return [*built_in, general, *own, *cute]


def _asks(suite: Suite) -> str:
    """The first question of a suite with its answer."""
    first = suite.frame.iloc[0]
    return f"{first['question']} → {first['answer']}"


def name_of(entry: str) -> str:
    """The name of an entry of `evaluation.suites`: of a path, that of its file."""
    if not names_file(entry):
        return entry
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(entry).stem).strip("-")[:40] or "file"


def problem_of_names(entries: Sequence[str]) -> str | None:
    """The reason that keeps entries from being suites of one run, as far as their names tell."""
    known = known_names()
    for entry in entries:
        if not entry.strip():
            return "no suite ''; name one, or a file by its path (spelltune suite list)"
        if not names_file(entry) and entry not in known:
            near = did_you_mean(entry, known) or f" ({', '.join(known)})."
            return (
                f"no suite {entry!r}{near} A file is named by its path, such as ./{entry}.csv, or "
                "added: spelltune suite add FILE"
            )
    names = Counter(map(name_of, entries))
    if twice := [name for name, times in names.items() if times > 1]:
        both = ", ".join(entry for entry in entries if name_of(entry) == twice[0])
        return (
            f"two suites would be called {twice[0]!r} ({both}); rename a file, or give it another "
            "name: spelltune suite add FILE --name NAME"
        )
    return None


# --- rows -----------------------------------------------------------------------------------------


def load(entry: str) -> Suite:
    """The suite that an entry of `evaluation.suites` names, with all its rows. Raises DataError."""
    if problem := problem_of_names([entry]):
        raise DataError(problem)
    name = name_of(entry)
    if names_file(entry):
        return Suite(name, _of_file(Path(entry)))
    if (file := folder() / f"{entry}.jsonl").is_file():
        return Suite(name, _of_file(file))
    if entry == GENERAL:
        return Suite(name, _general())
    if entry.startswith(CUTE):
        return Suite(name, _cute(entry.removeprefix(CUTE)))
    return Suite(name, _of_task(entry, "test"), entry)


def suites_of(asked: EvaluationConfig, splits: Splits) -> list[Suite]:
    """The suites of a run without the rows whose words it is trained on. Raises DataError."""
    if problem := problem_of_names(asked.suites):
        raise DataError(problem)
    found = []
    for entry in asked.suites:
        suite = load(entry).marked(splits.train["word"], keep=asked.suite_seen_rows)
        suite = suite.limited(asked.suite_rows)
        if suite.frame.empty:
            raise DataError(
                f"of the suite {suite.name} no row is left: words of all {suite.seen:,} stand in "
                "the training rows; set evaluation.suite_seen_rows to score them, or leave it out"
            )
        found.append(suite)
    return found


def few_shot(suite: Suite, count: int, *, seed: int) -> tuple[list[tuple[str, str]], Suite]:
    """`count` questions with answers for a prompt, drawn by `seed`, and the suite without them: of
    a built-in task from its training words, else from the suite itself. Raises DataError."""
    if suite.is_text:
        raise DataError(f"the suite {suite.name} is running text, which takes no examples")
    pool = suite.frame if suite.task is None else _of_task(suite.task, "train")
    rest = suite.frame
    if count >= len(pool):
        rows = counted(len(pool), "row")
        raise DataError(
            f"{suite.name} has {rows} to draw examples from, of which one at least has to be left "
            f"to ask; {count} are too many"
        )
    drawn = pool.sample(count, random_state=seed)
    if suite.task is None:
        rest = rest.drop(drawn.index).reset_index(drop=True)
    pairs = drawn[list(COLUMNS)].itertuples(index=False, name=None)
    return [(str(q), str(a)) for q, a in pairs], replace(suite, frame=rest)


def add(source: Path, name: str | None, mapping: dict[str, str]) -> tuple[str, Path, int]:
    """Keep the questions of a file in the home as a suite; its name, its file and its rows."""
    if name is None:
        name = name_of(str(source.absolute()))
    reserved = [*TASKS, GENERAL]
    if names_file(name) or name.startswith(CUTE) or name in reserved:
        raise DataError(
            f"{name!r} cannot be the name of a suite of yours: it has up to 40 letters, digits, _ "
            f"and -, and is none of {', '.join(reserved)}; choose one with --name"
        )
    rows = _imported(source, mapping)
    target = folder() / f"{name}.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if target.exists() and read_text(target) != text:
        # A run was scored on what has this name.
        raise DataError(f"there is a suite {name!r} with other questions; choose another --name")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(target, text)
    return name, target, len(rows)


def remove(name: str) -> None:
    """Forget a suite of the home. DataError if there is none of that name."""
    if name not in own_names():
        if name in known_names():
            raise DataError(f"the suite {name} is built in; only added ones can be removed")
        near = did_you_mean(name, own_names())
        raise DataError(f"no suite {name!r} was added to this home{near}")
    (folder() / f"{name}.jsonl").unlink()


def _of_task(task: str, split: str) -> pd.DataFrame:
    """The rows of a split of a built-in task, with its own settings: the same for every run."""
    return pd.DataFrame(examples(task, split))


def _of_file(path: Path) -> pd.DataFrame:
    return _framed(_imported(path, {}))


def _imported(path: Path, mapping: dict[str, str]) -> list[dict[str, str]]:
    """The rows of a file or folder in any format: of its test split where it has splits."""
    try:
        rows = data_import.import_data(path, mapping=mapping).rows
    except data_import.UnknownColumns as error:
        if mapping:
            raise
        raise DataError(
            f"{path} has other columns than a question and an answer ({', '.join(error.columns)}); "
            f"name them: spelltune suite add {path} --map question=COLUMN --map answer=COLUMN"
        ) from None
    if any(row.get("split") for row in rows):
        rows = [row for row in rows if row.get("split") == "test"]
        if not rows:
            raise DataError(f"{path} has splits, but no test rows, which a suite would be")
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def _framed(rows: Sequence[dict[str, str]]) -> pd.DataFrame:
    """Rows without repetitions, each with its word: of labels the question, else the answer."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame = frame[~frame.map(composed).duplicated()].reset_index(drop=True)
    labels = are_labels(frame["question"].tolist(), frame["answer"].tolist())
    answers = frame["answer"].str.strip()
    return frame.assign(answer=answers, word=frame["question"].str.strip() if labels else answers)


def _general() -> pd.DataFrame:
    """English sentences: the first words are given, the rest is to be predicted."""
    lines = read_text(GENERAL_FILE).splitlines()
    sentences = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    cut = GENERAL_PROMPT_WORDS
    rows = [(" ".join(s[:cut]), " ".join(s[cut:]), " ".join(s)) for s in sentences]
    return pd.DataFrame(rows, columns=[*COLUMNS, "word"])


def _cute(task: str) -> pd.DataFrame:
    """The questions of a task of CUTE: from the folder SPELLTUNE_CUTE, else from the hub."""
    if own := os.environ.get("SPELLTUNE_CUTE"):
        files = [Path(own).expanduser() / f"{task}{end}" for end in data_import.ENDINGS]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise DataError(f"the folder SPELLTUNE_CUTE={own} has no file {task}.tsv")
        return _of_file(found)
    try:
        tables = read_hub_tables(CUTE_HUB_ID, None)
    except DataError as error:
        raise DataError(
            f"{error}; or name a folder that has its files: SPELLTUNE_CUTE=FOLDER"
        ) from None
    if task not in tables:
        raise DataError(f"{CUTE_HUB_ID} on the hub has no {task!r}{did_you_mean(task, tables)}")
    return _framed(data_import.of_table(tables[task], f"{CUTE_HUB_ID}/{task}").rows)
