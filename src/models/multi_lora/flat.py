"""The rows of one adapter laid flat: no padding, and the tokens that all rows share only once.

The rows of a task begin with the same tokens, those of its template, at the same positions. Causal
attention gives these the same hidden states in each row, so their keys and values serve all rows,
and the gradients of all rows add up in them. Dimension letters: __init__; here M is the length of
the shared head plus each row's own tokens, and S the most tokens of its own that a row has.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import FrozenBase, Geometry
from src.models.multi_lora.forward import KernelSet, Rotary, all_blocks, embed, split_heads
from src.models.multi_lora.linear import Dropout


class FlatRows(NamedTuple):
    """Where the tokens of B rows lie in one sequence of M: the head, then each row's own."""

    source: torch.Tensor  # (M,) indices into B * T
    answer_positions: torch.Tensor  # (N,) indices into M
    head: int  # tokens that all rows share
    own: torch.Tensor  # (M - head,) indices into B * S
    shape: tuple[int, int]  # B, S

    @staticmethod
    def of(
        ids: torch.Tensor,  # (B, T)
        answer_positions: torch.Tensor,  # (N,) indices into B * T
        *,
        share: bool = True,
    ) -> "FlatRows":
        """The layout with only the tokens that an answer depends on.

        These are not the padding, rows without answers, and each row's last token. Without `share`
        each row has its own head, as LoRA dropout needs it: its masks differ between the rows.
        """
        rows, length = ids.shape
        row, position = answer_positions // length, answer_positions % length
        nothing = ids.new_zeros(rows, dtype=torch.long)
        ends = nothing.scatter_reduce(0, row, position + 1, "amax")
        starts = (nothing + length).scatter_reduce(0, row, position, "amin")
        answered = ends > 0
        head, first = 0, int(row[0])
        if share and int(answered.sum()) > 1:
            # At most up to the first answer token's position: what predicts differs by its row.
            shared = (ids == ids[first])[answered].all(0)[: int(starts.min())]
            head = int(shared.cumprod(0).sum())
        column = torch.arange(length)
        mine = ((column >= head) & (column < ends[:, None])).flatten().nonzero()[:, 0]
        width = int(ends.max()) - head
        place = torch.empty(rows * length, dtype=torch.long)
        place[mine] = head + torch.arange(len(mine))
        return FlatRows(
            torch.cat((first * length + column[:head], mine)),
            place[answer_positions],
            head,
            mine // length * width + mine % length - head,
            (rows, width),
        )


def flat_hidden_states(
    base: FrozenBase,
    stacks: Sequence[LoraStack],  # of one adapter
    ids: torch.Tensor,  # (B, T)
    rows: FlatRows,
    *,
    dropout: Dropout | None = None,  # of B * T tokens
    kernels: KernelSet = KernelSet(),  # noqa: B008
) -> torch.Tensor:
    """`forward.hidden_states` of one adapter, (1, N, D)."""
    hidden = embed(base, ids.flatten()[rows.source], rows.source % ids.shape[1])
    attention = partial(flat_attention, geometry=base.geometry, rotary=base.rotary, rows=rows)
    dropout = dropout and dropout.at_positions(rows.source[None])
    answers = rows.answer_positions[None]
    return all_blocks(base, stacks, hidden[None], attention, answers, dropout, kernels)


def flat_attention(
    qkv: torch.Tensor,  # (1, M, (H + 2 H_kv) d)
    geometry: Geometry,
    rotary: Rotary | None,  # of positions from 0
    rows: FlatRows,
) -> torch.Tensor:
    """Causal attention of each row to the shared head and to itself, (1, M, H d)."""
    head, (count, width) = rows.head, rows.shape
    grouped = geometry.heads != geometry.num_key_value_heads

    def parts(tokens: torch.Tensor, start: int, length: int) -> tuple[torch.Tensor, ...]:
        """q, k and v (rows, heads, length, d) of rows whose first token has position `start`."""
        turn = rotary and tuple(part[start : start + length] for part in rotary)
        return tuple(p.transpose(1, 2) for p in split_heads(tokens, geometry, turn, length))  # type: ignore[arg-type]

    padded = _Pad.apply(qkv[0, head:], rows.own, count * width)
    q, k, v = parts(padded[None], head, width)
    if not head:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return _flattened(mixed, rows)[None]
    q_head, k_head, v_head = parts(qkv[:, :head], 0, head)
    k, v = (
        torch.cat((shared.expand(count, -1, -1, -1), own), 2)
        for shared, own in ((k_head, k), (v_head, v))
    )
    visible = torch.ones(width, head + width, dtype=torch.bool).tril(head)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=grouped)
    of_head = F.scaled_dot_product_attention(
        q_head, k_head, v_head, is_causal=True, enable_gqa=grouped
    )
    return torch.cat((of_head.transpose(1, 2).reshape(head, -1), _flattened(mixed, rows)))[None]


def _flattened(mixed: torch.Tensor, rows: FlatRows) -> torch.Tensor:
    """The rows' own tokens of mixed (B, H, S, d), without padding, (M - head, H d)."""
    count, width = rows.shape
    flat: torch.Tensor = _Unpad.apply(mixed.transpose(1, 2).reshape(count * width, -1), rows.own)
    return flat


class _Pad(torch.autograd.Function):
    """Tokens (m, C) at their places `at` among `size` ones; zeros elsewhere.

    PyTorch's own gradient of an indexed read adds token by token; these places are distinct.
    """

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, at: torch.Tensor, size: int) -> torch.Tensor:
        ctx.save_for_backward(at)
        padded = tokens.new_zeros(size, tokens.shape[1])
        padded[at] = tokens
        return padded

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (at,) = ctx.saved_tensors
        return grads[0].index_select(0, at), None, None


class _Unpad(torch.autograd.Function):
    """The inverse of _Pad: the tokens at places `at`."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(at)
        ctx.size = len(padded)
        return padded.index_select(0, at)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (at,) = ctx.saved_tensors
        padded = grads[0].new_zeros(ctx.size, grads[0].shape[1])
        padded[at] = grads[0]
        return padded, None
