"""The files of a base model: what they say of it, and why it could not be loaded. Imports no torch.

The check before a launch reads them here, in a second and without the libraries that train.
"""

import ast
import importlib.util
import json
import struct
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from src.errors import UserError

CONFIG, TOKENIZER, ADAPTER = "config.json", "tokenizer.json", "adapter_config.json"
# A base on the hub is downloaded as a whole by its first training; these are enough for a check.
SMALL_FILES = (CONFIG, TOKENIZER, "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # or their .index.json and its shards
MAX_JSON_BYTES = 64 * 2**20  # largest file, and largest header, that is parsed
LFS_POINTER = b"version https://git-lfs"

# The context of a configuration that does not say it, as in transformers.
_DEFAULT_CONTEXT = {"gpt2": 1024, "llama": 2048, "qwen2": 32768}
# Tokenizer classes of transformers without an EOS token of their own.
_NO_DEFAULT_EOS = ("PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer")


class BaseModelError(UserError, ValueError):
    """A base model that cannot be used, in one sentence."""


class BaseFiles:
    """The files of a base model: a folder, or what of a model on the hub is on this machine."""

    def __init__(self, name: str, revision: str | None = None):
        self.name, self.revision = name, revision
        try:
            self.is_folder = Path(name).is_dir()
        except ValueError:  # NUL in a path
            self.is_folder = False

    def find(self, file: str) -> Path | None:
        """The path of one of its files, or None if it is not on this machine."""
        if self.is_folder:
            path = Path(self.name) / file
            return path if path.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(self.name, file, revision=self.revision)
        except ValueError:  # no hub id
            return None
        return Path(found) if isinstance(found, str) else None

    def download(self) -> None:
        """Have the small files here. BaseModelError if there is no such model, or no network."""
        if self.is_folder:
            return
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # the sentence below says it once, not at every retry
        for file in (*SMALL_FILES, ADAPTER):
            if self.find(file) is not None:
                continue
            try:
                hf_hub_download(self.name, file, revision=self.revision)
            except LocalEntryNotFoundError as error:
                if file in (CONFIG, TOKENIZER):
                    raise self._unreachable(error) from None
            except EntryNotFoundError:
                continue  # the problems below say what is missing
            except (OSError, ValueError) as error:
                raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> BaseModelError:
        return BaseModelError(
            f"cannot load the tokenizer of {self.name} from the hub ({type(error).__name__}); "
            "check the name, the revision and the network"
        )

    def json(self, file: str) -> dict[str, Any] | None:
        """The object in a JSON file, None if it is not here; BaseModelError if it is damaged."""
        path = self.find(file)
        if path is None:
            return None
        try:
            if is_lfs_pointer(path):
                raise BaseModelError(lfs_sentence(path))
            if path.stat().st_size > MAX_JSON_BYTES:
                raise BaseModelError(f"{path} is too large for a {file}")
            found = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, BaseModelError):
                raise
            why = " ".join(str(error).split())
            raise BaseModelError(f"{path} cannot be read: {why}; download it again") from None
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

    # Problems: one sentence each, or None.

    def problem(self) -> str | None:
        """The reason why no training could load this base; of a model on the hub, as far as its
        files are on this machine."""
        try:
            return self._config_problem() or self._weights_problem() or self._tokenizer_problem()
        except BaseModelError as error:
            return str(error)

    def _config_problem(self) -> str | None:
        if (adapter := self.json(ADAPTER)) is not None:
            base = adapter.get("base_model_name_or_path") or "its base model"
            return (
                f"{self.name} is a LoRA adapter and no base model; take {base}, or merge the "
                "adapter into it (`spelltune merge`) and take the merged folder"
            )
        if self.find(CONFIG) is None:
            return f"{self.name} has no {CONFIG}, so it is no model" if self.is_folder else None
        if self.config.get("auto_map"):
            return (
                f"{self.name} brings its own code (auto_map), which Spelltune never runs; choose "
                "a model that transformers knows"
            )
        if "model_type" not in self.config:
            return f"{self.name}: {CONFIG} names no model_type; download it again"
        known = causal_architectures()
        if known and self.kind not in known:
            return (
                f"{self.name} is a {self.kind} model, and the installed transformers has no causal "
                "language model of this kind; take one that continues a text, such as gpt2"
            )
        return None

    def _weights_problem(self) -> str | None:
        if not self.is_folder:
            return None
        for file in WEIGHTS:
            if self.find(file) is not None:
                return _file_problem(Path(self.name) / file)
            index = self.json(f"{file}.index.json")
            if index is not None:
                return self._shards_problem(f"{file}.index.json", index)
        return f"{self.name} has no weights: neither {' nor '.join(WEIGHTS)}; download it again"

    def _shards_problem(self, file: str, index: Mapping[str, Any]) -> str | None:
        shards = index.get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
            return f"{self.name}: {file} has no weight_map; download it again"
        for shard in sorted(set(shards.values())):
            if self.find(shard) is None:
                return f"{self.name} lacks {shard}, a part of its weights; download it again"
            if problem := _file_problem(Path(self.name) / shard):
                return problem
        return None

    def _tokenizer_problem(self) -> str | None:
        path = self.find(TOKENIZER)
        if path is None:
            return f"{self.name} has no {TOKENIZER}" if self.is_folder else None
        if is_lfs_pointer(path):
            return lfs_sentence(path)
        found, eos = self._eos_token()
        if found and eos is None:
            return (
                f"the tokenizer of {self.name} has no EOS token, so answers could not end; set "
                "eos_token in its tokenizer_config.json"
            )
        return None

    def _eos_token(self) -> tuple[bool, str | None]:
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

    def vocabulary_problem(self, tokens: Mapping[str, int]) -> str | None:
        """The reason why this vocabulary does not fit the model. `tokens` are those of its
        tokenizer.json with their ids."""
        rows = self.text_config.get("vocab_size")
        _, eos = self._eos_token()
        count = len(tokens) + (eos is not None and eos not in tokens)
        if not isinstance(rows, int) or count <= rows:
            return None
        return f"the tokenizer of {self.name} has {count:,} tokens, but its model has {rows:,}"

    def linear_layers(self) -> list[str] | None:
        """Names of the layers that may carry adapters, or None where the files do not say it."""
        if self.config.get("quantization_config") or "text_config" in self.config:
            return None
        shapes = self._weight_shapes()
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

    def _weight_shapes(self) -> dict[str, list[int]]:
        """{name: shape} of all weights in safetensors files that are here; empty if one is not."""
        index = self.json("model.safetensors.index.json") or {}
        names = set(index.get("weight_map", {}).values()) or {"model.safetensors"}
        shapes: dict[str, list[int]] = {}
        for name in names:
            path = self.find(name)
            header = safetensors_header(path) if path else None
            if header is None:
                return {}
            shapes |= {key: value["shape"] for key, value in header.items() if "shape" in value}
        return shapes


