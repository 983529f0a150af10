"""Where tokens lie when the rows of an adapter are laid flat: no padding, and their head once.

The rows of a task begin with the same tokens, those of its template, at the same positions. Causal
attention gives these the same hidden states in each row, so their keys and values serve all rows,
and the gradients of all rows add up in them. Dimension letters: __init__; here M is the length of
one adapter's sequence: the shared head, each row's own tokens, then padding.
"""

from typing import NamedTuple

import numpy as np
import torch

MAX_ROW_TOKENS = 128  # of a row whose attention scores fit in registers


def fits_in_registers(length: int, head_dim: int) -> bool:
    """True where the attention kernels compute rows, or caches, of `length` tokens."""
    return length <= MAX_ROW_TOKENS and head_dim in (32, 64, 128)


class FlatRows(NamedTuple):
    """Where the tokens of K adapters' rows lie, each adapter's in one sequence of M.

    In the columns of `table`, of which each adapter has a row: `starts` (B) and `ends` (B) of the
    rows, the head's tokens, and all tokens before the padding. Position p of a row is token p where
    it is in the head, else token start + p. `end` is a row's number of positions, 0 for a row
    without answers. The first other row has start 0, so that the head is a part of it.
    """

    source: torch.Tensor  # (K, M) indices into B * T; 0 in the padding
    answer_positions: torch.Tensor  # (K, N) indices into M
    table: torch.Tensor  # (K, 2 B + 2)
    length: int  # T
    shared: bool = True  # False where no adapter's rows share a head

    @property
    def starts(self) -> torch.Tensor:
        return self.table[:, : self.num_rows]

    @property
    def ends(self) -> torch.Tensor:
        return self.table[:, self.num_rows : -2]

    @property
    def heads(self) -> torch.Tensor:
        return self.table[:, -2]

    @property
    def totals(self) -> torch.Tensor:
        return self.table[:, -1]

    @property
    def num_rows(self) -> int:
        """B."""
        return self.table.shape[1] // 2 - 1

    @staticmethod
    def of(
        ids: torch.Tensor,  # (K, B, T)
        answer_positions: torch.Tensor,  # (K, N) indices into B * T
        counted: torch.Tensor,  # (K, N) False where an answer position is padding
        share: torch.Tensor | None = None,  # (K,)
    ) -> "FlatRows":
        """The layout with only the tokens that an answer depends on; all tensors on the CPU.

        These are not the padding, rows without answers, and each row's last token. Without `share`
        each row has its own head, as LoRA dropout needs it: its masks differ between the rows.
        """
        # NumPy takes half the time of PyTorch for so many small operations. It also hands over the
        # interpreter's lock less often, and each time a thread that writes files may keep it.
        adapters, rows, length = ids.shape
        token, place_of, real = ids.numpy(), answer_positions.numpy(), counted.numpy()
        adapter, column = np.arange(adapters), np.arange(length)
        position = place_of % length
        # Answers that are padding go to a row of their own, which is dropped.
        row = np.where(real, place_of // length, rows) + adapter[:, None] * (rows + 1)
        every_end = np.zeros(adapters * (rows + 1), dtype=np.int64)
        every_begin = np.full_like(every_end, length)
        np.maximum.at(every_end, row, position + 1)
        np.minimum.at(every_begin, row, position)
        ends, begins = (part.reshape(adapters, -1)[:, :rows] for part in (every_end, every_begin))
        answered = ends > 0
        first = answered.argmax(1)  # (K,)
        alike = token == token[adapter, first][:, None]
        alike = (alike | ~answered[..., None]).all(1)  # (K, T)
        # At most up to the first answer token's position: what predicts differs by its row.
        alike &= column < begins.min(1, keepdims=True)
        alike &= answered.sum(1, keepdims=True) > 1
        if share is not None:
            alike &= share.numpy()[:, None]
        heads = np.logical_and.accumulate(alike, 1).sum(1)
        own = np.where(answered, ends - heads[:, None], 0)
        starts = own.cumsum(1) - own
        is_first = np.arange(rows) == first[:, None]
        laid = (column < ends[..., None]) & ((column >= heads[:, None, None]) | is_first[..., None])
        laid = laid.reshape(adapters, -1)
        place = laid.cumsum(1) - 1  # (K, B T)
        totals = place[:, -1] + 1
        source = np.zeros((adapters, max(int(totals.max()), 1)), dtype=np.int64)
        of_adapter, at = laid.nonzero()
        source[of_adapter, place[of_adapter, at]] = at
        return FlatRows(
            torch.from_numpy(source),
            torch.from_numpy(np.where(real, np.take_along_axis(place, place_of, 1), 0)),
            torch.from_numpy(np.concatenate((starts, ends, heads[:, None], totals[:, None]), 1)),
            length,
        )

    def to(self, device: torch.device) -> "FlatRows":
        """The same on another device."""
        source, positions, table = (
            part.to(device) for part in (self.source, self.answer_positions, self.table)
        )
        return FlatRows(source, positions, table, self.length, self.shared)
