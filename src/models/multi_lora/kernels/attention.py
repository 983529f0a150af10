"""Causal attention within short rows, and attention of one new token to a cache.

A row of words is short, so one program reads a row's queries, keys and values of a head once and
keeps the T x T scores in registers.

    q, o            (K, M, H d)       one row is T consecutive tokens of M
    k, v            (K, M, H_kv d)    q, k and v are slices of one tensor, so their strides differ
    cos, sin        (T, d)            rotary positions; unused where ROTARY is false
    key, value      (rows, H_kv, slots, d)    cache of decoding

HEADS is H, GROUP = H / H_kv query heads share a key head, WIDTH is d, BLOCK the next power of two
of T or slots. A head is read as two halves, x_1 and x_2, because rotary positions mix them.
Dimension letters: multi_lora.__init__.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl

from src.models.multi_lora import forward
from src.models.multi_lora.base import Geometry
from src.models.multi_lora.forward import Rotary

MAX_ROW_TOKENS = 128  # tokens of a row whose scores fit in registers


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
    q_ptr, k_ptr, v_ptr, o_ptr, cos_ptr, sin_ptr,
    q_row, k_row, v_row, length, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ROTARY: tl.constexpr,
):  # fmt: skip
    """One head of one row: softmax(q k^T * scale) v, causal.

    Grid (rows, H). q_row, k_row, v_row: elements from a token's vector to the next token's.
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    position = tl.arange(0, BLOCK)
    column = tl.arange(0, half)
    in_row = position[:, None] < length
    token = row * length + position[:, None]
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
    visible = (position[:, None] >= position[None, :]) & (position[None, :] < length)
    scores = tl.where(visible, scores * scale, -float("inf"))
    probs = tl.exp(scores - tl.max(scores, 1)[:, None])
    probs = (probs / tl.sum(probs, 1)[:, None]).to(dtype)
    o_at = o_ptr + token * (HEADS * WIDTH) + head * WIDTH + column[None, :]
    tl.store(o_at, tl.dot(probs, v_1, input_precision="ieee").to(dtype), mask=in_row)
    tl.store(o_at + half, tl.dot(probs, v_2, input_precision="ieee").to(dtype), mask=in_row)


@triton.jit
def _attention_backward(
    do_ptr, q_ptr, k_ptr, v_ptr, dq_ptr, dk_ptr, dv_ptr, cos_ptr, sin_ptr,
    q_row, k_row, v_row, length, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ROTARY: tl.constexpr,
):  # fmt: skip
    """Gradients of the heads of one row that share a key head, laid out as q, k and v are.

    Grid (rows, H_kv). The attention probabilities are computed again, not kept by the forward.
    """
    row, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    position = tl.arange(0, BLOCK)
    column = tl.arange(0, half)
    in_row = position[:, None] < length
    token = row * length + position[:, None]
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
    visible = (position[:, None] >= position[None, :]) & (position[None, :] < length)
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
        do_1 = tl.load(do_at, mask=in_row, other=0.0)
        do_2 = tl.load(do_at + half, mask=in_row, other=0.0)
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
        tl.store(dq_ptr + q_at, dq_1.to(dtype), mask=in_row)
        tl.store(dq_ptr + q_at + half, dq_2.to(dtype), mask=in_row)
    if ROTARY:
        dk_1, dk_2 = _rotate(dk_1, dk_2, cos_ptr, sin_ptr, position, half, column, in_row, -1)
    tl.store(dk_ptr + k_at, dk_1.to(dtype), mask=in_row)
    tl.store(dk_ptr + k_at + half, dk_2.to(dtype), mask=in_row)
    tl.store(dv_ptr + v_at, dv_1.to(dtype), mask=in_row)
    tl.store(dv_ptr + v_at + half, dv_2.to(dtype), mask=in_row)


