"""The built-in tasks by name, found in the modules of `src/tasks/built_in`"""

import importlib
import pkgutil
import re
import unicodedata

from src.errors import did_you_mean
from src.tasks import built_in
from src.tasks.task import SEPARATORS, Example, Task, TaskError, TaskSettings
from src.tasks.words import split_of
from src.text import composed

# Letters that a text spells out: with one separator between them, whatever it is.
_SPELLED_OUT = re.compile(r"\S(?: \S)+|\S(?:, \S)+|\S(?:-\S)+")


def found() -> dict[str, Task]:
    """{name: task} of every module that has one, sorted by name."""
    modules = sorted(module.name for module in pkgutil.iter_modules(built_in.__path__))
    tasks = [importlib.import_module(f"{built_in.__name__}.{name}").TASK for name in modules]
    return {task.name: task for task in sorted(tasks, key=lambda task: str(task.name))}


TASKS = found()


def find(name: str) -> Task:
    """The task of a name. TaskError where there is none."""
    if name not in TASKS:
        near = did_you_mean(name, TASKS) or f"; there are {', '.join(TASKS)}"
        raise TaskError(f"no task {name!r}{near}")
    return TASKS[name]


def examples(
    task: str, split: str, *, seed: int = 0, settings: TaskSettings | None = None
) -> list[Example]:
    """The rows of a split of a task, the same in each process. TaskError where there are none."""
    rows = find(task).examples(split, seed=seed, settings=settings)
    if not rows:
        why = _without_rows(find(task), split, settings or TaskSettings())
        raise TaskError(f"the task {task} has no {split} questions: {why}")
    return rows


def _without_rows(task: Task, split: str, settings: TaskSettings) -> str:
    """Why a task has no rows in a split, and what can be done."""
    there = [word for word in task.words() if split_of(word) == split]
    left = sum(map(settings.allows, there))
    if not there:
        return "its word list, the dictionary of codespell, has no such word; install it again"
    if settings.only is None:
        return f"none of its {len(there):,} words makes one; take another task"
    mend = "so turn data.multi_token_words off"
    if not left:
        return f"the base model's tokenizer takes each of its words for one token, {mend}"
    words = f"{left:,} of its words {'have' if left > 1 else 'has'} more than one token"
    return f"only {words}, of which it makes none, {mend}"


def separator_of(text: str) -> str | None:
    """The separator between the letters of a text that spells them out; None for any other text."""
    text = composed(text)
    if _SPELLED_OUT.fullmatch(text):
        return ", " if text[1:3] == ", " else text[1]
    if text.isascii():
        return None
    # A letter with marks may be several characters in every Unicode form.
    between = [sign for sign in SEPARATORS.values() if sign and sign in text]
    return next((sign for sign in between if all(map(_is_letter, text.split(sign)))), None)


def _is_letter(text: str) -> bool:
    """True for one letter with its marks."""
    marks = (unicodedata.category(sign)[0] == "M" for sign in text[1:])
    return text[:1].strip() != "" and all(marks)


def task_of(answer: str) -> str:
    """The task of a row of which nothing else is known, such as of own data or of an older file:
    `spell out` where its answer is letters with a separator between, else `word`."""
    return "spell out" if separator_of(answer) else "word"
