"""Files of packed runs: what the TRL engine writes, under its names and in its formats."""

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from src.config import RunConfig
from src.models.multi_lora.adapters import LoraPair, from_peft, to_peft, zeros_like
from src.models.multi_lora.optimizer import Optimizer
from src.models.multi_lora.snapshot import Snapshot, SnapshotRow
from src.models.multi_lora.step import AdapterState, Pack
from src.training.packed.run import PackedRun
from src.training.packed.shared_base import SharedBase
from src.training.packed.templates import (
    ADAPTER_CONFIG,
    TRAINER_STATE,
    templates,
    torch_states,
    write_file,
)
from src.training.utils import TrainingError


@dataclass(frozen=True)
class AdapterFiles:
    """The files of one adapter. It can be pickled, so that another process writes them."""

    numbers: SnapshotRow
    layer_names: Sequence[str]
    lora: Mapping[str, Any]  # fields of PEFT's configuration
    tokenizer: Mapping[str, bytes]  # the files beside the adapter
    cache_dir: Path | None  # see `templates`
    state: "TrainingState | None" = None  # of a checkpoint, which a training resumes from

    def write(self, folder: Path) -> None:
        """Write the adapter in PEFT's format, the tokenizer beside it, and what a checkpoint has
        more."""
        folder.mkdir(parents=True)
        adapter = self.numbers.read()
        tensors = to_peft(self.layer_names, adapter.params)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        write_file(ADAPTER_CONFIG, self.lora, folder, self.cache_dir)
        for name, content in self.tokenizer.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        if self.state is not None:
            self.state.write(adapter, folder, self.cache_dir)


@dataclass(frozen=True)
class TrainingState:
    """A run's training after a step, beside its adapter."""

    config: RunConfig
    optimizer: Optimizer
    step: int
    rate: float  # the learning rate of the next step
    epoch: float
    random: bytes  # the file of the random generators' state

    def write(self, adapter: AdapterState, folder: Path, cache_dir: Path | None) -> None:
        """Write optimizer, scheduler, random state and step as transformers' Trainer reads them."""
        training = self.config.training
        group, scheduler = torch_states(type(self.optimizer), cache_dir)
        torch.save(self._optimizer_state(adapter, group), folder / "optimizer.pt")
        torch.save(self._scheduler_state(scheduler), folder / "scheduler.pt")
        (folder / "rng_state.pth").write_bytes(self.random)
        values = {
            "global_step": self.step,
            "max_steps": training.max_steps,
            "epoch": self.epoch,
            "logging_steps": training.logging_steps,
            "train_batch_size": training.per_device_train_batch_size,
        }
        write_file(TRAINER_STATE, values, folder, cache_dir)

    def _optimizer_state(self, adapter: AdapterState, group: dict[str, Any]) -> dict[str, Any]:
        """The state of torch's optimizer over PEFT's parameters in PEFT's order."""
        states = [
            [side.t().contiguous() for pair in pairs for side in pair]
            for pairs in adapter.optimizer
        ]
        state = {
            index: self.optimizer.torch_state(self.step, tensors)
            for index, tensors in enumerate(zip(*states, strict=True))
        }
        rates = {"lr": self.rate, "initial_lr": self.config.training.learning_rate}
        group |= self.optimizer.torch_settings() | rates
        # transformers keeps a group for biases.
        biases = group | {"weight_decay": 0.0, "params": []}
        return {"state": state, "param_groups": [group | {"params": list(state)}, biases]}

    def _scheduler_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of torch's LambdaLR over these two groups."""
        # PyTorch writes the attributes of a factor that is no function, as transformers' are.
        factor: dict[str, Any] | None = None if self.config.scheduler.name == "constant" else {}
        return state | {
            "base_lrs": [self.config.training.learning_rate] * 2,
            "last_epoch": self.step,
            "_step_count": self.step + 1,
            "_last_lr": [self.rate] * 2,
            "lr_lambdas": [factor] * 2,
        }


def prepare_writing(cache_dir: Path | None) -> None:
    """Have ready, in this process, what takes time the first time that an adapter is written."""
    templates(cache_dir)


def save(base: SharedBase, run: PackedRun, snapshot: Snapshot, random_state: bytes) -> None:
    """Have a checkpoint of the run written with its adapter in a snapshot of this step."""
    step = run.step
    state = TrainingState(
        run.config, run.optimizer, step, run.rate(step), step / run.epoch_steps, random_state
    )
    run.policy.save(_files(base, run, snapshot, state).write)


def keep_best(base: SharedBase, pack: Pack, run: PackedRun) -> None:
    """Put the run's best adapter into its slot and into final/."""

    def load(checkpoint: Path) -> None:
        params = read_adapter(base, checkpoint)
        pack.put(run.slot, fresh_state(params, type(run.optimizer)), run.scale)

    write = None
    if not run.policy.is_saved:
        write = _files(base, run, Snapshot(pack, [run.slot])).write
    run.policy.keep_best(load, write)


def _files(
    base: SharedBase, run: PackedRun, snapshot: Snapshot, state: TrainingState | None = None
) -> AdapterFiles:
    """The files of the run's adapter as it is in a snapshot."""
    lora = run.config.lora
    fields = {
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": base.read.targets,
        "fan_in_fan_out": base.read.conv1d,
        "base_model_name_or_path": base.folder,
    }
    return AdapterFiles(
        snapshot.of(run.slot, run.rank),
        base.layer_names,
        fields,
        base.read.tokenizer_files,
        run.spec.cache_dir,
        state,
    )


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
