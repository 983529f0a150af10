"""Each field of a base model's configuration: the packed engine computes it, or refuses it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from src.models.multi_lora.base import CannotPack, read_base
from src.models.multi_lora.forward import hidden_states
from src.models.multi_lora.loss import softcap_
from src.models.multi_lora.shapes import SHAPES, config_problem
from src.models.pretrained import attention_of
from src.training.packed.eligibility import choose_engine, packed_problems
from tests.helpers import tiny

LAYERS = {"vocab_size": 96, "pad_token_id": None, "initializer_range": 0.3}
WIDE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FULL = ["full_attention"] * 2
START: dict[str, dict[str, Any]] = {
    "gpt2": LAYERS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": LAYERS | WIDE,
    "qwen2": LAYERS | WIDE,
    "qwen3": LAYERS | WIDE | {"head_dim": 8},
    "mistral": LAYERS | WIDE | {"sliding_window": None},
    "smollm3": LAYERS | WIDE,
    "phi3": LAYERS | WIDE,
    "gemma2": LAYERS | WIDE | {"head_dim": 8, "layer_types": FULL, "attn_logit_softcapping": 4.0},
    "gemma3_text": LAYERS | WIDE | {"head_dim": 8, "layer_types": FULL},
    "gpt_neox": LAYERS | {k: v for k, v in WIDE.items() if k != "num_key_value_heads"},
    "opt": {
        "vocab_size": 96,
        "pad_token_id": None,
        "init_std": 0.3,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
}
# Fields of every configuration that say nothing of the arithmetic.
COMMON = {
    "transformers_version", "architectures", "output_hidden_states", "return_dict", "dtype",
    "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "problem_type",
    "use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "initializer_range", "init_std",
}  # fmt: skip

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 16}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
SHORT = {"type": "longrope", "short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [2.0] * 4}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}  # fmt: skip

# {field: values that the packed engine computes, words of the refusal of others}.
COMPUTED, REFUSED = "computed", "refused"
SLIDING = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4,
           "use_sliding_window": True}  # fmt: skip
OF_ALL: list[tuple[str, Any, str]] = [
    ("vocab_size", 97, COMPUTED),
    ("tie_word_embeddings", True, COMPUTED),
    ("tie_word_embeddings", False, COMPUTED),
    # Fields that no such class has, but transformers may read.
    ("is_causal", False, REFUSED),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}, REFUSED),
    ("per_layer_config", {0: {"num_attention_heads": 2}}, REFUSED),
    ("layer_types", ["full_attention"] * 2, COMPUTED),
    ("layer_types", SLIDING, REFUSED),
    ("final_logit_softcapping", 3.0, COMPUTED),  # other architectures read it, these do not
    ("logit_scale", 0.1, COMPUTED),
]
OF_GPT2: list[tuple[str, Any, str]] = [
    ("n_positions", 80, COMPUTED),
    ("n_embd", 48, COMPUTED),
    ("n_layer", 1, COMPUTED),
    ("n_head", 2, COMPUTED),
    ("n_inner", 50, COMPUTED),
    ("activation_function", "gelu_new", COMPUTED),
    ("activation_function", "gelu_pytorch_tanh", COMPUTED),
    ("activation_function", "gelu_python_tanh", COMPUTED),
    ("activation_function", "gelu", COMPUTED),
    ("activation_function", "relu", COMPUTED),
    ("activation_function", "quick_gelu", REFUSED),
    *((name, 0.3, COMPUTED) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")),
    ("layer_norm_epsilon", 0.1, COMPUTED),
    # Of the head of GPT2DoubleHeadsModel, which nobody trains here.
    ("summary_type", "mean", COMPUTED),
    ("summary_use_proj", False, COMPUTED),
    ("summary_activation", "tanh", COMPUTED),
    ("summary_proj_to_labels", False, COMPUTED),
    ("summary_first_dropout", 0.5, COMPUTED),
    ("scale_attn_weights", False, REFUSED),
    ("scale_attn_by_inverse_layer_idx", True, REFUSED),
    ("reorder_and_upcast_attn", True, REFUSED),
    ("add_cross_attention", True, REFUSED),
]
OF_BOTH: list[tuple[str, Any, str]] = [
    ("hidden_size", 64, COMPUTED),
    ("intermediate_size", 50, COMPUTED),
    ("num_hidden_layers", 3, COMPUTED),
    ("num_attention_heads", 2, COMPUTED),
    ("num_key_value_heads", 1, COMPUTED),
    ("num_key_value_heads", None, COMPUTED),
    ("hidden_act", "swish", COMPUTED),
    ("hidden_act", "gelu", COMPUTED),
    ("hidden_act", "relu2", REFUSED),
    ("max_position_embeddings", 80, COMPUTED),
    ("rms_norm_eps", 0.1, COMPUTED),
    ("attention_dropout", 0.3, COMPUTED),
    ("head_dim", 12, COMPUTED),  # 4 heads of 12 over a width of 32
    ("rope_parameters", {"rope_type": "default", "rope_theta": 100.0}, COMPUTED),
    ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}, COMPUTED),
    ("rope_parameters", LLAMA3, COMPUTED),
    ("rope_parameters", YARN, COMPUTED),
    # Other than `default` only beyond the context, where no row is.
    ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, COMPUTED),
    ("rope_parameters", {"rope_type": "proportional", "rope_theta": 1e4, "factor": 2.0}, REFUSED),
    ("rope_parameters", LONG, REFUSED),
    ("rope_scaling", {"type": "linear", "factor": 3.0}, COMPUTED),
    ("rope_scaling", {"type": "yarn", "factor": 4.0}, COMPUTED),
    ("rope_parameters",
     {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 0.5},
     REFUSED),
]  # fmt: skip
OF_LLAMA: list[tuple[str, Any, str]] = [
    ("attention_bias", True, COMPUTED),
    ("mlp_bias", True, COMPUTED),
    ("pretraining_tp", 2, COMPUTED),  # read by nothing since transformers 5
    ("partial_rotary_factor", 0.5, COMPUTED),  # not read with the default rotary positions
    ("sliding_window", 4, REFUSED),
    ("attention_chunk_size", 4, REFUSED),
]
OF_QWEN: list[tuple[str, Any, str]] = [
    ("use_sliding_window", False, COMPUTED),
    ("sliding_window", 4, COMPUTED),  # off without use_sliding_window
    ("max_window_layers", 1, COMPUTED),
    ("use_sliding_window", {"use_sliding_window": True, "sliding_window": 4}, COMPUTED),
    ("use_sliding_window",
     {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, REFUSED),
    ("use_sliding_window",
     {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, COMPUTED),
]  # fmt: skip
OF_SMOLLM3: list[tuple[str, Any, str]] = [
    ("attention_bias", True, COMPUTED),
    ("mlp_bias", True, COMPUTED),
    ("no_rope_layers", [0, 1], COMPUTED),
    ("no_rope_layer_interval", 2, COMPUTED),
    ("sliding_window", 4, COMPUTED),  # off without use_sliding_window
    ("use_sliding_window", False, COMPUTED),
    ("use_sliding_window",
     {"use_sliding_window": True, "sliding_window": 4, "no_rope_layer_interval": 2}, REFUSED),
]  # fmt: skip
OF_PHI3: list[tuple[str, Any, str]] = [
    *(
        case
        for case in OF_BOTH
        # Its configuration takes no other rotary positions.
        if not case[0].startswith("rope_") or case[1].get("rope_type") == "default"
    ),
    *((name, 0.3, COMPUTED) for name in ("resid_pdrop", "embd_pdrop")),
    ("partial_rotary_factor", 0.5, COMPUTED),
    ("original_max_position_embeddings", 32, COMPUTED),
    # Rows over the original context take the other factors.
    ("rope_scaling",
     {"rope_scaling": SHORT, "original_max_position_embeddings": 16}, REFUSED),
    ("rope_scaling",
     {"rope_scaling": SHORT, "original_max_position_embeddings": 64}, COMPUTED),
    ("sliding_window", 4, REFUSED),
    ("sliding_window", None, COMPUTED),
]  # fmt: skip
OF_GEMMAS: list[tuple[str, Any, str]] = [
    *(case for case in OF_BOTH if case[1] is not None and case[0] not in
      ("hidden_act", "rope_scaling", "rope_parameters", "num_hidden_layers")),
    ("num_hidden_layers", {"num_hidden_layers": 1, "layer_types": FULL[:1]}, COMPUTED),
    ("attention_bias", True, COMPUTED),
    ("hidden_activation", "gelu_pytorch_tanh", COMPUTED),
    ("hidden_activation", "silu", COMPUTED),
    ("hidden_activation", "relu2", REFUSED),
    ("query_pre_attn_scalar", 20, COMPUTED),
    ("attn_logit_softcapping", 2.0, COMPUTED),
    ("attn_logit_softcapping", None, COMPUTED),
    ("final_logit_softcapping", None, COMPUTED),
    ("use_bidirectional_attention", True, REFUSED),
    ("sliding_window", 4, COMPUTED),  # without a layer that has it
    # Some layers have it by default.
    ("layer_types", {"layer_types": None, "sliding_window": 4}, REFUSED),
]  # fmt: skip
OF_GEMMA3: list[tuple[str, Any, str]] = [
    ("rope_parameters", {"full_attention": {"rope_type": "linear", "rope_theta": 1e4,
                                            "factor": 3.0}}, COMPUTED),
    ("rope_parameters", {"full_attention": {"rope_type": "proportional", "rope_theta": 1e4,
                                            "factor": 3.0}}, REFUSED),
    ("rope_scaling", {"rope_type": "linear", "factor": 3.0}, COMPUTED),
]  # fmt: skip
OF_NEOX: list[tuple[str, Any, str]] = [
    ("hidden_size", 64, COMPUTED),
    ("intermediate_size", 50, COMPUTED),
    ("num_hidden_layers", 3, COMPUTED),
    ("num_attention_heads", 2, COMPUTED),
    ("hidden_act", "gelu", COMPUTED),
    ("hidden_act", "relu2", REFUSED),
    *((name, 0.3, COMPUTED) for name in
      ("attention_dropout", "hidden_dropout", "classifier_dropout")),
    ("max_position_embeddings", 80, COMPUTED),
    ("layer_norm_eps", 0.1, COMPUTED),
    ("use_parallel_residual", False, COMPUTED),
    ("use_parallel_residual", True, COMPUTED),
    ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}, COMPUTED),
    ("rotary_pct", 1.0, COMPUTED),
    ("attention_bias", False, COMPUTED),
    ("is_decoder", True, COMPUTED),
]  # fmt: skip
OF_OPT: list[tuple[str, Any, str]] = [
    ("hidden_size", {"hidden_size": 64, "word_embed_proj_dim": 64}, COMPUTED),
    ("word_embed_proj_dim", 16, REFUSED),
    ("ffn_dim", 50, COMPUTED),
    ("num_hidden_layers", 3, COMPUTED),
    ("num_attention_heads", 2, COMPUTED),
    ("max_position_embeddings", 80, COMPUTED),
    ("activation_function", "gelu", COMPUTED),
    ("activation_function", "relu2", REFUSED),
    *((name, 0.3, COMPUTED) for name in ("dropout", "attention_dropout", "layerdrop")),
    ("do_layer_norm_before", False, REFUSED),
    ("_remove_final_layer_norm", True, REFUSED),
    ("layer_norm_elementwise_affine", False, REFUSED),
    ("enable_bias", False, COMPUTED),
]
NO_CAP = [case for case in OF_ALL if case[0] != "final_logit_softcapping"]
CAPPED = [*NO_CAP, ("final_logit_softcapping", 3.0, COMPUTED)]
DECIDED = {
    "gpt2": OF_ALL + OF_GPT2,
    "llama": OF_ALL + OF_BOTH + OF_LLAMA,
    "qwen2": OF_ALL + OF_BOTH + OF_QWEN,
    "qwen3": OF_ALL + OF_BOTH + OF_QWEN + [("attention_bias", True, COMPUTED)],
    # With layer_types transformers reads the file as ministral. It takes no null.
    "mistral": [case for case in OF_ALL if case[0] != "layer_types"]
    + [case for case in OF_BOTH if case[:2] != ("num_key_value_heads", None)]
    + [("sliding_window", 4, REFUSED), ("sliding_window", None, COMPUTED)],
    "smollm3": OF_ALL + [case for case in OF_BOTH if case[0] != "head_dim"] + OF_SMOLLM3,
    "phi3": OF_ALL + OF_PHI3,
    "gemma2": CAPPED + OF_GEMMAS + [case for case in OF_BOTH if case[0] == "rope_parameters"],
    "gemma3_text": CAPPED + OF_GEMMAS + OF_GEMMA3,
    "gpt_neox": OF_ALL + OF_NEOX,
    "opt": OF_ALL + OF_OPT,
}  # fmt: skip
CASES = [(shape, *case) for shape in SHAPES for case in DECIDED[shape]]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_field_of_the_installed_transformers_is_decided(shape: str) -> None:
    from transformers import CONFIG_MAPPING

    fields = {field.name for field in dataclasses.fields(CONFIG_MAPPING[shape])}
    decided = {name for name, _, _ in DECIDED[shape]}
    assert fields - decided - COMMON == set(), "compute these or refuse them in shapes.py"


@pytest.mark.parametrize(
    ("shape", "name", "value", "decision"), CASES, ids=[f"{c[0]}-{c[1]}-{c[2]}" for c in CASES]
)
def test_a_field_is_computed_or_refused(
    shape: str, name: str, value: Any, decision: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    changes = value if isinstance(value, dict) and name in value else {name: value}
    raw = {"model_type": shape} | START[shape] | changes
    problem = config_problem(raw)
    if decision == REFUSED:
        assert problem and problem.startswith("the packed engine has ")
    else:
        assert problem is None
    if name == "quantization_config" or name == "per_layer_config":
        return  # loading it takes libraries, or weights of its own
    (tmp_path / "config.json").write_text(json.dumps(raw))
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert config_problem(loaded.to_dict()) == problem  # the same of a file and of a model
    if problem and "rotary positions for rows" in problem:
        return  # some rows would be computed
    if "partial_rotary_factor" in str(value) and decision == REFUSED:
        return  # transformers cannot compute it either
    compare(loaded, refused=decision == REFUSED)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_position_embeddings", "x"),
        ("layer_types", -1),
        ("rope_parameters", "x"),
        ("hidden_act", []),
        ("activation_function", {}),
        ("hidden_activation", []),
        ("sliding_window", "x"),
    ],
)
def test_values_of_another_kind_end_no_check(shape: str, name: str, value: Any) -> None:
    for odd in (value, None):
        problem = config_problem({"model_type": shape, name: odd}, 64)
        assert problem is None or problem.startswith("the packed engine has ")


def test_another_architecture_is_refused() -> None:
    found = config_problem({"model_type": "mamba"})
    assert found == (
        f"the packed engine computes {', '.join(SHAPES)} shapes, and this base is mamba"
    )


@pytest.mark.parametrize(
    ("kind", "fields", "most", "words"),
    [
        ("mistral", {"sliding_window": 4096}, 4096, "more than this base's window of 4096"),
        ("mistral", {}, 4096, "more than this base's window of 4096"),
        ("mistral", {"sliding_window": None}, None, ""),
        ("mistral", {"sliding_window": 50, "max_position_embeddings": 40}, None, ""),
        ("phi3", {"sliding_window": 2047}, 2047, "window of 2047; lower model.max_length"),
        ("phi3", {}, None, ""),
        ("gemma2", {}, 4096, "window of 4096"),
        ("gemma3_text", {"sliding_window": 512, "sliding_window_pattern": 6}, 512, "window of 512"),
        ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 4096, "4096"),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 100}, 100, "window of 100"),
        ("qwen3", {"use_sliding_window": True, "num_hidden_layers": 32}, 4096, "window of 4096"),
        ("phi3", {"rope_scaling": SHORT, "max_position_embeddings": 131072}, 4096, "up to 4096"),
        ("llama", {"rope_parameters": LONG}, 16, "longrope rotary positions for rows of up to 16"),
    ],
)
def test_windows_and_long_rows_are_refused_where_they_matter(
    kind: str, fields: dict[str, Any], most: int | None, words: str
) -> None:
    config = {"model_type": kind} | fields
    if most is None:
        assert config_problem(config, 10**6) is None
        return
    assert config_problem(config, most) is None
    problem = config_problem(config, most + 1)
    assert problem is not None and words in problem


def test_the_settings_of_a_run_bound_its_rows(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    asked: dict[str, Any] = {"model.name": str(tmp_path), "engine": "packed"}
    for settings, packs in (
        ({"model.max_length": 2000, "evaluation.max_new_tokens": None}, True),
        # An answer may have 2,053 tokens.
        ({"model.max_length": 2045, "evaluation.max_new_tokens": None}, False),
        ({"model.max_length": 3000, "evaluation.max_new_tokens": 1096}, True),
    ):
        problems = packed_problems(tiny.config_of(tmp_path, **asked, **settings))
        assert ("engine" in problems) is not packs


def compare(config: Any, *, refused: bool) -> None:
    """The logits of the packed engine are those of transformers, unless it refuses the model."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    options = {"attn_implementation": attention_of(config)} if attention_of(config) else {}
    model = AutoModelForCausalLM.from_config(config, **options).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and norms that matter
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    if refused:
        with pytest.raises(CannotPack):
            read_base(model, [], torch.float32)
        return
    base = read_base(model, [], torch.float32)
    ids = torch.randint(2, 90, (1, 3, 20))
    places = torch.arange(60)[None]
    with torch.no_grad():
        hidden = hidden_states(base, [], ids, places)
        logits = softcap_(hidden @ base.head.t(), base.logit_softcap)
        packed = logits[..., : base.vocabulary].view(3, 20, -1)
        expected = model(ids[0]).logits
    assert (packed - expected).abs().max() < 1e-4 * expected.abs().max()


def test_auto_on_a_gpu_leaves_to_trl_what_cannot_be_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.models import utils

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(utils, "resolve_precision", lambda asked: "bf16")
    for number, (shape, name, value, decision) in enumerate(CASES):
        changes = value if isinstance(value, dict) and name in value else {name: value}
        folder = tmp_path / str(number)
        folder.mkdir()
        raw = {"model_type": shape} | START[shape] | changes
        (folder / "config.json").write_text(json.dumps(raw))
        config = tiny.config_of(tmp_path, **{"model.name": str(folder), "engine": "auto"})
        packed, note = choose_engine(config)
        assert packed == (decision == COMPUTED)
        assert packed or note and "engine trl has no such limits" in note
        assert ("engine" in packed_problems(config)) == (decision == REFUSED)
