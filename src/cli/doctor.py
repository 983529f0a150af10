"""This machine: what it can train, and the statuses of its runs."""

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from src import paths, store
from src.cli.options import AsJson
from src.cli.output import out, print_facts, print_json
from src.format import GIB, duration
from src.runs import imports, lease, locks, machine, meters, processes, reconciler, standby
from src.runs.timeouts import TIMEOUTS


def doctor(as_json: AsJson = False) -> None:
    """Show what this machine can train with: GPU, versions, backends, disk; and who uses the home.

    It imports what a launch would, in a process like a trainer's: each module has its version, or
    the reason why it cannot be imported.
    """
    document = diagnosis()
    if as_json:
        return print_json(document)
    print_facts((name, text_of(value)) for name, value in document.items())


def text_of(value: Any) -> str:
    if isinstance(value, dict):
        return "none" if not value else "\n".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


PACKAGES = [
    "torch",
    "transformers",
    "trl",
    "peft",
    "unsloth",
    "bitsandbytes",
    "datasets",
    "streamlit",
    "wandb",
]


def diagnosis() -> dict[str, Any]:
    gpus = list(machine.gpus().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    disk = shutil.disk_usage(meters.existing(paths.home()))
    why = store.why_not_wal()
    journal = f"DELETE mode: {why}" if why else "WAL"
    found = imports.try_imports()
    return {
        "python": platform.python_version(),
        "gpus": gpus or ["none: training runs on the CPU"],
        "slots": machine.slot_count(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "disk_free_gib": round(disk.free / GIB, 1),
        "home": str(paths.home()),
        "lease": lease_text(),
        "locks": locks_held(),
        "database": store.location(),
        "sqlite": f"{store.sqlite_driver.sqlite_version} ({journal})",
        "versions": {package: installed(package) for package in PACKAGES},
        "imports": {name: one.text for name, one in found.items()},
        "backends": {
            "peft": usable(found, "peft"),
            "unsloth": usable(found, "unsloth", on_gpu=bool(gpus)),
            "4-bit": usable(found, "bitsandbytes", on_gpu=bool(gpus)),
        },
        "a_launch_would_use": would_use(found, gpus),
        "standby_trainers": standby.state(),
    }


def lease_text() -> str:
    """The machine that trains in the home, since when, and when it last showed that it lives."""
    if (found := lease.describe()) is None:
        return "none: no machine has trained here yet"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"] or 0))
    began = f" since {since}" if found["since"] else ""
    silent = found["heartbeat_seconds"]
    old = "" if silent <= TIMEOUTS.lease else ", so any machine may take the home"
    return f"{found['host']}{began}, heartbeat {duration(silent)} ago{old}"


def locks_held() -> dict[str, str]:
    """{lock: its holder}, such as `slot-0: pid 123 (src.workers.supervisor), heartbeat 1 s ago`."""
    told = {}
    for name, (pid, silent) in locks.held(paths.locks_dir()).items():
        worker = processes.worker_with(pid)
        what = f" ({worker.value})" if worker else ""
        beat = "no heartbeat" if silent is None else f"heartbeat {duration(silent)} ago"
        told[name] = f"held by pid {pid}{what}, {beat}"
    return told


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def usable(found: Mapping[str, imports.Imported], module: str, *, on_gpu: bool = True) -> str:
    """`yes`, or why a backend cannot be used here; `on_gpu` is false where it would need one."""
    if not on_gpu:
        return "no: it needs an NVIDIA GPU"
    needed = [*imports.missing(found), *(found[m] for m in ("cuda", module) if m in found)]
    wrong = [one for one in needed if one.problem]
    return f"no: {wrong[0].module}: {wrong[0].problem}" if wrong else "yes"


def would_use(found: Mapping[str, imports.Imported], gpus: Sequence[str]) -> str:
    """The backend and device of a launch, or why none would train."""
    if missing := imports.missing(found):
        wrong = "; ".join(f"{one.module}: {one.problem}" for one in missing)
        return f"nothing, as training cannot import {wrong} (install requirements.txt again)"
    unsloth, cuda = (found.get(name) for name in ("unsloth", "cuda"))
    device = gpus[0] if gpus else "the CPU"
    if cuda and cuda.problem:
        device = f"the CPU, as {cuda.problem}"
    backend = "unsloth" if unsloth and not unsloth.problem and cuda and not cuda.problem else "peft"
    wandb = found["wandb"]
    without = f", without W&B ({wandb.problem})" if wandb.problem else ""
    return f"{backend} on {device}{without}"


def reconcile(as_json: AsJson = False) -> None:
    """Update the status of every run from the state of its processes; print those that changed."""
    changed = reconciler.reconcile()
    if as_json:
        return print_json(changed)
    for run_id in changed:
        out.print(run_id, highlight=False)
