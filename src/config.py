"""RunConfig: the only definition of a setting.

The form, the command line, the YAML files, the run's row and the documentation derive from it: a
field's type gives the widget, its bounds the limits, its docstring the help. The values live in
configs/, not here.
"""

import difflib
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from src.errors import UserError
from src.paths import CONFIGS, base_model

DEFAULTS = CONFIGS / "training" / "config.yaml"
PRESETS = CONFIGS / "presets"
DEFAULT_PRESET = "tiny-spell"

# Marks the settings that people change first: the form shows them open, the rest folded.
FIRST: dict[str, JsonValue] = {"first": True}


class ConfigError(UserError, ValueError):
    """Settings that cannot be used. `problems` maps a setting's dotted name ('' for the whole file)
    to a sentence."""

    def __init__(self, problems: dict[str, str]):
        self.problems = problems
        super().__init__(
            "\n".join(f"{name}: {text}" if name else text for name, text in problems.items())
        )


class Section(BaseModel):
    # allow_inf_nan: a learning rate of nan passes every bound.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class ModelConfig(Section):
    name: str = Field(min_length=1, max_length=200, json_schema_extra=FIRST)
    """Base model: one that ships in checkpoints/base (`spelltune-tiny`), a folder, or a hub id such
    as `gpt2`."""
    revision: str | None = None
    """Commit, branch or tag of a base model from the hub; empty takes its newest."""
    load_in_4bit: bool
    """Load the frozen base in 4 bits (NF4), about a quarter of the 16-bit memory. Needs an NVIDIA
    GPU."""
    max_length: int = Field(ge=16, le=131_072)
    """Longest training row in tokens, prompt and answer together; a longer row is refused before
    launch."""


class LoraConfig(Section):
    r: int = Field(ge=1, le=1024, json_schema_extra=FIRST)
    """Rank of the two adapter matrices: more rank can learn more and costs more memory."""
    alpha: float = Field(gt=0, le=4096, json_schema_extra=FIRST)
    """Scale of the adapter; its output is multiplied by alpha / r."""
    dropout: float = Field(ge=0, lt=1)
    """Share of the adapter's inputs that is zeroed in training, in [0, 1)."""
    target_modules: list[str] | None = Field(min_length=1)
    """Names of the layers that get an adapter; empty takes all linear layers of attention and MLP
    blocks, by architecture (GPT-2: c_attn, c_proj, c_fc)."""
    bias: Literal["none", "all", "lora_only"]
    """Which bias terms are trained beside the adapter."""


class DataConfig(Section):
    task: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}$", json_schema_extra=FIRST)
    """Built-in task `spell_out` (a word letter by letter) or `correct` (human misspellings); with a
    path or a hub id it is only the label of your own data."""
    path: str | None = None
    """Own data: a JSON, JSONL, CSV or Parquet file with columns question and answer, or a folder
    with one a split."""
    hub_id: str | None = None
    """Own data: id of a data set on the Hugging Face hub with columns question and answer."""
    revision: str | None = None
    """Commit, branch or tag of the hub data set; empty takes its newest."""
    template: str = Field(min_length=1)
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
            near = nearest(self.task, BUILT_IN_TASKS)
            raise ValueError(
                f"data.task {self.task!r} is not built in ({', '.join(BUILT_IN_TASKS)}){near}; "
                "set data.path or data.hub_id to use your own data"
            )
        return self


class TrainingConfig(Section):
    max_steps: int = Field(ge=1, le=10_000_000, json_schema_extra=FIRST)
    """Optimizer steps to train for."""
    per_device_train_batch_size: int = Field(ge=1, le=65_536, json_schema_extra=FIRST)
    """Rows of one micro-batch (one forward and backward)."""
    gradient_accumulation_steps: int = Field(ge=1, le=65_536, json_schema_extra=FIRST)
    """Micro-batches of one optimizer step; rows a step are batch size x accumulation."""
    learning_rate: float = Field(gt=0, le=10, json_schema_extra=FIRST)
    """Peak learning rate, reached after warm-up."""
    label_smoothing: float = Field(ge=0, lt=1)
    """Share of the target's probability spread over the whole vocabulary, in [0, 1); 0 is plain
    cross-entropy."""
    max_grad_norm: float = Field(gt=0)
    """Gradients are scaled down to this L2 norm when theirs is larger."""
    precision: Literal["auto", "bf16", "fp16", "fp32"]
    """Number format of the products. auto: bf16 where the GPU has it, else fp16; fp32 on a CPU."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, about a third more time. The
    packed engine keeps them; where its memory ends, engine trl is the way."""
    logging_steps: int = Field(ge=1)
    """Record training loss, learning rate and gradient norm every so many steps."""
    seed: int = Field(ge=0, le=2**32 - 1, json_schema_extra=FIRST)
    """Rules adapter initialisation, row order and dropout."""


class OptimizerConfig(Section):
    name: Literal["adamw_torch", "sgd"] = Field(json_schema_extra=FIRST)
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
    name: Literal[
        "constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt"
    ] = Field(json_schema_extra=FIRST)
    """How the learning rate falls after warm-up."""
    warmup_steps: int = Field(ge=0, json_schema_extra=FIRST)
    """Steps in which the learning rate rises from 0 to its peak."""


