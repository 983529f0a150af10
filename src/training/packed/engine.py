"""The packed engine: many trials in one process over one frozen base, each the run that it would be
alone.

A trial has a slot of the pack while it trains. It logs, evaluates, saves, stops early, fails and
ends by itself, and then the next trial takes its slot. What trials share is the time on the GPU.
"""

import os
import random
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from src.config import RunConfig
from src.models import spelling_model as spelling
from src.models import utils as machine
from src.models.losses import IGNORED
from src.models.multi_lora.adapters import Lora, adapter_config, first_weights, from_peft, to_peft
from src.models.multi_lora.base import FrozenBase, Ops, read_base
from src.models.multi_lora.decode import greedy_tokens, teacher_forced
from src.models.multi_lora.optimizer import Rule
from src.models.multi_lora.step import IDLE_REALS, REALS, AdapterState, Bucket, Options, Pack
from src.paths import base_model
from src.training import checkpointing, scoring
from src.training.data_loaders import Splits, load_splits
from src.training.early_stopping import Diverged, History, Rules, divergence, stopping_problems
from src.training.packed.eligibility import packed_problems
from src.training.sampling import Shuffled
from src.training.train import how_exact
from src.training.utils import Reporter, TrainingError, TrainingResult

# Adapters that go through the base together. On a GPU more are not faster, and take memory; a CPU
# is busy with one, which then needs no padding to its neighbours' rows.
AT_ONCE, AT_ONCE_ON_A_CPU = 64, 1
MANY = 256  # rows of a step, of all its adapters
MOST_LENGTHS = 8  # of rows as they are; after these, multiples of 8
SECONDS = 0.5  # of steps between two looks at what they found, and at who asked to stop
CACHE_BYTES = 2 * 2**30  # of keys and values while answers are decoded on a CPU


@dataclass(frozen=True)
class Trial:
    """One run of a pack: what `train.train` takes."""

    config: RunConfig
    reporter: Reporter
    output_dir: Path
    checkpoints_dir: Path
    resume_from: Path | None = None


Outcome = TrainingResult | Exception


def load_libraries() -> None:
    """Import what a pack is going to use beside this. After Unsloth, where a process has both."""
    import peft  # noqa: F401


def refusal(config: RunConfig) -> str | None:
    """Why this engine cannot train these settings on this machine, or None."""
    if problems := packed_problems(config):
        return "; ".join(f"{name}: {text}" for name, text in problems.items())
    if machine.resolve_precision(config.training.precision) == "fp16":
        return "the packed engine does not scale losses for fp16, and this GPU has no bf16"
    return None


def shared(config: RunConfig) -> dict[str, Any]:
    """What the trials of one pack must have in common."""
    return {
        "model": base_model(config.model.name),
        "revision": config.model.revision,
        "target_modules": config.lora.target_modules and sorted(config.lora.target_modules),
        "precision": machine.resolve_precision(config.training.precision),
        "optimizer": config.optimizer.name,
    }


def train_pack(
    trials: Iterable[Trial],
    *,
    slots: int | None = None,
    more: Callable[[], Trial | None] = lambda: None,
    ended: Callable[[Trial, Outcome], None] = lambda trial, outcome: None,
    options: Options | None = None,
) -> list[tuple[Trial, Outcome]]:
    """Train the trials, `slots` at a time, and those that `more` gives when a slot is free.

    Each comes back, and goes to `ended` at once, with its result or with the error that ended it
    alone. ModelError where the base itself cannot be packed. Out of GPU memory, it goes on with
    half the slots.
    """
    return _Engine(list(trials), slots, more, ended, options).train()


def train_one(trial: Trial) -> TrainingResult:
    """Train a single run: a pack of one. Raises what ends it."""
    ((_, outcome),) = train_pack([trial])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass(frozen=True)
