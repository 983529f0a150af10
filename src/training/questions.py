"""Questions that a person types to try adapters, what is right there, and the file of those missed

The panel imports this module, so nothing here imports torch or transformers.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from src import paths
from src.config import RunConfig, stored_config
from src.errors import UserError
from src.files import alone, read_text, write_atomic
from src.models import metrics
from src.tasks import SEPARATORS, TASKS, Example, Task
from src.tasks.built_in.correct import TASK as CORRECT
from src.tasks.words import misspellings, real_words
from src.text import composed

MAX_TEXTS = 200  # at once
MAX_LETTERS = 1_000  # of one text
MAX_SPELLERS = 8  # adapters beside each other
TAB = "\t"  # between a question and its answer, as spreadsheets copy two columns


class QuestionError(UserError, ValueError):
    """A typed text that cannot be asked: one sentence with what arrived and what to do."""


@dataclass(frozen=True)
class Question:
    """A typed text as the adapter of a run is asked it, and its right answer where there is one."""

    text: str
    question: str
    expected: str | None = None
    task: str | None = None  # the built-in task that judges an answer

    def is_right(self, predicted: str) -> bool | None:
        """True for a right answer, by the checker of its task; None where nothing is known."""
        if self.expected is None:
            return None
        if metrics.same(predicted, self.expected):
            return True
        checker = TASKS.get(self.task or "")
        return checker is not None and checker.is_right(self.question, self.expected, predicted)


@dataclass(frozen=True)
class Speller:
    """A base model, with an adapter of a run or without, which answers as the run was trained."""

    name: str  # RUN or RUN@STEP, or the name of the base model
    config: RunConfig
    adapter: Path | None = None

    def document(self) -> dict[str, Any]:
        """As JSON, for the process that answers."""
        adapter = str(self.adapter) if self.adapter else None
        return {"name": self.name, "config": self.config.model_dump(), "adapter": adapter}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Speller":
        """The speller of a `document`."""
        adapter = document["adapter"] and Path(document["adapter"])
        return cls(document["name"], stored_config(document["config"]), adapter)


class Likely(NamedTuple):
    """One of the likeliest answers to a question."""

    answer: str
    probability: float | None  # of all its tokens and of its end; None is no number
    correct: bool | None


@dataclass(frozen=True)
class Answer:
    """The answer of a speller to a typed text, with how likely it is."""

    by: str
    text: str
    question: str
    expected: str | None
    predicted: str  # decoded greedily, as evaluations do
    correct: bool | None  # None where no right answer is known
    edit_distance: int | None
    probability: float | None
    likeliest: Sequence[Likely]
    prompt_tokens: Sequence[str]
    answer_tokens: Sequence[str]
    seconds: float  # of the greedy answer: its share of those that were decoded together

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Answer":
        """The answer whose fields came as JSON."""
        likeliest = [Likely(*one) for one in document["likeliest"]]
        return cls(**{**document, "likeliest": likeliest})


def with_bases(spellers: Sequence[Speller], *, baseline: bool = True) -> list[Speller]:
    """The spellers, with `baseline` after their base models: one for each base and way to ask."""
    if not baseline:
        return list(spellers)
    bases: dict[str, Speller] = {}
    for one in spellers:
        model, data = one.config.model, one.config.data
        asked: list[Any] = [
            model.name,
            model.revision,
            model.load_in_4bit,
            one.config.training.precision,
        ]
        asked += [data.template, data.system_prompt, data.separator, data.built_in]
        key = json.dumps([*asked, (data.mix or data.task) if data.built_in else None])
        bases.setdefault(key, Speller(model.name, one.config))
    names = [base.name for base in bases.values()]
    told = [
        base
        if names.count(base.name) == 1
        else Speller(f"{base.name}, asked as {base.config.name}", base.config)
        for base in bases.values()
    ]
    return [*told, *spellers]


def texts_of(typed: Iterable[str]) -> list[str]:
    """The texts in what was typed or pasted, one per line and each once. QuestionError where there
    are none, too many or too long ones."""
    lines = [line.strip() for one in typed for line in one.splitlines()]
    texts = list(dict.fromkeys(line for line in lines if line))
    if not texts:
        raise QuestionError("there is no word to try; give one, or a line for each")
    if len(texts) > MAX_TEXTS:
        raise QuestionError(
            f"{len(texts):,} words are too many to try at once: up to {MAX_TEXTS} are answered. "
            "Score a longer list from a file: spelltune evaluate RUN --data FILE"
        )
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:  # halves of letters, as of a terminal in another encoding
        raise QuestionError("the words are no valid text; type them again") from None
    longest = max(texts, key=len)
    if len(longest) > MAX_LETTERS:
        raise QuestionError(
            f"{longest[:40]!r}… has {len(longest):,} letters; a text has up to {MAX_LETTERS:,}"
        )
    return texts


def question_of(config: RunConfig, text: str) -> Question:
    """A typed text as a run asks it.

    A word is asked in the first phrasing of the run's task (of a mixture: of its largest one). A
    text of several words is a question already, and so is every text where the data are the user's
    own. It has a right answer where a task of the run tells one, or after a tab in the text.
    """
    text, _, given = map(str.strip, text.partition(TAB))
    own = config.data
    tasks = [TASKS[name] for name in own.mix or [own.task]] if own.built_in else []
    separator = SEPARATORS[own.separator]
    if tasks and not any(map(str.isspace, text)):
        found = _asked_word(tasks[0], text, separator)
    else:
        known = (_read_question(task, text, separator) for task in tasks)
        found = next((one for one in known if one is not None), Question(text, text))
    if given:  # whoever typed it knows better
        return Question(text, found.question, given, found.task)
    return found


def _asked_word(task: Task, word: str, separator: str) -> Question:
    """A word as a task asks it. What else a question needs is drawn, the same each time."""
    if task is CORRECT:
        question = task.variants[""][0].format(asked=word)
        return Question(word, question, _right_spelling(word), task.name)
    row = _row(task, word, separator)
    return Question(word, row.question, row.answer, task.name) if row else Question(word, word)


def _row(task: Task, word: str, separator: str) -> Example | None:
    """A question about a word; None where the task can ask none, such as of a single letter."""
    word = composed(word)
    try:
        asked = task.make(word, random.Random(f"0 {task.name} {word}"))
    except (ValueError, IndexError):  # of a text that is no word as the task's own are
        return None
    if asked is None:
        return None
    return task.example(word, asked, task.variants[asked.variant][0], separator)


def _read_question(task: Task, text: str, separator: str) -> Question | None:
    """A question that was typed in a phrasing of a task, with its answer where the word alone
    decides it; None for other texts."""
    fields = task.read(text)
    if fields is None:
        return None
    if task is CORRECT:
        return Question(text, text, _right_spelling(fields["asked"].strip()), task.name)
    if set(fields) != {"word"}:
        return None
    row = _row(task, fields["word"].strip(), separator)
    return Question(text, text, row.answer if row else None, task.name)


def _right_spelling(word: str) -> str | None:
    """The one right spelling of a known misspelling, or of a word that is right; else None."""
    known = dict(misspellings())
    plain = composed(word)
    return known.get(plain) or (plain if plain in real_words() else None)


def missed(rows: Iterable[Sequence[Answer]], spellers: Sequence[Speller]) -> list[tuple[str, str]]:
    """(question, right answer) pairs that an adapter answered wrong; `rows` holds for each text the
    answers of all spellers."""
    found = {
        answer.question: answer.expected
        for row in rows
        for answer, speller in zip(row, spellers, strict=True)
        if speller.adapter is not None and answer.expected is not None and not answer.correct
    }
    return list(found.items())


def keep_questions(file: Path, rows: Sequence[tuple[str, str]]) -> int:
    """Add (question, answer) pairs to a JSONL file that `spelltune evaluate` and data.path read;
    returns how many are new there. QuestionError where the file holds something else."""
    if file.suffix != ".jsonl":
        raise QuestionError(f"{file.name or 'the file'} has to end in .jsonl, as words.jsonl")
    with alone(paths.changes_lock()):
        try:
            before = read_text(file) if file.exists() else ""
            known = [json.loads(line) for line in before.splitlines() if line.strip()]
            asked = {str(row["question"]) for row in known}
        except (ValueError, KeyError, TypeError):
            raise QuestionError(
                f"{file} has lines without question and answer; name another file"
            ) from None
        new = {question: answer for question, answer in rows if question not in asked}
        lines = [
            json.dumps({"question": question, "answer": answer}, ensure_ascii=False)
            for question, answer in new.items()
        ]
        if lines:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            start = before if before.endswith("\n") or not before else f"{before}\n"
            write_atomic(file, start + "\n".join(lines) + "\n")
        return len(new)