def is_lfs_pointer(path: Path) -> bool:
    """True if git left its note of a large file instead of the file."""
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def lfs_sentence(path: Path) -> str:
    return f"{path} is a git-lfs pointer and not the file itself; run `git lfs pull` in its folder"


def _file_problem(path: Path) -> str | None:
    """The reason why a file of weights cannot be read, or None."""
    try:
        if is_lfs_pointer(path):
            return lfs_sentence(path)
        size = path.stat().st_size
        damaged = f"{path} is damaged or not complete; download it again"
        if path.suffix != ".safetensors":
            return damaged if size < 4 else None
        header = safetensors_header(path)
        if header is None:
            return damaged
        start = 8 + struct.unpack("<Q", _head(path, 8))[0]
        end = max((v["data_offsets"][1] for v in header.values() if "data_offsets" in v), default=0)
        return damaged if start + end != size else None
    except (OSError, TypeError, KeyError, IndexError) as error:
        return f"{path} cannot be read: {' '.join(str(error).split())}"


def safetensors_header(path: Path) -> dict[str, dict[str, Any]] | None:
    """{name: {dtype, shape, data_offsets}} of a safetensors file, or None if it is none.

    The format: 8 bytes with the length of a JSON object, the object, the numbers.
    """
    start = _head(path, 8)
    if len(start) < 8:
        return None
    length = struct.unpack("<Q", start)[0]
    if not 2 <= length <= min(MAX_JSON_BYTES, path.stat().st_size):
        return None
    try:
        header = json.loads(_head(path, 8 + length)[8:])
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        return None
    return header


def _head(path: Path, size: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


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
