"""No base model draws anything at random in training, whatever its architecture."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from src.models.base_problems import causal_architectures
from src.models.randomness import NOISE, disable_randomness
from tests.helpers import tiny

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
INNER = {"intermediate_size": 48}
EXPERTS = INNER | {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
OF: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "bloom": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "gptj": {"rotary_dim": 4},
    "gpt_neox": INNER,
    "gpt_neox_japanese": {},
    "codegen": {"rotary_dim": 4},
    "falcon": {},
    "mpt": {},
    "biogpt": INNER,
    "xglm": {"ffn_dim": 48},
    "ctrl": {"dff": 48},
    "gpt_bigcode": {},
    "starcoder2": INNER | {"num_key_value_heads": 2},
    "phi": INNER,
    "llama": INNER,
    "bart": BART,
    "mbart": BART,
    "mixtral": EXPERTS,
    "phimoe": EXPERTS,
}
RATE = 0.4


@pytest.mark.parametrize("kind", OF)
def test_training_mode_computes_what_evaluation_mode_does(kind: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](**SIZES | OF[kind])
    for name, value in vars(config).items():
        if isinstance(value, int | float) and ("drop" in name or "jitter" in name):
            setattr(config, name, RATE)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(2, 90, (2, 12))
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        disable_randomness(model)
        model.train()
        for _ in range(3):  # a layer is skipped now and then only
            assert torch.allclose(model(ids, use_cache=False).logits, expected, atol=1e-6)


def test_the_rate_of_every_random_draw_is_one_that_is_switched_off() -> None:
    """In the source of each causal language model of the installed transformers."""
    spec = importlib.util.find_spec("transformers")
    assert spec and spec.submodule_search_locations
    models = Path(spec.submodule_search_locations[0]) / "models"
    rates = re.compile(r"dropout\w*\(\s*[^()]*?p=([\w.]+)|uniform_\(\s*1\.0 - ([\w.]+)")
    skips = re.compile(r"< ([\w.]+):|self\.training and torch\.rand\(\[\]\) < ([\w.]+)")
    seen = 0
    for kind in causal_architectures():
        for file in models.glob(f"{kind.replace('-', '_')}/modeling_*.py"):
            text = file.read_text()
            found = [name for pair in rates.findall(text) for name in pair if name]
            if "torch.rand([])" in text:
                found += [n for pair in skips.findall(text) for n in pair if "drop" in n]
            for name in found:
                last = name.rpartition(".")[2]
                # Arguments of helpers, whose callers hand over attributes of such a name; and a
                # dropout of git of whole configurations, which no forward reaches.
                known = last in ("prob", "p", "float", "config")
                assert known or "drop" in last or last in NOISE, f"{file.name}: {name}"
            seen += len(found)
    assert seen > 200


def test_a_base_with_experts_trains_and_is_scored(base: Path, tmp_path: Path) -> None:
    """TRL has it compute an auxiliary loss of its router, with which generation fails."""
    from transformers import AutoModelForCausalLM, MixtralConfig

    from src.training.train import train

    words = tiny.tokenizer()
    config = MixtralConfig(
        **SIZES | EXPERTS | {"vocab_size": 320, "max_position_embeddings": 128},
        output_router_logits=True,
        router_jitter_noise=RATE,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    words.save_pretrained(tmp_path / "base")
    changes = {"model.name": str(tmp_path / "base"), "training.max_steps": 2, "lora.r": 2,
               "lora.target_modules": ["q_proj", "v_proj"]}  # fmt: skip
    reporter = tiny.Recorder()
    result = train(
        tiny.config_of(base, **changes),
        reporter,
        output_dir=tmp_path / "out",
        checkpoints_dir=tmp_path / "steps",
    )
    assert result.step == 2 and result.metrics["test/loss"] > 0
    assert len([split for _, split, _ in reporter.evaluations if split == "validation"]) >= 2
