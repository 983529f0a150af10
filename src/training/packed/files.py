"""Files of packed runs: what the TRL engine writes, under its names and in its formats."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from src.models.multi_lora.adapters import Lora, adapter_config, from_peft, to_peft
from src.models.multi_lora.step import AdapterState
from src.training.packed.prepare import SharedBase
from src.training.packed.run import PackedRun
from src.training.utils import TrainingError


def write_adapter(base: SharedBase, run: PackedRun, weights: list[Lora], folder: Path) -> None:
    """Write an adapter in PEFT's format, and the tokenizer beside it."""
    folder.mkdir(parents=True)
    tensors = to_peft(base.sites, weights)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    lora = run.config.lora
    adapter_config(
        rank=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=base.targets,
        conv1d=base.frozen.positions is not None,
        base=base.name,
    ).save_pretrained(str(folder))
    base.tokenizer.save_pretrained(str(folder))


def write_training_state(run: PackedRun, state: AdapterState, folder: Path) -> None:
    """Write optimizer, scheduler, random state and step as transformers' Trainer reads them."""
    from transformers import get_scheduler
    from transformers.trainer_callback import TrainerControl, TrainerState

    config = run.config
    optimizer = _torch_optimizer(run, state)
    scheduler: Any = get_scheduler(
        config.scheduler.name, optimizer, config.scheduler.warmup_steps, run.last
    )
    rate = run.rate(run.step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    scheduler.last_epoch, scheduler._step_count = run.step, run.step + 1
    scheduler._last_lr = [rate] * len(optimizer.param_groups)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    random_state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        random_state["cuda"] = torch.cuda.random.get_rng_state()
    torch.save(random_state, folder / "rng_state.pth")
    TrainerState(
        global_step=run.step,
        max_steps=run.last,
        epoch=run.step / run.epoch_steps,
        logging_steps=config.training.logging_steps,
        train_batch_size=config.training.per_device_train_batch_size,
        # Annotated as a list, and a dict once it is made.
        stateful_callbacks={"TrainerControl": TrainerControl().state()},  # type: ignore[arg-type]
    ).save_to_json(str(folder / "trainer_state.json"))


def read_adapter(base: SharedBase, checkpoint: Path) -> list[Lora]:
    """The adapter of a checkpoint of either engine."""
    try:
        return from_peft(base.sites, load_file(checkpoint / "adapter_model.safetensors"))
    except KeyError as error:
        raise TrainingError(f"{checkpoint} holds another adapter, without {error}") from None


def read_state(base: SharedBase, run: PackedRun, checkpoint: Path) -> AdapterState:
    """Adapter and moments of a checkpoint of either engine."""
    weights = read_adapter(base, checkpoint)
    if weights[0].a.shape[1] != run.rank:
        raise TrainingError(
            f"{checkpoint.name} has rank {weights[0].a.shape[1]}, and lora.r is {run.rank}"
        )
    saved = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
    moments = [saved["state"].get(index, {}) for index in range(2 * len(weights))]
    names = ("momentum_buffer",) if run.rule.kind == "sgd" else ("exp_avg", "exp_avg_sq")
    if any(name not in moment for name in names for moment in moments):
        raise TrainingError(f"{checkpoint.name} has no state of {run.rule.kind}")
    stacks = [
        [Lora(a[name].t(), b[name].t()) for a, b in zip(moments[::2], moments[1::2], strict=True)]
        for name in names
    ]
    return AdapterState(weights, stacks[0], stacks[-1] if len(names) > 1 else zeros_like(weights))


def zeros_like(pairs: Sequence[Lora]) -> list[Lora]:
    """Zeros in the shapes of an adapter: the moments of a fresh optimizer."""
    return [Lora(torch.zeros_like(a), torch.zeros_like(b)) for a, b in pairs]


def fresh_state(weights: list[Lora]) -> AdapterState:
    """An adapter whose optimizer has taken no step."""
    return AdapterState(weights, zeros_like(weights), zeros_like(weights))


def _torch_optimizer(run: PackedRun, state: AdapterState) -> torch.optim.Optimizer:
    """The run's optimizer as torch has it, over PEFT's parameters in PEFT's order."""
    rule, rate = run.rule, run.config.training.learning_rate
    sides = [
        [side.t().contiguous() for pair in pairs for side in pair]
        for pairs in (state.weights, state.first, state.second)
    ]
    groups = [
        {"params": sides[0], "weight_decay": rule.weight_decay},
        # transformers keeps a group for biases.
        {"params": [], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer
    if rule.kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=rule.momentum)
    else:
        betas = rule.beta1, rule.beta2
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, eps=rule.epsilon)
    for parameter, first, second in zip(*sides, strict=True):
        optimizer.state[parameter] = (
            {"momentum_buffer": first}
            if rule.kind == "sgd"
            else {"step": torch.tensor(float(run.step)), "exp_avg": first, "exp_avg_sq": second}
        )
    return optimizer
