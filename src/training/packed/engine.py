"""The packed engine: many runs in one process over one frozen base, each the run that it would be
alone.

A run has a slot of the pack while it trains. It logs, evaluates, saves, stops early, fails and
ends by itself, and then the next trial takes its slot. What runs share is the time on the GPU.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from src.models import utils as machine
from src.models.multi_lora.step import AdapterState, Options
from src.training import checkpointing
from src.training.early_stopping import Diverged, divergence
from src.training.packed import files
from src.training.packed.batches import BatchBuilder
from src.training.packed.eligibility import refusal
from src.training.packed.prepare import RunReader, SharedBase
from src.training.packed.run import Outcome, PackedRun, Trial
from src.training.packed.scorer import Scorer
from src.training.packed.slots import SYNC_INTERVAL_SECONDS, Slots, TrialQueue
from src.training.run_policy import resume_exactness
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
        self.slots.fit()
        new = []
        while len(self.slots.runs) < self.slots.count and (item := self.queue.next()) is not None:
            run = item if isinstance(item, PackedRun) else self._prepare(item)
            if run is None:
                continue
            self.slots.seat(run)
            new.append(run)
        # One may have lost its slot again to the end of the memory.
        self._begin([run for run in new if run in self.slots.runs])

    def _prepare(self, trial: Trial) -> PackedRun | None:
        """Read a trial's data and its adapter; None if that ended it."""
        try:
            run = self.reader.read(trial)
            if trial.resume_from is None:
                run.state = files.fresh_state(self.base.initial_weights(run), type(run.optimizer))
            else:
                self._resume(run, trial.resume_from)
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
        count = min(run.until_event() for run in slots.runs)
        count = max(1, min(count, int(SYNC_INTERVAL_SECONDS / slots.step_seconds)))
        block = [self.batches.step(slots.runs, slots.count, offset) for offset in range(count)]
        results: list[list[list[float]]] | None = None
        with suppress(torch.OutOfMemoryError):
            slots.pack.prepare(step.shape for step in block)
            started = time.perf_counter()
            results = slots.pack.run(block).cpu().tolist()
            slots.step_seconds = (time.perf_counter() - started) / len(block)
        return results

    def _after(self, found: list[list[list[float]]]) -> None:
        """What follows from steps (steps, 3, slots): logs, evaluations, checkpoints, ends."""
        for run in list(self.slots.runs):
            mine = [tuple(row[run.slot] for row in step) for step in found]
            self._alone(run, self._absorb, run, mine)
        going = [run for run in self.slots.runs if not run.stopped and not run.early_stop]
        diverged = [run for run in self.slots.runs if run.early_stop]
        due = [r for r in going if r.step >= r.last or r.step % r.config.evaluation.eval_steps == 0]
        for run in due:
            run.evaluation_owed = True
        for run, values in self._scored(due, "validation"):
            self._alone(run, self._judge, run, values)
        self._save(
            [
                run
                for run in self.slots.runs
                if run not in diverged
                and (
                    run.over
                    or run.step % run.config.checkpointing.save_steps == 0
                    or run.history.best_step == run.step
                )
            ]
        )
        self._finish([run for run in self.slots.runs if run.over])

    def _absorb(self, run: PackedRun, steps: Sequence[tuple[float, ...]]) -> None:
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

    def _diverged(self, run: PackedRun, why: str) -> None:
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

    def _begin(self, new: list[PackedRun]) -> None:
        """The first words and scores of runs that just took their slot."""
        for run in new:
            if not run.begun:
                run.reporter.used({**run.about, "slots": self.slots.count})
                if self.slots.shortage:
                    run.reporter.warning(run.step, self.slots.shortage)
                run.reporter.metrics(run.step, machine.memory_gib())
        fresh = [run for run in new if not run.begun and run.trial.resume_from is None]
        owed = [run for run in new if not run.begun and run.evaluation_owed]
        for run in new:
            run.begun = True
        for run in fresh:
            self._alone(run, self._look, run)
        self._scored([r for r in fresh if r in self.slots.runs and not r.stopped], "validation")
        for run, values in self._scored(owed, "validation"):
            self._alone(run, self._make_up, run, values)
        for run in new:
            run.reporter.phase("training")
            run.clock = time.perf_counter()
        self._finish([run for run in new if run.over and run in self.slots.runs])

    def _look(self, run: PackedRun) -> None:
        run.stopped = run.reporter.stop_requested()

    def _make_up(self, run: PackedRun, values: dict[str, float]) -> None:
        """For an evaluation that a stop cut short before the resume."""
        self._judge(run, values)
        if run.history.best_step == run.step and run.trial.resume_from is not None:
            run.reporter.checkpoint(run.step, run.trial.resume_from, True)

    def _judge(self, run: PackedRun, values: dict[str, float]) -> None:
        """See whether an evaluation is the best so far and whether to go on."""
        run.evaluation_owed = False
        run.best_before = run.history.state()["best"]
        run.history.record(values)
        if run.history.evaluated(run.step):
            run.best_values = values
        if run.step < run.last and (why := run.history.verdict()):
            run.early_stop = f"early stopping: {why}"

    def _scored(
        self, runs: list[PackedRun], split: str, steps: dict[int, int] | None = None
    ) -> list[tuple[PackedRun, dict[str, float]]]:
        """Score the adapters of these runs together, and report it: at `steps` by slot, or at their
        own step. Nothing comes back for runs that were stopped before their scores were there."""
        started = time.perf_counter()
        prefix = "val" if split == "validation" else split
        found = []
        for run, (metrics, predictions) in self._scores(runs, split):
            values = {f"{prefix}/{name}": value for name, value in metrics.items()}
            step = run.step if steps is None else steps[run.slot]
            self._alone(run, _report, run, step, split, values, predictions)
            if run in self.slots.runs:
                found.append((run, values))
        for run in self.slots.runs:
            # Nobody trained meanwhile.
            run.clock += time.perf_counter() - started
        return found

    def _scores(
        self, runs: list[PackedRun], split: str
    ) -> list[tuple[PackedRun, tuple[dict[str, float], pd.DataFrame]]]:
        """Metrics and predictions of those runs that were not stopped meanwhile."""
        found = []
        alike: dict[tuple[int, int | None], list[PackedRun]] = {}
        for run in runs:
            asked = run.config.evaluation
            alike.setdefault((asked.batch_size, asked.max_new_tokens), []).append(run)
        for (batch_size, max_new_tokens), group in alike.items():
            at_once = len(group)
            while group:
                part, waiting = group[:at_once], group[at_once:]
                try:
                    scores = self.scorer.score(
                        self.slots.pack.stacks,
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

    def _save(self, runs: list[PackedRun]) -> None:
        """Write a checkpoint of each, several files at once."""
        states = [self.slots.pack.take(run.slot, run.rank) for run in runs]
        with ThreadPoolExecutor(CHECKPOINT_THREADS) as pool:
            waiting = [
                pool.submit(self._checkpoint, *pair) for pair in zip(runs, states, strict=True)
            ]
        for run, written in zip(runs, waiting, strict=True):
            self._alone(run, self._saved, run, written)

    def _saved(self, run: PackedRun, written: Any) -> None:
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

    def _checkpoint(self, run: PackedRun, state: AdapterState) -> Path:
        """Write a checkpoint of the run and return its folder."""
        staging = checkpointing.stage(run.trial.checkpoints_dir)
        folder = staging / f"checkpoint-{run.step}"
        files.write_adapter(self.base, run, state.params, folder)
        files.write_training_state(run, state, folder)
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

    def _resume(self, run: PackedRun, checkpoint: Path) -> None:
        """Take over a checkpoint of either engine."""
        manifest = checkpointing.verify(checkpoint)
        exactness = resume_exactness(manifest, run.identity, checkpoint.name)
        if exactness.startswith("exact"):
            # The same arithmetic, but in stacks of another shape or in another engine.
            exactness = f"warm from {checkpoint.name}: in a pack"
        run.reporter.used({"resume": exactness})
        run.state = files.read_state(self.base, run, checkpoint)
        run.step = manifest["step"]
        run.history.restore(manifest)
        run.best_values = manifest["best_values"]
        run.evaluation_owed = manifest["evaluation_owed"]

    def _finish(self, runs: list[PackedRun]) -> None:
        """Keep each run's best adapter, score it, and end the run."""
        best = {}
        for run in runs:
            kept = run.step if run.history.best_step is None else run.history.best_step
            best[run.slot] = kept
            self._alone(run, self._keep, run, kept)
        there = [run for run in runs if run in self.slots.runs]
        finals: dict[int, dict[str, float]] = {run.slot: dict(run.best_values) for run in there}
        whole = [run for run in there if not run.stopped]
        # Again where needed, so that the numbers are those of the adapter that was saved.
        again = [r for r in whole if best[r.slot] != r.step or not r.best_values]
        for run, values in self._scored(again, "validation", best):
            finals[run.slot] = dict(values)
        whole = [run for run in whole if not run.stopped and run in self.slots.runs]
        for run, values in self._scored(whole, "test", best):
            finals[run.slot] |= values
        for run in there:
            if run not in self.slots.runs:
                continue
            run.reporter.phase("")
            self.slots.remove(run)
            reason = f"stopped at step {run.step}" if run.stopped else run.early_stop
            self._end(
                run.trial,
                TrainingResult(run.stopped, reason, run.step, best[run.slot], finals[run.slot]),
            )

    def _keep(self, run: PackedRun, step: int) -> None:
        """Put the adapter of `step` into the slot and into final/."""
        if step == run.step:
            weights = self.slots.pack.take(run.slot, run.rank).params
        else:
            run.reporter.phase(f"restoring the adapter of step {step}")
            weights = files.read_adapter(
                self.base, checkpointing.step_dir(run.trial.checkpoints_dir, step)
            )
            state = files.fresh_state(weights, type(run.optimizer))
            self.slots.pack.put(run.slot, state, run.scale)
        staging = checkpointing.stage(run.trial.output_dir)
        files.write_adapter(self.base, run, weights, staging / "final")
        checkpointing.replace_folder(staging / "final", run.trial.output_dir / "final")
        staging.rmdir()


def _progress(runs: list[PackedRun], split: str, done: int) -> None:
    for run in runs:
        run.reporter.phase(f"{split} {done:,} of {len(run.rows[split]):,}")


def _all_stopped(runs: list[PackedRun]) -> bool:
    """Whether nobody waits for these scores: one that waits has its neighbours' too."""
    return not any(_waits(run) for run in runs)


def _waits(run: PackedRun) -> bool:
    try:
        return not run.reporter.stop_requested()
    except RuntimeError:
        return False  # another attempt has it; it ends at its own next look


def _report(
    run: PackedRun, step: int, split: str, values: dict[str, float], predictions: pd.DataFrame
) -> None:
    run.reporter.metrics(step, values)
    run.reporter.evaluation(step, split, predictions)
    run.reporter.phase("training")
