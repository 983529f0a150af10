"""A run's examples: the rows of its splits and suites in the tokens of its base model."""

from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from src.config import RunConfig
from src.models.prompt_format import PromptFormat
from src.models.spelling_model import Vocabulary
from src.training.data_files import SPLITS
from src.training.data_loaders import Splits
from src.training.prompts import format_of
from src.training.rows import Row
from src.training.scoring import check_lengths, encode
from src.training.suites import Suite, suites_of

Encode = Callable[[Any, pd.DataFrame, PromptFormat], list[Row]]


@dataclass(frozen=True)
class Examples:
    """Tokenized rows by split, with what is known of the data that they were read from."""

    rows: dict[str, list[Row]]
    fingerprint: str  # of the data
    duplicates: int  # rows that were dropped
    leaks: dict[str, int]  # {"train/validation": words in both}
    suites: dict[str, Suite] = field(default_factory=dict)  # by split; their rows are in `rows`

    @staticmethod
    def of(
        splits: Splits,
        vocabulary: Vocabulary,
        config: RunConfig,
        *,
        encode: Encode = encode,
        suite_rows: MutableMapping[Any, list[Row]] | None = None,
    ) -> "Examples":
        """Tokenize the splits and suites; DataError where a row is too long for the settings or the
        base. Runs that are given the same `suite_rows` share the rows of equal suites. `encode` is
        `scoring.encode`, or takes its results from elsewhere."""
        validation, limit = splits.validation, config.evaluation.max_rows
        if limit is not None and len(validation) > limit:
            # The same rows in every run, whatever its seed: runs are compared on them.
            validation = validation.sample(limit, random_state=0).sort_index()
        form = format_of(config)
        vocabulary.end_answers_with(form.end)
        rows = {}
        for split, frame in (
            ("train", splits.train),
            ("validation", validation),
            ("test", splits.test),
        ):
            rows[split] = encode(vocabulary.tokenizer, frame, form)
            check_lengths(
                rows[split],
                split,
                max_length=config.model.max_length,
                context=vocabulary.context_tokens,
            )
        asked = {suite.split: suite for suite in suites_of(config.evaluation, splits)}
        shared = {} if suite_rows is None else suite_rows
        for split, suite in asked.items():
            key = split, suite.fingerprint, form, config.model.max_length
            if key not in shared:
                shared[key] = encoded_suite(suite, vocabulary, config, form, encode)
            rows[split] = shared[key]
        return Examples(rows, splits.fingerprint, splits.duplicates, splits.leaks, asked)

    @cached_property  # each run of a pack tells it
    def summary(self) -> dict[str, Any]:
        """Counts and the longest row, for the record of what a run used."""
        told = {
            suite.name: {
                "rows": len(suite.frame), "left_out": suite.seen, "fingerprint": suite.fingerprint
            }
            for suite in self.suites.values()
        }  # fmt: skip
        return {
            "rows": {split: len(self.rows[split]) for split in SPLITS},
            **({"rows_by_task": by_task} if (by_task := self._rows_by_task()) else {}),
            "rows_dropped_as_duplicates": self.duplicates,
            "words_in_two_splits": self.leaks,
            "longest_row_tokens": max(len(row) for rows in self.rows.values() for row in rows),
            "data_fingerprint": self.fingerprint,
            **({"suites": told} if told else {}),
        }

    def _rows_by_task(self) -> dict[str, dict[str, int]]:
        """{task: {split: rows}} of a mixture of built-in tasks; empty for other data."""
        counts = {split: Counter(row.task for row in self.rows[split]) for split in SPLITS}
        names = [task for task, _ in counts["train"].most_common() if task is not None]
        if len(names) < 2:
            return {}
        return {task: {split: counts[split][task] for split in SPLITS} for task in names}


def encoded_suite(
    suite: Suite,
    vocabulary: Vocabulary,
    config: RunConfig,
    form: PromptFormat,
    encode: Encode = encode,
) -> list[Row]:
    """The rows of a suite in tokens: under the prompt of the run or, of running text, as it is."""
    rows = encode(vocabulary.tokenizer, suite.frame, suite.form(form))
    if suite.is_text:
        # A sentence goes on: nothing says that it ends where an answer would.
        rows = [replace(row, answer_ids=row.answer_ids[:-1]) for row in rows]
    context = vocabulary.context_tokens
    check_lengths(rows, suite.name, max_length=config.model.max_length, context=context)
    return rows
