"""The spelling model: a frozen base model with a LoRA adapter on it.

`choose_backend` comes before every import of transformers, trl or peft: Unsloth patches them while
it is imported.
"""

import hashlib
import importlib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from src.models.utils import ModelError, device, dtype_of

__all__ = [
    "ModelError",
    "Vocabulary",
    "add_lora",
    "choose_backend",
    "greedy_answers",
    "load_base",
    "load_vocabulary",
]


@dataclass(frozen=True)
class Vocabulary:
    """What a base model reads and writes, known before its weights are loaded."""

    tokenizer: Any  # with an EOS and a PAD token
    config: Any  # of the model, as transformers reads it
    context_tokens: int | None  # the longest row that the model can read

    @cached_property  # every trial of a pack asks for it
    def fingerprint(self) -> str:
        """sha256 of the tokenizer's tokens and their numbers."""
        tokens = sorted(self.tokenizer.get_vocab().items())
        return hashlib.sha256(repr(tokens).encode()).hexdigest()


def choose_backend(wanted: str, *, precision: str) -> tuple[str, str | None]:
    """`unsloth` or `peft` for auto | unsloth | peft, and one sentence why not Unsloth.

    Imports Unsloth when it is taken.
    """
    if wanted == "peft":
        return "peft", None
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    # Our loss reads the logits; by default Unsloth returns none while training.
    os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")
    if not torch.cuda.is_available():
        why = "Unsloth needs an NVIDIA GPU and there is none here"
    elif precision == "fp32":
        why = "Unsloth trains in 16 bits and training.precision is fp32"
    else:
        try:
            importlib.import_module("unsloth")
            return "unsloth", None
        except (ImportError, NotImplementedError, RuntimeError, AttributeError, OSError) as error:
            why = f"Unsloth cannot be imported ({_one_line(error)})"
    if wanted == "unsloth":
        raise ModelError(f"backend unsloth: {why}; take backend auto or peft")
    return "peft", f"{why}, so PEFT trains."


def model_type(name: str, *, revision: str | None = None) -> str:
    """The `model_type` of a base model's configuration, such as gpt2 or llama."""
    from transformers import AutoConfig

    return str(_read(AutoConfig, name, revision).model_type)


def load_vocabulary(name: str, *, revision: str | None = None) -> Vocabulary:
    """The tokenizer and the configuration of the base model in a folder or under a hub id."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = _read(AutoConfig, name, revision)
    if getattr(config, "auto_map", None):
        raise ModelError(
            f"base model {name!r} brings its own code (auto_map), which Spelltune never runs; "
            "choose a model that transformers knows"
        )
    tokenizer = _read(AutoTokenizer, name, revision)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of {name!r} has no EOS token, so answers could not end")
    if tokenizer.pad_token_id is None:
        # Padding is masked and its labels are -100, so the model never sees which token it is.
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return Vocabulary(tokenizer, config, context)


def load_base(
    name: str,
    vocabulary: Vocabulary,
    *,
    revision: str | None,
    load_in_4bit: bool,
    max_length: int,
    precision: str,
    backend: str,
    gradient_checkpointing: bool,
    seed: int,
) -> Any:
    """The base model, frozen, in evaluation mode, on its device, with dropout off.

    Dropout inside a base is 0.1 in GPT-2's own config and off in newer models: here it is off
    everywhere, and the adapter's is the only one.
    """
    if load_in_4bit and not torch.cuda.is_available():
        raise ModelError(
            "model.load_in_4bit needs an NVIDIA GPU and there is none here; set it to false"
        )
    if backend == "unsloth":
        model = _load_with_unsloth(
            name, revision, load_in_4bit, max_length, precision, gradient_checkpointing, seed
        )
    else:
        model = _load_with_transformers(name, revision, load_in_4bit, precision, vocabulary.config)
    rows = vocabulary.config.get_text_config().vocab_size
    if model.get_input_embeddings().weight.shape[0] != rows:
        # Unsloth adds a PAD token and a row for it. Nothing reads that row, and PEFT would store
        # the whole embedding in every adapter.
        model.resize_token_embeddings(rows)
    tokenizer = vocabulary.tokenizer
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens, but its model has {rows}"
        )
    _turn_dropout_off(model)
    model.requires_grad_(False)
    model.eval()
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def add_lora(
    model: Any,
    *,
    backend: str,
    r: int,
    alpha: float,
    dropout: float,
    target_modules: Sequence[str] | None,
    bias: str,
    gradient_checkpointing: bool,
    max_length: int,
    seed: int,
) -> tuple[Any, list[str]]:
    """The model with a fresh adapter in fp32, and the names of the layers that got one."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed
    from transformers.pytorch_utils import Conv1D

    targets = resolve_targets(model, target_modules)
    layers = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in targets]
    conv1d = any(isinstance(layer, Conv1D) for layer in layers)
    # The trainer's own seed comes after the adapter is made.
    set_seed(seed)
    if backend == "unsloth":
        from unsloth import FastLanguageModel

        # Unsloth counts only nn.Linear when it is given a list, and finds none in GPT-2.
        chosen: Any = rf".*\.({'|'.join(targets)})" if conv1d else targets
        model = FastLanguageModel.get_peft_model(
            model,
            r=r,
            target_modules=chosen,
            lora_alpha=alpha,
            lora_dropout=dropout,
            bias=bias,
            use_gradient_checkpointing=gradient_checkpointing,
            random_state=seed,
            max_seq_length=max_length,
        )
    else:
        options: dict[str, Any] = {
            "r": r,
            "lora_alpha": alpha,
            "lora_dropout": dropout,
            "target_modules": targets,
            "bias": bias,
            "fan_in_fan_out": conv1d,
            "task_type": "CAUSAL_LM",
        }
        model = get_peft_model(model, LoraConfig(**options))
    adapter_to_fp32(model)
    return model, targets


