"""RunConfig: the only definition of a setting.

The form, the command line, the YAML files, the run's row and the documentation derive from it: a
field's type gives the widget, its bounds the limits, its docstring the help. The values live in
configs/, not here.
"""

import math
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from src.errors import did_you_mean

BUILT_IN_TASKS = ("spell_out", "correct")

Effect = Literal[
    "weights",  # the adapter after a given step
    "data",  # the rows that are trained and scored, and their tokens
    "scores",  # what is scored, which adapter is kept as the best, and when training ends
    "cost",  # memory or time of the start, a step or a batch of answers
    "checkpoint",  # what the weights and the optimizer state in a checkpoint are made for
    "pack",  # what all runs that the packed engine trains in one process have in common
    "disk",  # which checkpoints there are
]
EFFECTS: frozenset[Effect] = frozenset(get_args(Effect))

# Settings that people change most: the form shows them open, the others folded.
BASIC: dict[str, JsonValue] = {"basic": True}


def affects(*effects: Effect) -> dict[str, JsonValue]:
    """Metadata of a field, or of a section for those of its fields that have none; without an
    effect, runs that differ in nothing else are repetitions of each other.

    A setting that declares nothing counts as affecting everything: the safe side of each use.
    """
    return {"affects": list(effects)}


class Section(BaseModel):
    # allow_inf_nan: a learning rate of nan passes every bound.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class ModelConfig(Section):
    name: str = Field(
        min_length=1,
        max_length=200,
        json_schema_extra=affects("weights", "data", "cost", "checkpoint", "pack") | BASIC,
    )
    """Base model: one that ships in checkpoints/base (`spelltune-tiny`), a folder, or a hub id such
    as `gpt2`."""
    revision: str | None = Field(
        None, json_schema_extra=affects("weights", "data", "cost", "checkpoint", "pack")
    )
    """Commit, branch or tag of a base model from the hub; empty takes its newest."""
    load_in_4bit: bool = Field(json_schema_extra=affects("weights", "cost", "checkpoint"))
    """Load the frozen base in 4 bits (NF4), about a quarter of the 16-bit memory. Needs an NVIDIA
    GPU."""
    max_length: int = Field(
        ge=16, le=131_072, json_schema_extra=affects("data", "cost", "checkpoint")
    )
    """Longest training row in tokens, prompt and answer together; a longer row is refused before
    launch."""


class LoraConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("weights", "cost"))

    r: int = Field(
        ge=1, le=1024, json_schema_extra=affects("weights", "cost", "checkpoint") | BASIC
    )
    """Rank of the two adapter matrices: more rank can learn more and costs more memory."""
    alpha: float = Field(gt=0, le=4096, json_schema_extra=affects("weights") | BASIC)
    """Scale of the adapter; its output is multiplied by alpha / r."""
    dropout: float = Field(ge=0, lt=1)
    """Share of the adapter's inputs that is zeroed in training, in [0, 1)."""
    target_modules: list[str] | None = Field(
        min_length=1, json_schema_extra=affects("weights", "cost", "checkpoint", "pack")
    )
    """Names of the layers that get an adapter; empty takes all linear layers of attention and MLP
    blocks, by architecture (GPT-2: c_attn, c_proj, c_fc)."""
    bias: Literal["none", "all", "lora_only"] = Field(
        json_schema_extra=affects("weights", "cost", "checkpoint")
    )
    """Which bias terms are trained beside the adapter."""


class DataConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("data", "cost"))

    task: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}$", json_schema_extra=BASIC)
    """Built-in task `spell_out` (a word letter by letter) or `correct` (human misspellings); with a
    path or a hub id it is only the label of your own data."""
    path: str | None = None
    """Own data: a JSON, JSONL, CSV or Parquet file with columns question and answer, or a folder
    with one a split."""
    hub_id: str | None = None
    """Own data: id of a data set on the Hugging Face hub with columns question and answer."""
    revision: str | None = None
    """Commit, branch or tag of the hub data set; empty takes its newest."""
    template: str = Field(min_length=1, json_schema_extra=affects("weights", "data", "cost"))
    """Prompt with {question} in it. The answer follows with a space at its head, so the prompt must
    not end in one."""

    @field_validator("template")
    @classmethod
    def _template(cls, value: str) -> str:
        if "{question}" not in value:
            raise ValueError("the prompt template must contain {question}, where the question goes")
        if value != value.rstrip(" \t"):
            raise ValueError(
                "the prompt template ends in a space, which would merge with the answer's first "
                "letter; remove it (the answer brings its own)"
            )
        return value

    @model_validator(mode="after")
    def _source(self) -> "DataConfig":
        if self.path and self.hub_id:
            raise ValueError("data.path and hub_id are both set; keep one of them")
        if not (self.path or self.hub_id) and self.task not in BUILT_IN_TASKS:
            near = did_you_mean(self.task, BUILT_IN_TASKS)
            raise ValueError(
                f"data.task {self.task!r} is not built in ({', '.join(BUILT_IN_TASKS)}){near}; "
                "set data.path or data.hub_id to use your own data"
            )
        return self


class TrainingConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("weights"))

    max_steps: int = Field(ge=1, le=10_000_000, json_schema_extra=BASIC)
    """Optimizer steps to train for."""
    per_device_train_batch_size: int = Field(
        ge=1, le=65_536, json_schema_extra=affects("weights", "cost") | BASIC
    )
    """Rows of one micro-batch (one forward and backward)."""
    gradient_accumulation_steps: int = Field(
        ge=1, le=65_536, json_schema_extra=affects("weights", "cost") | BASIC
    )
    """Micro-batches of one optimizer step; rows a step are batch size x accumulation."""
    learning_rate: float = Field(gt=0, le=10, json_schema_extra=BASIC)
    """Peak learning rate, reached after warm-up."""
    label_smoothing: float = Field(ge=0, lt=1)
    """Share of the target's probability spread over the whole vocabulary, in [0, 1); 0 is plain
    cross-entropy."""
    max_grad_norm: float = Field(gt=0)
    """Gradients are scaled down to this L2 norm when theirs is larger."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        json_schema_extra=affects("weights", "cost", "pack")
    )
    """Number format of the products. auto: bf16 where the GPU has it, else fp16; fp32 on a CPU."""
    gradient_checkpointing: bool = Field(json_schema_extra=affects("cost"))
    """Recompute activations in the backward pass: less memory, about a third more time. The
    packed engine keeps them; where its memory ends, engine trl is the way."""
    logging_steps: int = Field(ge=1, json_schema_extra=affects("scores"))
    """Record training loss, learning rate and gradient norm every so many steps."""
    seed: int = Field(ge=0, le=2**32 - 1, json_schema_extra=BASIC)
    """Rules adapter initialisation, row order and dropout."""


class OptimizerConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("weights"))

    name: Literal["adamw_torch", "sgd"] = Field(
        json_schema_extra=affects("weights", "cost", "checkpoint", "pack") | BASIC
    )
    """AdamW, or stochastic gradient descent."""
    weight_decay: float = Field(ge=0, le=10)
    """Decoupled weight decay of AdamW; L2 penalty of SGD."""
    beta1: float = Field(ge=0, lt=1)
    """AdamW: decay of the gradient's running mean."""
    beta2: float = Field(ge=0, lt=1)
    """AdamW: decay of the squared gradient's running mean."""
    epsilon: float = Field(gt=0, le=1)
    """AdamW: added to the denominator against division by zero."""
    momentum: float = Field(ge=0, lt=1)
    """SGD: share of the last update that is carried on."""


class SchedulerConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("weights"))

    name: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt"
    ] = Field(json_schema_extra=BASIC)
    """How the learning rate falls after warm-up."""
    warmup_steps: int = Field(ge=0, json_schema_extra=BASIC)
    """Steps in which the learning rate rises from 0 to its peak."""


class EvaluationConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("scores"))

    eval_steps: int = Field(ge=1, json_schema_extra=BASIC)
    """Score the validation set every so many steps, and before the first and after the last."""
    batch_size: int = Field(ge=1, le=65_536, json_schema_extra=affects("scores", "cost"))
    """Rows that are scored at once."""
    max_rows: int | None = Field(ge=1)
    """Score only so many validation rows (always the same ones); empty scores all. The test set is
    always whole."""
    max_new_tokens: int | None = Field(ge=1, le=4096, json_schema_extra=affects("scores", "cost"))
    """Longest decoded answer in tokens; empty takes the longest expected answer plus 8."""


class CheckpointingConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("disk"))

    save_steps: int = Field(ge=1, json_schema_extra=BASIC)
    """Write a checkpoint every so many steps; the best evaluation and the last step are always
    saved."""
    keep_last: int = Field(ge=2)
    """Checkpoints to keep besides the best one and those that a fork began from."""
    max_gib: float | None = Field(gt=0)
    """Disk space of the run's checkpoints in GiB. Beyond it the oldest go, though never the best,
    the last two or a fork's; empty sets no limit."""


class EarlyStoppingConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("scores"))

    metric: str = Field(min_length=1)
    """Recorded metric that names the best checkpoint, such as val/exact_match or train/loss; its
    value at each evaluation counts."""
    mode: Literal["min", "max"]
    """Whether less or more of the metric is better."""
    min_delta: float = Field(ge=0)
    """Smallest change that counts as better."""
    warmup_evaluations: int = Field(ge=0)
    """The first so many evaluations never stop the run, whatever they find."""
    patience: int | None = Field(ge=1, json_schema_extra=BASIC)
    """Stop after so many evaluations without a better one; empty never stops for that."""
    target: float | None
    """Stop once the metric is as good as this; empty sets no target."""
    divergence_factor: float | None = Field(gt=1)
    """Stop when the training loss is no number any more, or above so many times its lowest; empty
    lets it grow, and a loss that is no number fails the run."""
    plateau_evaluations: int | None = Field(ge=2)
    """Stop when the trend of the metric over so many evaluations gains no more than min_delta;
    empty never looks for one."""
    criteria: list[str]
    """More criteria by name, as registered in src/training/early_stopping.py."""


class SupervisionConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects())

    auto_resume: int = Field(ge=0, le=100)
    """Resume an interrupted run (a lost machine, a killed process) by itself at most so many times,
    each only after a new checkpoint."""
    self_heal: bool
    """After running out of GPU memory, go on with half the micro-batch and double the accumulation;
    after a loss that is no number, from the last checkpoint with half the learning rate. At most
    twice a run."""


class TrackingConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects())

    tracker: Literal["wandb", "trackio"]
    """Where the metrics also go: Weights & Biases, or Trackio, which keeps them on this machine."""
    mode: Literal["auto", "online", "offline", "off"]
    """online sends to Weights & Biases where a key exists, offline saves in the run's folder for a
    later `wandb sync`, auto follows WANDB_MODE and is offline without it; off keeps it to the run
    table. It never blocks or fails a run."""
    project: str = Field(min_length=1, max_length=128)
    """Project of the tracker that the run goes to."""
    group: str | None = Field(max_length=128)
    """Group of runs in that project, such as the name of a sweep; empty for none."""
    tags: list[str]
    """Tags that the run carries there."""
    artifacts: bool
    """At the end also send the kept adapter and the table of the words that it got wrong."""
    tensorboard: bool
    """Also write TensorBoard event files into the run's folder."""


class RunConfig(Section):
    """Everything that decides a run. Load one with `load_config`; the values come from configs/."""

    name: str = Field(min_length=1, max_length=80, json_schema_extra=affects() | BASIC)
    """Name of the run; its id adds the time of the launch."""
    backend: Literal["auto", "unsloth", "peft"] = Field(
        json_schema_extra=affects("weights", "cost")
    )
    """What loads and patches the model. auto takes Unsloth on a GPU where it supports the model,
    and PEFT elsewhere."""
    engine: Literal["auto", "trl", "packed"] = Field(
        json_schema_extra=affects("weights", "cost", "pack")
    )
    """What trains: trl is TRL's SFTTrainer; packed trains many adapters at once; auto picks."""
    pack_size: int = Field(ge=1, le=1024, json_schema_extra=affects("pack"))
    """Runs that engine packed trains at once in one process, at most: those in the queue that have
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
        """Optimizer steps in which each of `rows` training rows is seen once."""
        return math.ceil(rows / self.rows_per_step)
