"""Programs that load an exported model and ask it one question as its run was trained.

They need no Spelltune. The export commands print one, the panel shows it, a model card holds it.
"""

import json
import re
import shlex
from pathlib import Path

from src.config import CHAT, RunConfig
from src.training.prompts import format_of

QUESTION = "QUESTION"  # where no run's question is at hand
PORT = 8080  # that llama-server takes where no other is named
MAX_ANSWER = 64  # tokens, where the run has no limit of its own


def transformers(
    config: RunConfig, folder: str, *, base: str | None, question: str = QUESTION
) -> str:
    """A program for an adapter in `folder` on the base model `base` (a folder, a hub id or a GGUF
    file), or with None for a merged model there."""
    chat = config.data.template == CHAT
    return "\n".join(
        [
            *_loading(folder, base),
            *(_chat_inputs(config, question) if chat else _raw_inputs(config, question)),
            "tokens = model.generate(",
            f"    **inputs, do_sample=False, max_new_tokens={_longest(config)},",
            "    repetition_penalty=1.0, eos_token_id=tokenizer.eos_token_id,",
            "    pad_token_id=tokenizer.pad_token_id,",
            ")",
            'new = tokens[0, inputs["input_ids"].shape[1] :]',
            "print(tokenizer.decode(new, skip_special_tokens=True).strip())",
            "",
        ]
    )


def llama_cpp(config: RunConfig, file: str, *, question: str = QUESTION) -> str:
    """A program for a GGUF file that was exported, which asks llama.cpp's own server."""
    form = format_of(config)
    stop = f', "stop": [{_text(form.end)}]' if form.end else ""
    return "\n".join(
        [
            f"# First, in another terminal: llama-server -m {shlex.quote(file)} --port {PORT}",
            "import json",
            "from urllib.request import Request, urlopen",
            "",
            f"prompt = {_text(form.prompt(question))}",
            f'asked = {{"prompt": prompt, "n_predict": {_longest(config)}, "temperature": 0,',
            f'         "repeat_penalty": 1.0{stop}}}',
            f'address = "http://127.0.0.1:{PORT}/completion"',
            'json_type = {"Content-Type": "application/json"}',
            "request = Request(address, json.dumps(asked).encode(), json_type)",
            'print(json.load(urlopen(request))["content"].strip())',
            "",
        ]
    )


def ollama(config: RunConfig, modelfile: str) -> str:
    """The command that gives an exported GGUF file to Ollama, by the Modelfile beside it."""
    return f"ollama create {ollama_name(config.name)} -f {shlex.quote(modelfile)}"


def ollama_name(name: str) -> str:
    """The name of a run as Ollama takes it for a model."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "speller"


def _loading(folder: str, base: str | None) -> list[str]:
    """The lines that make `tokenizer` and `model`."""
    names = "AutoModelForCausalLM, AutoTokenizer"
    own = [f"folder = {_text(folder)}", "tokenizer = AutoTokenizer.from_pretrained(folder)"]
    if base is None:
        model = ["model = AutoModelForCausalLM.from_pretrained(folder)"]
        return [f"from transformers import {names}", "", *own, *model]
    place = Path(base)
    asked = (
        f"{_text(str(place.parent))}, gguf_file={_text(place.name)}"
        if place.suffix == ".gguf" else _text(base)
    )  # fmt: skip
    return [
        "from peft import PeftModel",
        f"from transformers import {names}",
        "",
        *own,
        f"base = AutoModelForCausalLM.from_pretrained({asked})",
        "model = PeftModel.from_pretrained(base, folder)",
    ]


def _raw_inputs(config: RunConfig, question: str) -> list[str]:
    return [
        f"template = {_text(config.data.template)}",
        f'prompt = template.replace("{{question}}", {_text(question)})',
        'inputs = tokenizer(prompt, return_tensors="pt")',
    ]


def _chat_inputs(config: RunConfig, question: str) -> list[str]:
    system = config.data.system_prompt
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": question})
    return [
        f"messages = {json.dumps(turns, ensure_ascii=False)}",
        "inputs = tokenizer.apply_chat_template(",
        "    messages, add_generation_prompt=True, enable_thinking=False,",
        '    return_tensors="pt", return_dict=True,',
        ")",
    ]


def _longest(config: RunConfig) -> int:
    return config.evaluation.max_new_tokens or MAX_ANSWER


def _text(value: str | None) -> str:
    """A text as Python writes it, between double quotation marks."""
    return json.dumps(value, ensure_ascii=False)
