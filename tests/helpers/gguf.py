"""Small GGUF files: a Llama with random weights, and what else comes with that ending."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from src.models.gguf.export import add_key

Kind = gguf.GGMLQuantizationType
TEMPLATE = (
    "{% for m in messages %}<|pad|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|pad|>assistant\n{% endif %}"
)
# Of GGUF by that of transformers.
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write(
    file: Path,
    base: Path,
    kind: Any = Kind.F32,
    *,
    extra: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """The Llama in a folder as a GGUF file whose matrices have a type of ggml; `extra` has further
    keys, and None takes one out."""
    from safetensors.numpy import load_file

    config = json.loads((base / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    heads, pairs = config["num_attention_heads"], config["num_key_value_heads"]
    keys: dict[str, Any] = {
        "general.type": "model",
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": pairs,
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.dimension_count": config["hidden_size"] // heads,
        "llama.rope.freq_base": config["rope_parameters"]["rope_theta"],
        "llama.vocab_size": config["vocab_size"],
        **vocabulary(base, config["vocab_size"]),
    }
    add_keys(writer, keys | dict(extra or {}))
    for name, values in load_file(base / "model.safetensors").items():
        if ".q_proj" in name or ".k_proj" in name:
            count = heads if ".q_proj" in name else pairs
            pairwise = values.reshape(count, 2, values.shape[0] // count // 2, -1)
            values = pairwise.swapaxes(1, 2).reshape(values.shape)
        add_tensor(writer, _renamed(name), values, kind if values.ndim > 1 else Kind.F32)
    for name, values in (tensors or {}).items():
        add_tensor(writer, name, values, Kind.F32)
    return finish(writer, file)


def vocabulary(base: Path, rows: int) -> dict[str, Any]:
    """The keys of a tokenizer, filled up to the rows of the embeddings."""
    document = json.loads((base / "tokenizer.json").read_text())
    ids = document["model"]["vocab"] | {t["content"]: t["id"] for t in document["added_tokens"]}
    tokens = sorted(ids, key=lambda token: ids[token])
    special = {t["content"] for t in document["added_tokens"]}
    kinds = [3 if token in special else 1 for token in tokens]
    more = rows - len(tokens)
    merges = [m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens + [f"[PAD{n}]" for n in range(more)],
        "tokenizer.ggml.token_type": kinds + [5] * more,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": ids["<|end|>"],
        "tokenizer.ggml.padding_token_id": ids["<|pad|>"],
        "tokenizer.chat_template": TEMPLATE,
    }


def add_keys(writer: Any, keys: Mapping[str, Any]) -> None:
    for key, value in keys.items():
        if value is not None:
            add_key(writer, key, value)


def add_tensor(writer: Any, name: str, values: np.ndarray, kind: Any) -> None:
    data = gguf.quantize(values.astype(np.float32), kind)
    writer.add_tensor(name, data, raw_dtype=kind)


def finish(writer: Any, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def bare(file: Path, architecture: str, **keys: Any) -> Path:
    """A file of another kind: these keys, with __ for a dot, and one small tensor."""
    writer = gguf.GGUFWriter(file, architecture)
    add_keys(writer, {key.replace("__", "."): value for key, value in keys.items()})
    add_tensor(writer, "one.weight", np.zeros((2, 32), dtype=np.float32), Kind.F32)
    return finish(writer, file)


def _renamed(name: str) -> str:
    stem, ending = name.rsplit(".", 1)
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{ending}"
    _, _, number, layer = stem.split(".", 3)
    return f"blk.{number}.{_LAYER[layer]}.{ending}"
