"""The families of architectures that the packed engine computes, as data. Imports no torch.

A family names the parts of a transformer block by their modules in transformers, and the fields of
its configuration that change the arithmetic. `base` reads the weights by it, `shapes` decides which
configurations are computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Family:
    """Names of modules and configuration fields; the defaults are those of Llama."""

    blocks: str = "model.layers"  # names of a block's modules below are relative to one of these
    norm: str = "model.norm"  # before the output head
    input_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    output_norms: tuple[str, ...] = ()  # of what attention and MLP add to the residual
    head_norms: tuple[str, ...] = ()  # of each query and key head, before its rotary positions
    inputs: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    output: str = "self_attn.o_proj"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")  # or both in one module
    down: str = "mlp.down_proj"
    interleaved: bool = False  # q, k and v of a head lie side by side, instead of all q first
    transposed: bool = False  # Conv1D of GPT-2 holds (in, out), nn.Linear (out, in)
    norm_offset: float = 0.0  # of RMSNorm: the factor is this + weight

    positions: str | None = None  # learned positions
    first_position: int = 0  # row of the learned positions that the first token has
    rotary: str | None = "model.rotary_emb"  # the module that knows the rotary positions
    partial_rotary: bool = False  # `partial_rotary_factor` leaves a part of each head unturned
    rotary_by_layer_type: bool = False  # each of `layer_types` has rotary positions of its own
    rotary_layers: str | None = None  # field: 0 for a layer without rotary positions
    original_context: int | None = None  # default of `original_max_position_embeddings`

    activation: tuple[str, str] = ("hidden_act", "silu")  # field and its default
    attention_scale: str | None = None  # field s of the scale s^-0.5; None: s is head_dim
    attention_softcap: str | None = None  # field
    logit_softcap: str | None = None  # field
    parallel: str | None = None  # field: MLP and attention read the same residual

    window: int | None = None  # default of `sliding_window`
    window_by_layer_type: bool = False  # `layer_types` alone says which layers have a window
    windows_by_default: bool = False  # some layers have one where `layer_types` is missing
    window_switch: bool = False  # none without `use_sliding_window`
    window_from: int = 0  # default of `max_window_layers`, the first layer with a window
    computed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values of configuration fields that are computed; a missing field has one of them."""

    @property
    def linears(self) -> tuple[str, ...]:
        """The linear layers of a block, in the order of their adapters."""
        return *self.inputs, self.output, *self.up, self.down

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of layers that may carry adapters, for lora.target_modules."""
        return tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in self.linears))


_LLAMA = Family()
_SWITCHED = replace(_LLAMA, window_by_layer_type=True, window_switch=True)
_QWEN2 = replace(_SWITCHED, window=4096, window_from=28)
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_GEMMA = replace(
    _LLAMA,
    mlp_norm="pre_feedforward_layernorm",
    output_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    norm_offset=1.0,
    activation=("hidden_activation", "gelu_pytorch_tanh"),
    attention_scale="query_pre_attn_scalar",
    logit_softcap="final_logit_softcapping",
    window=4096,
    window_by_layer_type=True,
    windows_by_default=True,
    computed={"use_bidirectional_attention": (None, False)},
)

# By `model_type` of transformers' configuration.
FAMILIES = {
    "gpt2": Family(
        blocks="transformer.h",
        norm="transformer.ln_f",
        input_norm="ln_1",
        mlp_norm="ln_2",
        inputs=("attn.c_attn",),
        output="attn.c_proj",
        up=("mlp.c_fc",),
        down="mlp.c_proj",
        transposed=True,
        positions="transformer.wpe",
        rotary=None,
        activation=("activation_function", "gelu_new"),
        computed={
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
            "add_cross_attention": (False,),
        },
    ),
    "llama": _LLAMA,
    "qwen2": _QWEN2,
    "qwen3": replace(_QWEN2, head_norms=_HEAD_NORMS),
    "mistral": replace(_LLAMA, window=4096),
    "smollm3": replace(_SWITCHED, rotary_layers="no_rope_layers"),
    "phi3": replace(
        _LLAMA,
        inputs=("self_attn.qkv_proj",),
        up=("mlp.gate_up_proj",),
        partial_rotary=True,
        original_context=4096,
    ),
    "gemma2": replace(_GEMMA, attention_softcap="attn_logit_softcapping"),
    "gemma3_text": replace(_GEMMA, head_norms=_HEAD_NORMS, rotary_by_layer_type=True),
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        inputs=("attention.query_key_value",),
        output="attention.dense",
        up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        interleaved=True,
        rotary="gpt_neox.rotary_emb",
        partial_rotary=True,
        activation=("hidden_act", "gelu"),
        parallel="use_parallel_residual",
    ),
    "opt": Family(
        blocks="model.decoder.layers",
        norm="model.decoder.final_layer_norm",
        input_norm="self_attn_layer_norm",
        mlp_norm="final_layer_norm",
        output="self_attn.out_proj",
        up=("fc1",),
        down="fc2",
        positions="model.decoder.embed_positions",
        first_position=2,
        rotary=None,
        activation=("activation_function", "relu"),
        computed={
            "do_layer_norm_before": (True,),
            "_remove_final_layer_norm": (False,),
            "layer_norm_elementwise_affine": (True,),
        },
    ),
}

# The activations by their names in transformers; several names are one function.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
}
