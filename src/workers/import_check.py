"""Imports what a training does, in its environment: `python -m src.workers.import_check`.

Prints a JSON line as each module is tried, and one with what came of it: a library that ends the
process is then the last one that was tried.
"""

import importlib
import importlib.metadata
import json
import os
import sys
from typing import Any, NoReturn

from src.runs.environment import leave

# As a training imports them; what is missing of these prevents it.
LIBRARIES = (
    "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "accelerate", "peft",
    "gguf", "datasets", "trl", "numpy", "pandas", "pyarrow", "psutil", "pynvml", "rapidfuzz",
    "jellyfish", "codespell_lib", "sqlmodel", "sqlalchemy", "pysqlite3", "pydantic", "yaml",
    "jinja2",
)  # fmt: skip
OWN = (
    "src.workers.trainer", "src.workers.reporter", "src.training.trl", "src.training.packed.engine",
)  # fmt: skip
# Trackers: without one a run goes on, and says so.
TRACKERS = ("wandb", "trackio", "torch.utils.tensorboard")
ON_A_GPU = ("bitsandbytes", "triton")
PACKAGE_OF = {
    "codespell_lib": "codespell",
    "pynvml": "nvidia-ml-py",
    "yaml": "PyYAML",
    "torch.utils.tensorboard": "tensorboard",
}


def tried(name: str) -> dict[str, Any]:
    """{"module", "version" or None, "problem": why it cannot be imported, or None}."""
    try:
        importlib.import_module(name)
        problem = None
    # Whatever a module raises when it is imported, a training would end with it.
    except BaseException as error:
        first = (str(error).strip().splitlines() or [""])[0][:300]
        problem = f"{type(error).__name__}: {first}" if first else type(error).__name__
    try:
        version = importlib.metadata.version(PACKAGE_OF.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {"module": name, "version": version, "problem": problem}


def cuda() -> dict[str, Any]:
    """Torch's version of CUDA, or why it cannot use the GPU."""
    try:
        import torch

        problem = None if torch.cuda.is_available() else "torch finds no GPU that it can use"
        if torch.version.cuda is None:
            problem = f"torch {torch.__version__} is a build without CUDA"
        return {"module": "cuda", "version": torch.version.cuda, "problem": problem}
    except Exception as error:
        return {"module": "cuda", "version": None, "problem": str(error).strip()[:300]}


def main() -> NoReturn:
    on_gpu = sys.argv[1:] == ["--gpu"]
    # Libraries print on standard output, which is for the answer.
    answer = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # A launch imports Unsloth before the libraries that it patches.
    names = ("unsloth",) * on_gpu + LIBRARIES + TRACKERS + ON_A_GPU * on_gpu + OWN
    for name in names:
        print(json.dumps({"trying": name}), file=answer)
        print(json.dumps(tried(name)), file=answer)
    if on_gpu:
        print(json.dumps(cuda()), file=answer)
    answer.flush()
    leave(0)


if __name__ == "__main__":
    main()
