"""Configurations of the packed engine's families: fields of real models at a small size."""

from typing import Any

from src.models.pretrained import attention_of

WIDE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
        "long_factor": [4.0] * 6}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
        "original_max_position_embeddings": 32}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
GEMMA2 = WIDE | {
    "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 64,
    "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
}  # fmt: skip
GEMMA3 = WIDE | {
    "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 64, "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    },
}  # fmt: skip
NEOX = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 128, "rotary_pct": 0.25,
}  # fmt: skip

# {name: (model_type, fields)}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-3.2": ("llama", WIDE | {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "SmolLM2": ("llama", WIDE | {"num_attention_heads": 6, "tie_word_embeddings": True}),
    "SmolLM3": ("smollm3", WIDE | {
        "num_hidden_layers": 3, "no_rope_layer_interval": 2, "tie_word_embeddings": True,
        "layer_types": ["full_attention"] * 3,
    }),
    "Qwen3": ("qwen3", WIDE | {"head_dim": 20, "tie_word_embeddings": True}),
    "Qwen3 with biases and yarn": ("qwen3", WIDE | {
        "head_dim": 16, "attention_bias": True, "rope_parameters": YARN,
    }),
    "Mistral v0.1": ("mistral", WIDE | {"sliding_window": 64}),
    "Mistral-Nemo": ("mistral", WIDE | {"sliding_window": None, "head_dim": 16}),
    "Phi-3-mini-4k": ("phi3", WIDE | {"num_key_value_heads": 4, "sliding_window": 64}),
    "Phi-4": ("phi3", WIDE | {"sliding_window": None, "resid_pdrop": 0.0}),
    "Phi-4-mini": ("phi3", WIDE | {
        "num_attention_heads": 3, "num_key_value_heads": 1, "partial_rotary_factor": 0.75,
        "sliding_window": 128, "original_max_position_embeddings": 64, "tie_word_embeddings": True,
        "rope_scaling": LONG,
    }),
    "Gemma 2": ("gemma2", GEMMA2),
    "Gemma 3": ("gemma3_text", GEMMA3),
    "Pythia": ("gpt_neox", NEOX),
    "GPT-NeoX, sequential": ("gpt_neox", NEOX | {"use_parallel_residual": False}),
    "OPT": ("opt", {
        "hidden_size": 48, "word_embed_proj_dim": 48, "ffn_dim": 80, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128, "dropout": 0.0,
    }),
}  # fmt: skip


def random_model(name: str, vocabulary: int = 320) -> Any:
    """One of these models with random weights."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind, fields = MODELS[name]
    common = {"vocab_size": vocabulary, "pad_token_id": 1, "initializer_range": 0.1}
    common |= {"bos_token_id": 0, "eos_token_id": 0}
    if kind == "opt":
        common["init_std"] = common.pop("initializer_range")
    config = CONFIG_MAPPING[kind](**common, **fields)
    options = {"attn_implementation": attention_of(config)} if attention_of(config) else {}
    return AutoModelForCausalLM.from_config(config, **options)
