"""The words of the form: which settings stand first, and how to choose each."""

import re

from src.config import RunConfig, Setting
from src.runs.launch_notes import usual_rate

# {part of the form: settings that people change first}; all others are in one list.
FIRST: dict[str, tuple[str, ...]] = {
    "Model and data": ("name", "model.name", "data.task"),
    "Adapter": ("lora.r", "lora.alpha", "training.seed"),
    "Training": (
        "training.learning_rate",
        "training.max_steps",
        "training.per_device_train_batch_size",
        "scheduler.name",
        "scheduler.warmup_steps",
        "evaluation.eval_steps",
    ),
}

HINTS = {
    "name": "What the tables and charts call the run.",
    "model.name": "What gets the adapter. spelltune-tiny trains on two CPU cores.",
    "data.task": "What it learns to do.",
    "lora.r": "Size of the adapter: 8 to 64. More can learn more.",
    "lora.alpha": "Strength of the adapter: 1 to 2 times the rank.",
    "training.learning_rate": "How far a step goes. Too high diverges.",
    "training.seed": "What chance starts from. Compare judges three seeds or more.",
    "training.max_steps": "Length of the training: 300 to 3,000.",
    "training.per_device_train_batch_size": "16 to 64 at once. More is steadier and slower.",
    "scheduler.name": "How the rate falls after the warm-up: cosine or linear.",
    "scheduler.warmup_steps": "Steps in which the rate rises: 3% to 10% of all.",
    "evaluation.eval_steps": "Steps between scores: a tenth of all.",
}


def first_sentence(setting: Setting) -> tuple[str, str]:
    """The first sentence of a setting's help, and the rest of it."""
    first, *rest = re.split(r"(?<=[.;]) ", setting.help, maxsplit=1)
    return f"{first.rstrip('.;')}.", "".join(rest)


def hint(setting: Setting, config: RunConfig | None) -> str:
    """A line on what a setting does, and its usual range if it stands first."""
    name = setting.name
    if config and name == "lora.alpha":
        times = f"{config.lora.alpha / config.lora.r:.3g}"
        return f"Strength of the adapter: 1 to 2 times the rank (now {times})."
    rate = usual_rate(config) if config else None
    if rate and name == "training.learning_rate":
        return f"How far a step goes: {rate / 4:.1g} to {rate * 2:.1g}. Too high diverges."
    return HINTS.get(name) or first_sentence(setting)[0]


def first() -> tuple[str, ...]:
    """The settings that stand first."""
    return tuple(name for names in FIRST.values() for name in names)
