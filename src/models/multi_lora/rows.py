"""Where tokens lie when the rows of an adapter are laid flat: no padding, and their head once.

The rows of a task begin with the same tokens, those of its template, at the same positions. Causal
attention gives these the same hidden states in each row, so their keys and values serve all rows,
and the gradients of all rows add up in them. Dimension letters: __init__; here M is the length of
one adapter's sequence: the shared head, each row's own tokens, then padding.
"""

from typing import NamedTuple

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
        room: int | None = None,
    ) -> "FlatRows":
        """The layout with only the tokens that an answer depends on.

        These are not the padding, rows without answers, and each row's last token. Without `share`
        each row has its own head, as LoRA dropout needs it: its masks differ between the rows.
        M is `room`, which must hold each adapter's tokens; without it the most that one has, which
        is read from the device.
        """
        adapters, rows, length = ids.shape
        column = torch.arange(length, device=ids.device)
        position = answer_positions % length
        # Answers that are padding go to a row of their own, which is dropped.
        row = (answer_positions // length).where(counted, rows)
        none = row.new_zeros(adapters, rows + 1)
        ends = none.scatter_reduce(1, row, position + 1, "amax")[:, :rows]
        begins = (none + length).scatter_reduce(1, row, position, "amin")[:, :rows]
        answered = ends > 0
        first = answered.int().argmax(1)  # (K,)
        alike = ids == ids.gather(1, first[:, None, None].expand(-1, 1, length))
        alike = (alike | ~answered[..., None]).all(1)  # (K, T)
        # At most up to the first answer token's position: what predicts differs by its row.
        alike &= column < begins.amin(1, keepdim=True)
        alike &= answered.sum(1, keepdim=True) > 1
        if share is not None:
            alike &= share[:, None]
        heads = alike.cumprod(1).sum(1)
        own = torch.where(answered, ends - heads[:, None], 0)
        starts = own.cumsum(1) - own
        is_first = torch.arange(rows, device=ids.device) == first[:, None]
        laid = (column < ends[..., None]) & ((column >= heads[:, None, None]) | is_first[..., None])
        place = laid.flatten(1).cumsum(1) - 1  # (K, B T)
        totals = place[:, -1] + 1
        tokens = room or max(int(totals.max()), 1)
        source = row.new_zeros(adapters, tokens + 1)
        every = torch.arange(rows * length, device=ids.device).expand(adapters, -1)
        source.scatter_(1, place.where(laid.flatten(1), tokens), every)
        return FlatRows(
            source[:, :tokens],
            place.gather(1, answer_positions).where(counted, 0),
            torch.cat((starts, ends, heads[:, None], totals[:, None]), 1),
            length,
        )
