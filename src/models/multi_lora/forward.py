"""Transformer blocks as functions over the frozen base and the stacks of adapters.

The numbers are those of transformers' modules (tests: a packed adapter is the one it would be
alone). `KernelSet` names the functions that Triton kernels replace on a GPU.
Dimension letters: __init__.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from src.models.multi_lora.adapters import LoraStack
from src.models.multi_lora.base import FrozenBase, Geometry, Layer, Linear, Norm, Rotary
from src.models.multi_lora.linear import Dropout, packed_linear
from src.models.multi_lora.loss import cross_entropy_, row_scores
from src.models.multi_lora.rows import FlatRows, fits_in_registers


def embed(
    base: FrozenBase,
    ids: torch.Tensor,  # (...)
    positions: torch.Tensor,  # (...) of each token in its row
) -> torch.Tensor:
    """Embeddings of tokens, (..., D)."""
    hidden = F.embedding(ids, base.embeddings)
    if base.embedding_scale is not None:
        hidden = hidden * base.embedding_scale
    if base.positions is not None:
        hidden = hidden + F.embedding(positions, base.positions)
    return hidden


def split_heads(
    qkv: torch.Tensor,  # (K, M, (H + 2 H_kv) d): output of a block's input layers
    geometry: Geometry,
    rotary: Rotary | None,
    length: int,  # T
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (rows, T, H, d), k and v (rows, T, H_kv, d), rows = K M / T, at their rotary positions."""
    d, kv_heads = geometry.head_dim, geometry.num_key_value_heads
    heads = qkv.reshape(-1, length, qkv.shape[-1] // d, d)
    q, k, v = heads.split([geometry.heads, kv_heads, kv_heads], 2)
    if rotary is not None:
        cos, sin = (part.unsqueeze(-2) for part in rotary)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    return q, k, v


def span(rotary: Rotary | None, start: int, length: int) -> Rotary | None:
    """The rotary positions of `length` tokens from `start` on."""
    return rotary and (rotary[0][start : start + length], rotary[1][start : start + length])


def attend(
    q: torch.Tensor,  # (rows, H, T, d)
    k: torch.Tensor,  # (rows, H_kv, S, d)
    v: torch.Tensor,  # (rows, H_kv, S, d)
    geometry: Geometry,
    mask: torch.Tensor | None = None,  # True where a token is read
) -> torch.Tensor:
    """Attention, (rows, H, T, d); causal where there is no mask."""
    grouped = q.shape[1] != k.shape[1]
    if geometry.softcap is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=geometry.scale,
            enable_gqa=grouped,
        )  # fmt: skip
    if grouped:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = torch.tanh(q @ k.transpose(2, 3) * geometry.scale / geometry.softcap)
    scores = (scores * geometry.softcap).masked_fill(~mask, -torch.inf)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return wide.softmax(-1).to(v.dtype) @ v


def causal_attention(
    qkv: torch.Tensor,  # (K, M, (H + 2 H_kv) d)
    rotary: Rotary | None,  # of positions from 0
    geometry: Geometry,
    length: int,  # T
) -> torch.Tensor:
    """Causal attention within each row, (K, M, H d).

    Padding on the right needs no mask: only padding comes after it.
    """
    parts = split_heads(qkv, geometry, span(rotary, 0, length), length)
    q, k, v = (part.transpose(1, 2) for part in parts)
    return attend(q, k, v, geometry).transpose(1, 2).reshape(*qkv.shape[:2], -1)


def flat_attention(
    qkv: torch.Tensor,  # (K, M, (H + 2 H_kv) d)
    rotary: Rotary | None,  # of positions from 0
    geometry: Geometry,
    rows: FlatRows,
) -> torch.Tensor:
    """Causal attention of each row to the head that it shares and to itself, (K, M, H d).

    Zeros in the padding: each of the K products sums over all of its tokens.
    """
    position = torch.arange(rows.length, device=qkv.device)
    token = position.where(
        position < rows.heads[:, None, None], rows.starts[..., None] + position
    )  # (K, B, T)
    token = token.where(position < rows.ends[..., None], 0).flatten(1)
    if rotary is not None:  # T may be more than the context
        cos, sin = (part[position.clamp(max=len(part) - 1)] for part in rotary)
        rotary = cos, sin
    mixed = causal_attention(take(qkv, token), rotary, geometry, rows.length)
    real = torch.arange(qkv.shape[1], device=qkv.device) < rows.totals[:, None]
    return torch.where(real[..., None], take(mixed, rows.source), 0)


