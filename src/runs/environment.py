"""Environment variables and standard streams of the processes that Spelltune starts."""

import io
import os
import select
import sys
from typing import Any

from src.runs.machine import gpus, slot_count

# A run's processes inherit these and no others, so that no secret of the shell reaches a log.
ENVIRONMENT = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TZ",
        "TMPDIR",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "NETRC",
        # Address of the Ray cluster and the path of its token file; not the token itself.
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
    }
)
ENVIRONMENT_PREFIXES = (
    "SPELLTUNE_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "HF_",
    "WANDB_",
    "TORCH",
    "TRITON_",
    "UNSLOTH_",
    "XDG_",
    "LC_",
    "OMP_",
    "MKL_",
)


def child_environment(**extra: str) -> dict[str, str]:
    """The allowed part of this process's environment, with `extra` on top."""
    allowed = {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    }
    # The token marks the processes of one trainer; the W&B service ends with its own process.
    allowed.pop("SPELLTUNE_TOKEN", None)
    allowed.pop("WANDB_SERVICE", None)
    return allowed | extra


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
