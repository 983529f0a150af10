"""Triton kernels of the packed engine, each the fusion of a few lines of base, adapters
or optimizer. Imported only where there is a GPU.

Rows of words are short, so attention reads a row's queries, keys and values once and keeps its
scores in registers; norms take the residual sum along; the cross-entropy turns logits into their
gradient where they lie; one kernel is the whole of AdamW.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl

from src.models.losses import IGNORED
from src.models.multi_lora import forward
from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import Geometry, Layer, Linear, Norm
from src.models.multi_lora.forward import KernelSet, Rotary
from src.models.multi_lora.linear import Dropout, linear_forward
from src.models.multi_lora.optimizer import AdamWHyper

LONGEST = 128  # tokens of a row whose scores fit in registers
HIGHEST = 64  # rank of adapters whose gradients fit there beside an activation's


@triton.jit
def _rotated(x_1, x_2, cos_ptr, sin_ptr, at, half, columns, keep, SIGN: tl.constexpr):
    """Both halves of rows after (SIGN 1) or before (SIGN -1) their rotary positions."""
    place = at[:, None] * (2 * half) + columns[None, :]
    cos_1 = tl.load(cos_ptr + place, mask=keep, other=0.0).to(tl.float32)
    sin_1 = tl.load(sin_ptr + place, mask=keep, other=0.0).to(tl.float32)
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
    """One head of one row: softmax(q k^T) v, causal. q_row: numbers from a token to the next."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    at = tl.arange(0, BLOCK)
    column = tl.arange(0, half)
    keep = at[:, None] < length
    token = row * length + at[:, None]
    q_at = q_ptr + token * q_row + head * WIDTH + column[None, :]
    k_at = k_ptr + token * k_row + (head // GROUP) * WIDTH + column[None, :]
    v_at = v_ptr + token * v_row + (head // GROUP) * WIDTH + column[None, :]
    q_1, q_2 = tl.load(q_at, mask=keep, other=0.0), tl.load(q_at + half, mask=keep, other=0.0)
    k_1, k_2 = tl.load(k_at, mask=keep, other=0.0), tl.load(k_at + half, mask=keep, other=0.0)
    v_1, v_2 = tl.load(v_at, mask=keep, other=0.0), tl.load(v_at + half, mask=keep, other=0.0)
    kind = q_1.dtype
    if ROTARY:
        q_1, q_2 = _rotated(q_1, q_2, cos_ptr, sin_ptr, at, half, column, keep, 1)
        k_1, k_2 = _rotated(k_1, k_2, cos_ptr, sin_ptr, at, half, column, keep, 1)
        q_1, q_2, k_1, k_2 = q_1.to(kind), q_2.to(kind), k_1.to(kind), k_2.to(kind)
    scores = tl.dot(q_1, tl.trans(k_1), input_precision="ieee")
    scores += tl.dot(q_2, tl.trans(k_2), input_precision="ieee")
    seen = (at[:, None] >= at[None, :]) & (at[None, :] < length)
    scores = tl.where(seen, scores * scale, -float("inf"))
    shares = tl.exp(scores - tl.max(scores, 1)[:, None])
    shares = (shares / tl.sum(shares, 1)[:, None]).to(kind)
    o_at = o_ptr + token * (HEADS * WIDTH) + head * WIDTH + column[None, :]
    tl.store(o_at, tl.dot(shares, v_1, input_precision="ieee").to(kind), mask=keep)
    tl.store(o_at + half, tl.dot(shares, v_2, input_precision="ieee").to(kind), mask=keep)


@triton.jit
def _attention_backward(
    do_ptr, q_ptr, k_ptr, v_ptr, dq_ptr, dk_ptr, dv_ptr, cos_ptr, sin_ptr,
    q_row, k_row, v_row, length, scale,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ROTARY: tl.constexpr,
):  # fmt: skip
    """Gradients of the heads of one row that share a key head, laid out as q, k and v are."""
    row, shared = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = WIDTH // 2
    at = tl.arange(0, BLOCK)
    column = tl.arange(0, half)
    keep = at[:, None] < length
    token = row * length + at[:, None]
    k_at = token * k_row + shared * WIDTH + column[None, :]
    v_at = token * v_row + shared * WIDTH + column[None, :]
    k_1 = tl.load(k_ptr + k_at, mask=keep, other=0.0)
    k_2 = tl.load(k_ptr + k_at + half, mask=keep, other=0.0)
    v_1 = tl.load(v_ptr + v_at, mask=keep, other=0.0)
    v_2 = tl.load(v_ptr + v_at + half, mask=keep, other=0.0)
    kind = v_1.dtype
    if ROTARY:
        k_1, k_2 = _rotated(k_1, k_2, cos_ptr, sin_ptr, at, half, column, keep, 1)
        k_1, k_2 = k_1.to(kind), k_2.to(kind)
    seen = (at[:, None] >= at[None, :]) & (at[None, :] < length)
    dk_1 = tl.zeros((BLOCK, half), tl.float32)
    dk_2 = tl.zeros((BLOCK, half), tl.float32)
    dv_1 = tl.zeros((BLOCK, half), tl.float32)
    dv_2 = tl.zeros((BLOCK, half), tl.float32)
    for one in range(GROUP):
        head = shared * GROUP + one
        q_at = token * q_row + head * WIDTH + column[None, :]
        q_1 = tl.load(q_ptr + q_at, mask=keep, other=0.0)
        q_2 = tl.load(q_ptr + q_at + half, mask=keep, other=0.0)
        if ROTARY:
            q_1, q_2 = _rotated(q_1, q_2, cos_ptr, sin_ptr, at, half, column, keep, 1)
            q_1, q_2 = q_1.to(kind), q_2.to(kind)
        scores = tl.dot(q_1, tl.trans(k_1), input_precision="ieee")
        scores += tl.dot(q_2, tl.trans(k_2), input_precision="ieee")
        scores = tl.where(seen, scores * scale, -float("inf"))
        shares = tl.exp(scores - tl.max(scores, 1)[:, None])
        shares = shares / tl.sum(shares, 1)[:, None]
        do_at = do_ptr + token * (HEADS * WIDTH) + head * WIDTH + column[None, :]
        do_1 = tl.load(do_at, mask=keep, other=0.0)
        do_2 = tl.load(do_at + half, mask=keep, other=0.0)
        back = tl.trans(shares.to(kind))
        dv_1 += tl.dot(back, do_1, input_precision="ieee")
        dv_2 += tl.dot(back, do_2, input_precision="ieee")
        dshares = tl.dot(do_1, tl.trans(v_1), input_precision="ieee")
        dshares += tl.dot(do_2, tl.trans(v_2), input_precision="ieee")
        dscores = shares * (dshares - tl.sum(shares * dshares, 1)[:, None]) * scale
        dscores = dscores.to(kind)
        dq_1 = tl.dot(dscores, k_1, input_precision="ieee")
        dq_2 = tl.dot(dscores, k_2, input_precision="ieee")
        back = tl.trans(dscores)
        dk_1 += tl.dot(back, q_1, input_precision="ieee")
        dk_2 += tl.dot(back, q_2, input_precision="ieee")
        if ROTARY:
            dq_1, dq_2 = _rotated(dq_1, dq_2, cos_ptr, sin_ptr, at, half, column, keep, -1)
        tl.store(dq_ptr + q_at, dq_1.to(kind), mask=keep)
        tl.store(dq_ptr + q_at + half, dq_2.to(kind), mask=keep)
    if ROTARY:
        dk_1, dk_2 = _rotated(dk_1, dk_2, cos_ptr, sin_ptr, at, half, column, keep, -1)
    tl.store(dk_ptr + k_at, dk_1.to(kind), mask=keep)
    tl.store(dk_ptr + k_at + half, dk_2.to(kind), mask=keep)
    tl.store(dv_ptr + v_at, dv_1.to(kind), mask=keep)
    tl.store(dv_ptr + v_at + half, dv_2.to(kind), mask=keep)


class _Attention(torch.autograd.Function):
    """Of the output of a block's input layers, (K, tokens, their widths)."""

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
        found = torch.empty_like(qkv)
        q, k, v = _split(qkv, geometry)
        dq, dk, dv = _split(found, geometry)
        grad = grads[0].contiguous()
        adapters, tokens, _ = grad.shape
        block = max(16, triton.next_power_of_2(length))
        _attention_backward[(adapters * tokens // length, geometry.num_key_value_heads)](
            grad, q, k, v, dq, dk, dv, cos if cos is not None else q, sin if sin is not None else q,
            q.stride(-2), k.stride(-2), v.stride(-2), length, width**-0.5,
            HEADS=geometry.heads, GROUP=geometry.heads // geometry.num_key_value_heads, WIDTH=width,
            BLOCK=block, ROTARY=cos is not None, num_warps=_warps(block),
        )  # fmt: skip
        return None, None, None, None, found


def _warps(block: int) -> int:
    return 2 if block <= 32 else 4 if block <= 64 else 8


def _split(qkv: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, ...]:
    width = geometry.head_dim
    return qkv.split(
        [
            width * n
            for n in (geometry.heads, geometry.num_key_value_heads, geometry.num_key_value_heads)
        ],
        2,
    )


def attention(
    qkv: torch.Tensor,
    geometry: Geometry,
    rotary: Rotary | None,
    length: int,
) -> torch.Tensor:
    """`forward.causal_attention`; longer rows and odd heads go to torch's own kernel."""
    width = geometry.head_dim
    if length > LONGEST or width & (width - 1) or not 32 <= width <= 128:
        return forward.causal_attention(qkv, geometry, rotary, length)
    cos, sin = (None, None) if rotary is None else rotary
    mixed: torch.Tensor = _Attention.apply(geometry, length, cos, sin, qkv)
    return mixed


@triton.jit
def _cached_attention(
    q_ptr, k_ptr, v_ptr, keys_ptr, values_ptr, at_ptr, o_ptr,
    q_row, k_row, v_row, cache_row, cache_head, scale,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The new token of one row, for the heads that share a key head."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, WIDTH)
    slot = tl.arange(0, BLOCK)
    at = tl.load(at_ptr + row)
    k = tl.load(k_ptr + row * k_row + head * WIDTH + column)
    v = tl.load(v_ptr + row * v_row + head * WIDTH + column)
    cache = row * cache_row + head * cache_head
    tl.store(keys_ptr + cache + at * WIDTH + column, k)
    tl.store(values_ptr + cache + at * WIDTH + column, v)
    place = cache + slot[:, None] * WIDTH + column[None, :]
    own = (slot == at)[:, None]
    # What was stored a moment ago comes from its register: other threads may not see it yet.
    before = (slot < at)[:, None]
    keys = tl.where(own, k[None, :], tl.load(keys_ptr + place, mask=before, other=0.0))
    values = tl.where(own, v[None, :], tl.load(values_ptr + place, mask=before, other=0.0))
    for member in range(GROUP):
        q_at = head * GROUP + member
        q = tl.load(q_ptr + row * q_row + q_at * WIDTH + column).to(tl.float32)
        scores = tl.sum(keys.to(tl.float32) * q[None, :], 1) * scale
        scores = tl.where(slot <= at, scores, -float("inf"))
        shares = tl.exp(scores - tl.max(scores, 0))
        shares = (shares / tl.sum(shares, 0)).to(k.dtype).to(tl.float32)
        mixed = tl.sum(values.to(tl.float32) * shares[:, None], 0)
        heads = tl.num_programs(1) * GROUP
        tl.store(o_ptr + (row * heads + q_at) * WIDTH + column, mixed.to(k.dtype))


def cached_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    at: torch.Tensor,
) -> torch.Tensor:
    """`forward.cached_attention` in one kernel; long rows and odd heads go the plain way."""
    rows, kv_heads, slots, width = keys.shape
    if slots > LONGEST or width & (width - 1) or not 32 <= width <= 128:
        return forward.cached_attention(q, k, v, keys, values, at)
    heads = q.shape[2]
    mixed = q.new_empty(rows, heads * width)
    _cached_attention[(rows, kv_heads)](
        q, k, v, keys, values, at, mixed, q.stride(0), k.stride(0), v.stride(0), keys.stride(0),
        keys.stride(1), width**-0.5, GROUP=heads // kv_heads, WIDTH=width,
        BLOCK=max(16, triton.next_power_of_2(slots)), num_warps=4,
    )  # fmt: skip
    return mixed


@triton.jit
def _add_norm_forward(
    x_ptr, delta_ptr, sum_ptr, y_ptr, weight_ptr, bias_ptr, width, epsilon,
    BLOCK: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """One token: x + delta, and its norm."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    keep = column < width
    x = tl.load(x_ptr + row + column, mask=keep, other=0.0)
    kind = x.dtype
    if ADD:
        x = (x.to(tl.float32) + tl.load(delta_ptr + row + column, mask=keep, other=0.0)).to(kind)
        tl.store(sum_ptr + row + column, x, mask=keep)
    wide = x.to(tl.float32)
    if BIAS:
        wide = tl.where(keep, wide - tl.sum(wide, 0) / width, 0.0)
    scaled = wide * tl.rsqrt(tl.sum(wide * wide, 0) / width + epsilon)
    y = scaled * tl.load(weight_ptr + column, mask=keep, other=0.0).to(tl.float32)
    if BIAS:
        y += tl.load(bias_ptr + column, mask=keep, other=0.0).to(tl.float32)
    tl.store(y_ptr + row + column, y.to(kind), mask=keep)


@triton.jit
def _add_norm_backward(
    dy_ptr, dsum_ptr, x_ptr, dx_ptr, weight_ptr, width, epsilon,
    BLOCK: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """One token: the gradient of its sum, through the norm and beside it."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    keep = column < width
    x = tl.load(x_ptr + row + column, mask=keep, other=0.0)
    wide = x.to(tl.float32)
    if BIAS:
        wide = tl.where(keep, wide - tl.sum(wide, 0) / width, 0.0)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / width + epsilon)
    scaled = wide * inverse
    dy = tl.load(dy_ptr + row + column, mask=keep, other=0.0).to(tl.float32)
    dy = dy * tl.load(weight_ptr + column, mask=keep, other=0.0).to(tl.float32)
    dx = dy - scaled * (tl.sum(dy * scaled, 0) / width)
    if BIAS:
        dx -= tl.sum(dy, 0) / width
    dx *= inverse
    if ADD:
        dx += tl.load(dsum_ptr + row + column, mask=keep, other=0.0).to(tl.float32)
    tl.store(dx_ptr + row + column, dx.to(x.dtype), mask=keep)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Any, delta: Any, weight: Any, bias: Any, epsilon: float
    ) -> tuple[Any, Any]:
        ctx.set_materialize_grads(False)
        width = hidden.shape[-1]
        hidden = hidden.contiguous()
        normed = torch.empty_like(hidden)
        total = hidden if delta is None else torch.empty_like(hidden)
        _add_norm_forward[(hidden.numel() // width,)](
            hidden, hidden if delta is None else delta.contiguous(), total, normed, weight,
            weight if bias is None else bias, width, epsilon,
            BLOCK=triton.next_power_of_2(width), ADD=delta is not None, BIAS=bias is not None,
        )  # fmt: skip
        ctx.save_for_backward(total, weight)
        ctx.epsilon, ctx.bias, ctx.add = epsilon, bias is not None, delta is not None
        if delta is None:
            # autograd wants an output of its own where an input is returned.
            total = total.view_as(total)
        return total, normed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total, weight = ctx.saved_tensors
        beside, normed = grads
        width = total.shape[-1]
        found = torch.empty_like(total)
        _add_norm_backward[(total.numel() // width,)](
            normed.contiguous(), normed if beside is None else beside.contiguous(), total, found,
            weight, width, ctx.epsilon,
            BLOCK=triton.next_power_of_2(width), ADD=beside is not None, BIAS=ctx.bias,
        )  # fmt: skip
        return found, found if ctx.add else None, None, None, None


def add_norm(
    hidden: torch.Tensor,
    delta: torch.Tensor | None,
    norm: Norm,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`forward.add_norm` in one kernel."""
    total, normed = _AddNorm.apply(hidden, delta, *norm, epsilon)
    return total, normed


@triton.jit
def _part(ptr, rows, first, columns, row_limit, column_limit, column_step):
    """A tile of a matrix whose rows begin at `first` and whose columns lie `column_step` apart."""
    return tl.load(
        ptr + first + columns[None, :] * column_step,
        mask=(rows[:, None] < row_limit) & (columns[None, :] < column_limit), other=0.0,
    )  # fmt: skip


@triton.jit
def _sigmoid(x, kind: tl.constexpr):
    """To 2e-4 where `kind` has 16 bits, by one instruction of the GPU."""
    if kind == tl.float32:
        y = tl.sigmoid(x)
    else:
        y = 0.5 + 0.5 * tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [0.5 * x], dtype=tl.float32, is_pure=True, pack=1
        )
    return y


@triton.jit
def _wide_forward(
    raw_ptr, inner_ptr, b_ptr, y_ptr, b_adapter, tokens, width, rank,
    GATED: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """A tile of what the activation makes of the layers before it and their adapters."""
    adapter = tl.program_id(2).to(tl.int64)
    parts: tl.constexpr = 2 if GATED else 1
    at = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    ranks = tl.arange(0, RANK)
    token = (adapter * tokens + at)[:, None]
    keep = (at[:, None] < tokens) & (column[None, :] < width)
    raw = token * (parts * width) + column[None, :]
    b_at, b_rows = b_ptr + adapter * b_adapter, ranks[:, None] * (parts * width)
    b = _part(b_at, ranks, b_rows, column, rank, width, 1)
    inner = _part(inner_ptr, at, token * (parts * rank), ranks, tokens, rank, 1)
    x = tl.load(raw_ptr + raw, mask=keep, other=0.0)
    kind: tl.constexpr = x.dtype
    x = (x.to(tl.float32) + tl.dot(inner, b, input_precision="ieee")).to(kind).to(tl.float32)
    if GATED:
        b = _part(b_at + width, ranks, b_rows, column, rank, width, 1)
        inner = _part(inner_ptr + rank, at, token * (parts * rank), ranks, tokens, rank, 1)
        second = tl.load(raw_ptr + raw + width, mask=keep, other=0.0)
        second = second.to(tl.float32) + tl.dot(inner, b, input_precision="ieee")
        y = x * _sigmoid(x, kind) * second.to(kind).to(tl.float32)
    else:
        # GELU by tanh: x (1 + tanh u) / 2 is x sigmoid(2 u).
        y = x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x), kind)
    tl.store(y_ptr + token * width + column[None, :], y.to(kind), mask=keep)


@triton.jit
def _wide_backward(
    dy_ptr, dinner_ptr, a_ptr, raw_ptr, inner_ptr, b_ptr, draw_ptr, da_ptr, db_ptr,
    a_adapter, b_adapter, tokens, width, rank,
    GATED: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """For some columns of an adapter's tokens: the gradients before the activation, and those of
    the a behind it and the b before it. What went into the activation, and what came out, is
    computed once more."""
    adapter = tl.program_id(1).to(tl.int64)
    parts: tl.constexpr = 2 if GATED else 1
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    ranks = tl.arange(0, RANK)
    inside = column[None, :] < width
    b_at, b_rows = b_ptr + adapter * b_adapter, ranks[:, None] * (parts * width)
    b = _part(b_at, ranks, b_rows, column, rank, width, 1)
    # Transposed: (RANK, COLUMNS).
    a = _part(a_ptr + adapter * a_adapter, ranks, ranks[:, None], column, rank, width, rank)
    kind: tl.constexpr = b.dtype
    da = tl.zeros((RANK, COLUMNS), tl.float32)
    db = tl.zeros((RANK, COLUMNS), tl.float32)
    if GATED:
        b_2 = _part(b_at + width, ranks, b_rows, column, rank, width, 1)
        db_2 = tl.zeros((RANK, COLUMNS), tl.float32)
    for start in tl.range(0, tokens, TOKENS, num_stages=STAGES):
        at = start + tl.arange(0, TOKENS)
        token = (adapter * tokens + at)[:, None]
        keep = (at[:, None] < tokens) & inside
        raw = token * (parts * width) + column[None, :]
        inner_at = token * (parts * rank)
        dy = tl.load(dy_ptr + token * width + column[None, :], mask=keep, other=0.0)
        x = tl.load(raw_ptr + raw, mask=keep, other=0.0)
        dinner = _part(dinner_ptr, at, token * rank, ranks, tokens, rank, 1)
        inner = _part(inner_ptr, at, inner_at, ranks, tokens, rank, 1)
        dy = (dy.to(tl.float32) + tl.dot(dinner, a, input_precision="ieee")).to(kind)
        dy = dy.to(tl.float32)
        x = (x.to(tl.float32) + tl.dot(inner, b, input_precision="ieee")).to(kind).to(tl.float32)
        if GATED:
            inner_2 = _part(inner_ptr + rank, at, inner_at, ranks, tokens, rank, 1)
            second = tl.load(raw_ptr + raw + width, mask=keep, other=0.0)
            second = second.to(tl.float32) + tl.dot(inner_2, b_2, input_precision="ieee")
            second = second.to(kind).to(tl.float32)
            share = _sigmoid(x, kind)
            y = x * share * second
            dsecond = (dy * x * share).to(kind)
            tl.store(draw_ptr + raw + width, dsecond, mask=keep)
            db_2 += tl.dot(tl.trans(inner_2), dsecond, input_precision="ieee")
            dx = dy * second * share * (1 + x * (1 - share))
        else:
            share = _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x), kind)
            y = x * share
            slope = 1.5957691216057308 * (1 + 0.134145 * x * x)
            dx = dy * share * (1 + x * (1 - share) * slope)
        dx = dx.to(kind)
        tl.store(draw_ptr + raw, dx, mask=keep)
        db += tl.dot(tl.trans(inner), dx, input_precision="ieee")
        da += tl.dot(tl.trans(dinner), y.to(kind), input_precision="ieee")
    keep = (ranks[:, None] < rank) & inside
    da_at = da_ptr + adapter * width * rank + column[None, :] * rank + ranks[:, None]
    tl.store(da_at, da.to(kind), mask=keep)
    db_at = db_ptr + adapter * rank * (parts * width) + b_rows + column[None, :]
    tl.store(db_at, db.to(kind), mask=keep)
    if GATED:
        tl.store(db_at + width, db_2.to(kind), mask=keep)


class _Mlp(torch.autograd.Function):
    """x (K, tokens, width), the two linear layers, and their adapters."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, up: Linear, down: Linear, a: Any, b: Any, a_down: Any, b_down: Any
    ) -> Any:
        (adapters, tokens, _), width, rank = x.shape, down.weight.shape[0], a_down.shape[2]
        flat = x.reshape(-1, x.shape[-1])
        raw = flat @ up.weight if up.bias is None else torch.addmm(up.bias, flat, up.weight)
        inner = torch.bmm(x, a)
        wide = x.new_empty(adapters, tokens, width)
        _wide_forward[(triton.cdiv(width, 64), triton.cdiv(tokens, 32), adapters)](
            raw, inner, b, wide, b.stride(0), tokens, width, rank,
            GATED=up.weight.shape[1] > width, TOKENS=32, COLUMNS=64, RANK=_padded(rank),
        )  # fmt: skip
        y, inner_down = linear_forward(
            wide, down.weight, down.bias, a_down, b_down, None, None, down.slices
        )
        ctx.save_for_backward(x, a, b, a_down, b_down, raw, inner, inner_down)
        ctx.weights = up.weight, down.weight
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, a, b, a_down, b_down, raw, inner, inner_down = ctx.saved_tensors
        (up, down), grad = ctx.weights, grads[0].contiguous()
        (adapters, tokens, _), width, rank = x.shape, down.shape[0], a_down.shape[2]
        dinner_down = torch.bmm(grad, b_down.transpose(1, 2))
        db_down = torch.bmm(inner_down.transpose(1, 2), grad)
        dwide = grad.view(adapters * tokens, -1) @ down.t()
        draw = torch.empty_like(raw)
        da, db = x.new_empty(a_down.shape), x.new_empty(b.shape)
        _wide_backward[(triton.cdiv(width, 64), adapters)](
            dwide, dinner_down, a_down, raw, inner, b, draw, da, db,
            a_down.stride(0), b.stride(0), tokens, width, rank,
            GATED=up.shape[1] > width, TOKENS=64, COLUMNS=64, RANK=_padded(rank), STAGES=3,
        )  # fmt: skip
        draw = draw.view(adapters, tokens, -1)
        dinner = torch.empty_like(inner)
        for part, raised, own in zip(
            dinner.split(rank, 2), b.split(width, 2), draw.split(width, 2), strict=True
        ):
            part.baddbmm_(own, raised.transpose(1, 2), beta=0)
        grad_a = torch.bmm(x.transpose(1, 2), dinner)
        grad_x = (draw.flatten(0, 1) @ up.t()).view_as(x).baddbmm_(dinner, a.transpose(1, 2))
        return grad_x, None, None, grad_a, db, da, db_down


def _padded(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))


def mlp(
    x: torch.Tensor,
    layer: Layer,
    up: LoraStack | None,
    down: LoraStack | None,
    dropout: Dropout | None,
) -> torch.Tensor:
    """`forward.mlp`, the activation and its neighbours' adapters in one kernel; layers without
    adapters, high ranks and LoRA dropout go the plain way."""
    parts = 2 if layer.gated else 1
    whole = up is not None and len(layer.up.slices.layer_ids) == parts
    if up is None or down is None or not whole or down.a.shape[2] > HIGHEST or dropout is not None:
        return forward.mlp(x, layer, up, down, dropout)
    added: torch.Tensor = _Mlp.apply(x, layer.up, layer.down, *up, *down)
    return added


@triton.jit
def _cross_entropy(
    logits_ptr, target_ptr, weight_ptr, smooth_ptr, loss_ptr,
    columns: tl.constexpr, vocabulary: tl.constexpr,
    IGNORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: its weighted loss; its logits become their gradient."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * columns
    target = tl.load(target_ptr + row)
    share = tl.load(weight_ptr + row).to(tl.float32)
    smooth = tl.load(smooth_ptr + row).to(tl.float32)
    counted = target != IGNORE
    top = -float("inf")
    total = 0.0
    linear = 0.0
    for start in range(0, vocabulary, BLOCK):
        at = start + tl.arange(0, BLOCK)
        keep = at < vocabulary
        x = tl.load(logits_ptr + at, mask=keep, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
        linear += tl.sum(tl.where(keep, x, 0.0), 0)
        top = higher
    log_sum = top + tl.log(total)
    wanted = tl.load(logits_ptr + tl.where(counted, target, 0)).to(tl.float32)
    loss = (1 - smooth) * (log_sum - wanted) + smooth * (log_sum - linear / vocabulary)
    tl.store(loss_ptr + row, tl.where(counted, loss * share, 0.0))
    tl.debug_barrier()
    for start in range(0, columns, BLOCK):
        at = start + tl.arange(0, BLOCK)
        keep = at < vocabulary
        x = tl.load(logits_ptr + at, mask=keep, other=-float("inf")).to(tl.float32)
        slope = tl.exp(x - log_sum) - smooth / vocabulary
        slope -= tl.where(at == target, 1 - smooth, 0.0)
        slope = tl.where(keep & counted, slope * share, 0.0)
        tl.store(logits_ptr + at, slope.to(logits_ptr.dtype.element_ty), mask=at < columns)


def cross_entropy_(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    smoothing: torch.Tensor,
    vocabulary: int,
) -> torch.Tensor:
    """`adapters.cross_entropy_` in one kernel."""
    tokens, columns = logits.shape
    losses = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    _cross_entropy[(tokens,)](
        logits, targets.contiguous(), weights.contiguous(), smoothing.contiguous(), losses,
        columns, vocabulary, IGNORE=IGNORED, BLOCK=4096, num_warps=8,
    )  # fmt: skip
    return losses


@triton.jit
def _row_scores(
    logits_ptr, target_ptr, found_ptr, best_ptr,
    columns: tl.constexpr, vocabulary: tl.constexpr, IGNORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: log p of its target, and its arg max, the first where several are."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * columns
    target = tl.load(target_ptr + row)
    top = -float("inf")
    total = 0.0
    best = 0
    for start in range(0, vocabulary, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + at, mask=at < vocabulary, other=-float("inf")).to(tl.float32)
        here = tl.max(x, 0)
        place = tl.min(tl.where(x == here, at, vocabulary), 0)
        best = tl.where(here > top, place, best)
        higher = tl.maximum(top, here)
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
        top = higher
    counted = target != IGNORE
    wanted = tl.load(logits_ptr + tl.where(counted, target, 0)).to(tl.float32)
    tl.store(found_ptr + row, tl.where(counted, wanted - top - tl.log(total), 0.0))
    tl.store(best_ptr + row, best)


def row_scores(
    logits: torch.Tensor, targets: torch.Tensor, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`adapters.row_scores` in one kernel."""
    tokens, columns = logits.shape
    found = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    best = torch.empty(tokens, dtype=torch.long, device=logits.device)
    _row_scores[(tokens,)](
        logits, targets.contiguous(), found, best, columns, vocabulary, IGNORE=IGNORED, BLOCK=4096,
        num_warps=8,
    )  # fmt: skip
    return found, best


@triton.jit
def _adamw(
    weights_ptr, first_ptr, second_ptr, gradient_ptr, work_ptr, table_ptr, norm_ptr, loss_ptr,
    scale_ptr, width, split, table_row, BLOCK: tl.constexpr,
):  # fmt: skip
    """A stretch of one adapter's numbers: `optimizer.update_` for AdamW."""
    slot = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = at < width
    row = table_ptr + slot * table_row
    active, max_norm, decay = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    lerp, keep_2, add_2 = tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
    size, root, epsilon = tl.load(row + 6), tl.load(row + 7), tl.load(row + 8)
    norm, loss, scale = (
        tl.load(norm_ptr + slot),
        tl.load(loss_ptr + slot),
        tl.load(scale_ptr + slot),
    )
    # A difference with itself is zero only of a finite number.
    taken = (active > 0) & (norm - norm == 0) & (loss - loss == 0)
    if taken:
        place = slot * width + at
        own = tl.where(at >= split, scale, 1.0)
        gradient = tl.load(gradient_ptr + place, mask=keep, other=0.0).to(tl.float32)
        gradient *= own * tl.minimum(max_norm / (norm + 1e-6), 1.0)
        first = tl.load(first_ptr + place, mask=keep, other=0.0)
        second = tl.load(second_ptr + place, mask=keep, other=0.0)
        weight = tl.load(weights_ptr + place, mask=keep, other=0.0)
        first += lerp * (gradient - first)
        second = keep_2 * second + add_2 * gradient * gradient
        weight = decay * weight - size * (first / (tl.sqrt(second) / root + epsilon))
        tl.store(first_ptr + place, first, mask=keep)
        tl.store(second_ptr + place, second, mask=keep)
        tl.store(weights_ptr + place, weight, mask=keep)
        tl.store(work_ptr + place, (weight * own).to(work_ptr.dtype.element_ty), mask=keep)


def adamw_(
    weights: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    gradients: torch.Tensor,
    work: torch.Tensor,
    losses: torch.Tensor,
    table: torch.Tensor,
    scales: torch.Tensor,
    split: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`optimizer.update_` for AdamW from gradients without their scale, and the new weights
    as the products read them into `work`: B, which begins at `split`, with its scale."""
    slots, width = weights.shape
    assert table.stride(1) == 1 and table.shape[1] == len(AdamWHyper._fields)
    norm_a = torch.linalg.vector_norm(gradients[:, :split], dim=1, dtype=torch.float32)
    norm_b = torch.linalg.vector_norm(gradients[:, split:], dim=1, dtype=torch.float32)
    norms = torch.hypot(norm_a, norm_b * scales[:, 0])
    _adamw[(triton.cdiv(width, 2048), slots)](
        weights, first, second, gradients, work, table, norms, losses, scales,
        width, split, table.stride(0), BLOCK=2048, num_warps=8,
    )  # fmt: skip
    taken = (table[:, 0] > 0) & norms.isfinite() & losses.isfinite()
    return norms, taken


KERNELS = KernelSet(attention, add_norm, mlp, cached_attention, cross_entropy_, row_scores)
