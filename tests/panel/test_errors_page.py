"""The Errors page: words, filters, charts, two adapters beside each other."""

import re
import time
from html import unescape
from urllib.parse import parse_qs

import pandas as pd
import pytest

from src import paths
from src.analysis import misspellings
from src.panel.errors import filters, table
from src.panel.ui import html as ui_html
from src.panel.ui import letters
from src.store.tables import Status
from tests.helpers.pages import html, show
from tests.helpers.speed import slowness
from tests.helpers.store import (
    HOSTILE,
    MISSPELLED,
    fill_predictions,
    fill_run,
    two_runs,
)

FRAME = pd.DataFrame(
    [
        ("recieve", "receive", "recieve", False, 1),
        ("rythm", "rhythm", "rythem", False, 2),
        ("word", "word", "word", True, 0),
        ("=1+1", "@x", "-y", False, 2),
    ],
    columns=["question", "expected", "predicted", "correct", "edit_distance"],
)


def test_words_are_found_filtered_and_sorted():
    def select(order="most edits", **asked):
        frame = misspellings.with_kinds(FRAME).assign(task="word")
        tests = filters.masks(frame, misspellings.edit_table(frame), asked)
        return filters.ordered(filters.passing(tests, frame), order)["question"].tolist()

    assert select(wrong="") == ["=1+1", "rythm", "recieve"]
    assert select(order="fewest edits")[0] == "word"
    assert select(wrong="", find="RHYTHM") == ["rythm"]
    assert select(find=".*") == []
    assert select(distance="1") == ["recieve"]
    assert select(distance="4 or more") == []
    assert select(kind="transposition", length="7") == select(at="4") == ["recieve"]
    assert select(letters=">e") == ["rythm"] and select(letters="e>") == []
    assert select(letter="w") == ["word"]


def test_differing_letters_are_marked_by_more_than_colour():
    assert letters.marked("seperate", "separate") == (
        '<bdi>sep<mark class="missed">e</mark>rate</bdi>',
        '<bdi>sep<mark class="wrong">a</mark>rate</bdi>',
    )
    assert '<mark class="gap"></mark>' in letters.marked("occurred", "occured")[1]
    assert letters.marked("word", "")[1] == "<i>nothing</i>"
    assert "underline" in (paths.ROOT / "src/panel/panel.css").read_text().split("mark {")[1][:120]


def test_what_a_model_answers_is_text():
    assert ui_html.printable("<b>\u202ex\x00\n") == "&lt;b&gt;\\u202ex\\u0000⏎"


def test_the_errors_page_restores_its_filters_from_the_address_and_switches_splits():
    run_id = fill_run()
    fill_predictions(run_id, 600, [("tset", "test", "tset")], rows=50, split="test")
    test = show("errors", run=run_id, find="rhythm")
    body = html(test)
    assert "97.0%" in body and "12 of 400" in body
    assert "rythm" in body and "recieve" not in body
    body = html(show("errors", run=run_id, split="test"))
    assert "1 of 50" in body and "tset" in body
    every = html(show("errors", run=run_id, every="true"))
    assert "400 words" in every and rows(every) == 50, "a page"


def test_without_a_run_in_the_address_the_newest_scored_one_is_shown():
    scored = fill_run(created_at=time.time() - 100)
    fill_run(status=Status.QUEUED)
    assert scored in show("errors").query_params["run"]


@pytest.mark.timed
def test_a_table_of_ten_thousand_words_opens_within_a_second():
    run_id = fill_run(words=[(f"w{i}", f"word{i}", f"wrod{i}") for i in range(9000)], rows=10_000)
    show("errors", run=run_id)
    start = time.perf_counter()
    show("errors", run=run_id)
    assert time.perf_counter() - start < slowness()


@pytest.mark.parametrize(
    "bad", [{"page": "99"}, {"distance": "many"}, {"split": "x"}, {"order": "?"}, {"every": "7"}]
)
def test_an_address_with_nonsense_shows_the_page_without_it(bad):
    run_id = fill_run(rows=400)
    assert "12 of 400" in html(show("errors", run=run_id, **bad))


