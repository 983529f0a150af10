"""The packed engine: trains many runs in one process over one frozen base, each as if alone.

A run has a slot of the pack while it trains. It logs, evaluates, saves, stops early, fails and
ends independently of the others; then the next one takes its slot.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from src.models.multi_lora.snapshot import Snapshot
from src.models.multi_lora.step import ARITHMETIC, Options
from src.models.utils import memory_gib
from src.training.background import Background, Call, call_here
from src.training.base_scores import BaseScores
from src.training.packed import files
from src.training.packed.batches import BatchBuilder
from src.training.packed.ends import Ends
from src.training.packed.run import End, PackedRun, RunSpec
from src.training.packed.run_reader import RunReader
from src.training.packed.scorer import Scorer, score_alike
from src.training.packed.shared_base import SharedBase, refused
from src.training.packed.slots import SYNC_INTERVAL_SECONDS, RunQueue, Slots
from src.training.score_sheet import Scores
from src.training.threads import await_warm_up, set_threads_of_a_pack, start_warm_up
from src.training.throughput import TimeSpent
from src.training.utils import TrainingError, TrainingResult

# Adapters per forward pass. On a GPU more are not faster, and take memory; a CPU is busy with one,
# which then needs no padding to the others' rows.
ADAPTERS_PER_PASS, ADAPTERS_PER_PASS_ON_A_CPU = 64, 1

# Steps that are given to the GPU together: it computes them while the host lays out the next ones.
STEPS_OF_A_PART = 4


def train_pack(
    specs: Iterable[RunSpec],
    *,
    slots: int | None = None,
    more: Callable[[], RunSpec | None] = lambda: None,
    ended: Callable[[Sequence[End]], None] = lambda ends: None,
    wait: Callable[[], bool] = lambda: False,
    call: Call = call_here,
    options: Options | None = None,
) -> list[End]:
    """Train these runs, `slots` at a time, and those that `more` gives when a slot is free.

    Their files are written by functions that `call` calls, maybe in other processes.
    Each is returned with its result or with the error that ended it alone, and passed to `ended`
    with those that end at the same time. Once all have ended, `wait` returns True if `more` has
    others. ModelError where the base itself cannot be packed. Out of GPU memory, the pack continues
    with half the slots.
    """
    return _Engine(list(specs), slots, more, ended, wait, call, options).train()


def train_one(spec: RunSpec) -> TrainingResult:
    """Train a single run: a pack of one. Raises what ends it."""
    ((_, outcome),) = train_pack([spec])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class _Engine:
    def __init__(
        self,
        specs: list[RunSpec],
        slots: int | None,
        more: Callable[[], RunSpec | None],
        ended: Callable[[Sequence[End]], None],
        wait: Callable[[], bool],
        call: Call,
        options: Options | None,
    ):
        if not specs:
            raise TrainingError("a pack needs at least one run")
        self.specs, self.limit = specs, slots or specs[0].config.pack_size
        self.queue, self.wait, self.call = RunQueue(specs, more), wait, call
        on_gpu = torch.cuda.is_available()
        at_once = ADAPTERS_PER_PASS if on_gpu else ADAPTERS_PER_PASS_ON_A_CPU
        self.options = options or Options(
            graphs=on_gpu, kernels=on_gpu, flat=on_gpu, at_once=at_once
        )
        self.spent = TimeSpent()
        self.block_seconds = 0.0  # of the last steps, from their rows to their results
        self.background = Background()
        self.ends = Ends(self.background, ended)
        set_threads_of_a_pack()
        start_warm_up()

    def train(self) -> list[End]:
        try:
            self._train()
            self.ends.wait()
        finally:
            self.background.close()
        return self.ends.outcomes

    def _train(self) -> None:
        # Before the base is loaded: the run that loads it must not be refused later.
        first = self.queue.next()
        while isinstance(first, RunSpec) and (why := refused(first.config)):
            self.ends.put([(first, why)])
            first = self.queue.next()
        if isinstance(first, RunSpec):
            with self.spent.on("loading"):
                self._load(first)
            self.queue.put_first(first)
            self._fill()
            while self.slots.runs:
                with self.spent.on("steps"):
                    results = self._steps()
                if results is None:  # in a handler the error's traceback would keep the pack alive
                    self.slots.halve()
                    continue
                self._after(results)
                self._fill()

    def _load(self, first: RunSpec) -> None:
        """Load the base that all runs share, and what works on it."""
        self.base = SharedBase.load(first.config, first.reporter, first.cache_dir)
        kept = first.cache_dir
        self.reader = RunReader(self.base, self.spent, self.background, self.call, kept)
        self.base_scores = BaseScores(kept, self.base.key, engine="packed", arithmetic=ARITHMETIC)
        self.batches = BatchBuilder(
            self.base.tokenizer.pad_token_id, self.base.frozen, self.options
        )
        self.scorer = Scorer(
            self.base.frozen, self.base.tokenizer, self.base.vocabulary.context_tokens, self.options
        )
        self.slots = Slots(
            self.base,
            self.queue,
            count=min(len(self.specs), self.limit),
            limit=self.limit,
            rank=max(spec.config.lora.r for spec in self.specs),
            dropout=any(spec.config.lora.dropout for spec in self.specs),
            options=self.options,
        )

    def _fill(self) -> None:
        """Give free slots the next runs, and evaluate new ones. With none left, wait for others."""
        filled = True
        while filled:  # again where a new run is over before its first step
            self.slots.fit()
            filled = False
            while len(self.slots.leaders) < self.slots.count and (item := self.queue.next()):
                run = item if isinstance(item, PackedRun) else self._prepare(item)
                if run is not None:
                    self.slots.seat(run)
                    filled = True
            await_warm_up()
            # A run may have lost its slot again, out of memory.
            self._begin([run for run in self.slots.runs if not run.begun])
            if not filled and not self.slots.runs:
                self.ends.wait()
                filled = self.wait()

    def _prepare(self, spec: RunSpec) -> PackedRun | None:
        """Read a run's data and its adapter; None if that ended it."""
        try:
            with self.spent.on("loading"):
                run = self.reader.read(spec)
                if spec.resume_from is None:
                    weights = self.base.initial_weights(run)
                    run.state = files.fresh_state(weights, type(run.optimizer))
                else:
                    run.policy.resume(spec.resume_from)
                    run.state = files.read_state(self.base, run, spec.resume_from)
                run.untrained = not any(pair.b.any() for pair in run.state.params)
            return run
        # As broad as in `_alone`.
        except Exception as error:
            self.ends.put([(spec, error)])
            return None

    def _alone(self, run: PackedRun, work: Callable[..., None], *arguments: Any) -> None:
        """Do one run's own work. An error ends this run and none of the others."""
        try:
            work(*arguments)
        except torch.OutOfMemoryError:
            raise
        # As broad as in the trainer process: alone, the run would end with this error.
        except Exception as error:
            self.slots.remove(run)
            self.ends.put([(run.spec, error)], [run.policy.jobs])

    # Steps.

    def _steps(self) -> list[list[list[float]]] | None:
        """Take the steps until the next event or sync; their results (steps, 3, slots), or None if
        the GPU's memory ran out."""
        slots, runs = self.slots, self.slots.leaders
        began, preparing = time.perf_counter(), 0.0
        count = min(run.policy.steps_until_event() for run in slots.runs)
        count = max(1, min(count, int(SYNC_INTERVAL_SECONDS / slots.step_seconds)))
        parts: list[torch.Tensor] = []
        # Out of memory after the first part, the steps of those before it are taken all the same.
        with suppress(torch.OutOfMemoryError):
            for first in range(0, count, STEPS_OF_A_PART):
                offsets = range(first, min(first + STEPS_OF_A_PART, count))
                block = [self.batches.step(runs, slots.count, offset) for offset in offsets]
                started = time.perf_counter()
                slots.pack.prepare(step.shape for step in block)
                preparing += time.perf_counter() - started
                parts.append(slots.pack.run(block))
        if not parts:
            return None
        results: list[list[list[float]]] = torch.cat(parts).cpu().tolist()
        self.block_seconds = time.perf_counter() - began
        slots.step_seconds = (self.block_seconds - preparing) / len(results)
        return results

    def _after(self, results: list[list[list[float]]]) -> None:
        """Log, evaluate, save and end runs after steps; `numbers` is (steps, 3, slots)."""
        memory = memory_gib()  # once: PyTorch takes as long for it as for many steps
        for run in list(self.slots.runs):
            own = [tuple(row[run.slot] for row in step) for step in results]
            self._alone(run, run.log, own, self.block_seconds, memory)
        self._evaluate([run for run in self.slots.runs if run.policy.evaluation_due])
        with self.spent.on("waiting"):
            self._save([run for run in self.slots.runs if run.policy.save_due])
        self._finish([run for run in self.slots.runs if run.policy.over])

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
        self._finish([run for run in new if run in self.slots.runs and run.policy.over])

    def _evaluate(self, runs: list[PackedRun]) -> None:
        steps = {run.slot: run.step for run in runs}
        values = dict(self._scored(runs, "validation", steps))
        for suite in _splits(run.policy.suites.due(run.step) for run in runs):
            due = [
                run for run in runs
                if suite in run.policy.suites.due(run.step) and values.get(run) is not None
            ]  # fmt: skip
            scored = dict(self._scored(due, suite, steps))
            # A stop that comes first leaves the evaluation owed, as at the validation set.
            values |= {run: values[run] if scored[run] else None for run in due if run in scored}
        for run in [run for run in values if run in self.slots.runs]:
            self._alone(run, run.policy.evaluated, values[run])

    def _scored(
        self, runs: list[PackedRun], split: str, steps: Mapping[int, int]
    ) -> list[tuple[PackedRun, dict[str, float] | None]]:
        """Score the adapters of these runs together, and report them as those of `steps`, by slot.
        None for runs that were stopped before their scores were there."""
        return self._reported(self._scores(runs, split), split, steps)

    def _scores(self, runs: list[PackedRun], split: str) -> list[tuple[PackedRun, Scores | None]]:
        if not runs:  # there may be no pack yet
            return []
        with self.spent.on("scoring"):
            return score_alike(self.scorer, self.slots.pack.stacks, runs, split, self.base_scores)

    def _reported(
        self,
        scored: Iterable[tuple[PackedRun, Scores | None]],
        split: str,
        steps: Mapping[int, int],
    ) -> list[tuple[PackedRun, dict[str, float] | None]]:
        results: list[tuple[PackedRun, dict[str, float] | None]] = []

        def report(run: PackedRun, scores: Scores | None) -> None:
            values = scores and run.policy.scored(split, steps[run.slot], *scores)
            results.append((run, values))

        for run, scores in scored:
            self._alone(run, report, run, scores)
        return results

    # Files.

    def _save(self, runs: list[PackedRun]) -> None:
        """Have a checkpoint of each written, as its adapter is now."""
        if not runs:
            return
        # Before the copies, for which it would wait.
        finite = self.slots.pack.finite()
        snapshot = Snapshot(self.slots.pack, [run.slot for run in runs])
        random_state = files.random_state()
        for run in runs:
            if finite[run.slot]:
                self._alone(run, files.save, self.base, run, snapshot, random_state)
            else:
                self._alone(run, run.policy.diverged, "an adapter weight is not finite")

    def _finish(self, runs: list[PackedRun]) -> None:
        """Keep each run's best adapter, score it while its last checkpoint is written, and end the
        run."""
        with self.slots.left_to(left := runs):
            while left:  # again where that checkpoint was the best, and failed
                left = self._keep_best(left)
        over = [run for run in runs if run in self.slots.runs]
        for run in over:
            self.slots.remove(run)
        if over:
            ends = [(run.spec, run.policy.result()) for run in over]
            self.ends.put(ends, [run.policy.jobs for run in over])

    def _keep_best(self, runs: list[PackedRun]) -> list[PackedRun]:
        """Keep and score the best adapter of each; returns those whose best one was not saved."""
        with self.spent.on("waiting"):
            for run in runs:
                self._alone(run, files.keep_best, self.base, self.slots.pack, run)
        kept = {run.slot: run.policy.kept_step for run in runs}
        scored = []
        for split in _splits(run.policy.final_splits for run in runs):
            due = [
                r for r in runs
                if r in self.slots.runs and split in r.policy.final_splits
                and r.policy.final_due(split)
            ]  # fmt: skip
            scored.append((split, self._scores(due, split)))
        unsaved: list[PackedRun] = []

        def look(run: PackedRun) -> None:
            if not run.policy.is_kept():
                unsaved.append(run)

        for run in [run for run in runs if run in self.slots.runs]:
            self._alone(run, look, run)
        for split, scores in scored:
            saved = [one for one in scores if one[0] in self.slots.runs and one[0] not in unsaved]
            for run, values in self._reported(saved, split, kept):
                run.policy.final_scores(values)
        return unsaved


def _splits(asked: Iterable[Sequence[str]]) -> list[str]:
    """The splits that any run is to be scored on, each once, in their order."""
    return list(dict.fromkeys(split for own in asked for split in own))