def adapter_to_fp32(model: Any) -> None:
    """Trainable weights in fp32, whatever a library made of them: 16 bits lose small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def resolve_targets(model: Any, wanted: Sequence[str] | None) -> list[str]:
    """Names of the layers to adapt: `wanted` where each names a linear layer, else every linear
    layer (nn.Linear or GPT-2's Conv1D) but the output head."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        }
    )
    if wanted is None:
        return found
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise ModelError(
            f"lora.target_modules: this model has no linear layer {', '.join(unknown)}; "
            f"it has {', '.join(found)}"
        )
    return sorted(set(wanted))


@torch.no_grad()
def greedy_answers(
    model: Any,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    pad_token_id: int,
    eos_token_id: int,
    precision: str = "fp32",
) -> list[list[int]]:
    """The most likely next tokens after each prompt, up to EOS (left out) or `max_new_tokens`.

    The prompts are one batch, padded on the left; the model is in evaluation mode.
    """
    longest = max(map(len, prompts))
    rows = [[pad_token_id] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    with autocast(precision):
        tokens = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id,
        )
    answers = tokens[:, longest:].tolist()
    return [a[: a.index(eos_token_id)] if eos_token_id in a else a for a in answers]


def autocast(precision: str) -> Any:
    """The context in which a forward runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device().type, dtype=dtype_of(precision))


def _load_with_transformers(
    name: str, revision: str | None, load_in_4bit: bool, precision: str, config: Any
) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if getattr(config, "activation_function", None) == "gelu_new":
        # The same function in one kernel instead of six: a fifth of a step on a CPU.
        config.activation_function = "gelu_pytorch_tanh"
    extra: dict[str, Any] = {}
    if load_in_4bit:
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype_of(precision),
        )
    if torch.cuda.is_available():
        extra |= {"dtype": dtype_of(precision), "device_map": {"": device()}}
    else:
        # On a CPU 16-bit weights are slower than fp32 ones; autocast does the rest.
        extra |= {"dtype": torch.float32}
    return _read(AutoModelForCausalLM, name, revision, config=config, **extra)


def _load_with_unsloth(
    name: str,
    revision: str | None,
    load_in_4bit: bool,
    max_length: int,
    precision: str,
    gradient_checkpointing: bool,
    seed: int,
) -> Any:
    from unsloth import FastLanguageModel

    try:
        model, _ = FastLanguageModel.from_pretrained(
            name,
            revision=revision,
            max_seq_length=max_length,
            load_in_4bit=load_in_4bit,
            load_in_16bit=not load_in_4bit,
            dtype=dtype_of(precision),
            device_map={"": device()},
            trust_remote_code=False,
            # Else a hub id is swapped for Unsloth's own 4-bit copy, another repository.
            use_exact_model_name=True,
            use_gradient_checkpointing=gradient_checkpointing,
            random_state=seed,
        )
    except (ImportError, NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"Unsloth cannot load {name!r} ({_one_line(error)})") from error
    return model


def _read(kind: Any, name: str, revision: str | None, **options: Any) -> Any:
    """`kind.from_pretrained`, with its failures in one sentence."""
    try:
        return kind.from_pretrained(name, revision=revision, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_why_unreadable(name, revision, error)) from error


def _why_unreadable(name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    where = f"base model {name!r}" + (f" at revision {revision!r}" if revision else "")

    def came_from(*kinds: type[BaseException]) -> bool:
        return any(isinstance(c, kinds) for c in causes)

    if "trust_remote_code" in str(error):
        return f"{where} brings its own code, which Spelltune never runs; choose another model"
    if Path(name).exists():
        return f"{where} cannot be read: {_one_line(error)}"
    if came_from(GatedRepoError):
        return f"{where} asks for its licence first: accept it on the hub, then `hf auth login`"
    if came_from(RevisionNotFoundError):
        return f"{where} is not on the hub: it has no such revision"
    if came_from(RepositoryNotFoundError):
        return f"{where} was found neither on this machine nor on the hub; check its name"
    if came_from(HFValidationError):
        return f"{where} was not found: there is no such folder, and it is no hub id"
    if came_from(LocalEntryNotFoundError, OfflineModeIsEnabled) or "connect" in str(error):
        return (
            f"{where} is not on this machine, and the Hugging Face hub cannot be reached; connect "
            "this machine, or take spelltune-tiny, which ships with Spelltune"
        )
    return f"{where} cannot be read: {_one_line(error)}"


def _turn_dropout_off(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # Llama-shaped attention keeps its rate as a number.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout", "hidden_dropout"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