def test_a_run_without_scored_words_says_so():
    run_id = fill_run(status=Status.RUNNING, steps=50, curves=False)
    assert "has not been scored on its validation words" in html(show("errors", run=run_id))
    assert "No runs yet" not in html(show("errors", run=run_id))


def rows(body: str) -> int:
    """Words in the table of the page."""
    table = body.split('<table class="rows words')[1].split("</table>")[0]
    return table.count("<tr>") - 1


def test_the_charts_link_to_the_words_that_they_count(home):
    before, _ = two_runs()
    page = html(show("errors", run=before))
    links = re.findall(r'href="errors\?([^"]+)" target="_self" title="([a-z -]+): ([0-9]+) ', page)
    assert sum(int(count) for *_, count in links) == 12
    for query, kind, count in links:
        asked = {k: v[0] for k, v in parse_qs(unescape(query)).items()}
        assert asked == {"run": before, "kind": kind}
        assert rows(html(show("errors", **asked))) == int(count)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [({"at": "4", "length": "7"}, {"receive"}), ({"letters": ">r"}, set()),
     ({"letters": "i>a"}, {"definitely"}), ({"letter": "w"}, {"weird"}), ({"at": "x"}, None),
     ({"kind": "vowel swap"}, {"separate", "perseverance"}), ({"kind": "none"}, None),
     ({"length": "5"}, {"weird"})],
)  # fmt: skip
def test_the_filters_of_the_charts_stand_in_the_address(home, asked, expected):
    body = html(show("errors", run=fill_run(), **asked))
    shown = set(re.findall(r'title="How this word[^>]+>([a-z]+)</a>', body))
    questions = {right: question for question, right, _ in MISSPELLED}
    assert shown == ({questions[e] for e in expected} if expected is not None
                     else set(questions.values()))  # fmt: skip


def test_letters_and_lengths_have_charts_of_their_own(home):
    body = html(show("errors", run=fill_run(), map="Letters and lengths"))
    assert "a became e: 3" in body and "r left out: 2" in body
    assert "5 letters: 90.9% of 11 right" in body and "with w (" in body


MIXED = [
    ("spell weird", "w e i r d", "w i e r d"),
    ("spell until", "u n t i l", "u n t i l l"),
    ("spell word", "w o r d", "word"),
    ("spell early", "e a r l y", "e o r l y"),
    *MISSPELLED[:4],
]


