"""The table of runs: its columns, its rows, and configs whose seeds are folded"""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from src import setting_labels, store
from src.analysis import comparison
from src.analysis.comparison import Group
from src.config import stored_values, trained_on
from src.format import capital, counted, duration, setting_value
from src.models.metrics import in_words, metric_label, short_label, value_text
from src.panel.overview import address
from src.panel.overview.address import View
from src.panel.ui import html, navigation, paging, run_status, tags
from src.store import Column
from src.store.tables import Run, Status

Latest = Mapping[str, Mapping[str, float | None]]

TOLD = (Status.FAILED, Status.INTERRUPTED, Status.QUEUED)  # whose reason stands in the table
MAX_NAME = 200
ASIDE = {"val/loss", "duration", "launched"}
FEW_COLUMNS = 7  # that fit a window of 1,000 pixels
NARROW_COLUMNS = 3  # that fit one of 641; what the others say stands below the name


def title(column: Column) -> str:
    """The head of a column."""
    label = _label(column)
    return label if column.kind == "setting" else capital(label)


def _label(column: Column) -> str:
    """The name of a column within a sentence."""
    if column.kind == "setting":
        return setting_labels.inline(column.name)
    if column.kind != "metric":
        return column.name
    label = metric_label(column.name).removeprefix("validation ")
    return "validation loss" if label == "loss" else label


def draw_rows(
    session: store.Session, view: View, runs: Sequence[Run], chosen: Collection[str],
    base: Collection[str], told: Collection[str],
) -> str:  # fmt: skip
    """HTML of the table with a row for each run; the reasons of those in `told` stand above it."""
    latest = store.latest_metrics(session, [run.id for run in runs])
    labels = store.labels_of(runs)
    rows = [_row(run, labels[run.id], view, latest, chosen, base, told) for run in runs]
    return _table(view, rows, [run.id for run in runs], chosen, base)


def draw_configs(
    session: store.Session, view: View, configs: Sequence[Sequence[Run]],
    chosen: Collection[str], base: Collection[str], told: Collection[str],
) -> str:  # fmt: skip
    """HTML of the table with a row for each config, and one for each seed of those that are
    open."""
    runs = [run for config in configs for run in config]
    latest = store.latest_metrics(session, [run.id for run in runs])
    labels = store.labels_of(runs)
    # A file may have changed under its path: then a config has several groups.
    groups = [group for config in configs for group in comparison.grouped(config)]
    rows = []
    for group, score in zip(groups, comparison.scores(session, groups), strict=True):
        if len(group.runs) > 1:
            is_open = any(run.id in view.opened for run in group.runs)
            rows.append(_group_row(group, score, view, latest, chosen, base, is_open))
            if not is_open:
                continue
        for run in group.runs:
            inner = "seed-of" if len(group.runs) > 1 else ""
            rows.append(_row(run, labels[run.id], view, latest, chosen, base, told, inner))
    return _table(view, rows, [run.id for run in runs], chosen, base)


def _table(
    view: View, rows: Sequence[Sequence[str]], ids: Sequence[str], chosen: Collection[str],
    base: Collection[str],
) -> str:  # fmt: skip
    every = navigation.pick_box(
        ids, name="Choose all on this page", chosen=all(i in chosen for i in ids), base=base
    )
    shown = [store.find_column("name"), *view.columns]
    heads = {"Choose": every} | {_head(c): _sort_link(c, view) for c in shown}
    # On a phone a card has no room for what nobody asked for.
    aside = set() if view.chosen else ASIDE - {_sorted_by(view)}
    classes = (
        {"Choose": "fit pick"}
        | {
            _head(c): _class(c) + " aside" * (c.name in aside) + " beyond" * (c in _beyond(view))
            for c in shown
        }
        | {"Open": "fit"}
    )
    turned = "ascending" if view.ascending else "descending"
    # A table that fits keeps its head in view.
    name = "runs few" if len(view.columns) <= FEW_COLUMNS else "runs"
    return html.table(classes, rows, name=name, heads=heads, sorted_by=(_head(view.sort), turned))


