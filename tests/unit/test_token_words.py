"""Words of more than one token: told by other means, in the rows, and in the preview."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from src.config import ConfigError, load_config
from src.paths import BASE_MODELS
from src.runs import checks
from src.runs.checks import BaseModelError
from src.sweeps import trials
from src.sweeps.file import parse_sweep
from src.tasks import TASKS, TaskError, TaskSettings, examples, mixed
from src.tasks.words import split_of, target_words, training_words
from src.training import data_loaders
from src.training.data_files import SPLITS
from src.training.data_loaders import arguments_of, load_splits, splits_of
from src.training.data_notes import preview_counts, preview_notes
from src.training.token_words import words_of_several_tokens
from tests.helpers.pages import SEEN

TINY = BASE_MODELS / "spelltune-tiny" / "tokenizer.json"
WHOLE = ["about", "receive", "separate", "the"]


def bpe(start: str) -> models.BPE:
    """Letters, and WHOLE with `start` before them, each built up letter by letter."""
    vocabulary = {one: at for at, one in enumerate([start, *"abcdefghijklmnopqrstuvwxyzSTW:"])}
    merges = []
    for word in WHOLE:
        built = start
        for letter in word:
            if (built, letter) not in merges:
                merges.append((built, letter))
            built += letter
            vocabulary.setdefault(built, len(vocabulary))
    return models.BPE(vocabulary, merges)


def byte_level() -> Tokenizer:
    """As of GPT-2: a space is a part of the token after it."""
    made = Tokenizer(bpe("Ġ"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def metaspace() -> Tokenizer:
    """As of T5: a space is a letter of its own that begins a word."""
    made = Tokenizer(bpe("▁"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return made


def unsplit() -> Tokenizer:
    """As of Llama 2: the whole text is one piece, with a space put before it."""
    made = Tokenizer(bpe("▁"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return made


@pytest.mark.parametrize("make", [byte_level, metaspace, unsplit])
def test_the_words_that_a_tokenizer_knows_are_left_out(
    make: Callable[[], Tokenizer], tmp_path: Path
) -> None:
    file = tmp_path / "tokenizer.json"
    make().save(str(file))
    every = {*target_words(), *training_words()}
    pieces = {word[:length] for word in WHOLE for length in range(1, len(word) + 1)}
    assert set(WHOLE) <= pieces & every == every - words_of_several_tokens(file)


def test_words_are_counted_as_they_stand_after_a_space() -> None:
    found, cutter = words_of_several_tokens(TINY), Tokenizer.from_file(str(TINY))
    for word in target_words()[::7]:
        assert (word in found) == (len(cutter.encode(f" {word}").ids) > 1), word


def test_a_changed_tokenizer_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    byte_level().save(str(file))
    before = words_of_several_tokens(file)
    file.write_bytes(TINY.read_bytes())
    assert words_of_several_tokens(file) != before


# --- rows -----------------------------------------------------------------------------------------

FEW = frozenset(target_words()[::20])


@pytest.mark.parametrize("task", ["spell_out", "count", "correct"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_only_those_words_are_asked(task: str, split: str) -> None:
    rows = examples(task, split, settings=TaskSettings(only=FEW))
    every = examples(task, split)
    assert rows == [row for row in every if row.word in FEW]


def test_words_that_are_right_already_are_such_words_too() -> None:
    some = TaskSettings(only=FEW, right_words=0.2, length_spread=1.0, score_right_words=True)
    for split in ("train", "test"):
        rows = examples("correct", split, settings=some)
        assert {row.word for row in rows} <= FEW
        right = sum(row.question.endswith(f": {row.word}") for row in rows)
        assert right / len(rows) == pytest.approx(0.2 if split == "train" else 0.5, abs=0.01)
    assert {row.word for row in mixed({"count": 1, "swap": 1}, "test", settings=some)} <= FEW


def test_no_word_left_is_a_sentence() -> None:
    with pytest.raises(TaskError, match="takes each of its words for one token, so turn data"):
        examples("spell_out", "test", settings=TaskSettings(only=frozenset()))
    with pytest.raises(TaskError, match="takes each of its words for one token"):
        examples("correct", "train", settings=TaskSettings(only=frozenset(), length_spread=1.0))


def test_words_that_make_no_question_are_told_from_words_that_are_not_left() -> None:
    """Each task, with no word, with one and with a few."""
    of = {s: [w for w in target_words() if split_of(w) == s] for s in SPLITS}
    for only in ([], of["train"][:1], [*of["train"][:3], of["test"][0]]):
        asked = TaskSettings(only=frozenset(only), right_words=0.5, length_spread=1)
        for task in TASKS:
            for split in ("train", "test"):
                left = sum(split_of(word) == split for word in only)
                try:
                    assert examples(task, split, settings=asked) and left
                except TaskError as error:
                    told = "takes each of its words for one token, so turn" if not left else (
                        f"only {left} of its words ha"
                    )  # fmt: skip
                    assert told in str(error), error
                    assert str(error).endswith("so turn data.multi_token_words off")


def test_an_empty_dictionary_says_where_words_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(TASKS["count"], make=lambda word, rng: None)
    monkeypatch.setitem(TASKS, "count", task)
    with pytest.raises(TaskError, match=r"count has no test questions: none of its [\d,]+ words"):
        examples("count", "test")
    monkeypatch.setattr(type(task), "words", lambda self: [])
    with pytest.raises(TaskError, match="the dictionary of codespell, has no such word; install"):
        examples("count", "test")


def test_the_setting_reads_the_tokenizer_of_the_base() -> None:
    config = load_config(overrides={"data.multi_token_words": True})
    assert arguments_of(config)["tokenizer"] == TINY
    splits, every = splits_of(config), load_splits(task="spell_out")
    whole = set(target_words()) - words_of_several_tokens(TINY)
    for split, frame in (("train", splits.train), ("test", splits.test)):
        kept = every[split][~every[split]["word"].isin(whole)]
        assert frame["question"].tolist() == kept["question"].tolist()
    words = dict(splits.rows)  # one row a word
    assert splits.multi_token_words == {"words": words, "left_out": len(whole)}
    assert every.multi_token_words == {}
    # Own data is what it is.
    own = load_config(overrides={"data.multi_token_words": True, "data.path": "words.csv"})
    assert arguments_of(own)["tokenizer"] is None


def test_a_base_without_a_tokenizer_file_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"data.multi_token_words": True, "model.name": str(tmp_path)}
    config = load_config(overrides=own)
    with pytest.raises(data_loaders.DataError, match="reads the words from tokenizer.json, which"):
        splits_of(config)

    def refuse(config: Any) -> Any:
        raise BaseModelError("is damaged")

    monkeypatch.setattr(checks, "readable_base", refuse)
    with pytest.raises(ConfigError) as refused:
        checks.data_preview(config)
    assert refused.value.problems == {"model.name": "is damaged"}


# --- how it is told -------------------------------------------------------------------------------


def test_the_notes_of_a_preview_count_the_words() -> None:
    counts = {"train": 2000, "validation": 60, "test": 49}
    seen = SEEN | {"multi_token_words": {"words": counts, "left_out": 1200}}
    (first,), (second, *_) = preview_counts(seen), preview_notes(seen)
    assert first == (
        "words of more than one token: 2,000 train, 60 validation, 49 test; 1,200 words of the "
        "built-in tasks are one token and not asked"
    )
    assert second.startswith("49 words of more than one token in the test split")
    counts["test"] = 50
    assert not any("so few" in note for note in preview_notes(seen))


def test_a_sweep_over_models_has_other_words_for_each() -> None:
    space = "space: {model.name: [gpt2, spelltune-tiny], lora.r: [2, 4]}"
    plain = parse_sweep(f"{{name: s, method: grid, {space}}}", "s")
    assert trials.data_searched(plain) == []
    base = "base: {overrides: {data.multi_token_words: true}}"
    cut = parse_sweep(f"{{name: s, method: grid, {space}, {base}}}", "s")
    assert trials.data_searched(cut) == ["model.name"]
    both = parse_sweep(
        "{name: s, method: grid, space: {data.multi_token_words: [true, false], data.separator: "
        "[dash, none], data.template: [chat]}}", "s",
    )  # fmt: skip
    assert trials.data_searched(both) == ["data.separator", "data.multi_token_words"]
