"""Reasons why a GGUF file cannot be a base model, by its header alone. Imports no torch."""

import ast
import importlib.util
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from src.format import GIB
from src.models.gguf.header import MAGIC, GgufHeader, has_magic, read_header
from src.models.gguf.tokenizer import tokenizer_problem
from src.models.weight_files import BaseModelError, is_lfs_pointer, lfs_sentence

_OLDER_MAGIC = (b"lmgg", b"tjgg", b"algg", b"fmgg")  # GGML, GGJT, GGLA, GGMF
_SPARE_BYTES = 256 * 2**20  # that a conversion leaves free on its disk
# Architectures that transformers reads from GGUF and that do not continue a text.
_NO_DECODERS = {"t5", "umt5"}


def gguf_problem(file: Path) -> str | None:
    """The reason why a file cannot be a base model, or None."""
    try:
        if not has_magic(file):
            return _of_no_gguf(file)
        header = read_header(file)
        return (
            _content_problem(header)
            or _architecture_problem(header)
            or _weights_problem(header)
            or _tokenizer_sentence(header)
        )
    except BaseModelError as error:
        return str(error)


def room_problem(header: GgufHeader, folder: Path) -> str | None:
    """The reason why a disk has no room for a converted file, or None."""
    size = 4 if quantization(header) == "F32" else 2
    needed = size * header.parameters + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"takes {needed / GIB:.1f} GiB converted to 16 bits, and {folder} has {free / GIB:.1f} "
        "GiB free; free some space, or set SPELLTUNE_HOME to a larger disk"
    )


def quantization(header: GgufHeader) -> str:
    """The type that most of its weights have, such as Q4_K or F16."""
    names = _type_names()
    numbers: Counter[int] = Counter()
    for tensor in header.tensors:
        numbers[tensor.type] += tensor.numbers
    kind = max(numbers, key=lambda kind: numbers[kind])
    return names.get(kind, (f"type {kind}",))[0]


def _of_no_gguf(file: Path) -> str:
    with open(file, "rb") as opened:
        start = opened.read(4)
    if not start:
        return f"{file} is empty; download it again"
    if is_lfs_pointer(file):
        return lfs_sentence(file)
    if start in _OLDER_MAGIC:
        return (
            f"{file} has the format that came before GGUF; download the model again, or convert it "
            "with llama.cpp"
        )
    return f"{file} does not begin with {MAGIC.decode()}, so it is no GGUF file; download it again"


def _content_problem(header: GgufHeader) -> str | None:
    """The reason why a file holds no whole language model."""
    file, metadata = header.path, header.metadata
    kind, architecture = metadata.get("general.type", "model"), header.architecture
    if kind == "adapter":
        return f"{file} is a LoRA adapter and no base model; name the model that it was trained on"
    if kind == "mmproj" or architecture == "clip":
        return (
            f"{file} is a projector for images or sound (mmproj) and no language model; name the "
            "file that lies beside it"
        )
    if kind == "imatrix" or architecture == "imatrix":
        return f"{file} is an importance matrix for quantization and no model; name the model"
    parts, number = metadata.get("split.count", 1), metadata.get("split.no", 0)
    if isinstance(parts, int) and parts > 1:
        first = "" if number == 0 else ", and not the first,"
        return (
            f"{file} is one of {parts} parts{first} of a split model; join them by "
            "`llama-gguf-split --merge FIRST-PART MODEL.gguf` of llama.cpp, and name that file"
        )
    if not header.tensors:
        return f"{file} has no weights, only a vocabulary; name the file of the model itself"
    if kind != "model":
        return f"{file} holds no model but something of the type {kind}; name the model"
    return None


def _architecture_problem(header: GgufHeader) -> str | None:
    known = gguf_architectures()
    if not header.architecture:
        return f"{header.path} names no architecture; download it again"
    if not known or header.architecture in known:
        return None
    return (
        f"{header.path} is a {header.architecture} model, and transformers reads from GGUF: "
        f"{', '.join(sorted(known))}; take the model in transformers' own format from the hub"
    )


def _weights_problem(header: GgufHeader) -> str | None:
    """The reason why the weights cannot be read: cut off, or of a type that has no reader."""
    kinds, end = _type_names(), 0
    for tensor in header.tensors:
        if tensor.type not in kinds:
            return (
                f"{header.path} has weights of the type {tensor.type} of ggml, which is not known "
                "here; take another quantization of the model, such as Q8_0 or Q4_K_M"
            )
        name, numbers, size, readable = kinds[tensor.type]
        if not readable:
            return (
                f"{header.path} is quantized to {name}, which transformers cannot read; take "
                "another quantization of the model, such as Q8_0 or Q4_K_M"
            )
        if tensor.shape and tensor.shape[0] % numbers:
            return f"{header.path} has a damaged header; download it again"
        end = max(end, tensor.offset + tensor.numbers // numbers * size)
    missing = header.data_start + end - header.size
    if missing <= 0:
        return None
    return (
        f"{header.path} is cut: {missing:,} of {header.data_start + end:,} bytes are missing; "
        "download it again"
    )


def _tokenizer_sentence(header: GgufHeader) -> str | None:
    problem = tokenizer_problem(header.metadata)
    if problem is None:
        return None
    return f"{header.path} {problem}; take the model in transformers' own format from the hub"


@cache
def _type_names() -> dict[int, tuple[str, int, int, bool]]:
    """{type of ggml: (name, numbers in a block, bytes of a block, True if it can be read)}."""
    import numpy
    from gguf import GGML_QUANT_SIZES
    from gguf.quants import dequantize

    found = {}
    for kind, (numbers, size) in GGML_QUANT_SIZES.items():
        try:
            dequantize(numpy.zeros((1, size), dtype=numpy.uint8), kind)
            readable = True
        except NotImplementedError:
            readable = False
        found[int(kind)] = (str(kind.name), numbers, size, readable)
    return found


@cache
def gguf_architectures() -> frozenset[str]:
    """The architectures that the installed transformers reads from GGUF, by its source: importing
    it would load torch. Empty if they are not found there."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    folder = Path(spec.submodule_search_locations[0]) / "integrations"
    mapping = _keys_of(folder / "ggml.py", "GGUF_CONFIG_MAPPING")
    newer = _keys_of(folder / "gguf" / "gguf_config_mapping.py", "GGUF_CONFIG_ARCHS")
    if not mapping:
        return frozenset()
    # llama.cpp has other names for some.
    names = {name: name for name in mapping} | {
        "qwen2_moe": "qwen2moe",
        "qwen3_moe": "qwen3moe",
        "gpt_oss": "gpt-oss",
        "minimax_m2": "minimax-m2",
    }
    known = {names[name] for name in mapping if name not in ("general", "tokenizer")}
    return frozenset((known | set(newer)) - _NO_DECODERS)


def _keys_of(file: Path, name: str) -> list[str]:
    """The keys of a dictionary that a module of this source names so."""
    try:
        tree = ast.parse(file.read_text())
    except (OSError, ValueError, SyntaxError):
        return []
    for node in tree.body:
        targets: list[Any] = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == name for t in targets) and isinstance(
            node, ast.Assign
        ):
            value = node.value
            if isinstance(value, ast.Dict):
                return [str(key.value) for key in value.keys if isinstance(key, ast.Constant)]
    return []