class _Attention(torch.autograd.Function):
    """Attention of qkv (K, M, (H + 2 H_kv) d), the output of a block's input layers."""

    @staticmethod
    def forward(ctx: Any, geometry: Geometry, length: int, cos: Any, sin: Any, qkv: Any) -> Any:
        heads, width = geometry.heads, geometry.head_dim
        q, k, v = _split(qkv, geometry)
        adapters, tokens, _ = qkv.shape
        mixed = qkv.new_empty(adapters, tokens, heads * width)
        block = max(16, triton.next_power_of_2(length))
        _attention_forward[(adapters * tokens // length, heads)](
            q, k, v, mixed, cos if cos is not None else q, sin if sin is not None else q,
            q.stride(-2), k.stride(-2), v.stride(-2), length, width**-0.5,
            HEADS=heads, GROUP=heads // geometry.num_key_value_heads, WIDTH=width, BLOCK=block,
            ROTARY=cos is not None, num_warps=_warps(block),
        )  # fmt: skip
        ctx.save_for_backward(cos, sin, qkv)
        ctx.geometry, ctx.length = geometry, length
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin, qkv = ctx.saved_tensors
        geometry, length, width = ctx.geometry, ctx.length, ctx.geometry.head_dim
        dqkv = torch.empty_like(qkv)
        q, k, v = _split(qkv, geometry)
        dq, dk, dv = _split(dqkv, geometry)
        grad = grads[0].contiguous()
        adapters, tokens, _ = grad.shape
        block = max(16, triton.next_power_of_2(length))
        _attention_backward[(adapters * tokens // length, geometry.num_key_value_heads)](
            grad, q, k, v, dq, dk, dv, cos if cos is not None else q, sin if sin is not None else q,
            q.stride(-2), k.stride(-2), v.stride(-2), length, width**-0.5,
            HEADS=geometry.heads, GROUP=geometry.heads // geometry.num_key_value_heads, WIDTH=width,
            BLOCK=block, ROTARY=cos is not None, num_warps=_warps(block),
        )  # fmt: skip
        return None, None, None, None, dqkv


def _warps(block: int) -> int:
    return 2 if block <= 32 else 4 if block <= 64 else 8


def _split(qkv: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, ...]:
    """q (K, M, H d), k and v (K, M, H_kv d), as views."""
    d, kv_heads = geometry.head_dim, geometry.num_key_value_heads
    return qkv.split([d * geometry.heads, d * kv_heads, d * kv_heads], 2)


def attention(
    qkv: torch.Tensor,  # (K, M, (H + 2 H_kv) d)
    geometry: Geometry,
    rotary: Rotary | None,
    length: int,  # T
) -> torch.Tensor:
    """`forward.causal_attention` in one kernel.

    Rows over MAX_ROW_TOKENS and head sizes other than 32, 64 and 128 take PyTorch's kernel.
    """
    width = geometry.head_dim
    if length > MAX_ROW_TOKENS or width & (width - 1) or not 32 <= width <= 128:
        return forward.causal_attention(qkv, geometry, rotary, length)
    cos, sin = (None, None) if rotary is None else rotary
    mixed: torch.Tensor = _Attention.apply(geometry, length, cos, sin, qkv)
    return mixed


@triton.jit
def _cached_attention(
    q_ptr, k_ptr, v_ptr, keys_ptr, values_ptr, position_ptr, o_ptr,
    q_row, k_row, v_row, cache_row, cache_head, scale,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One new token of one row, for the heads that share a key head. Grid (rows, H_kv).

    Writes its key and value to the cache (rows, H_kv, slots, d).
    """
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, WIDTH)
    slot = tl.arange(0, BLOCK)
    position = tl.load(position_ptr + row)
    k = tl.load(k_ptr + row * k_row + head * WIDTH + column)
    v = tl.load(v_ptr + row * v_row + head * WIDTH + column)
    cache = row * cache_row + head * cache_head
    tl.store(keys_ptr + cache + position * WIDTH + column, k)
    tl.store(values_ptr + cache + position * WIDTH + column, v)
    offset = cache + slot[:, None] * WIDTH + column[None, :]
    own = (slot == position)[:, None]
    # The new key and value come from registers: other threads may not see the store yet.
    before = (slot < position)[:, None]
    keys = tl.where(own, k[None, :], tl.load(keys_ptr + offset, mask=before, other=0.0))
    values = tl.where(own, v[None, :], tl.load(values_ptr + offset, mask=before, other=0.0))
    for member in range(GROUP):
        q_at = head * GROUP + member
        q = tl.load(q_ptr + row * q_row + q_at * WIDTH + column).to(tl.float32)
        scores = tl.sum(keys.to(tl.float32) * q[None, :], 1) * scale
        scores = tl.where(slot <= position, scores, -float("inf"))
        probs = tl.exp(scores - tl.max(scores, 0))
        probs = (probs / tl.sum(probs, 0)).to(k.dtype).to(tl.float32)
        mixed = tl.sum(values.to(tl.float32) * probs[:, None], 0)
        heads = tl.num_programs(1) * GROUP
        tl.store(o_ptr + (row * heads + q_at) * WIDTH + column, mixed.to(k.dtype))


def cached_attention(
    q: torch.Tensor,  # (rows, 1, H, d)
    k: torch.Tensor,  # (rows, 1, H_kv, d)
    v: torch.Tensor,  # (rows, 1, H_kv, d)
    key_cache: torch.Tensor,  # (rows, H_kv, slots, d)
    value_cache: torch.Tensor,  # (rows, H_kv, slots, d)
    positions: torch.Tensor,  # (rows,)
) -> torch.Tensor:
    """`forward.cached_attention` in one kernel.

    Caches over MAX_ROW_TOKENS and head sizes other than 32, 64 and 128 take PyTorch's kernel.
    """
    rows, kv_heads, slots, width = key_cache.shape
    if slots > MAX_ROW_TOKENS or width & (width - 1) or not 32 <= width <= 128:
        return forward.cached_attention(q, k, v, key_cache, value_cache, positions)
    heads = q.shape[2]
    mixed = q.new_empty(rows, heads * width)
    _cached_attention[(rows, kv_heads)](
        q, k, v, key_cache, value_cache, positions, mixed, q.stride(0), k.stride(0), v.stride(0),
        key_cache.stride(0), key_cache.stride(1), width**-0.5, GROUP=heads // kv_heads, WIDTH=width,
        BLOCK=max(16, triton.next_power_of_2(slots)), num_warps=4,
    )  # fmt: skip
    return mixed