def _beyond(view: View) -> list[Column]:
    """The columns for which a window between a phone's and a desktop's has no room; the one that
    somebody sorts by keeps its place."""
    return [c for c in view.columns[NARROW_COLUMNS:] if c.name != _sorted_by(view)]


def _sorted_by(view: View) -> str:
    """The name of the column that somebody sorts by; empty where the newest are first, or last."""
    return "" if view.sort == store.find_column(address.FIRST_SORT) else view.sort.name


def _below(view: View, told: Mapping[str, str]) -> str:
    """HTML: what those columns say of a row, which a window has either here or there; `told` is
    HTML by the name of the column."""
    parts = [
        f"<span>{'' if c.name == 'progress' else escape(_label(c))} {value}</span>"
        for c in _beyond(view)
        if (value := told[c.name].replace("<br>", ", ")) not in ("", "–")
    ]
    return f'<small class="below">{" · ".join(parts)}</small>' if parts else ""


def _head(column: Column) -> str:
    return "Run" if column.name == "name" else title(column)


def _sort_link(column: Column, view: View) -> str:
    """HTML: the head, a link that sorts by it, and by the other end where it is sorted by it."""
    head = escape(_head(column))
    if column == address.TAGS:
        return head
    return paging.sort_link(
        "overview", _head(column), column.name,
        by=view.sort.name, ascending=view.ascending, ascends=column.ascends,
    )  # fmt: skip


def _class(column: Column) -> str:
    if column.name in ("name", "notes") or column.name == "tags":
        return ""
    if column.type == "text" and column.kind == "setting":
        return "fit text"
    return "fit" if column.type in ("time", "text") or column.name == "progress" else "num"


def _row(
    run: Run, label: str, view: View, latest: Latest, chosen: Collection[str],
    base: Collection[str], told: Collection[str], inner: str = "",
) -> list[str]:  # fmt: skip
    box = navigation.pick_box([run.id], name=f"Choose {label}", chosen=run.id in chosen, base=base)
    is_told = run.status not in TOLD or run.id in told
    why = None if is_told or not run.reason else in_words(run.reason)
    shown = label if inner else run.label
    text = navigation.link("monitor", shown[:MAX_NAME], {"run": run.id})
    seed = f"seed {run.config['training']['seed']}"
    small = [] if inner else [" · ".join([*_settings(run), seed])]
    small += [why] if why else []
    small += [tags.joined(run.tags)] if run.tags and address.TAGS not in view.columns else []
    archived = ' <span class="badge">archived</span>' if run.archived_at else ""
    values = stored_values(run.config)
    cells = {c.name: _cell(run, c, latest[run.id], values) for c in view.columns}
    below = _below(view, cells | {"progress": _progress(run), "status": run.status.lower()})
    name = f'<div class="{inner or "run"}">{text}{archived}{_small(small)}{below}</div>'
    return [box, name, *cells.values(), navigation.link("errors", "Words", {"run": run.id})]


def _small(texts: Sequence[str]) -> str:
    return "".join(f"<small>{escape(text)}</small>" for text in texts)


def _settings(run: Run) -> list[str]:
    """The settings that stand below a run's name; of a trial none, whose name has those that its
    sweep searches."""
    if run.searched:
        return []
    config = run.config
    return [
        trained_on(config["data"]),
        config["model"]["name"],
        f"rank {config['lora']['r']}",
        f"learning rate {config['training']['learning_rate']:g}",
    ]


