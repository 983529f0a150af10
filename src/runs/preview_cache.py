"""Previews of data that a launch made before, kept on disk

Most launches look at data that an earlier one has looked at, and reading them takes longer than all
else that a launch does. A preview is taken from the disk only while the content of the data and of
the tokenizer, the settings, Spelltune's code and the installed packages are the same.
"""

import json
import os
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from src import paths
from src.config import ConfigError
from src.file_cache import FileCache, key_of
from src.files import code_stamp, limited, read_text, sha256
from src.models.base_files import SMALL_FILES, TOKENIZER, BaseFiles
from src.models.gguf.files import RECORD

# Of data: to hash more takes longer than to say what is wrong with it.
MAX_BYTES, MAX_FILES = 256 * 2**20, 64


def kept(
    base: BaseFiles, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The preview that `make` returns for these settings, from the disk if it was made before. An
    error of `make` is not kept."""
    key = _key(base, settings)
    if key is None:
        return make()
    cache = FileCache(paths.cache_dir() / "previews")
    found = cache.read(key, lambda file: json.loads(read_text(file)))
    if isinstance(found, dict):
        return found
    seen = make()
    if key == _key(base, settings):  # nothing changed while it was read
        cache.write(key, lambda file: file.write_text(json.dumps(seen)))
    return seen


def _key(base: BaseFiles, settings: Mapping[str, Any]) -> str | None:
    """Equal for calls that see the same data; None where only reading them would tell."""
    data, evaluation = settings["data"], settings["evaluation"]
    if data["hub_id"] or evaluation["suites"] or base.find(TOKENIZER) is None:
        return None
    try:
        own = _content_of(Path(data["path"])) if data["path"] else None
        files = [sha256(file) for file in map(base.find, (*SMALL_FILES, RECORD)) if file]
    except TimeoutError as error:  # reading it would take as long again
        told = {"data.path": f"cannot read {error.filename}: {error.strerror}"}
        raise ConfigError(told) from None
    except (OSError, ValueError):  # the reader says what is wrong
        return None
    return key_of(settings, own, files, code_stamp())


def _content_of(path: Path) -> list[tuple[str, str]]:
    """Name and hash of a data file, or of each file in its folder. OSError or ValueError if it has
    none or is too large, or if one is no regular file."""

    def states() -> list[tuple[Path, os.stat_result]]:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [(file, file.stat()) for file in files]

    found = limited(path, states)
    if not found or not all(stat.S_ISREG(state.st_mode) for _, state in found):
        raise ValueError(f"{path} has something besides regular files")
    if len(found) > MAX_FILES or sum(state.st_size for _, state in found) > MAX_BYTES:
        raise ValueError(f"{path} is too large")
    return [(file.name, limited(file, partial(sha256, file))) for file, _ in found]
