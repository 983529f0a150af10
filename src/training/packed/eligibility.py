"""Eligibility for the packed engine: what it can train, who may share a process, what `auto` takes.

Imports no torch: launcher, supervisor and panel ask before any library is loaded.
"""

from typing import Any, NamedTuple

from src.config import CHAT, RunConfig, affecting, get
from src.models.base_files import BaseFiles, BaseModelError
from src.models.multi_lora.shapes import config_problem, targets_problem
from src.paths import base_model


class EngineChoice(NamedTuple):
    """The engine of a run, and why `auto` leaves it to TRL."""

    packed: bool
    reason: str | None


def choose_engine(config: RunConfig) -> EngineChoice:
    """The engine that trains `config` on this machine. Imports torch for `auto` alone."""
    if config.engine != "auto":
        return EngineChoice(config.engine == "packed", None)
    # The first training of a base on the hub downloads it; its shape must be known before.
    files_of(config).download()
    problem = refusal(config)
    return EngineChoice(problem is None, problem)


def files_of(config: RunConfig) -> BaseFiles:
    """The files of a run's base model."""
    return BaseFiles(base_model(config.model.name), config.model.revision)


def shared_settings(config: RunConfig) -> dict[str, Any]:
    """The settings, by name, in which all runs of one pack must agree."""
    return {name: get(config, name) for name in sorted(affecting("pack"))} | {
        "model.name": base_model(config.model.name),
        "lora.target_modules": tuple(sorted(config.lora.target_modules or ())),
        # They end their answers with another token.
        "data.template": CHAT if config.data.template == CHAT else "raw",
    }


def pack_key(config: RunConfig) -> tuple[Any, ...]:
    """Equal for queued runs that may be given to one process."""
    return tuple(shared_settings(config).values())


def longest_row(config: RunConfig) -> int:
    """Tokens that no row of a run exceeds, an answer that is decoded included."""
    # By default an answer has as much room as the longest expected one, and 8 tokens more.
    room = config.evaluation.max_new_tokens or config.model.max_length + 8
    return config.model.max_length + room


def packed_problems(config: RunConfig) -> dict[str, str]:
    """A sentence for each setting that the packed engine cannot follow: {setting: sentence}.

    The shape of a base model on the hub is seen once its config.json is on this machine.
    """
    problems = {}
    try:
        base = files_of(config).config
    except BaseModelError:  # said of model.name
        base = {}
    if base:
        targets = config.lora.target_modules or ()
        if problem := config_problem(base, longest_row(config)):
            problems["engine"] = f"{problem}; engine trl has no such limits"
        elif problem := targets_problem(base["model_type"], targets):
            problems["lora.target_modules"] = f"{problem}; engine trl has no such limits"
    if config.model.load_in_4bit:
        problems["model.load_in_4bit"] = (
            "the packed engine has no 4-bit base; turn it off, or take engine trl"
        )
    if config.lora.bias != "none":
        problems["lora.bias"] = (
            f"the packed engine trains no biases; set it to none instead of {config.lora.bias}, or "
            "take engine trl"
        )
    if config.training.precision == "fp16":
        problems["training.precision"] = (
            "the packed engine does not scale losses for fp16; take auto or bf16, or engine trl"
        )
    if config.backend == "unsloth":
        problems["backend"] = (
            "the packed engine computes the base by itself, without Unsloth; take auto or peft, or "
            "engine trl"
        )
    return problems


def refusal(config: RunConfig) -> str | None:
    """Why the packed engine cannot train `config` on this machine, or None. Imports torch."""
    if problems := packed_problems(config):
        return "; ".join(f"{name}: {text}" for name, text in problems.items())
    from src.models import utils as machine

    if machine.resolve_precision(config.training.precision) == "fp16":
        return "the packed engine does not scale losses for fp16, and this GPU has no bf16"
    return None
