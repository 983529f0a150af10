"""The trials of a sweep as a table, and its parameter sets in the order of their scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from optuna.trial import TrialState

from src.format import setting_value
from src.store.outcome import EndReason
from src.store.tables import ACTIVE, Run
from src.sweeps import trials
from src.sweeps.file import SweepConfig

TEST = "test/exact_match"
SCORED = ("completed", "early stopped")
GOING_ON = ("queued", "training")
OPEN_ENDS = ("pruned", *GOING_ON)
MAX_NAMED = 5  # trials in one sentence

# Marks a setting that a trial left at its base value, as None marks the value null that it tried.
NOT_SEARCHED = float("nan")

COLUMNS = ("trial", "setting", "run", "became", "score", "test", "step", "max_steps", "seconds",
           "started_at", "ended_at", "process", "attempt", "reason", "tags",
           "data_fingerprint")  # fmt: skip


def outcome(run: Run) -> str:
    """The outcome of a trial in a word or two."""
    if trials.trial_state(run) == TrialState.PRUNED:
        return "pruned"
    if run.status in ACTIVE:
        return "training"
    if run.end_reason == EndReason.EARLY_STOPPED:
        return "early stopped"
    return run.status.lower()


def trial_table(
    runs: Sequence[Run],
    sweep: SweepConfig,
    metrics: Mapping[str, Mapping[str, float | None]],
    fingerprints: Mapping[str, str | None],
) -> pd.DataFrame:
    """One row a trial: COLUMNS, and the values of the searched settings, None or NOT_SEARCHED."""
    rows = [
        _row(run, sweep, metrics.get(run.id, {}), fingerprints.get(run.id)) for run in runs
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    searched = [run.searched or {} for run in runs]
    for name in sweep.space:
        values = [values.get(name, NOT_SEARCHED) for values in searched]
        # As objects: in a column of numbers None would be nan, and whole numbers fractions.
        frame[name] = pd.Series(values, index=frame.index, dtype=object)
    # Trials of a pack have one process; its token is nobody's business.
    numbered = pd.Series(pd.factorize(frame["process"])[0] + 1, dtype="Int64")
    frame["process"] = numbered.where(numbered > 0)
    return frame


def _row(
    run: Run, sweep: SweepConfig, metrics: Mapping[str, float | None], fingerprint: str | None
) -> list[Any]:
    number = run.number or 0
    seconds = None if run.ended_at is None else run.seconds
    return [
        number, number // sweep.seeds, run.id, outcome(run), metrics.get(sweep.metric),
        metrics.get(TEST), run.step or 0, run.max_steps, seconds, run.started_at,
        run.ended_at, run.token,
        run.attempt, run.reason, list(run.tags or []), fingerprint,
    ]  # fmt: skip


def is_searched(value: Any) -> bool:
    """False for NOT_SEARCHED; null is a value that was tried."""
    return not (isinstance(value, float) and value != value)


def shown(frame: pd.DataFrame, sweep: SweepConfig) -> pd.DataFrame:
    """The table for people and files: a setting that was not searched is empty, null is `null`."""
    told = frame.copy()
    for name in sweep.space:
        values = [value if is_searched(value) else None for value in frame[name]]
        nulls = [searched and value is None for searched, value in zip(
            map(is_searched, frame[name]), values, strict=True)]  # fmt: skip
        if any(nulls) or any(isinstance(value, list | dict) for value in values):
            # A column of a file has one type.
            values = [
                "null" if null else None if value is None else setting_value(value)
                for null, value in zip(nulls, values, strict=True)
            ]
        words = any(isinstance(value, str) for value in values)
        told[name] = pd.Series(values, index=frame.index, dtype=object if words else None)
    return told


# --- the order of the settings --------------------------------------------------------------------


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials whose scores count."""
    return frame[frame["became"].isin(SCORED) & frame["score"].notna()]


def other_data(frame: pd.DataFrame, sweep: SweepConfig) -> pd.Series:
    """True for each trial that has a score on other data than most."""
    done = scored(frame)
    done = done[done["data_fingerprint"].notna()]
    asked = trials.data_searched(sweep)
    rows = [
        (run, dict(zip(asked, values, strict=True)), fingerprint)
        for run, fingerprint, *values in done[["run", "data_fingerprint", *asked]].to_numpy()
    ]
    return frame["run"].isin(trials.on_other_data(rows, sweep))


def setting_table(frame: pd.DataFrame, others: pd.Series, sweep: SweepConfig) -> pd.DataFrame:
    """One row a setting that has a score, the best first: score, sd (of its seeds), seeds, run,
    trial, other_data and the values.

    The mean of the seeds that are left is that of the lucky ones: a setting that lost a seed stands
    behind those that are whole, one whose seed was pruned or still waits is not ranked at all. So
    does one that was scored on other data (`others`, see `other_data`).
    """
    partly = frame.loc[frame["became"].isin(OPEN_ENDS), "setting"]
    done = scored(frame.assign(other_data=others))
    done = done[~done["setting"].isin(partly)]
    found = done.groupby("setting").agg(
        score=("score", "mean"), sd=("score", "std"), seeds=("score", "size"), run=("run", "first"),
        trial=("trial", "first"), other_data=("other_data", "any"),
    )  # fmt: skip
    first = frame.drop_duplicates("setting").set_index("setting")[list(sweep.space)]
    ranked = found.assign(lost=found["seeds"] < sweep.seeds).sort_values(
        ["other_data", "lost", "score", "trial"],
        ascending=[True, True, sweep.mode == "min", True],
        kind="stable",
    )
    return ranked.drop(columns="lost").join(first)


def seeds_text(seeds: int, sweep: SweepConfig) -> str:
    """`1 of 3 seeds`; empty where a setting has all of its seeds, or one is all."""
    return f"{seeds} of {sweep.seeds} seeds" if seeds < sweep.seeds else ""


def notes(
    frame: pd.DataFrame, settings: pd.DataFrame, others: pd.Series, sweep: SweepConfig
) -> list[str]:
    """Sentences on what keeps scores from being compared."""
    told = []
    if changed := list(frame.loc[others, "trial"]):
        learns = ", and the search does not learn from them" if sweep.method == "tpe" else ""
        told.append(
            f"{_trials(changed)} scored on other data than the rest, so the data changed during "
            f"the sweep; their settings rank behind{learns}"
        )
    asked = trials.data_searched(sweep)
    if asked and scored(frame)["data_fingerprint"].nunique() > 1:
        told.append(
            f"trials were scored on different data, for {' and '.join(asked)} is searched; their "
            "scores compare the data as much as the settings"
        )
    lost = settings[settings["seeds"] < sweep.seeds]
    for trial, seeds in list(zip(lost["trial"], lost["seeds"], strict=True))[:MAX_NAMED]:
        members = frame[frame["setting"] == trial // sweep.seeds]
        why = members.loc[~members.index.isin(scored(members).index)]
        ends = ", ".join(f"trial {n} {end}" for n, end in zip(
            why["trial"], why["became"], strict=True))  # fmt: skip
        told.append(
            f"the setting of trial {trial} has a score of {seeds} of {sweep.seeds} seeds"
            f"{f' ({ends})' if ends else ''}, so it ranks behind those whose seeds are whole"
        )
    if len(lost) > MAX_NAMED:
        told.append(f"so do {len(lost) - MAX_NAMED:,} more settings that lost a seed")
    return told


def _trials(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"trial {numbers[0]} was"
    if len(numbers) > MAX_NAMED:
        return f"{len(numbers):,} trials were"
    return f"trials {', '.join(map(str, numbers[:-1]))} and {numbers[-1]} were"
