"""Base models as a pack computes them, kept on the disk: later packs start without transformers

To import transformers takes longer than all else that a pack does before its first step. So what it
read of a base is kept, and the next packs on this machine start without it, while the files of the
base, the GPU, Spelltune's code and the installed packages are the same.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from src.file_cache import FileCache, key_of
from src.files import code_stamp
from src.format import GIB
from src.models import utils as machine
from src.models.multi_lora.adapters import StackShape
from src.models.multi_lora.base import AdaptedLayer, FrozenBase, Geometry, Layer, Linear, Norm
from src.models.multi_lora.linear import FusedSlices

KEPT = 4  # bases
CHECKSUM_BYTES = 4  # at the end of a file
MAX_BYTES = GIB  # of a base: a larger one takes longer to read than transformers to import
# All that a file may hold beside tensors, numbers, texts, and collections of these.
CLASSES = (AdaptedLayer, FrozenBase, FusedSlices, Geometry, Layer, Linear, Norm, StackShape)


class StoredTokenizer:
    """Does what a pack asks of a transformers tokenizer, without transformers."""

    clean_up_tokenization_spaces = False

    @staticmethod
    def of(tokenizer: Any) -> "StoredTokenizer | None":
        """The one for a transformers tokenizer; None where only that decodes as it does."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or tokenizer.split_special_tokens:
            return None
        if tokenizer.clean_up_tokenization_spaces and type(backend.model).__name__ != "BPE":
            return None
        return StoredTokenizer(backend, tokenizer.eos_token, tokenizer.pad_token_id)

    def __init__(self, backend: Tokenizer, eos_token: str, pad_token_id: int):
        backend.no_padding()
        backend.no_truncation()
        self.backend_tokenizer, self.eos_token, self.pad_token_id = backend, eos_token, pad_token_id

    @property
    def eos_token_id(self) -> int:
        found = self.backend_tokenizer.token_to_id(self.eos_token)
        assert found is not None  # `load_vocabulary` refuses a tokenizer without it
        return found

    def __call__(self, texts: Sequence[str], *, add_special_tokens: bool) -> dict[str, Any]:
        found = self.backend_tokenizer.encode_batch(
            list(texts), add_special_tokens=add_special_tokens
        )
        return {"input_ids": [one.ids for one in found]}

    def get_vocab(self) -> dict[str, int]:
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))


class ReadBase(NamedTuple):
    """A base model as it was read from its files: all that a pack needs of it."""

    frozen: FrozenBase
    targets: list[str]  # names of the adapted layers
    conv1d: bool  # they are GPT-2's Conv1D, which holds (in, out)
    parameters: int
    stored_dtype: torch.dtype  # that PEFT rounds a fresh adapter to
    context_tokens: int | None  # most tokens of a row that the model can read
    tokenizer: Any  # a `StoredTokenizer`, or transformers' own where that cannot stand for it
    tokenizer_files: Mapping[str, bytes]  # as `save_pretrained` writes it, by path in its folder


class BaseCache:
    """The bases that are kept in `cache_dir`/bases."""

    def __init__(self, cache_dir: Path | None):
        self._cache = FileCache(cache_dir and cache_dir / "bases", KEPT)

    def read(self, key: str) -> ReadBase | None:
        """A base on its device, or None if it is not kept."""
        return self._cache.read(key, _read)

    def keep(self, key: str, base: ReadBase) -> None:
        """Keep a base that `read` returns from now on, unless it is too large or its tokenizer is
        one of transformers."""
        if self._cache.has(key) or not isinstance(base.tokenizer, StoredTokenizer):
            return
        if (size := _bytes_of(base.frozen)) <= MAX_BYTES:
            self._cache.write(key, partial(_write, base), size=size)


def key_of_base(base: Sequence[Any], *settings: Any) -> str:
    """The name of a base in the cache; `base` is that of `preloaded.key_of`, and `settings` are
    what else decides its content."""
    # The tables of rotary positions are computed.
    return key_of(base, settings, machine.rounds_as(), machine.versions(), code_stamp())


def _read(file: Path) -> ReadBase:
    content = file.read_bytes()
    end = len(content) - CHECKSUM_BYTES
    # PyTorch checks none of what it loads.
    if end <= 0 or int.from_bytes(content[end:], "big") != zlib.crc32(memoryview(content)[:end]):
        raise ValueError("this file is damaged")
    with torch.serialization.safe_globals(list(CLASSES)):
        found = torch.load(BytesIO(content), map_location=machine.device(), weights_only=True)
    text, eos_token, pad_token_id = found.pop("tokenizer")
    tokenizer = StoredTokenizer(Tokenizer.from_str(text), eos_token, pad_token_id)
    return ReadBase(**found, tokenizer=tokenizer)


def _write(base: ReadBase, file: Path) -> None:
    own = base.tokenizer
    tokenizer = own.backend_tokenizer.to_str(), own.eos_token, own.pad_token_id
    torch.save(base._asdict() | {"tokenizer": tokenizer}, file)
    checksum = 0
    with open(file, "rb+") as opened:
        while part := opened.read(2**20):
            checksum = zlib.crc32(part, checksum)
        opened.write(checksum.to_bytes(CHECKSUM_BYTES, "big"))


def _bytes_of(base: FrozenBase) -> int:
    """The memory of a base's tensors; several may share one."""
    found: dict[int, int] = {}

    def look(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            storage = part.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(part, tuple):
            for one in part:
                look(one)

    look(tuple(vars(base).values()))
    return sum(found.values())
