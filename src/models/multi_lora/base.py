"""The frozen base of the packed engine: weights of GPT-2 and Llama shapes, read from transformers.

transformers' modules allocate, branch and synchronize at run time. The packed engine keeps their
weights as plain tensors and computes them itself (`forward`), with every shape known before a step,
so that a step can be a CUDA graph and each adapter's product is fused with its base's.
Dimension letters: __init__.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from src.models.multi_lora.adapters import LoraStack, StackShape
from src.models.multi_lora.linear import FusedSlices
from src.models.multi_lora.shapes import config_problem, targets_problem
from src.models.utils import ModelError


class CannotPack(ModelError):
    """The packed engine cannot compute this base model; the TRL engine may."""


HEAD_MULTIPLE = 64  # rows of the output head: 50,257 falls to a slow kernel, 50,304 does not


class Linear(NamedTuple):
    """Frozen linear layers that read the same input, side by side."""

    weight: torch.Tensor  # (in, sum of the layers' out)
    bias: torch.Tensor | None  # (sum of the layers' out,)
    slices: FusedSlices  # of the layers that carry adapters


class Norm(NamedTuple):
    """LayerNorm; RMSNorm where there is no bias."""

    weight: torch.Tensor  # (D,)
    bias: torch.Tensor | None  # (D,)


class Layer(NamedTuple):
    """One transformer block. Llama's has a gate beside `up`, GPT-2's has none."""

    norm_1: Norm
    norm_2: Norm
    inputs: Linear  # q, k, v
    output: Linear
    up: Linear  # (up) or (gate, up)
    down: Linear

    @property
    def linears(self) -> tuple[Linear, Linear, Linear, Linear]:
        """The linear layers in the order of the adapters of a block."""
        return self.inputs, self.output, self.up, self.down

    @property
    def gated(self) -> bool:
        return self.up.weight.shape[1] > self.down.weight.shape[0]


@dataclass(frozen=True)
class AdaptedLayer:
    """A linear layer that carries adapters."""

    name: str  # of the module in transformers' model
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Geometry:
    """How a block's attention splits its width, in transformers' words."""

    heads: int  # H
    num_key_value_heads: int  # H_kv
    head_dim: int  # d
    norm_eps: float


@dataclass(frozen=True)
class FrozenBase:
    """The weights of a base model in the compute dtype, and how its parts are put together."""

    adapted_layers: tuple[AdaptedLayer, ...]
    stack_shapes: tuple[StackShape, ...]
    layers: tuple[Layer, ...]
    stack_indices: tuple[tuple[int | None, ...], ...]  # of each block's linears; None: no adapters
    geometry: Geometry
    embeddings: torch.Tensor  # (V, D)
    positions: torch.Tensor | None  # (context, D): GPT-2's learned positions
    rotary: tuple[torch.Tensor, torch.Tensor] | None  # cos and sin, (context, d) each
    norm: Norm
    head: torch.Tensor  # (V_pad, D), padded with zero rows
    vocabulary: int  # V

    def block_stacks(self, index: int, stacks: Sequence[LoraStack]) -> tuple[LoraStack | None, ...]:
        """The adapters of block `index`, in the order of its linear layers."""
        return tuple(None if i is None else stacks[i] for i in self.stack_indices[index])

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.dtype

    @property
    def device(self) -> torch.device:
        return self.embeddings.device


def read_base(model: Any, targets: Sequence[str], dtype: torch.dtype) -> FrozenBase:
    """The frozen base of a transformers model whose layers named in `targets` carry adapters.

    Raises CannotPack with the reason where the packed engine cannot compute this model.
    """
    config = model.config
    kind = config.model_type
    if problem := config_problem(config.to_dict()) or targets_problem(kind, targets):
        raise CannotPack(problem)
    if getattr(model, "is_quantized", False):
        raise CannotPack("the packed engine has no 4-bit base")
    head = model.get_output_embeddings()
    if head.bias is not None:
        raise CannotPack("the packed engine has no output head with a bias")
    reader = _Reader(model, targets, dtype, transposed=kind == "gpt2")
    parts = _gpt2(reader, config) if kind == "gpt2" else _llama(reader, config)
    rows = head.weight.shape[0]
    padded = -(-rows // HEAD_MULTIPLE) * HEAD_MULTIPLE
    return FrozenBase(
        adapted_layers=tuple(reader.adapted_layers),
        stack_shapes=tuple(reader.stack_shapes),
        stack_indices=tuple(
            tuple(reader.stack_index[id(linear)] for linear in layer.linears)
            for layer in parts["layers"]
        ),
        embeddings=model.get_input_embeddings().weight.detach().to(dtype),
        head=F.pad(head.weight.detach().to(dtype), (0, 0, 0, padded - rows)),
        vocabulary=rows,
        **parts,
    )


@dataclass
class _Reader:
    """Reads modules of a transformers model, and notes which layers carry adapters."""

    model: Any
    targets: Sequence[str]
    dtype: torch.dtype
    transposed: bool  # Conv1D of GPT-2 holds (in, out), nn.Linear (out, in)
    adapted_layers: list[AdaptedLayer] = field(default_factory=list)
    stack_shapes: list[StackShape] = field(default_factory=list)
    stack_index: dict[int, int | None] = field(default_factory=dict)  # by id of a `Linear`

    def norm(self, name: str) -> Norm:
        module = self.model.get_submodule(name)
        bias = getattr(module, "bias", None)
        return Norm(
            module.weight.detach().to(self.dtype),
            None if bias is None else bias.detach().to(self.dtype),
        )

    def linear(self, first_id: int, *names: str) -> Linear:
        """These modules as one fused linear; `first_id` is the first one's index in its block."""
        modules = [self.model.get_submodule(name) for name in names]
        weight, widths = self._fused_weight(modules)
        biases = [
            weight.new_zeros(width) if m.bias is None else m.bias.detach().to(self.dtype)
            for m, width in zip(modules, widths, strict=True)
        ]
        bias = None if all(module.bias is None for module in modules) else torch.cat(biases)
        starts = [0, *accumulate(widths)]
        adapted = [i for i, name in enumerate(names) if name.rsplit(".", 1)[-1] in self.targets]
        slices = FusedSlices(
            starts=tuple(starts[i] for i in adapted),
            widths=tuple(widths[i] for i in adapted),
            layer_ids=tuple(first_id + i for i in adapted),
        )
        self.adapted_layers += [AdaptedLayer(names[i], len(weight), widths[i]) for i in adapted]
        linear = Linear(weight, bias, slices)
        self.stack_index[id(linear)] = len(self.stack_shapes) if adapted else None
        if adapted:
            self.stack_shapes.append(StackShape(len(weight), slices.widths))
        return linear

    def _fused_weight(self, modules: list[Any]) -> tuple[torch.Tensor, list[int]]:
        """The modules' weights side by side (in, sum of out), and the out of each."""
        weights = [module.weight.detach().to(self.dtype) for module in modules]
        if self.transposed:
            weights = [weight.t() for weight in weights]
        widths = [len(weight) for weight in weights]
        fused = weights[0]
        if len(weights) > 1:
            fused = torch.cat(weights)
            if self.dtype == modules[0].weight.dtype:
                # The model's own weights become views, else both are in memory until it goes.
                for module, part in zip(modules, fused.split(widths), strict=True):
                    module.weight.data = part
        return fused.t(), widths


