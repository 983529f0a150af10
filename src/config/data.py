"""Settings of a run's data: which questions and answers there are, and how they are asked."""

import os
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from src.config.effects import BASIC, affects
from src.config.mixture import mixture, trained_on
from src.config.section import Section
from src.errors import did_you_mean
from src.tasks import TASKS, Separator

CHAT = "chat"  # data.template: the chat template of the base model's tokenizer


class DataConfig(Section):
    model_config = ConfigDict(json_schema_extra=affects("data", "cost"))

    task: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}$", json_schema_extra=BASIC)
    """Built-in task, such as `spell_out` (a word letter by letter) or `correct` (human
    misspellings); with a path or a hub id only a label for your own data, and with a mixture not
    used."""
    mix: Annotated[dict[str, float] | None, BeforeValidator(mixture)] = None
    """Train on several built-in tasks in place of `data.task`: their weights, such as {spell_out:
    0.7, correct: 0.3}. Each split has as many rows as the weights allow without a row that stands
    twice: the task that runs out first decides. Given as a whole; empty for one task alone."""
    path: str | None = None
    """Own data: a JSON, JSONL, CSV or Parquet file with columns question and answer, or a folder
    with one file per split."""
    hub_id: str | None = None
    """Own data: id of a Hugging Face hub data set with columns question and answer."""
    revision: str | None = None
    """Commit, branch or tag of the hub data set; empty takes the newest."""
    right_words: float = Field(ge=0, lt=1)
    """Built-in task `correct`: share of the training rows whose word is spelled right already and
    stays as it is, in [0, 1). With 0, a trained adapter changes many right words."""
    length_spread: float = Field(ge=0, le=1)
    """Built-in task `correct`: how far the lengths of the misspelled words in training follow those
    of frequent English words, in [0, 1]. 0 takes the dictionary's misspellings, most of them of
    long words; 1 leaves out some of those and adds misspellings of short words, made by rule."""
    score_right_words: bool = Field(json_schema_extra=affects("data", "cost", "scores"))
    """Built-in task `correct`: also ask each word of the validation and test set spelled right. The
    metrics mends and leaves_alone then tell both kinds of question apart."""
    separator: Separator
    """Built-in tasks that spell words, such as `spell_out`: what stands between the letters."""
    phrasings: int = Field(ge=1, le=10)
    """Built-in tasks: number of ways in which questions are asked, one drawn for each. The last way
    of a task is never trained on."""
    held_out_phrasings: bool = Field(json_schema_extra=affects("data", "cost", "scores"))
    """Built-in tasks: ask the validation and test set only in ways that training does not use."""
    multi_token_words: bool
    """Built-in tasks: ask only words that the base model's own tokenizer cuts into more than one
    token where they stand after a space, as in a question."""
    template: str = Field(min_length=1, json_schema_extra=affects("weights", "data", "cost"))
    """Prompt template that contains {question}. The answer starts with a space, so the prompt must
    not end in one. `chat` takes the chat template of the base model's tokenizer, without thinking;
    answers then end with the template's own token."""
    system_prompt: str | None = Field(
        None, max_length=20_000, json_schema_extra=affects("weights", "data", "cost")
    )
    """System prompt of `data.template: chat`; empty for that of the template, if it has one."""

    @property
    def built_in(self) -> bool:
        """True if the rows are those of a built-in task."""
        return not (self.path or self.hub_id)

    @property
    def source_setting(self) -> str:
        """The setting that names where the rows come from, such as `data.path`."""
        given = (name for name in ("path", "hub_id", "mix") if getattr(self, name))
        return f"data.{next(given, 'task')}"

    @classmethod
    def row_settings(cls) -> list[str]:
        """The fields that decide which rows there are; the others decide how they are asked."""
        return [name for name in cls.model_fields if name not in ("template", "system_prompt")]

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of `load_splits`, each hashable."""
        own = self.model_dump(include=set(self.row_settings()))
        return own | {"mix": tuple(self.mix.items()) if self.mix else None}

    @property
    def trained_on(self) -> str:
        """The task, or the mixture of tasks, in words."""
        return trained_on({"task": self.task, "mix": self.mix})

    _tilde = field_validator("path")(staticmethod(lambda path: path and os.path.expanduser(path)))

    @field_validator("template")
    @classmethod
    def _template(cls, value: str) -> str:
        if value == CHAT:
            return value
        if "{question}" not in value:
            raise ValueError(
                "the prompt template must contain {question}, where the question goes; or take "
                "chat, the chat template of the base model"
            )
        if value != value.rstrip(" \t"):
            raise ValueError(
                "the prompt template ends in a space, which would merge with the answer's first "
                "letter; remove it (the answer brings its own)"
            )
        return value

    @model_validator(mode="after")
    def _source(self) -> "DataConfig":
        if self.path and self.hub_id:
            raise ValueError("data.path and hub_id are both set; keep one of them")
        if self.mix and not self.built_in:
            other = "path" if self.path else "hub_id"
            raise ValueError(
                f"data.mix is of built-in tasks and data.{other} of your own data; set one of them "
                "to null"
            )
        if self.system_prompt and self.template != CHAT:
            raise ValueError(
                "data.system_prompt is for data.template chat; write it into the template instead"
            )
        if self.built_in and not self.mix and self.task not in TASKS:
            near = did_you_mean(self.task, TASKS)
            raise ValueError(
                f"data.task {self.task!r} is not built in ({', '.join(TASKS)}); "
                f"set data.path or data.hub_id to use your own data{near}"
            )
        return self
