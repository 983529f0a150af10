"""Residual sum and the LayerNorm or RMSNorm of it, in one pass over each token.

    x, delta, sum, y    (K M, D)    one program per token; `width` is D
    weight, bias        (D,)        BIAS true: LayerNorm, false: RMSNorm

BLOCK is the next power of two of D. Dimension letters: multi_lora.__init__.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl

from src.models.multi_lora.base import Norm


@triton.jit
def _add_norm_forward(
    x_ptr, delta_ptr, sum_ptr, y_ptr, weight_ptr, bias_ptr, width, eps,
    BLOCK: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """One token: sum = x + delta (where ADD), and y = norm(sum). Grid (K M,)."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row + column, mask=inside, other=0.0)
    dtype = x.dtype
    if ADD:
        x = (x.to(tl.float32) + tl.load(delta_ptr + row + column, mask=inside, other=0.0)).to(dtype)
        tl.store(sum_ptr + row + column, x, mask=inside)
    wide = x.to(tl.float32)
    if BIAS:
        wide = tl.where(inside, wide - tl.sum(wide, 0) / width, 0.0)
    scaled = wide * tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    y = scaled * tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        y += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + row + column, y.to(dtype), mask=inside)


@triton.jit
def _add_norm_backward(
    dy_ptr, dsum_ptr, x_ptr, dx_ptr, weight_ptr, width, eps,
    BLOCK: tl.constexpr, ADD: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """One token: gradient dx of the sum, through the norm and (where ADD) past it. Grid (K M,)."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row + column, mask=inside, other=0.0)
    wide = x.to(tl.float32)
    if BIAS:
        wide = tl.where(inside, wide - tl.sum(wide, 0) / width, 0.0)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    scaled = wide * inverse
    dy = tl.load(dy_ptr + row + column, mask=inside, other=0.0).to(tl.float32)
    dy = dy * tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    dx = dy - scaled * (tl.sum(dy * scaled, 0) / width)
    if BIAS:
        dx -= tl.sum(dy, 0) / width
    dx *= inverse
    if ADD:
        dx += tl.load(dsum_ptr + row + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx_ptr + row + column, dx.to(x.dtype), mask=inside)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Any, delta: Any, weight: Any, bias: Any, eps: float
    ) -> tuple[Any, Any]:
        ctx.set_materialize_grads(False)
        width = hidden.shape[-1]
        hidden = hidden.contiguous()
        normed = torch.empty_like(hidden)
        total = hidden if delta is None else torch.empty_like(hidden)
        _add_norm_forward[(hidden.numel() // width,)](
            hidden, hidden if delta is None else delta.contiguous(), total, normed, weight,
            weight if bias is None else bias, width, eps,
            BLOCK=triton.next_power_of_2(width), ADD=delta is not None, BIAS=bias is not None,
            num_warps=_warps(width),
        )  # fmt: skip
        ctx.save_for_backward(total, weight)
        ctx.eps, ctx.bias, ctx.add = eps, bias is not None, delta is not None
        if delta is None:
            # autograd demands a new tensor where an input is returned.
            total = total.view_as(total)
        return total, normed

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total, weight = ctx.saved_tensors
        dsum, dy = grads
        width = total.shape[-1]
        dx = torch.empty_like(total)
        _add_norm_backward[(total.numel() // width,)](
            dy.contiguous(), dy if dsum is None else dsum.contiguous(), total, dx,
            weight, width, ctx.eps,
            BLOCK=triton.next_power_of_2(width), ADD=dsum is not None, BIAS=ctx.bias,
            num_warps=_warps(width),
        )  # fmt: skip
        return dx, dx if ctx.add else None, None, None, None


def _warps(width: int) -> int:
    """One for up to 1,024 columns: the sums over a token need no barrier within a warp."""
    return max(1, min(8, triton.next_power_of_2(width) // 1024))


def add_norm(
    hidden: torch.Tensor,  # (K, M, D)
    delta: torch.Tensor | None,  # (K, M, D)
    norm: Norm,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`forward.add_norm` in one kernel."""
    total, normed = _AddNorm.apply(hidden, delta, *norm, eps)
    return total, normed