def has_kernel(geometry: Geometry, length: int) -> bool:
    """True where a kernel computes the attention of rows of `length` tokens: scores without a
    bound, and rotary positions that turn a head as a whole."""
    is_plain = geometry.softcap is None and geometry.turned in (0, geometry.head_dim)
    return is_plain and fits_in_registers(length, geometry.head_dim)


def cached_attention(
    q: torch.Tensor,  # (rows, 1, H, d)
    k: torch.Tensor,  # (rows, 1, H_kv, d)
    v: torch.Tensor,  # (rows, 1, H_kv, d)
    key_cache: torch.Tensor,  # (rows, H_kv, slots, d), written at `positions`
    value_cache: torch.Tensor,  # (rows, H_kv, slots, d), written at `positions`
    positions: torch.Tensor,  # (rows,) of the new token
    geometry: Geometry,
) -> torch.Tensor:
    """Attention of one new token per row to itself and the cached ones before it, (rows, H d)."""
    rows, kv_heads, slots, d = key_cache.shape
    row = torch.arange(rows, device=positions.device)
    key_cache[row, :, positions] = k[:, 0]
    value_cache[row, :, positions] = v[:, 0]
    mask = torch.arange(slots, device=positions.device) <= positions[:, None]
    # The query heads that share a key head take the place of the token dimension.
    q = q.reshape(rows, kv_heads, -1, d)
    return attend(q, key_cache, value_cache, geometry, mask[:, None, None]).reshape(rows, -1)


def normalize(hidden: torch.Tensor, norm: Norm, eps: float) -> torch.Tensor:
    """LayerNorm where there is a bias, else RMSNorm, which transformers computes in fp32."""
    if norm.bias is not None:
        return F.layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, eps)
    wide = hidden.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    # The weight is wide where transformers multiplies before it rounds: see Norm.
    return (norm.weight * wide.to(norm.weight.dtype)).to(hidden.dtype)


