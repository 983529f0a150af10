"""A task: questions about words, each with one right answer, and a checker of answers

Pure text: nothing here knows a config, a table or a model.
"""

import random
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

from src.errors import UserError
from src.tasks.words import real_words, split_of, target_words, text_hash
from src.text import composed

Separator = Literal["space", "comma", "dash", "none"]
SEPARATORS: dict[Separator, str] = {"space": " ", "comma": ", ", "dash": "-", "none": ""}
Text = str | tuple[str, ...]  # a tuple holds letters, which are written with a separator between


class TaskError(UserError, ValueError):
    """A task that cannot ask what it is to ask."""


class Asked(NamedTuple):
    """One question about a word: its right answer, what its phrasings name besides the word, and
    which of the task's `phrasings` ask it."""

    answer: Text
    fields: Mapping[str, Text] = {}
    variant: str = ""


class Example(NamedTuple):
    question: str
    answer: str
    word: str  # by which splits are cut
    task: str


@dataclass(frozen=True)
class TaskSettings:
    """The settings of a run that its tasks read; explained in `DataConfig`."""

    right_words: float = 0
    length_spread: float = 0
    score_right_words: bool = False
    separator: Separator = "space"
    phrasings: int = 1
    held_out_phrasings: bool = False
    only: frozenset[str] | None = None  # words that may be asked; None for all

    def allows(self, word: str) -> bool:
        """True if the word may be asked."""
        return self.only is None or word in self.only


def same_text(question: str, answer: str, prediction: str) -> bool:
    """True for the right answer itself, in whatever Unicode form and surrounding spaces."""
    return composed(prediction).strip() == composed(answer).strip()


@dataclass(frozen=True, kw_only=True)
class Task:
    """A module in `src/tasks/built_in` that has one, as TASK, adds it to all tasks."""

    name: str
    summary: str  # the line of the documentation
    phrasings: Sequence[str] | Mapping[str, Sequence[str]]
    """Templates with {word} and the fields of `Asked`; of several variants, by variant. Training
    never uses the last one."""
    make: Callable[[str, random.Random], Asked | None]
    """A question about a word, or None where there is none."""
    answers: Literal["word", "letters", "letter", "number", "choice"] = "word"
    is_right: Callable[[str, str, str], bool] = same_text
    """True if a prediction answers a question right: (question, answer, prediction)."""
    kind: Callable[[str, str, str], str | None] | None = None
    """The kind of error of a wrong prediction in plain words: (question, answer, prediction). None
    where it is a misspelling, which `analysis.kinds` describes."""
    kinds: Mapping[str, str] = field(default_factory=dict)  # what each of its kinds means
    per_word: int = 4
    """Questions of a word that are drawn for training, as far as they differ; to be scored on there
    is one. 1 where a word has no other."""

    @cached_property
    def variants(self) -> Mapping[str, Sequence[str]]:
        """The phrasings by variant; "" where there is one variant alone."""
        return self.phrasings if isinstance(self.phrasings, Mapping) else {"": self.phrasings}

    def read(self, question: str) -> Mapping[str, str] | None:
        """The fields of a question of this task, in any of its phrasings; None for others."""
        for pattern in self._patterns:
            if found := pattern.fullmatch(composed(question).strip()):
                return found.groupdict()
        return None

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        every = [text for texts in self.variants.values() for text in texts]
        return [re.compile("".join(_pattern(text))) for text in every]

    # --- rows -------------------------------------------------------------------------------------

    def words(self) -> Sequence[str]:
        """The words that it may ask about."""
        return target_words()

    def asked(self, split: str, settings: TaskSettings, seed: int) -> Iterator[tuple[str, Asked]]:
        """(word, question) pairs of a split, in an order that only the words decide."""
        times = self.per_word if split == "train" else 1
        for word in self.words():
            if split_of(word) != split or not settings.allows(word):
                continue
            # A text as a seed is hashed by random itself, the same in every process.
            rng = random.Random(f"{seed} {self.name} {word}")
            for _ in range(times):
                asked = self.make(word, rng)
                if asked is not None and not self._leaks(asked.answer, split):
                    yield word, asked

    def _leaks(self, answer: Text, split: str) -> bool:
        """True if the answer is by chance a word of another split."""
        if self.answers != "word" or not isinstance(answer, str):
            return False
        return answer in real_words() and split_of(answer) != split

    def examples(
        self, split: str, *, seed: int = 0, settings: TaskSettings | None = None
    ) -> list[Example]:
        """The rows of a split, sorted by the hash of their questions: the first N are a sample."""
        settings = settings or TaskSettings()
        separator = SEPARATORS[settings.separator]
        rows: dict[str, Example] = {}
        for word, asked in self.asked(split, settings, seed):
            texts = self._usable(asked.variant, split, settings)
            # Apart from the draws of `make`: more phrasings change no question but its words.
            at = 0
            if len(texts) > 1:
                key = f"{seed} {word} {sorted(asked.fields.items())} {asked.answer}"
                at = random.Random(f"phrasing {key}").randrange(len(texts))
            row = self.example(word, asked, texts[at], separator)
            rows.setdefault(row.question, row)
        return sorted(rows.values(), key=lambda row: text_hash(row.question))

    def example(self, word: str, asked: Asked, phrasing: str, separator: str) -> Example:
        """The row of a question about a word, in one of the task's phrasings."""
        fields = {name: _written(text, separator) for name, text in asked.fields.items()}
        question = phrasing.format(**{"word": word} | fields)
        return Example(question, _written(asked.answer, separator), word, self.name)

    def _usable(self, variant: str, split: str, settings: TaskSettings) -> Sequence[str]:
        """The phrasings of a variant for a split."""
        texts = self.variants[variant]
        trained = min(settings.phrasings, len(texts) - 1)
        held_out = settings.held_out_phrasings and split != "train"
        return texts[trained:] if held_out else texts[:trained]


def _written(text: Text, separator: str) -> str:
    return text if isinstance(text, str) else separator.join(text)


def _pattern(template: str) -> Iterator[str]:
    """The parts of a pattern that reads the fields back from a filled template."""
    for literal, name, _, _ in string.Formatter().parse(template):
        yield re.escape(literal)
        if name:
            yield f"(?s:(?P<{name}>.+?))"


def shuffled(texts: Iterable[str], rng: random.Random) -> list[str]:
    """The texts in a random order."""
    mixed = list(texts)
    rng.shuffle(mixed)
    return mixed