def _cell(
    run: Run, column: Column, latest: Mapping[str, float | None], values: Mapping[str, Any]
) -> str:
    if column.kind == "metric":
        return value_text(column.name, latest.get(column.name))
    if column.kind == "setting":
        return escape(setting_value(values.get(column.name), ".4g"))
    match column.name:
        case "status":
            return run_status.badge(run, latest.get("val/exact_match"))
        case "progress":
            told = _progress(run)
            if run.status == Status.COMPLETED:
                return told
            return f"{run_status.bar(run)}<small>{told}</small>"
        case "duration":
            return duration(run.seconds)
        case "launched":
            return html.local_time(run.created_at)
        case "tags":
            return escape(tags.joined(run.tags))
        case "notes":
            return escape(run.notes or "")
        case "step":
            return f"{run.step or 0:,}"
    return str(run.attempt)


def _progress(run: Run) -> str:
    """`step 30 of 600`; empty for a run that has taken all its steps, of which its status tells."""
    done = run.status == Status.COMPLETED and run.step == run.max_steps
    return "" if done else run_status.steps(run)


def _group_row(
    group: Group, score: Mapping[str, Any], view: View, latest: Latest, chosen: Collection[str],
    base: Collection[str], is_open: bool,
) -> list[str]:  # fmt: skip
    ids = [run.id for run in group.runs]
    count = _counted(group)
    picked = all(run_id in chosen for run_id in ids)
    name = f"Choose {count} of {group.name}"
    box = navigation.pick_box(ids, name=name, chosen=picked, base=base)
    others = [one for one in view.opened if one not in ids]
    query = address.query(open=others if is_open else [*others, ids[0]])
    said = f"{'Fold' if is_open else 'Show'} the {count} of {group.name}"
    text = f"{'▾' if is_open else '▸'} {group.name[:MAX_NAME]}"
    link = navigation.link("overview", text, query, label=said)
    told = [" · ".join([count, *_settings(group.runs[0])])]
    # That of the validation set has a column.
    if score["exact_match"] is not None and score["split"] == "test":
        name = "test/exact_match"
        told.append(f"{short_label(name)} {value_text(name, score['exact_match'], score['sd'])}")
    cells = {column.name: _group_cell(group, column, latest) for column in view.columns}
    name = f'<div class="config">{link}{_small(told)}{_below(view, cells)}</div>'
    return [box, name, *cells.values(), navigation.link("compare", "Compare", {"run": ids})]


def _counted(group: Group) -> str:
    """`3 seeds`; of seeds that were trained more than once `5 runs of 3 seeds`."""
    seeds = {run.config["training"]["seed"] for run in group.runs}
    told = counted(len(seeds), "seed")
    return told if len(seeds) == len(group.runs) else f"{counted(len(group.runs), 'run')} of {told}"


def _group_cell(group: Group, column: Column, latest: Latest) -> str:
    """HTML: the value that the seeds of a config share, or their mean and spread."""
    if column.kind == "metric":
        seeds = group.seeds or group.runs
        found = [latest[run.id].get(column.name) for run in seeds]
        known = np.array([value for value in found if value is not None])
        if not len(known):
            return "–"
        sd = float(known.std(ddof=1)) if len(known) > 1 else None
        return value_text(column.name, float(known.mean()), sd)
    if column.kind == "setting":
        seen = dict.fromkeys(
            setting_value(stored_values(run.config).get(column.name), ".4g") for run in group.runs
        )
        return escape(", ".join(list(seen)[:4]) + (", …" if len(seen) > 4 else ""))
    if column.name == "status":
        counts = {s: sum(run.status == s for run in group.runs) for s in Status}
        return "<br>".join(f"{n} {s.lower()}" for s, n in counts.items() if n)
    if column.name == "launched":
        return html.local_time(max(run.created_at for run in group.runs))
    if column.name == "duration":
        took = [s for run in group.runs if (s := run.seconds) is not None]
        return duration(float(np.mean(took))) if took else "–"
    if column.name == "progress":
        done = sum(run.status == Status.COMPLETED for run in group.runs)
        return f"{done} of {len(group.runs)} complete"
    if column.name == "tags":
        return escape(tags.joined(dict.fromkeys(t for run in group.runs for t in run.tags or [])))
    return ""