def add_norm(
    hidden: torch.Tensor,  # (K, M, D)
    delta: torch.Tensor | None,  # (K, M, D)
    norm: Norm,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden + delta, and its norm, (K, M, D) each."""
    hidden = hidden if delta is None else hidden + delta
    return hidden, normalize(hidden, norm, eps)


_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


def mlp(
    x: torch.Tensor,  # (K, M, D)
    layer: Layer,
    up: LoraStack | None,
    down: LoraStack | None,
    dropout: Dropout | None,
) -> torch.Tensor:
    """Feed-forward part of a block, (K, M, D), without norm and residual."""
    wide = _linear(x, layer.up, up, dropout)
    if layer.gated:
        gate, value = wide.chunk(2, -1)
        wide = _ACTIVATIONS[layer.activation](gate) * value
    else:
        wide = _ACTIVATIONS[layer.activation](wide)
    return _linear(wide, layer.down, down, dropout)


class KernelSet(NamedTuple):
    """The functions that Triton kernels replace on a GPU; by default those of plain PyTorch."""

    attention: Callable[..., torch.Tensor] = causal_attention
    flat_attention: Callable[..., torch.Tensor] = flat_attention
    add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_norm
    mlp: Callable[..., torch.Tensor] = mlp
    cached_attention: Callable[..., torch.Tensor] = cached_attention
    cross_entropy_: Callable[..., torch.Tensor] = cross_entropy_
    row_scores: Callable[..., tuple[torch.Tensor, torch.Tensor]] = row_scores


def block(
    hidden: torch.Tensor,  # (K, M, D)
    delta: torch.Tensor | None,  # (K, M, D), added to hidden first
    layer: Layer,
    stacks: Sequence[LoraStack | None],  # of layer.linears
    geometry: Geometry,
    attention: Callable[[torch.Tensor, Rotary | None], torch.Tensor],
    answer_positions: torch.Tensor | None = None,  # (K, N) indices into M
    dropout: Dropout | None = None,
    kernels: KernelSet = KernelSet(),  # noqa: B008
) -> tuple[torch.Tensor, torch.Tensor]:
    """One transformer block: (hidden, delta), whose sum is the block's output, (K, M, D) each.

    The sum is left to the next norm, which computes it on the way. With `answer_positions`, all
    that follows the attention is computed at these tokens only and the result is (K, N, D):
    nothing else of the last block is read.
    """
    inputs, output, up, down = stacks
    eps, norms = geometry.norm_eps, layer.output_norms
    hidden, normed = kernels.add_norm(hidden, delta, layer.norm_1, eps)
    qkv = _linear(normed, layer.inputs, inputs, dropout)
    if geometry.interleaved or layer.head_norms:
        qkv = _prepared_heads(qkv, layer, geometry, kernels)
    mixed = attention(qkv, layer.rotary)
    if answer_positions is not None:
        hidden, mixed = take(hidden, answer_positions), take(mixed, answer_positions)
        dropout = dropout and dropout.at_positions(answer_positions)
    delta = _linear(mixed, layer.output, output, dropout)
    if norms:
        delta = kernels.add_norm(delta, None, norms[0], eps)[1]
    if geometry.parallel:
        normed = kernels.add_norm(hidden, None, layer.norm_2, eps)[1]
        return hidden, delta + kernels.mlp(normed, layer, up, down, dropout)
    hidden, normed = kernels.add_norm(hidden, delta, layer.norm_2, eps)
    delta = kernels.mlp(normed, layer, up, down, dropout)
    return hidden, kernels.add_norm(delta, None, norms[1], eps)[1] if norms else delta


def _prepared_heads(
    qkv: torch.Tensor,  # (K, M, (H + 2 H_kv) d)
    layer: Layer,
    geometry: Geometry,
    kernels: KernelSet,
) -> torch.Tensor:
    """All queries, then all keys, then all values, queries and keys normalized; shaped as qkv."""
    heads = qkv.unflatten(-1, (-1, geometry.head_dim))
    if geometry.interleaved:
        heads = heads.unflatten(2, (-1, 3)).transpose(2, 3).flatten(2, 3)
    if layer.head_norms:
        kv_heads = geometry.num_key_value_heads
        *turned, v = heads.split([geometry.heads, kv_heads, kv_heads], 2)
        q, k = (
            kernels.add_norm(part, None, norm, geometry.norm_eps)[1]
            for part, norm in zip(turned, layer.head_norms, strict=True)
        )
        heads = torch.cat((q, k, v), 2)
    return heads.flatten(2)


def hidden_states(
    base: FrozenBase,
    stacks: Sequence[LoraStack],
    ids: torch.Tensor,  # (K, B, T) right-padded
    answer_positions: torch.Tensor,  # (K, N) indices into an adapter's B * T tokens
    *,
    dropout: Dropout | None = None,
    kernels: KernelSet = KernelSet(),  # noqa: B008
) -> torch.Tensor:
    """Input of the output head at the answer positions, (K, N, D).

    An answer position is the token from which an answer token is predicted: the one before it.
    """
    adapters, rows, length = ids.shape
    positions = torch.arange(length, device=ids.device)
    hidden = embed(base, ids, positions).view(adapters, rows * length, -1)
    attention = partial(kernels.attention, geometry=base.geometry, length=length)
    return all_blocks(base, stacks, hidden, attention, answer_positions, dropout, kernels)


def all_blocks(
    base: FrozenBase,
    stacks: Sequence[LoraStack],
    hidden: torch.Tensor,  # (K, M, D) embeddings
    attention: Callable[[torch.Tensor, Rotary | None], torch.Tensor],
    answer_positions: torch.Tensor,  # (K, N) indices into M
    dropout: Dropout | None,
    kernels: KernelSet,
) -> torch.Tensor:
    """Input of the output head at the answer positions, (K, N, D), from embeddings."""
    delta = None
    for index, layer in enumerate(base.layers):
        is_last = index == len(base.layers) - 1
        hidden, delta = block(
            hidden,
            delta,
            layer,
            base.block_stacks(index, stacks),
            base.geometry,
            attention,
            answer_positions if is_last else None,
            dropout and dropout.for_block(index),
            kernels,
        )
    return kernels.add_norm(hidden, delta, base.norm, base.geometry.norm_eps)[1]


def take(
    hidden: torch.Tensor,  # (K, M, D)
    positions: torch.Tensor,  # (K, N) indices into M
) -> torch.Tensor:
    """Each adapter's tokens at its own positions, (K, N, D)."""
    adapters, tokens, width = hidden.shape
    offsets = torch.arange(adapters, device=hidden.device)[:, None] * tokens
    flat = (offsets + positions).flatten()
    return hidden.reshape(-1, width).index_select(0, flat).view(adapters, -1, width)


def _linear(
    x: torch.Tensor, linear: Linear, lora: LoraStack | None, dropout: Dropout | None
) -> torch.Tensor:
    if lora is None:
        return F.linear(x, linear.weight.t(), linear.bias)
    return packed_linear(x, linear.weight, linear.bias, lora, linear.slices, dropout)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864), pairing the halves as Llama does.

    Where cos has fewer columns than a head, the rest of the head stays as it is.
    """
    if cos.shape[-1] < x.shape[-1]:
        turned, rest = x.tensor_split([cos.shape[-1]], -1)
        return torch.cat((_rotate(turned, cos, sin), rest), -1)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
