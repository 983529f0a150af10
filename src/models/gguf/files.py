"""GGUF files as base models: which file a name means, and the folder that holds it converted

A file is converted once to a folder as transformers has it (`gguf.convert`), which every reader
then takes. The folder is named by the SHA-256 of the file, so a copy of it needs no other one.
Imports no torch.
"""

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from src import paths
from src.file_cache import FileCache, key_of
from src.files import limited, read_text, sha256
from src.models.gguf.header import has_magic
from src.models.weight_files import BaseModelError

ENDING = ".gguf"
RECORD = "gguf.json"  # what a converted folder says of its file, see `gguf.convert`
KEPT = 4  # converted folders; with more the one that was used longest ago is removed
IN_USE_SECONDS = 24 * 3600.0  # since its last use, in which none is removed
_HASHES = 256  # of files, by path, size and time of change


def gguf_file(name: str) -> Path | None:
    """The GGUF file that `model.name` means: a file, or the only one in a folder; None if it means
    something else. BaseModelError where a folder has several, or a named file is not there.
    """
    path = Path(name)
    try:
        if limited(path, path.is_dir):
            return _only(path, limited(path, lambda: _files_in(path)))
        if not limited(path, path.is_file):
            if path.suffix.lower() == ENDING:
                raise BaseModelError(f"there is no file {name}")
            return None
    except (OSError, ValueError) as error:
        if isinstance(error, BaseModelError):
            raise
        return None  # said where it is read
    # Ollama keeps such files without an ending.
    return path if path.suffix.lower() == ENDING or has_magic(path) else None


def _files_in(folder: Path) -> list[Path]:
    """The GGUF files of a folder that is no base model in transformers' format."""
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return []
    if (folder / "adapter_config.json").is_file():
        return []
    for pattern in (f"*{ENDING}", f"*/*{ENDING}"):  # LM Studio: publisher/model/file.gguf
        found = sorted(file for file in folder.glob(pattern) if file.is_file())
        # A projector for images lies beside its model, and of a split one the first part is named.
        models = [f for f in found if "mmproj" not in f.name.lower() and not _is_later_part(f)]
        if found:
            return models or found
    return []


def _is_later_part(file: Path) -> bool:
    """True for `model-00002-of-00003.gguf` beside its first part."""
    head, _, of = file.stem.rpartition("-of-")
    name, _, number = head.rpartition("-")
    if not (name and number.isdigit() and of.isdigit()) or int(number) == 1:
        return False
    return file.with_name(f"{name}-{1:0{len(number)}}-of-{of}{file.suffix}").is_file()


def _only(folder: Path, files: Sequence[Path]) -> Path | None:
    if len(files) > 1:
        names = [str(file.relative_to(folder)) for file in files]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        raise BaseModelError(
            f"{folder} holds several GGUF files: {', '.join(names[:6])}{more}; name one of them"
        )
    return files[0] if files else None


def cache_dir() -> Path:
    """Where converted files are; it can be deleted while nothing trains on them."""
    return paths.cache_dir() / "gguf"


def converted(file: Path) -> Path | None:
    """The folder with the model of this file, or None if it is not converted."""
    try:
        content = _hashes().read(_stamp(file), read_text)
    except OSError:
        return None
    if content is None:
        return None
    folder = cache_dir() / content
    return folder if (folder / RECORD).is_file() else None


def content_of(file: Path) -> str:
    """The SHA-256 of a file, which is worked out once while the file stays as it is."""
    stamp = _stamp(file)
    content = _hashes().read(stamp, read_text)
    if content is None:
        content = sha256(file)
        _hashes().write(stamp, lambda staged: staged.write_text(content))
    return content


def mark_used(folder: Path) -> None:
    """Note that a converted folder is read now."""
    with suppress(OSError):  # a disk that can only be read
        os.utime(folder / RECORD)


def remove_oldest() -> None:
    """Remove converted folders beyond KEPT, those first whose last use is longest ago."""
    records = sorted(cache_dir().glob(f"*/{RECORD}"), key=lambda file: -file.stat().st_mtime)
    for record in records[KEPT:]:
        if time.time() - record.stat().st_mtime > IN_USE_SECONDS:
            record.unlink(missing_ok=True)  # first: without it the folder is none
            shutil.rmtree(record.parent, ignore_errors=True)


def _hashes() -> FileCache:
    return FileCache(paths.cache_dir() / "gguf-hashes", _HASHES)


def _stamp(file: Path) -> str:
    """Equal while a file is the same one and nobody writes to it."""
    real = Path(os.path.realpath(file))
    state = limited(real, real.stat)
    return key_of(str(real), state.st_size, state.st_mtime_ns)
