"""The built-in tasks: spell a word letter by letter, correct real human misspellings

The panel imports this module, so nothing here imports torch or transformers.
"""

import gzip
import hashlib
import importlib.resources
import random
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from src import paths
from src.files import retry
from src.text import caseless, composed
from src.training.slips import slipped

SPELL_OUT = "Spell the word: "
CORRECT = "Correct the spelling: "
SPELLED_OUT = re.compile(r"\S( \S)+")
SLIPS_PER_WORD = 6  # that are tried
MIN_WORD_SHARE = 1e-6  # of all words in a corpus; rarer entries are mostly names and slips

Rows = list[tuple[str, str, str]]  # question, answer, and the word by which splits are cut


def split_of(word: str) -> str:
    """The split of a word by its hash: train (80%), validation or test (10% each)."""
    bucket = text_hash(word) % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


def text_hash(text: str) -> int:
    """A number in [0, 2**64) that case, surrounding spaces and the Unicode form do not change."""
    return int.from_bytes(hashlib.sha256(caseless(text.strip()).encode()).digest()[:8])


def task_of(answer: str) -> str:
    """`spell out` where an answer is letters with a space between, else `word`."""
    return "spell out" if SPELLED_OUT.fullmatch(answer) else "word"


# --- words ----------------------------------------------------------------------------------------


@cache
def _dictionary() -> list[tuple[str, str]]:
    """(misspelling, corrections) of every line of codespell's dictionary."""
    file = importlib.resources.files("codespell_lib") / "data" / "dictionary.txt"
    lines = retry(lambda: file.read_text(encoding="utf-8")).splitlines()
    return [(wrong, rights) for wrong, _, rights in (line.partition("->") for line in lines)]


@cache
def misspellings() -> list[tuple[str, str]]:
    """(misspelling, word) pairs of real misspellings, from the dictionary of codespell.

    Only pairs with one clear correction, in plain lower-case letters, 3 to 20 of them; no
    misspelling that is itself the correction of another one.
    """
    letters = re.compile("[a-z]{3,20}")
    # `wrong->right, other,` offers several corrections: not a question with one answer.
    plain = [(w, r) for w, r in _dictionary() if letters.fullmatch(w) and letters.fullmatch(r)]
    words = {right for _, right in plain}
    return sorted({(wrong, right) for wrong, right in plain if wrong not in words})


def target_words() -> list[str]:
    """Every word that the built-in tasks ask for."""
    return sorted({right for _, right in misspellings()})


@cache
def real_words() -> frozenset[str]:
    """Existing words: the targets of the built-in tasks and frequent English words.

    A known misspelling is never one.
    """
    frequent: list[str] = []
    file = Path(paths.base_model("spelltune-tiny")) / "pretraining_words.txt.gz"
    if file.is_file():
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            pairs = (line.split() for line in lines)
            frequent = [word for word, share in pairs if float(share) >= MIN_WORD_SHARE]
    wrong = {wrong for wrong, _ in misspellings()}
    long = {word for word in frequent if len(word) > 2}
    return frozenset((long - wrong) | set(target_words()))


# --- tasks ----------------------------------------------------------------------------------------


def spell_out() -> Rows:
    """`Spell the word: receive` -> `r e c e i v e`, one row per word."""
    return [(SPELL_OUT + word, " ".join(word), word) for word in target_words()]


def correct(
    *, right_words: float = 0, length_spread: float = 0, score_right_words: bool = False
) -> Rows:
    """`Correct the spelling: recieve` -> `receive`.

    Training has the misspellings of its words, and with `right_words` also words that are right and
    stay as they are; validation and test have one misspelling per word, so that frequently
    misspelled words do not weigh more, and with `score_right_words` the word itself. The settings
    are explained in `DataConfig`. No form of a word of one split is in another.
    """
    held_out: dict[str, str] = {}
    training = []
    for wrong, word in misspellings():
        if split_of(word) == "train":
            training.append((wrong, word))
        elif word not in held_out or text_hash(wrong) < text_hash(held_out[word]):
            held_out[word] = wrong
    training = with_length_spread(training, length_spread)
    right = round(len(training) * right_words / (1 - right_words))  # or all that there are
    training += [(word, word) for word in training_words()[:right]]
    scored = [(wrong, word) for word, wrong in held_out.items()]
    if score_right_words:
        scored += [(word, word) for word in held_out]
    return [(CORRECT + asked, word, word) for asked, word in training + scored]


def with_length_spread(pairs: list[tuple[str, str]], spread: float) -> list[tuple[str, str]]:
    """The (misspelling, word) pairs with other shares of each length of word.

    At a spread of 1 they have the lengths of `real_words`: lengths with too many pairs lose some,
    chosen by hash; those with too few get misspellings made by `slipped`. At 0 nothing changes.
    """
    if not spread:
        return pairs
    have, want = _lengths(word for _, word in pairs), _lengths(real_words())
    keep = {n: 1 - spread * (1 - min(1.0, want.get(n, 0) / share)) for n, share in have.items()}
    found = [(wrong, word) for wrong, word in pairs if text_hash(wrong) < keep[len(word)] * 2**64]
    known = real_words() | {wrong for wrong, _ in _dictionary()}
    made: dict[str, str] = {}
    for length, share in sorted(want.items()):
        words = [word for word in training_words() if len(word) == length]
        most = len(made) + round(spread * (share - have.get(length, 0)) * len(pairs))
        rng = random.Random(length)
        for word in words * SLIPS_PER_WORD:
            if len(made) >= most:
                break
            if (slip := slipped(word, rng)) not in known:
                made.setdefault(slip, word)
    return found + list(made.items())


def _lengths(words: Iterable[str]) -> dict[int, float]:
    """{letters: share of the words that have so many}."""
    counts = Counter(map(len, words))
    return {length: count / counts.total() for length, count in counts.items()}


@cache
def training_words() -> list[str]:
    """The real words of the training split, by hash."""
    doubtful = {wrong for wrong, _ in _dictionary()}  # also those with several corrections
    known = [w for w in real_words() if w not in doubtful and split_of(w) == "train"]
    return sorted(known, key=text_hash)


def asks_right_word(question: str, answer: str) -> bool | None:
    """True if a question of the task `correct` asks a word that is right already, False if it asks
    another one; None for a question of another kind."""
    if not question.startswith(CORRECT):
        return None
    return composed(question.removeprefix(CORRECT).strip()) == composed(answer.strip())
