"""Examples as arrays, from which batches are cut without a loop over rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakValueDictionary

import numpy as np

from src.training.row_order import shuffled
from src.training.rows import Row


@dataclass(frozen=True, eq=False)
class ExampleArrays:
    """Examples as arrays: ids (n, longest) right-padded, lengths of prompt and answer (n,)."""

    ids: np.ndarray
    prompts: np.ndarray
    answers: np.ndarray

    @staticmethod
    def of(rows: Sequence[Row], pad: int) -> "ExampleArrays":
        ids = np.full((len(rows), max(map(len, rows), default=0)), pad, dtype=np.int32)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row.prompt_ids + row.answer_ids
        return ExampleArrays(
            ids,
            np.array([len(row.prompt_ids) for row in rows], dtype=np.int64),
            np.array([len(row.answer_ids) for row in rows], dtype=np.int64),
        )

    @cached_property
    def head(self) -> int:
        """The tokens with which all rows begin, before the last one of any prompt."""
        most = int(self.prompts.min()) - 1 if len(self.prompts) else 0
        alike = (self.ids[:, :most] == self.ids[:1, :most]).all(0)
        return int(np.logical_and.accumulate(alike).sum())

    def answer(self, row: int) -> list[int]:
        """The tokens of a row's answer, which end with EOS."""
        start = self.prompts[row]
        tokens: list[int] = self.ids[row, start : start + self.answers[row]].tolist()
        return tokens

    def labelled(self, chosen: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """For the rows `chosen`, laid out with `length` tokens each: the flat position that
        predicts each answer token (n,), and the token (n,)."""
        counts = self.answers[chosen]
        row = np.repeat(np.arange(len(chosen)), counts)
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        place = self.prompts[chosen][row] + offset
        return row * length + place - 1, self.ids[chosen[row], place]


@dataclass(frozen=True, eq=False)
class Epoch:
    """The rows of one epoch in their order, and what each of its steps holds, (steps,) each."""

    order: np.ndarray  # (n,)
    tokens: list[int]
    answer_tokens: list[int]
    longest: list[int]  # tokens of its longest row


_epochs: WeakValueDictionary[tuple[ExampleArrays, int, int, int], Epoch] = WeakValueDictionary()


def epoch_of(arrays: ExampleArrays, seed: int, number: int, batch: int) -> Epoch:
    """Epoch `number` of runs with this seed that take `batch` rows a step, in the order of the TRL
    engine. All that ask for it have the same object, for as long as one of them keeps it."""
    key = arrays, seed, number, batch
    if (epoch := _epochs.get(key)) is None:
        epoch = _epochs[key] = _make_epoch(*key)
    return epoch


def _make_epoch(arrays: ExampleArrays, seed: int, number: int, batch: int) -> Epoch:
    order = shuffled(len(arrays.ids), seed, number).numpy()
    lengths, starts = (arrays.prompts + arrays.answers)[order], range(0, len(order), batch)
    return Epoch(
        order,
        np.add.reduceat(lengths, starts).tolist(),
        np.add.reduceat(arrays.answers[order], starts).tolist(),
        np.maximum.reduceat(lengths, starts).tolist(),
    )
