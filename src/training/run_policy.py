"""What follows from one run's steps, evaluations and saves: written once, for both engines.

TRL's engine calls a RunPolicy from Hugging Face's hooks; the packed engine holds one per run.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from src.config import RunConfig
from src.models import utils as machine
from src.training import checkpointing
from src.training.early_stopping import Diverged, EarlyStopping, divergence, stopping_problems
from src.training.examples import Examples
from src.training.identity import resume_exactness
from src.training.utils import Reporter, TrainingError, TrainingResult

if TYPE_CHECKING:
    import pandas as pd


class RunPolicy:
    """One run's early stopping, best step, owed evaluation, checkpoints and reports.

    An engine computes and asks: `resume` where it starts from a checkpoint; `step_taken` and, at
    logging steps, `logged`; `evaluated` where `evaluation_due`; `write_checkpoint` and `saved`
    where `save_due`; once `over`, `keep_best`, `final_scores` where `final_due`, and `result`.
    """

    def __init__(
        self,
        config: RunConfig,
        reporter: Reporter,
        *,
        output_dir: Path,
        checkpoints_dir: Path,
        identity: Mapping[str, Any],
    ):
        if problems := stopping_problems(config.early_stopping):
            raise TrainingError("; ".join(f"{name}: {text}" for name, text in problems.items()))
        self.config, self.reporter = config, reporter
        self.output_dir, self.checkpoints_dir = output_dir, checkpoints_dir
        self.identity = identity  # see `identity.run_identity`
        self.early_stopping = EarlyStopping(config.early_stopping)
        self.throughput = Throughput()
        self.step = 0  # optimizer steps taken
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
        """Restore what had been decided when `checkpoint` was written. Whether the evaluation of
        its step is still owed tells `evaluation_due`."""
        manifest = checkpointing.verify(checkpoint)
        exactness = resume_exactness(manifest, self.identity, checkpoint.name)
        self.reporter.used({"resume": exactness})
        self.early_stopping.restore(manifest)
        self.step = manifest["step"]
        self.best_values = manifest["best_values"]
        self.evaluation_owed = manifest["evaluation_owed"]
        self._resumed_from = checkpoint

    def begin(self, examples: Examples, **setup: Any) -> None:
        """Report what the run really uses: `setup` is what its engine resolved."""
        self.reporter.used(
            {
                **setup,
                "device": self.identity["device"],
                "threads": torch.get_num_threads(),
                **examples.summary(),
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
        """See whether a user asked to stop: then the run ends after its step, with a checkpoint."""
        self.stopped = self.stopped or self.reporter.stop_requested()

    def step_taken(self) -> None:
        """Count an optimizer step, and what becomes due with it."""
        self.step, self._resumed_from = self.step + 1, None
        last, every = self.step >= self.max_steps, self.config.evaluation.eval_steps
        self.evaluation_owed = last or self.step % every == 0

    def logged(self, *, loss: float, learning_rate: float, grad_norm: float, tokens: int) -> None:
        """Report the step's values: the mean loss in nats and the tokens are those since the last
        report, the gradient norm is that before clipping. A divergence ends the run."""
        values = {
            "train/loss": loss,
            "lr": learning_rate,
            "grad_norm": grad_norm,
            "tokens_per_second": self.throughput.rate(tokens),
            **machine.memory_gib(),
        }
        self.reporter.metrics(self.step, values)
        self.early_stopping.record(values)
        if not math.isfinite(loss):
            self.diverged(f"the training loss is {loss}")
        elif why := divergence(self.early_stopping):
            self._stop_diverged(why)

    def diverged(self, why: str) -> None:
        """End a run whose numbers are not finite: early, if a criterion asks for it and a best
        adapter can be restored, else by raising Diverged, which self-healing reacts to."""
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

    def progress(self, split: str, done: int, total: int) -> None:
        self.reporter.phase(f"{split} {done:,} of {total:,}", scoring=True)

    def scored(
        self, split: str, step: int, metrics: Mapping[str, float], predictions: "pd.DataFrame"
    ) -> dict[str, float]:
        """Report scores of the adapter of `step`; returns them under the names of their split."""
        prefix = "val" if split == "validation" else split
        values = {f"{prefix}/{name}": value for name, value in metrics.items()}
        self.reporter.metrics(step, values)
        self.reporter.evaluation(step, split, predictions)
        self.reporter.phase("training")
        return values

    def evaluated(self, values: Mapping[str, float] | None) -> None:
        """Judge the validation scores of this step: are they the best, is the run to continue?

        None means that a stop came first: the evaluation is still owed. The scores before the first
        step are a baseline, not a candidate.
        """
        if values is None:
            self.stopped = True
            return
        self.evaluation_owed = False
        if self.step == 0:
            return
        self._best_before = self._best()
        self.early_stopping.record(values)
        if self.early_stopping.evaluated(self.step):
            self.best_values = dict(values)
            if self._resumed_from is not None:  # and no step was taken since
                self.reporter.checkpoint(self.step, self._resumed_from, True)
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

    def write_checkpoint(self, write: Callable[[Path], None]) -> Path | Exception:
        """Save this step with the files that `write` puts into the folder it is given. Returns the
        checkpoint, or the error of a disk that cannot take it. Safe in a thread."""
        staging = checkpointing.stage(self.checkpoints_dir)
        folder = staging / f"checkpoint-{self.step}"
        target = checkpointing.step_dir(self.checkpoints_dir, self.step)
        try:
            write(folder)
            path = checkpointing.commit(folder, target, self.manifest())
            staging.rmdir()
        except Exception as error:
            if not is_write_error(error):
                raise
            shutil.rmtree(staging, ignore_errors=True)
            return error
        return path

    def manifest(self) -> dict[str, Any]:
        """What a checkpoint tells of its run beside its files; `resume` reads it."""
        return {
            "step": self.step,
            "best_values": self.best_values,
            "evaluation_owed": self.evaluation_owed,
            **self.early_stopping.state(),
            **self.identity,
        }

    def saved(self, outcome: Path | Exception) -> None:
        """Report what `write_checkpoint` returned and remove checkpoints that retention drops."""
        if isinstance(outcome, Exception):
            self._save_failed(outcome)
            return
        best_step = self.early_stopping.best_step
        self.reporter.checkpoint(self.step, outcome, best_step == self.step)
        asked, before = self.config.checkpointing, checkpointing.steps(self.checkpoints_dir)
        try:
            checkpointing.retain(
                self.checkpoints_dir,
                best_step=best_step,
                keep_last=asked.keep_last,
                max_gib=asked.max_gib,
            )
        except OSError as error:
            self.reporter.warning(self.step, f"old checkpoints were not removed: {error}")
        for removed in sorted({*before} - {*checkpointing.steps(self.checkpoints_dir)}):
            self.reporter.checkpoint_removed(removed)

    def _save_failed(self, error: Exception) -> None:
        text = f"no checkpoint at step {self.step}: {why_not_written(error)}"
        if self.early_stopping.best_step == self.step:
            # An adapter that cannot be restored must not be called the best.
            best, self.best_values = self._best_before
            self.early_stopping.withdraw(best)
            text += "; its adapter was the best so far, and is not kept"
        self.reporter.warning(self.step, text)

    # --- end ---

    @property
    def kept_step(self) -> int:
        """The step of the adapter to keep: the best, or the last one before any evaluation."""
        best_step = self.early_stopping.best_step
        return self.step if best_step is None else best_step

    def keep_best(self, load: Callable[[Path], None], write: Callable[[Path], None]) -> None:
        """Have the engine `load` the best adapter's checkpoint, unless it is the newest, and
        `write` it to final/."""
        if self.kept_step != self.step:
            self.reporter.phase(f"restoring the adapter of step {self.kept_step}")
            load(checkpointing.step_dir(self.checkpoints_dir, self.kept_step))
        staging = checkpointing.stage(self.output_dir)
        write(staging / "final")
        checkpointing.replace_folder(staging / "final", self.output_dir / "final")
        staging.rmdir()

    def final_due(self, split: str) -> bool:
        """True if the kept adapter is to be scored on `split`: on the test set, and on the
        validation set where its scores are not those of the adapter that was saved."""
        if self.stopped:
            return False
        return split == "test" or self.kept_step != self.step or not self.best_values

    def final_scores(self, values: Mapping[str, float] | None) -> None:
        """Take scores of the kept adapter; None means that a stop came first."""
        if values is None:
            self.stopped = True
        else:
            self._final_values |= values

    def result(self) -> TrainingResult:
        self.reporter.phase("")
        return TrainingResult(
            stopped=self.stopped,
            reason=f"stopped at step {self.step}" if self.stopped else self.early_stop,
            step=self.step,
            best_step=self.kept_step,
            metrics=self.best_values | self._final_values,
        )


class Throughput:
    """Tokens per second of training, without the time of evaluations and saves."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._started = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leave out a time that has passed since the last rate."""
        self._started += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.pause(time.perf_counter() - started)

    def rate(self, tokens: int) -> float:
        """The rate of the tokens since the last one was asked for."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        self.restart()
        return tokens / seconds


def is_write_error(error: Exception) -> bool:
    """True for what the libraries raise where a file cannot be written: torch's zip writer a
    RuntimeError, safetensors and tokenizers errors of their own."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        return False
    # tokenizers raises Exception itself.
    return isinstance(error, OSError | RuntimeError | SafetensorError) or type(error) is Exception


def why_not_written(error: BaseException) -> str:
    """The operating system's reason where there is one: torch speaks of positions in a stream."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    text = str(cause or error).strip().split("\n")[0][:300]
    full = "iostream" in text or "inline_container" in text
    return "No space left on device, or it cannot be written" if full else text
