"""The words of the built-in tasks that a tokenizer cuts into more than one token"""

from functools import lru_cache
from pathlib import Path

from src.tasks.words import target_words, training_words

# Before a word in a question: how a tokenizer marks a space before it is its own affair.
BEFORE = "Spell the word: "


def words_of_several_tokens(tokenizer: Path) -> frozenset[str]:
    """The words that take more than one token of the tokenizer.json at this path where they stand
    after a space."""
    changed = tokenizer.stat()
    return _several(tokenizer, changed.st_mtime_ns, changed.st_size)


@lru_cache(maxsize=8)
def _several(path: Path, changed: int, size: int) -> frozenset[str]:
    from tokenizers import Tokenizer

    words = sorted({*target_words(), *training_words()})
    cut = Tokenizer.from_file(str(path)).encode_batch(
        [BEFORE + word for word in words], add_special_tokens=False
    )
    # A token of the word has one of its letters; of the space before it there may be one alone.
    return frozenset(
        word
        for word, found in zip(words, cut, strict=True)
        if sum(end > len(BEFORE) for start, end in found.offsets if end > start) > 1
    )
