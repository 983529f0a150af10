"""One run of a pack: its RunSpec, and its state while it trains in a slot."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.config import RunConfig
from src.models.multi_lora.optimizer import make_optimizer
from src.models.multi_lora.step import AdapterState
from src.training.examples import Examples
from src.training.packed.arrays import Epoch, ExampleArrays, epoch_of
from src.training.run_policy import RunPolicy
from src.training.schedules import ENDLESS, schedule
from src.training.utils import Reporter, TrainingResult


@dataclass(frozen=True)
class RunSpec:
    """One run that waits for a slot, as `train.train` takes it."""

    config: RunConfig
    reporter: Reporter
    output_dir: Path
    checkpoints_dir: Path
    resume_from: Path | None = None
    cache_dir: Path | None = None  # folder of what later runs need not compute again


Outcome = TrainingResult | Exception
End = tuple[RunSpec, Outcome]


class StepRows(NamedTuple):
    """The rows of one step of a run."""

    chosen: np.ndarray  # (rows,) their indices
    tokens: int
    answer_tokens: int
    longest: int  # tokens of the longest one


@dataclass(eq=False)
class PackedRun:
    """A run with its examples and its adapter, in a slot or waiting for one."""

    spec: RunSpec
    examples: Examples
    arrays: ExampleArrays  # of the training split
    policy: RunPolicy
    slot: int = -1
    state: AdapterState | None = None  # while it has no slot
    begun: bool = False
    untrained: bool = False  # its adapter changes nothing: B is zero, as PEFT initializes it
    losses: list[float] = field(default_factory=list)  # since the last log, nats
    seconds: float = 0.0  # of steps since the last log

    def __post_init__(self) -> None:
        config = self.spec.config
        training, optimizer = config.training, config.optimizer
        self.reporter, self.config = self.spec.reporter, config
        self.batch = config.rows_per_step
        # Accumulation does not cross the end of an epoch, so its last step may be smaller.
        self.epoch_steps = config.steps_per_epoch(len(self.arrays.ids))
        self._epochs: dict[int, Epoch] = {}  # from that of the next step on, by their numbers
        self.rank, self.scale = config.lora.r, config.lora.alpha / config.lora.r
        self.factor = schedule(
            config.scheduler.name,
            warmup_steps=config.scheduler.warmup_steps,
            max_steps=training.max_steps,
            learning_rate=training.learning_rate,
        )
        self.optimizer = make_optimizer(
            optimizer.name, optimizer.model_dump(exclude={"name"}), training.max_grad_norm
        )

    @cached_property
    def steps_key(self) -> str:
        """Equal for runs that take the same steps for as long as both train: those that differ in
        `max_steps` alone, where that decides nothing before the end."""
        own = self.config.model_dump(mode="json", exclude={"name"})
        if self.config.scheduler.name in ENDLESS:
            del own["training"]["max_steps"]
        return json.dumps(own, sort_keys=True)

    @property
    def is_fresh(self) -> bool:
        """True before its first step, where it starts from no checkpoint."""
        return self.step == 0 and self.spec.resume_from is None

    @property
    def is_base(self) -> bool:
        """True while the adapter answers as the base model does."""
        return self.untrained and self.step == 0

    def rows_of(self, step: int) -> StepRows:
        """The rows of step `step` (from 0)."""
        number, index = divmod(step, self.epoch_steps)
        if number not in self._epochs:
            current = self.step // self.epoch_steps
            self._epochs = {n: epoch for n, epoch in self._epochs.items() if n >= current}
            self._epochs[number] = epoch_of(
                self.arrays, self.config.training.seed, number, self.batch
            )
        epoch = self._epochs[number]
        return StepRows(
            epoch.order[index * self.batch : (index + 1) * self.batch],
            epoch.tokens[index],
            epoch.answer_tokens[index],
            epoch.longest[index],
        )

    def rate(self, step: int) -> float:
        """The learning rate of step `step` (from 0)."""
        return float(self.config.training.learning_rate * self.factor(step))

    def log(
        self,
        steps: Sequence[tuple[float, ...]],
        seconds: float,
        memory: Mapping[str, float],
    ) -> None:
        """Count steps, each (loss, gradient norm, 1 if the adapter took it), and log. They took
        `seconds` together, as the clock goes from one read of the device to the next; `memory` is
        what the process uses then."""
        policy, every = self.policy, self.config.training.logging_steps
        # Before the steps: when they were computed, a stop asked for now was not known.
        policy.look_for_stop()
        for number, (loss, norm, taken) in enumerate(steps, start=1):
            tokens, rate = self.rows_of(self.step).tokens, self.rate(self.step)
            policy.step_taken()
            self.losses.append(loss)
            self.seconds += seconds / len(steps)
            policy.seen(tokens)
            if not taken:
                of_norm = math.isfinite(loss)
                name, value = ("gradient norm", norm) if of_norm else ("training loss", loss)
                policy.diverged(f"the {name} is {value}")
                return
            last = policy.over and number == len(steps)
            if last or self.step == 1 or self.step % every == 0:
                mean = sum(self.losses) / len(self.losses)
                policy.logged(
                    loss=mean, learning_rate=rate, grad_norm=norm, seconds=self.seconds,
                    memory=memory,
                )  # fmt: skip
                self.losses, self.seconds = [], 0.0
                if policy.early_stop:
                    return

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.policy.step
