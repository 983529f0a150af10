"""How to train the runs of a report again: commands, versions and fingerprints."""

import re
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from src.analysis import model_card
from src.analysis.comparison import Group
from src.config import (
    ConfigError,
    RunConfig,
    stored_config,
)
from src.format import counted
from src.panel.launch import form
from src.panel.report.content import Content
from src.panel.ui import html
from src.store.tables import Run

MAX_COMMANDS = 6  # configs whose commands are shown


def section(content: Content) -> str:
    """HTML: the commands that train the runs again, and what they were trained with."""
    parts = []
    if content.sweep:
        row = content.sweep.found.row
        file = Path(row.path).name or "sweep.yaml"
        parts.append(_code(f"spelltune sweep launch {shlex.quote(file)}"))
        parts.append(_folded(file, row.file))
    groups = content.found.groups
    for group in groups[:MAX_COMMANDS]:
        title = f"<h3>{escape(group.name)}</h3>" if len(groups) > 1 or content.sweep else ""
        parts.append(title + "".join(_commands(group, content.parents)))
    if len(groups) > MAX_COMMANDS:
        more = counted(len(groups) - MAX_COMMANDS, "config")
        parts.append(f'<p class="quiet">The commands of {more} more are left out here.</p>')
    parts.append("<h3>The figures of this page</h3>")
    parts.append(_code("\n".join(_questions(content))))
    return "".join([*parts, environment(content)])


def _questions(content: Content) -> Iterator[str]:
    """The commands that give the figures of the report."""
    ids = " \\\n  ".join(shlex.quote(run.id) for run in content.runs)
    if content.sweep:
        yield f"spelltune sweep show {shlex.quote(content.sweep.found.row.id)}"
    elif len(content.runs) > 1:
        yield f"spelltune compare \\\n  {ids}"
    for one in content.answers[:1]:
        split = "" if content.split == "validation" else f" --split {content.split}"
        yield f"spelltune errors {shlex.quote(one.run.id)}{split}"


def _commands(group: Group, parents: Mapping[str, Run]) -> Iterator[str]:
    """HTML: the command that trains each seed of a config, and its settings in full."""
    run = group.runs[0]
    try:
        config = _public(stored_config(run.config))
    except ConfigError as error:
        text = f"These are settings of another version: {error}"
        yield f'<p class="problem">{escape(text)}</p>'
        return
    seeds = sorted({one.config["training"]["seed"] for one in group.runs})
    if run.parent_id is None:
        command = form.as_command(config, form.nearest_preset(config))
    elif run.parent_id in parents:
        command = fork_command(run, config, parents[run.parent_id])
    else:
        command = ""
    if command:
        yield _code(_of_seeds(command, seeds))
    if run.parent_id:
        gone = "" if command else " That run was deleted, so this one cannot be trained again."
        yield (
            f'<p class="quiet">It goes on from step {run.parent_step:,} of '
            f"<code>{escape(run.parent_id)}</code>.{gone}</p>"
        )
    if config.data.path:
        name = escape(config.data.path)
        yield (
            f'<p class="quiet">Name your copy of <code>{name}</code> in data.path: the fingerprint '
            "below tells whether it is the same.</p>"
        )
    yield _folded("All settings", form.to_yaml(config))


def fork_command(run: Run, config: RunConfig, parent: Run) -> str:
    """The command that forks the run's parent again."""
    start = f"spelltune fork {shlex.quote(parent.id)} --from {run.parent_step}"
    return form.command(start, config, _public(stored_config(parent.config)))


def _of_seeds(command: str, seeds: list[int]) -> str:
    """The command for each seed: as it is for one, as a loop for several."""
    if len(seeds) == 1:
        return command
    own = re.compile(r" \\\n  --set training\.seed=\d+$", re.MULTILINE)
    body = own.sub("", command).replace("\n", "\n  ")
    listed = " ".join(map(str, seeds))
    return f"for seed in {listed}; do\n  {body} \\\n    --set training.seed=$seed\ndone"


def _public(config: RunConfig) -> RunConfig:
    """The config without a path of this machine."""
    model = config.model.model_copy(update={"name": model_card.public_name(config)})
    data = config.data
    if data.path:
        data = data.model_copy(update={"path": Path(data.path).name})
    return config.model_copy(update={"model": model, "data": data})


def environment(content: Content) -> str:
    """HTML: what the runs were trained with, each difference once."""
    names = ("Data fingerprint", "Rows", "Base model", "Device", "Engine", "Versions")
    found: dict[tuple[str, ...], list[str]] = {}
    for run in content.runs:
        found.setdefault(_used(run), []).append(run.id)
    parts = []
    for values, ids in found.items():
        rows = [[name, f"<code>{escape(value)}</code>"] for name, value in
                zip(names, values, strict=True) if value]  # fmt: skip
        if len(found) > 1:
            rows.insert(0, ["Runs", escape(", ".join(ids))])
        if rows:
            parts.append(html.table({"Trained with": "fit", "": ""}, rows, name="used"))
    if not parts:
        return '<p class="quiet">No run has begun to train, so nothing is known of its data.</p>'
    return "".join(parts)


def _used(run: Run) -> tuple[str, ...]:
    used = run.used
    rows = ", ".join(f"{n:,} {split}" for split, n in (used.get("rows") or {}).items())
    versions = ", ".join(f"{name} {v}" for name, v in (used.get("versions") or {}).items())
    record = used.get("base_model") or {}
    try:
        config = stored_config(run.config)
        base = model_card.public_name(config)
        base += f" at {config.model.revision}" if config.model.revision else ""
    except ConfigError:
        base = ""
    base += f", SHA-256 {record['sha256']}" if record else ""
    engine = str(used.get("engine") or used.get("backend") or run.config.get("engine") or "")
    told = (used.get("data_fingerprint") or "", rows, base, used.get("device") or "", engine)
    return (*map(str, told), versions) if used else ("",) * 6


def _code(text: str) -> str:
    return f'<pre class="code" tabindex="0"><code>{escape(text)}</code></pre>'


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{_code(text)}</details>"


def changed_settings(run: Run) -> str:
    """HTML: the settings of a run that differ from the preset nearest to it, without a path of this
    machine."""
    try:
        values = _public(stored_config(run.config)).model_dump()
    except ConfigError:
        values = run.config  # of another version, which the table says
    return form.changes_table(values)
