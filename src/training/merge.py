"""Writes a base model with an adapter merged into it, for use without PEFT."""

from pathlib import Path

from src.config import RunConfig
from src.training import checkpointing
from src.training.prompts import format_of


def merge(config: RunConfig, adapter: Path, target: Path) -> Path:
    """Write the base model of `config` plus the adapter, in the base's 16 or 32 bits, and its
    tokenizer to the folder `target`; returns that folder.

    A base that was quantized to 4 bits for training is loaded without quantization: the merged
    model differs from the trained one by the rounding to 4 bits.
    """
    checkpointing.verify_adapter(adapter)

    import torch
    from peft import PeftModel

    from src.models import spelling_model as spelling
    from src.models.utils import resolve_precision
    from src.training.trl_arguments import plan

    asked = plan(config, precision=resolve_precision(config.training.precision))
    vocabulary = spelling.load_vocabulary(**asked.vocabulary)
    vocabulary.end_answers_with(format_of(config).end)
    arguments = {"vocabulary": vocabulary, **asked.vocabulary, **asked.base}
    base = spelling.load_base(backend="peft", **arguments | {"load_in_4bit": False})
    with torch.no_grad():
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    merged.generation_config.eos_token_id = vocabulary.tokenizer.eos_token_id
    staging = checkpointing.stage(target.parent)
    merged.save_pretrained(str(staging / target.name))
    vocabulary.tokenizer.save_pretrained(str(staging / target.name))
    checkpointing.replace_folder(staging / target.name, target)
    staging.rmdir()
    return target
