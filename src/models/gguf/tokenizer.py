"""The tokenizer of a GGUF file, as the files of a tokenizer in a base model's folder

llama.cpp names how a text is split before its bytes are merged (`tokenizer.ggml.pre`); the splits
here are those of the tokenizers that these names stand for. Imports no torch.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from src.models.weight_files import BaseModelError

# `tokenizer.ggml.token_type`
_CONTROL, _USER_DEFINED = 3, 4
_CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_UNCASED = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST
_MARKED = _SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _REST
_BY_CASE = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED}*{_UNCASED}+%s"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_CASED}+{_UNCASED}*%s"
    r"|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _REST
)


class _Split(NamedTuple):
    """How a text is cut before its bytes are merged."""

    pattern: str | None = None  # None: GPT-2's
    digits: bool = False  # each one by itself
    composed: bool = False  # accents and letters as one character (NFC)
    whole_words: bool = False  # a piece that is a token is not merged
    begins: bool = False  # with the BOS token, where the file does not say it


_LLAMA3 = _Split(_WORDS % r"\p{N}{1,3}", whole_words=True, begins=True)
_QWEN2 = _Split(_WORDS % r"\p{N}", composed=True)
_SPLITS = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "gigachat"), _Split()),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell"), _Split(digits=True)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _Split(_WORDS % r"\p{N}{1,3}")),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    "qwen35": _Split(_MARKED, composed=True),
    "command-r": _Split(digits=True, composed=True),
    "tekken": _Split(_BY_CASE % ("", "", r"\p{N}"), whole_words=True, begins=True),
    **dict.fromkeys(
        ("gpt-4o", "llama4"), _Split(_BY_CASE % (f"{_SHORT}?", f"{_SHORT}?", r"\p{N}{1,3}"))
    ),
}
# Files from before that name have a split by architecture.
_OLDER = {"gpt2": "gpt-2", "qwen2": "qwen2", "starcoder2": "starcoder"}


def split_name(
    *, pattern: str | None, digits: bool, composed: bool, whole_words: bool
) -> str | None:
    """llama.cpp's name of a split, None if it has none; the fields are those of `_Split`.

    llama.cpp composes no characters, so a name may differ in this alone.
    """
    same = {
        name: split.composed == composed
        for name, split in _SPLITS.items()
        if (split.pattern, split.digits, split.whole_words) == (pattern, digits, whole_words)
    }
    return max(same, key=lambda name: same[name], default=None)


def tokenizer_problem(metadata: Mapping[str, Any]) -> str | None:
    """Why the tokenizer of a file with this metadata cannot be built, or None: `it has ...`."""
    kind = metadata.get("tokenizer.ggml.model")
    if not metadata.get("tokenizer.ggml.tokens"):
        return "has no tokenizer"
    if kind == "llama":
        missing = not metadata.get("tokenizer.ggml.scores")
        return "has no scores of its tokens" if missing else None
    if kind != "gpt2":
        return f"has a tokenizer of the kind {kind}, and gpt2 and llama can be read"
    if not metadata.get("tokenizer.ggml.merges"):
        return "has no merges of its tokens"
    if (name := _split_name(metadata)) not in _SPLITS:
        return f"has a tokenizer that splits text as {name}, which Spelltune does not know"
    return None


def write_tokenizer(metadata: Mapping[str, Any], folder: Path, *, context: int | None) -> None:
    """Write tokenizer.json and its settings into a folder. `metadata` has the vocabulary in full.

    BaseModelError where the parts of the tokenizer do not fit each other.
    """
    own = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    try:
        split = _SPLITS.get(_split_name(metadata), _Split())
        spm = own["model"] == "llama"
        tokenizer = _sentencepiece(own) if spm else _byte_level(own, split)
        special = {
            name: own["tokens"][own[key]]
            for name, key in (
                ("bos_token", "bos_token_id"),
                ("eos_token", "eos_token_id"),
                ("unk_token", "unknown_token_id"),
                ("pad_token", "padding_token_id"),
            )
            if own.get(key) is not None
        }
        _add_tokens(tokenizer, own, set(special.values()))
        if own.get("add_bos_token", spm or split.begins) and "bos_token" in special:
            _begin_with(tokenizer, special["bos_token"], own["bos_token_id"])
    except Exception as error:  # the library raises no other class
        why = " ".join(str(error).split()) or type(error).__name__
        raise BaseModelError(f"its tokenizer cannot be built: {why}") from None
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **special,
        **({"model_max_length": context} if context else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _split_name(metadata: Mapping[str, Any]) -> str:
    older = _OLDER.get(str(metadata.get("general.architecture")), "default")
    return str(metadata.get("tokenizer.ggml.pre", older))


def _byte_level(own: Mapping[str, Any], split: _Split) -> Any:
    """BPE over bytes, as GPT-2 has it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = [tuple(merge.split(" ", 1)) for merge in own["merges"]]
    ids = {token: index for index, token in enumerate(own["tokens"])}
    tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=split.whole_words))
    if split.composed:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = []
    if split.digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if split.pattern:
        steps.append(pre_tokenizers.Split(Regex(split.pattern), "isolated"))
    # Its own pattern is GPT-2's.
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split.pattern))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(own: Mapping[str, Any]) -> Any:
    """SentencePiece's BPE with bytes for what has no token, as Llama 2 and Gemma have it."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens, scores = own["tokens"], own["scores"]
    ids = {token: index for index, token in enumerate(tokens)}
    unknown = own.get("unknown_token_id")
    tokenizer = Tokenizer(
        models.BPE(
            ids,
            _merges_of(ids, scores),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = own.get("add_space_prefix", True)
    marked = normalizers.Replace(" ", "▁")
    first = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*first, marked])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])]
    )
    return tokenizer


def _merges_of(ids: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """The merges that SentencePiece makes: pairs of tokens that are a token, by its score."""
    found = []
    for token, index in ids.items():
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = sorted(
            (pair for pair in cuts if pair[0] in ids and pair[1] in ids),
            key=lambda pair: (ids[pair[0]], ids[pair[1]]),
        )
        found += [(scores[index], pair) for pair in pairs]
    return [pair for _, pair in sorted(found, key=lambda one: one[0], reverse=True)]


def _add_tokens(tokenizer: Any, own: Mapping[str, Any], special: set[str]) -> None:
    """Tell the tokenizer which tokens are no text."""
    from tokenizers import AddedToken

    token = partial(AddedToken, normalized=False)
    kinds = own.get("token_type") or [1] * len(own["tokens"])
    added = []
    for text, kind in zip(own["tokens"], kinds, strict=True):
        is_special = kind == _CONTROL or text in special
        if is_special or kind == _USER_DEFINED:
            added.append(token(text, special=is_special))
    tokenizer.add_tokens(added)


def _begin_with(tokenizer: Any, bos: str, index: int) -> None:
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, index)]
    )
