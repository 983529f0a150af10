"""Human misspellings: `Correct the spelling: recieve` -> `receive`"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from src.tasks.slips import slipped
from src.tasks.task import Asked, Task, TaskSettings
from src.tasks.words import (
    dictionary,
    misspellings,
    real_words,
    split_of,
    text_hash,
    training_words,
)
from src.text import composed

CORRECT = "Correct the spelling: "  # before a misspelling, in the first phrasing
SLIPS_PER_WORD = 6  # that are tried


@dataclass(frozen=True, kw_only=True)
class Correct(Task):
    """Training has the misspellings of its words, and with `right_words` also words that are right
    and stay as they are; validation and test have one misspelling per word, so that frequently
    misspelled words do not weigh more, and with `score_right_words` the word itself. The settings
    are explained in `DataConfig`. No form of a word of one split is in another.
    """

    def asked(self, split: str, settings: TaskSettings, seed: int) -> Iterator[tuple[str, Asked]]:
        pairs = _trained(settings) if split == "train" else _scored(split, settings)
        for asked, word in pairs:
            yield word, Asked(word, {"asked": asked})


def _trained(settings: TaskSettings) -> list[tuple[str, str]]:
    """(asked, word) pairs of training."""
    known = [word for word in training_words() if settings.allows(word)]
    pairs = ((wrong, word) for wrong, word in misspellings() if settings.allows(word))
    found = [(wrong, word) for wrong, word in pairs if split_of(word) == "train"]
    found = with_length_spread(found, settings.length_spread, known)
    right = round(len(found) * settings.right_words / (1 - settings.right_words))
    return found + [(word, word) for word in known[:right]]  # or all that there are


def _scored(split: str, settings: TaskSettings) -> list[tuple[str, str]]:
    """(asked, word) pairs of a split that is scored."""
    held_out: dict[str, str] = {}
    for wrong, word in misspellings():
        if (
            split_of(word) == split
            and settings.allows(word)
            and (word not in held_out or text_hash(wrong) < text_hash(held_out[word]))
        ):
            held_out[word] = wrong
    found = [(wrong, word) for word, wrong in held_out.items()]
    if settings.score_right_words:
        found += [(word, word) for word in held_out]
    return found


def with_length_spread(
    pairs: list[tuple[str, str]], spread: float, words: Sequence[str]
) -> list[tuple[str, str]]:
    """The (misspelling, word) pairs with other shares of each length of word.

    At a spread of 1 they have the lengths of `real_words`: lengths with too many pairs lose some,
    chosen by hash; those with too few get misspellings of `words` made by `slipped`. At 0 nothing
    changes.
    """
    if not spread or not pairs:
        return pairs
    have, want = _lengths(word for _, word in pairs), _lengths(real_words())
    keep = {n: 1 - spread * (1 - min(1.0, want.get(n, 0) / share)) for n, share in have.items()}
    found = [(wrong, word) for wrong, word in pairs if text_hash(wrong) < keep[len(word)] * 2**64]
    known = real_words() | {wrong for wrong, _ in dictionary()}
    made: dict[str, str] = {}
    for length, share in sorted(want.items()):
        of_length = [word for word in words if len(word) == length]
        most = len(made) + round(spread * (share - have.get(length, 0)) * len(pairs))
        rng = random.Random(length)
        for word in of_length * SLIPS_PER_WORD:
            if len(made) >= most:
                break
            if (slip := slipped(word, rng)) not in known:
                made.setdefault(slip, word)
    return found + list(made.items())


def _lengths(words: Iterable[str]) -> dict[int, float]:
    """{letters: share of the words that have so many}."""
    counts = Counter(map(len, words))
    return {length: count / counts.total() for length, count in counts.items()}


TASK = Correct(
    name="correct",
    summary="the right spelling of a human misspelling",
    phrasings=(
        CORRECT + "{asked}",
        "What is the right spelling of {asked}?",
        "How is {asked} spelled correctly?",
        "Someone wrote {asked}. Which word did they mean?",
    ),
    make=lambda word, rng: Asked(word, {"asked": word}),
)


def asked_word(question: str) -> str | None:
    """The word that a question of this task asks to correct; None for other questions."""
    fields = TASK.read(question)
    return None if fields is None else fields["asked"].strip()


def asks_right_word(question: str, answer: str) -> bool | None:
    """True if a question of this task asks a word that is right already, False if it asks another
    one; None for a question of another kind."""
    asked = asked_word(question)
    return None if asked is None else asked == composed(answer.strip())
