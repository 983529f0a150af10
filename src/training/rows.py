"""One question with its answer, in text and in tokens"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One question with its answer, in text and in tokens."""

    word: str
    question: str
    answer: str  # as the tokenizer gives it back: no model can answer anything else
    prompt_ids: list[int]
    answer_ids: list[int]  # ends with EOS
    task: str | None = None  # the built-in task that asks it

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)
