"""Scores on a file of questions: of words that training has seen and of others, beside baselines"""

import math
from typing import Any

import pandas as pd

from src.analysis import guessing
from src.config import RunConfig
from src.models import metrics
from src.models.intervals import repeated_interval
from src.text import caseless
from src.training.data_files import DataError
from src.training.data_loaders import splits_of
from src.training.dictionary import dictionary_answers


def seen_in_training(config: RunConfig, frame: pd.DataFrame) -> pd.Series:
    """True for each row of a frame with question and answer whose answer (of labels: question)
    stands in the training rows of a run. DataError if those cannot be read."""
    splits = splits_of(config)
    known = set(splits.train["word"].map(caseless))
    own = frame["question"].str.strip() if splits.labels else frame["word"]
    return own.map(caseless).isin(known)


def unseen_or_note(config: RunConfig, frame: pd.DataFrame) -> tuple[pd.Series | None, str | None]:
    """`seen_in_training`, or None and a sentence why it is not known."""
    try:
        return seen_in_training(config, frame), None
    except DataError as error:
        return None, (
            f"the run's training rows cannot be read ({error}), so words that it has seen are not "
            "told from others"
        )


def scores(frame: pd.DataFrame, seen: pd.Series | None) -> dict[str, dict[str, Any]]:
    """{model, base, few_shot, dictionary or constant: {all, seen or unseen: rows, answers, right,
    exact_match, interval}}.

    `frame` holds predictions with the column `correct` and, where the base model was asked too,
    `base_correct` and, after examples, `few_shot_correct`. The groups seen and unseen
    are there where `seen` is known. `constant` is who always gives the most frequent answer, which
    to "How many e's are in pieces?" is right in 4 of 10 cases; it is left out where that is rare.
    """
    samples = samples_of(frame)
    columns = {"model": frame["correct"]}
    for who in ("base", "few_shot"):
        if f"{who}_correct" in frame:
            columns[who] = frame[f"{who}_correct"]
    if (answers := dictionary_answers(frame["question"].tolist())) is not None:
        right = map(metrics.same, answers, frame["expected"])
        columns["dictionary"] = pd.Series(list(right), index=frame.index)
    if (frequent := guessing.frequent_answer(frame["expected"])) is not None:
        columns["constant"] = frame["expected"] == frequent
    groups = {"all": pd.Series(True, index=frame.index)}
    if seen is not None:
        groups |= {"seen": seen, "unseen": ~seen}
    return {
        who: {group: _share(correct[chosen], samples) for group, chosen in groups.items()}
        for who, correct in columns.items()
    }


def samples_of(frame: pd.DataFrame) -> int:
    """Number of answers to each question, which stand one after the other."""
    return int(frame["sample"].max()) + 1 if "sample" in frame and len(frame) else 1


def _share(correct: "pd.Series[bool]", samples: int) -> dict[str, Any]:
    answers, right = len(correct), int(correct.sum())
    low, high = repeated_interval(correct.to_numpy(dtype=bool).reshape(-1, samples))
    return {
        "rows": answers // samples,
        "answers": answers,
        "right": right,
        "exact_match": right / answers if answers else math.nan,
        "ci_low": low,
        "ci_high": high,
    }
