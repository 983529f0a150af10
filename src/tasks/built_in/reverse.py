"""A word from its end to its start: `Write receive backwards.` -> `eviecer`"""

from src.tasks.task import Asked, Task

TASK = Task(
    name="reverse",
    summary="a word from its last letter to its first",
    phrasings=(
        "Write {word} backwards.",
        "Reverse the letters of {word}.",
        "What is {word} from its last letter to its first?",
    ),
    make=lambda word, rng: Asked(word[::-1]) if word != word[::-1] else None,
    per_word=1,
)
