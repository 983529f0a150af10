"""Causal attention within short rows, padded or laid flat.

A row of words is short, so one program reads a row's queries, keys and values of a head once and
keeps the T x T scores in registers.

    q, o            (K, M, H d)       one row is T consecutive tokens of M
    k, v            (K, M, H_kv d)    q, k and v are slices of one tensor, so their strides differ
    cos, sin        (T.., d)          rotary positions; unused where ROTARY is false
    table           (K, 2 B + 2)      where FLAT: which tokens of M a row is, see rows.FlatRows
    shared          (K B, H_kv, T, 2 d) fp32    what each row adds to dk and dv of the head that the
                                      rows share; unused where SHARED is false

HEADS is H, GROUP = H / H_kv query heads share a key head, WIDTH is d, BLOCK the next power of two
of T. A head is read as two halves, x_1 and x_2, because rotary positions mix them.
Dimension letters: multi_lora.__init__.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl

from src.models.multi_lora import forward
from src.models.multi_lora.base import Geometry, Rotary
from src.models.multi_lora.rows import FlatRows


@triton.jit
def _tokens_of(
    table_ptr, table_row, row, rows, tokens, length, position, FLAT: tl.constexpr
):  # fmt: skip
    """Tokens of M at each position of a row; True where the row has the position; True where the
    token is not another row's; the head's tokens; first and last token of the padding.

    Each row cares for every `rows`-th token of the padding from its own first one.
    """
    if FLAT:
        adapter, index = row // rows, row % rows
        table = table_ptr + adapter * table_row
        start, end = tl.load(table + index), tl.load(table + rows + index)
        head, total = tl.load(table + 2 * rows), tl.load(table + 2 * rows + 1)
        token = adapter * tokens + tl.where(position < head, position, start + position)
        inside = position < end
        own = inside & ((position >= head) | (start == 0))
        first, last = adapter * tokens + total + index, (adapter + 1) * tokens
    else:
        token = row * length + position
        inside = position < length
        own = inside
        head, first, last = row, row, row
    return token[:, None], inside[:, None], own[:, None], head, first, last


@triton.jit
def _zero(ptr, first, last, rows, token_row, WIDTH: tl.constexpr):
    """Zeros into a head of every `rows`-th token from `first` until `last`."""
    column = tl.arange(0, WIDTH)
    for token in range(first, last, rows):
        zeros = tl.zeros((WIDTH,), tl.float32).to(ptr.dtype.element_ty)
        tl.store(ptr + token * token_row + column, zeros)


@triton.jit
def _rotate(x_1, x_2, cos_ptr, sin_ptr, position, half, columns, in_row, SIGN: tl.constexpr):
    """Both halves of each token's head, (BLOCK, d / 2) each, rotated to its position.

    SIGN 1 rotates forward, SIGN -1 back, for gradients.
    """
    offset = position[:, None] * (2 * half) + columns[None, :]
    cos_1 = tl.load(cos_ptr + offset, mask=in_row, other=0.0).to(tl.float32)
    sin_1 = tl.load(sin_ptr + offset, mask=in_row, other=0.0).to(tl.float32)
    x_1, x_2 = x_1.to(tl.float32), x_2.to(tl.float32)
    y_1 = x_1 * cos_1 - SIGN * x_2 * sin_1
    y_2 = x_2 * cos_1 + SIGN * x_1 * sin_1
    return y_1, y_2


@triton.jit
def _attention_forward(
    q_ptr, k_ptr, v_ptr, o_ptr, cos_ptr, sin_ptr, table_ptr,
    q_row, k_row, v_row, table_row, rows, tokens, length, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ROTARY: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """One head of one row: softmax(q k^T * scale) v, causal.

    Grid (K B, H). q_row, k_row, v_row: elements from a token's vector to the next token's.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    position = tl.arange(0, BLOCK)
    column = tl.arange(0, half)
    token, in_row, own, _, first, last = _tokens_of(
        table_ptr, table_row, row, rows, tokens, length, position, FLAT
    )
    q_at = q_ptr + token * q_row + head * WIDTH + column[None, :]
    k_at = k_ptr + token * k_row + (head // GROUP) * WIDTH + column[None, :]
    v_at = v_ptr + token * v_row + (head // GROUP) * WIDTH + column[None, :]
    q_1, q_2 = tl.load(q_at, mask=in_row, other=0.0), tl.load(q_at + half, mask=in_row, other=0.0)
    k_1, k_2 = tl.load(k_at, mask=in_row, other=0.0), tl.load(k_at + half, mask=in_row, other=0.0)
    v_1, v_2 = tl.load(v_at, mask=in_row, other=0.0), tl.load(v_at + half, mask=in_row, other=0.0)
    dtype = q_1.dtype
    if ROTARY:
        q_1, q_2 = _rotate(q_1, q_2, cos_ptr, sin_ptr, position, half, column, in_row, 1)
        k_1, k_2 = _rotate(k_1, k_2, cos_ptr, sin_ptr, position, half, column, in_row, 1)
        q_1, q_2, k_1, k_2 = q_1.to(dtype), q_2.to(dtype), k_1.to(dtype), k_2.to(dtype)
    scores = tl.dot(q_1, tl.trans(k_1), input_precision="ieee")
    scores += tl.dot(q_2, tl.trans(k_2), input_precision="ieee")
    # Keys beyond the row are zeros, which only queries beyond it see.
    visible = position[:, None] >= position[None, :]
    scores = tl.where(visible, scores * scale, -float("inf"))
    probs = tl.exp(scores - tl.max(scores, 1)[:, None])
    probs = (probs / tl.sum(probs, 1)[:, None]).to(dtype)
    o_at = o_ptr + token * (HEADS * WIDTH) + head * WIDTH + column[None, :]
    tl.store(o_at, tl.dot(probs, v_1, input_precision="ieee").to(dtype), mask=own)
    tl.store(o_at + half, tl.dot(probs, v_2, input_precision="ieee").to(dtype), mask=own)
    if FLAT:
        _zero(o_ptr + head * WIDTH, first, last, rows, HEADS * WIDTH, WIDTH)


@triton.jit
def _attention_backward(
    do_ptr, q_ptr, k_ptr, v_ptr, dq_ptr, dk_ptr, dv_ptr, cos_ptr, sin_ptr, table_ptr, shared_ptr,
    q_row, k_row, v_row, table_row, rows, tokens, length, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ROTARY: tl.constexpr, FLAT: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """Gradients of the heads of one row that share a key head, laid out as q, k and v are.

    Grid (K B, H_kv). The attention probabilities are computed again, not kept by the forward.
    """
    row, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    position = tl.arange(0, BLOCK)
    column = tl.arange(0, half)
    token, in_row, own, head_tokens, first, last = _tokens_of(
        table_ptr, table_row, row, rows, tokens, length, position, FLAT
    )
    k_at = token * k_row + kv_head * WIDTH + column[None, :]
    v_at = token * v_row + kv_head * WIDTH + column[None, :]
    k_1 = tl.load(k_ptr + k_at, mask=in_row, other=0.0)
    k_2 = tl.load(k_ptr + k_at + half, mask=in_row, other=0.0)
    v_1 = tl.load(v_ptr + v_at, mask=in_row, other=0.0)
    v_2 = tl.load(v_ptr + v_at + half, mask=in_row, other=0.0)
    dtype = v_1.dtype
    if ROTARY:
        k_1, k_2 = _rotate(k_1, k_2, cos_ptr, sin_ptr, position, half, column, in_row, 1)
        k_1, k_2 = k_1.to(dtype), k_2.to(dtype)
    visible = position[:, None] >= position[None, :]
    dk_1 = tl.zeros((BLOCK, half), tl.float32)
    dk_2 = tl.zeros((BLOCK, half), tl.float32)
    dv_1 = tl.zeros((BLOCK, half), tl.float32)
    dv_2 = tl.zeros((BLOCK, half), tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        q_at = token * q_row + head * WIDTH + column[None, :]
        q_1 = tl.load(q_ptr + q_at, mask=in_row, other=0.0)
        q_2 = tl.load(q_ptr + q_at + half, mask=in_row, other=0.0)
        if ROTARY:
            q_1, q_2 = _rotate(q_1, q_2, cos_ptr, sin_ptr, position, half, column, in_row, 1)
            q_1, q_2 = q_1.to(dtype), q_2.to(dtype)
        scores = tl.dot(q_1, tl.trans(k_1), input_precision="ieee")
        scores += tl.dot(q_2, tl.trans(k_2), input_precision="ieee")
        scores = tl.where(visible, scores * scale, -float("inf"))
        probs = tl.exp(scores - tl.max(scores, 1)[:, None])
        probs = probs / tl.sum(probs, 1)[:, None]
        do_at = do_ptr + token * (HEADS * WIDTH) + head * WIDTH + column[None, :]
        # Of the head's tokens one row has the queries; all rows have their keys and values.
        do_1 = tl.load(do_at, mask=own, other=0.0)
        do_2 = tl.load(do_at + half, mask=own, other=0.0)
        probs_t = tl.trans(probs.to(dtype))
        dv_1 += tl.dot(probs_t, do_1, input_precision="ieee")
        dv_2 += tl.dot(probs_t, do_2, input_precision="ieee")
        dprobs = tl.dot(do_1, tl.trans(v_1), input_precision="ieee")
        dprobs += tl.dot(do_2, tl.trans(v_2), input_precision="ieee")
        dscores = probs * (dprobs - tl.sum(probs * dprobs, 1)[:, None]) * scale
        dscores = dscores.to(dtype)
        dq_1 = tl.dot(dscores, k_1, input_precision="ieee")
        dq_2 = tl.dot(dscores, k_2, input_precision="ieee")
        dscores_t = tl.trans(dscores)
        dk_1 += tl.dot(dscores_t, q_1, input_precision="ieee")
        dk_2 += tl.dot(dscores_t, q_2, input_precision="ieee")
        if ROTARY:
            dq_1, dq_2 = _rotate(dq_1, dq_2, cos_ptr, sin_ptr, position, half, column, in_row, -1)
        tl.store(dq_ptr + q_at, dq_1.to(dtype), mask=own)
        tl.store(dq_ptr + q_at + half, dq_2.to(dtype), mask=own)
        if FLAT:
            _zero(dq_ptr + head * WIDTH, first, last, rows, q_row, WIDTH)
    if ROTARY:
        dk_1, dk_2 = _rotate(dk_1, dk_2, cos_ptr, sin_ptr, position, half, column, in_row, -1)
    if SHARED:
        in_head = position[:, None] < head_tokens
        part = (row * tl.num_programs(1) + kv_head) * length + position[:, None]
        part_at = shared_ptr + part * (2 * WIDTH) + column[None, :]
        tl.store(part_at, dk_1, mask=in_head)
        tl.store(part_at + half, dk_2, mask=in_head)
        tl.store(part_at + WIDTH, dv_1, mask=in_head)
        tl.store(part_at + WIDTH + half, dv_2, mask=in_head)
        in_row = in_row & (position[:, None] >= head_tokens)
    tl.store(dk_ptr + k_at, dk_1.to(dtype), mask=in_row)
    tl.store(dk_ptr + k_at + half, dk_2.to(dtype), mask=in_row)
    tl.store(dv_ptr + v_at, dv_1.to(dtype), mask=in_row)
    tl.store(dv_ptr + v_at + half, dv_2.to(dtype), mask=in_row)
    if FLAT:
        _zero(dk_ptr + kv_head * WIDTH, first, last, rows, k_row, WIDTH)
        _zero(dv_ptr + kv_head * WIDTH, first, last, rows, v_row, WIDTH)


@triton.jit
def _sum_of_head(
    shared_ptr, dk_ptr, dv_ptr, table_ptr, k_row, v_row, table_row, rows, tokens, length,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dk and dv of BLOCK tokens of the head that an adapter's rows share: the sum over the rows.

    In the order of the rows, so that it is the same each time. Grid (K, H_kv, T / BLOCK).
    """
    adapter, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, 2 * WIDTH)[None, :]
    in_head = position < tl.load(table_ptr + adapter * table_row + 2 * rows)
    total = tl.zeros((BLOCK, 2 * WIDTH), tl.float32)
    for index in range(rows):
        part = ((adapter * rows + index) * tl.num_programs(1) + kv_head) * length + position
        part_at = shared_ptr + part * (2 * WIDTH) + column
        total += tl.load(part_at, mask=in_head, other=0.0)
    total = total.to(dk_ptr.dtype.element_ty)
    token = adapter * tokens + position
    dk_at = dk_ptr + token * k_row + kv_head * WIDTH + column
    tl.store(dk_at, total, mask=in_head & (column < WIDTH))
    dv_at = dv_ptr + token * v_row + kv_head * WIDTH + column - WIDTH
    tl.store(dv_at, total, mask=in_head & (column >= WIDTH))


class _Attention(torch.autograd.Function):
    """Attention of qkv (K, M, (H + 2 H_kv) d), the output of a block's input layers.

    `rows` says where they lie flat; None: each `length` tokens are a row.
    """

    @staticmethod
    def forward(
        ctx: Any, geometry: Geometry, length: int, rows: Any, cos: Any, sin: Any, qkv: Any
    ) -> Any:
        heads, width = geometry.heads, geometry.head_dim
        q, k, v = _split(qkv, geometry)
        adapters, tokens, _ = qkv.shape
        mixed = qkv.new_empty(adapters, tokens, heads * width)
        count = tokens // length if rows is None else rows.num_rows
        table, table_row = (q, 0) if rows is None else (rows.table, rows.table.stride(0))
        _attention_forward[(adapters * count, heads)](
            q, k, v, mixed, cos if cos is not None else q, sin if sin is not None else q, table,
            q.stride(-2), k.stride(-2), v.stride(-2), table_row, count, tokens, length,
            geometry.scale, HEADS=heads, GROUP=heads // geometry.num_key_value_heads, WIDTH=width,
            BLOCK=_block(length), ROTARY=cos is not None, FLAT=rows is not None,
            num_warps=_warps(length),
        )  # fmt: skip
        ctx.save_for_backward(cos, sin, qkv)
        ctx.geometry, ctx.length, ctx.rows = geometry, length, rows
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin, qkv = ctx.saved_tensors
        geometry, length, rows, width = ctx.geometry, ctx.length, ctx.rows, ctx.geometry.head_dim
        dqkv = torch.empty_like(qkv)
        q, k, v = _split(qkv, geometry)
        dq, dk, dv = _split(dqkv, geometry)
        grad = grads[0].contiguous()
        (adapters, tokens, _), kv_heads = grad.shape, geometry.num_key_value_heads
        count = tokens // length if rows is None else rows.num_rows
        table, table_row = (q, 0) if rows is None else (rows.table, rows.table.stride(0))
        has_head, shared = rows is not None and rows.shared, q
        if has_head:
            shape = adapters * count, kv_heads, length, 2 * width
            shared = qkv.new_empty(shape, dtype=torch.float32)
        _attention_backward[(adapters * count, kv_heads)](
            grad, q, k, v, dq, dk, dv, cos if cos is not None else q, sin if sin is not None else q,
            table, shared, q.stride(-2), k.stride(-2), v.stride(-2), table_row, count, tokens,
            length, geometry.scale, HEADS=geometry.heads, GROUP=geometry.heads // kv_heads,
            WIDTH=width, BLOCK=_block(length), ROTARY=cos is not None, FLAT=rows is not None,
            SHARED=has_head,
            num_warps=_warps(length) // (2 if length <= 32 else 1),
        )  # fmt: skip
        if has_head:
            _sum_of_head[(adapters, kv_heads, triton.cdiv(length, 8))](
                shared, dk, dv, table, k.stride(-2), v.stride(-2), table_row, count, tokens, length,
                WIDTH=width, BLOCK=8, num_warps=4,
            )  # fmt: skip
        return None, None, None, None, None, dqkv


def _block(length: int) -> int:
    return max(16, triton.next_power_of_2(length))


def _warps(length: int) -> int:
    return 2 if length <= 32 else 4 if length <= 64 else 8


def _split(qkv: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, ...]:
    """q (K, M, H d), k and v (K, M, H_kv d), as views."""
    d, kv_heads = geometry.head_dim, geometry.num_key_value_heads
    return qkv.split([d * geometry.heads, d * kv_heads, d * kv_heads], 2)


def attention(
    qkv: torch.Tensor,  # (K, M, (H + 2 H_kv) d)
    rotary: Rotary | None,  # of positions from 0
    geometry: Geometry,
    length: int,  # T
) -> torch.Tensor:
    """`forward.causal_attention` in one kernel; what `has_kernel` leaves out takes PyTorch's."""
    if not forward.has_kernel(geometry, length):
        return forward.causal_attention(qkv, rotary, geometry, length)
    cos, sin = (None, None) if rotary is None else rotary
    mixed: torch.Tensor = _Attention.apply(geometry, length, None, cos, sin, qkv)
    return mixed


def flat_attention(
    qkv: torch.Tensor,  # (K, M, (H + 2 H_kv) d)
    rotary: Rotary | None,  # of positions from 0
    geometry: Geometry,
    rows: FlatRows,  # of a length that `has_kernel`
) -> torch.Tensor:
    """`forward.flat_attention` in one kernel. No token of the head is computed or read twice but
    in registers."""
    cos, sin = (None, None) if rotary is None else rotary
    mixed: torch.Tensor = _Attention.apply(geometry, rows.length, rows, cos, sin, qkv)
    return mixed
