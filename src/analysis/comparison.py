"""Compares runs: groups them as seeds of one config, and judges configs and adapters."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, count, islice
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from src import store
from src.analysis import looks, notes, verdicts
from src.analysis.verdicts import Answers, Verdict
from src.config import RunConfig, by_name, distinguishes, stored_config, stored_values
from src.config import config_key as config_key_of
from src.errors import explain_os_error
from src.format import MAX_TOLD, percent, points, settings_text
from src.store.tables import Evaluation, Run, Status

SPLITS = ("test", "validation")  # the first that all have been scored on is the one that counts
COLUMNS = ["word", "question", "expected", "correct"]

Scored = Mapping[tuple[str, str], Evaluation]  # (run id, split) -> its final scoring


@dataclass(frozen=True)
class Group:
    """Runs of one config: equal settings but for the seed."""

    name: str
    runs: tuple[Run, ...]  # oldest first

    @cached_property
    def seeds(self) -> tuple[Run, ...]:
        """The completed runs, one per seed: a repeated seed or a pruned run adds no evidence."""
        done = (r for r in self.runs if r.status == Status.COMPLETED and r.stop_reason is None)
        return tuple({run.config["training"]["seed"]: run for run in done}.values())

    @cached_property
    def under_way(self) -> tuple[Run, ...]:
        """The runs that are queued or training."""
        return tuple(run for run in self.runs if not Status(run.status).ended)

    @cached_property
    def lost(self) -> tuple[Run, ...]:
        """The runs that ended without a result, of seeds that no other run has."""
        there = {run.config["training"]["seed"] for run in self.seeds}
        ended = (run for run in self.runs if Status(run.status).ended)
        gone = {run.config["training"]["seed"]: run for run in ended if run not in self.seeds}
        return tuple(run for seed, run in gone.items() if seed not in there)


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    groups: list[Group]
    differing: dict[str, dict[str, Any]]  # setting -> {run id: value}, where they are not all equal
    scores: dict[str, dict[str, Any]]  # group name -> {split, exact_match, sd, seeds, constant}
    configs: list[Verdict]  # one for each pair of groups
    adapters: list[Verdict]  # one for each pair of runs
    summary: str  # one sentence on all groups
    notes: list[str]  # sentences on what keeps them from being compared


def compare(
    session: store.Session, runs: Sequence[Run], *, most_adapters: int | None = None,
    called: Callable[[Run], str] = attrgetter("name"),
) -> Comparison:  # fmt: skip
    """The verdicts on these runs; on pairs of adapters only up to `most_adapters` runs. `called`
    names a run."""
    scored = store.final_evaluations(session, runs)
    groups = grouped(runs, called)
    shared = _shared(groups, scored)
    pairs = [_judged(a, b, shared) for a, b in combinations(groups, 2)]
    found = [run for run in runs if split_of([run], scored)]
    few = found if most_adapters is None or len(found) <= most_adapters else []
    adapters = [_adapters(a, b, scored) for a, b in combinations(few, 2)]
    configs = verdicts.together(pairs)
    scores = {
        group.name: _score(group, shared) | {"constant": _constant(group, shared)}
        for group in groups
    }
    return Comparison(
        groups=groups,
        differing=differing(runs),
        scores=scores,
        configs=configs,
        adapters=verdicts.together(adapters),
        summary=_summary(scores, configs),
        notes=[*notes.lost_seeds(groups), *notes.changed_data(groups)],
    )


def against(session: store.Session, one: Group, others: Sequence[Group]) -> list[Verdict]:
    """The verdicts on one config against each of the others, corrected for their number."""
    groups = (one, *others)
    scored = store.final_evaluations(session, [run for group in groups for run in group.runs])
    shared = _shared(groups, scored)
    return verdicts.together([_judged(one, other, shared) for other in others])


# --- configs --------------------------------------------------------------------------------------


def config_key(run: Run) -> str:
    """A key that is equal for runs that differ only in seed and in settings aside from training."""
    return _key(json.dumps(run.config, default=str), run.parent_id, run.parent_step)


@lru_cache(maxsize=1024)
def _key(config: str, parent_id: str | None, parent_step: int | None) -> str:
    """`config.config_key` of settings as JSON. A page that refreshes asks for those of hundreds of
    runs, each time."""
    return config_key_of(json.loads(config), parent_id, parent_step)


def grouped(runs: Iterable[Run], called: Callable[[Run], str] = attrgetter("name")) -> list[Group]:
    """The configs among runs, by the age of their first run; `called` names a run."""
    found: dict[tuple[str, object], list[Run]] = {}
    data: dict[str, object] = {}  # config -> fingerprint of its data, as first seen
    for run in sorted(runs, key=lambda r: (r.created_at, r.id)):
        key = config_key(run)
        # A file may have changed under its path. A run that has not read its data yet counts to
        # those that have.
        data_ = run.used.get("data_fingerprint") or data.get(key)
        data.setdefault(key, data_)
        found.setdefault((key, data_), []).append(run)
    members = list(found.values())
    names = _names(members, called)
    return [Group(name, tuple(m)) for name, m in zip(names, members, strict=True)]


def _names(members: Sequence[Sequence[Run]], called: Callable[[Run], str]) -> list[str]:
    """Names of configs: that of their runs, with the differing settings added where names clash."""
    names = [Counter(map(called, runs)).most_common(1)[0][0] for runs in members]
    for name, times in Counter(names).items():
        if times == 1:
            continue
        alike = [i for i, other in enumerate(names) if other == name]
        first = {members[i][0].id: i for i in alike}
        differ = differing([members[i][0] for i in alike])
        for run_id, i in first.items():
            told = {k: values[run_id] for k, values in differ.items() if distinguishes(k)}
            text = settings_text(told, most=MAX_TOLD)
            names[i] = f"{name} ({text})" if told else members[i][0].id
    # What was cut off may have been all that differed.
    return [n if names.count(n) == 1 else r[0].id for n, r in zip(names, members, strict=True)]


def differing(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """{setting: {run id: value}} of the settings that are not the same in all runs."""
    values = {run.id: stored_values(run.config) for run in runs}
    names = dict.fromkeys([*by_name(), *(name for config in values.values() for name in config)])
    table = {name: {i: config.get(name) for i, config in values.items()} for name in names}
    return {n: row for n, row in table.items() if len({repr(v) for v in row.values()}) > 1}


def up_to(group: Group, known: Iterable[Run], seeds: int) -> tuple[list[str], list[RunConfig]]:
    """Runs that bring a config to `seeds` seeds.

    Ids of runs in `known` that have or are training one, and configs of those still missing.
    """
    key = config_key(group.runs[0])
    alike = [run for run in known if config_key(run) == key]
    good = (r for r in alike if r.status == Status.COMPLETED or not Status(r.status).ended)
    there = {run.config["training"]["seed"]: run.id for run in good}
    taken = {run.config["training"]["seed"] for run in alike}
    base = stored_config(group.runs[0].config)
    new = (seed for seed in count() if seed not in taken)
    return list(there.values()), [
        base.model_copy(update={"training": base.training.model_copy(update={"seed": seed})})
        for seed in islice(new, max(seeds - len(there), 0))
    ]


# --- verdicts -------------------------------------------------------------------------------------


def split_of(runs: Sequence[Run], scored: Scored) -> str | None:
    """The split on which all runs are compared."""
    return next((s for s in SPLITS if all((run.id, s) in scored for run in runs)), None)


def _shared(groups: Sequence[Group], scored: Scored) -> Scored:
    """The scorings on the split that all scored seeds have, so that every pair and the ranking
    speak of the same questions; all of them where there is no such split."""
    seeds = [run for group in groups for run in group.seeds if split_of([run], scored)]
    split = split_of(seeds, scored)
    return {key: found for key, found in scored.items() if split in (None, key[1])}


def _judged(a: Group, b: Group, scored: Scored) -> Verdict:
    seeds = [[r for r in group.seeds if split_of([r], scored)] for group in (a, b)]
    split = split_of([*seeds[0], *seeds[1]], scored)
    if split is None:
        return Verdict(a.name, b.name, "configs", SPLITS[0], claim=verdicts.OTHER_QUESTIONS)
    look = looks.last_look((seeds[0], seeds[1]), (*a.runs, *b.runs))
    found = [
        [_answers(scored, run, split) for run in side if run.id in look.runs] for side in seeds
    ]
    return verdicts.judge_configs(
        *([f for f in side if f is not None] for side in found),
        names=(a.name, b.name),
        look=look.number,
        under_way=look.under_way,
    )


def _adapters(a: Run, b: Run, scored: Scored) -> Verdict:
    split = split_of([a, b], scored)
    if split is None:
        claim = f"not compared: only one of {a.id} and {b.id} has been scored on its test questions"
        return Verdict(a.id, b.id, "adapters", SPLITS[0], claim=claim)
    keys = [_file(scored[run.id, split]) for run in (a, b)]
    return _adapter_pair(a.id, b.id, split, *keys)


@lru_cache(maxsize=4096)
def _adapter_pair(
    a: str, b: str, split: str, file_a: tuple[str, int], file_b: tuple[str, int]
) -> Verdict:
    try:
        pair = _read(a, split, *file_a), _read(b, split, *file_b)
    except OSError as error:
        return Verdict(a, b, "adapters", split, claim=f"not compared: {explain_os_error(error)}")
    return verdicts.judge_adapters(*pair)


def _answers(scored: Scored, run: Run, split: str) -> Answers | None:
    """The answers of a run's kept adapter; None if their file is gone."""
    try:
        return _read(run.id, split, *_file(scored[run.id, split]))
    except OSError:
        return None


