"""TRL's SFTTrainer with our loss, our evaluation and our checkpoints.

Import it only after `choose_backend`: Unsloth patches transformers and TRL while it is imported.
"""

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from src.models.losses import IGNORED, answer_loss
from src.models.spelling_model import adapter_to_fp32
from src.models.utils import memory_gib
from src.training import checkpointing
from src.training.early_stopping import Diverged, History, Rules, divergence
from src.training.sampling import Shuffled
from src.training.trl_arguments import TrlPlan, verify_applied
from src.training.utils import Reporter


class SpellingTrainer(SFTTrainer):
    """An SFTTrainer that reports to a Reporter and leaves when it is asked to."""

    def __init__(
        self,
        *,
        reporter: Reporter,
        validate: Callable[[int], Mapping[str, float] | None],
        history: History,
        heals: bool,
        label_smoothing: float,
        checkpoints_dir: Path,
        keep: Mapping[str, Any],
        identity: Mapping[str, Any],
        **arguments: Any,
    ):
        super().__init__(**arguments)
        self.reporter, self.validate = reporter, validate
        self.history = history
        self.heals = heals  # whether somebody mends a divergence, so that it must be an error
        self.label_smoothing = label_smoothing
        self.checkpoints_dir, self.keep = checkpoints_dir, keep
        self.identity = identity  # of config, data, tokenizer, versions: for each manifest
        self.stopped = False
        self.evaluation_owed = False
        self.early_stop: str | None = None
        self.best_values: Mapping[str, float] = {}
        self._best_before = history.state()["best"]
        # Our loss takes the token count of the whole step, so nobody may divide it again.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)
        self._tokens = torch.zeros((), dtype=torch.long, device=self.args.device)
        self._clock = time.perf_counter()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if num_items_in_batch is None:
            raise RuntimeError("the trainer did not count the answer tokens of the step")
        labels = inputs["labels"]
        # A sum on the device: reading it here would make the GPU wait in every micro-batch.
        self._tokens += inputs["attention_mask"].sum()
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        )
        loss = answer_loss(
            outputs.logits,
            labels,
            label_smoothing=self.label_smoothing,
            tokens=num_items_in_batch,
        )
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.control.should_log = False
        if "loss" not in logs:  # the summary of transformers after the last step
            return
        step, now = self.state.global_step, time.perf_counter()
        seconds = max(now - self._clock, 1e-9)
        values = {
            "train/loss": logs["loss"],
            "lr": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", math.nan),
            "tokens_per_second": self._tokens.item() / seconds,
            **memory_gib(),
        }
        self._tokens.zero_()
        self._clock = now
        self.reporter.metrics(step, values)
        self.history.record(values)
        if not math.isfinite(logs["loss"]):
            self.diverged(f"the training loss is {logs['loss']}")
        elif why := divergence(self.history):
            self.stop_early(why)

    def diverged(self, why: str) -> None:
        """Stop early where a criterion says so and a best adapter is there to go back to; else
        Diverged."""
        rules = self.history.rules
        if rules.divergence_factor is None or self.heals or self.history.best_step is None:
            raise Diverged(
                f"{why} at step {self.state.global_step}: the training diverged; lower "
                "training.learning_rate or training.max_grad_norm"
            )
        self.stop_early(why)

    def stop_early(self, why: str) -> None:
        """End after this step, without a further evaluation or checkpoint."""
        self.early_stop = f"early stopping: {why}"
        self.control.should_evaluate = self.control.should_save = False
        self.control.should_training_stop = True

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation set, and decide what follows from it: a save, or the end."""
        started = time.perf_counter()
        step = self.state.global_step
        self.control.should_evaluate = False
        values = self.judge(step)
        if values is None:
            self.leave()
        elif self.history.best_step == step:
            self.control.should_save = True
        if self.early_stop:
            self.control.should_save = self.control.should_training_stop = True
        self._clock += time.perf_counter() - started
        return dict(values or {})

    def judge(self, step: int) -> Mapping[str, float] | None:
        """Score the validation set, and see whether it is the best so far and whether to go on.

        None when a stop came in between: then the evaluation is still owed.
        """
        values = self.validate(step)
        self.evaluation_owed = values is None
        if values is None:
            return None
        self._best_before = self.history.state()["best"]
        self.history.record(values)
        if self.history.evaluated(step):
            self.best_values = values
        if step < self.args.max_steps and (why := self.history.verdict()):
            self.early_stop = f"early stopping: {why}"
        return values

    def go_on_from(self, checkpoint: Path, manifest: Mapping[str, Any]) -> None:
        """Take over what had been decided when a checkpoint was written, and make up for an
        evaluation that a stop cut short. The model has the checkpoint's adapter."""
        self.history.restore(manifest)
        self.best_values = manifest["best_values"]
        if manifest["evaluation_owed"]:
            step = manifest["step"]
            self.stopped = self.judge(step) is None
            if self.history.best_step == step:
                self.reporter.checkpoint(step, checkpoint, True)

    def leave(self) -> None:
        """Save and end after this step, because a person asked for it."""
        self.stopped = True
        self.control.should_save = self.control.should_training_stop = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        dataset: Any = self.train_dataset
        return Shuffled(len(dataset), self.args.seed)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints_dir / checkpointing.STAGING)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        # Their state brings along the settings of whoever wrote it; a fork or a heal has others.
        scheduler: Any = self.lr_scheduler
        optimizer: Any = self.optimizer
        assert self.optimizer_cls_and_kwargs is not None
        options = dict(self.optimizer_cls_and_kwargs[1])
        peak = options.pop("lr")
        groups = optimizer.param_groups
        groups[0]["weight_decay"] = self.args.weight_decay  # the other has biases, without any
        scheduler.base_lrs = [peak] * len(groups)
        for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
            lr = peak * factor(scheduler.last_epoch)
            group.update(options, initial_lr=peak, lr=lr)
        scheduler._last_lr = [group["lr"] for group in groups]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        started = time.perf_counter()
        step = self.state.global_step
        trained = (p for p in model.parameters() if p.requires_grad)
        if not all(bool(torch.isfinite(p).all()) for p in trained):
            # Logging may be rarer than saving; a heal must find good checkpoints only.
            return self.diverged("an adapter weight is no number")
        try:
            self._write_checkpoint(model, trial, step)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        # torch and safetensors have errors of their own for a file that cannot be written.
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(self.checkpoints_dir / checkpointing.STAGING, ignore_errors=True)
            text = f"no checkpoint at step {step}: {_why_not_written(error)}"
            if self.history.best_step == step:
                # What cannot be restored must not be called the best.
                self.history.restore(self.history.state() | {"best": self._best_before})
                self.history.without_better += 1
                text += "; its adapter was the best so far, and is not kept"
            self.reporter.warning(step, text)
        self._clock += time.perf_counter() - started

    def _write_checkpoint(self, model: Any, trial: Any, step: int) -> None:
        staging = checkpointing.stage(self.checkpoints_dir)
        # Not TRL's: it writes a model card of its own into the folder first.
        Trainer._save_checkpoint(self, model, trial)
        path = checkpointing.commit(
            staging / f"checkpoint-{step}",
            checkpointing.step_dir(self.checkpoints_dir, step),
            {
                "step": step,
                "best_values": dict(self.best_values),
                "evaluation_owed": self.evaluation_owed,
                **self.history.state(),
                **self.identity,
            },
        )
        staging.rmdir()
        self.reporter.checkpoint(step, path, self.history.best_step == step)
        for removed in checkpointing.retain(
            self.checkpoints_dir, best_step=self.history.best_step, **self.keep
        ):
            self.reporter.checkpoint_removed(removed)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        save_adapter(self.model, self.processing_class, Path(output_dir))

    def floating_point_ops(self, inputs: Any) -> int:
        # Nobody reads them, and counting walks over every parameter in every step.
        return 0