def _gpt2(reader: _Reader, config: Any) -> dict[str, Any]:
    layers = tuple(
        Layer(
            reader.norm(f"{block}.ln_1"),
            reader.norm(f"{block}.ln_2"),
            reader.linear(0, f"{block}.attn.c_attn"),
            reader.linear(1, f"{block}.attn.c_proj"),
            reader.linear(2, f"{block}.mlp.c_fc"),
            reader.linear(3, f"{block}.mlp.c_proj"),
        )
        for block in (f"transformer.h.{index}" for index in range(config.n_layer))
    )
    heads = config.n_head
    return {
        "layers": layers,
        "geometry": Geometry(heads, heads, config.n_embd // heads, config.layer_norm_epsilon),
        "positions": reader.model.transformer.wpe.weight.detach().to(reader.dtype),
        "rotary": None,
        "norm": reader.norm("transformer.ln_f"),
    }


def _llama(reader: _Reader, config: Any) -> dict[str, Any]:
    layers = tuple(
        Layer(
            reader.norm(f"{block}.input_layernorm"),
            reader.norm(f"{block}.post_attention_layernorm"),
            reader.linear(0, *(f"{block}.self_attn.{part}_proj" for part in "qkv")),
            reader.linear(3, f"{block}.self_attn.o_proj"),
            reader.linear(4, f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"),
            reader.linear(6, f"{block}.mlp.down_proj"),
        )
        for block in (f"model.layers.{index}" for index in range(config.num_hidden_layers))
    )
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    model = reader.model.model
    device = model.embed_tokens.weight.device
    # One table for all positions, by transformers' own function, which knows the scalings.
    positions = torch.arange(config.max_position_embeddings, device=device)[None]
    with torch.no_grad():
        zero = torch.zeros((), dtype=reader.dtype, device=device)
        cos, sin = model.rotary_emb(zero, positions)
    return {
        "layers": layers,
        "geometry": Geometry(heads, config.num_key_value_heads, head_dim, config.rms_norm_eps),
        "positions": None,
        "rotary": (cos[0], sin[0]),
        "norm": reader.norm("model.norm"),
    }
