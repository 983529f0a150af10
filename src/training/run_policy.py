"""Decides what follows from one run's steps, evaluations and saves, for both engines.

TRL's engine calls a RunPolicy from Hugging Face's hooks; the packed engine holds one per run.
"""

import copy
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from src.config import RunConfig
from src.models import metrics
from src.models import utils as machine
from src.training import checkpointing, saving
from src.training.background import AtOnce, Call, Jobs, call_here
from src.training.dictionary import dictionary_scores
from src.training.early_stopping import Diverged, EarlyStopping, divergence, stopping_problems
from src.training.examples import Examples
from src.training.identity import resume_exactness
from src.training.packed.eligibility import files_of
from src.training.suite_scores import SuiteScores
from src.training.throughput import TimeSpent
from src.training.utils import Reporter, TrainingError, TrainingResult

if TYPE_CHECKING:
    import pyarrow as pa


class RunPolicy:
    """One run's early stopping, best step, owed evaluation, checkpoints and reports.

    An engine computes and asks: `resume` where it starts from a checkpoint; `step_taken` and, at
    logging steps, `logged`; `evaluated` where `evaluation_due`; `save` where `save_due`; once
    `over`, `keep_best`, `final_scores` where `final_due`, and `result`. Files are written by the
    run's `jobs`, in the order of these calls.
    """

    def __init__(
        self,
        config: RunConfig,
        reporter: Reporter,
        *,
        output_dir: Path,
        checkpoints_dir: Path,
        identity: Mapping[str, Any],
        spent: TimeSpent | None = None,
        jobs: Jobs | None = None,
        call: Call = call_here,
    ):
        if problems := stopping_problems(config.early_stopping):
            raise TrainingError("; ".join(f"{name}: {text}" for name, text in problems.items()))
        self.config, self.reporter = config, reporter
        self.output_dir, self.checkpoints_dir = output_dir, checkpoints_dir
        self.identity = identity  # see `identity.run_identity`
        self.jobs: Jobs = jobs or AtOnce()  # who has its files written
        self._call = call  # and where
        self._save: Future[str | None] | None = None  # the last one, until `settle`
        self._saved_step = 0  # of that save
        self.early_stopping = EarlyStopping(config.early_stopping)
        self.suites = SuiteScores(config)
        self.spent = spent or TimeSpent()
        self.step = 0  # optimizer steps taken
        self.tokens: int | None = 0  # seen in them; None: a checkpoint of old did not tell
        self._new_tokens = 0  # of them, since the last log
        self.stopped = False  # by a user
        self.early_stop: str | None = None
        self.evaluation_owed = True  # due at `step` and not done; at first the baseline's
        self.best_values: dict[str, float] = {}  # metrics of the best evaluation
        self._diverged = False
        self._best_before = self._best()
        self._resumed_from: Path | None = None
        self._final_values: dict[str, float] = {}

    # --- start ---

    def resume(self, checkpoint: Path) -> None:
        """Restore the state of `checkpoint`; the evaluation of its step may still be owed."""
        manifest = checkpointing.verify(checkpoint)
        exactness = resume_exactness(manifest, self.identity, checkpoint.name)
        self.reporter.used({"resume": exactness})
        self.early_stopping.restore(manifest)
        self.step, self.tokens = manifest["step"], manifest.get("tokens")
        self.best_values = manifest["best_values"]
        self.evaluation_owed = manifest["evaluation_owed"]
        self._resumed_from = checkpoint

    def begin(self, examples: Examples, **setup: Any) -> None:
        """Take the suites of the run, and report its setup: `setup` comes from its engine."""
        self.suites.by_split = examples.suites
        record = files_of(self.config).gguf_record
        self.reporter.used(
            {
                **setup,
                **({"base_model": record} if record else {}),
                "device": self.identity["device"],
                "threads": torch.get_num_threads(),
                **examples.summary,
                "versions": self.identity["versions"],
            }
        )
        self.reporter.metrics(self.step, machine.memory_gib())

    # --- steps ---

    @property
    def max_steps(self) -> int:
        return self.config.training.max_steps

    @property
    def over(self) -> bool:
        """True if no further step is to be taken."""
        return self.stopped or self.early_stop is not None or self.step >= self.max_steps

    def steps_until_event(self) -> int:
        """Steps to the next one after which the run may evaluate, save or end."""
        every = self.config.evaluation.eval_steps, self.config.checkpointing.save_steps
        return min(self.max_steps - self.step, *(n - self.step % n for n in every))

    def look_for_stop(self) -> None:
        """Check for a stop request; then the run ends after its step, with a checkpoint."""
        self.stopped = self.stopped or self.reporter.stop_requested()

    def step_taken(self) -> None:
        """Count an optimizer step; an evaluation may become due."""
        self.step, self._resumed_from = self.step + 1, None
        last, every = self.step >= self.max_steps, self.config.evaluation.eval_steps
        self.evaluation_owed = last or self.step % every == 0

    def seen(self, tokens: int) -> None:
        """Count tokens of the rows of steps, the prompts' included."""
        self._new_tokens += tokens
        if self.tokens is not None:
            self.tokens += tokens

    def logged(
        self,
        *,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        seconds: float,
        memory: Mapping[str, float],
    ) -> None:
        """Report the step's values: the mean loss in nats and the seconds of training are those
        since the last report, the gradient norm is that before clipping; `memory` is
        `memory_gib`. A divergence ends the run."""
        values = {
            "train/loss": loss,
            "lr": learning_rate,
            "grad_norm": grad_norm,
            "tokens_per_second": self._new_tokens / max(seconds, 1e-9),
            **({} if self.tokens is None else {metrics.TOKENS: self.tokens}),
            **memory,
        }
        self._new_tokens = 0
        self.reporter.metrics(self.step, values)
        self.early_stopping.record(values)
        if not math.isfinite(loss):
            self.diverged(f"the training loss is {loss}")
        elif why := divergence(self.early_stopping):
            self._stop_diverged(why)

    def diverged(self, why: str) -> None:
        """End a run whose numbers are not finite: early, if a criterion asks for it and a best
        adapter can be restored, else by raising Diverged, which self-healing reacts to."""
        self.settle()
        asked = self.config.early_stopping.divergence_factor is not None
        heals = self.config.supervision.self_heal
        if not asked or heals or self.early_stopping.best_step is None:
            raise Diverged(
                f"{why} at step {self.step}: the training diverged; lower training.learning_rate "
                "or training.max_grad_norm"
            )
        self._stop_diverged(why)

    def _stop_diverged(self, why: str) -> None:
        """End after this step, without a further evaluation or checkpoint."""
        self.early_stop, self._diverged = f"early stopping: {why}", True

    # --- evaluations ---

    @property
    def evaluation_due(self) -> bool:
        return self.evaluation_owed and not self.stopped and not self._diverged

    @property
    def final_splits(self) -> list[str]:
        """The splits of which `final_due` tells if the kept adapter is to be scored on them."""
        return ["validation", "test", *self.suites.by_split]

    def progress(self, split: str, done: int, total: int) -> None:
        self.reporter.phase(f"{split} {done:,} of {total:,}", scoring=True)

    def scored(
        self, split: str, step: int, found: Mapping[str, float], predictions: "pa.Table"
    ) -> dict[str, float]:
        """Report scores of the adapter of `step`; returns them under the names of their split."""
        if split in self.suites.by_split:
            values, predictions = self.suites.judged(split, step, found, predictions)
        else:
            prefix = "val" if split == "validation" else split
            if split == "test" and self.config.data.built_in:
                found = {**found, **dictionary_scores(predictions)}
            values = {f"{prefix}/{name}": value for name, value in found.items()}
        self.reporter.metrics(step, values)
        with self.spent.on("waiting"):  # where too much waits
            self.jobs.put(partial(self.reporter.evaluation, step, split, predictions))
        self.reporter.phase("training")
        return values

    def evaluated(self, values: Mapping[str, float] | None) -> None:
        """Take the validation scores of this step: they may be the best, or end the run.

        None means that a stop came first: the evaluation is still owed. The scores before the first
        step are a baseline, not a candidate.
        """
        if values is None:
            self.stopped = True
            return
        self.evaluation_owed = False
        if self.step == 0:
            return
        self.settle()
        self._best_before = self._best()
        self.early_stopping.record(values)
        if self.early_stopping.evaluated(self.step):
            self.best_values = dict(values)
            if self._resumed_from is not None:  # and no step was taken since
                path = self._resumed_from
                self.jobs.put(partial(self.reporter.checkpoint, self.step, path, True))
        if self.step < self.max_steps and (why := self.early_stopping.stop_reason()):
            self.early_stop = f"early stopping: {why}"

    def _best(self) -> tuple[dict[str, Any], dict[str, float]]:
        return self.early_stopping.state()["best"], self.best_values

    # --- checkpoints ---

    @property
    def save_due(self) -> bool:
        """True if this step needs a checkpoint: a periodic one, the best, or the last."""
        if self._diverged:
            return False
        periodic = self.step % self.config.checkpointing.save_steps == 0
        return periodic or self.over or self.early_stopping.best_step == self.step

    def save(self, write: Callable[[Path], None]) -> None:
        """Have a checkpoint of this step written: `write` puts the files into the folder it is
        given, maybe while the run trains on, where `call` has it. It is reported once it is safe on
        the disk; then checkpoints that retention drops are removed. `settle` takes its outcome."""
        self.settle()
        best_step, self._saved_step = self.early_stopping.best_step, self.step
        self._save = self.jobs.put(
            partial(self._write_checkpoint, self.step, best_step, self.manifest(), write)
        )

    def _write_checkpoint(
        self,
        step: int,
        best_step: int | None,
        manifest: Mapping[str, Any],
        write: Callable[[Path], None],
    ) -> str | None:
        """Write and report a checkpoint; returns why the disk does not take it."""
        written = self._call(saving.write_checkpoint, self.checkpoints_dir, step, manifest, write)
        if isinstance(written, str):
            return written
        self.reporter.checkpoint(step, written, best_step == step)
        folder, before = self.checkpoints_dir, checkpointing.steps(self.checkpoints_dir)
        problem = self._call(saving.remove_old, folder, self.config.checkpointing, best_step)
        if problem is not None:
            self.reporter.warning(step, f"old checkpoints were not removed: {problem}")
        # Not what the call says: one that was done twice removes nothing the second time.
        for old in sorted({*before} - {*checkpointing.steps(folder)}):
            self.reporter.checkpoint_removed(old)
        return None

    def settle(self) -> bool:
        """Wait for the last save, and take its outcome: it comes before the next decision on the
        best adapter. False if the disk did not take it; raises what else prevented it."""
        save, self._save = self._save, None
        if save is None:
            return True
        with self.spent.on("waiting"):
            why = save.result()
        if why is not None:
            self._save_failed(self._saved_step, why)
        return why is None

    def manifest(self) -> dict[str, Any]:
        """The run's state for the manifest of a checkpoint; `resume` reads it."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "best_values": self.best_values,
            "evaluation_owed": self.evaluation_owed,
            **copy.deepcopy(self.early_stopping.state()),
            **self.identity,
        }

    def _save_failed(self, step: int, why: str) -> None:
        text = f"no checkpoint at step {step}: {why}"
        if self.early_stopping.best_step == step:
            # An adapter that cannot be restored must not be called the best.
            best, self.best_values = self._best_before
            self.early_stopping.withdraw(best)
            text += "; its adapter was the best so far, and is not kept"
        self.reporter.warning(step, text)

    # --- end ---

    @property
    def kept_step(self) -> int:
        """The step of the adapter to keep: the best, or the last one before any evaluation."""
        best_step = self.early_stopping.best_step
        return self.step if best_step is None else best_step

    @property
    def is_saved(self) -> bool:
        """True if the newest adapter has a checkpoint, which may be under way."""
        if self._save is not None and self._saved_step == self.step:
            return True
        return checkpointing.step_dir(self.checkpoints_dir, self.step).exists()

    def keep_best(self, load: Callable[[Path], None], write: Callable[[Path], None] | None) -> None:
        """Have the engine `load` the best adapter's checkpoint, unless it is the newest, and have
        the adapter written to final/, maybe later: from its checkpoint, or the newest by `write`
        unless it `is_saved`. Where the best one is damaged the newest is kept. The save of the
        newest may be under way; `is_kept` tells if it holds."""
        if self._saved_step != self.step:  # after a divergence: it may be that of the best
            self.settle()
        if self.kept_step != self.step:
            self.reporter.phase(f"restoring the adapter of step {self.kept_step}")
            checkpoint = checkpointing.step_dir(self.checkpoints_dir, self.kept_step)
            try:
                checkpointing.verify_adapter(checkpoint)
                load(checkpoint)
            except checkpointing.BrokenCheckpoint as error:
                self._best_lost(error)
        save = self._save if self._saved_step == self.kept_step else None
        self.jobs.put(partial(self._write_final, save, self.kept_step, write))

    def _write_final(
        self, save: Future[str | None] | None, step: int, write: Callable[[Path], None] | None
    ) -> None:
        # Jobs are done in their order: that save is over.
        if save is not None and save.result() is not None:
            return
        checkpoint = checkpointing.step_dir(self.checkpoints_dir, step)
        if write is None or checkpoint.exists():
            write = partial(saving.copy_adapter, checkpoint)
        self._call(saving.write_final, self.output_dir, step, write)

    def is_kept(self) -> bool:
        """Wait for the last save. False if it failed and was that of the adapter that `keep_best`
        kept, which is not in final/ then: what is the best now is to be kept and scored."""
        kept = self.kept_step
        return self.settle() or self._saved_step != kept

    def _best_lost(self, error: checkpointing.BrokenCheckpoint) -> None:
        text = f"the best adapter is damaged ({error}): that of step {self.step} is kept instead"
        self.early_stopping.withdraw({"step": None, "value": None, "without_better": 0})
        self.best_values = {}  # so that the kept adapter is scored
        self.reporter.warning(self.step, text)

    def final_due(self, split: str) -> bool:
        """True if the kept adapter is to be scored on `split`: on the test set, and on the
        validation set and suites where their scores are not those of the adapter that was saved."""
        if self.stopped:
            return False
        if split in self.suites.by_split:
            return not self.suites.is_scored(split, self.kept_step)
        return split == "test" or self.kept_step != self.step or not self.best_values

    def final_scores(self, values: Mapping[str, float] | None) -> None:
        """Take scores of the kept adapter; None means that a stop came first."""
        if values is None:
            self.stopped = True
        else:
            self._final_values |= values

    def result(self) -> TrainingResult:
        self.reporter.phase("")
        self.reporter.used({"trainer_seconds": self.spent.seconds()})
        return TrainingResult(
            stopped=self.stopped,
            reason=f"stopped at step {self.step}" if self.stopped else self.early_stop,
            step=self.step,
            best_step=self.kept_step,
            metrics=self.best_values | self._final_values | self.suites.of_step(self.kept_step),
        )
