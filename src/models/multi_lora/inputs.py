"""The input of one training step: the rows of all slots as tensors of one static shape.

Dimension letters: __init__.
"""

from typing import NamedTuple

import torch


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
    """The static shape of a step whose rows the device lays flat (see rows) before it computes
    them."""

    rows: int  # B
    length: int  # T: no row is longer
    answers: int  # N
    tokens: int  # M: no fewer than the tokens of any adapter's rows, laid flat
    shared: bool  # False where no adapter's rows share a head
    # No fewer than all answer tokens of the adapters that go through the base together; None: K N.
    counted: int | None = None

    @property
    def num_integers(self) -> int:
        """Integers of one adapter in a step: see `StepInput`."""
        return BatchShape(*self[:3]).num_integers


class LossNumbers(NamedTuple):
    """Per-adapter numbers of the loss in one step; the defaults are those of an idle slot."""

    loss_weight: float = 0.0  # 1 / its number of answer tokens
    label_smoothing: float = 0.0
    lora_dropout: float = 0.0


class StepInput(NamedTuple):
    """One step of all slots, on the CPU. Each slot has one row in both tensors.

    integers: ids (B * T), answer positions (N), targets (N), key of the dropout masks (1); answer
    tokens come first, then padding with targets of IGNORED.
    reals: the optimizer's hyper-parameters (its `columns`), then LossNumbers.
    """

    shape: BatchShape | FlatShape
    integers: torch.Tensor  # (K, shape.num_integers)
    reals: torch.Tensor  # (K, columns + 3)


def parts_of(
    shape: BatchShape | FlatShape,
    integers: torch.Tensor,  # (K, shape.num_integers)
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids (K, B, T), answer positions (K, N), targets (K, N) and keys (K,) of a step."""
    rows, length, answers = shape[:3]
    ids, positions, targets, keys = integers.split([rows * length, answers, answers, 1], 1)
    return ids.view(-1, rows, length), positions, targets, keys[:, 0]
