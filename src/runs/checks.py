"""Checks of a config before it is launched: everything that can be known to fail later."""

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from src import paths, store
from src.config import ConfigError, RunConfig, TrackingConfig, affecting, subset
from src.format import counted
from src.models.base_files import TOKENIZER, BaseModelError
from src.runs import preview_cache
from src.runs.base_checks import readable_base, target_problems
from src.runs.machine import gpus, has_bf16
from src.runs.spawn import Worker, start_attached
from src.runs.timeouts import TIMEOUTS
from src.training.early_stopping import stopping_problems
from src.training.packed.eligibility import packed_problems
from src.training.prompts import format_of

if TYPE_CHECKING:
    from src.models.prompt_format import PromptFormat
    from src.training.data_loaders import Splits


def check(config: RunConfig) -> dict[str, Any]:
    """Preview of a config's data (see data_preview.preview).

    ConfigError with every problem that can be known before launch: no GPU for 4-bit, unusable data,
    rows longer than max_length.
    """
    problems: dict[str, str] = {}
    preview: dict[str, Any] = {}
    try:
        preview = kept_preview(config)
    except ConfigError as error:
        problems = error.problems
    # Second: the files of a base on the hub are here now.
    if problems := problems | setting_problems(config):
        raise ConfigError(problems)
    return preview


def setting_problems(config: RunConfig) -> dict[str, str]:
    """A sentence for each setting that this machine cannot follow: {setting: sentence}. Reads no
    data, so that a form can ask at every keystroke."""
    problems = name_problems(config.name)
    problems |= stopping_problems(config.early_stopping) | tracking_problems(config.tracking)
    try:
        check_writable(paths.home() / "checkpoints", lambda text: ConfigError({"": text}))
    except ConfigError as error:
        problems |= error.problems
    if config.model.load_in_4bit and not gpus():
        problems["model.load_in_4bit"] = (
            "4-bit loading needs an NVIDIA GPU and this machine has none; turn it off"
        )
    if config.backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        problems["backend"] = "unsloth is not installed here; use auto or peft"
    problems |= target_problems(config) | precision_problems(config)
    if config.engine == "packed":
        problems |= packed_problems(config)
    if config.evaluation.suites:
        from src.training.suites import problem_of_names  # with pandas

        if problem := problem_of_names(config.evaluation.suites):
            problems["evaluation.suites"] = problem
    return problems


def name_problems(name: str) -> dict[str, str]:
    """{setting: sentence} if a new run cannot have this name. Older runs may have it."""
    if "@" not in name:
        return {}
    text = f"takes no @, which parts a run from the step of a checkpoint (lr@10); got {name!r}"
    return {"name": text}


def precision_problems(config: RunConfig) -> dict[str, str]:
    """{setting: sentence} if this machine cannot train in the precision that is asked for."""
    asked, devices = config.training.precision, gpus()
    if asked == "fp16" and not devices:
        text = "fp16 needs a GPU and this machine has none; take auto or fp32"
        return {"training.precision": text}
    old = [name for device, name in devices.items() if not has_bf16(device)]
    if not old:
        return {}
    if asked == "bf16":
        return {"training.precision": f"{old[0]} has no bf16; take auto or fp16"}
    if asked == "auto" and config.engine == "packed":
        text = f"the packed engine does not scale losses for fp16, and {old[0]} has no bf16"
        return {"engine": f"{text}; take engine trl"}
    return {}


def previewed() -> frozenset[str]:
    """The settings that `data_preview` depends on."""
    suites = {f"evaluation.{name}" for name in ("suites", "suite_rows", "suite_seen_rows")}
    return affecting("data") | suites


def kept_preview(config: RunConfig) -> dict[str, Any]:
    """`data_preview`, from the disk where the same data were looked at before."""
    try:
        base = readable_base(config)
    except BaseModelError:
        return data_preview(config)  # which says so, beside what is wrong with the data
    return preview_cache.kept(base, subset(config, previewed()), lambda: data_preview(config))


def data_preview(config: RunConfig) -> dict[str, Any]:
    """The preview of a config's data and suites, or ConfigError: a base model that cannot be
    loaded, unusable data, rows beyond max_length or the base model's context. Depends on no setting
    but those of `previewed`."""
    # pandas takes longer to load than all else here, and only who looks at data needs it.
    from src.training.data_files import DataError
    from src.training.data_loaders import splits_of
    from src.training.data_preview import preview

    problems: dict[str, str] = {}
    base = splits = None
    try:
        base = readable_base(config)
    except BaseModelError as error:
        problems["model.name"] = str(error)
    data = config.data
    try:
        if base or not data.multi_token_words:  # which asks the tokenizer of the base
            splits = splits_of(config)
    except DataError as error:
        problems[data.source_setting] = str(error)
    if splits is None or base is None or (tokenizer := base.find(TOKENIZER)) is None:
        raise ConfigError(problems)
    asked, context = config.model.max_length, base.context_tokens
    limit = min(asked, context or asked)
    try:
        form = format_of(config)
    except BaseModelError as error:
        field = "data.system_prompt" if data.system_prompt else "data.template"
        # The name of the setting stands before its sentence already.
        raise ConfigError({field: str(error).removeprefix(f"{field} ")}) from None
    seen = preview(splits, tokenizer=tokenizer, form=form, max_length=limit)
    if seen["too_long"]:
        name = f"{limit:,} tokens" if limit == asked else f"the base model's context of {limit:,}"
        advice = "raise it or shorten the rows" if limit == asked else "shorten or remove the rows"
        text = (
            f"{counted(seen['too_long'], 'row')} longer than {name}, the longest has "
            f"{seen['tokens']['max']:,}; {advice}"
        )
        raise ConfigError({"model.max_length": text})
    if config.evaluation.suites:
        seen["suites"] = _suites_previewed(config, splits, tokenizer, form, limit)
    if record := base.gguf_record:
        seen["base_model"] = record
    return seen | {"max_length": asked}


