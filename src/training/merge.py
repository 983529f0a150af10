"""Writes a base model with an adapter merged into it, for use without PEFT: as a folder of
transformers or as a GGUF file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import RunConfig
from src.files import write_atomic
from src.training import checkpointing
from src.training.packed.eligibility import files_of
from src.training.prompts import format_of
from src.training.trl_arguments import plan

if TYPE_CHECKING:
    from src.models.spelling_model import Vocabulary


def merge(config: RunConfig, adapter: Path, target: Path) -> Path:
    """Write the base model of `config` plus the adapter, in the base's 16 or 32 bits, and its
    tokenizer to the folder `target`; returns that folder.

    A base that was quantized to 4 bits for training is loaded without quantization: the merged
    model differs from the trained one by the rounding to 4 bits.
    """
    checkpointing.verify_adapter(adapter)
    vocabulary = _vocabulary(config)
    merged = _merged(config, adapter, vocabulary)
    staging = checkpointing.stage(target.parent)
    merged.save_pretrained(str(staging / target.name))
    vocabulary.tokenizer.save_pretrained(str(staging / target.name))
    checkpointing.replace_folder(staging / target.name, target)
    staging.rmdir()
    return target


def export_gguf(config: RunConfig, adapter: Path, target: Path, kind: str) -> Path:
    """Write the merged model to the GGUF file `target`, its matrices in `kind` (f16 or q8_0), and
    beside it the Modelfile for Ollama; returns the path of the latter.

    CannotExport where GGUF or llama.cpp has no such model or tokenizer.
    """
    checkpointing.verify_adapter(adapter)

    from src.models.gguf import export, ollama
    from src.models.gguf.header import read_vocabulary
    from src.models.gguf.vocabulary import tokenizer_keys

    vocabulary, form = _vocabulary(config), format_of(config)
    tokenizer, source = vocabulary.tokenizer, files_of(config).gguf
    own = vocabulary.config.get_text_config()
    # Before the weights are read: all that may be refused.
    keys = export.configuration_keys(own) | tokenizer_keys(
        tokenizer,
        form,
        rows=own.vocab_size,
        original=None if source is None else read_vocabulary(source),
    )
    keys["general.name"] = config.name or target.stem
    export.write(_merged(config, adapter, vocabulary), keys, target, kind)
    begins = keys["tokenizer.ggml.add_bos_token"]
    text = ollama.modelfile(
        target.name,
        form,
        stop=tokenizer.eos_token,
        bos=tokenizer.bos_token if begins and form.is_chat else None,
        max_tokens=config.evaluation.max_new_tokens or config.model.max_length,
    )
    modelfile = target.with_suffix(".Modelfile")
    write_atomic(modelfile, text)
    return modelfile


def _vocabulary(config: RunConfig) -> "Vocabulary":
    from src.models import spelling_model as spelling

    vocabulary = spelling.load_vocabulary(**plan(config).vocabulary)
    vocabulary.end_answers_with(format_of(config).end)
    return vocabulary


def _merged(config: RunConfig, adapter: Path, vocabulary: "Vocabulary") -> Any:
    """The base model with the adapter in its weights."""
    import torch
    from peft import PeftModel

    from src.models import spelling_model as spelling

    asked = plan(config)
    arguments = {"vocabulary": vocabulary, **asked.vocabulary, **asked.base}
    base = spelling.load_base(backend="peft", **arguments | {"load_in_4bit": False})
    with torch.no_grad():
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    merged.generation_config.eos_token_id = vocabulary.tokenizer.eos_token_id
    return merged