def _file(evaluation: Evaluation) -> tuple[str, int]:
    """Names the content of an evaluation's file: its path, and when it changed (0: it is gone)."""
    try:
        return evaluation.path, os.stat(evaluation.path).st_mtime_ns
    except OSError:
        return evaluation.path, 0


@lru_cache(maxsize=1024)
def _read(run_id: str, split: str, path: str, changed: int) -> Answers:
    return verdicts.answers(pd.read_parquet(path, columns=COLUMNS), name=run_id, split=split)


def scores(session: store.Session, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The mean exact match of each config over its seeds, as verdicts see it: {split, seeds,
    exact_match, sd}."""
    scored = store.final_evaluations(session, [run for group in groups for run in group.runs])
    return [_score(group, scored) for group in groups]


def _score(group: Group, scored: Scored) -> dict[str, Any]:
    """The mean exact match of a config over its seeds."""
    known = [run for run in group.seeds if split_of([run], scored)]
    split = split_of(known, scored) or SPLITS[1]
    seeds = [scored[run.id, split] for run in known if (run.id, split) in scored]
    shares = np.array([e.correct / e.rows for e in seeds if e.rows])  # no rows are no score
    return {
        "split": split,
        "seeds": len(shares),
        "exact_match": float(shares.mean()) if len(shares) else None,
        "sd": float(shares.std(ddof=1)) if len(shares) > 1 else None,
    }


def _constant(group: Group, scored: Scored) -> float | None:
    """The exact match of who always gives the most frequent answer to the questions of a config."""
    split = split_of([run for run in group.seeds if split_of([run], scored)], scored)
    runs = [run for run in group.seeds if split and (run.id, split) in scored]
    own = _answers(scored, runs[0], split) if split and runs else None
    return own.constant if own else None


def _summary(scores: Mapping[str, Mapping[str, Any]], configs: Sequence[Verdict]) -> str:
    found = {name: score["exact_match"] for name, score in scores.items()}
    if len(scores) > 1 or not any(score is not None for score in found.values()):
        return verdicts.leaders(found, configs)
    ((name, score),) = scores.items()
    seeds = "seed has" if score["seeds"] == 1 else "seeds have"
    told = f"one config, {name}, of which {score['seeds']} {seeds} been scored"
    told += f": {percent(score['exact_match'])} of the {score['split']} questions right on average"
    return told + (f", SD {points(score['sd'])} points" if score["sd"] is not None else "")


# --- as a document --------------------------------------------------------------------------------

REPORTED = (
    *("a", "b", "about", "metric", "split", "questions", "seeds", "difference", "ci_low"),
    *("ci_high", "p_value", "p_holm", "winner", "more_seeds", "look", "under_way", "claim"),
)


def document(found: Comparison) -> dict[str, Any]:
    """The document that `spelltune compare --json` prints."""
    shown = (*found.configs, *found.adapters)
    return {
        "verdicts": [{name: getattr(verdict, name) for name in REPORTED} for verdict in shown],
        "summary": found.summary,
        "configs": [
            {
                "name": g.name,
                "runs": [run.id for run in g.runs],
                **found.scores[g.name],
                "lost": [
                    {
                        "run": run.id,
                        "seed": run.config["training"]["seed"],
                        "status": run.status,
                        "reason": run.reason,
                    }
                    for run in g.lost
                ],
            }
            for g in found.groups
        ],
        "notes": found.notes,
        "settings": found.differing,
    }
