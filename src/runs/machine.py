"""This machine: its GPUs, its slots (one per GPU, or one without any), host name and boot id.

A slot is a lock file; the process that holds it may train.
"""

import contextlib
import os
import socket
from pathlib import Path

import psutil

from src import paths, store
from src.format import GIB
from src.store.tables import ACTIVE, Run


def gpus() -> dict[str, str]:
    """NVIDIA GPUs that a run may use: {CUDA_VISIBLE_DEVICES value: "NVIDIA H200, 139.8 GiB"}; empty
    without a driver."""
    import pynvml  # lazily: a machine without a GPU need not load it

    try:
        pynvml.nvmlInit()
        devices = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            gib = pynvml.nvmlDeviceGetMemoryInfo(device).total / GIB
            devices[str(index)] = f"{pynvml.nvmlDeviceGetName(device)}, {gib:.1f} GiB"
    except pynvml.NVMLError:
        return {}
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return devices
    return {index: devices[index] for index in allowed.split(",") if index in devices}


def has_bf16(device: str) -> bool:
    """True if a device of `gpus` computes in bf16 natively: compute capability 8.0 (Ampere) on."""
    import pynvml

    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(device))
        return bool(pynvml.nvmlDeviceGetCudaComputeCapability(handle)[0] >= 8)
    except (pynvml.NVMLError, ValueError):
        return True  # unknown: the trainer decides


def free_memory() -> int:
    """Bytes of memory that are free on this machine, or in the container that bounds it."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        # A container's bound, which psutil does not know.
        most = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, most - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return free


def free_gpu_memory(slot: int) -> int | None:
    """Bytes of memory that are free on the GPU of a slot; None for a slot without one."""
    import pynvml

    if not (devices := list(gpus())):
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(devices[slot]))
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    except (pynvml.NVMLError, ValueError, IndexError):
        return None


def slot_count() -> int:
    """Number of processes that may train at once: one per GPU, one on a machine without any."""
    return max(1, len(gpus()))


def slot_lock(slot: int) -> Path:
    """Lock file of a slot."""
    return paths.locks_dir() / f"slot-{slot}.lock"


def boot_id() -> str:
    """Id that changes with every boot: a pid from an earlier boot means nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_at() -> float:
    """When this machine was started, or the container that this process is in."""
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(1).create_time())
    return float(psutil.boot_time())


def host() -> str:
    """Name of this machine among those that share a run table."""
    return socket.gethostname()


def is_here(of: str | None) -> bool:
    """True if the host of a row is this machine; None is what no other machine has taken."""
    return of in (None, host())


def active_here(session: store.Session) -> list[Run]:
    """The runs that have a slot of this machine, newest first."""
    return [run for run in store.list_runs(session, statuses=ACTIVE) if is_here(run.host)]


def memory_kills(pid: int) -> int:
    """Count of the kernel's OOM kills in the cgroup of a process, or on the machine if the cgroup
    does not count them."""
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
