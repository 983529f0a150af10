"""A run's examples: the rows of its three splits in the tokens of its base model."""

from dataclasses import dataclass
from typing import Any

from src.config import RunConfig
from src.models.spelling_model import Vocabulary
from src.training.data_loaders import Splits
from src.training.scoring import Row, check_lengths, encode


@dataclass(frozen=True)
class Examples:
    """Tokenized rows by split, with what is known of the data that they were read from."""

    rows: dict[str, list[Row]]
    fingerprint: str  # of the data
    duplicates: int  # rows that were dropped
    leaks: dict[str, int]  # {"train/validation": words in both}

    @staticmethod
    def of(splits: Splits, vocabulary: Vocabulary, config: RunConfig) -> "Examples":
        """Tokenize the splits; DataError where a row is too long for the settings or the base."""
        validation, limit = splits.validation, config.evaluation.max_rows
        if limit is not None and len(validation) > limit:
            # The same rows in every run, whatever its seed: runs are compared on them.
            validation = validation.sample(limit, random_state=0).sort_index()
        rows = {}
        for split, frame in (
            ("train", splits.train),
            ("validation", validation),
            ("test", splits.test),
        ):
            rows[split] = encode(vocabulary.tokenizer, frame, config.data.template)
            check_lengths(
                rows[split],
                split,
                max_length=config.model.max_length,
                context=vocabulary.context_tokens,
            )
        return Examples(rows, splits.fingerprint, splits.duplicates, splits.leaks)

    def summary(self) -> dict[str, Any]:
        """Counts and the longest row, for the record of what a run used."""
        return {
            "rows": {split: len(rows) for split, rows in self.rows.items()},
            "rows_dropped_as_duplicates": self.duplicates,
            "words_in_two_splits": self.leaks,
            "longest_row_tokens": max(len(row) for rows in self.rows.values() for row in rows),
            "data_fingerprint": self.fingerprint,
        }
