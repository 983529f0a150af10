"""The word that letters spell: `Which word do these letters spell? r e c e i v e` -> `receive`"""

from src.tasks.task import Asked, Task

TASK = Task(
    name="spell_inverse",
    summary="the word that letters spell",
    phrasings=(
        "Which word do these letters spell? {letters}",
        "Join these letters to a word: {letters}",
        "Write as one word: {letters}",
    ),
    make=lambda word, rng: Asked(word, {"letters": tuple(word)}),
    per_word=1,
)
