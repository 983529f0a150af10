"""The input of one training step: the rows of all slots as tensors of one static shape.

Dimension letters: __init__.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from src.models.losses import IGNORED
from src.models.multi_lora.rows import FlatRows


class BatchShape(NamedTuple):
    """The static shape of a step, the same for all adapters; a CUDA graph has one of these."""

    rows: int  # B
    length: int  # T
    answers: int  # N

    @property
    def num_integers(self) -> int:
        """Integers of one adapter in a step: see `StepInput`."""
        return self.rows * self.length + 2 * self.answers + 1


class FlatShape(NamedTuple):
    """The static shape of a step whose rows are laid flat."""

    rows: int  # B
    length: int  # T: no row is longer
    tokens: int  # M
    answers: int  # N
    shared: bool  # False where no adapter's rows share a head
    # No fewer than all answer tokens of the adapters that go through the base together; None: K N.
    counted: int | None = None

    @property
    def num_integers(self) -> int:
        """Integers of one adapter in a step: see `StepInput`."""
        return sum(self.parts)

    @property
    def parts(self) -> tuple[int, ...]:
        """Columns of each part of `StepInput.integers`."""
        return self.tokens, self.tokens, self.answers, self.answers, 2 * self.rows + 2, 1


class LossNumbers(NamedTuple):
    """Per-adapter numbers of the loss in one step; the defaults are those of an idle slot."""

    loss_weight: float = 0.0  # 1 / its number of answer tokens
    label_smoothing: float = 0.0
    lora_dropout: float = 0.0


class StepInput(NamedTuple):
    """One step of all slots, on the CPU. Each slot has one row in both tensors.

    integers: ids (B * T), answer positions (N), targets (N), key of the dropout masks (1); answer
    tokens come first, then padding with targets of IGNORED. Where rows are laid flat: ids (M),
    `FlatRows.source` (M), answer positions (N), targets (N), `FlatRows.table` (2 B + 2), key (1).
    reals: the optimizer's hyper-parameters (its `columns`), then LossNumbers.
    """

    shape: BatchShape | FlatShape
    integers: torch.Tensor  # (K, shape.num_integers)
    reals: torch.Tensor  # (K, columns + 3)


def counted_together(step: StepInput, at_once: int) -> int:
    """The most answer tokens of `at_once` adapters beside each other, in a step laid flat."""
    assert isinstance(step.shape, FlatShape)
    targets = _columns(step.integers, step.shape.parts)[3]
    counts = (targets != IGNORED).sum(1)
    return int(np.add.reduceat(counts, np.arange(0, len(counts), at_once)).max())


def flattened(step: StepInput, share: torch.Tensor) -> StepInput:
    """A step of padded rows (BatchShape) with its rows laid flat, in the least room.

    share: (K,) True where the rows of an adapter may share their head.
    """
    shape = step.shape
    assert isinstance(shape, BatchShape)
    rows, length, answers = shape
    parts = rows * length, answers, answers, 1
    ids, positions, targets, keys = _columns(step.integers, parts)
    counted = targets != IGNORED
    answers = max(int(counted.sum(1).max()), 1)  # they come before the padding
    positions, targets, counted = (part[:, :answers] for part in (positions, targets, counted))
    grid = torch.from_numpy(ids).view(-1, rows, length)
    flat = FlatRows.of(grid, torch.from_numpy(positions), torch.from_numpy(counted), share)
    source, table = flat.source.numpy(), flat.table.numpy()
    tokens = np.take_along_axis(ids, source, 1)
    integers = np.concatenate(
        (tokens, source, flat.answer_positions.numpy(), targets, table, keys), 1
    )
    return StepInput(
        FlatShape(rows, length, source.shape[1], answers, bool(flat.heads.any())),
        torch.from_numpy(integers),
        step.reals,
    )


def in_room(step: StepInput, shape: FlatShape) -> StepInput:
    """A step of rows laid flat in the static shape `shape`, which is no smaller than its own."""
    own = step.shape
    assert isinstance(own, FlatShape)
    ids, source, positions, targets, table, keys = _columns(step.integers, own.parts)
    integers = np.zeros((len(ids), shape.num_integers), dtype=ids.dtype)
    room = _columns(integers, shape.parts)
    room[0][:, : own.tokens] = ids
    room[1][:, : own.tokens] = source // own.length * shape.length + source % own.length
    room[2][:, : own.answers] = positions
    room[3][:] = IGNORED
    room[3][:, : own.answers] = targets
    for first, new in ((0, 0), (own.rows, shape.rows)):  # starts, then ends
        room[4][:, new : new + own.rows] = table[:, first : first + own.rows]
    room[4][:, -2:] = table[:, -2:]
    room[5][:] = keys
    return StepInput(shape, torch.from_numpy(integers), step.reals)


def _columns(integers: torch.Tensor | np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
    """The parts of these integers (K, sum of widths), beside each other, as views."""
    return np.split(np.asarray(integers), np.cumsum(widths)[:-1], 1)
