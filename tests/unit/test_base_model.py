"""The base model that ships: what it may have seen, its size, what it cannot do."""

import gzip
from pathlib import Path

import pytest

from scripts import pretrain_base
from scripts.pretrain_base import FOLDER, HELD_OUT_FILE, LENGTH, Lines, held_out, read_lists
from src.config import load_config
from src.training.data_loaders import load_splits


def test_no_held_out_word_was_listed() -> None:
    listed = {word.casefold() for word in read_lists(FOLDER)}
    assert len(listed) > 50_000
    for task in ("spell_out", "correct"):
        splits = load_splits(task=task)
        for split in ("validation", "test"):
            assert not listed & set(splits[split]["word"])
            questions = {q.split()[-1] for q in splits[split]["question"]}
            assert not listed & questions
    assert not listed & held_out()
    # Slips are drawn at random, so they are checked against this file while they are drawn.
    kept = set(gzip.decompress((FOLDER / HELD_OUT_FILE).read_bytes()).decode().split())
    assert kept == held_out()


def test_pretraining_rows_hold_no_held_out_word() -> None:
    from tokenizers import Tokenizer

    banned, listed = held_out(), set(read_lists(FOLDER))
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    made = Lines(FOLDER, seed=123, slips=0.5)
    slips = 0
    for _ in range(3000):
        ids = made.row()
        assert len(ids) == LENGTH
        text = tokenizer.decode(ids)
        for line in text.split("\n"):
            spelled = line.replace(" ", "") if all(len(x) == 1 for x in line.split()) else ""
            words = {spelled, *line.split()} - {""}
            assert not words & banned, line
            slips += bool(words - listed)
    assert slips > 100  # the check saw slips, and they were not held-out words


def test_a_slip_that_makes_a_held_out_word_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Lines(FOLDER, seed=1, slips=1.0)
    monkeypatch.setattr(pretrain_base, "slipped", lambda word, rng: "beleive")
    assert len(made.plain.decode(made.with_slip()).split()) == 2
    made.banned = frozenset({"beleive"})
    assert len(made.plain.decode(made.with_slip()).split()) == 1


def test_the_folder_is_small_and_says_what_it_is() -> None:
    size = sum(file.stat().st_size for file in FOLDER.rglob("*"))
    assert size <= 8 * 2**20
    card = (FOLDER / "README.md").read_text()
    for word in ("CC BY-SA", "wordfreq", "codespell", "H200", "cannot"):
        assert word in card


@pytest.mark.parametrize("task", ("spell_out", "correct"))
def test_zero_shot_it_cannot_do_the_tasks(task: str) -> None:
    from src.models import spelling_model as spelling
    from src.training import scoring
    from src.training.prompts import format_of
    from src.training.trl_arguments import plan

    config = load_config(overrides={"data.task": task, "training.precision": "fp32"})
    asked = plan(config)
    vocabulary = spelling.load_vocabulary(**asked.vocabulary)
    rows = scoring.encode(
        vocabulary.tokenizer, load_splits(task=task).validation.head(200), format_of(config)
    )
    model = spelling.load_base(
        vocabulary=vocabulary, backend="peft", **asked.vocabulary, **asked.base
    )
    found = scoring.score(
        model, vocabulary.tokenizer, rows, context=vocabulary.context_tokens, **asked.evaluation
    )
    assert found is not None and found[0]["exact_match"] < 0.05


def test_the_tokenizer_gives_every_text_back() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(FOLDER) / "tokenizer.json"))
    for text in (
        "recieve -> receive",
        "<human>: Spell the word 'naïve'.\n<assistant>: n a ï",
        "日本",
    ):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.get_vocab_size() == 1024
