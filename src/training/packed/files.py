"""Files of packed runs: what the TRL engine writes, under its names and in its formats."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from src.models.multi_lora.adapters import (
    LoraPair,
    from_peft,
    to_peft,
    zeros_like,
)
from src.models.multi_lora.optimizer import Optimizer
from src.models.multi_lora.snapshot import Snapshot
from src.models.multi_lora.step import AdapterState, Pack
from src.models.spelling_model import lora_config
from src.training.packed.prepare import SharedBase
from src.training.packed.run import PackedRun
from src.training.utils import TrainingError


def write_adapter(base: SharedBase, run: PackedRun, params: list[LoraPair], folder: Path) -> None:
    """Write an adapter in PEFT's format, and the tokenizer beside it."""
    folder.mkdir(parents=True)
    tensors = to_peft(base.layer_names, params)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    lora = run.config.lora
    lora_config(
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=base.targets,
        bias="none",
        conv1d=base.frozen.positions is not None,
        base_model_name_or_path=base.folder,
        inference_mode=True,
    ).save_pretrained(str(folder))
    for name, content in base.tokenizer_files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def save(base: SharedBase, run: PackedRun, snapshot: Snapshot, random_state: bytes) -> None:
    """Have a checkpoint of the run written with its adapter in a snapshot of this step."""
    step, slot = run.step, run.slot

    def write(folder: Path) -> None:
        state = snapshot.read(slot, run.rank)
        write_adapter(base, run, state.params, folder)
        _write_training_state(run, step, state, random_state, folder)

    run.policy.save(write)


def keep_best(base: SharedBase, pack: Pack, run: PackedRun) -> None:
    """Put the run's best adapter into its slot and into final/."""
    slot = run.slot
    kept = Snapshot(pack, [slot])

    def load(checkpoint: Path) -> None:
        nonlocal kept
        params = read_adapter(base, checkpoint)
        pack.put(slot, fresh_state(params, type(run.optimizer)), run.scale)
        kept = Snapshot(pack, [slot])

    def write(folder: Path) -> None:
        write_adapter(base, run, kept.read(slot, run.rank).params, folder)

    run.policy.keep_best(load, write)


def random_state() -> bytes:
    """The file that keeps the state of this process's random generators, as transformers' Trainer
    writes it: pickled once for the checkpoints of all runs."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.random.get_rng_state()
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _write_training_state(
    run: PackedRun, step: int, state: AdapterState, random_state: bytes, folder: Path
) -> None:
    """Write optimizer, scheduler, random state and step as transformers' Trainer reads them."""
    from transformers import get_scheduler
    from transformers.trainer_callback import TrainerControl, TrainerState

    config = run.config
    optimizer = _torch_optimizer(run, step, state)
    scheduler: Any = get_scheduler(
        config.scheduler.name, optimizer, config.scheduler.warmup_steps, config.training.max_steps
    )
    rate = run.rate(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    scheduler.last_epoch, scheduler._step_count = step, step + 1
    scheduler._last_lr = [rate] * len(optimizer.param_groups)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    (folder / "rng_state.pth").write_bytes(random_state)
    TrainerState(
        global_step=step,
        max_steps=config.training.max_steps,
        epoch=step / run.epoch_steps,
        logging_steps=config.training.logging_steps,
        train_batch_size=config.training.per_device_train_batch_size,
        # Annotated as a list, and a dict once it is made.
        stateful_callbacks={"TrainerControl": TrainerControl().state()},  # type: ignore[arg-type]
    ).save_to_json(str(folder / "trainer_state.json"))


def read_adapter(base: SharedBase, checkpoint: Path) -> list[LoraPair]:
    """The adapter of a checkpoint of either engine."""
    try:
        return from_peft(base.layer_names, load_file(checkpoint / "adapter_model.safetensors"))
    except KeyError as error:
        raise TrainingError(f"{checkpoint} holds another adapter, without {error}") from None


def read_state(base: SharedBase, run: PackedRun, checkpoint: Path) -> AdapterState:
    """Adapter and optimizer state of a checkpoint of either engine."""
    params = read_adapter(base, checkpoint)
    if params[0].a.shape[1] != run.rank:
        raise TrainingError(
            f"{checkpoint.name} has rank {params[0].a.shape[1]}, and lora.r is {run.rank}"
        )
    saved = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
    # In PEFT's order: A and B of each layer.
    states = [saved["state"].get(index, {}) for index in range(2 * len(params))]
    names = run.optimizer.state_names
    if any(name not in state for name in names for state in states):
        name = run.config.optimizer.name
        raise TrainingError(f"{checkpoint.name} has no state of the optimizer {name}")
    pairs = list(zip(states[::2], states[1::2], strict=True))
    return AdapterState(
        params, tuple([LoraPair(a[name].t(), b[name].t()) for a, b in pairs] for name in names)
    )


def fresh_state(params: list[LoraPair], optimizer: type[Optimizer]) -> AdapterState:
    """An adapter whose optimizer has taken no step."""
    return AdapterState(params, tuple(zeros_like(params) for _ in optimizer.state_names))


def _torch_optimizer(run: PackedRun, step: int, state: AdapterState) -> torch.optim.Optimizer:
    """The run's optimizer after `step` as torch has it, over PEFT's parameters in PEFT's order."""
    params, *states = (
        [side.t().contiguous() for pair in pairs for side in pair]
        for pairs in (state.params, *state.optimizer)
    )
    groups = [
        {"params": params, "weight_decay": run.optimizer.weight_decay},
        # transformers keeps a group for biases.
        {"params": [], "weight_decay": 0.0},
    ]
    optimizer = run.optimizer.to_torch(groups, run.config.training.learning_rate)
    for parameter, *tensors in zip(params, *states, strict=True):
        optimizer.state[parameter] = run.optimizer.torch_state(step, tensors)
    return optimizer
