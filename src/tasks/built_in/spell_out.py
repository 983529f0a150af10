"""A word letter by letter: `Spell the word: receive` -> `r e c e i v e`"""

from src.tasks.task import Asked, Task

TASK = Task(
    name="spell_out",
    summary="a word letter by letter",
    phrasings=(
        "Spell the word: {word}",
        "Write {word} letter by letter.",
        "Which letters make up the word {word}, in their order?",
        "How do you spell {word}?",
    ),
    make=lambda word, rng: Asked(tuple(word)),
    answers="letters",
    per_word=1,
)