def _why_not_written(error: BaseException) -> str:
    """The operating system's reason where there is one: torch speaks of positions in a stream."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    text = str(found or error).strip().split("\n")[0][:300]
    full = "iostream" in text or "inline_container" in text
    return "No space left on the device, or it cannot be written" if full else text


def save_adapter(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the adapter in PEFT's format, and the tokenizer beside it."""
    # The base's embeddings are never trained, so they never belong to the adapter.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    tokenizer.save_pretrained(str(folder))


class Flow(TrainerCallback):
    """Says after each step whether to evaluate, save or leave; the trainer logs, evaluates, saves
    in this order.

    Evaluate first: a checkpoint must hold what its evaluation decided.
    """

    def __init__(
        self,
        trainer: Callable[[], SpellingTrainer],
        *,
        eval_steps: int,
        save_steps: int,
        on_start: Callable[[], None],
    ):
        self.trainer, self.on_start = trainer, on_start
        self.eval_steps, self.save_steps = eval_steps, save_steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, last = state.global_step, state.global_step >= state.max_steps
        if self.trainer().reporter.stop_requested():
            self.trainer().leave()
            return
        control.should_evaluate = last or step % self.eval_steps == 0
        control.should_save = last or step % self.save_steps == 0


def build_trainer(
    asked: TrlPlan,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Any],
    reporter: Reporter,
    scored: Callable[[str, int], Mapping[str, float] | None],
    checkpoints_dir: Path,
    backend: str,
    identity: Mapping[str, Any],
) -> SpellingTrainer:
    """The trainer of a plan. As training begins it reports and verifies what the libraries hold."""
    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(checkpoints_dir / checkpointing.STAGING),
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        **asked.arguments,
    )
    if on_gpu:
        # One run has one GPU; several visible ones would make the trainer split each batch.
        torch.cuda.set_device(arguments.device)
        arguments._n_gpu = 1
    name, options = asked.optimizer
    flow = Flow(
        lambda: trainer,
        on_start=lambda: reporter.used(verify_applied(asked, trainer, backend)),
        **asked.flow,
    )
    trainer = SpellingTrainer(
        reporter=reporter,
        validate=lambda step: scored("validation", step),
        history=History(Rules(**asked.stopping)),
        heals=asked.self_heal,
        label_smoothing=asked.label_smoothing,
        checkpoints_dir=checkpoints_dir,
        keep=asked.keep,
        identity=identity,
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [row.prompt_ids + row.answer_ids for row in rows],
                "labels": [[IGNORED] * len(row.prompt_ids) + row.answer_ids for row in rows],
            }
        ),
        processing_class=tokenizer,
        callbacks=[flow],
        optimizer_cls_and_kwargs=(getattr(torch.optim, name), options),
    )
    # TRL turns the adapter of a 4-bit base to bf16.
    adapter_to_fp32(model)
    return trainer
