"""Product of a frozen linear layer and the LoRA adapters on it. Dimension letters: __init__."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from src.models.multi_lora.adapters import LoraStack


class FusedSlices(NamedTuple):
    """The adapted layers in a fused linear layer, of which each has a slice of the output columns.

    Each field has one entry per adapted layer, n in all.
    """

    starts: tuple[int, ...]  # first output column
    widths: tuple[int, ...]  # output columns
    layer_ids: tuple[int, ...]  # index of the linear layer in its block, for dropout masks


class Dropout(NamedTuple):
    """LoRA dropout whose masks are a function of a token's key alone.

    A token's key hashes its adapter's seed and step, its row and its position in the row. So
    neither the other adapters of a pack nor a resume changes a mask.
    """

    keys: torch.Tensor  # (K, M) int64
    rates: torch.Tensor  # (K,) probability of a zero

    @staticmethod
    def of(
        keys: torch.Tensor,  # (K,) int64, of adapter and step
        rates: torch.Tensor,  # (K,)
        rows: int,
        length: int,
    ) -> "Dropout":
        """Dropout for B = `rows` rows of T = `length` tokens."""
        row = torch.arange(rows, device=keys.device).repeat_interleave(length)
        position = torch.arange(length, device=keys.device).repeat(rows)
        return Dropout(_hash32(_hash32(keys)[:, None] + row * 2**17 + position), rates)

    def for_block(self, index: int) -> "Dropout":
        """The masks of transformer block `index`."""
        return self._replace(keys=_hash32(self.keys + 0x9E3779B9 * (index + 1)))

    def at_positions(self, positions: torch.Tensor) -> "Dropout":
        """The masks of the tokens at `positions` (K, N) only."""
        return self._replace(keys=self.keys.gather(1, positions))


def keep_mask(
    keys: torch.Tensor,  # (K, M) int64
    rates: torch.Tensor,  # (K,)
    layer_id: int,
    width: int,
) -> torch.Tensor:
    """Factors of LoRA dropout, (K, M, width) fp32: 0 with probability `rates`, else 1 / (1 - rate).

    A hash of (token key, layer, column) takes the place of a random generator: lowbias32 of
    https://github.com/skeeto/hash-prospector.
    """
    column = torch.arange(width, device=keys.device) + layer_id * 2**20
    bits = _hash32(keys[..., None] + _hash32(column))
    keep = bits >= (rates * 2.0**32).long()[:, None, None]
    return keep / (1 - rates.float())[:, None, None]


def _hash32(x: torch.Tensor) -> torch.Tensor:
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def packed_linear(
    x: torch.Tensor,  # (K, M, in)
    weight: torch.Tensor,  # (in, out): one linear layer, or several side by side
    bias: torch.Tensor | None,  # (out,)
    lora: LoraStack,
    slices: FusedSlices,
    dropout: Dropout | None = None,
) -> torch.Tensor:
    """x W + bias + (x_k A_k) B_k for each adapter k, (K, M, out).

    Each adapted layer adds to its own slice of the output, and has its own dropout mask.
    """
    keys, rates = dropout if dropout is not None else (None, None)
    result: torch.Tensor = _PackedLinear.apply(x, weight, bias, *lora, keys, rates, slices)
    return result


def linear_forward(
    x: torch.Tensor,  # (K, M, in)
    weight: torch.Tensor,  # (in, out)
    bias: torch.Tensor | None,  # (out,)
    a: torch.Tensor,  # (K, in, n R)
    b: torch.Tensor,  # (K, R, sum of the slices' widths)
    keys: torch.Tensor | None,  # (K, M) int64
    rates: torch.Tensor | None,  # (K,)
    slices: FusedSlices,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output (K, M, out), and xA = x_k A_k (K, M, n R) for the backward pass."""
    adapters, tokens, width = x.shape
    flat = x.reshape(-1, width)
    out = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
    out = out.view(adapters, tokens, -1)
    if keys is None or rates is None:
        xA = torch.bmm(x, a)
    else:
        layer_ids = slices.layer_ids
        masks = (keep_mask(keys, rates, layer_id, width).to(x.dtype) for layer_id in layer_ids)
        A_slices = a.chunk(len(layer_ids), 2)
        xA = torch.cat([torch.bmm(x * m, A) for m, A in zip(masks, A_slices, strict=True)], 2)
    for start, xA_slice, B_slice in _by_layer(xA, b, slices):
        # In place: another tensor of this size would be written and read for nothing.
        out[:, :, start : start + B_slice.shape[2]].baddbmm_(xA_slice, B_slice)
    return out, xA


