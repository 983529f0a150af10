"""Reasons why no training could load a base model, from its files alone. Imports no torch."""

import ast
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from src.models.base_files import ADAPTER, CONFIG, TOKENIZER, WEIGHTS, BaseFiles, BaseModelError
from src.models.weight_files import is_lfs_pointer, lfs_sentence, weights_problem


def base_problem(files: BaseFiles) -> str | None:
    """The reason why no training could load this base, or None. Of a model on the hub the
    weights are left out, and the small files must be here: see `download`."""
    try:
        return _config_problem(files) or _weights_problem(files) or _tokenizer_problem(files)
    except BaseModelError as error:
        return str(error)


def _config_problem(files: BaseFiles) -> str | None:
    if (adapter := files.json(ADAPTER)) is not None:
        base = adapter.get("base_model_name_or_path") or "its base model"
        return (
            f"{files.name} is a LoRA adapter and no base model; take {base}, or merge the "
            "adapter into it (`spelltune merge`) and take the merged folder"
        )
    if files.find(CONFIG) is None:
        return f"{files.name} has no {CONFIG}, so it is no base model"
    if files.config.get("auto_map"):
        return (
            f"{files.name} brings its own code (auto_map), which Spelltune never runs; choose "
            "a model that transformers knows"
        )
    if "model_type" not in files.config:
        return f"{files.name}: {CONFIG} names no model_type; download it again"
    known = causal_architectures()
    if known and files.kind not in known:
        return (
            f"{files.name} is a {files.kind} model, and the installed transformers has no causal "
            "language model of this kind; take one that continues a text, such as gpt2"
        )
    return None


def _weights_problem(files: BaseFiles) -> str | None:
    if not files.is_local:
        return None
    for file in WEIGHTS:
        if (path := files.find(file)) is not None:
            return weights_problem(path) or _shapes_problem(files)
        index = files.json(f"{file}.index.json")
        if index is not None:
            return _shards_problem(files, f"{file}.index.json", index)
    return f"{files.name} has no weights: neither {' nor '.join(WEIGHTS)}; download it again"


def _shards_problem(files: BaseFiles, file: str, index: Mapping[str, Any]) -> str | None:
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        return f"{files.name}: {file} has no weight_map; download it again"
    for shard in sorted(set(shards.values())):
        if (path := files.find(shard)) is None:
            return f"{files.name} lacks {shard}, a part of its weights; download it again"
        if problem := weights_problem(path):
            return problem
    return _shapes_problem(files)


def _shapes_problem(files: BaseFiles) -> str | None:
    """The reason why the weights are not those that config.json describes, as far as their
    names say it without a doubt; transformers would draw what is missing at random."""
    if "text_config" in files.config or files.config.get("quantization_config"):
        return None
    shapes, own = files.weight_shapes(), files.config
    asked = own.get("num_hidden_layers", own.get("n_layer"))
    numbers = [int(n) for name in shapes for n in re.findall(r"\.(\d+)\.", f".{name}")[:1]]
    if numbers and isinstance(asked, int) and asked > max(numbers) + 1:
        return (
            f"{files.name}: {CONFIG} asks for {asked} layers, and its weights have "
            f"{max(numbers) + 1}; download it again"
        )
    rows = own.get("vocab_size")
    for name, shape in shapes.items():
        is_embedding = name.endswith(("wte.weight", "embed_tokens.weight"))
        if is_embedding and isinstance(rows, int) and shape[0] != rows:
            return (
                f"{files.name}: {CONFIG} says vocab_size {rows:,}, and its weights have "
                f"{shape[0]:,} rows of embeddings; download it again"
            )
    return None


def _tokenizer_problem(files: BaseFiles) -> str | None:
    path = files.find(TOKENIZER)
    if path is None:
        return f"{files.name} has no {TOKENIZER}; save its tokenizer in this format"
    if is_lfs_pointer(path):
        return lfs_sentence(path)
    found, eos = files.eos_token()
    if found and eos is None:
        return (
            f"the tokenizer of {files.name} has no EOS token, so answers could not end; set "
            "eos_token in its tokenizer_config.json"
        )
    return _vocabulary_problem(files, path)


def _vocabulary_problem(files: BaseFiles, tokenizer: Path) -> str | None:
    """The reason why the tokenizer does not fit the model, or cannot be read."""
    from tokenizers import Tokenizer

    try:
        tokens = Tokenizer.from_file(str(tokenizer)).get_vocab()
    except Exception as error:  # the library raises no other class
        why = " ".join(str(error).split())
        return f"{tokenizer} cannot be read: {why}; download it again"
    rows = files.text_config.get("vocab_size")
    _, eos = files.eos_token()
    # transformers adds a token that its vocabulary lacks.
    count = len(tokens) + (eos is not None and eos not in tokens)
    if not isinstance(rows, int) or count <= rows:
        return None
    return f"the tokenizer of {files.name} has {count:,} tokens, but its model has {rows:,}"


@cache
def causal_architectures() -> frozenset[str]:
    """The `model_type` of every causal language model that the installed transformers has, read
    from its source: importing it would load torch. Empty if they are not found there."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    file = Path(spec.submodule_search_locations[0]) / "models" / "auto" / "modeling_auto.py"
    try:
        text = file.read_text()
    except OSError:
        return frozenset()
    _, _, rest = text.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(")
    try:
        pairs = ast.literal_eval(rest[: rest.index("\n)\n")].strip())
    except (ValueError, SyntaxError):
        return frozenset()
    return frozenset(name for name, _ in pairs)
