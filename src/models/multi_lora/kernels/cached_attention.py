"""Attention of one new token of each row to a cache.

    q               (rows, 1, H, d)
    k, v            (rows, 1, H_kv, d)
    key, value      (rows, H_kv, slots, d)    cache of decoding

GROUP = H / H_kv query heads share a key head, WIDTH is d, BLOCK the next power of two of slots.
Dimension letters: multi_lora.__init__.
"""

# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl

from src.models.multi_lora import forward
from src.models.multi_lora.base import Geometry
from src.models.multi_lora.rows import fits_in_registers


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
    geometry: Geometry,
) -> torch.Tensor:
    """`forward.cached_attention` in one kernel; scores with a bound and other caches than
    `fits_in_registers` says take PyTorch's."""
    rows, kv_heads, slots, width = key_cache.shape
    if geometry.softcap is not None or not fits_in_registers(slots, width):
        return forward.cached_attention(q, k, v, key_cache, value_cache, positions, geometry)
    heads = q.shape[2]
    mixed = q.new_empty(rows, heads * width)
    _cached_attention[(rows, kv_heads)](
        q, k, v, key_cache, value_cache, positions, mixed, q.stride(0), k.stride(0), v.stride(0),
        key_cache.stride(0), key_cache.stride(1), geometry.scale, GROUP=heads // kv_heads,
        WIDTH=width, BLOCK=max(16, triton.next_power_of_2(slots)), num_warps=4,
    )  # fmt: skip
    return mixed
