"""TRL's SFTTrainer with our loss, our evaluation and our checkpoints.

Import it only after `choose_backend`: Unsloth patches transformers and TRL while it is imported.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from src.models.losses import IGNORED, answer_loss
from src.models.spelling_model import adapter_to_fp32, sort_targets
from src.models.utils import memory_gib
from src.training import checkpointing
from src.training.row_order import Shuffled
from src.training.rows import Row
from src.training.run_policy import RunPolicy
from src.training.throughput import StepClock
from src.training.trl_arguments import TrlPlan, verify_applied


class SpellingTrainer(SFTTrainer):
    """An SFTTrainer that computes; its RunPolicy decides what follows."""

    def __init__(
        self,
        *,
        policy: RunPolicy,
        validate: Callable[[], Mapping[str, float] | None],
        label_smoothing: float,
        on_start: Callable[[], None],
        **arguments: Any,
    ):
        super().__init__(**arguments, callbacks=[PolicyCallback(lambda: self, on_start)])
        self.policy, self.validate, self.label_smoothing = policy, validate, label_smoothing
        # Our loss takes the token count of the whole step, so nobody may divide it again.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)
        self._tokens = torch.zeros((), dtype=torch.long, device=self.args.device)
        self.clock = StepClock()

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

    def step_ended(self) -> None:
        """Hear of an optimizer step before its values are logged."""
        self.policy.step_taken()
        self.policy.look_for_stop()
        self.control.should_log |= self.policy.over
        self._follow_policy()

    def _follow_policy(self) -> None:
        """Have the Trainer evaluate, save and end as the policy says; it does so in this order.

        Evaluation comes first: a checkpoint must hold what its evaluation decided.
        """
        self.control.should_evaluate = self.policy.evaluation_due
        self.control.should_save = self.policy.save_due
        if self.policy.over:
            self.control.should_training_stop = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.control.should_log = False
        if "loss" not in logs:  # the summary of transformers after the last step
            return
        self._count_tokens()
        self.policy.logged(
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm", math.nan),
            seconds=self.clock.seconds(),
            memory=memory_gib(),
        )
        self._follow_policy()

    def _count_tokens(self) -> None:
        """Tell the policy the tokens since the last time, which makes the GPU finish its steps."""
        self.policy.seen(int(self._tokens.item()))
        self._tokens.zero_()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.clock.paused():
            values = self.validate()
            self.policy.evaluated(values)
        self._follow_policy()
        return dict(values or {})

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        dataset: Any = self.train_dataset
        return Shuffled(len(dataset), self.args.seed)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.policy.checkpoints_dir / checkpointing.STAGING)

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
        self._count_tokens()
        with self.policy.spent.on("waiting"), self.clock.paused():
            trained = (p for p in model.parameters() if p.requires_grad)
            if all(bool(torch.isfinite(p).all()) for p in trained):
                # Not TRL's: it writes a model card of its own into the folder first.
                write = partial(Trainer._save_checkpoint, self, model, trial)
                self.policy.save(lambda folder: write())
                self.policy.settle()
            else:
                # Logging may be rarer than saving; a heal must find good checkpoints only.
                self.policy.diverged("an adapter weight is not finite")
        self._follow_policy()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        save_adapter(self.model, self.processing_class, Path(output_dir))

    def floating_point_ops(self, inputs: Any) -> int:
        # Nobody reads them, and counting walks over every parameter in every step.
        return 0


def save_adapter(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the adapter in PEFT's format, and the tokenizer beside it."""
    for config in model.peft_config.values():
        sort_targets(config)
    # The base's embeddings are never trained, so they never belong to the adapter.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    tokenizer.save_pretrained(str(folder))


class PolicyCallback(TrainerCallback):
    """Tells the trainer of its start and of each step."""

    def __init__(self, trainer: Callable[[], SpellingTrainer], on_start: Callable[[], None]):
        self.trainer, self.on_start = trainer, on_start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_start()
        self.trainer().clock.restart()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer().step_ended()


def build_trainer(
    asked: TrlPlan,
    policy: RunPolicy,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    backend: str,
    validate: Callable[[], Mapping[str, float] | None],
) -> SpellingTrainer:
    """The trainer of a plan. As training begins it reports and verifies what the libraries hold."""
    on_gpu = torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(policy.checkpoints_dir / checkpointing.STAGING),
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        **asked.arguments,
    )
    if on_gpu:
        # One run has one GPU; several visible ones would make the trainer split each batch.
        torch.cuda.set_device(arguments.device)
        arguments._n_gpu = 1
    name, options = asked.optimizer
    trainer = SpellingTrainer(
        policy=policy,
        validate=validate,
        label_smoothing=asked.label_smoothing,
        on_start=lambda: policy.reporter.used(verify_applied(asked, trainer, backend)),
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [row.prompt_ids + row.answer_ids for row in rows],
                "labels": [[IGNORED] * len(row.prompt_ids) + row.answer_ids for row in rows],
            }
        ),
        processing_class=tokenizer,
        optimizer_cls_and_kwargs=(getattr(torch.optim, name), options),
    )
    # TRL turns the adapter of a 4-bit base to bf16.
    adapter_to_fp32(model)
    return trainer
