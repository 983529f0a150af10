"""Feed-forward part of a block: the activation fused with the adapters on both sides of it.

    x           (K, M, D)        input of the up (and gate) projection
    raw         (K M, parts F)   its frozen product; parts = 2 where GATED (gate, up), else 1
    xA          (K, M, parts R)  x A of its adapters
    b           (K, R, parts F)  B of its adapters
    y           (K, M, F)        after the activation: input of the down projection
    a           (K, F, R)        A of the down projection's adapters

F is the width of the activation (`width` in kernels); a `d` before a name is a gradient. A tile is
TOKENS x COLUMNS of M x F, RANK is R padded for tl.dot. Dimension letters: multi_lora.__init__.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl

from src.models.multi_lora import forward
from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import Layer, Linear
from src.models.multi_lora.linear import Dropout, linear_forward

MAX_RANK = 64  # rank whose gradients fit in registers beside an activation's


@triton.jit
def _tile(ptr, rows, row_offsets, columns, row_limit, column_limit, column_step):
    """A tile of a matrix whose columns lie `column_step` apart; zeros beyond its limits."""
    return tl.load(
        ptr + row_offsets + columns[None, :] * column_step,
        mask=(rows[:, None] < row_limit) & (columns[None, :] < column_limit), other=0.0,
    )  # fmt: skip


@triton.jit
def _sigmoid(x, dtype: tl.constexpr):
    """Sigmoid; for 16-bit dtypes by tanh.approx, absolute error 2e-4."""
    if dtype == tl.float32:
        y = tl.sigmoid(x)
    else:
        y = 0.5 + 0.5 * tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [0.5 * x], dtype=tl.float32, is_pure=True, pack=1
        )
    return y


@triton.jit
def _activation_forward(
    raw_ptr, xA_ptr, b_ptr, y_ptr, b_adapter, tokens, width, rank,
    GATED: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """A tile of y = activation(raw + xA B). Grid (columns of F, tokens of M, K)."""
    adapter = tl.program_id(2).to(tl.int64)
    parts: tl.constexpr = 2 if GATED else 1
    position = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    ranks = tl.arange(0, RANK)
    token = (adapter * tokens + position)[:, None]
    inside = (position[:, None] < tokens) & (column[None, :] < width)
    raw = token * (parts * width) + column[None, :]
    b_at, b_rows = b_ptr + adapter * b_adapter, ranks[:, None] * (parts * width)
    b = _tile(b_at, ranks, b_rows, column, rank, width, 1)
    xA = _tile(xA_ptr, position, token * (parts * rank), ranks, tokens, rank, 1)
    x = tl.load(raw_ptr + raw, mask=inside, other=0.0)
    dtype: tl.constexpr = x.dtype
    x = (x.to(tl.float32) + tl.dot(xA, b, input_precision="ieee")).to(dtype).to(tl.float32)
    if GATED:
        b = _tile(b_at + width, ranks, b_rows, column, rank, width, 1)
        xA = _tile(xA_ptr + rank, position, token * (parts * rank), ranks, tokens, rank, 1)
        value = tl.load(raw_ptr + raw + width, mask=inside, other=0.0)
        value = value.to(tl.float32) + tl.dot(xA, b, input_precision="ieee")
        y = x * _sigmoid(x, dtype) * value.to(dtype).to(tl.float32)
    else:
        # GELU by tanh: x (1 + tanh u) / 2 is x sigmoid(2 u).
        y = x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x), dtype)
    tl.store(y_ptr + token * width + column[None, :], y.to(dtype), mask=inside)


@triton.jit
def _activation_backward(
    dy_ptr, dxA_ptr, a_ptr, raw_ptr, xA_ptr, b_ptr, draw_ptr, da_ptr, db_ptr,
    a_adapter, b_adapter, tokens, width, rank,
    GATED: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Backward of up-LoRA and activation, for a slice of the columns of F of one adapter.

    d(pre-activation) into draw, dA of down_proj into da and dB of up_proj into db; recomputes the
    activation. Grid (columns of F, K).
    """
    adapter = tl.program_id(1).to(tl.int64)
    parts: tl.constexpr = 2 if GATED else 1
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    ranks = tl.arange(0, RANK)
    column_inside = column[None, :] < width
    b_at, b_rows = b_ptr + adapter * b_adapter, ranks[:, None] * (parts * width)
    b = _tile(b_at, ranks, b_rows, column, rank, width, 1)
    # Transposed: (RANK, COLUMNS).
    a = _tile(a_ptr + adapter * a_adapter, ranks, ranks[:, None], column, rank, width, rank)
    dtype: tl.constexpr = b.dtype
    da = tl.zeros((RANK, COLUMNS), tl.float32)
    db = tl.zeros((RANK, COLUMNS), tl.float32)
    if GATED:
        b_2 = _tile(b_at + width, ranks, b_rows, column, rank, width, 1)
        db_2 = tl.zeros((RANK, COLUMNS), tl.float32)
    for start in tl.range(0, tokens, TOKENS, num_stages=STAGES):
        position = start + tl.arange(0, TOKENS)
        token = (adapter * tokens + position)[:, None]
        inside = (position[:, None] < tokens) & column_inside
        raw = token * (parts * width) + column[None, :]
        xA_at = token * (parts * rank)
        dy = tl.load(dy_ptr + token * width + column[None, :], mask=inside, other=0.0)
        x = tl.load(raw_ptr + raw, mask=inside, other=0.0)
        dxA = _tile(dxA_ptr, position, token * rank, ranks, tokens, rank, 1)
        xA = _tile(xA_ptr, position, xA_at, ranks, tokens, rank, 1)
        dy = (dy.to(tl.float32) + tl.dot(dxA, a, input_precision="ieee")).to(dtype)
        dy = dy.to(tl.float32)
        x = (x.to(tl.float32) + tl.dot(xA, b, input_precision="ieee")).to(dtype).to(tl.float32)
        if GATED:
            xA_2 = _tile(xA_ptr + rank, position, xA_at, ranks, tokens, rank, 1)
            value = tl.load(raw_ptr + raw + width, mask=inside, other=0.0)
            value = value.to(tl.float32) + tl.dot(xA_2, b_2, input_precision="ieee")
            value = value.to(dtype).to(tl.float32)
            gate = _sigmoid(x, dtype)
            y = x * gate * value
            dvalue = (dy * x * gate).to(dtype)
            tl.store(draw_ptr + raw + width, dvalue, mask=inside)
            db_2 += tl.dot(tl.trans(xA_2), dvalue, input_precision="ieee")
            dx = dy * value * gate * (1 + x * (1 - gate))
        else:
            gate = _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x), dtype)
            y = x * gate
            slope = 1.5957691216057308 * (1 + 0.134145 * x * x)
            dx = dy * gate * (1 + x * (1 - gate) * slope)
        dx = dx.to(dtype)
        tl.store(draw_ptr + raw, dx, mask=inside)
        db += tl.dot(tl.trans(xA), dx, input_precision="ieee")
        da += tl.dot(tl.trans(dxA), y.to(dtype), input_precision="ieee")
    inside = (ranks[:, None] < rank) & column_inside
    da_at = da_ptr + adapter * width * rank + column[None, :] * rank + ranks[:, None]
    tl.store(da_at, da.to(dtype), mask=inside)
    db_at = db_ptr + adapter * rank * (parts * width) + b_rows + column[None, :]
    tl.store(db_at, db.to(dtype), mask=inside)
    if GATED:
        tl.store(db_at + width, db_2.to(dtype), mask=inside)


