"""RunConfig: the only definition of a setting.

The form, the command line, the YAML files, the run's row and the documentation derive from it: a
field's type gives the widget, its bounds the limits, its docstring the help. The values live in
configs/, not here.
"""

import math
import os
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from src.config.data import DataConfig
from src.config.effects import BASIC, affects
from src.config.evaluation import EvaluationConfig
from src.config.section import Section, layer_names


class ModelConfig(Section):
    name: str = Field(
        min_length=1,
        max_length=200,
        json_schema_extra=affects("weights", "data", "cost", "checkpoint", "pack") | BASIC,
    )
    """Base model: one that ships in checkpoints/base (`spelltune-tiny`), a local folder, a GGUF
    file as Ollama and LM Studio have them, or a Hugging Face hub id such as `gpt2`."""
    revision: str | None = Field(
        None, json_schema_extra=affects("weights", "data", "cost", "checkpoint", "pack")
    )
    """Commit, branch or tag of a base model on the hub; empty takes the newest."""
    load_in_4bit: bool = Field(json_schema_extra=affects("weights", "cost", "checkpoint"))
    """Load the frozen base model in 4 bits (NF4), in about a quarter of its 16-bit memory. Needs an
    NVIDIA GPU."""
    max_length: int = Field(
        ge=16, le=131_072, json_schema_extra=affects("data", "cost", "checkpoint")
    )
    """Maximum length of a row in tokens, prompt and answer together; data with a longer row are
    refused before launch."""

    _tilde = field_validator("name")(staticmethod(os.path.expanduser))


class LoraConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("weights", "cost"))

    r: int = Field(
        ge=1, le=1024, json_schema_extra=affects("weights", "cost", "checkpoint") | BASIC
    )
    """Rank of the adapter's two matrices; a higher rank can learn more and takes more memory."""
    alpha: float = Field(gt=0, le=4096, json_schema_extra=affects("weights") | BASIC)
    """Scaling of the adapter: its output is multiplied by alpha / r."""
    dropout: float = Field(ge=0, lt=1)
    """Dropout probability of the adapter's inputs in training, in [0, 1)."""
    target_modules: Annotated[list[str] | None, BeforeValidator(layer_names)] = Field(
        min_length=1, json_schema_extra=affects("weights", "cost", "checkpoint", "pack")
    )
    """Names of the layers that get an adapter; empty (or PEFT's word, all-linear) takes all linear
    layers of attention and MLP blocks, by architecture (GPT-2: c_attn, c_proj, c_fc)."""
    bias: Literal["none", "all", "lora_only"] = Field(
        json_schema_extra=affects("weights", "cost", "checkpoint")
    )
    """Bias terms that are trained together with the adapter."""


class TrainingConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("weights"))

    max_steps: int = Field(ge=1, le=10_000_000, json_schema_extra=BASIC)
    """Optimizer steps to train for."""
    per_device_train_batch_size: int = Field(
        ge=1, le=65_536, json_schema_extra=affects("weights", "cost") | BASIC
    )
    """Rows per micro-batch (one forward and backward pass)."""
    gradient_accumulation_steps: int = Field(
        ge=1, le=65_536, json_schema_extra=affects("weights", "cost") | BASIC
    )
    """Micro-batches per optimizer step; rows per step are batch size x accumulation."""
    learning_rate: float = Field(gt=0, le=10, json_schema_extra=BASIC)
    """Peak learning rate, reached at the end of warm-up."""
    label_smoothing: float = Field(ge=0, lt=1)
    """Label smoothing: probability mass of the target that is spread over the whole vocabulary, in
    [0, 1); 0 is plain cross-entropy."""
    max_grad_norm: float = Field(gt=0)
    """L2 norm that gradients are clipped to (torch.nn.utils.clip_grad_norm_)."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        json_schema_extra=affects("weights", "cost", "pack")
    )
    """Compute dtype. auto is bf16 on a GPU that supports it, else fp16; fp32 on a CPU."""
    gradient_checkpointing: bool = Field(json_schema_extra=affects("cost"))
    """Recompute activations in the backward pass: less memory, about a third more time. Ignored by
    the packed engine; if it runs out of GPU memory, use `engine: trl`."""
    logging_steps: int = Field(ge=1, json_schema_extra=affects("scores"))
    """Steps between records of training loss, learning rate and gradient norm. The first and the
    last step are recorded too."""
    seed: int = Field(ge=0, le=2**32 - 1, json_schema_extra=BASIC)
    """Seeds initialisation, data order and dropout."""


class OptimizerConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("weights"))

    name: Literal["adamw_torch", "sgd"] = Field(
        json_schema_extra=affects("weights", "cost", "checkpoint", "pack") | BASIC
    )
    """AdamW, or stochastic gradient descent."""
    weight_decay: float = Field(ge=0, le=10)
    """Decoupled weight decay of AdamW; L2 penalty of SGD."""
    beta1: float = Field(ge=0, lt=1)
    """AdamW: decay rate of the first moment (running mean of the gradient)."""
    beta2: float = Field(ge=0, lt=1)
    """AdamW: decay rate of the second moment (running mean of the squared gradient)."""
    epsilon: float = Field(gt=0, le=1)
    """AdamW: added to the denominator for numerical stability."""
    momentum: float = Field(ge=0, lt=1)
    """SGD: momentum factor, in [0, 1)."""


class SchedulerConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("weights"))

    name: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt"
    ] = Field(json_schema_extra=BASIC)
    """Learning rate schedule after warm-up."""
    warmup_steps: int = Field(ge=0, json_schema_extra=BASIC)
    """Steps of linear warm-up from 0 to the peak learning rate."""


class CheckpointingConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("disk"))

    save_steps: int = Field(ge=1, json_schema_extra=BASIC)
    """Steps between checkpoints; the best evaluation and the last step are always saved."""
    keep_last: int = Field(ge=2)
    """Newest checkpoints to keep, besides the best one and those that a fork began from."""
    max_gib: float | None = Field(gt=0)
    """Maximum disk space of the run's checkpoints in GiB. Beyond it the oldest are deleted, but
    never the best one, the last two or one that a fork began from; empty sets no limit."""


class EarlyStoppingConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("scores"))

    metric: str = Field(min_length=1)
    """Metric that selects the best checkpoint, such as val/exact_match or train/loss, by its value
    at each evaluation."""
    mode: Literal["min", "max"]
    """min if lower values of the metric are better, max if higher ones are."""
    min_delta: float = Field(ge=0)
    """Minimum change of the metric that counts as an improvement."""
    warmup_evaluations: int = Field(ge=0)
    """Number of first evaluations that never stop the run."""
    patience: int | None = Field(ge=1, json_schema_extra=BASIC)
    """Stop after this many evaluations without an improvement; empty turns it off."""
    target: float | None
    """Stop once the metric reaches this value; empty sets no target."""
    divergence_factor: float | None = Field(gt=1)
    """Stop when the training loss is not finite, or above this multiple of its lowest value; when
    empty, only a loss that is not finite ends the run, as failed."""
    plateau_evaluations: int | None = Field(ge=2)
    """Stop when the trend of the metric over this many evaluations improves by no more than
    min_delta; empty turns it off."""
    criteria: list[str]
    """Further criteria by name, as registered in src/training/early_stopping.py."""


class SupervisionConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects())

    auto_resume: int = Field(ge=0, le=100)
    """Maximum number of automatic resumes of an interrupted run (a lost machine, a killed process),
    each only if there is a new checkpoint since the last."""
    self_heal: bool
    """After running out of GPU memory, continue with half the micro-batch and double the
    accumulation; after a loss that is not finite, from the last checkpoint with half the learning
    rate. At most twice per run."""
    standby_minutes: float = Field(ge=0, le=1440)
    """Idle minutes after which the standby trainer of the next run ends; 0 keeps none loaded."""


class TrackingConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects())

    tracker: Literal["wandb", "trackio"]
    """Experiment tracker that also gets the metrics: Weights & Biases, or Trackio, which keeps them
    on this machine."""
    mode: Literal["auto", "online", "offline", "off"]
    """online sends to Weights & Biases if there is an API key, offline writes into the run's folder
    for a later `wandb sync`, auto follows WANDB_MODE (offline if unset), off records in the run
    table alone. A tracker never blocks or fails a run."""
    project: str = Field(min_length=1, max_length=128)
    """Project in the tracker that the run is logged to."""
    group: str | None = Field(max_length=128)
    """Group of runs in that project, such as the name of a sweep; empty for none."""
    tags: list[str]
    """Tags of the run in the tracker."""
    artifacts: bool
    """Also upload the final adapter and the table of its wrong answers at the end."""
    tensorboard: bool
    """Also write TensorBoard event files into the run's folder."""


class RunConfig(Section):
    """All settings of a run. Load one with `load_config`; the default values are in configs/."""

    name: str = Field(min_length=1, max_length=80, json_schema_extra=affects() | BASIC)
    """Name of the run; its id adds the launch time."""
    backend: Literal["auto", "unsloth", "peft"] = Field(
        json_schema_extra=affects("weights", "cost")
    )
    """Library that loads and patches the model. auto takes Unsloth on a GPU if it supports the
    model, else PEFT."""
    engine: Literal["auto", "trl", "packed"] = Field(
        json_schema_extra=affects("weights", "cost", "pack")
    )
    """Training engine: trl is TRL's SFTTrainer, packed trains many adapters at once, auto
    chooses."""
    pack_size: int = Field(ge=1, le=1024, json_schema_extra=affects("pack"))
    """Maximum number of runs that the packed engine trains at once in one process: queued runs with
    the same base model, target modules, precision and optimizer."""
    model: ModelConfig
    lora: LoraConfig
    data: DataConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    evaluation: EvaluationConfig
    checkpointing: CheckpointingConfig
    early_stopping: EarlyStoppingConfig
    supervision: SupervisionConfig
    tracking: TrackingConfig

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value.isprintable() or not value.strip():
            raise ValueError("a run's name is one line of printable characters")
        return value.strip()

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step."""
        return self.training.per_device_train_batch_size * self.training.gradient_accumulation_steps

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps in one pass over `rows` training rows."""
        return math.ceil(rows / self.rows_per_step)

    def smaller_micro_batch(self) -> dict[str, int] | None:
        """{setting: value} for half the micro-batch, or for its next part that leaves the rows of a
        step as they are; None for one of one row."""
        size = self.training.per_device_train_batch_size
        divisor = next((n for n in range(2, size + 1) if size % n == 0), None)
        if divisor is None:
            return None
        times = self.training.gradient_accumulation_steps
        return {
            "training.per_device_train_batch_size": size // divisor,
            "training.gradient_accumulation_steps": times * divisor,
        }
