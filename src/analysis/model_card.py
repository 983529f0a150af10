"""The model card of a run, in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from src.analysis import misspellings, snippets
from src.config import CHAT, RunConfig, affecting, subset
from src.models.metrics import METRICS, PARTIAL, MetricInfo
from src.paths import base_model

MAX_EXAMPLES = 20  # wrong answers that the card shows


def public_name(config: RunConfig) -> str:
    """The base model's name for others: a hub id, a shipped one, or the last part of a folder."""
    path = Path(config.model.name)
    own = path.is_absolute() or path.is_dir()
    return path.name if own and base_model(str(path)) == str(path) else config.model.name


def card(
    config: RunConfig,
    *,
    merged: bool,
    about: Mapping[str, Any],
    predictions: pd.DataFrame | None,
) -> str:
    """The model card, in Markdown with the metadata of the hub at its head."""
    record = about["used"].get("base_model") or {}
    base, scores = record.get("file") or public_name(config), about["metrics"]
    head = {
        "base_model": base,
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "language": ["en"],
        "tags": ["spelling", "lora", "spelltune", *(config.data.mix or [config.data.task])],
        "model-index": [_results(config, scores)],
    }
    versions = ", ".join(f"{k} {v}" for k, v in (about["used"].get("versions") or {}).items())
    kind = "the base model with the adapter merged into it" if merged else "a LoRA adapter"
    purpose = _purpose(config, about["used"])
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {config.name}\n",
        f"This is {kind}, trained with Spelltune on `{base}` {purpose}.\n",
        *_of_gguf(record, merged=merged),
        "## How it is asked\n",
        *_how_asked(config, merged=merged),
        "## Scores\n",
        _table(("", "validation", "test"), _score_rows(scores)),
    ]
    if predictions is not None:
        wrong = predictions[~predictions["correct"]]
        kinds = [(kind, f"{count:,}") for kind, count in misspellings.counts(predictions).items()]
        parts += [
            "## What it still gets wrong\n",
            f"{len(wrong):,} of {len(predictions):,} answers, by kind of error:\n",
            _table(("kind", "answers"), kinds),
            _table(
                ("question", "expected", "answered"),
                wrong[["question", "expected", "predicted"]].head(MAX_EXAMPLES).values.tolist(),
            ),
        ]
    parts += [
        "## How it was trained\n",
        f"Run `{about['id']}`, seed {config.training.seed}, adapter of step "
        f"{(about['best'] or {}).get('step', about['step']):,}, on "
        f"{about['used'].get('device', 'an unknown device')}; {versions}. Its settings:\n",
        f"```yaml\n{_settings(config)}```\n",
        "The licence of the base model and that of the data hold for this too"
        + (
            "; the built-in data come from the dictionary of codespell (CC BY-SA 3.0).\n"
            if not (config.data.path or config.data.hub_id)
            else ".\n"
        ),
    ]
    return "\n".join(parts)


def _of_gguf(record: Mapping[str, Any], *, merged: bool) -> list[str]:
    """How the base model was read where it is a GGUF file."""
    if not record:
        return []
    text = (
        f"The base model is the GGUF file `{record['file']}` (quantization "
        f"{record['quantization']}, SHA-256 `{record['sha256']}`), whose weights were read into 16 "
        "or 32 bits for the training."
    )
    own = (
        "" if merged else " The adapter fits these weights; merged into them it needs no such file."
    )
    return [f"{text}{own}\n"]


def _purpose(config: RunConfig, used: Mapping[str, Any]) -> str:
    """The task that the adapter is for; of a mixture each one, with the rows that were drawn."""
    if len(mix := config.data.mix or {}) < 2:
        return f"for the task `{config.data.trained_on}`"
    rows = used.get("rows_by_task") or {}
    tasks = [
        f"`{task}` ({100 * share:.3g}%"
        + (f", {rows[task]['train']:,} training rows)" if task in rows else ")")
        for task, share in mix.items()
    ]
    return f"for a mixture of tasks: {', '.join(tasks)}"


def _how_asked(config: RunConfig, *, merged: bool) -> list[str]:
    """How a question is put, as a program; of a raw template also the template."""
    prompt = (
        ["By the chat template of the tokenizer here; the answer is decoded greedily:\n"]
        if config.data.template == CHAT
        else [
            "The prompt, with the question in the place of `{question}`; the answer follows after "
            "a space and is decoded greedily:\n",
            f"```\n{config.data.template}\n```\n",
        ]
    )
    base = None if merged else public_name(config)
    program = snippets.transformers(config, "FOLDER OR REPOSITORY", base=base)
    return [*prompt, f"```python\n{program}```\n"]


def _results(config: RunConfig, scores: Mapping[str, float | None]) -> dict[str, Any]:
    known = [(name, scores.get(f"test/{name}")) for name in METRICS]
    asked, tasks = config.data.trained_on, config.data.mix or [config.data.task]
    return {
        "name": config.name,
        "results": [
            {
                "task": {"type": "text-generation", "name": asked},
                "dataset": {"name": asked, "type": "-".join(tasks), "split": "test"},
                "metrics": [
                    {"type": name, "name": _metric_title(METRICS[name]), "value": round(value, 6)}
                    for name, value in known
                    if value is not None
                ],
            }
        ],
    }


def _metric_title(metric: MetricInfo) -> str:
    """Title, with the unit of what is no share."""
    return metric.title if metric.is_share else f"{metric.title} ({metric.unit})"


def _score_rows(scores: Mapping[str, float | None]) -> list[tuple[str, ...]]:
    rows = []
    for name, metric in METRICS.items():
        values = [scores.get(f"{split}/{name}") for split in ("val", "test")]
        if name in PARTIAL and values == [None, None]:
            continue
        rows.append((_metric_title(metric), *("" if v is None else f"{v:.4g}" for v in values)))
    own = (name for name in scores if name.startswith(("val/exact_match/", "test/exact_match/")))
    for task in sorted({name.rpartition("/")[2] for name in own}):
        values = [scores.get(f"{split}/exact_match/{task}") for split in ("val", "test")]
        title = f"{METRICS['exact_match'].title} of the task {task}"
        rows.append((title, *("" if v is None else f"{v:.4g}" for v in values)))
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # What a model answers is untrusted text.
    cells = [[str(c).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") for c in row]
             for row in rows]  # fmt: skip
    lines = [head, ["---"] * len(head), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _settings(config: RunConfig) -> str:
    """The settings that decide the result, as YAML, without local paths."""
    values = subset(config, affecting())
    values["model"]["name"] = public_name(config)
    if config.data.path:
        values["data"]["path"] = Path(config.data.path).name
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text