class _Mlp(torch.autograd.Function):
    """x (K, M, D) through up (and gate), activation and down, with their adapters."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, up: Linear, down: Linear, a: Any, b: Any, a_down: Any, b_down: Any
    ) -> Any:
        (adapters, tokens, _), width, rank = x.shape, down.weight.shape[0], a_down.shape[2]
        flat = x.reshape(-1, x.shape[-1])
        raw = flat @ up.weight if up.bias is None else torch.addmm(up.bias, flat, up.weight)
        xA = torch.bmm(x, a)
        wide = x.new_empty(adapters, tokens, width)
        _activation_forward[(triton.cdiv(width, 64), triton.cdiv(tokens, 32), adapters)](
            raw, xA, b, wide, b.stride(0), tokens, width, rank,
            GATED=up.weight.shape[1] > width, TOKENS=32, COLUMNS=64, RANK=_padded(rank),
        )  # fmt: skip
        y, xA_down = linear_forward(
            wide, down.weight, down.bias, a_down, b_down, None, None, down.slices
        )
        ctx.save_for_backward(x, a, b, a_down, b_down, raw, xA, xA_down)
        ctx.weights = up.weight, down.weight
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, a, b, a_down, b_down, raw, xA, xA_down = ctx.saved_tensors
        (up, down), grad = ctx.weights, grads[0].contiguous()
        (adapters, tokens, _), width, rank = x.shape, down.shape[0], a_down.shape[2]
        dxA_down = torch.bmm(grad, b_down.transpose(1, 2))
        db_down = torch.bmm(xA_down.transpose(1, 2), grad)
        dwide = grad.view(adapters * tokens, -1) @ down.t()
        draw = torch.empty_like(raw)
        da, db = x.new_empty(a_down.shape), x.new_empty(b.shape)
        _activation_backward[(triton.cdiv(width, 64), adapters)](
            dwide, dxA_down, a_down, raw, xA, b, draw, da, db,
            a_down.stride(0), b.stride(0), tokens, width, rank,
            GATED=up.shape[1] > width, TOKENS=64, COLUMNS=64, RANK=_padded(rank), STAGES=3,
        )  # fmt: skip
        draw = draw.view(adapters, tokens, -1)
        dxA = torch.empty_like(xA)
        for dxA_slice, B_slice, draw_slice in zip(
            dxA.split(rank, 2), b.split(width, 2), draw.split(width, 2), strict=True
        ):
            dxA_slice.baddbmm_(draw_slice, B_slice.transpose(1, 2), beta=0)
        grad_a = torch.bmm(x.transpose(1, 2), dxA)
        grad_x = (draw.flatten(0, 1) @ up.t()).view_as(x).baddbmm_(dxA, a.transpose(1, 2))
        return grad_x, None, None, grad_a, db, da, db_down


def _padded(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))


def mlp(
    x: torch.Tensor,  # (K, M, D)
    layer: Layer,
    up: LoraStack | None,
    down: LoraStack | None,
    dropout: Dropout | None,
) -> torch.Tensor:
    """`forward.mlp` with the activation and its neighbours' adapters in one kernel.

    Layers without adapters, gate and up in one layer, other activations than SiLU with a gate and
    GELU (tanh) without, ranks over MAX_RANK and LoRA dropout fall back to `forward.mlp`.
    """
    parts = 2 if layer.gated else 1
    all_adapted = up is not None and len(layer.up.slices.layer_ids) == parts
    if (
        up is None
        or down is None
        or not all_adapted
        or layer.activation != ("silu" if layer.gated else "gelu_tanh")
        or down.a.shape[2] > MAX_RANK
        or dropout is not None
    ):
        return forward.mlp(x, layer, up, down, dropout)
    added: torch.Tensor = _Mlp.apply(x, layer.up, layer.down, *up, *down)
    return added
