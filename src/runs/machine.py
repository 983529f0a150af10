"""Where a run may train: a slot for each GPU, and one on a machine without.

A slot is a lock file; whoever holds it may train.
"""

import os
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


def environment(slot: int) -> dict[str, str]:
    """What tells a training process of its share of the machine."""
    cores = len(os.sched_getaffinity(0))
    found = {
        "PYTHONUNBUFFERED": "1",
        # Threads that spin while they wait take the cores from the panel and from other trainers:
        # two trainers on two cores are over ten times slower with them.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "SPELLTUNE_THREADS": str(max(1, cores // slot_count())),
    }
    if there := list(gpus()):
        found["CUDA_VISIBLE_DEVICES"] = there[slot]
    return found
