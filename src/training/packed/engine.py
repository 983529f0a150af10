"""The packed engine: many runs in one process over one frozen base, each the run that it would be
alone.

A run has a slot of the pack while it trains. It logs, evaluates, saves, stops early, fails and
ends by itself, and then the next trial takes its slot. What runs share is the time on the GPU.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from src.models.multi_lora.step import Options
from src.training.packed import files
from src.training.packed.batches import BatchBuilder
from src.training.packed.eligibility import refusal
from src.training.packed.prepare import RunReader, SharedBase
from src.training.packed.run import Outcome, PackedRun, Trial
from src.training.packed.scorer import Scorer, Scores, score_runs
from src.training.packed.slots import SYNC_INTERVAL_SECONDS, Slots, TrialQueue
from src.training.utils import TrainingError, TrainingResult

# Adapters that go through the base together. On a GPU more are not faster, and take memory; a CPU
# is busy with one, which then needs no padding to its neighbours' rows.
ADAPTERS_PER_PASS, ADAPTERS_PER_PASS_ON_A_CPU = 64, 1
CHECKPOINT_THREADS = 4


def load_libraries() -> None:
    """Import what a pack uses beside this module. After Unsloth, where a process has both."""
    import peft  # noqa: F401


def train_pack(
    trials: Iterable[Trial],
    *,
    slots: int | None = None,
    more: Callable[[], Trial | None] = lambda: None,
    ended: Callable[[Trial, Outcome], None] = lambda trial, outcome: None,
    options: Options | None = None,
) -> list[tuple[Trial, Outcome]]:
    """Train the trials, `slots` at a time, and those that `more` gives when a slot is free.

    Each is returned, and passed to `ended` at once, with its result or with the error that ended it
    alone. ModelError where the base itself cannot be packed. Out of GPU memory, the pack continues
    with half the slots.
    """
    return _Engine(list(trials), slots, more, ended, options).train()


def train_one(trial: Trial) -> TrainingResult:
    """Train a single run: a pack of one. Raises what ends it."""
    ((_, outcome),) = train_pack([trial])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


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
        self.trials, self.limit = trials, slots or trials[0].config.pack_size
        self.queue, self.ended = TrialQueue(trials, more), ended
        on_gpu = torch.cuda.is_available()
        self.options = options or Options(
            graphs=on_gpu,
            kernels=on_gpu,
            at_once=ADAPTERS_PER_PASS if on_gpu else ADAPTERS_PER_PASS_ON_A_CPU,
        )
        self.outcomes: list[tuple[Trial, Outcome]] = []
        if threads := os.environ.get("SPELLTUNE_THREADS"):
            torch.set_num_threads(int(threads))

    def train(self) -> list[tuple[Trial, Outcome]]:
        # Before the base is loaded: the trial that loads it must not be refused later.
        first = self.queue.next()
        while isinstance(first, Trial) and (why := refusal(first.config)):
            self._end(first, TrainingError(why))
            first = self.queue.next()
        if isinstance(first, Trial):
            self._load(first)
            self.queue.put_first(first)
            self._fill()
            while self.slots.runs:
                results = self._steps()
                if results is None:  # in a handler the error's traceback would keep the pack alive
                    self.slots.halve()
                    continue
                self._after(results)
                self._fill()
        return self.outcomes

    # Trials come and go.

    def _load(self, first: Trial) -> None:
        """Load the base that all runs share, and what works on it."""
        self.base = SharedBase.load(first.config, first.reporter)
        self.reader = RunReader(self.base)
        self.batches = BatchBuilder(self.base.tokenizer.pad_token_id, graphs=self.options.graphs)
        self.scorer = Scorer(
            self.base.frozen,
            self.base.tokenizer,
            self.base.vocabulary.context_tokens,
            self.options,
        )
        self.slots = Slots(
            self.base,
            self.queue,
            count=min(len(self.trials), self.limit),
            limit=self.limit,
            rank=max(trial.config.lora.r for trial in self.trials),
            dropout=any(trial.config.lora.dropout for trial in self.trials),
            options=self.options,
        )

    def _fill(self) -> None:
        """Give every free slot the next trial, and score those that are new."""
        filled = True
        while filled:  # again where a new run is over before its first step
            self.slots.fit()
            filled = False
            while len(self.slots.runs) < self.slots.count and (item := self.queue.next()):
                run = item if isinstance(item, PackedRun) else self._prepare(item)
                if run is not None:
                    self.slots.seat(run)
                    filled = True
            # A run may have lost its slot again, out of memory.
            self._begin([run for run in self.slots.runs if not run.begun])

    def _prepare(self, trial: Trial) -> PackedRun | None:
        """Read a trial's data and its adapter; None if that ended it."""
        try:
            run = self.reader.read(trial)
            if trial.resume_from is None:
                run.state = files.fresh_state(self.base.initial_weights(run), type(run.optimizer))
            else:
                run.policy.resume(trial.resume_from)
                run.state = files.read_state(self.base, run, trial.resume_from)
            return run
        # As wide as in `_alone`.
        except Exception as error:
            self._end(trial, error)
            return None

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        self.outcomes.append((trial, outcome))
        self.ended(trial, outcome)

    def _alone(self, run: PackedRun, work: Callable[..., None], *arguments: Any) -> None:
        """Do one run's own work. Its error ends this run and leaves its neighbours alone."""
        try:
            work(*arguments)
        except torch.OutOfMemoryError:
            raise
        # As wide as the trainer's own: a solo run would die of it, and only that run.
        except Exception as error:
            self.slots.remove(run)
            self._end(run.trial, error)

    # Steps.

    def _steps(self) -> list[list[list[float]]] | None:
        """Take the steps until the next event or sync; their results (steps, 3, slots), or None if
        the GPU's memory ran out."""
        slots = self.slots
        count = min(run.policy.steps_until_event() for run in slots.runs)
        count = max(1, min(count, int(SYNC_INTERVAL_SECONDS / slots.step_seconds)))
        block = [self.batches.step(slots.runs, slots.count, offset) for offset in range(count)]
        results: list[list[list[float]]] | None = None
        with suppress(torch.OutOfMemoryError):
            slots.pack.prepare(step.shape for step in block)
            started = time.perf_counter()
            results = slots.pack.run(block).cpu().tolist()
            slots.step_seconds = (time.perf_counter() - started) / len(block)
        return results

    def _after(self, results: list[list[list[float]]]) -> None:
        """What follows from steps (steps, 3, slots): logs, evaluations, checkpoints, ends."""
        for run in list(self.slots.runs):
            own = [tuple(row[run.slot] for row in step) for step in results]
            self._alone(run, self._log, run, own)
        self._evaluate([run for run in self.slots.runs if run.policy.evaluation_due])
        self._save([run for run in self.slots.runs if run.policy.save_due])
        self._finish([run for run in self.slots.runs if run.policy.over])

    def _log(self, run: PackedRun, steps: Sequence[tuple[float, ...]]) -> None:
        """Count a run's steps, each (loss, gradient norm, 1 if its adapter took it), and log."""
        policy, every = run.policy, run.config.training.logging_steps
        # Before the steps: when they were computed, a stop asked for now was not known.
        policy.look_for_stop()
        for loss, norm, taken in steps:
            chosen, rate = run.chosen(run.step), run.rate(run.step)
            policy.step_taken()
            run.losses.append(loss)
            run.tokens += int((run.arrays.prompts[chosen] + run.arrays.answers[chosen]).sum())
            if not taken:
                of_norm = math.isfinite(loss)
                name, value = ("gradient norm", norm) if of_norm else ("training loss", loss)
                policy.diverged(f"the {name} is {value}")
                return
            if run.step == 1 or run.step % every == 0:
                mean = sum(run.losses) / len(run.losses)
                policy.logged(loss=mean, learning_rate=rate, grad_norm=norm, tokens=run.tokens)
                run.losses, run.tokens = [], 0
                if policy.early_stop:
                    return

    # Evaluation.

    def _begin(self, new: list[PackedRun]) -> None:
        """Report what runs use that just took their first slot, and make their first evaluation:
        the baseline of a fresh adapter, or the one that was owed at a resume."""
        for run in new:
            run.begun = True
            run.policy.begin(run.examples, **self.base.setup(run.config), slots=self.slots.count)
            if self.slots.shortage:
                run.reporter.warning(run.step, self.slots.shortage)
        for run in [run for run in new if run.policy.evaluation_due]:
            self._alone(run, run.policy.look_for_stop)
        self._evaluate([r for r in new if r in self.slots.runs and r.policy.evaluation_due])
        for run in new:
            run.reporter.phase("training")
            run.policy.throughput.restart()
        self._finish([run for run in new if run in self.slots.runs and run.policy.over])

    def _evaluate(self, runs: list[PackedRun]) -> None:
        for run, values in self._scored(runs, "validation", {run.slot: run.step for run in runs}):
            self._alone(run, run.policy.evaluated, values)

    def _scored(
        self, runs: list[PackedRun], split: str, steps: Mapping[int, int]
    ) -> list[tuple[PackedRun, dict[str, float] | None]]:
        """Score the adapters of these runs together, and report them as those of `steps`, by slot.
        None for runs that were stopped before their scores were there."""
        started = time.perf_counter()
        results: list[tuple[PackedRun, dict[str, float] | None]] = []

        def report(run: PackedRun, scores: Scores | None) -> None:
            values = scores and run.policy.scored(split, steps[run.slot], *scores)
            results.append((run, values))

        for run, scores in score_runs(self.scorer, self.slots.pack.stacks, runs, split):
            self._alone(run, report, run, scores)
        for run in self.slots.runs:
            # Nobody trained meanwhile.
            run.policy.throughput.pause(time.perf_counter() - started)
        return results

    # Files.

    def _save(self, runs: list[PackedRun]) -> None:
        """Write a checkpoint of each, several at once."""
        started = time.perf_counter()
        states = {run.slot: self.slots.pack.take(run.slot, run.rank) for run in runs}
        for run in runs:
            if not all(side.isfinite().all() for pair in states[run.slot].params for side in pair):
                self._alone(run, run.policy.diverged, "an adapter weight is not finite")
        runs = [run for run in runs if run in self.slots.runs and run.policy.save_due]
        with ThreadPoolExecutor(CHECKPOINT_THREADS) as pool:
            writing = [
                pool.submit(
                    run.policy.write_checkpoint,
                    partial(files.write_checkpoint, self.base, run, states[run.slot]),
                )
                for run in runs
            ]
        for run, written in zip(runs, writing, strict=True):
            self._alone(run, lambda run, written: run.policy.saved(written.result()), run, written)
        for run in self.slots.runs:
            run.policy.throughput.pause(time.perf_counter() - started)

    def _finish(self, runs: list[PackedRun]) -> None:
        """Keep each run's best adapter, score it, and end the run."""
        for run in runs:
            self._alone(run, self._keep_best, run)
        kept = {run.slot: run.policy.kept_step for run in runs}
        for split in ("validation", "test"):
            due = [r for r in runs if r in self.slots.runs and r.policy.final_due(split)]
            for run, values in self._scored(due, split, kept):
                run.policy.final_scores(values)
        for run in [run for run in runs if run in self.slots.runs]:
            self.slots.remove(run)
            self._end(run.trial, run.policy.result())

    def _keep_best(self, run: PackedRun) -> None:
        """Put the best adapter into the run's slot and into final/."""

        def load(checkpoint: Path) -> None:
            weights = files.read_adapter(self.base, checkpoint)
            state = files.fresh_state(weights, type(run.optimizer))
            self.slots.pack.put(run.slot, state, run.scale)

        def write(folder: Path) -> None:
            weights = self.slots.pack.take(run.slot, run.rank).params
            files.write_adapter(self.base, run, weights, folder)

        run.policy.keep_best(load, write)
