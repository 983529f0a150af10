"""A mixture of built-in tasks: its shares, its rows, and how it is written and told."""

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from src import store
from src.analysis import model_card, suite_comparison
from src.analysis.comparison import grouped
from src.analysis.notes import changed_data
from src.config import (
    ConfigError,
    by_name,
    from_text,
    load_config,
    override_text,
    parse_override,
    stored_config,
    to_text,
    to_yaml,
)
from src.models.prompt_format import raw_format
from src.panel.sweeps import form as sweep_form
from src.paths import BASE_MODELS
from src.runs import checks
from src.store.tables import Run
from src.sweeps import ranking, search
from src.sweeps.file import parse_sweep
from src.tasks import TASKS, TaskError, TaskSettings, examples, mixed
from src.tasks.mixture import row_counts
from src.tasks.words import target_words
from src.training.data_loaders import Splits, load_splits
from src.training.data_notes import preview_counts
from src.training.data_preview import preview
from src.workers.memory_probe import shorten
from tests.helpers.pages import html, show
from tests.helpers.store import fill_run

SPLITS = ("train", "validation", "test")
MIX = {"spell_out": 0.7, "correct": 0.3}
SETTING = by_name()["data.mix"]


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "available", "counts"),
    [
        # All 70 rows of a are 7/10 of 100.
        ({"a": 0.7, "b": 0.3}, {"a": 70, "b": 60}, {"a": 70, "b": 30}),
        ({"a": 0.7, "b": 0.3}, {"a": 1000, "b": 3}, {"a": 7, "b": 3}),
        ({"a": 7, "b": 3}, {"a": 1000, "b": 3}, {"a": 7, "b": 3}),
        ({"a": 1, "b": 1, "c": 1}, {"a": 4, "b": 90, "c": 90}, {"a": 4, "b": 4, "c": 4}),
        # Of 7 rows 4 2/3 and 2 1/3.
        ({"a": 2, "b": 1}, {"a": 5, "b": 90}, {"a": 5, "b": 2}),
        # Of 2 rows 9/5 and 1/5.
        ({"a": 0.9, "b": 0.1}, {"a": 2, "b": 1}, {"a": 2, "b": 0}),
        ({"a": 1}, {"a": 5}, {"a": 5}),
    ],
)
def test_a_sample_is_as_large_as_the_weights_allow(
    weights: dict[str, float], available: dict[str, int], counts: dict[str, int]
) -> None:
    assert row_counts(weights, available) == counts


@pytest.mark.parametrize("split", SPLITS)
def test_each_task_has_its_share_of_its_own_rows(split: str) -> None:
    rows = mixed(MIX, split)
    own = {task: examples(task, split) for task in MIX}
    drawn = Counter(row.task for row in rows)
    assert drawn["spell_out"] / len(rows) == pytest.approx(0.7, abs=1 / len(rows))
    # No larger one has these shares: spelling out runs out first.
    assert drawn["spell_out"] >= len(own["spell_out"]) - 1
    for task, count in drawn.items():
        assert {row for row in rows if row.task == task} == set(own[task][:count])
    assert len({row.question for row in rows}) == len(rows)
    # By the hash of the questions, so that the tasks lie among each other.
    hashes = [hashlib.sha256(row.question.lower().encode()).digest()[:8] for row in rows]
    assert all(one <= other for one, other in pairwise(hashes))
    assert {row.task for row in rows[:60]} == set(MIX)


def test_a_mixture_of_one_task_is_that_task() -> None:
    alone, mix = load_splits(task="count"), load_splits(task="spell_out", mix=(("count", 1.0),))
    assert mix.fingerprint == alone.fingerprint and mix.rows_by_task == {}


