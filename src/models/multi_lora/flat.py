"""Rows laid flat (see rows): the transformer over them, and attention that suits a CPU.

Dimension letters: __init__, and M as in rows; S is the most tokens of its own that a row has.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import FrozenBase, Geometry, Rotary
from src.models.multi_lora.forward import (
    KernelSet,
    all_blocks,
    attend,
    embed,
    has_kernel,
    span,
    split_heads,
)
from src.models.multi_lora.linear import Dropout
from src.models.multi_lora.rows import FlatRows


def flat_hidden_states(
    base: FrozenBase,
    stacks: Sequence[LoraStack],
    tokens: torch.Tensor,  # (K, M) ids of the tokens laid flat
    rows: FlatRows,
    *,
    dropout: Dropout | None = None,  # of B * T tokens
    kernels: KernelSet = KernelSet(),  # noqa: B008
) -> torch.Tensor:
    """`forward.hidden_states` of rows laid flat, (K, N, D)."""
    hidden = embed(base, tokens, rows.source % rows.length)
    attention: Callable[..., torch.Tensor] = partial(kernels.flat_attention, rows=rows)
    if len(tokens) == 1 and tokens.device.type == "cpu":
        attention = SingleAdapterAttention(rows)
    attention = partial(attention, geometry=base.geometry)
    dropout = dropout and dropout.at_positions(rows.source)
    return all_blocks(base, stacks, hidden, attention, rows.answer_positions, dropout, kernels)


def has_flat_attention(geometry: Geometry, length: int, device: torch.device) -> bool:
    """True where rows of up to `length` tokens had better be laid flat.

    On a GPU it takes a kernel, which knows short rows only; the others stay padded.
    """
    return device.type == "cpu" or has_kernel(geometry, length)


class SingleAdapterAttention:
    """`forward.flat_attention` of one adapter, whose sizes are read: nothing of the head is
    computed twice."""

    def __init__(self, rows: FlatRows):
        (source,), self.padding = rows.source, rows.source.shape[1] - int(rows.totals)
        self.head, self.count = int(rows.heads), rows.num_rows
        own = source[self.head : int(rows.totals)]
        self.width = int(rows.ends.max()) - self.head  # S
        # (M - head,) indices into B * S
        self.own = own // rows.length * self.width + own % rows.length - self.head

    def __call__(
        self,
        qkv: torch.Tensor,  # (1, M, (H + 2 H_kv) d)
        rotary: Rotary | None,  # of positions from 0
        geometry: Geometry,
    ) -> torch.Tensor:
        """Causal attention of each row to the shared head and to itself, (1, M, H d)."""
        head, count, width = self.head, self.count, self.width

        def parts(tokens: torch.Tensor, start: int, length: int) -> tuple[torch.Tensor, ...]:
            """q, k and v (rows, heads, length, d) of rows whose first token is at `start`."""
            heads = split_heads(tokens, geometry, span(rotary, start, length), length)
            return tuple(part.transpose(1, 2) for part in heads)

        padded = _Pad.apply(qkv[0, head : head + len(self.own)], self.own, count * width)
        q, k, v = parts(padded[None], head, width)
        if not head:
            return F.pad(self._flattened(attend(q, k, v, geometry)), (0, 0, 0, self.padding))[None]
        q_head, k_head, v_head = parts(qkv[:, :head], 0, head)
        k, v = (
            torch.cat((shared.expand(count, -1, -1, -1), own), 2)
            for shared, own in ((k_head, k), (v_head, v))
        )
        visible = torch.ones(width, head + width, dtype=torch.bool).tril(head)
        mixed = attend(q, k, v, geometry, visible)
        of_head = attend(q_head, k_head, v_head, geometry)
        flat = torch.cat((of_head.transpose(1, 2).reshape(head, -1), self._flattened(mixed)))
        return F.pad(flat, (0, 0, 0, self.padding))[None]

    def _flattened(self, mixed: torch.Tensor) -> torch.Tensor:
        """The rows' own tokens of mixed (B, H, S, d), without padding, (M - head, H d)."""
        every = mixed.transpose(1, 2).reshape(self.count * self.width, -1)
        flat: torch.Tensor = _Unpad.apply(every, self.own)
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
