"""The words that the built-in tasks ask about, and the splits that they are cut into"""

import gzip
import hashlib
import importlib.resources
import re
from functools import cache, lru_cache
from pathlib import Path

from src import paths
from src.files import retry
from src.text import caseless

MIN_WORD_SHARE = 1e-6  # of all words in a corpus; rarer entries are mostly names and slips


@lru_cache(maxsize=200_000)
def split_of(word: str) -> str:
    """The split of a word by its hash: train (80%), validation or test (10% each)."""
    bucket = text_hash(word) % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


def text_hash(text: str) -> int:
    """A number in [0, 2**64) that case, surrounding spaces and the Unicode form do not change."""
    return int.from_bytes(hashlib.sha256(caseless(text.strip()).encode()).digest()[:8])


@cache
def dictionary() -> list[tuple[str, str]]:
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
    plain = [(w, r) for w, r in dictionary() if letters.fullmatch(w) and letters.fullmatch(r)]
    words = {right for _, right in plain}
    return sorted({(wrong, right) for wrong, right in plain if wrong not in words})


@cache
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


@cache
def training_words() -> list[str]:
    """The real words of the training split, by hash."""
    doubtful = {wrong for wrong, _ in dictionary()}  # also those with several corrections
    known = [w for w in real_words() if w not in doubtful and split_of(w) == "train"]
    return sorted(known, key=text_hash)
