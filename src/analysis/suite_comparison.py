"""Compares configs on their suites: with their base model, with each other, and in a sentence."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import pandas as pd

from src import store
from src.analysis import looks, suite_verdicts
from src.analysis.comparison import Group
from src.analysis.suite_verdicts import BASE, SuiteAnswers, SuiteVerdict
from src.config import trained_on
from src.models.metrics import SUITE
from src.store.tables import Evaluation, Run
from src.training.suite_scores import BITS
from src.training.suites import GENERAL

COLUMNS = ["word", "question", "expected", "correct", "log_probability"]


@dataclass(frozen=True)
class SuiteComparison:
    """The result of `compare`."""

    base: list[SuiteVerdict]  # of each config against its base model, by config and suite
    configs: list[SuiteVerdict]  # of each pair of configs, by suite
    study: list[str]  # a sentence for each config that was scored on suites

    @property
    def suites(self) -> list[str]:
        """The suites that any verdict is on, in their order."""
        return list(dict.fromkeys(v.suite for v in (*self.base, *self.configs)))


@dataclass(frozen=True)
class _Scored:
    """The scorings of one run on one suite: of its base model, and of its kept adapter."""

    base: Evaluation | None
    kept: Evaluation | None


def compare(session: store.Session, groups: Sequence[Group]) -> SuiteComparison:
    """The verdicts on the suites of these configs. Without a scored suite there are none."""
    scored = _scored(session, [run for group in groups for run in group.runs])
    names = list(dict.fromkeys(name for _, name in scored))
    base, study = [], []
    for group, label in zip(groups, labels(groups), strict=True):
        own = [v for name in names if (v := _against_base(group, name, scored))]
        own = suite_verdicts.together(own)
        base += own
        if told := suite_verdicts.study(label, [v for v in own if v.p_holm is not None]):
            study.append(told)
    pairs = [
        v
        for a, b in combinations(groups, 2)
        for name in names
        if (v := _pair(a, b, name, scored)) is not None
    ]
    return SuiteComparison(base, suite_verdicts.together(pairs), study)


def labels(groups: Sequence[Group]) -> list[str]:
    """The task or the mixture that each config was trained on; with its name where several have the
    same."""
    tasks = [trained_on(group.runs[0].config["data"]) for group in groups]
    return [
        task if tasks.count(task) == 1 else f"{task} ({group.name})"
        for task, group in zip(tasks, groups, strict=True)
    ]


def _scored(session: store.Session, runs: Sequence[Run]) -> dict[tuple[str, str], _Scored]:
    """{(run id, suite): its scorings}. A fork began from another adapter: its base model is that of
    the run it comes from."""
    origin: dict[str, str] = {}
    for run in runs:
        root: Run | None = run
        while root is not None and root.parent_id:
            parent = session.get(Run, root.parent_id)
            if parent is None:
                break
            root = parent
        origin[run.id] = root.id if root else run.id
    found: dict[tuple[str, str], list[Evaluation]] = defaultdict(list)
    wanted = list(dict.fromkeys([*origin, *origin.values()]))
    for evaluation in store.suite_evaluations(session, wanted, SUITE):
        found[evaluation.run_id, evaluation.split.removeprefix(SUITE)].append(evaluation)
    told = {}
    for run in runs:
        for (run_id, name), own in found.items():
            if run_id != run.id:
                continue
            first = next((e for e in found.get((origin[run.id], name), []) if e.step == 0), None)
            kept = next((e for e in own if e.step == run.best_step), None)
            told[run.id, name] = _Scored(first, kept)
    return told


def _against_base(
    group: Group, name: str, scored: Mapping[tuple[str, str], _Scored]
) -> SuiteVerdict | None:
    seeds = [run for run in group.seeds if _is_scored(scored, run, name)]
    if not seeds:
        return None
    look = looks.last_look([seeds], group.runs)
    tuned = _answers([scored[r.id, name].kept for r in seeds if r.id in look.runs], name)
    first = _answers([scored[run.id, name].base for run in seeds], name)
    if not first or not tuned:
        return None
    constant = tuned[0].constant
    verdict = SuiteVerdict(name, BASE, group.name, "base", _metric(name), constant=constant)
    return suite_verdicts.judge_base(
        verdict, first[0], tuned, look=look.number, under_way=look.under_way
    )


def _pair(
    a: Group, b: Group, name: str, scored: Mapping[tuple[str, str], _Scored]
) -> SuiteVerdict | None:
    sides = [[run for run in group.seeds if _is_scored(scored, run, name)] for group in (a, b)]
    if not all(sides):
        return None
    look = looks.last_look(sides, (*a.runs, *b.runs))
    found = [
        _answers([scored[r.id, name].kept for r in side if r.id in look.runs], name)
        for side in sides
    ]
    constant = next((one.constant for side in found for one in side), None)
    verdict = SuiteVerdict(name, a.name, b.name, "configs", _metric(name), constant=constant)
    return suite_verdicts.judge_pair(verdict, *found, look=look.number, under_way=look.under_way)


def _is_scored(scored: Mapping[tuple[str, str], _Scored], run: Run, name: str) -> bool:
    return (own := scored.get((run.id, name))) is not None and own.kept is not None


def _metric(name: str) -> str:
    return BITS if name == GENERAL else "exact_match"


def _answers(evaluations: Sequence[Evaluation | None], name: str) -> list[SuiteAnswers]:
    """The answers of each evaluation whose file is there."""
    found = []
    for evaluation in evaluations:
        if evaluation is None:
            continue
        try:
            changed = os.stat(evaluation.path).st_mtime_ns
            found.append(_read(evaluation.path, changed, name == GENERAL))
        except OSError:
            continue
    return found


@lru_cache(maxsize=1024)
def _read(path: str, changed: int, is_text: bool) -> SuiteAnswers:
    return suite_verdicts.answers(pd.read_parquet(path, columns=COLUMNS), is_text=is_text)


# --- as a document --------------------------------------------------------------------------------

REPORTED = (
    *("suite", "a", "b", "about", "metric", "questions", "seeds", "score_a", "score_b"),
    *("constant", "difference", "ci_low", "ci_high", "p_value", "p_holm", "look", "change"),
    "claim",
)


def document(found: SuiteComparison) -> dict[str, Any]:
    """The part on suites of the document that `spelltune compare --json` prints."""
    shown = (*found.base, *found.configs)
    return {
        "suites": [{name: getattr(v, name) for name in REPORTED} for v in shown],
        "study": found.study,
    }
