"""Environment variables and standard streams of the processes that Spelltune starts."""

import importlib.util
import io
import os
import re
import select
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from src import paths
from src.runs.machine import gpus, slot_count

# A run's processes inherit the environment of whoever launched it: what torch, CUDA, NCCL, the
# Hugging Face libraries and a cluster read from it cannot be listed. These are kept from them.

# Secrets that no training needs: a run's process may end up in a log, a core or a shared machine.
SECRET = re.compile(
    r"(^|_)(TOKENS?|KEYS?|PAT|(SSH)?PASS|JWT|AUTH(_CONFIG)?$)(_|$)|_PWD$|SECRET|PASSWORD|PASSWD"
    r"|PASSPHRASE|CREDENTIAL|APIKEY|CONNECTION_STRING",
    re.IGNORECASE,
)
AGENTS = ("SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO")  # who reaches them may use the keys
URL_WITH_PASSWORD = re.compile(r"^[\w+.-]+://[^/@\s]*:[^/@\s]+@")

# ... but those of the services that a run uses, and where a secret lies rather than what it is.
OWN_SERVICES = (
    "HF_",
    "HUGGING_FACE_",
    "HUGGINGFACE_",
    "WANDB_",
    "TRACKIO_",
    "SPELLTUNE_",
    "RAY_TLS_",
)
LOCATIONS = ("_PATH", "_FILE", "_DIR", "_proxy", "_PROXY")

# The services that people are told by, as URLs with secrets: no training needs them.
NOTIFY_URLS = "SPELLTUNE_NOTIFY_URLS"

# Of one process: the token marks the processes of one trainer, the W&B service ends with its own.
OF_ONE_PROCESS = ("SPELLTUNE_TOKEN", "WANDB_SERVICE")

# Of a launch by torchrun, accelerate or MPI around this process: a run is one process, which would
# wait for others or compute in another precision.
DISTRIBUTED = (
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
)  # fmt: skip
DISTRIBUTED_PREFIXES = (
    "TORCHELASTIC_",
    "ACCELERATE_",
    "OMPI_COMM_WORLD_",
    "MV2_COMM_WORLD_",
    "PMI_",
)

LARGE_LIBRARY = "transformers"  # each trainer imports it; it stands for how all were installed


def child_environment(**extra: str) -> dict[str, str]:
    """This process's environment without what a run's processes must not have, with a place for
    compiled modules where they would keep none, and with `extra` on top."""
    passed = {name: value for name, value in os.environ.items() if passes(name, value)}
    return passed | _bytecode() | extra


def _bytecode() -> dict[str, str]:
    """Variables with which processes keep their compiled modules: beside the libraries, or in the
    home where that folder cannot be written.

    Images of containers often set PYTHONDONTWRITEBYTECODE and bring libraries that are not
    compiled: then each process would compile torch and transformers anew, for 10 to 20 seconds.
    """
    if not os.environ.get("PYTHONDONTWRITEBYTECODE") or os.environ.get("PYTHONPYCACHEPREFIX"):
        return {}
    library = importlib.util.find_spec(LARGE_LIBRARY)
    if library is None or library.origin is None:
        return {}
    if Path(importlib.util.cache_from_source(library.origin)).exists():
        return {}
    values = {"PYTHONDONTWRITEBYTECODE": ""}
    if not os.access(Path(library.origin).parent, os.W_OK):
        values["PYTHONPYCACHEPREFIX"] = str(paths.cache_dir() / "bytecode")
    return values


def passes(name: str, value: str) -> bool:
    """True if a variable of the environment is handed on to the processes of runs."""
    if name in (NOTIFY_URLS, *OF_ONE_PROCESS, *DISTRIBUTED, *AGENTS) or name.startswith(
        DISTRIBUTED_PREFIXES
    ):
        return False
    if name.startswith(OWN_SERVICES) or name.endswith(LOCATIONS):
        return True
    return not (SECRET.search(name) or URL_WITH_PASSWORD.match(value))


def slot_environment(slot: int) -> dict[str, str]:
    """Variables that give a training process its share of the machine."""
    cores = len(os.sched_getaffinity(0))
    values = {
        "PYTHONUNBUFFERED": "1",
        # Spinning threads take cores from the panel and from other trainers: with them two trainers
        # on two cores are more than ten times slower.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "SPELLTUNE_THREADS": str(max(1, cores // slot_count())),
    }
    if devices := list(gpus()):
        values["CUDA_VISIBLE_DEVICES"] = devices[slot]
    return values


def parent_has_exited(seconds: float) -> bool:
    """Wait up to `seconds`; True once standard input is at EOF: the parent exited."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


class _Tolerant(io.FileIO):
    """A file that drops what cannot be written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def ignore_output_errors() -> None:
    """Ignore write errors of standard output and error: the log's disk may be full."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = _Tolerant(descriptor, "w", closefd=False)
        text = io.TextIOWrapper(io.BufferedWriter(file), errors="replace", line_buffering=True)
        setattr(sys, name, text)


def leave(code: int) -> NoReturn:
    """End this process at once: a thread that hangs, such as a tracker's, must not keep the GPU.

    What Python does at its exit beside waiting for threads and calling libraries is done: output is
    written, and temporary folders of libraries are removed.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    with suppress(Exception):  # of any library
        weakref.finalize._exitfunc()  # type: ignore[attr-defined]
    os._exit(code)
