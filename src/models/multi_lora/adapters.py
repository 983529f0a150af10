"""LoRA adapters as stacks, as flat rows of numbers, and as PEFT has them.

Dimension letters: __init__.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch


class LoraStack(NamedTuple):
    """K adapters of n layers that read the same input, side by side, as the products read them."""

    a: torch.Tensor  # (K, in, n R)
    b: torch.Tensor  # (K, R, sum of the n layers' out), scaled by each adapter's alpha / r


class LoraPair(NamedTuple):
    """One adapter at one layer; also used for its optimizer state. B is not scaled."""

    a: torch.Tensor  # (in, r)
    b: torch.Tensor  # (r, out)


class StackShape(NamedTuple):
    """Shape of one `LoraStack`: layers that read the same input."""

    in_features: int
    out_features: tuple[int, ...]  # of each of the n layers


@dataclass(frozen=True)
class FlatLayout:
    """Where an adapter's parameters lie in its row of a (K, P) tensor: every A, then every B.

    P is `num_params`. One flat row per adapter lets the optimizer update all layers at once.
    """

    stack_shapes: tuple[StackShape, ...]
    rank: int  # R

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of each adapted layer."""
        return tuple((shape.in_features, out) for shape in self.stack_shapes
                     for out in shape.out_features)  # fmt: skip

    @property
    def b_start(self) -> int:
        """Index of the first parameter of a B."""
        return sum(width_in for width_in, _ in self.layer_shapes) * self.rank

    @property
    def num_params(self) -> int:
        """P, the parameters of one adapter at rank R."""
        return sum(width_in + width_out for width_in, width_out in self.layer_shapes) * self.rank

    def stacks(self, flat: Any) -> list[LoraStack]:
        """Views of flat (K, P), of PyTorch or NumPy, as the stacks of the fused layers."""
        at_a, at_b, stacks = 0, self.b_start, []
        for width_in, widths_out in self.stack_shapes:
            columns, width_out = len(widths_out) * self.rank, sum(widths_out)
            size_a, size_b = width_in * columns, self.rank * width_out
            stacks.append(
                LoraStack(
                    flat[:, at_a : at_a + size_a].reshape(-1, width_in, columns),
                    flat[:, at_b : at_b + size_b].reshape(-1, self.rank, width_out),
                )
            )
            at_a, at_b = at_a + size_a, at_b + size_b
        return stacks

    def row(self, pairs: Sequence[LoraPair]) -> np.ndarray:
        """A row (P,) with one adapter, padded with zeros from r to R."""
        wide = torch.promote_types(pairs[0].a.dtype, torch.float32)  # NumPy has no bfloat16
        row = torch.zeros(1, self.num_params, dtype=wide).numpy()
        for (a, b), pair in zip(self._by_layer(row), pairs, strict=True):
            rank = pair.a.shape[1]
            a[0, :, :rank], b[0, :rank] = pair.a.to(wide).numpy(), pair.b.to(wide).numpy()
        return row[0]

    def read(self, row: np.ndarray, rank: int) -> list[LoraPair]:
        """A copy of the adapter of rank r = `rank` in a row (P,)."""
        # In NumPy, whose views cost a fraction of PyTorch's: it is done for each checkpoint.
        return [
            LoraPair(torch.from_numpy(a[0, :, :rank].copy()), torch.from_numpy(b[0, :rank].copy()))
            for a, b in self._by_layer(row[None])
        ]

    def _by_layer(self, flat: Any) -> list[tuple[Any, Any]]:
        """Views of flat (K, P), of PyTorch or NumPy: A (K, in, R) and B (K, R, out) of each adapted
        layer."""
        pairs = []
        for (_, widths_out), (a, b) in zip(self.stack_shapes, self.stacks(flat), strict=True):
            ends = accumulate(widths_out)
            for index, (width, end) in enumerate(zip(widths_out, ends, strict=True)):
                own = slice(index * self.rank, (index + 1) * self.rank)
                pairs.append((a[:, :, own], b[:, :, end - width : end]))
        return pairs


def initial_weights(
    layer_shapes: Sequence[tuple[int, int]],  # (in, out)
    order: Sequence[int],  # the same layers, as the model's modules follow each other
    *,
    rank: int,
    seed: int,
    dtype: torch.dtype,
) -> list[LoraPair]:
    """A fresh adapter in fp32, as PEFT draws it after `set_seed(seed)` on a base in `dtype`.

    PEFT initializes both A and B at creation (one draw each) and then draws A again; on a 16-bit
    base A is rounded to the base's dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for index in order:
        width_in, width_out = layer_shapes[index]
        a = torch.empty(rank, width_in)
        for tensor in (a, torch.empty(width_out, rank), a):
            torch.nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        if dtype in (torch.bfloat16, torch.float16):
            a = a.to(dtype).float()
        pairs[index] = LoraPair(a.t().contiguous(), torch.zeros(rank, width_out))
    return [pairs[index] for index in range(len(layer_shapes))]


def zeros_like(pairs: Sequence[LoraPair]) -> list[LoraPair]:
    """Zeros in the shapes of an adapter: the state of an optimizer before its first step."""
    return [LoraPair(torch.zeros_like(a), torch.zeros_like(b)) for a, b in pairs]


def to_peft(names: Sequence[str], pairs: Sequence[LoraPair]) -> dict[str, torch.Tensor]:
    """An adapter's tensors under the names and in the shapes of adapter_model.safetensors."""
    tensors = {}
    for name, (a, b) in zip(names, pairs, strict=True):
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.t().contiguous()  # (r, in)
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.t().contiguous()  # (out, r)
    return tensors


def from_peft(names: Sequence[str], tensors: dict[str, torch.Tensor]) -> list[LoraPair]:
    """The inverse of `to_peft`; KeyError where a layer is missing."""
    return [
        LoraPair(
            tensors[f"base_model.model.{name}.lora_A.weight"].t().contiguous(),
            tensors[f"base_model.model.{name}.lora_B.weight"].t().contiguous(),
        )
        for name in names
    ]
