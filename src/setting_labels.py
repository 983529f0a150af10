"""Names of settings for people: the labels of their fields, and the same within a sentence."""

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

# Within a line that names several settings, beside their values.
SHORT = {
    "scheduler.name": "schedule",
    "training.per_device_train_batch_size": "batch size",
    "training.gradient_accumulation_steps": "accumulation",
}


def label(name: str) -> str:
    """`Learning rate` of training.learning_rate; a section's `name` is called like the section."""
    section, _, leaf = name.rpartition(".")
    words = (section if leaf == "name" and section else leaf).replace("_", " ")
    return LABELS.get(name, words[:1].upper() + words[1:])


def inline(name: str) -> str:
    """The label as it stands within a sentence, without its unit: `learning rate`, `warm-up`."""
    if name in SHORT:
        return SHORT[name]
    words = label(name).partition(" (")[0]
    first = words.split()[0]
    # A name such as TensorBoard keeps its capital.
    return words if first[1:] != first[1:].lower() else words[:1].lower() + words[1:]
