"""The header of a GGUF file: what it says of its model, and where its weights lie

The format: "GGUF", a version, two counts, keys with typed values, a table of tensors, the weights
(github.com/ggml-org/ggml, docs/gguf.md). A file comes from anywhere, so no count in it is believed.
Imports no torch.
"""

import struct
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from src.errors import reason
from src.files import limited
from src.models.weight_files import BaseModelError

MAGIC = b"GGUF"
# The largest vocabularies with their merges take 20 MB.
MAX_HEADER_BYTES = 128 * 2**20
MAX_KEYS, MAX_TENSORS, MAX_DIMENSIONS = 65_536, 1_000_000, 4
MAX_NAME_BYTES = 65_536
LONG_ARRAY = 4096  # elements; of a longer one only the number is kept, unless it is asked for
VERSIONS = (2, 3)

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
# What the vocabulary of a tokenizer consists of.
VOCABULARY = tuple(f"tokenizer.ggml.{n}" for n in ("tokens", "merges", "scores", "token_type"))


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file, before it is read."""

    name: str
    shape: tuple[int, ...]  # as the file has it: the dimension that moves fastest is the first
    type: int  # of ggml, such as 2 for Q4_0
    offset: int  # from the start of the weights

    @property
    def numbers(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """The header of a file, as it was read."""

    path: Path
    size: int  # bytes of the file
    metadata: dict[str, Any]  # by key; of a long array its number of elements
    tensors: tuple[GgufTensor, ...]
    data_start: int  # byte at which the weights begin

    @property
    def architecture(self) -> str:
        """Of llama.cpp, such as llama or qwen3."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def parameters(self) -> int:
        return sum(tensor.numbers for tensor in self.tensors)

    def own(self, key: str, default: Any = None) -> Any:
        """The value of `ARCHITECTURE.key`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def has_magic(path: Path) -> bool:
    """True if a regular file starts as a GGUF file does."""

    def start() -> bytes:
        if not path.is_file():
            return b""
        with open(path, "rb") as file:
            return file.read(len(MAGIC))

    try:
        return limited(path, start) == MAGIC
    except (OSError, ValueError):  # TimeoutError is an OSError; NUL in a path
        return False


def read_header(path: Path) -> GgufHeader:
    """The header of a file, without its vocabulary; BaseModelError if it has none, or a damaged
    one."""
    try:
        state = limited(path, path.stat)
    except OSError as error:
        raise BaseModelError(f"{path} cannot be read: {reason(error)}") from None
    return _kept_header(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)  # the form asks at every change
def _kept_header(path: Path, size: int, changed: int) -> GgufHeader:
    return _limited_parse(path, ())


def read_vocabulary(path: Path) -> dict[str, Any]:
    """The metadata of a file with the arrays of its tokenizer in full."""
    return _limited_parse(path, VOCABULARY).metadata


def _limited_parse(path: Path, long_arrays: Container[str]) -> GgufHeader:
    def parse() -> GgufHeader:
        with open(path, "rb") as file:
            return _Parser(path, file, long_arrays).header()

    try:
        return limited(path, parse)
    except OSError as error:
        raise BaseModelError(f"{path} cannot be read: {reason(error)}") from None


class _Parser:
    """Reads a header from its start to its end, and never more than MAX_HEADER_BYTES."""

    def __init__(self, path: Path, file: BinaryIO, long_arrays: Container[str]):
        self.path, self.file, self.long_arrays = path, file, long_arrays
        self.size = path.stat().st_size
        self.position = 0

    def header(self) -> GgufHeader:
        if self._bytes(4) != MAGIC:
            raise self._damaged("does not start as a GGUF file does")
        version = self._number("I")
        if version not in VERSIONS:
            raise self._damaged(self._of_version(version))
        tensors, keys = self._number("Q"), self._number("Q")
        if keys > MAX_KEYS or tensors > MAX_TENSORS:
            raise self._damaged("has a damaged header")
        metadata = {}
        for _ in range(keys):
            key = self._string(MAX_NAME_BYTES)
            metadata[key] = self._value(self._number("I"), key in self.long_arrays)
        table = tuple(self._tensor() for _ in range(tensors))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
            raise self._damaged("has a damaged header")
        start = -(-self.position // alignment) * alignment
        return GgufHeader(self.path, self.size, metadata, table, start)

    def _of_version(self, version: int) -> str:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in VERSIONS:
            return "was written for big-endian machines"
        return f"is of version {version} of the format, and versions 2 and 3 can be read"

    def _tensor(self) -> GgufTensor:
        name, dimensions = self._string(MAX_NAME_BYTES), self._number("I")
        if dimensions > MAX_DIMENSIONS:
            raise self._damaged("has a damaged header")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        return GgufTensor(name, shape, self._number("I"), self._number("Q"))

    def _value(self, kind: int, in_full: bool) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._string(MAX_HEADER_BYTES)
        if kind != _ARRAY:
            raise self._damaged("has a damaged header")
        kind, count = self._number("I"), self._number("Q")
        keep = in_full or count <= LONG_ARRAY
        if kind in _NUMBERS:
            code = f"<{count}{_NUMBERS[kind]}"
            content = self._bytes(count * struct.calcsize(f"<{_NUMBERS[kind]}"))
            return list(struct.unpack(code, content)) if keep else count
        if kind != _STRING:
            raise self._damaged("has a damaged header")
        found = []
        for _ in range(count):  # each takes 8 bytes at least, so that the file bounds the number
            text = self._string(MAX_HEADER_BYTES)
            if keep:
                found.append(text)
        return found if keep else count

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))
        return value

    def _string(self, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            raise self._damaged("has a damaged header")
        return self._bytes(length).decode(errors="replace")

    def _bytes(self, count: int) -> bytes:
        if self.position + count > MAX_HEADER_BYTES:
            raise self._damaged("has a damaged header")
        if self.position + count > self.size:
            raise self._damaged(f"is cut: its header does not end within its {self.size:,} bytes")
        self.position += count
        content = self.file.read(count)
        if len(content) < count:  # somebody is writing it
            raise self._damaged("is cut: its header does not end")
        return content

    def _damaged(self, what: str) -> BaseModelError:
        return BaseModelError(f"{self.path} {what}; download it again")