def _suites_previewed(
    config: RunConfig, splits: "Splits", tokenizer: Path, form: "PromptFormat", limit: int
) -> dict[str, dict[str, int]]:
    """`suite_preview` of a config; ConfigError where a suite cannot be read or has longer rows than
    `limit` tokens."""
    from src.training.data_files import DataError
    from src.training.data_preview import suite_preview
    from src.training.suites import suites_of

    try:
        suites = suites_of(config.evaluation, splits)
    except DataError as error:
        raise ConfigError({"evaluation.suites": str(error)}) from None
    seen = suite_preview(suites, tokenizer=tokenizer, form=form, max_length=limit)
    for name, told in seen.items():
        if told["too_long"]:
            many, longest = counted(told["too_long"], "row"), told["tokens"]
            text = (
                f"{many} of the suite {name} longer than {limit:,} tokens, the longest has "
                f"{longest:,}; raise model.max_length as far as the base model's context allows, "
                "or leave the suite out"
            )
            raise ConfigError({"evaluation.suites": text})
    return seen


def check_writable(folder: Path, error: Callable[[str], Exception]) -> None:
    """Raise `error` if no checkpoint can be written into `folder`."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        # Only a try is right for root and for disks that are mounted read-only, too.
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=existing))
    except OSError as cause:
        raise error(
            f"checkpoints cannot be written to {folder}: {cause.strerror}; make it writable, or "
            "set SPELLTUNE_HOME to a folder that is"
        ) from None


def resolve_mode(mode: str) -> Literal["online", "offline", "off"]:
    """Resolve `auto`, and fall back to offline without an API key: online, offline or off."""
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "offline")
    if mode in ("off", "disabled"):
        return "off"
    return "online" if mode == "online" and has_key() else "offline"


def has_key() -> bool:
    """True if wandb would find an API key in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
        return b"wandb" in netrc.read_bytes()
    except (OSError, RuntimeError):  # no such file, or no home directory
        return False


def tracking_problems(asked: TrackingConfig) -> dict[str, str]:
    """{setting: error} for each tracker that is asked for but not installed, and for names that
    Weights & Biases refuses."""
    mode = resolve_mode(asked.mode)
    wanted = {"tracking.tensorboard": "tensorboard"} if asked.tensorboard else {}
    if asked.tracker == "trackio" and mode != "off":
        wanted["tracking.tracker"] = "trackio"
    problems = {
        setting: f"{package} is not installed here: `pip install {package}`, or do without it"
        for setting, package in wanted.items()
        if importlib.util.find_spec(package) is None
    }
    return problems | (wandb_problems(asked) if asked.tracker == "wandb" and mode != "off" else {})


# As wandb's own settings have them; the length of a project is bounded by the setting.
WANDB_PROJECT_WITHOUT = "/\\#?%:"
WANDB_TAG_LENGTH = 64


def wandb_problems(asked: TrackingConfig) -> dict[str, str]:
    """{setting: error} for names that Weights & Biases refuses once the run has begun."""
    problems = {}
    if wrong := [sign for sign in WANDB_PROJECT_WITHOUT if sign in asked.project]:
        problems["tracking.project"] = (
            f"Weights & Biases takes no {wrong[0]} in the name of a project, and none of "
            f"{' '.join(WANDB_PROJECT_WITHOUT)}; got {asked.project!r}"
        )
    for tag in asked.tags:
        if not 1 <= len(tag) <= WANDB_TAG_LENGTH:
            problems["tracking.tags"] = (
                f"a tag in Weights & Biases has 1 to {WANDB_TAG_LENGTH} letters, and "
                f"{tag[:20] + ('...' if len(tag) > 20 else '')!r} has {len(tag)}"
            )
    return problems


RAY_NOT_REACHED = (
    "no Ray cluster is reached from here; start one with `ray start --head`, or join this machine "
    "to it with `ray start --address=HOST:6379`"
)


def check_ray() -> None:
    """ConfigError if no sweep could be trained over a Ray cluster from this machine."""
    problem = None
    if importlib.util.find_spec("ray") is None:
        problem = 'Ray is not installed here: pip install "spelltune[ray]"'
    elif not store.is_shared():
        problem = (
            "several machines cannot share a run table in SQLite; set SPELLTUNE_DATABASE_URL to "
            "PostgreSQL on all of them"
        )
    elif not _ray_answers():
        problem = RAY_NOT_REACHED
    if problem:
        raise ConfigError({"executor": problem})


def _ray_answers() -> bool:
    probe = start_attached(Worker.RAY_NODES, "--check", RAY_USAGE_STATS_ENABLED="0")
    try:
        # Ray tries a silent address for minutes.
        return probe.wait(TIMEOUTS.ray) == 0
    except subprocess.TimeoutExpired:
        probe.kill()
        return False
