"""Checks of a sweep's trials before its launch, and notes on what works against their aim."""

import json
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState

from src.config import ConfigError, RunConfig, subset
from src.format import setting_value
from src.runs import checks, launch_notes
from src.sweeps import search
from src.sweeps.file import SweepConfig, trial_config
from src.training.data_notes import preview_counts, preview_notes

MAX_CHECKED = 200  # distinct trials that are checked before a launch
MAX_DRAWN = 10  # trials of a search whose parameters are drawn for that: before TPE learns

# Any value that these settings take can be trained, and no note looks at them.
UNCHECKED = ("lora.alpha", "optimizer.weight_decay")


def check_trials(sweep: SweepConfig, base: RunConfig) -> list[str]:
    """Notes on the trials of a sweep and their data. ConfigError with what can be known to fail in
    any of them: the cells of a grid, the first draws of a search."""
    of_settings: dict[str, str] = {}
    of_data: dict[str, None] = {}
    problems: dict[str, str] = {}
    read: dict[str, dict[str, Any] | None] = {}  # previews of the data that were looked at
    for values in known_values(sweep, base):
        try:
            config = trial_config(sweep, base, values, 0)
            data = json.dumps(subset(config, checks.previewed()), sort_keys=True)
            if data not in read:
                read[data] = None
                read[data] = checks.check(config)
            elif wrong := checks.setting_problems(config):
                raise ConfigError(wrong)
            if (preview := read[data]) is None:
                continue  # what is wrong with these data is told of an earlier trial
            of_settings = _notes(config, preview) | of_settings
            of_data |= dict.fromkeys([*preview_counts(preview), *preview_notes(preview)])
        except ConfigError as error:
            told = ", ".join(f"{n} {setting_value(v)}" for n, v in values.items())
            for name, text in error.problems.items():
                problems.setdefault(name, f"{text} (in the trial with {told})")
    if problems:
        raise ConfigError(problems)
    return [*of_data, *of_settings.values()]


def notes(sweep: SweepConfig, base: RunConfig, preview: Mapping[str, Any] | None) -> dict[str, str]:
    """{setting: note} of a sweep's trials; where a `preview` of their data is given, on its number
    of rows too. Reads no data."""
    found: dict[str, str] = {}
    for values in known_values(sweep, base):
        try:
            config = trial_config(sweep, base, values, 0)
        except ConfigError:
            continue  # `check_trials` refuses it
        found = _notes(config, preview) | found  # of many trials with one fault, the first is told
    return found


def _notes(config: RunConfig, preview: Mapping[str, Any] | None) -> dict[str, str]:
    found = launch_notes.setting_notes(config)
    return found if preview is None else found | launch_notes.size_notes(config, preview)


def known_values(sweep: SweepConfig, base: RunConfig) -> list[dict[str, Any]]:
    """The searched values of trials that are known before any has ended, without those that differ
    from an earlier one in a setting that no check looks at; at most MAX_CHECKED."""
    if sweep.method == "grid":
        drawn = list(search.grid(sweep, sweep.seed))
    else:
        drawn = []
        tried: list[search.PastTrial] = []
        most = (sweep.limits.trials or MAX_DRAWN * sweep.seeds) // sweep.seeds
        for number in range(min(most, MAX_DRAWN)):
            values = search.suggest(sweep, sweep.seed, number, tried)
            if values is None:
                break
            drawn.append(values)
            tried.append(search.PastTrial(number, values, TrialState.RUNNING))
    distinct: dict[str, dict[str, Any]] = {}
    for values in drawn:
        key = repr([pair for pair in values.items() if pair[0] not in UNCHECKED])
        distinct.setdefault(key, values)
    return list(distinct.values())[:MAX_CHECKED]