def test_rows_of_a_mixture_are_the_same_in_each_order_of_its_tasks() -> None:
    one, other = {"reverse": 0.5, "spell_out": 0.5}, {"spell_out": 0.5, "reverse": 0.5}
    assert mixed(one, "test") == mixed(other, "test")


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_a_word_that_one_task_scores_is_trained_by_no_other(
    monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """By the hash of the word itself, and by what stands in the rows besides the phrasings."""
    asked = target_words()[::every]
    monkeypatch.setattr("src.tasks.task.target_words", lambda: asked)
    splits = load_splits(
        task="spell_out", mix=tuple((task, 1.0) for task in TASKS), right_words=0.3
    )
    assert splits.leaks == {} and set(splits.rows_by_task) == set(TASKS)
    scored = set(splits.validation["word"]) | set(splits.test["word"])
    assert scored and scored.isdisjoint(splits.train["word"])
    for word in scored:
        assert int(hashlib.sha256(word.encode()).hexdigest()[:16], 16) % 10 >= 8
    known = set(target_words())
    for kind, question, answer in splits.train[["task", "question", "answer"]].values.tolist():
        fields = TASKS[kind].read(question) or {}
        named = {
            one for name, text in fields.items() if name != "place" for one in text.split(", ")
        }
        named -= {"last", *(text for name, text in fields.items() if name == "other")}
        held_out = {
            one
            for one in (named | {answer}) & known
            if int(hashlib.sha256(one.encode()).hexdigest()[:16], 16) % 10 >= 8
        }
        assert not held_out, (kind, question)


def test_the_settings_of_a_task_reach_its_rows_in_a_mixture() -> None:
    rows = mixed(MIX, "test", settings=TaskSettings(separator="dash", score_right_words=True))
    assert all("-" in row.answer for row in rows if row.task == "spell_out")
    assert any(row.question.endswith(f": {row.answer}") for row in rows if row.task == "correct")


def test_a_task_whose_share_comes_to_no_row_is_a_sentence() -> None:
    with pytest.raises(TaskError, match="at its weight count has none of them; raise its weight"):
        mixed({"spell_out": 1.0, "count": 1e-6}, "test")
    config = load_config(overrides={"data.mix": {"spell_out": 1.0, "count": 1e-6}})
    with pytest.raises(ConfigError) as refused:
        checks.data_preview(config)
    assert list(refused.value.problems) == ["data.mix"]


# --- how it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "spell_out: 0.7, correct: 0.3", "{spell_out: 0.7, correct: 0.3}",
        "spell_out:0.7,correct:0.3", "correct: 3, spell_out: 7", '{"spell_out": 70, "correct": 30}',
        " { spell_out : 0.7 , correct : .3 } ",
    ],
)  # fmt: skip
def test_a_mixture_is_read_as_people_write_it(text: str, tmp_path: Path) -> None:
    name, value = parse_override(f"data.mix={text}")
    config = load_config(overrides={name: value})
    assert config.data.mix == MIX and list(config.data.mix) == ["spell_out", "correct"]
    assert from_text(SETTING, to_text(SETTING, config.data.mix)) == MIX
    assert parse_override(override_text(SETTING, config.data.mix)) == ("data.mix", MIX)
    file = tmp_path / "own.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config == stored_config(config.model_dump())


def test_weights_are_normalised_and_stay_as_they_are_then() -> None:
    mix = load_config(overrides={"data.mix": {"spell_out": 1, "count": 1, "swap": 1}}).data.mix
    assert mix == {"count": 0.333333, "spell_out": 0.333333, "swap": 0.333333}
    again = load_config(overrides={"data.mix": from_text(SETTING, to_text(SETTING, mix))}).data.mix
    assert again == mix
    file = yaml.safe_load(to_yaml(load_config(overrides={"data.mix": mix})))
    assert file["data"]["mix"] == mix


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("spell_ot: 1", "no built-in task 'spell_ot'; did you mean 'spell_out'?"),
        ("qqq: 1", "no built-in task 'qqq'; there are contains, correct"),
        ("spell_out", "takes built-in tasks with their weights, as {spell_out: 0.7"),
        ("spell_out: 1, spell_out: 2", "takes built-in tasks with their weights"),
        ("{}", "takes built-in tasks with their weights"),
        ("spell_out: 0", "a number above 0 as the weight of spell_out; got 0"),
        ("spell_out: -1", "a number above 0 as the weight of spell_out"),
        ("spell_out: much", "a number above 0 as the weight of spell_out; got 'much'"),
        ("spell_out: 1e999", "a number above 0 as the weight of spell_out; got inf"),
    ],
)
def test_a_mixture_that_cannot_be_is_a_sentence(value: str, words: str) -> None:
    name, read = parse_override(f"data.mix={value}")
    with pytest.raises(ConfigError) as refused:
        load_config(overrides={name: read})
    assert list(refused.value.problems) == ["data.mix"]
    assert words in refused.value.problems["data.mix"]


