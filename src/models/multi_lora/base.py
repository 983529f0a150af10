"""The frozen base of the packed engine: GPT-2 and Llama shapes as plain functions over tensors.

transformers' own modules allocate, branch and synchronise as they like; here every shape is known
before a step, so that a step can be a CUDA graph, and each adapter's product is fused with its
base's. The numbers are those of transformers' modules (tests/test_packed.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from src.models.multi_lora.adapters import (
    Dropout,
    Lora,
    Parts,
    cross_entropy_,
    packed_linear,
    row_scores,
)
from src.models.multi_lora.shapes import shape_problem
from src.models.utils import ModelError

HEAD_MULTIPLE = 64  # rows of the output head: 50,257 falls to a slow kernel, 50,304 does not


class Linear(NamedTuple):
    """Frozen linear layers that read the same input, side by side."""

    weight: torch.Tensor  # (in, sum of out)
    bias: torch.Tensor | None  # (sum of out,)
    parts: Parts  # those that carry adapters


class Layer(NamedTuple):
    """One transformer block. Llama's has a gate beside `up`, GPT-2's has none.

    Adapters of a block come in the order of its linear layers here.
    """

    norm_1: tuple[torch.Tensor, torch.Tensor | None]
    norm_2: tuple[torch.Tensor, torch.Tensor | None]
    inputs: Linear  # q, k, v
    output: Linear
    up: Linear  # (up) or (gate, up)
    down: Linear

    @property
    def gated(self) -> bool:
        return self.up.weight.shape[1] > self.down.weight.shape[0]


@dataclass(frozen=True)
class Site:
    """A linear layer that carries adapters."""

    name: str  # in the model of transformers
    width_in: int
    width_out: int


@dataclass(frozen=True)
class Geometry:
    heads: int
    kv_heads: int
    head_width: int
    epsilon: float


@dataclass(frozen=True)
class FrozenBase:
    """The weights of a base model in the dtype of its products, and how they are put together."""

    sites: tuple[Site, ...]
    stacks: tuple[tuple[int, tuple[int, ...]], ...]  # in, and the out of each of its sites
    layers: tuple[Layer, ...]
    adapted: tuple[tuple[int | None, ...], ...]  # the stack of each `Linear` of each block
    geometry: Geometry
    embeddings: torch.Tensor  # (vocabulary, width)
    positions: torch.Tensor | None  # (context, width): GPT-2's learned positions
    rotary: tuple[torch.Tensor, torch.Tensor] | None  # cos and sin, (context, head width) each
    norm: tuple[torch.Tensor, torch.Tensor | None]
    head: torch.Tensor  # (vocabulary padded with zero rows, width)
    vocabulary: int

    def lora_of(self, index: int, lora: Sequence[Lora]) -> tuple[Lora | None, ...]:
        """The adapters of block `index`, in the order of its linear layers."""
        return tuple(None if stack is None else lora[stack] for stack in self.adapted[index])

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.dtype

    @property
    def device(self) -> torch.device:
        return self.embeddings.device


def read_base(model: Any, targets: Sequence[str], dtype: torch.dtype) -> FrozenBase:
    """The frozen base of a model of transformers, with adapters at its layers named in `targets`.

    ModelError with the reason where the packed engine cannot compute this model.
    """
    config = model.config
    kind = config.model_type
    if problem := shape_problem(kind, targets):
        raise ModelError(problem)
    if getattr(model, "is_quantized", False):
        raise ModelError("the packed engine has no 4-bit base")
    head = model.get_output_embeddings()
    sites: list[Site] = []
    stacks: list[tuple[int, tuple[int, ...]]] = []
    at: dict[int, int | None] = {}

    def linear(first: int, *names: str) -> Linear:
        """These layers, of which the first is the block's linear layer `first`."""
        modules = [model.get_submodule(name) for name in names]
        weights = [module.weight.detach().to(dtype) for module in modules]
        if kind == "gpt2":  # Conv1D holds (in, out)
            weights = [weight.t() for weight in weights]
        outs = [len(weight) for weight in weights]
        whole = weights[0]
        if len(weights) > 1:
            whole = torch.cat(weights)
            if dtype == modules[0].weight.dtype:  # else both are in memory until the model goes
                for module, part in zip(modules, whole.split(outs), strict=True):
                    module.weight.data = part
        weight = whole.t()
        biases = [
            weight.new_zeros(out) if m.bias is None else m.bias.detach().to(dtype)
            for m, out in zip(modules, outs, strict=True)
        ]
        bias = None if all(module.bias is None for module in modules) else torch.cat(biases)
        starts = [0, *accumulate(outs)]
        own = [i for i, name in enumerate(names) if name.rsplit(".", 1)[-1] in targets]
        parts = Parts(*(tuple(n[i] for i in own) for n in (starts, outs, range(first, first + 3))))
        sites.extend(Site(names[i], weight.shape[0], outs[i]) for i in own)
        made = Linear(weight, bias, parts)
        at[id(made)] = len(stacks) if own else None
        if own:
            stacks.append((weight.shape[0], parts.widths))
        return made

    def norm(name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        module = model.get_submodule(name)
        bias = getattr(module, "bias", None)
        return module.weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)

    rows = head.weight.shape[0]
    padded = -(-rows // HEAD_MULTIPLE) * HEAD_MULTIPLE
    shared = {
        "embeddings": model.get_input_embeddings().weight.detach().to(dtype),
        "head": F.pad(head.weight.detach().to(dtype), (0, 0, 0, padded - rows)),
        "vocabulary": rows,
    }
    if head.bias is not None:
        raise ModelError("the packed engine has no output head with a bias")
    read = _gpt2 if kind == "gpt2" else _llama
    parts = read(model, config, linear, norm, dtype)
    adapted = tuple(
        tuple(at[id(made)] for made in (layer.inputs, layer.output, layer.up, layer.down))
        for layer in parts["layers"]
    )
    return FrozenBase(**shared, sites=tuple(sites), stacks=tuple(stacks), adapted=adapted, **parts)


def _gpt2(model: Any, config: Any, linear: Any, norm: Any, dtype: torch.dtype) -> dict[str, Any]:
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ModelError(f"the packed engine has no {config.activation_function} for GPT-2")
    if (
        not config.scale_attn_weights
        or config.scale_attn_by_inverse_layer_idx
        or config.reorder_and_upcast_attn
        or config.add_cross_attention
    ):
        raise ModelError("the packed engine has only GPT-2's plain attention")
    layers = tuple(
        Layer(
            norm(f"{at}.ln_1"),
            norm(f"{at}.ln_2"),
            linear(0, f"{at}.attn.c_attn"),
            linear(1, f"{at}.attn.c_proj"),
            linear(2, f"{at}.mlp.c_fc"),
            linear(3, f"{at}.mlp.c_proj"),
        )
        for at in (f"transformer.h.{index}" for index in range(config.n_layer))
    )
    heads = config.n_head
    return {
        "layers": layers,
        "geometry": Geometry(heads, heads, config.n_embd // heads, config.layer_norm_epsilon),
        "positions": model.transformer.wpe.weight.detach().to(dtype),
        "rotary": None,
        "norm": norm("transformer.ln_f"),
    }


def _llama(model: Any, config: Any, linear: Any, norm: Any, dtype: torch.dtype) -> dict[str, Any]:
    if config.hidden_act != "silu":
        raise ModelError(f"the packed engine has no {config.hidden_act} for Llama shapes")
    rope = config.rope_parameters.get("rope_type", "default")
    if rope not in ("default", "linear", "llama3"):
        raise ModelError(f"the packed engine has no {rope} rotary positions")
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise ModelError("the packed engine has no sliding-window attention")
    layers = tuple(
        Layer(
            norm(f"{at}.input_layernorm"),
            norm(f"{at}.post_attention_layernorm"),
            linear(0, *(f"{at}.self_attn.{part}_proj" for part in "qkv")),
            linear(3, f"{at}.self_attn.o_proj"),
            linear(4, f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"),
            linear(6, f"{at}.mlp.down_proj"),
        )
        for at in (f"model.layers.{index}" for index in range(config.num_hidden_layers))
    )
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    device = model.model.embed_tokens.weight.device
    # A table of every position: transformers' own function knows the scalings.
    places = torch.arange(config.max_position_embeddings, device=device)[None]
    with torch.no_grad():
        cos, sin = model.model.rotary_emb(torch.zeros((), dtype=dtype, device=device), places)
    return {
        "layers": layers,
        "geometry": Geometry(heads, config.num_key_value_heads, width, config.rms_norm_eps),
        "positions": None,
        "rotary": (cos[0], sin[0]),
        "norm": norm("model.norm"),
    }


def embed(base: FrozenBase, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(..., width) for token ids and their positions in the row, both (...)."""
    hidden = F.embedding(ids, base.embeddings)
    if base.positions is not None:
        hidden = hidden + F.embedding(places, base.positions)
    return hidden


def split_heads(
    qkv: torch.Tensor,
    geometry: Geometry,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
    length: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v, (rows, length, heads, head width) each, of the output of a block's input layers
    (K, tokens, their widths).

    `rotary` holds cos and sin, (length, head width) or (rows, length, head width).
    """
    width = geometry.head_width
    heads = qkv.reshape(-1, length, qkv.shape[-1] // width, width)
    q, k, v = heads.split([geometry.heads, geometry.kv_heads, geometry.kv_heads], 2)
    if rotary is not None:
        cos, sin = (part.unsqueeze(-2) for part in rotary)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    return q, k, v


def causal_attention(
    qkv: torch.Tensor,
    geometry: Geometry,
    rotary: tuple[torch.Tensor, torch.Tensor] | None,
    length: int,
) -> torch.Tensor:
    """What each token takes from itself and those before it, (K, tokens, heads * head width).

    Padding on the right needs no mask: nothing that is read comes after it.
    """
    q, k, v = (part.transpose(1, 2) for part in split_heads(qkv, geometry, rotary, length))
    mixed = F.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=geometry.heads != geometry.kv_heads
    )
    return mixed.transpose(1, 2).reshape(*qkv.shape[:2], -1)


def cached_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    at: torch.Tensor,
) -> torch.Tensor:
    """What one new token of each row takes from itself and those before it, (rows, heads * head
    width); its key and value go to their place in the cache.

    q (rows, 1, heads, head width), k and v (rows, 1, kv heads, head width), keys and values (rows,
    kv heads, slots, head width), at (rows,) the new token's position.
    """
    rows, kv_heads, slots, width = keys.shape
    row = torch.arange(rows, device=at.device)
    keys[row, :, at] = k[:, 0]
    values[row, :, at] = v[:, 0]
    mask = (torch.arange(slots, device=at.device) <= at[:, None])[:, None, None]
    # The heads that share a key stand where other batches have their tokens.
    q = q.reshape(rows, kv_heads, -1, width)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).reshape(rows, -1)


def normalise(
    hidden: torch.Tensor, norm: tuple[torch.Tensor, torch.Tensor | None], epsilon: float
) -> torch.Tensor:
    """LayerNorm where there is a bias, else RMSNorm, which transformers computes in fp32."""
    weight, bias = norm
    if bias is not None:
        return F.layer_norm(hidden, weight.shape, weight, bias, epsilon)
    wide = hidden.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * wide.to(hidden.dtype)


def add_norm(
    hidden: torch.Tensor,
    delta: torch.Tensor | None,
    norm: tuple[torch.Tensor, torch.Tensor | None],
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden + delta, and its norm."""
    hidden = hidden if delta is None else hidden + delta
    return hidden, normalise(hidden, norm, epsilon)


def mlp(
    x: torch.Tensor, layer: Layer, up: Lora | None, down: Lora | None, drop: Dropout | None
) -> torch.Tensor:
    """What a block adds behind its second norm; x and the result (K, tokens, width)."""
    raised = _linear(x, layer.up, up, drop)
    if layer.gated:
        gate, wide = raised.chunk(2, -1)
        wide = F.silu(gate) * wide
    else:
        wide = F.gelu(raised, approximate="tanh")
    return _linear(wide, layer.down, down, drop)


class Ops(NamedTuple):
    """What a GPU computes in kernels of its own: the functions of these names here and in
    adapters.py."""

    attention: Callable[..., torch.Tensor] = causal_attention
    add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_norm
    mlp: Callable[..., torch.Tensor] = mlp
    cached_attention: Callable[..., torch.Tensor] = cached_attention
    cross_entropy_: Callable[..., torch.Tensor] = cross_entropy_
    row_scores: Callable[..., tuple[torch.Tensor, torch.Tensor]] = row_scores


def block(
    hidden: torch.Tensor,
    delta: torch.Tensor | None,
    layer: Layer,
    lora: Sequence[Lora | None],
    geometry: Geometry,
    attention: Callable[[torch.Tensor], torch.Tensor],
    wanted: torch.Tensor | None = None,
    drop: Dropout | None = None,
    ops: Ops = Ops(),  # noqa: B008
) -> tuple[torch.Tensor, torch.Tensor]:
    """One transformer block, from hidden + delta to the sum of what it returns; all (K, tokens,
    width): the next norm takes the sum along.

    With `wanted` (K, n), indices of tokens, all that follows the attention is computed for these
    only: of the last block nothing else is read.
    """
    inputs, output, up, down = lora
    hidden, normed = ops.add_norm(hidden, delta, layer.norm_1, geometry.epsilon)
    mixed = attention(_linear(normed, layer.inputs, inputs, drop))
    if wanted is not None:
        hidden, mixed = take(hidden, wanted), take(mixed, wanted)
        drop = drop and drop.only(wanted)
    delta = _linear(mixed, layer.output, output, drop)
    hidden, normed = ops.add_norm(hidden, delta, layer.norm_2, geometry.epsilon)
    return hidden, ops.mlp(normed, layer, up, down, drop)


def hidden_states(
    base: FrozenBase,
    lora: Sequence[Lora],
    ids: torch.Tensor,
    wanted: torch.Tensor,
    *,
    drop: Dropout | None = None,
    ops: Ops = Ops(),  # noqa: B008
    block: Callable[..., tuple[torch.Tensor, torch.Tensor]] = block,
) -> torch.Tensor:
    """What the output head reads at the wanted tokens, (K, n, width).

    ids (K, rows, length) right-padded, wanted (K, n) indices into an adapter's rows * length
    tokens, lora one pair of stacks a site.
    """
    adapters, rows, length = ids.shape
    places = torch.arange(length, device=ids.device)
    hidden = embed(base, ids, places).view(adapters, rows * length, -1)
    delta = None
    rotary = None if base.rotary is None else (base.rotary[0][:length], base.rotary[1][:length])
    attention = partial(ops.attention, geometry=base.geometry, rotary=rotary, length=length)
    for index, layer in enumerate(base.layers):
        last = index == len(base.layers) - 1
        hidden, delta = block(
            hidden,
            delta,
            layer,
            base.lora_of(index, lora),
            base.geometry,
            attention,
            wanted if last else None,
            drop and drop.at(index),
            ops,
        )
    return ops.add_norm(hidden, delta, base.norm, base.geometry.epsilon)[1]


def take(hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(K, n, width): of each adapter's tokens (K, tokens, width) those at `wanted` (K, n)."""
    adapters, tokens, width = hidden.shape
    first = torch.arange(adapters, device=hidden.device)[:, None] * tokens
    flat = (first + wanted).flatten()
    return hidden.reshape(-1, width).index_select(0, flat).view(adapters, -1, width)


def _linear(
    x: torch.Tensor, linear: Linear, lora: Lora | None, drop: Dropout | None
) -> torch.Tensor:
    if lora is None:
        return F.linear(x, linear.weight.t(), linear.bias)
    return packed_linear(x, linear.weight, linear.bias, lora, linear.parts, drop)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021) as Llama pairs them: a half with the other half."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
