"""The words of the form: which settings stand first, what each is called, and how to choose it."""

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

# Labels of settings whose own names say too little, or want their unit.
LABELS = {
    "name": "Name of the run",
    "backend": "Library of the model",
    "pack_size": "Runs in one process",
    "model.revision": "Revision of the model",
    "model.load_in_4bit": "Base model in 4 bits",
    "model.max_length": "Longest row (tokens)",
    "lora.r": "Rank",
    "lora.dropout": "Dropout of the adapter",
    "lora.target_modules": "Adapted layers",
    "lora.bias": "Trained bias terms",
    "data.mix": "Mixture of tasks",
    "data.path": "File of own data",
    "data.hub_id": "Data set of the hub",
    "data.revision": "Revision of the data set",
    "data.right_words": "Share of right words",
    "data.separator": "Separator of letters",
    "data.template": "Template of the prompt",
    "data.phrasings": "Ways of asking",
    "data.held_out_phrasings": "Score by other ways of asking",
    "data.multi_token_words": "Only words of several tokens",
    "training.max_steps": "Steps",
    "training.per_device_train_batch_size": "Batch size (examples)",
    "training.gradient_accumulation_steps": "Gradient accumulation",
    "training.max_grad_norm": "Gradient clipping (L2 norm)",
    "training.logging_steps": "Log every (steps)",
    "optimizer.beta1": "Beta 1",
    "optimizer.beta2": "Beta 2",
    "scheduler.name": "Learning rate schedule",
    "scheduler.warmup_steps": "Warm-up (steps)",
    "evaluation.eval_steps": "Evaluate every (steps)",
    "evaluation.batch_size": "Batch size when scoring",
    "evaluation.max_rows": "Validation examples",
    "evaluation.max_new_tokens": "Longest answer (tokens)",
    "evaluation.suite_every": "Score suites every (evaluations)",
    "evaluation.suite_rows": "Examples of a suite",
    "evaluation.suite_seen_rows": "Score suites on trained words too",
    "checkpointing.save_steps": "Save every (steps)",
    "checkpointing.keep_last": "Checkpoints to keep",
    "checkpointing.max_gib": "Disk limit (GiB)",
    "early_stopping.metric": "Metric of the best checkpoint",
    "early_stopping.mode": "Better is",
    "early_stopping.min_delta": "Smallest improvement",
    "early_stopping.warmup_evaluations": "Evaluations before it may stop",
    "early_stopping.patience": "Patience (evaluations)",
    "early_stopping.target": "Stop at this value",
    "early_stopping.plateau_evaluations": "Plateau (evaluations)",
    "early_stopping.criteria": "Further criteria to stop",
    "supervision.standby_minutes": "Standby (minutes)",
    "tracking.mode": "Mode of the tracker",
    "tracking.project": "Project of the tracker",
    "tracking.group": "Group in the tracker",
    "tracking.tags": "Tags",
    "tracking.artifacts": "Upload the adapter",
    "tracking.tensorboard": "TensorBoard files",
}

HINTS = {
    "name": "Runs are found by it.",
    "model.name": "What gets the adapter. spelltune-tiny trains on two CPU cores.",
    "data.task": "What it learns to do.",
    "lora.r": "Size of the adapter: 8 to 64. More can learn more.",
    "lora.alpha": "Strength of the adapter: 1 to 2 times the rank.",
    "training.learning_rate": "How far a step goes. Too high diverges.",
    "training.seed": "Chance of this run. Three seeds make a verdict.",
    "training.max_steps": "Length of the training: 300 to 3,000.",
    "training.per_device_train_batch_size": "16 to 64 at once. More is steadier and slower.",
    "scheduler.name": "How the rate falls after the warm-up: cosine or linear.",
    "scheduler.warmup_steps": "Steps in which the rate rises: 3% to 10% of all.",
    "evaluation.eval_steps": "Steps between scores: a tenth of all.",
}


def label(setting: Setting) -> str:
    """`Learning rate` of training.learning_rate; a section's `name` is called like the section."""
    section, _, leaf = setting.name.rpartition(".")
    words = (section if leaf == "name" and section else leaf).replace("_", " ")
    return LABELS.get(setting.name, words[:1].upper() + words[1:])


def first_sentence(setting: Setting) -> tuple[str, str]:
    """The first sentence of a setting's help, and the rest of it."""
    first, *rest = re.split(r"(?<=[.;]) ", setting.help, maxsplit=1)
    return f"{first.rstrip('.;')}.", "".join(rest)


def hint(setting: Setting, config: RunConfig | None) -> str:
    """A line on what a setting does, and its usual range if it stands first."""
    name = setting.name
    if config and name == "lora.alpha":
        times = f"{config.lora.alpha / config.lora.r:.3g}"
        return f"Strength of the adapter: 1 to 2 times the rank. Now {times}."
    rate = usual_rate(config) if config else None
    if rate and name == "training.learning_rate":
        return f"How far a step goes: {rate / 4:.1g} to {rate * 2:.1g}. Too high diverges."
    return HINTS.get(name) or first_sentence(setting)[0]


def first() -> tuple[str, ...]:
    """The settings that stand first."""
    return tuple(name for names in FIRST.values() for name in names)