def test_a_mixture_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("data: {mix: {spell_out: 7, correct: 3}}\n")
    assert load_config(file).data.mix == MIX
    other = {"data": {"mix": {"count": 1, "swap": 1}}}
    assert load_config(file, overrides=other).data.mix == {"count": 0.5, "swap": 0.5}
    assert load_config(file, overrides={"data.mix": {"count": 2}}).data.mix == {"count": 1.0}
    assert load_config(file, overrides={"data.mix": None}).data.mix is None
    file.write_text("data: {mix: {spell_out: true}}\n")
    with pytest.raises(ConfigError, match="above 0 as the weight of spell_out; got True"):
        load_config(file)


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        ({"data.mix.count": 1}, "data.mix.count", "data.mix='{spell_out: 0.7, correct: 0.3}'"),
        ({"data.mix": MIX, "data.path": "a.csv"}, "data.mix", "data.path of your own data"),
        ({"data.mix": MIX, "data.hub_id": "a/b"}, "data.mix", "data.hub_id of your own data"),
        ({"data.mix": MIX, "data": {"mix": MIX}}, "data.mix", "is given twice"),
    ],
)
def test_what_a_mixture_does_not_go_with(overrides: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(overrides=overrides)
    assert list(refused.value.problems) == [field] and words in refused.value.problems[field]


# --- how it is told -------------------------------------------------------------------------------


def few(splits: Splits) -> Splits:
    return Splits(*(splits[split].head(60) for split in SPLITS))


def test_the_preview_counts_what_was_drawn() -> None:
    splits = few(load_splits(task="spell_out", mix=tuple(MIX.items())))
    seen = preview(
        splits,
        tokenizer=BASE_MODELS / "spelltune-tiny" / "tokenizer.json",
        form=raw_format("{question}:"),
        max_length=96,
    )
    by_hand = {
        task: {split: sum(splits[split]["task"] == task) for split in SPLITS} for task in MIX
    }
    assert seen["rows_by_task"] == by_hand
    counts = by_hand["correct"]
    told = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    assert f"rows of correct: {told}" in preview_counts(seen)


def rows_of(run_ids: list[str]) -> list[Run]:
    with store.reading() as session:
        return list(store.runs_of(session, run_ids))


@pytest.fixture
def studied(home: Path) -> list[str]:
    return [
        fill_run(name="both", data__mix={"spell_out": 0.7, "correct": 0.3}),
        fill_run(name="one", data__mix={"count": 1.0}),
        fill_run(name="plain", data__task="correct"),
    ]


def test_people_read_the_mixture_and_not_the_task_that_is_not_used(studied: list[str]) -> None:
    page = html(show("overview"))
    assert "70% spell_out, 30% correct · " in page and "count · " in page
    groups = grouped(rows_of(studied))
    assert suite_comparison.labels(groups) == ["70% spell_out, 30% correct", "count", "correct"]


def test_a_model_card_names_the_tasks_the_rows_and_the_score_of_each() -> None:
    config = load_config(overrides={"data.mix": MIX})
    counts = {"train": 7, "validation": 2, "test": 2}
    about = {
        "id": "r", "step": 10, "best": None,
        "used": {"rows_by_task": {"spell_out": counts, "correct": counts | {"train": 3}}},
        "metrics": {"test/exact_match": 0.5, "test/exact_match/correct": 0.25,
                    "val/exact_match/correct": 0.2, "suite/count/exact_match": 0.9},
    }  # fmt: skip
    card = model_card.card(config, merged=False, about=about, predictions=None)
    told = "for a mixture of tasks: `spell_out` (70%, 7 training rows), `correct` (30%, 3 training"
    assert told in card
    assert "| accuracy (exact match) of the task correct | 0.2 | 0.25 |" in card
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["tags"][-2:] == ["spell_out", "correct"]


def test_other_rows_are_no_change_of_the_data(home: Path) -> None:
    """Two configs whose settings ask for other rows differ in them, and not in what became of a
    file."""
    runs = [fill_run(name="a", data__separator="dash"), fill_run(name="b", data__mix=MIX),
            fill_run(name="c"), fill_run(name="d", lora__r=3)]  # fmt: skip
    groups = grouped(rows_of(runs))
    for number, group in enumerate(groups):
        group.runs[0].used["data_fingerprint"] = f"print {number}"
    (told,) = changed_data(groups)
    assert told == "spell_out was not the same for all: it changed between c; d"


# --- runs that start from one ---------------------------------------------------------------------


def test_a_probe_of_the_memory_trains_on_the_longest_rows_of_the_mixture(tmp_path: Path) -> None:
    config = load_config(overrides={"data.mix": MIX})
    splits = load_splits(**config.data.source)
    short = shorten(config, tmp_path, splits)
    assert short.data.mix is None and short.data.path == str(tmp_path)
    assert load_splits(**short.data.source).train["answer"].str.len().min() > 20


# --- sweeps ---------------------------------------------------------------------------------------

ARMS = [{"spell_out": 1.0}, {"count": 1.0}, {"count": 0.5, "spell_out": 0.5}]


def test_mixtures_are_values_of_an_axis() -> None:
    text = (
        "{name: s, method: grid, space: {data.mix: [null, {spell_out: 1}, {count: 1}, "
        "{spell_out: 2, count: 2}, {count: 1, spell_out: 1}]}}"
    )
    sweep = parse_sweep(text, "s")
    cells = [cell["data.mix"] for cell in search.grid(sweep, 0)]
    assert sorted(map(repr, cells)) == sorted(map(repr, [None, *ARMS]))
    study = search.rebuild_study(
        sweep, [search.PastTrial(0, {"data.mix": ARMS[2]}, search.TrialState.COMPLETE, 0.5)]
    )
    assert study.trials[0].params == {"data.mix": 3}
    with pytest.raises(ConfigError, match="no built-in task 'cont'; did you mean 'count'"):
        parse_sweep("{name: s, method: grid, space: {data.mix: [{cont: 1}]}}", "s")


@pytest.mark.parametrize("arms", [ARMS, ARMS[:1], [None, *ARMS]])
def test_the_form_of_a_sweep_writes_an_axis_of_mixtures_as_it_reads_it(arms: list[Any]) -> None:
    assert sweep_form.unflow(sweep_form.flow(arms)) == arms
    overrides = {"data.mix": ARMS[2], "lora.r": 8}
    assert sweep_form.unflow(sweep_form.flow(overrides)) == overrides


def test_a_base_of_a_sweep_has_a_mixture_by_its_dotted_name() -> None:
    text = (
        "{name: s, method: grid, space: {lora.r: [4]}, base: {overrides: {data.mix: {count: 2}}}}"
    )
    sweep = parse_sweep(text, "s")
    assert sweep.base.overrides == {"data.mix": {"count": 1.0}}


def test_a_mixture_in_a_table_of_trials_is_a_text() -> None:
    sweep = parse_sweep("{name: s, method: grid, space: {data.mix: [{spell_out: 1}, null]}}", "s")
    values = pd.Series([{"spell_out": 0.7, "count": 0.3}, None], dtype=object)
    shown = ranking.shown(pd.DataFrame({"data.mix": values}), sweep)
    assert shown["data.mix"].tolist() == ["spell_out: 0.7, count: 0.3", "null"]