class EvaluationConfig(Section):
    eval_steps: int = Field(ge=1, json_schema_extra=FIRST)
    """Score the validation set every so many steps, and before the first and after the last."""
    batch_size: int = Field(ge=1, le=65_536)
    """Rows that are scored at once."""
    max_rows: int | None = Field(ge=1)
    """Score only so many validation rows (always the same ones); empty scores all. The test set is
    always whole."""
    max_new_tokens: int | None = Field(ge=1, le=4096)
    """Longest decoded answer in tokens; empty takes the longest expected answer plus 8."""


class CheckpointingConfig(Section):
    save_steps: int = Field(ge=1, json_schema_extra=FIRST)
    """Write a checkpoint every so many steps; the best evaluation and the last step are always
    saved."""
    keep_last: int = Field(ge=2)
    """Checkpoints to keep besides the best one and those that a fork began from."""
    max_gib: float | None = Field(gt=0)
    """Disk space of the run's checkpoints in GiB. Beyond it the oldest go, though never the best,
    the last two or a fork's; empty sets no limit."""


class EarlyStoppingConfig(Section):
    metric: str = Field(min_length=1)
    """Recorded metric that names the best checkpoint, such as val/exact_match or train/loss; its
    value at each evaluation counts."""
    mode: Literal["min", "max"]
    """Whether less or more of the metric is better."""
    min_delta: float = Field(ge=0)
    """Smallest change that counts as better."""
    warmup_evaluations: int = Field(ge=0)
    """The first so many evaluations never stop the run, whatever they find."""
    patience: int | None = Field(ge=1, json_schema_extra=FIRST)
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
    auto_resume: int = Field(ge=0, le=100)
    """Resume an interrupted run (a lost machine, a killed process) by itself at most so many times,
    each only after a new checkpoint."""
    self_heal: bool
    """After running out of GPU memory, go on with half the micro-batch and double the accumulation;
    after a loss that is no number, from the last checkpoint with half the learning rate. At most
    twice a run."""


class TrackingConfig(Section):
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

    name: str = Field(min_length=1, max_length=80, json_schema_extra=FIRST)
    """Name of the run; its id adds the time of the launch."""
    backend: Literal["auto", "unsloth", "peft"]
    """What loads and patches the model. auto takes Unsloth on a GPU where it supports the model,
    and PEFT elsewhere."""
    engine: Literal["auto", "trl", "packed"]
    """What trains: trl is TRL's SFTTrainer; packed trains many adapters at once; auto picks."""
    pack_size: int = Field(ge=1, le=1024)
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


BUILT_IN_TASKS = ("spell_out", "correct")


@dataclass(frozen=True)
class Setting:
    """One leaf of RunConfig, as the form, the command line and the documentation need it."""

    name: str  # dotted, such as lora.r
    annotation: Any
    help: str
    first: bool
    low: float | None  # bounds; `low_open` and `high_open` exclude the bound itself
    high: float | None
    low_open: bool
    high_open: bool

    @property
    def optional(self) -> bool:
        return type(None) in typing.get_args(self.annotation)

    @property
    def type(self) -> Any:
        """The annotation without `None`: bool, int, float, str, list[str] or a Literal."""
        if isinstance(self.annotation, types.UnionType):
            return next(a for a in typing.get_args(self.annotation) if a is not type(None))
        return self.annotation

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words of a Literal, else none."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()


