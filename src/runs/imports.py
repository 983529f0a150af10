"""The libraries that a launch would import here, tried in a process like a trainer's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from src.runs import spawn
from src.runs.environment import slot_environment
from src.runs.machine import gpus

OPTIONAL = (
    "wandb",
    "trackio",
    "torch.utils.tensorboard",
    "unsloth",
    "bitsandbytes",
    "triton",
    "cuda",
)


@dataclass(frozen=True)
class Imported:
    """The import of one module: its version, or why it failed."""

    module: str
    version: str | None
    problem: str | None  # one line, None where it is imported
    ended_process: bool = False  # so that nothing after it was tried

    @property
    def text(self) -> str:
        """Its version, or why it cannot be imported."""
        return self.problem or self.version or "yes"


def try_imports() -> dict[str, Imported]:
    """{module: what came of its import}, for each that a launch on this machine would import."""
    arguments = ["--gpu"] if gpus() else []
    done = spawn.run(spawn.Worker.IMPORT_CHECK, "", *arguments, **slot_environment(0))
    found: dict[str, Imported] = {}
    last = "python"
    for line in done.stdout.splitlines():
        told = json.loads(line)
        last = told.get("trying", last)
        if "module" in told:
            found[told["module"]] = Imported(**told)
    if done.returncode:
        # It ended while it imported the last one, or before the first.
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        problem = f"ended the process: {lines[-1][:300]}"
        found[last] = Imported(last, None, problem, ended_process=True)
    return found


def missing(found: Mapping[str, Imported]) -> list[Imported]:
    """The modules that prevent a training here: needed ones that cannot be imported, and any that
    ends its process."""
    return [
        one
        for one in found.values()
        if one.ended_process or (one.problem and one.module not in OPTIONAL)
    ]