def linear_backward(
    grad: torch.Tensor,  # (K, M, out)
    x: torch.Tensor,  # (K, M, in)
    xA: torch.Tensor,  # (K, M, n R)
    weight: torch.Tensor,  # (in, out)
    a: torch.Tensor,  # (K, in, n R)
    b: torch.Tensor,  # (K, R, sum of the slices' widths)
    keys: torch.Tensor | None,  # (K, M) int64
    rates: torch.Tensor | None,  # (K,)
    slices: FusedSlices,
    needs_x: bool,
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Gradients of x, a and b; that of x is None unless `needs_x`."""
    width = x.shape[2]
    grad = grad.contiguous()
    grad_xA, grad_b = torch.empty_like(xA), b.new_empty(b.shape)
    for (start, xA_slice, B_slice), (_, grad_xA_slice, grad_B_slice) in zip(
        _by_layer(xA, b, slices), _by_layer(grad_xA, grad_b, slices), strict=True
    ):
        grad_slice = grad[:, :, start : start + B_slice.shape[2]]
        # With beta=0 the uninitialized output is not read.
        grad_xA_slice.baddbmm_(grad_slice, B_slice.transpose(1, 2), beta=0)
        grad_B_slice.baddbmm_(xA_slice.transpose(1, 2), grad_slice, beta=0)
    masks: list[torch.Tensor] = []
    layer_ids = slices.layer_ids
    if keys is not None and rates is not None:
        masks = [keep_mask(keys, rates, layer_id, width).to(x.dtype) for layer_id in layer_ids]
    grad_xA_slices = grad_xA.chunk(len(layer_ids), 2)
    if masks:
        pairs = zip(masks, grad_xA_slices, strict=True)
        grad_a = torch.cat([torch.bmm((x * m).transpose(1, 2), g) for m, g in pairs], 2)
    else:
        grad_a = torch.bmm(x.transpose(1, 2), grad_xA)
    if not needs_x:
        return None, grad_a, grad_b
    grad_x = (grad.view(-1, grad.shape[-1]) @ weight.t()).view_as(x)
    if masks:
        A_slices = a.chunk(len(layer_ids), 2)
        for mask, g, A in zip(masks, grad_xA_slices, A_slices, strict=True):
            grad_x.addcmul_(torch.bmm(g, A.transpose(1, 2)), mask)
    else:
        grad_x.baddbmm_(grad_xA, a.transpose(1, 2))
    return grad_x, grad_a, grad_b


def _by_layer(
    xA: torch.Tensor, b: torch.Tensor, slices: FusedSlices
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Per adapted layer: its first output column, its part of xA (K, M, R) and of b (K, R, out)."""
    xA_slices, B_slices = xA.chunk(len(slices.starts), 2), b.split(slices.widths, 2)
    return zip(slices.starts, xA_slices, B_slices, strict=True)


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        keys: torch.Tensor | None,
        rates: torch.Tensor | None,
        slices: FusedSlices,
    ) -> torch.Tensor:
        out, xA = linear_forward(x, weight, bias, a, b, keys, rates, slices)
        ctx.save_for_backward(x, xA, weight, a, b, keys, rates)
        ctx.slices = slices
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, xA, weight, a, b, keys, rates = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        grad_x, grad_a, grad_b = linear_backward(
            grads[0], x, xA, weight, a, b, keys, rates, ctx.slices, needs_x
        )
        return grad_x, None, None, grad_a, grad_b, None, None, None
