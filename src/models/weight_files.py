"""Files of weights: their layers by the header alone, and why they could not be read. Imports no
torch."""

import json
import struct
from pathlib import Path
from typing import Any

from src.errors import UserError, reason
from src.files import read_head

MAX_JSON_BYTES = 64 * 2**20  # largest file, and largest header, that is parsed
LFS_POINTER = b"version https://git-lfs"


class BaseModelError(UserError, ValueError):
    """A base model that cannot be used, in one sentence."""


def is_lfs_pointer(path: Path) -> bool:
    """True if git left its note of a large file instead of the file."""
    return read_head(path, len(LFS_POINTER)) == LFS_POINTER


def lfs_sentence(path: Path) -> str:
    return f"{path} is a git-lfs pointer and not the file itself; run `git lfs pull` in its folder"


def weights_problem(path: Path) -> str | None:
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
        start = 8 + struct.unpack("<Q", read_head(path, 8))[0]
        end = max((v["data_offsets"][1] for v in header.values() if "data_offsets" in v), default=0)
        return damaged if start + end != size else None
    except (OSError, TypeError, KeyError, IndexError) as error:
        return f"{path} cannot be read: {reason(error)}"


def safetensors_header(path: Path) -> dict[str, dict[str, Any]] | None:
    """{name: {dtype, shape, data_offsets}} of a safetensors file, or None if it is none.

    The format: 8 bytes with the length of a JSON object, the object, the numbers.
    """
    start = read_head(path, 8)
    if len(start) < 8:
        return None
    length = struct.unpack("<Q", start)[0]
    if not 2 <= length <= min(MAX_JSON_BYTES, path.stat().st_size):
        return None
    try:
        header = json.loads(read_head(path, 8 + length)[8:])
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        return None
    return header
