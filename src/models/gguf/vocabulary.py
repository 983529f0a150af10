"""The tokenizer of a base model as keys of a GGUF file, with the chat template of a run

llama.cpp splits a text by the name of a rule; the rule is found by the definition of the tokenizer
itself, and where llama.cpp has none like it the export is refused. Imports no torch.
"""

import json
from collections.abc import Mapping
from typing import Any

from src.errors import UserError
from src.models.gguf.tokenizer import split_name
from src.models.prompt_format import PromptFormat

# `tokenizer.ggml.token_type`
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_COPIED = ("model", "pre", "tokens", "merges", "scores", "token_type", "add_space_prefix")
# Of a BPE model; another value changes how a text is cut, and llama.cpp has only this one.
_PLAIN_BPE = {
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
}


class CannotExport(UserError, ValueError):
    """A model that GGUF or llama.cpp cannot hold, in one sentence."""


def tokenizer_keys(
    tokenizer: Any, form: PromptFormat, *, rows: int, original: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The keys of a GGUF file with a tokenizer of transformers, filled up to the `rows` of the
    embeddings, and with the chat template and the last token of rows of this format.

    `original` has the metadata of the GGUF file that the tokenizer was read from, if it was: its
    vocabulary is taken as it is. CannotExport where llama.cpp would cut texts in another way.
    """
    if original is None:
        own = _vocabulary(json.loads(_definition(tokenizer)), rows)
    else:
        own = {key: original[_key(key)] for key in _COPIED if _key(key) in original}
    for name in ("bos", "eos", "unk", "pad"):
        if (index := getattr(tokenizer, f"{name}_token_id")) is not None:
            full = {"unk": "unknown", "pad": "padding"}.get(name, name)
            own[f"{full}_token_id"] = index
    keys = {_key(name): value for name, value in own.items()}
    # Always said: without it llama.cpp goes by the name of the rule.
    keys[_key("add_bos_token")] = begins_with_bos(tokenizer, form)
    keys[_key("add_eos_token")] = False
    return keys | {"tokenizer.chat_template": _chat_template(tokenizer, form)}


def begins_with_bos(tokenizer: Any, form: PromptFormat) -> bool:
    """True if llama.cpp shall put the BOS token before a prompt of this format.

    That is where the tokenizer does so itself. A chat template that begins with it, as that of
    Llama 3, loses its own there; one of a tokenizer that puts none, as SmolLM2's, keeps it.
    """
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    found = tokenizer("a")["input_ids"]
    if form.is_chat:
        bos = tokenizer.bos_token
        begins = bos is not None and form.around[0].startswith(bos)
        return begins and found[:1] == [tokenizer.bos_token_id]
    if found not in (plain, [tokenizer.bos_token_id, *plain]):
        raise CannotExport(
            "the tokenizer of this base puts other tokens around a text than one at its begin, "
            "which GGUF cannot say; write a merged folder instead"
        )
    return bool(found != plain)


def _key(name: str) -> str:
    return f"tokenizer.ggml.{name}"


def _definition(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CannotExport(
            "the tokenizer of this base has no tokenizer.json, so it cannot be written as GGUF; "
            "write a merged folder instead"
        )
    return str(backend.to_str())


def _vocabulary(definition: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The vocabulary of a byte-level BPE by its tokenizer.json."""
    model = definition["model"]
    if model.get("type") != "BPE" or any(model.get(k, v) != v for k, v in _PLAIN_BPE.items()):
        raise CannotExport(
            "only tokenizers that merge bytes (byte-level BPE, as GPT-2, Llama 3 and Qwen have) "
            "can be written as GGUF, and this base has another one; write a merged folder instead, "
            "or train on a GGUF file of the base, whose tokenizer is taken as it is"
        )
    added = {token["id"]: token for token in definition.get("added_tokens") or []}
    texts = {index: text for text, index in model["vocab"].items()}
    texts |= {index: token["content"] for index, token in added.items()}
    kinds = dict.fromkeys(texts, _NORMAL) | {
        index: _CONTROL if token["special"] else _USER_DEFINED for index, token in added.items()
    }
    return {
        "model": "gpt2",
        "pre": _pre_tokenizer(definition),
        "tokens": [texts.get(index, f"[PAD{index}]") for index in range(rows)],
        "token_type": [kinds.get(index, _UNUSED) for index in range(rows)],
        "merges": [one if isinstance(one, str) else " ".join(one) for one in model["merges"]],
    }


def _pre_tokenizer(definition: Mapping[str, Any]) -> str:
    """llama.cpp's name of how a tokenizer splits a text before its bytes are merged."""
    found = _split(definition)
    name = split_name(**found) if found else None
    if name is None:
        raise CannotExport(
            "the tokenizer of this base splits text in a way that llama.cpp has no name for "
            f"({json.dumps(definition.get('pre_tokenizer'))[:200]}); write a merged folder instead"
        )
    return name


def _split(definition: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of `split_name`, or None for steps that no rule of llama.cpp has."""
    normalizers = _steps(definition.get("normalizer"), "normalizers")
    steps = _steps(definition.get("pre_tokenizer"), "pretokenizers")
    composed = normalizers == [{"type": "NFC"}]
    if (normalizers and not composed) or not steps:
        return None
    last = steps.pop()
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    digits = bool(steps) and steps[0] == {"type": "Digits", "individual_digits": True}
    if digits:
        steps.pop(0)
    pattern = None
    if steps and not last.get("use_regex", True):
        pattern = _pattern(steps.pop())
        if pattern is None:
            return None
    elif not last.get("use_regex", True):
        return None
    whole = bool(definition["model"].get("ignore_merges"))
    return (
        None
        if steps
        else {"pattern": pattern, "digits": digits, "composed": composed, "whole_words": whole}
    )


def _steps(found: Mapping[str, Any] | None, several: str) -> list[dict[str, Any]]:
    if found is None:
        return []
    return list(found[several]) if found["type"] == "Sequence" else [dict(found)]


def _pattern(step: Mapping[str, Any]) -> str | None:
    if step.get("type") != "Split" or step.get("behavior") != "Isolated" or step.get("invert"):
        return None
    found = step["pattern"].get("Regex")
    return found if isinstance(found, str) else None


def _chat_template(tokenizer: Any, form: PromptFormat) -> str:
    """The base's own template for a run on chats; else one that renders the raw template of the
    run, so that programs that only chat ask as the run was trained."""
    own = tokenizer.chat_template
    if form.is_chat and isinstance(own, str):
        return own
    asked = [_quoted(text) for text in form.around]
    question = " + m['content'] + ".join(asked)
    answer = f"{_quoted(form.before_answer)} + m['content'] | trim + {_quoted(tokenizer.eos_token)}"
    return (
        "{% for m in messages %}"
        f"{{% if m['role'] == 'user' %}}{{{{ {question} }}}}"
        f"{{% elif m['role'] == 'assistant' %}}{{{{ {answer} }}}}{{% endif %}}"
        "{% endfor %}"
    )


def _quoted(text: str) -> str:
    """A text as a literal of Jinja."""
    return json.dumps(text, ensure_ascii=False)
