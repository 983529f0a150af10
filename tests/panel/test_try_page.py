"""The Try page: what adapters answer side by side, what is marked, and what is kept of it."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from src import paths
from src.panel.tries import ask
from src.runs.answering import NoAnswers
from src.store.tables import Status
from src.training.data_loaders import load_rows
from src.training.questions import Answer, Likely, Speller, question_of
from tests.helpers.pages import html, show
from tests.helpers.store import HOSTILE, checkpoint, fill_run


class Answering:
    """Answers in the place of the process: each with what `says` gives for a question."""

    def __init__(self) -> None:
        self.says: Callable[[str], str] = lambda expected: expected.replace("e", "a")
        self.asked: list[tuple[list[str], list[str]]] = []
        self.waits = threading.Event()
        self.waits.set()
        self.fails: Exception | None = None
        self.stopped = False

    def ask(
        self, spellers: Sequence[Speller], texts: Sequence[str], progress: Callable[[str], None]
    ) -> list[list[Answer]]:
        self.asked.append(([one.name for one in spellers], list(texts)))
        progress("loading the libraries")
        assert self.waits.wait(120)
        if self.fails:
            raise self.fails
        return [[self._answer(speller, text) for speller in spellers] for text in texts]

    def _answer(self, speller: Speller, text: str) -> Answer:
        asked = question_of(speller.config, text)
        said = self.says(asked.expected or asked.question)
        likely = [Likely(said, 0.875, asked.is_right(said)), Likely("x <b>y", 0.0625, False)]
        return Answer(
            by=speller.name, text=asked.text, question=asked.question, expected=asked.expected,
            predicted=said, correct=asked.is_right(said), edit_distance=1, probability=0.875,
            likeliest=likely, prompt_tokens=["<human>:", " Spell", "\n"], answer_tokens=[" t", "!"],
            seconds=0.125,
        )  # fmt: skip

    def stop(self) -> None:
        self.stopped = True
        self.fails = NoAnswers("the process that answers was ended; try again")
        self.waits.set()


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    found = Answering()
    monkeypatch.setattr(ask, "_answering", lambda: found)
    yield found
    found.waits.set()


def with_adapter(**settings: Any) -> str:
    """Id of a run with an adapter that is there, though nothing could be loaded from it."""
    run_id = fill_run(**({"data__task": "spell_out"} | settings))
    folder = paths.output_dir(run_id) / "final"
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).touch()
    return run_id


def settled(test: AppTest) -> AppTest:
    """The page once nothing is waited for."""
    end = time.monotonic() + 120
    while 'role="status"' in html(test) and time.monotonic() < end:
        time.sleep(0.02)
        test.run()
        assert not test.exception, test.exception[0].message
    return test


def answered(**query: Any) -> AppTest:
    return settled(show("try", **query))


def test_a_word_is_answered_side_by_side_with_its_letters_marked(answering: Answering) -> None:
    one, two = with_adapter(name="one"), with_adapter(name="two", training__seed=7)
    body = html(answered(run=[one, two], word="tea"))
    base = "spelltune-tiny"
    assert answering.asked == [([base, one, two], ["tea"])]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", body)
    assert heads[:5] == ["Text", "Right answer", f"{base} (base model)", "one · seed 42",
                         "two · seed 7"]  # fmt: skip
    assert body.count('<bdi>t <mark class="wrong">a</mark> a</bdi>') == 3
    assert "<bdi>t e a</bdi>" in body and "wrong · 87.5% · 0.12 s" in body
    # More of a single text: the likeliest answers, and the tokens, whatever stands in them.
    assert body.count(">Likeliest answers</th>") == 3 and "6.2%" in body
    assert "x &lt;b&gt;y" in body and "<b>y" not in body
    assert (
        '<div class="pieces"><span>&lt;human&gt;:</span><span>·Spell</span><span>⏎</span>' in body
    )
    assert "its probability and the time that it took. Underlined letters differ" in body
    assert "Reads 3 tokens" in body and "Writes 2 tokens<" in body


def test_a_list_is_a_table_with_sums(answering: Answering) -> None:
    run = with_adapter(name="one")
    words = ["tea", "cow", "Is that all?", "pot\tp o t"]
    test = answered(run=run, word=words, base="false")
    assert answering.asked == [([run], words)]
    body = html(test)
    assert "one · seed 42: 2 of 3 right." in body and "Likeliest answers" not in body
    # Each word leads to itself alone, with the right answer that was typed.
    links = re.findall(r'href="(try\?[^"]*)"', body)
    assert len(links) == 4 and all(f"run={run}" in link for link in links)
    assert "word=pot%09p+o+t" in links[3]
    assert test.text_area[0].value == "\n".join(words)


def test_what_is_typed_stands_in_the_address(answering: Answering) -> None:
    run = with_adapter()
    test = show("try", run=run)
    assert "Nothing asked yet" in html(test) and not answering.asked
    test.text_area[0].input(" tea \n\n<b>cow</b>\n").run()
    settled(test)
    assert test.query_params["word"] == ["tea", "<b>cow</b>"]
    assert answering.asked[-1][1] == ["tea", "<b>cow</b>"] and "<b>cow" not in html(test)
    # A list that no address holds is asked all the same.
    words = [f"word{'x' * 40}{number}" for number in range(150)]
    test.text_area[0].input("\n".join(words)).run()
    settled(test)
    assert answering.asked[-1][1] == words and "word" not in test.query_params
    assert test.text_area[0].value.split("\n") == words


def test_a_checkpoint_and_the_newest_run_are_found(answering: Answering) -> None:
    fill_run(name="old")
    run = with_adapter(name="newest")
    assert html(show("try")).count("Nothing asked yet") == 1
    checkpoint(run, 40)
    answered(word="tea", run=[run, f"{run}@40"])
    assert answering.asked[-1][0][1:] == [run, f"{run}@40"]
    test = answered(word="tea")
    assert answering.asked[-1][0][1:] == [run]
    assert "newest · seed 42, step 40" in test.multiselect[0].options


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"run": "nobody"}, "nobody"),
        ({"word": [f"w{n}" for n in range(201)]}, "201 words are too many to try at once"),
        ({"word": "x" * 1001}, "1,001 letters"),
        ({"run": "bare", "word": "tea"}, "has no adapter: its files are gone"),
    ],
)
def test_bad_input_is_a_sentence(answering: Answering, query: dict[str, Any], told: str) -> None:
    run = with_adapter(name="one")
    fill_run(name="bare")
    assert told in html(show("try", **({"run": run} | query)))
    assert not answering.asked


def test_an_answer_that_nobody_can_judge_says_how_it_could_be(answering: Answering) -> None:
    body = html(answered(run=with_adapter(name="one"), word="Is that all?"))
    assert "Write the right answer behind a tab" in body and "Underlined" not in body


def test_an_adapter_that_is_not_there_says_why_and_another_can_be_chosen(
    answering: Answering,
) -> None:
    failed = fill_run(name="failed", status=Status.FAILED, steps=0, curves=False)
    trains = fill_run(name="trains", status=Status.RUNNING, steps=0, curves=False)
    body = html(show("try", run=failed))
    assert "has no adapter: it failed before it kept one" in body
    assert "Choose another adapter above" in body
    assert "has no adapter yet: it is running" in html(show("try", run=trains))


def test_without_runs_the_page_says_what_to_do(answering: Answering) -> None:
    body = html(show("try", word="tea"))
    assert "No adapter to ask" in body and 'href="launch"' in body


def test_no_answer_is_a_sentence_and_is_asked_for_again(answering: Answering) -> None:
    run = with_adapter()
    answering.fails = NoAnswers("a run trains here, <b>wait</b>")
    test = answered(run=run, word="tea")
    assert 'role="alert">a run trains here, &lt;b&gt;wait' in html(test)
    test.run()
    assert len(answering.asked) == 1, "a page that is drawn again asks nothing"
    answering.fails = None
    test.button[0].click().run()
    assert "87.5%" in html(settled(test)) and len(answering.asked) == 2
    test.button[0].click().run()
    assert len(answering.asked) == 2, "what was answered is not asked again"


def test_a_page_never_waits_and_can_stop(answering: Answering) -> None:
    run = with_adapter()
    answering.waits.clear()
    test = show("try", run=run, word="tea")
    assert re.search("(loading the libraries|waiting for another question) …", html(test))
    stop = next(button for button in test.button if button.label == "Stop")
    while not answering.asked:
        time.sleep(0.01)
    stop.click().run()
    assert answering.stopped
    assert "was ended; try again" in html(settled(test))


def test_wrong_answers_are_kept_in_a_test_file(answering: Answering) -> None:
    run = with_adapter()
    test = answered(run=run, word=["tea", "cow", "bee"])
    button = next(one for one in test.button if one.label.startswith("Add"))
    assert button.label == "Add 2 wrong answers"
    file = paths.home() / "data" / "missed.jsonl"
    button.click().run()
    assert "has 2 new questions" in html(test)
    assert load_rows(file)["answer"].tolist() == ["t e a", "b e e"]
    button.click().run()
    assert "has 0 new questions, 2 stood there already" in html(test)
    for name in ("../out.jsonl", "words.csv", ".hidden.jsonl", "a/b.jsonl", ""):
        test.text_input[0].input(name).run()
        next(one for one in test.button if one.label.startswith("Add")).click().run()
        assert "is no name for a test file" in html(test), name
    file.write_text(json.dumps({"word": 1}))
    test.text_input[0].input("missed.jsonl").run()
    next(one for one in test.button if one.label.startswith("Add")).click().run()
    assert "name another file" in html(test) and file.read_text() == '{"word": 1}'


def test_what_a_model_says_is_shown_as_text(answering: Answering) -> None:
    run = with_adapter(name=HOSTILE)
    answering.says = lambda expected: "<img src=x onerror=alert(1)>\x1b[31m"
    body = html(answered(run=run, word=["tea", "<script>alert(1)</script>"]))
    assert "<img" not in body and "<script" not in body and "\x1b" not in body


def test_right_answers_leave_nothing_to_keep(answering: Answering, home: Path) -> None:
    answering.says = lambda expected: expected
    test = answered(run=with_adapter(), word="tea")
    assert not any(button.label.startswith("Add") for button in test.button)
    assert "right · 87.5%" in html(test)


def test_runs_to_choose_from_are_told_apart_by_state_and_score() -> None:
    good = fill_run(name="good")
    fill_run(name="bad", status=Status.FAILED)
    (picker,) = show("try", run=f"{good}@600").multiselect
    (alone,) = (text for text in picker.options if text.startswith("good") and "step" not in text)
    assert alone.startswith("good · seed 42 · ") and alone.endswith("%")
    assert any(text.startswith("bad · seed 42 · failed") for text in picker.options)
    assert "good · seed 42, step 600" in picker.options
