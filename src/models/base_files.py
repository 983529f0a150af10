"""The files of a base model, and what they say of it. Imports no torch.

The check before a launch reads them here, in a second and without the libraries that train;
`base_problems` judges them.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from src.errors import reason
from src.files import limited, read_head
from src.models import hub
from src.models.gguf.files import RECORD, converted, gguf_file
from src.models.pretrained import why_unreadable
from src.models.weight_files import (
    MAX_JSON_BYTES,
    BaseModelError,
    is_lfs_pointer,
    lfs_sentence,
    safetensors_header,
)

CONFIG, TOKENIZER, ADAPTER = "config.json", "tokenizer.json", "adapter_config.json"
# A base on the hub is downloaded as a whole by its first training; these are enough for a check.
CHAT_TEMPLATE = "chat_template.jinja"
SMALL_FILES = (
    *(CONFIG, TOKENIZER, CHAT_TEMPLATE),
    *("tokenizer_config.json", "special_tokens_map.json"),
)
MAX_TEMPLATE_BYTES = 2**20
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # or their .index.json and its shards

# The context of a configuration that does not say it, as in transformers.
_DEFAULT_CONTEXT = {"gpt2": 1024, "llama": 2048, "qwen2": 32768}
# Tokenizer classes of transformers without an EOS token of their own.
_NO_DEFAULT_EOS = ("PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer")


class BaseFiles:
    """The files of a base model, as far as they are on this machine."""

    def __init__(self, name: str, revision: str | None = None):
        self.name, self.revision = name, revision
        try:
            self._is_folder = limited(name, Path(name).is_dir)
        except TimeoutError as error:
            raise BaseModelError(f"{name} cannot be read: {reason(error)}") from None
        except ValueError:  # NUL in a path
            self._is_folder = False
        self.gguf = gguf_file(name)

    @property
    def is_local(self) -> bool:
        """True if it is no model on the hub."""
        return self._is_folder or self.gguf is not None

    @property
    def folder(self) -> Path | None:
        """The folder with its files: of a GGUF file None before it is converted, as on the hub."""
        if self.gguf is not None:
            return converted(self.gguf)
        return Path(self.name) if self._is_folder else None

    @property
    def gguf_record(self) -> dict[str, Any] | None:
        """The record of its GGUF file, see `gguf.convert`; None for a base of another kind."""
        return self.json(RECORD) if self.gguf is not None else None

    def find(self, file: str) -> Path | None:
        """The path of one of its files, or None if it is not on this machine."""
        if self.is_local:
            path = self.folder and self.folder / file
            return path if path and path.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(self.name, file, revision=self.revision)
        except ValueError:  # no hub id
            return None
        return Path(found) if isinstance(found, str) else None

    @property
    def is_here(self) -> bool:
        """True if its configuration and its weights are on this machine."""
        weights = (name for file in WEIGHTS for name in (file, f"{file}.index.json"))
        return self.find(CONFIG) is not None and any(self.find(name) for name in weights)

    def stamp(self) -> list[tuple[str, int, int]]:
        """Path, size and time of change of each file that is here: equal while none changes."""
        config = self.find(CONFIG)
        # The record of a converted file is touched at each use, and says nothing of the model.
        files = [file for file in config.parent.iterdir() if file.name != RECORD] if config else []
        return [(str(f), s.st_size, s.st_mtime_ns) for f in sorted(files) for s in [f.stat()]]

    def download(self) -> None:
        """Have the small files here. BaseModelError if there is no such model, or no network.
        A GGUF file is converted here, by torch, unless it was before."""
        if self.gguf is not None and self.folder is None:
            from src.models.gguf.convert import convert

            convert(self.gguf)
        if self.is_local:
            return
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        for file in [one for one in (*SMALL_FILES, ADAPTER) if self.find(one) is None]:
            try:
                with hub.quiet():
                    hf_hub_download(self.name, file, revision=self.revision)
            except (OSError, ValueError) as error:
                unreachable = isinstance(error, LocalEntryNotFoundError)
                absent = isinstance(error, EntryNotFoundError) and not unreachable
                # What is missing is said below, and without a network only these are needed.
                if absent or (unreachable and file not in (CONFIG, TOKENIZER)):
                    continue
                why = why_unreadable(self.name, self.revision, error)
                raise BaseModelError(why) from None

    def json(self, file: str) -> dict[str, Any] | None:
        """The object in a JSON file, None if it is not here; BaseModelError if it is damaged."""
        path = self.find(file)
        if path is None:
            return None
        try:
            if is_lfs_pointer(path):
                raise BaseModelError(lfs_sentence(path))
            content = read_head(path, MAX_JSON_BYTES + 1)
            if len(content) > MAX_JSON_BYTES:
                raise BaseModelError(f"{path} is too large for a {file}")
            found = json.loads(content)
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, BaseModelError):
                raise
            raise BaseModelError(
                f"{path} cannot be read: {reason(error)}; download it again"
            ) from None
        if not isinstance(found, dict):
            raise BaseModelError(f"{path} holds no object; download it again")
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """The fields of config.json; empty if it is not on this machine."""
        return self.json(CONFIG) or {}

    @property
    def text_config(self) -> dict[str, Any]:
        """The configuration of the language model in it, for a model of several parts."""
        nested = self.config.get("text_config")
        return nested if isinstance(nested, dict) else self.config

    @property
    def kind(self) -> str:
        """`model_type` of transformers, such as gpt2."""
        return str(self.config.get("model_type", "unknown"))

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of a row that the model can read; None if it does not say."""
        own = self.text_config
        found = own.get("max_position_embeddings", own.get("n_positions"))
        if found is None and self.config:
            found = _DEFAULT_CONTEXT.get(self.kind)
        return found if isinstance(found, int) else None

    def eos_token(self) -> tuple[bool, str | None]:
        """(True, the EOS token of the tokenizer or None) as far as its files decide it; else
        (False, None): then the class of the tokenizer does."""
        settings = self.json("tokenizer_config.json")
        special = self.json("special_tokens_map.json") or {}
        if settings is None:
            return False, None
        for source in (settings, special):
            token = source.get("eos_token")
            if isinstance(token, dict):
                token = token.get("content")
            if token is not None:
                return True, str(token)
        own = str(settings.get("tokenizer_class", ""))
        return "eos_token" in settings or own in _NO_DEFAULT_EOS, None

    def chat_template(self) -> str | None:
        """The Jinja source of its chat template, None without one."""
        if path := self.find(CHAT_TEMPLATE):
            try:
                return read_head(path, MAX_TEMPLATE_BYTES).decode()
            except (OSError, ValueError) as error:
                raise BaseModelError(f"{path} cannot be read: {error}") from None
        found = (self.json("tokenizer_config.json") or {}).get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None

    def special_tokens(self) -> dict[str, str]:
        """{name, such as bos_token: token}, as chat templates refer to them."""
        found: dict[str, str] = {}
        for file in ("special_tokens_map.json", "tokenizer_config.json"):
            for name, token in (self.json(file) or {}).items():
                content = token.get("content") if isinstance(token, dict) else token
                if name.endswith("_token") and isinstance(content, str):
                    found[name] = content
        return found

    def added_tokens(self) -> list[str]:
        """The tokens of its tokenizer that are no part of a text: control tokens and the like."""
        found = (self.json(TOKENIZER) or {}).get("added_tokens") or []
        return [str(one["content"]) for one in found if isinstance(one, dict) and "content" in one]

    def linear_layers(self) -> list[str] | None:
        """Names of the layers that may carry adapters, or None where the files do not say it."""
        if self.config.get("quantization_config") or "text_config" in self.config:
            return None
        shapes = self.weight_shapes()
        # Experts are merged when they are loaded, so their names here are not the model's.
        if not shapes or any(".experts." in name for name in shapes):
            return None
        rows = self.config.get("vocab_size")
        layers = set()
        for name, shape in shapes.items():
            path = name.split(".")
            is_embedding = shape[:1] == [rows] or path[-2:-1] in (["wpe"], ["embed_positions"])
            if path[-1] == "weight" and len(path) > 1 and len(shape) == 2 and not is_embedding:
                layers.add(path[-2])
        return sorted(layers)

    def weight_shapes(self) -> dict[str, list[int]]:
        """{name: shape} of all weights in safetensors files that are here; empty if one is not."""
        index = self.json("model.safetensors.index.json") or {}
        names = set(index.get("weight_map", {}).values()) or {"model.safetensors"}
        shapes: dict[str, list[int]] = {}
        for name in names:
            path = self.find(name)
            if path is None or (header := safetensors_header(path)) is None:
                return {}
            shapes |= {key: value["shape"] for key, value in header.items() if "shape" in value}
        return shapes
