"""Rows as they are asked in an evaluation, laid out once for all adapters that answer them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from src.models.losses import IGNORED
from src.training import scoring
from src.training.packed.arrays import ExampleArrays
from src.training.rows import Row
from src.training.score_sheet import ScoreSheet


@dataclass(eq=False)
class Part:
    """Rows that are computed together, as arrays; `count` of them."""

    ids: np.ndarray  # (count, T) right-padded
    prompts: np.ndarray  # (count,) tokens of each prompt
    answers: np.ndarray  # (count,) tokens of each answer
    rooms: np.ndarray  # (count,) max new tokens
    true_texts: list[str]  # of the true answers, as far as there is room for them
    positions: np.ndarray  # (N,) of what predicts each answer token, in rows of T
    targets: np.ndarray  # (N,)
    on_device: list[torch.Tensor] | None = None  # `padded`, where all members share it

    @property
    def count(self) -> int:
        return len(self.ids)

    @property
    def answer_tokens(self) -> int:
        """N, those of all answers."""
        return len(self.targets)

    @cached_property
    def answer_starts(self) -> np.ndarray:
        """Index of each answer's first token among those of all answers, (count,)."""
        starts: np.ndarray = np.cumsum(self.answers) - self.answers
        return starts

    def padded(
        self, rows: int, length: int, answers: int, pad: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token ids (rows, length), answer positions and targets (answers,), padded to these
        sizes."""
        ids = np.full((rows, length), pad, dtype=np.int64)
        ids[: self.count, : self.ids.shape[1]] = self.ids
        positions = np.zeros(answers, dtype=np.int64)
        targets = np.full(answers, IGNORED, dtype=np.int64)
        width = max(self.ids.shape[1], 1)
        row, column = np.divmod(self.positions, width)
        positions[: self.answer_tokens] = row * length + column
        targets[: self.answer_tokens] = self.targets
        return ids, positions, targets


@dataclass(eq=False)
class AskedRows:
    """Rows in the order in which they are scored: longest first, in batches."""

    given: Sequence[Row]
    order: list[int]  # of each place, the index in `given`
    arrays: ExampleArrays  # in this order
    lengths: np.ndarray  # (rows,)
    rooms: np.ndarray  # (rows,) max new tokens
    budget: int  # the most of them
    texts: list[str]  # of the true answers
    sheet: ScoreSheet
    _parts: dict[int, Part] = field(default_factory=dict)  # by their first row
    _size: int = 0  # rows of each of them

    @staticmethod
    def of(
        given: Sequence[Row],
        tokenizer: Any,
        context: int | None,
        batch_size: int,
        max_new_tokens: int | None,
    ) -> "AskedRows":
        order = sorted(range(len(given)), key=lambda index: len(given[index]), reverse=True)
        rows = [given[index] for index in order]
        arrays = ExampleArrays.of(rows, tokenizer.pad_token_id)
        budget = max_new_tokens or scoring.longest_answer(rows) + 8
        rooms = np.full(len(rows), budget, dtype=np.int64)
        if context and len(rows):  # of a batch the longest prompt decides
            starts = range(0, len(rows), batch_size)
            longest = np.maximum.reduceat(arrays.prompts, starts)
            rooms = np.minimum(rooms, np.repeat(context - longest, batch_size)[: len(rows)])
        rooms = np.maximum(rooms, 1)
        eos = tokenizer.eos_token_id
        true = [scoring.until(arrays.answer(row)[: rooms[row]], eos) for row in range(len(rows))]
        return AskedRows(
            given,
            order,
            arrays,
            arrays.prompts + arrays.answers,
            rooms,
            budget,
            scoring.texts_of(tokenizer, true),
            ScoreSheet.of(given),
        )

    def __len__(self) -> int:
        return len(self.order)

    @property
    def longest_prompt(self) -> int:
        return int(self.arrays.prompts.max(initial=0))

    def part(self, start: int, size: int) -> Part:
        """The rows from `start` on, `size` of them where there are as many; the same object each
        time, until parts of another size are asked for."""
        size = min(size, len(self.order))
        if size != self._size:  # it hangs on how many adapters are asked and fit into memory
            self._parts.clear()
            self._size = size
        if start not in self._parts:
            own = slice(start, start + size)
            ids = self.arrays.ids[own, : int(self.lengths[own].max(initial=0))]
            chosen = np.arange(len(self.order))[own]
            self._parts[start] = Part(
                ids,
                self.arrays.prompts[own],
                self.arrays.answers[own],
                self.rooms[own],
                self.texts[own],
                *self.arrays.labelled(chosen, ids.shape[1]),
            )
        return self._parts[start]


def together(parts: Sequence[Part]) -> tuple[list[int], list[Part]]:
    """Of each part its index in those that differ, and these."""
    distinct = list({id(part): part for part in parts}.values())
    place = {id(part): index for index, part in enumerate(distinct)}
    return [place[id(part)] for part in parts], distinct
