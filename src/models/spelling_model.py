"""The spelling model: a frozen base model with a LoRA adapter.

Call `choose_backend` before anything imports transformers, trl or peft: importing Unsloth patches
them.
"""

import hashlib
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from src.models.gguf.convert import readable
from src.models.pretrained import attention_of, from_pretrained, one_line
from src.models.randomness import disable_randomness
from src.models.utils import ModelError, device, dtype_of


@dataclass(frozen=True)
class Vocabulary:
    """Tokenizer and configuration of a base model, which need none of its weights."""

    tokenizer: Any  # a transformers tokenizer with an EOS and a PAD token
    context_tokens: int | None  # max tokens of a row that the model can read
    config: Any = None  # the model's transformers config; a pack needs none

    def end_answers_with(self, token: str | None) -> None:
        """Have answers end with the token of a chat template; None leaves the tokenizer's EOS."""
        if token is not None:
            self.tokenizer.eos_token = token

    @cached_property  # every trial of a pack asks for it
    def fingerprint(self) -> str:
        """sha256 of the tokenizer's tokens and their ids."""
        tokens = sorted(self.tokenizer.get_vocab().items())
        return hashlib.sha256(repr(tokens).encode()).hexdigest()


def choose_backend(backend: str, *, precision: str) -> tuple[str, str | None]:
    """`unsloth` or `peft` for the setting auto | unsloth | peft, and a sentence why not Unsloth.

    Imports Unsloth when it is chosen. ModelError where unsloth is demanded and cannot be used.
    """
    if backend == "peft":
        return "peft", None
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    # Our loss reads the logits; by default Unsloth returns none in training.
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
            why = f"Unsloth cannot be imported ({one_line(error)})"
    if backend == "unsloth":
        raise ModelError(f"backend unsloth: {why}; take backend auto or peft")
    return "peft", f"{why}, so PEFT trains."


def load_vocabulary(name: str, *, revision: str | None = None) -> Vocabulary:
    """The tokenizer and configuration of a base model; `name` is a folder, a GGUF file or a hub
    id."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = readable(name)
    config = from_pretrained(AutoConfig, name, revision)
    if getattr(config, "auto_map", None):
        raise ModelError(
            f"base model {name!r} brings its own code (auto_map), which Spelltune never runs; "
            "choose a model that transformers knows"
        )
    tokenizer = from_pretrained(AutoTokenizer, name, revision)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of {name!r} has no EOS token, so answers could not end")
    if tokenizer.pad_token_id is None:
        # Padding is masked and its labels are -100, so the model never sees which token it is.
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return Vocabulary(tokenizer, context, config)


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
    """The base model, frozen, in evaluation mode, on its device, without dropout.

    GPT-2's config has a dropout of 0.1 inside the base and newer models have none; it is switched
    off everywhere, so that the adapter's dropout is the only one.
    """
    if load_in_4bit and not torch.cuda.is_available():
        raise ModelError(
            "model.load_in_4bit needs an NVIDIA GPU and there is none here; turn it off"
        )
    name = readable(name)
    if backend == "unsloth":
        model = _load_with_unsloth(
            name, revision, load_in_4bit, max_length, precision, gradient_checkpointing, seed
        )
    else:
        model = _load_with_transformers(name, revision, load_in_4bit, precision, vocabulary.config)
    rows = vocabulary.config.get_text_config().vocab_size
    if model.get_input_embeddings().weight.shape[0] != rows:
        # Unsloth adds a PAD token and an embedding row, which nothing reads. PEFT would store the
        # whole embedding in every adapter because its size changed.
        model.resize_token_embeddings(rows)
    tokenizer = vocabulary.tokenizer
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer of {name!r} has {len(tokenizer)} tokens, but its model has {rows}"
        )
    model.requires_grad_(False)
    model.eval()
    disable_randomness(model)
    text_config = model.config.get_text_config()
    if hasattr(text_config, "output_router_logits"):
        # For an auxiliary loss of experts, which no frozen router needs; generation fails with it.
        text_config.output_router_logits = False
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
    """The model with a fresh adapter in fp32, and the names of the adapted layers."""
    from peft import get_peft_model
    from transformers import set_seed
    from transformers.pytorch_utils import Conv1D

    targets = resolve_targets(model, target_modules)
    layers = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in targets]
    conv1d = any(isinstance(layer, Conv1D) for layer in layers)
    # The trainer sets its seed only after the adapter is initialized.
    set_seed(seed)
    if backend == "unsloth":
        from unsloth import FastLanguageModel

        # Given a list, Unsloth looks for nn.Linear only and finds none in GPT-2 (Conv1D).
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
        config = lora_config(
            r=r, alpha=alpha, dropout=dropout, targets=targets, bias=bias, conv1d=conv1d
        )
        model = get_peft_model(model, config)
    adapter_to_fp32(model)
    return model, targets


def lora_config(
    *,
    r: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    bias: str,
    conv1d: bool,
    **more: Any,
) -> Any:
    """PEFT's LoraConfig of an adapter; `conv1d` where the adapted layers are GPT-2's Conv1D."""
    from peft import LoraConfig

    options: dict[str, Any] = {
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": list(targets),
        "bias": bias,
        "fan_in_fan_out": conv1d,
        "task_type": "CAUSAL_LM",
        **more,
    }
    return LoraConfig(**options)


def sort_targets(config: Any) -> None:
    """Sort the adapted layers of a LoraConfig: PEFT makes a set of them, which each process would
    write in another order."""
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)


def adapter_to_fp32(model: Any) -> None:
    """Cast trainable weights to fp32, whatever their dtype is: 16 bits lose small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def resolve_targets(model: Any, target_modules: Sequence[str] | None) -> list[str]:
    """Sorted names of the layers to adapt: `target_modules`, or by default every linear layer.

    Linear layers are nn.Linear and GPT-2's Conv1D, without the output head. ModelError where a
    target names none.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        }
    )
    if target_modules is None:
        return linear
    unknown = [name for name in target_modules if name not in linear]
    if unknown:
        raise ModelError(
            f"lora.target_modules: this model has no linear layer {', '.join(unknown)}; "
            f"it has {', '.join(linear)}"
        )
    return sorted(set(target_modules))


def _load_with_transformers(
    name: str, revision: str | None, load_in_4bit: bool, precision: str, config: Any
) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if getattr(config, "activation_function", None) == "gelu_new":
        # The same function as one kernel instead of six saves a fifth of a training step on a CPU.
        config.activation_function = "gelu_pytorch_tanh"
    extra: dict[str, Any] = {}
    if implementation := attention_of(config):
        extra["attn_implementation"] = implementation
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
        # On a CPU 16-bit weights are slower than fp32; autocast casts for the forward pass.
        extra |= {"dtype": torch.float32}
    model, found = from_pretrained(
        AutoModelForCausalLM, name, revision, config=config, output_loading_info=True, **extra
    )
    if missing := sorted(found["missing_keys"]):
        # transformers would go on with random numbers there.
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"the weights of {name!r} lack {', '.join(missing[:3])}{more}, which its config.json "
            "asks for; download it again"
        )
    return model


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
            # Otherwise Unsloth replaces a hub id by its own 4-bit copy in another repository.
            use_exact_model_name=True,
            use_gradient_checkpointing=gradient_checkpointing,
            random_state=seed,
        )
    except (ImportError, NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"Unsloth cannot load {name!r} ({one_line(error)})") from error
    return model