class _Rows:
    """Training rows as arrays: ids (n, longest) right-padded, lengths of prompt and answer (n,)."""

    ids: np.ndarray
    prompts: np.ndarray
    answers: np.ndarray

    @staticmethod
    def of(rows: Sequence[scoring.Row], pad: int) -> "_Rows":
        ids = np.full((len(rows), max(map(len, rows))), pad, dtype=np.int32)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row.prompt_ids + row.answer_ids
        return _Rows(
            ids,
            np.array([len(row.prompt_ids) for row in rows]),
            np.array([len(row.answer_ids) for row in rows]),
        )

    def labelled(self, chosen: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the rows `chosen`, laid out with `length` tokens each: where each answer token is
        predicted, and the token."""
        counts = self.answers[chosen]
        row = np.repeat(np.arange(len(chosen)), counts)
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        place = self.prompts[chosen][row] + offset
        return row * length + place - 1, self.ids[chosen[row], place]


@dataclass(eq=False)
class _Run:
    """A trial in its slot."""

    trial: Trial
    rows: dict[str, list[scoring.Row]]
    arrays: _Rows
    identity: dict[str, Any]
    about: dict[str, Any]  # for reporter.used
    slot: int = -1
    step: int = 0
    state: AdapterState | None = None  # while it has no slot
    begun: bool = False
    stopped: bool = False
    early_stop: str | None = None
    evaluation_owed: bool = False
    best_values: dict[str, float] = field(default_factory=dict)
    best_before: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)  # since the last log
    tokens: int = 0  # since the last log
    clock: float = 0.0
    order: tuple[int, np.ndarray] | None = None  # of an epoch

    def __post_init__(self) -> None:
        config = self.trial.config
        training, optimizer = config.training, config.optimizer
        self.reporter, self.config = self.trial.reporter, config
        self.history = History(Rules(**config.early_stopping.model_dump()))
        self.last = training.max_steps
        self.batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
        # Accumulation does not cross the end of an epoch, so its last step may be smaller.
        self.epoch_steps = -(-len(self.arrays.ids) // self.batch)
        self.rank, self.scale = config.lora.r, config.lora.alpha / config.lora.r
        self.factor = schedule(config)
        self.rule = Rule(
            "sgd" if optimizer.name == "sgd" else "adamw",
            training.max_grad_norm,
            optimizer.weight_decay,
            optimizer.beta1,
            optimizer.beta2,
            optimizer.epsilon,
            optimizer.momentum,
        )

    def chosen(self, step: int) -> np.ndarray:
        """The rows of step `step` (from 0), in the order of the TRL engine."""
        epoch, index = divmod(step, self.epoch_steps)
        if self.order is None or self.order[0] != epoch:
            sampler = Shuffled(len(self.arrays.ids), self.config.training.seed)
            sampler.set_epoch(epoch)
            self.order = epoch, np.fromiter(sampler, dtype=np.int64)
        return self.order[1][index * self.batch : (index + 1) * self.batch]

    def rate(self, step: int) -> float:
        """The learning rate of step `step` (from 0)."""
        return float(self.config.training.learning_rate * self.factor(step))

    def until_event(self) -> int:
        """Steps to the next one after which this trial evaluates, saves or ends."""
        every = self.config.evaluation.eval_steps, self.config.checkpointing.save_steps
        return min(self.last - self.step, *(n - self.step % n for n in every))

    @property
    def over(self) -> bool:
        return self.stopped or bool(self.early_stop) or self.step >= self.last


def graph_length(longest: int, rows: int, known: Collection[int] = ()) -> int:
    """Tokens a row of a step on a GPU whose longest of so many rows has `longest`; `known` are the
    lengths of earlier steps.

    Each is a graph, which takes as long as hundreds of steps. The longest of many rows is nearly
    always the same, that of a few is not.
    """
    exact = longest in known or (rows >= MANY and len(known) < MOST_LENGTHS)
    return longest if exact else -(-longest // 8) * 8


def schedule(config: RunConfig) -> Callable[[int], float]:
    """The factor of the learning rate at each step (from 0), as transformers schedules it."""
    from transformers import get_scheduler

    training, scheduler = config.training, config.scheduler
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=training.learning_rate)
    made: Any = get_scheduler(scheduler.name, optimizer, scheduler.warmup_steps, training.max_steps)
    factor: Callable[[int], float] = made.lr_lambdas[0]
    return factor


class _Engine:
    def __init__(
        self,
        trials: list[Trial],
        slots: int | None,
        more: Callable[[], Trial | None],
        ended: Callable[[Trial, Outcome], None],
        options: Options | None,
    ):
        if not trials:
            raise TrainingError("a pack needs at least one trial")
        self.queue: deque[Trial | _Run] = deque(trials)
        self.most = slots or trials[0].config.pack_size
        self.slots = min(len(trials), self.most)
        self.more, self.ended = more, ended
        on_gpu = torch.cuda.is_available()
        self.options = options or Options(
            graphs=on_gpu, kernels=on_gpu, at_once=AT_ONCE if on_gpu else AT_ONCE_ON_A_CPU
        )
        self.key: dict[str, Any] = {}  # what all trials share: see `shared`
        self.rank = max(trial.config.lora.r for trial in trials)
        self.dropout = any(trial.config.lora.dropout for trial in trials)
        self.runs: list[_Run] = []
        self.outcomes: list[tuple[Trial, Outcome]] = []
        self.pack: Pack | None = None
        self.step_seconds = SECONDS  # as the last ones took
        self.shortage = ""  # what was told of the end of the memory
        self.answers: dict[int, int] = {}  # room for answer tokens, by length
        if threads := os.environ.get("SPELLTUNE_THREADS"):
            torch.set_num_threads(int(threads))
        self._splits = cache(load_splits)
        self._encoded: dict[tuple[Any, ...], Any] = {}

    def train(self) -> list[tuple[Trial, Outcome]]:
        # Before the base is loaded: the one that loads it must not be refused later.
        first = self._next()
        while isinstance(first, Trial) and (why := refusal(first.config)):
            self._end(first, TrainingError(why))
            first = self._next()
        if isinstance(first, Trial):
            self._load(first)
            self.queue.appendleft(first)
            self._fill()
        while self.runs:
            block, found = self._block(), None
            with suppress(torch.OutOfMemoryError):
                self._pack.prepare(bucket for bucket, *_ in block)
                started = time.perf_counter()
                found = self._pack.run(block).cpu().tolist()
                self.step_seconds = (time.perf_counter() - started) / len(block)
            if found is None:  # in a handler the error's traceback would keep the pack alive
                self._halve()
                continue
            self._after(found)
            self._fill()
        return self.outcomes

    @property
    def _pack(self) -> Pack:
        assert self.pack is not None
        return self.pack

    # Trials come and go.

    def _load(self, first: Trial) -> None:
        """The base that all trials share."""
        config, reporter = first.config, first.reporter
        self.key = shared(config)
        reporter.phase(f"loading {config.model.name}")
        name, precision = self.key["model"], self.key["precision"]
        self.vocabulary = spelling.load_vocabulary(name, revision=self.key["revision"])
        model = spelling.load_base(
            name,
            self.vocabulary,
            revision=self.key["revision"],
            load_in_4bit=False,
            max_length=config.model.max_length,
            precision=precision,
            backend="peft",
            gradient_checkpointing=False,
            seed=config.training.seed,
        )
        self.targets = spelling.resolve_targets(model, config.lora.target_modules)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.dtype = machine.dtype_of(precision)
        self.base: FrozenBase = read_base(model, self.targets, self.dtype)
        # What PEFT rounds a fresh adapter to.
        self.stored = model.dtype
        self.tokenizer = self.vocabulary.tokenizer
        self.sites = [site.name for site in self.base.sites]
        self.shapes = [(site.width_in, site.width_out) for site in self.base.sites]

    def _fill(self) -> None:
        """Give every free slot the next trial, and score those that are new."""
        self._fit()
        new = []
        while len(self.runs) < self.slots and (item := self._next()) is not None:
            run = item if isinstance(item, _Run) else self._prepare(item)
            if run is None:
                continue
            self._seat(run)
            new.append(run)
        # One may have lost its slot again to the end of the memory.
        self._begin([run for run in new if run in self.runs])

    def _fit(self) -> None:
        """Make slots for those that wait for one, up to as many as the pack may have; take them
        away where half are empty and nothing waits: a GPU computes empty ones too."""
        if self.pack is None:
            return
        while len(self.runs) + len(self.queue) < self.most and (trial := self.more()) is not None:
            self.queue.append(trial)
        wanted = min(self.most, len(self.runs) + len(self.queue))
        if wanted > self.slots or 0 < wanted <= self.slots // 2:
            self.slots = wanted
            self._rebuild()
            for run in self.runs:
                run.reporter.used({"slots": self.slots})

    def _next(self) -> "Trial | _Run | None":
        return self.queue.popleft() if self.queue else self.more()

    def _prepare(self, trial: Trial) -> _Run | None:
        """Read a trial's data and its adapter; None where that ended it."""
        try:
            return self._read(trial)
        # As wide as in `_alone`.
        except Exception as error:
            self._end(trial, error)
            return None

    def _read(self, trial: Trial) -> _Run:
        config, reporter = trial.config, trial.reporter
        if why := refusal(config):
            raise TrainingError(why)
        if wrong := stopping_problems(config.early_stopping):
            raise TrainingError("; ".join(f"{name}: {text}" for name, text in wrong.items()))
        mine = shared(config)
        if other := [name for name in mine if mine[name] != self.key[name]]:
            raise TrainingError(f"this trial has another {other[0]} than its pack")
        reporter.phase(f"reading {config.data.task}")
        data = config.data
        splits = self._splits(
            task=data.task, path=data.path, hub_id=data.hub_id, revision=data.revision
        )
        rows, arrays = self._rows(config, splits)
        identity = {
            "config": config.model_dump(),
            "data": splits.fingerprint,
            "tokenizer": self.vocabulary.fingerprint,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "versions": machine.versions(),
        }
        trainable = sum(sum(shape) for shape in self.shapes) * config.lora.r
        about = {
            "backend": "peft",
            "backend_note": None,
            "engine": "packed",
            "engine_note": None,
            "precision": self.key["precision"],
            "device": identity["device"],
            "threads": torch.get_num_threads(),
            "target_modules": self.targets,
            "rows": {split: len(encoded) for split, encoded in rows.items()},
            "rows_dropped_as_duplicates": splits.duplicates,
            "words_in_two_splits": splits.leaks,
            "longest_row_tokens": max(len(row) for encoded in rows.values() for row in encoded),
            "data_fingerprint": splits.fingerprint,
            "trainable_parameters": trainable,
            "parameters": self.parameters + trainable,
            "versions": identity["versions"],
        }
        run = _Run(trial, rows, arrays, identity, about)
        if trial.resume_from is None:
            weights = first_weights(
                self.shapes, rank=run.rank, seed=config.training.seed, dtype=self.stored
            )
            run.state = AdapterState(weights, _zeros(weights), _zeros(weights))
        else:
            self._resume(run, trial.resume_from)
        return run

    def _rows(
        self, config: RunConfig, splits: Splits
    ) -> tuple[dict[str, list[scoring.Row]], _Rows]:
        """The rows of each split, and those of training as arrays; trials of a pack share them."""
        limit, template = config.evaluation.max_rows, config.data.template
        length = config.model.max_length
        key = (splits.fingerprint, template, limit, length)
        if key not in self._encoded:
            validation = splits.validation
            if limit is not None and len(validation) > limit:
                # The same rows in every run, whatever its seed: runs are compared on them.
                validation = validation.sample(limit, random_state=0).sort_index()
            frames = {"train": splits.train, "validation": validation, "test": splits.test}
            rows = {
                split: scoring.encode(self.tokenizer, frame, template)
                for split, frame in frames.items()
            }
            for split, encoded in rows.items():
                scoring.check_lengths(
                    encoded, split, max_length=length, context=self.vocabulary.context_tokens
                )
            self._encoded[key] = rows, _Rows.of(rows["train"], self.tokenizer.pad_token_id)
        found: tuple[dict[str, list[scoring.Row]], _Rows] = self._encoded[key]
        return found

    def _seat(self, run: _Run) -> None:
        """Put a run into a free slot, in a larger pack where it needs one."""
        grown = max(self.rank, run.rank)
        dropout = self.dropout or run.config.lora.dropout > 0
        if self.pack is None or (grown, dropout) != (self.rank, self.dropout):
            self.rank, self.dropout = grown, dropout
            self._rebuild()
        taken = {other.slot for other in self.runs}
        free = [slot for slot in range(self.slots) if slot not in taken]
        if not free:  # the larger pack had no memory for as many
            self.queue.appendleft(run)
            return
        run.slot = free[0]
        assert run.state is not None
        self._pack.put(run.slot, run.state, run.scale)
        run.state = None
        self.runs.append(run)
        run.clock = time.perf_counter()

    def _rebuild(self) -> None:
        """A new pack of `slots` and `rank`, with the runs that have a slot; half as many slots
        where there is no memory for it. Who loses its slot waits for another."""
        for run in self.runs:
            if self.pack is not None:
                run.state = self.pack.take(run.slot, run.rank)
        self.pack, self.step_seconds = None, SECONDS
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        # Products of 16-bit numbers want ranks that are multiples of 8.
        rank = -(-self.rank // 8) * 8 if self.options.kernels else self.rank
        kind = "sgd" if self.key["optimizer"] == "sgd" else "adamw"
        with suppress(torch.OutOfMemoryError):
            self.pack = Pack(
                self.base, self.slots, rank, kind=kind, dropout=self.dropout, options=self.options
            )
        if self.pack is None:  # see `train`
            self._halve()
            return
        leaving, self.runs = self.runs[self.slots :], self.runs[: self.slots]
        self.queue.extendleft(reversed(leaving))
        for slot, run in enumerate(self.runs):
            assert run.state is not None
            run.slot = slot
            self.pack.put(slot, run.state, run.scale)
            run.state = None

    def _halve(self) -> None:
        """Go on with half the slots."""
        if self.slots == 1:
            raise torch.OutOfMemoryError(
                "the GPU has no memory for even one adapter's step, whose rows are all computed at "
                "once; engine trl takes them by micro-batches"
            )
        self.slots //= 2
        self.most = self.slots
        self.shortage = f"out of GPU memory: the pack goes on with {self.slots} at once"
        for run in self.runs:
            run.reporter.used({"slots": self.slots})
            run.reporter.warning(run.step, self.shortage)
        self._rebuild()

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        self.outcomes.append((trial, outcome))
        self.ended(trial, outcome)

    def _alone(self, run: _Run, work: Callable[..., None], *arguments: Any) -> None:
        """Do this run's own work. Its error ends this run and leaves its neighbours alone."""
        try:
            work(*arguments)
        except torch.OutOfMemoryError:
            raise
        # As wide as the trainer's own: a solo run would die of it, and only that run.
        except Exception as error:
            self.runs = [other for other in self.runs if other is not run]
            self._end(run.trial, error)

    # Steps.

    def _block(self) -> list[tuple[Bucket, torch.Tensor, torch.Tensor]]:
        """The steps that all runs take until the first of them has something to do."""
        count = min(run.until_event() for run in self.runs)
        count = max(1, min(count, int(SECONDS / self.step_seconds)))
        return [self._step(offset) for offset in range(count)]

    def _step(self, offset: int) -> tuple[Bucket, torch.Tensor, torch.Tensor]:
        """The step that is `offset` ahead, of every run."""
        chosen = [run.chosen(run.step + offset) for run in self.runs]
        lengths = [run.arrays.prompts[c] + run.arrays.answers[c]
                   for run, c in zip(self.runs, chosen, strict=True)]  # fmt: skip
        counts = [int(run.arrays.answers[c].sum())
                  for run, c in zip(self.runs, chosen, strict=True)]  # fmt: skip
        # The last token of a row is only predicted, never read.
        length, answers = int(max(map(np.max, lengths))) - 1, max(counts)
        if self.options.graphs:
            length = graph_length(length, sum(map(len, chosen)), known=self.answers)
            answers = max(-(-answers // 64) * 64, self.answers.get(length, 0))
            self.answers[length] = answers
        rows = max(run.batch for run in self.runs) if self.options.graphs else max(map(len, chosen))
        bucket = Bucket(rows, length, answers)
        ids = np.full((self.slots, rows, length), self.tokenizer.pad_token_id, dtype=np.int32)
        wanted = np.zeros((self.slots, answers), dtype=np.int32)
        targets = np.full((self.slots, answers), IGNORED, dtype=np.int32)
        keys = np.zeros((self.slots, 1), dtype=np.int32)
        reals = np.tile(np.array(IDLE_REALS, dtype=np.float64), (self.slots, 1))
        for run, mine, own, count in zip(self.runs, chosen, lengths, counts, strict=True):
            at, config = run.slot, run.config
            width = min(int(own.max()), length)
            ids[at, : len(mine), :width] = run.arrays.ids[mine, :width]
            wanted[at, :count], targets[at, :count] = run.arrays.labelled(mine, length)
            step = run.step + offset
            keys[at] = (config.training.seed * 1_000_003 + step) & 0x7FFFFFFF
            row = run.rule.row(step + 1, run.rate(step))
            reals[at] = (*row, 1 / count, config.training.label_smoothing, config.lora.dropout)
            assert reals.shape[1] == len(REALS)
        parts = ids.reshape(self.slots, -1), wanted, targets, keys
        return bucket, torch.from_numpy(np.concatenate(parts, 1)), torch.from_numpy(reals)

    def _after(self, found: list[list[list[float]]]) -> None:
        """What follows from steps (steps, 3, slots): logs, evaluations, checkpoints, ends."""
        for run in list(self.runs):
            mine = [tuple(row[run.slot] for row in step) for step in found]
            self._alone(run, self._absorb, run, mine)
        going = [run for run in self.runs if not run.stopped and not run.early_stop]
        diverged = [run for run in self.runs if run.early_stop]
        due = [r for r in going if r.step >= r.last or r.step % r.config.evaluation.eval_steps == 0]
        for run in due:
            run.evaluation_owed = True
        for run, values in self._scored(due, "validation"):
            self._alone(run, self._judge, run, values)
        self._save(
            [
                run
                for run in self.runs
                if run not in diverged
                and (
                    run.over
                    or run.step % run.config.checkpointing.save_steps == 0
                    or run.history.best_step == run.step
                )
            ]
        )
        self._finish([run for run in self.runs if run.over])

    def _absorb(self, run: _Run, steps: Sequence[tuple[float, ...]]) -> None:
        """Log what is to be logged of a run's steps: (loss, gradient norm, whether it took it)."""
        # Look first: what is asked for now was not yet known in these steps.
        run.stopped = run.reporter.stop_requested()
        every = run.config.training.logging_steps
        for loss, norm, taken in steps:
            chosen = run.chosen(run.step)
            rate = run.rate(run.step)
            run.step += 1
            run.losses.append(loss)
            run.tokens += int((run.arrays.prompts[chosen] + run.arrays.answers[chosen]).sum())
            if not taken:
                what = "gradient norm" if np.isfinite(loss) else "training loss"
                self._diverged(run, f"the {what} is {loss if what[0] == 't' else norm}")
                return
            if run.step == 1 or run.step % every == 0:
                now = time.perf_counter()
                values = {
                    "train/loss": sum(run.losses) / len(run.losses),
                    "lr": rate,
                    "grad_norm": norm,
                    "tokens_per_second": run.tokens / max(now - run.clock, 1e-9),
                    **machine.memory_gib(),
                }
                run.losses, run.tokens, run.clock = [], 0, now
                run.reporter.metrics(run.step, values)
                run.history.record(values)
                if why := divergence(run.history):
                    run.early_stop = f"early stopping: {why}"
                    return

    def _diverged(self, run: _Run, why: str) -> None:
        """Stop early where a criterion says so and a best adapter is there to go back to; else
        Diverged."""
        heals = run.config.supervision.self_heal
        rules = run.history.rules
        if rules.divergence_factor is None or heals or run.history.best_step is None:
            raise Diverged(
                f"{why} at step {run.step}: the training diverged; lower training.learning_rate or "
                "training.max_grad_norm"
            )
        run.early_stop = f"early stopping: {why}"

    # Evaluation.

    def _begin(self, new: list[_Run]) -> None:
        """The first words and scores of runs that just took their slot."""
        for run in new:
            if not run.begun:
                run.reporter.used({**run.about, "slots": self.slots})
                if self.shortage:
                    run.reporter.warning(run.step, self.shortage)
                run.reporter.metrics(run.step, machine.memory_gib())
        fresh = [run for run in new if not run.begun and run.trial.resume_from is None]
        owed = [run for run in new if not run.begun and run.evaluation_owed]
        for run in new:
            run.begun = True
        for run in fresh:
            self._alone(run, self._look, run)
        self._scored([r for r in fresh if r in self.runs and not r.stopped], "validation")
        for run, values in self._scored(owed, "validation"):
            self._alone(run, self._make_up, run, values)
        for run in new:
            run.reporter.phase("training")
            run.clock = time.perf_counter()
        self._finish([run for run in new if run.over and run in self.runs])

    def _look(self, run: _Run) -> None:
        run.stopped = run.reporter.stop_requested()

    def _make_up(self, run: _Run, values: dict[str, float]) -> None:
        """For an evaluation that a stop cut short before the resume."""
        self._judge(run, values)
        if run.history.best_step == run.step and run.trial.resume_from is not None:
            run.reporter.checkpoint(run.step, run.trial.resume_from, True)

    def _judge(self, run: _Run, values: dict[str, float]) -> None:
        """See whether an evaluation is the best so far and whether to go on."""
        run.evaluation_owed = False
        run.best_before = run.history.state()["best"]
        run.history.record(values)
        if run.history.evaluated(run.step):
            run.best_values = values
        if run.step < run.last and (why := run.history.verdict()):
            run.early_stop = f"early stopping: {why}"

    def _scored(
        self, runs: list[_Run], split: str, steps: dict[int, int] | None = None
    ) -> list[tuple[_Run, dict[str, float]]]:
        """Score the adapters of these runs together, and report it: at `steps` by slot, or at their
        own step. Nothing comes back for runs that were stopped before their scores were there."""
        started = time.perf_counter()
        prefix = "val" if split == "validation" else split
        found = []
        for run, (metrics, predictions) in self._scores(runs, split):
            values = {f"{prefix}/{name}": value for name, value in metrics.items()}
            step = run.step if steps is None else steps[run.slot]
            self._alone(run, _report, run, step, split, values, predictions)
            if run in self.runs:
                found.append((run, values))
        for run in self.runs:
            # Nobody trained meanwhile.
            run.clock += time.perf_counter() - started
        return found

    def _scores(
        self, runs: list[_Run], split: str
    ) -> list[tuple[_Run, tuple[dict[str, float], pd.DataFrame]]]:
        """Metrics and predictions of those runs that were not stopped meanwhile."""
        scorer = Scorer(self.base, self.tokenizer, self.vocabulary.context_tokens, self.options)
        found = []
        alike: dict[tuple[int, int | None], list[_Run]] = {}
        for run in runs:
            asked = run.config.evaluation
            alike.setdefault((asked.batch_size, asked.max_new_tokens), []).append(run)
        for (batch_size, max_new_tokens), group in alike.items():
            at_once = len(group)
            while group:
                part, waiting = group[:at_once], group[at_once:]
                try:
                    scores = scorer.score(
                        self._pack.products,
                        [(run.slot, run.rows[split]) for run in part],
                        batch_size=batch_size,
                        max_new_tokens=max_new_tokens,
                        progress=partial(_progress, part, split),
                        stop=partial(_all_stopped, part),
                    )
                except torch.OutOfMemoryError:
                    if at_once == 1:
                        raise
                    at_once = -(-at_once // 2)
                    torch.cuda.empty_cache()
                    continue
                if scores is None:
                    for run in part:
                        run.stopped = True
                else:
                    found += list(zip(part, scores, strict=True))
                group = waiting
        return found

    # Files.

    def _save(self, runs: list[_Run]) -> None:
        """Write a checkpoint of each, several files at once."""
        states = [self._pack.take(run.slot, run.rank) for run in runs]
        with ThreadPoolExecutor(4) as pool:
            waiting = [
                pool.submit(self._checkpoint, *pair) for pair in zip(runs, states, strict=True)
            ]
        for run, written in zip(runs, waiting, strict=True):
            self._alone(run, self._saved, run, written)

    def _saved(self, run: _Run, written: Any) -> None:
        try:
            path = written.result()
        except OSError as error:
            shutil.rmtree(run.trial.checkpoints_dir / checkpointing.STAGING, ignore_errors=True)
            text = f"no checkpoint at step {run.step}: {error}"
            if run.history.best_step == run.step:
                # What cannot be restored must not be called the best.
                run.history.restore(run.history.state() | {"best": run.best_before})
                run.history.without_better += 1
                text += "; its adapter was the best so far, and is not kept"
            run.reporter.warning(run.step, text)
            return
        run.reporter.checkpoint(run.step, path, run.history.best_step == run.step)
        asked = run.config.checkpointing
        for removed in checkpointing.retain(
            run.trial.checkpoints_dir,
            best_step=run.history.best_step,
            keep_last=asked.keep_last,
            max_gib=asked.max_gib,
        ):
            run.reporter.checkpoint_removed(removed)

    def _checkpoint(self, run: _Run, state: AdapterState) -> Path:
        """Write what the TRL engine writes, under its names and in its formats."""
        from transformers import get_scheduler
        from transformers.trainer_callback import TrainerControl, TrainerState

        staging = checkpointing.stage(run.trial.checkpoints_dir)
        folder = staging / f"checkpoint-{run.step}"
        self._adapter(run, state.weights, folder)
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
        path = checkpointing.commit(
            folder,
            checkpointing.step_dir(run.trial.checkpoints_dir, run.step),
            {
                "engine": "packed",
                "step": run.step,
                "best_values": run.best_values,
                "evaluation_owed": run.evaluation_owed,
                **run.history.state(),
                **run.identity,
            },
        )
        staging.rmdir()
        return path

    def _adapter(self, run: _Run, weights: list[Lora], folder: Path) -> None:
        """Write an adapter in PEFT's format, and the tokenizer beside it."""
        folder.mkdir(parents=True)
        tensors = to_peft(self.sites, weights)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        lora = run.config.lora
        adapter_config(
            rank=lora.r,
            alpha=lora.alpha,
            dropout=lora.dropout,
            targets=self.targets,
            conv1d=self.base.positions is not None,
            base=self.key["model"],
        ).save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))

    def _resume(self, run: _Run, checkpoint: Path) -> None:
        """Take over a checkpoint of either engine."""
        manifest = checkpointing.verify(checkpoint)
        exactness = how_exact(manifest, run.identity, checkpoint.name)
        if exactness.startswith("exact"):
            # The same arithmetic, but in stacks of another shape or in another engine.
            exactness = f"warm from {checkpoint.name}: in a pack"
        run.reporter.used({"resume": exactness})
        weights = self._weights(checkpoint)
        if weights[0].a.shape[1] != run.rank:
            raise TrainingError(
                f"{checkpoint.name} has rank {weights[0].a.shape[1]}, and lora.r is {run.rank}"
            )
        saved = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        moments = [saved["state"].get(index, {}) for index in range(2 * len(weights))]
        names = ("momentum_buffer",) if run.rule.kind == "sgd" else ("exp_avg", "exp_avg_sq")
        if any(name not in moment for name in names for moment in moments):
            raise TrainingError(f"{checkpoint.name} has not the state of {run.rule.kind}")
        stacks = [
            [
                Lora(a[name].t(), b[name].t())
                for a, b in zip(moments[::2], moments[1::2], strict=True)
            ]
            for name in names
        ]
        run.state = AdapterState(
            weights, stacks[0], stacks[-1] if len(names) > 1 else _zeros(weights)
        )
        run.step = manifest["step"]
        run.history.restore(manifest)
        run.best_values = manifest["best_values"]
        run.evaluation_owed = manifest["evaluation_owed"]

    def _weights(self, checkpoint: Path) -> list[Lora]:
        try:
            return from_peft(self.sites, load_file(checkpoint / "adapter_model.safetensors"))
        except KeyError as error:
            raise TrainingError(f"{checkpoint} holds another adapter, without {error}") from None

    def _finish(self, runs: list[_Run]) -> None:
        """Keep each run's best adapter, score it, and end the run."""
        best = {}
        for run in runs:
            kept = run.step if run.history.best_step is None else run.history.best_step
            best[run.slot] = kept
            self._alone(run, self._keep, run, kept)
        there = [run for run in runs if run in self.runs]
        finals: dict[int, dict[str, float]] = {run.slot: dict(run.best_values) for run in there}
        whole = [run for run in there if not run.stopped]
        # Again where needed, so that the numbers are those of the adapter that was saved.
        again = [r for r in whole if best[r.slot] != r.step or not r.best_values]
        for run, values in self._scored(again, "validation", best):
            finals[run.slot] = dict(values)
        whole = [run for run in whole if not run.stopped and run in self.runs]
        for run, values in self._scored(whole, "test", best):
            finals[run.slot] |= values
        for run in there:
            if run not in self.runs:
                continue
            run.reporter.phase("")
            self.runs.remove(run)
            reason = f"stopped at step {run.step}" if run.stopped else run.early_stop
            self._end(
                run.trial,
                TrainingResult(run.stopped, reason, run.step, best[run.slot], finals[run.slot]),
            )

    def _keep(self, run: _Run, step: int) -> None:
        """Put the adapter of `step` into the slot and into final/."""
        if step == run.step:
            weights = self._pack.take(run.slot, run.rank).weights
        else:
            run.reporter.phase(f"restoring the adapter of step {step}")
            weights = self._weights(checkpointing.step_dir(run.trial.checkpoints_dir, step))
            empty = _zeros(weights)
            self._pack.put(run.slot, AdapterState(weights, empty, empty), run.scale)
        staging = checkpointing.stage(run.trial.output_dir)
        self._adapter(run, weights, staging / "final")
        checkpointing.replace_folder(staging / "final", run.trial.output_dir / "final")
        staging.rmdir()


def _progress(runs: list[_Run], split: str, done: int) -> None:
    for run in runs:
        run.reporter.phase(f"{split} {done:,} of {len(run.rows[split]):,}")


def _all_stopped(runs: list[_Run]) -> bool:
    """Whether nobody waits for these scores: one that waits has its neighbours' too."""
    return not any(_waits(run) for run in runs)


def _waits(run: _Run) -> bool:
    try:
        return not run.reporter.stop_requested()
    except RuntimeError:
        return False  # another attempt has it; it ends at its own next look


def _report(
    run: _Run, step: int, split: str, values: dict[str, float], predictions: pd.DataFrame
) -> None:
    run.reporter.metrics(step, values)
    run.reporter.evaluation(step, split, predictions)
    run.reporter.phase("training")


def _zeros(pairs: Sequence[Lora]) -> list[Lora]:
    return [Lora(torch.zeros_like(a), torch.zeros_like(b)) for a, b in pairs]


def _torch_optimizer(run: _Run, state: AdapterState) -> torch.optim.Optimizer:
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


@dataclass(frozen=True)
class Scorer:
    """`scoring.score` of several adapters at once."""

    base: FrozenBase
    tokenizer: Any
    context: int | None
    options: Options = field(default_factory=Options)

    @property
    def _ops(self) -> Ops:
        if not self.options.kernels:
            return Ops()
        from src.models.multi_lora import kernels

        return kernels.OPS

    def score(
        self,
        products: Callable[[list[int]], list[Lora]],
        members: Sequence[tuple[int, Sequence[scoring.Row]]],
        *,
        batch_size: int,
        max_new_tokens: int | None,
        progress: Callable[[int], None] = lambda done: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[tuple[dict[str, float], pd.DataFrame]] | None:
        """Metrics and predictions of each member: a slot, whose stacks `products` gives, and rows;
        None when `stop` said so meanwhile. `progress` hears of rows done.

        Batches are those of `scoring.score`, longest rows first, because the room for an answer is
        a batch's own.
        """
        rows = [list(own) for _, own in members]
        orders = [sorted(range(len(r)), key=lambda i, r=r: len(r[i]), reverse=True) for r in rows]  # type: ignore[misc]
        log_p = [np.zeros(len(own)) for own in rows]
        predicted = [[""] * len(own) for own in rows]
        hits, tokens = [0] * len(rows), [0] * len(rows)
        budgets = [max_new_tokens or scoring.longest_answer(own) + 8 for own in rows]
        at_once = self._at_once(rows, batch_size, max(budgets, default=1))
        for first in range(0, len(members), at_once):
            group = range(first, min(first + at_once, len(members)))
            lora = products([members[index][0] for index in group])
            for start in range(0, max(len(rows[index]) for index in group), batch_size):
                if stop():
                    return None
                progress(start)
                chosen = [orders[index][start : start + batch_size] for index in group]
                # Members of the same data share their batches, which are laid out once.
                shared: dict[tuple[int, ...], list[scoring.Row]] = {}
                batches = [
                    shared.setdefault((id(members[i][1]), *c), [rows[i][at] for at in c])
                    for i, c in zip(group, chosen, strict=True)
                ]
                sums, counts, hit = self._forced(lora, batches)
                answers = self._answers(lora, batches, [budgets[index] for index in group])
                for place, (index, own) in enumerate(zip(group, chosen, strict=True)):
                    if not own:
                        continue
                    log_p[index][own] = sums[place][: len(own)]
                    hits[index] += int(hit[place])
                    tokens[index] += int(counts[place])
                    texts = scoring.texts_of(self.tokenizer, answers[place])
                    for at, text in zip(own, texts, strict=True):
                        predicted[index][at] = text
        return [
            scoring.summary(own, log_p[i].tolist(), predicted[i], hits=hits[i], tokens=tokens[i])
            for i, own in enumerate(rows)
        ]

    def _at_once(self, rows: Sequence[Sequence[scoring.Row]], batch_size: int, budget: int) -> int:
        """Adapters whose keys and values fit beside each other."""
        g = self.base.geometry
        longest = max((len(row.prompt_ids) for own in rows for row in own), default=1) + budget
        batch = min(batch_size, max(map(len, rows), default=1))
        numbers = 2 * len(self.base.layers) * g.kv_heads * g.head_width * longest * batch
        room = CACHE_BYTES
        if self.base.device.type == "cuda":
            room = torch.cuda.mem_get_info()[0] // 3
        return max(1, room // max(1, numbers * self.base.dtype.itemsize))

    def _forced(
        self, lora: list[Lora], batches: Sequence[Sequence[scoring.Row]]
    ) -> tuple[np.ndarray, list[int], np.ndarray]:
        """Sum of log p of each row (adapters, rows), answer tokens and hits of each adapter."""
        count = max(map(len, batches))
        length = max(len(row) for batch in batches for row in batch)
        answers = max(sum(len(row.answer_ids) for row in batch) for batch in batches)
        ids = np.full((len(batches), count, length), self.tokenizer.pad_token_id, dtype=np.int64)
        wanted = np.zeros((len(batches), answers), dtype=np.int64)
        targets = np.full((len(batches), answers), IGNORED, dtype=np.int64)
        owner = np.zeros((len(batches), answers), dtype=np.int64)
        tokens = []
        laid: dict[int, tuple[_Rows, tuple[np.ndarray, np.ndarray]]] = {}
        for k, batch in enumerate(batches):
            if not batch:
                tokens.append(0)
                continue
            if id(batch) not in laid:
                arrays = _Rows.of(batch, self.tokenizer.pad_token_id)
                laid[id(batch)] = arrays, arrays.labelled(np.arange(len(batch)), length)
            arrays, (places, labels) = laid[id(batch)]
            ids[k, : len(batch), : arrays.ids.shape[1]] = arrays.ids
            wanted[k, : len(places)], targets[k, : len(places)] = places, labels
            owner[k, : len(places)] = places // length
            tokens.append(len(places))
        place = self.base.device
        log_p, hits = teacher_forced(
            self.base,
            lora,
            *(torch.from_numpy(part).to(place) for part in (ids, wanted, targets)),
            ops=self._ops,
        )
        sums = np.zeros((len(batches), count))
        np.add.at(sums, (np.arange(len(batches))[:, None], owner), log_p.double().cpu().numpy())
        return sums, tokens, hits.sum(1).cpu().numpy()

    def _answers(
        self, lora: list[Lora], batches: Sequence[Sequence[scoring.Row]], budgets: Sequence[int]
    ) -> list[list[list[int]]]:
        """The decoded tokens of each row, up to EOS."""
        count = max(map(len, batches))
        longest = max(len(row.prompt_ids) for batch in batches for row in batch)
        eos = self.tokenizer.eos_token_id
        ids = np.full((len(batches), count, longest), self.tokenizer.pad_token_id, dtype=np.int64)
        lengths = np.ones((len(batches), count), dtype=np.int64)
        limits = np.zeros((len(batches), count), dtype=np.int64)
        first: dict[int, int] = {}
        for k, batch in enumerate(batches):
            if (same := first.setdefault(id(batch), k)) != k:
                ids[k], lengths[k] = ids[same], lengths[same]
            else:
                for index, row in enumerate(batch):
                    ids[k, index, : len(row.prompt_ids)] = row.prompt_ids
                    lengths[k, index] = len(row.prompt_ids)
            if batch:
                room = budgets[k]
                if self.context:
                    room = min(room, self.context - int(lengths[k, : len(batch)].max()))
                limits[k, : len(batch)] = max(room, 1)
        place = self.base.device
        tokens = greedy_tokens(
            self.base,
            lora,
            *(torch.from_numpy(part).to(place) for part in (ids, lengths, limits)),
            eos=eos,
            ops=self._ops,
        ).tolist()
        return [
            [
                answer[: answer.index(eos)] if eos in answer else answer
                for answer in own[: len(batch)]
            ]
            for own, batch in zip(tokens, batches, strict=True)
        ]