def mixed_run() -> str:
    """A run with questions of both tasks, of which it is known how many tokens they have."""
    run_id = fill_run(name="mixed", words=MIXED, rows=40)
    file = paths.predictions_dir(run_id) / "step-600.parquet"
    frame = pd.read_parquet(file)
    frame.assign(answer_tokens=frame["expected"].str.len() // 3 + 1).to_parquet(file)
    return run_id


MARK = re.compile(r'href="errors\?([^"]+)" target="_self" title="([^"]+)" aria-label')


def test_every_mark_of_every_chart_asks_for_as_many_words_as_it_counts(home):
    run_id = mixed_run()
    file = paths.predictions_dir(run_id) / "step-600.parquet"
    frame, changes = misspellings.read(file), misspellings.read_edits(file)
    seen = set()
    for chart in ("Kinds and places", "Letters and lengths"):
        page = html(show("errors", run=run_id, map=chart, every="true"))
        for query, title in MARK.findall(page):
            asked = {k: v[0] for k, v in parse_qs(unescape(query), keep_blank_values=True).items()}
            own = {k: v for k, v in asked.items() if k not in ("run", "map", "every")}
            tests = filters.masks(frame, changes, own)
            found = len(filters.passing(tests, frame))
            if "at" in own:
                share = float(re.search(r"([0-9.]+)%", title)[1])
                of = (frame["length"] == int(own["length"])).sum()
                assert f"{found / of:.1%}" == f"{share}%", title
            else:
                # No word of these has the same change twice.
                assert found == int(re.search(r"(?:: |of )([0-9,]+)(?: \(| right|$)", title)[1]), (
                    title
                )
            seen |= own.keys()
    assert seen == {"kind", "length", "at", "letters", "letter", "tokens", "task"}


def test_the_page_filters_by_task_and_by_tokens(home):
    run_id = mixed_run()
    assert rows(html(show("errors", run=run_id))) == 8
    assert rows(html(show("errors", run=run_id, task="spell out"))) == 4
    assert rows(html(show("errors", run=run_id, task="word", tokens="4"))) == 2
    assert "Accuracy by task" not in html(show("errors", run=fill_run(), map="Letters and lengths"))


def test_the_map_of_places_leaves_long_words_out_and_keeps_lengths_whole(home):
    long = ("qqq", "counterrevolutionary", "counterrevolutionarz")
    body = html(show("errors", run=fill_run(words=[*MISSPELLED, long])))
    assert "Not here: 1 of more than 16 letters." in body
    assert "length=7&amp;at=" in body and ".0 letters" not in body and "length=7.0" not in body


def test_two_runs_beside_each_other_reconcile(home):
    before, after = two_runs()
    body = html(show("errors", run=before, vs=after))
    assert "2 fixed − 1 broken = +1 of 399 questions, +0.3 points" in body
    assert "of these two adapters" in body
    assert f'href="compare?run={before}&amp;run={after}"' in body
    assert rows(body) == 13
    for outcome, count in {
        "fixed": 2,
        "broken": 1,
        "same mistake": 9,
        "another mistake": 1,
    }.items():
        assert f'title="{outcome}: {count} word' in body
        assert rows(html(show("errors", run=before, vs=after, outcome=outcome))) == count
    lost = rows(html(show("errors", run=before, vs=after, outcome="no word any more")))
    assert lost == 1  # word20 is none, but was the right answer
    assert "right in both: 386" in body
    assert rows(html(show("errors", run=before, vs=after, outcome="right in both"))) == 50


def test_two_checkpoints_of_a_run_beside_each_other(home):
    run_id = fill_run()
    fill_predictions(run_id, 100, [*MISSPELLED[6:], ("wrod7", "word7", "wrd7")])
    body = html(show("errors", run=run_id, step="100", vs=f"{run_id}@600"))
    assert "1 fixed − 0 broken" in body and "still wrong" in body
    assert "Nothing in common" not in body


def test_a_word_has_a_history_over_checkpoints_and_runs(home):
    before, after = two_runs()
    fill_predictions(before, 100, [("accomodate", "accommodate", "acommodate")])
    body = html(show("errors", run=before, word="accomodate"))
    story = body.split('<section class="history">')[1].split("</section>")[0]
    assert "never" in story and "always right" in story
    assert story.count("✗") == 2 and story.count("✓") == 1 and "acommodate" in story
    assert "right: <b>accommodate</b>" in story
    # From there to the words around it, in the order of the table: this is the first.
    assert 'class="next"' in story and "word=definately" in story and "Previous" not in story
    assert "before" in story and "after" in story


def test_runs_without_a_question_in_common_say_so(home):
    first, second = fill_run(), fill_run(name="other")
    fill_predictions(second, 600, [("x", "y", "z")], rows=1)
    assert "Nothing in common" in html(show("errors", run=first, vs=second))


def test_a_hostile_answer_is_text_in_every_view(home):
    word = (f"{HOSTILE}'", f"{HOSTILE}x", f'"{HOSTILE}')
    first, second = fill_run(words=[word]), fill_run(words=[word], name=HOSTILE)
    for asked in ({}, {"vs": second}, {"word": word[0]}, {"map": "Letters and lengths"}):
        assert "<img" not in html(show("errors", run=first, **asked))


def test_predictions_that_are_gone_are_said_to_be(home):
    run_id = fill_run()
    (paths.predictions_dir(run_id) / "step-600.parquet").unlink()
    assert "The predictions are gone" in html(show("errors", run=run_id))


def test_the_run_to_compare_with_is_chosen_by_name_and_seed(home):
    before, after = two_runs()
    twin = fill_run(name="after")
    fill_predictions(after, 300, MISSPELLED)

    def options(**asked: str) -> tuple[str, list[str]]:
        test = show("errors", run=before, **asked)
        (choice,) = [box for box in test.selectbox if box.label == "Compare with"]
        return choice.value, choice.options

    stamps = {run_id: run_id.rpartition("_")[2] for run_id in (after, twin)}
    both = [f"after · seed 42 · {stamps[run_id]} · 95.4%" for run_id in (twin, after)]
    assert options() == ("nothing", ["nothing", *both])
    chosen, offered = options(vs=f"{after}@300")
    assert chosen == f"{after}@300" and f"{both[1]}, step 300" in offered
    fill_run(name="alone")
    assert options(vs="alone")[0].startswith("alone_")  # the address may call a run by its name
    assert options(vs="nobody")[0] == "nothing"


def test_the_start_that_all_questions_share_stands_once(home):
    words = [(f"Spell the word: {q}", e, p) for q, e, p in MISSPELLED]
    page = html(show("errors", run=fill_run(words=words)))
    assert "12 words, each after “Spell the word:”" in page
    assert ">recieve</a>" in page and ">Spell the word: recieve</a>" not in page
    assert "word=Spell+the+word%3A+recieve" in page  # its history is asked for by the whole
    assert table.shared_start(["Spell: a", "Count: a"]) == "" == table.shared_start(["Spell: a"])


def test_two_runs_are_called_a_and_b_and_can_be_swapped(home):
    first, second = fill_run(name="one"), fill_run(name="two", lora__r=8)
    page = html(show("errors", run=first, vs=second))
    assert "A: one @600" in page and "B: two @600" in page and "Swap A and B" in page
    swapped = f"run={second}&amp;step=600&amp;split=validation&amp;vs={first}%40600"
    assert swapped in page
    page = html(show("errors", run=second, step="600", split="validation", vs=f"{first}@600"))
    assert "A: two @600" in page and "B: one @600" in page


def test_a_pager_says_which_words_are_shown_and_leads_to_the_others():
    run_id = fill_run(rows=120)
    query = {"run": run_id, "every": "true"}
    first, second, last = (html(show("errors", **query, page=str(n))) for n in (1, 2, 3))
    assert "1 to 50 of 120 words" in first and ">Previous</a>" not in first
    assert 'title="Page 2, key →"' in first and "page=2" in first and "page=3" in first
    assert "51 to 100 of 120 words" in second and 'title="Page 1, key ←"' in second
    assert ">First</a>" in second and ">Last</a>" in second
    assert "101 to 120 of 120 words" in last and ">Next</a>" not in last
    words = [set(re.findall(r"word=(\w+)", page)) for page in (first, second, last)]
    assert [len(found) for found in words] == [50, 50, 20] and not words[0] & words[1]
    for nonsense in ("0", "-1", "x", "9" * 40):
        assert "1 to 50 of 120 words" in html(show("errors", **query, page=nonsense))
    assert "101 to 120 of 120 words" in html(show("errors", **query, page="4"))
    assert "of 12 words" not in html(show("errors", run=run_id)), "one page has no pager"


def test_the_map_of_places_is_explained_by_one_of_its_cells():
    words = [("ab", "abc", "abx"), ("cd", "cde", "cdee"), ("ef", "efg", "efgg"), *MISSPELLED]
    page = html(show("errors", run=fill_run(words=words)))
    assert "Of the 3 words of 3 letters, 67% have letters added at the end." in page
    page = html(show("errors", run=fill_run(words=words[1:], name="b"), length="10"))
    assert "Of the 2 words of 3 letters, 100% have letters added at the end." in page
    page = html(show("errors", run=fill_run(words=words[:1], name="c")))
    assert "Of the only word of 3 letters, it has a wrong letter at place 3." in page
