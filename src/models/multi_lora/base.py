"""The frozen base of the packed engine: the weights of a decoder, read from transformers.

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

from src.models.multi_lora.adapters import LoraPair, LoraStack, StackShape, initial_weights
from src.models.multi_lora.families import ACTIVATIONS, FAMILIES, Family
from src.models.multi_lora.linear import FusedSlices
from src.models.multi_lora.shapes import config_problem, original_context, targets_problem
from src.models.utils import ModelError


class CannotPack(ModelError):
    """The packed engine cannot compute this base model; the TRL engine may."""


Rotary = tuple[torch.Tensor, torch.Tensor]  # cos and sin, (T, d) or (rows, T, d) each

HEAD_MULTIPLE = 64  # rows of the output head: 50,257 falls to a slow kernel, 50,304 does not


class Linear(NamedTuple):
    """Frozen linear layers that read the same input, side by side."""

    weight: torch.Tensor  # (in, sum of the layers' out)
    bias: torch.Tensor | None  # (sum of the layers' out,)
    slices: FusedSlices  # of the layers that carry adapters


class Norm(NamedTuple):
    """LayerNorm; RMSNorm where there is no bias."""

    weight: torch.Tensor  # (D,); fp32 where the product with it is rounded after it, as in Gemma
    bias: torch.Tensor | None  # (D,)


class Layer(NamedTuple):
    """One transformer block. Llama's has a gate beside `up`, GPT-2's has none."""

    norm_1: Norm
    norm_2: Norm
    inputs: Linear  # q, k, v
    output: Linear
    up: Linear  # (up) or (gate, up)
    down: Linear
    activation: str  # one of families.ACTIVATIONS' functions
    rotary: Rotary | None  # of positions from 0: (context, d), or less than d of each head
    head_norms: tuple[Norm, ...]  # of each query and each key head; () for none
    output_norms: tuple[Norm, ...]  # of what attention and MLP add to the residual; () for none

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
    turned: int  # numbers of each head that rotary positions turn; 0: they turn none
    scale: float  # of the attention scores
    softcap: float | None = None  # bound of the attention scores, by tanh
    interleaved: bool = False  # q, k and v of a head lie side by side
    parallel: bool = False  # attention and MLP read the same residual


@dataclass(frozen=True)
class FrozenBase:
    """The weights of a base model in the compute dtype, and how its parts are put together."""

    adapted_layers: tuple[AdaptedLayer, ...]
    module_order: tuple[int, ...]  # indices into adapted_layers, as the model's modules follow
    stack_shapes: tuple[StackShape, ...]
    layers: tuple[Layer, ...]
    stack_indices: tuple[tuple[int | None, ...], ...]  # of each block's linears; None: no adapters
    geometry: Geometry
    embeddings: torch.Tensor  # (V, D)
    embedding_scale: float | None
    positions: torch.Tensor | None  # (context, D) learned positions
    norm: Norm
    head: torch.Tensor  # (V_pad, D), padded with zero rows
    vocabulary: int  # V
    logit_softcap: float | None  # bound of the logits, by tanh

    def block_stacks(self, index: int, stacks: Sequence[LoraStack]) -> tuple[LoraStack | None, ...]:
        """The adapters of block `index`, in the order of its linear layers."""
        return tuple(None if i is None else stacks[i] for i in self.stack_indices[index])

    def fresh_adapter(self, rank: int, seed: int, dtype: torch.dtype) -> list[LoraPair]:
        """The adapter that PEFT draws on this base, whose weights are stored in `dtype`."""
        shapes = [(layer.in_features, layer.out_features) for layer in self.adapted_layers]
        return initial_weights(shapes, self.module_order, rank=rank, seed=seed, dtype=dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.dtype

    @property
    def device(self) -> torch.device:
        return self.embeddings.device


def read_base(
    model: Any, targets: Sequence[str], dtype: torch.dtype, longest: int | None = None
) -> FrozenBase:
    """The frozen base of a transformers model whose layers named in `targets` carry adapters.

    No row has more than `longest` tokens; None: it may fill the context. Raises CannotPack with the
    reason where the packed engine cannot compute this model.
    """
    config = model.config
    kind = config.model_type
    if problem := config_problem(config.to_dict(), longest) or targets_problem(kind, targets):
        raise CannotPack(problem)
    if getattr(model, "is_quantized", False):
        raise CannotPack("the packed engine has no 4-bit base")
    head = model.get_output_embeddings()
    if head.bias is not None:
        raise CannotPack("the packed engine has no output head with a bias")
    family = FAMILIES[kind]
    reader = _Reader(model, family, targets, dtype)
    layers = _layers(reader, config)
    embeddings = model.get_input_embeddings()
    scale = getattr(embeddings, "embed_scale", None)
    positions = None
    if family.positions is not None:
        table = model.get_submodule(family.positions).weight.detach()
        positions = table[family.first_position :].to(dtype)
    rows = head.weight.shape[0]
    padded = -(-rows // HEAD_MULTIPLE) * HEAD_MULTIPLE
    place = {name: index for index, (name, _) in enumerate(model.named_modules())}
    adapted = tuple(reader.adapted_layers)
    return FrozenBase(
        adapted_layers=adapted,
        module_order=tuple(sorted(range(len(adapted)), key=lambda i: place[adapted[i].name])),
        stack_shapes=tuple(reader.stack_shapes),
        layers=layers,
        stack_indices=tuple(
            tuple(reader.stack_index[id(linear)] for linear in layer.linears) for layer in layers
        ),
        geometry=_geometry(reader, config, layers),
        embeddings=embeddings.weight.detach().to(dtype),
        # transformers rounds the factor to the weights' dtype.
        embedding_scale=None if scale is None else scale.to(dtype).item(),
        positions=positions,
        norm=reader.norm(family.norm),
        head=F.pad(head.weight.detach().to(dtype), (0, 0, 0, padded - rows)),
        vocabulary=rows,
        logit_softcap=_optional(config, family.logit_softcap),
    )


def _optional(config: Any, name: str | None) -> Any:
    """The value of a configuration field; None where the family has no such field."""
    return None if name is None else getattr(config, name)


@dataclass
class _Reader:
    """Reads modules of a transformers model, and notes which layers carry adapters."""

    model: Any
    family: Family
    targets: Sequence[str]
    dtype: torch.dtype
    adapted_layers: list[AdaptedLayer] = field(default_factory=list)
    stack_shapes: list[StackShape] = field(default_factory=list)
    stack_index: dict[int, int | None] = field(default_factory=dict)  # by id of a `Linear`

    def norm(self, name: str) -> Norm:
        module = self.model.get_submodule(name)
        if self.family.norm_offset:
            return Norm(self.family.norm_offset + module.weight.detach().float(), None)
        bias = getattr(module, "bias", None)
        return Norm(
            module.weight.detach().to(self.dtype),
            None if bias is None else bias.detach().to(self.dtype),
        )

    def norms(self, block: str, names: Sequence[str]) -> tuple[Norm, ...]:
        return tuple(self.norm(f"{block}.{name}") for name in names)

    def linear(self, block: str, *parts: str) -> Linear:
        """These modules of a block as one fused linear."""
        first_id = self.family.linears.index(parts[0])
        names = [f"{block}.{part}" for part in parts]
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
        if self.family.transposed:
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


def _layers(reader: _Reader, config: Any) -> tuple[Layer, ...]:
    family = reader.family
    activation = ACTIVATIONS[getattr(config, family.activation[0])]
    return tuple(
        Layer(
            reader.norm(f"{block}.{family.input_norm}"),
            reader.norm(f"{block}.{family.mlp_norm}"),
            reader.linear(block, *family.inputs),
            reader.linear(block, family.output),
            reader.linear(block, *family.up),
            reader.linear(block, family.down),
            activation,
            rotary,
            reader.norms(block, family.head_norms),
            reader.norms(block, family.output_norms),
        )
        for block, rotary in (
            (f"{family.blocks}.{index}", rotary)
            for index, rotary in enumerate(_rotary_positions(reader, config))
        )
    )


def _geometry(reader: _Reader, config: Any, layers: Sequence[Layer]) -> Geometry:
    family, heads = reader.family, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    norm = reader.model.get_submodule(family.norm)
    return Geometry(
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        head_dim,
        norm.eps if hasattr(norm, "eps") else norm.variance_epsilon,
        max(0 if layer.rotary is None else layer.rotary[0].shape[1] for layer in layers),
        (_optional(config, family.attention_scale) or head_dim) ** -0.5,
        _optional(config, family.attention_softcap),
        family.interleaved,
        bool(_optional(config, family.parallel)),
    )


def _rotary_positions(reader: _Reader, config: Any) -> list[Rotary | None]:
    """The rotary positions of each block, by transformers' own function, which knows the scalings.

    Blocks with the same ones share a table of all positions that a row may have.
    """
    family, count = reader.family, config.num_hidden_layers
    if family.rotary is None:
        return [None] * count
    module = reader.model.get_submodule(family.rotary)
    device = reader.model.get_input_embeddings().weight.device
    zero = torch.zeros((), dtype=reader.dtype, device=device)

    def table(rope: Any, *layer_type: str) -> Rotary:
        limit = original_context(config.to_dict(), rope, family) or config.max_position_embeddings
        positions = torch.arange(min(limit, config.max_position_embeddings), device=device)
        with torch.no_grad():
            cos, sin = module(zero, positions[None], *layer_type)
        return cos[0], sin[0]

    ropes = config.rope_parameters
    if family.rotary_by_layer_type:
        tables = {kind: table(ropes[kind], kind) for kind in sorted(set(config.layer_types))}
        return [tables[kind] for kind in config.layer_types]
    shared = table(ropes)
    flags = _optional(config, family.rotary_layers) or [1] * count
    return [shared if flag else None for flag in flags[:count]]
