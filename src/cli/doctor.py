"""This machine: what it can train, its panel, and the statuses of its runs."""

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from src import paths, store
from src.cli.options import AsJson
from src.cli.output import out, print_facts, print_json
from src.runs import machine, reconciler


def doctor(as_json: AsJson = False) -> None:
    """Show what this machine can train with: GPU, versions, backends, disk."""
    document = diagnosis()
    if as_json:
        return print_json(document)
    print_facts((name, text_of(value)) for name, value in document.items())


def text_of(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{k} {v}" for k, v in value.items())
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
    versions = {package: installed(package) for package in PACKAGES}
    gpus = list(machine.gpus().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = shutil.disk_usage(existing(paths.home()))
    why = store.why_not_wal()
    journal = f"DELETE mode: {why}" if why else "WAL"
    unsloth, four_bit = (needs_gpu(gpus, versions[name]) for name in ("unsloth", "bitsandbytes"))
    return {
        "python": platform.python_version(),
        "gpus": gpus or ["none: training runs on the CPU"],
        "slots": machine.slot_count(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "disk_free_gib": round(disk.free / 2**30, 1),
        "home": str(paths.home()),
        "database": store.location(),
        "sqlite": f"{store.sqlite_driver.sqlite_version} ({journal})",
        "versions": versions,
        "backends": {"peft": "yes", "unsloth": unsloth, "4-bit": four_bit},
        "a_launch_would_use": f"{'unsloth' if unsloth == 'yes' else 'peft'} on "
        + (gpus[0] if gpus else "the CPU"),
    }


def installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def needs_gpu(gpus: list[str], version: str) -> str:
    """`yes`, or why a package that needs an NVIDIA GPU cannot be used here."""
    if not gpus:
        return "no: it needs an NVIDIA GPU"
    return "yes" if version != "not installed" else "no: not installed"


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def panel(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8501,
) -> None:
    """Open the panel in the browser."""
    app = str(paths.ROOT / "app.py")
    os.chdir(paths.ROOT)  # Streamlit reads .streamlit/config.toml there
    os.execv(
        sys.executable,
        [sys.executable, "-m", "streamlit", "run", app, "--server.port", str(port)],
    )


def reconcile(as_json: AsJson = False) -> None:
    """Update the status of every run from the state of its processes; print those that changed."""
    changed = reconciler.reconcile()
    if as_json:
        return print_json(changed)
    for run_id in changed:
        out.print(run_id, highlight=False)
