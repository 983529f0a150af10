"""Adapters with random weights, as runs keep them, without a training."""

from pathlib import Path
from typing import Any

from src import paths
from tests.helpers.store import fill_run


def random_adapter(base: Path, folder: Path, *, seed: int, bias: str = "none") -> Path:
    """An adapter of a tiny base in a folder, whose answers are far from those of the base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    targets = ["c_attn"] if base.name == "gpt2" else ["q_proj", "v_proj"]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=64, target_modules=targets, init_lora_weights=False,
                   fan_in_fan_out=base.name == "gpt2", bias=bias, task_type="CAUSAL_LM"),
    )  # fmt: skip
    if bias != "none":
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return folder


def trained_run(base: Path, *, seed: int = 0, **settings: Any) -> str:
    """Id of a completed run of the tiny base, whose adapter has random weights."""
    values = {
        "backend": "peft",
        "model__name": str(base),
        "model__max_length": 64,
        "data__task": "spell_out",
        "training__precision": "fp32",
        "evaluation__max_new_tokens": 12,
    }
    run_id = fill_run(**(values | settings))
    random_adapter(base, paths.output_dir(run_id) / "final", seed=seed)
    return run_id
