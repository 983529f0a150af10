"""Where a run may train: a slot for each GPU, and one on a machine without.

A slot is a lock file; whoever holds it may train.
"""

import contextlib
import os
import socket
from pathlib import Path

from src import paths


def gpus() -> dict[str, str]:
    """NVIDIA GPUs that a run may use: {CUDA_VISIBLE_DEVICES value: "NVIDIA H200, 139.8 GiB"}; empty
    without a driver."""
    import pynvml  # only here: a machine without a GPU need not load it

    try:
        pynvml.nvmlInit()
        found = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            gib = pynvml.nvmlDeviceGetMemoryInfo(device).total / 2**30
            found[str(index)] = f"{pynvml.nvmlDeviceGetName(device)}, {gib:.1f} GiB"
    except pynvml.NVMLError:
        return {}
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if allowed is None else {i: found[i] for i in allowed.split(",") if i in found}


def slot_count() -> int:
    """Runs that may train at once: one per GPU, one on a machine without."""
    return max(1, len(gpus()))


def slot_lock(slot: int) -> Path:
    return paths.locks_dir() / f"slot-{slot}.lock"


def boot_id() -> str:
    """Changes with every boot of the machine: a pid from before it means nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def host() -> str:
    """Name of this machine, where several share one run table."""
    return socket.gethostname()


def memory_kills(pid: int) -> int:
    """How often the kernel has killed for memory in the control group of a process or, where the
    group does not say, on the machine."""
    files = [Path("/proc/vmstat")]
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            root = Path("/sys/fs/cgroup")
            if controllers == "memory":
                files.insert(0, root / "memory" / group.lstrip("/") / "memory.oom_control")
            elif not controllers:
                files.insert(0, root / group.lstrip("/") / "memory.events")
    for file in files:
        with contextlib.suppress(OSError, KeyError, ValueError):
            return int(dict(x.split() for x in file.read_text().splitlines())["oom_kill"])
    return 0
