"""Settings of evaluations: how the validation set is scored, and which suites besides."""

import os
import re

from pydantic import ConfigDict, Field, field_validator

from src.config.effects import BASIC, affects
from src.config.section import Section

# A suite with any other sign in its name is the path of a file or a folder.
SUITE_NAME = re.compile(r"(cute/)?[A-Za-z0-9_-]{1,40}")


def names_file(suite: str) -> bool:
    """True if an entry of `evaluation.suites` is a path, not the name of a suite."""
    return SUITE_NAME.fullmatch(suite) is None


class EvaluationConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("scores"))

    eval_steps: int = Field(ge=1, json_schema_extra=BASIC)
    """Steps between evaluations on the validation set; one more comes before the first step and one
    after the last."""
    batch_size: int = Field(ge=1, le=65_536, json_schema_extra=affects("scores", "cost"))
    """Rows per batch when scoring."""
    max_rows: int | None = Field(ge=1)
    """Maximum number of validation rows to score (always the same ones); empty scores all. The test
    set is always scored whole."""
    max_new_tokens: int | None = Field(ge=1, le=4096, json_schema_extra=affects("scores", "cost"))
    """Maximum length of a decoded answer in tokens; empty takes that of the longest expected answer
    plus 8."""
    suites: list[str] = Field(json_schema_extra=affects())
    """Sets of questions that the adapter is scored on besides its own data: built-in tasks, each by
    words that no built-in task trains on; `general`, which measures what is forgotten; cute/NAME; a
    suite of yours (`spelltune suite add`), or a path such as ./words.csv. Each is scored before the
    first step, which is the base model, and at the end with the best adapter."""
    suite_every: int | None = Field(ge=1, json_schema_extra=affects())
    """Evaluations between scorings of the suites while training; empty scores them only at the
    start and the end."""
    suite_rows: int | None = Field(ge=1, json_schema_extra=affects())
    """Maximum number of rows of a suite to score (always the same ones); empty scores all."""
    suite_seen_rows: bool = Field(json_schema_extra=affects())
    """Score also those rows of a suite whose word stands in the training rows; they are marked in
    the table of predictions. By default they are counted and left out."""

    @field_validator("suites")
    @classmethod
    def _suites(cls, names: list[str]) -> list[str]:
        return [os.path.expanduser(name.strip()) for name in dict.fromkeys(names)]