def settings(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting, in the order of its definition."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield _setting(prefix + name, field)


def _setting(name: str, field: FieldInfo) -> Setting:
    low: Any = None
    high: Any = None
    low_open = high_open = False
    for rule in field.metadata:
        match rule:
            case Ge(bound):
                low = bound
            case Gt(bound):
                low, low_open = bound, True
            case Le(bound):
                high = bound
            case Lt(bound):
                high, high_open = bound, True
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    text = " ".join((field.description or "").split())
    return Setting(
        name, field.annotation, text, bool(extra.get("first")), low, high, low_open, high_open
    )


def get(config: BaseModel, name: str) -> Any:
    """The value of a setting by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """'; did you mean X?' for the known word most like `word`, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def presets() -> list[str]:
    """Names of the shipped presets, the default first."""
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    return sorted(names, key=lambda name: name != DEFAULT_PRESET)


def load_config(
    path: str | Path | None = None,
    *,
    preset: str | None = None,
    overrides: typing.Mapping[str, Any] | None = None,
) -> RunConfig:
    """The four files under configs/, then the preset, then the file at `path`, then `overrides` by
    dotted name.

    With neither a path nor a preset, the default preset. Raises ConfigError that names every
    problem at once.
    """
    values = defaults()
    if preset is None and path is None:
        preset = DEFAULT_PRESET
    if preset is not None:
        if preset not in presets():
            near = nearest(preset, presets())
            raise ConfigError({"": f"no preset {preset!r}{near} ({', '.join(presets())})"})
        _merge(values, {"name": preset} | read_yaml(PRESETS / f"{preset}.yaml"))
    if path is not None:
        _merge(values, {"name": Path(path).stem} | _from_flat(read_yaml(Path(path))))
    return with_overrides(values, overrides or {})


def with_overrides(values: dict[str, Any], overrides: typing.Mapping[str, Any]) -> RunConfig:
    """The RunConfig of nested `values` with `overrides`, by dotted name, on top."""
    for name, value in overrides.items():
        _merge(values, _nest(name, value))
    return parse_config(values)


def defaults() -> dict[str, Any]:
    """The values of the four files under configs/, nested."""
    values = read_yaml(DEFAULTS)
    for part in values.pop("include"):
        _merge(values, read_yaml(DEFAULTS.parent / part))
    return values


def stored_config(values: typing.Mapping[str, Any]) -> RunConfig:
    """The RunConfig of a run's row; a setting that came later than the run has its default."""
    complete = defaults()
    _merge(complete, values)
    return parse_config(complete)


def parse_config(values: typing.Mapping[str, Any]) -> RunConfig:
    """The RunConfig of nested `values`, or ConfigError with one sentence a field."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_problems(error)) from None


def parse_override(text: str) -> tuple[str, Any]:
    """`lora.r=16` -> ("lora.r", 16); the value is read as YAML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError({"": f"--set takes SETTING=VALUE, such as lora.r=16; got {text!r}"})
    try:
        return name.strip(), yaml.load(value, Loader)
    except (yaml.YAMLError, ValueError):
        return name.strip(), value


class Loader(yaml.SafeLoader):
    """Safe YAML whose only booleans are true and false, as in YAML 1.2: `mode: off` is a word."""

    yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if first in "tTfF" or not tag.endswith(":bool")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; anything else is a ConfigError."""
    return parse_yaml(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a settings file; ConfigError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError({"": f"no file {path}"}) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError({"": f"cannot read {path}: {error}"}) from None


def parse_yaml(text: str, source: str | Path) -> dict[str, Any]:
    """The mapping that a YAML text holds; `source` is what an error calls it."""
    try:
        values = yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            {"": f"{source} is not valid YAML: {' '.join(str(error).split())}"}
        ) from None
    if not isinstance(values, dict):
        held = "is empty" if values is None else f"holds a {type(values).__name__}"
        example = "`training: {max_steps: 600}`"
        raise ConfigError({"": f"{source} {held}; it maps settings to values, as in {example}"})
    return values


def to_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def differences(config: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings whose values differ, by dotted name: (value here, value there)."""
    pairs = {s.name: (get(config, s.name), get(other, s.name)) for s in settings()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def with_absolute_paths(config: RunConfig, folder: Path | None = None) -> RunConfig:
    """The config with local paths made absolute, from `folder` or else the current one: the trainer
    runs in another."""
    here = folder or Path.cwd()
    sections: dict[str, Section] = {}
    if config.data.path:
        path = str(here / Path(config.data.path).expanduser())
        sections["data"] = config.data.model_copy(update={"path": path})
    model = here / Path(config.model.name).expanduser()
    if model.is_dir() and base_model(config.model.name) == config.model.name:
        sections["model"] = config.model.model_copy(update={"name": str(model)})
    return config.model_copy(update=sections)


def effective_batch(config: RunConfig) -> int:
    """Rows of one optimizer step."""
    return config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps


def steps_per_epoch(config: RunConfig, rows: int) -> int:
    """Optimizer steps in which each of `rows` training rows is seen once."""
    return math.ceil(rows / effective_batch(config))


# Where the keys of the older flat configs went. `timestamp` is given by the launch now.
_FLAT = {
    "experiment_name": "name",
    "lora_config": "lora",
    "training_config": "training",
}
_FLAT_TRAINING = {"warmup_steps": "scheduler"}


def _from_flat(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the keys of the older flat shape moved to where they are now."""
    if not _FLAT.keys() & values.keys():
        return values
    moved = {_FLAT.get(key, key): value for key, value in values.items() if key != "timestamp"}
    training = moved.get("training")
    if isinstance(training, dict):
        moved["training"] = {k: v for k, v in training.items() if k not in _FLAT_TRAINING}
        for key, section in _FLAT_TRAINING.items():
            if key in training:
                moved.setdefault(section, {})[key] = training[key]
    return moved


def _nest(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _merge(values: dict[str, Any], over: typing.Mapping[str, Any]) -> None:
    """`over` on top of `values`, section by section."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _problems(error: ValidationError) -> dict[str, str]:
    """One sentence a field: what arrived, what is allowed, what to do."""
    names = [setting.name for setting in settings()]
    problems: dict[str, str] = {}
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            siblings = [
                n for n in names + list(RunConfig.model_fields) if n.count(".") == name.count(".")
            ]
            message = (
                f"no such setting{nearest(name, siblings) or nearest(name.split('.')[-1], names)}"
            )
        elif item["type"] == "missing":
            message = "no value given"
        elif item["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}; got {item['input']!r}"
        else:
            # A rule over several settings names first the one to change: the form shows it there.
            first, _, rest = message.partition(" ")
            name, message = (first, rest) if first in names else (name, message)
        problems.setdefault(name, message)
    return problems
