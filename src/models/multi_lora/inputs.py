"""The input of one training step: the rows of all slots as tensors of one static shape.

Dimension letters: __init__.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

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
    targets = step.integers.split(step.shape.parts, 1)[3]
    counts = (targets != IGNORED).sum(1)
    return max(int(part.sum()) for part in counts.split(at_once))


def flattened(step: StepInput, share: torch.Tensor) -> StepInput:
    """A step of padded rows (BatchShape) with its rows laid flat, in the least room.

    share: (K,) True where the rows of an adapter may share their head.
    """
    shape = step.shape
    assert isinstance(shape, BatchShape)
    rows, length, answers = shape
    ids, positions, targets, keys = step.integers.long().split(
        [rows * length, answers, answers, 1], 1
    )
    counted = targets != IGNORED
    answers = max(int(counted.sum(1).max()), 1)  # they come before the padding
    positions, targets, counted = (part[:, :answers] for part in (positions, targets, counted))
    flat = FlatRows.of(ids.view(-1, rows, length), positions, counted, share)
    integers = (
        ids.gather(1, flat.source), flat.source, flat.answer_positions, targets, flat.table, keys
    )  # fmt: skip
    tokens, shared = flat.source.shape[1], bool(flat.heads.any())
    return StepInput(
        FlatShape(rows, length, tokens, answers, shared), torch.cat(integers, 1), step.reals
    )


def in_room(step: StepInput, shape: FlatShape) -> StepInput:
    """A step of rows laid flat in the static shape `shape`, which is no smaller than its own."""
    own = step.shape
    assert isinstance(own, FlatShape)
    ids, source, positions, targets, table, keys = step.integers.split(own.parts, 1)
    more, answers = shape.tokens - own.tokens, shape.answers - own.answers
    source = source // own.length * shape.length + source % own.length
    starts, ends, sizes = table.split([own.rows, own.rows, 2], 1)
    parts = [F.pad(ids, (0, more)), F.pad(source, (0, more)), F.pad(positions, (0, answers))]
    parts.append(F.pad(targets, (0, answers), value=IGNORED))
    parts += [F.pad(part, (0, shape.rows - own.rows)) for part in (starts, ends)]
    return StepInput(shape, torch.cat([*parts, sizes, keys], 1), step.reals)
