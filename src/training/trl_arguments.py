"""The arguments of each call that a RunConfig stands for, and a check that they were kept."""

from dataclasses import dataclass
from typing import Any

from src.config import RunConfig
from src.paths import base_model
from src.training.data_loaders import arguments_of
from src.training.utils import TrainingError


@dataclass(frozen=True)
class TrlPlan:
    """Everything that a training is built with, each part the arguments of one call."""

    backend: str
    data: dict[str, Any]  # load_splits
    vocabulary: dict[str, Any]  # load_vocabulary
    base: dict[str, Any]  # load_base
    lora: dict[str, Any]  # add_lora
    arguments: dict[str, Any]  # SFTConfig
    optimizer: tuple[str, dict[str, Any]]  # class in torch.optim, its arguments
    label_smoothing: float
    evaluation: dict[str, Any]  # score


def plan(config: RunConfig) -> TrlPlan:
    """The arguments of each library call for `config` on this machine. ModelError for a precision
    that it does not have."""
    from src.models.utils import resolve_precision  # with torch

    training, optimizer = config.training, config.optimizer
    precision = resolve_precision(training.precision)
    optimizers: dict[str, tuple[str, dict[str, Any]]] = {
        "adamw_torch": (
            "AdamW",
            {"betas": (optimizer.beta1, optimizer.beta2), "eps": optimizer.epsilon},
        ),
        "sgd": ("SGD", {"momentum": optimizer.momentum}),
    }
    # KeyError for another name: an optimizer must not be trained as one of these.
    torch_name, options = optimizers[optimizer.name]
    shared = {
        "max_length": config.model.max_length,
        "gradient_checkpointing": training.gradient_checkpointing,
        "seed": training.seed,
    }
    return TrlPlan(
        backend=config.backend,
        data=arguments_of(config),
        vocabulary={"name": base_model(config.model.name), "revision": config.model.revision},
        base={"load_in_4bit": config.model.load_in_4bit, "precision": precision, **shared},
        lora={
            "r": config.lora.r,
            "alpha": config.lora.alpha,
            "dropout": config.lora.dropout,
            "target_modules": config.lora.target_modules,
            "bias": config.lora.bias,
            **shared,
        },
        arguments={
            "max_steps": training.max_steps,
            "per_device_train_batch_size": training.per_device_train_batch_size,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "learning_rate": training.learning_rate,
            "max_grad_norm": training.max_grad_norm,
            "optim": optimizer.name,
            "weight_decay": optimizer.weight_decay,
            "adam_beta1": optimizer.beta1,
            "adam_beta2": optimizer.beta2,
            "adam_epsilon": optimizer.epsilon,
            "lr_scheduler_type": config.scheduler.name,
            "warmup_steps": config.scheduler.warmup_steps,
            "bf16": precision == "bf16",
            "fp16": precision == "fp16",
            "gradient_checkpointing": training.gradient_checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "seed": training.seed,
            "data_seed": training.seed,
            "logging_strategy": "steps",
            "logging_steps": training.logging_steps,
            "logging_first_step": True,
            # The filter reads the loss back from the GPU in every micro-batch, and hides a nan.
            "logging_nan_inf_filter": False,
            # Evaluation and saving are RunPolicy's.
            "eval_strategy": "no",
            "save_strategy": "no",
            # The rows come tokenised, checked and labelled; nothing is cut, packed or flattened.
            "max_length": config.model.max_length,
            "packing": False,
            "padding_free": False,
            "shuffle_dataset": False,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "remove_unused_columns": False,
            "dataloader_num_workers": 0,
            "dataloader_drop_last": False,
            # The loss is src.models.losses.answer_loss, which smooths by itself.
            "loss_type": "nll",
            "label_smoothing_factor": 0.0,
            "neftune_noise_alpha": None,
            # Else TRL has a base with experts compute its auxiliary loss, and generation fails.
            "router_aux_loss_coef": 0.0,
            "use_liger_kernel": False,
            "activation_offloading": False,
            "torch_compile": False,
            "auto_find_batch_size": False,
            "average_tokens_across_devices": False,
            "report_to": "none",
            "disable_tqdm": True,
            "push_to_hub": False,
        },
        optimizer=(torch_name, {"lr": training.learning_rate, **options}),
        label_smoothing=training.label_smoothing,
        evaluation={
            "batch_size": config.evaluation.batch_size,
            "max_new_tokens": config.evaluation.max_new_tokens,
            "precision": precision,
        },
    )


def verify_applied(asked: TrlPlan, trainer: Any, backend: str) -> dict[str, Any]:
    """The settings that the trainer holds as training begins, by the libraries' names.

    Raises TrainingError if a library changed one: Unsloth rewrites TRL's classes.
    """
    adapter = trainer.model.peft_config[trainer.model.active_adapter]
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    name, options = asked.optimizer
    groups = [group for group in optimizer.param_groups if group["params"]]
    found = {key: _plain(getattr(trainer.args, key)) for key in asked.arguments}
    wanted = {key: _plain(value) for key, value in asked.arguments.items()}
    found |= {
        "lora_r": adapter.r,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
        "lora_bias": adapter.bias,
        "adapter_dtype": sorted(
            {str(p.dtype) for p in trainer.model.parameters() if p.requires_grad}
        ),
        "optimizer_class": type(optimizer).__name__,
        "optimizer_parameters": sum(p.numel() for group in groups for p in group["params"]),
        # The scheduler has already lowered `lr` for warm-up; the peak is the initial one.
        **{f"optimizer_{key}": groups[0]["initial_lr" if key == "lr" else key] for key in options},
        "optimizer_weight_decay": max(group["weight_decay"] for group in groups),
    }
    wanted |= {
        "lora_r": asked.lora["r"],
        "lora_alpha": asked.lora["alpha"],
        "lora_dropout": asked.lora["dropout"],
        "lora_bias": asked.lora["bias"],
        "adapter_dtype": ["torch.float32"],
        "optimizer_class": name,
        "optimizer_parameters": sum(
            p.numel() for p in trainer.model.parameters() if p.requires_grad
        ),
        **{f"optimizer_{key}": value for key, value in options.items()},
        "optimizer_weight_decay": asked.arguments["weight_decay"],
    }
    changed = {key: (value, found[key]) for key, value in wanted.items() if found[key] != value}
    if changed:
        raise TrainingError(
            f"{backend} changed what was asked for: "
            + "; ".join(f"{key} {value!r} became {got!r}" for key, (value, got) in changed.items())
        )
    return {"trainer": found}


def _plain(value: Any) -> Any:
    """A value of transformers' arguments as it was given: enumerations by value, no reporters as
    `none`."""
    return "none" if value == [] else getattr(value, "value", value)
