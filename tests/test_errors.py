"""The map of mistakes: kinds, what changed between two models, the page, the commands."""

import re
from itertools import product

import pandas as pd
import pytest

from src import paths
from src.analysis import errors
from src.config import load_config
from src.runs import store
from src.runs.reporter import RunReporter
from src.runs.tracking import Tracker
from tests.panel_store import MISSPELLED, fill_run


def predicted(*pairs: tuple[str, str]) -> pd.DataFrame:
    """Predictions as scoring leaves them, of (expected, predicted) pairs."""
    frame = pd.DataFrame(pairs, columns=["expected", "predicted"])
    right = frame["expected"] == frame["predicted"]
    return frame.assign(word=frame["expected"], question=frame["expected"], correct=right)


# --- kinds ----------------------------------------------------------------------------------------

DOCUMENTED = re.findall(
    r"^\| ([a-z -]+) \| .+ \| `(.+)` \| `(.+)` \|$",
    (paths.ROOT / "docs/results.md").read_text().split("<!-- kinds:")[1].split("\n\n")[0],
    flags=re.MULTILINE,
)


def test_the_documented_examples_are_of_their_kind_and_in_the_order_of_precedence():
    assert [kind for kind, *_ in DOCUMENTED] == list(errors.KINDS)
    assert [errors.kind_of(e, p) for _, e, p in DOCUMENTED] == list(errors.KINDS)


@pytest.mark.parametrize(
    ("kind", "expected", "answer"),
    [
        # The same kinds where a word is asked for letter by letter.
        ("wrong format", "r e c e i v e", "receive"),
        ("wrong format", "r e c e i v e", "r e ceive"),
        ("wrong format", "r e c e i v e", "r  e c e i v e"),
        ("stopped early", "r e s i s t a n t", "r e s i s"),
        ("ran on", "g r o w t h", "g r o w t h t h"),
        ("another real word", "f o r m", "f r o m"),
        ("un-doubling", "o c c u r r e d", "o c u r e d"),
        ("doubling", "h i m s e l f", "h i m m s e l f"),
        ("transposition", "w e i r d", "w i e r d"),
        ("vowel swap", "s e p a r a t e", "s e p e r a t e"),
        ("wrong ending", "q u i n t e s s e n t i a l", "q u i n t e s s e n o u s"),
        ("substitution", "s y m b o l", "s y m g o l"),
        ("omission", "s t a t e s m a n", "s t a t e m a n"),
        ("insertion", "s o m e o n e", "s o m e n o n e"),
        # Nothing at all, other case, other signs, words run together.
        ("stopped early", "receive", ""),
        ("wrong format", "receive", "receive receive"),
        ("wrong format", "receive", "RECEIVE"),
        ("wrong format", "receive", "rec3ive"),
        ("wrong format", "a lot", "alot"),
        # Between two kinds the earlier one wins.
        ("un-doubling", "embarrass", "embarras"),
        ("stopped early", "resistant", "resistan"),
        (
            "omission",
            "different",
            "diffrent",
        ),  # only a vowel: not a twin, though it sounds the same
        ("phonetic twin", "p h a r m a c y", "f a r m a c y"),
        ("transposition", "abcdef", "bacdfe"),
        ("substitution", "definitely", "definatly"),
        ("", "receive", " receive "),
    ],
)
def test_kinds(kind, expected, answer):
    assert errors.kind_of(expected, answer) == kind


@pytest.mark.parametrize(
    ("expected", "answer", "found"),
    [
        ("separate", "seperate", "replace@4:a>e"),
        ("r e c e i v e", "r e c i e v e", "swap@4:ie"),
        ("occurred", "occured", "delete@6:r"),
        ("until", "untill", "insert@6:l"),
        ("a lot", "alot", "delete@2:␣"),
    ],
)
def test_edits(expected, answer, found):
    assert " ".join(map(str, errors.edits(expected, answer))) == found


def test_the_kinds_of_an_evaluation_sum_to_its_errors():
    pairs = [(e, a) for _, e, a in DOCUMENTED] + [(right, right) for _, right, _ in MISSPELLED]
    frame = errors.described(predicted(*pairs, *((e, a) for _, e, a in MISSPELLED)))
    assert sum(errors.counts(frame).values()) == (~frame["correct"]).sum() == 25
    assert set(frame.loc[frame["correct"], "kind"]) == {""}
    assert frame.loc[0, ["edits", "length"]].tolist() == ["replace@1:r>R insert@8:.", 7]


def test_no_answer_of_any_letters_is_without_a_kind():
    made = "ab", "aab", "ba", "b a", "", "A", "é", "x y", "\x00", "<b>", "🙂", "ſ"
    for expected, answer in product(made, made):
        kind = errors.kind_of(expected, answer)
        assert (kind in errors.KINDS) == (expected != answer), (expected, answer)


# --- what is kept ---------------------------------------------------------------------------------


def test_a_run_keeps_every_prediction_with_its_edits_and_kind(home):
    run_id = fill_run(steps=0)
    with store.reading() as session:
        run = store.find(session, run_id)
    config = load_config(overrides={"tracking.mode": "off"})
    reporter = RunReporter(run, Tracker(config, run_id, home))
    frame = predicted(("receive", "recieve"), ("word", "word"))
    reporter.evaluation(50, "validation", frame.assign(answer_tokens=3, log_probability=-1.5))
    reporter.close()
    kept = pd.read_parquet(paths.predictions_dir(run_id) / "step-50.parquet")
    wanted = {"word", "question", "expected", "predicted", "edits", "kind", "length",
              "answer_tokens", "log_probability"}  # fmt: skip
    assert wanted <= set(kept.columns)
    assert kept.loc[0, ["edits", "kind", "length"]].tolist() == ["swap@4:ie", "transposition", 7]


def test_files_without_the_columns_are_described_when_they_are_read(home):
    run_id = fill_run()
    with store.reading() as session:
        (kept,) = store.evaluations(session, run_id)
    assert "kind" not in pd.read_parquet(kept.path).columns
    frame = errors.read(kept.path)
    assert sum(errors.counts(frame).values()) == 12
    assert frame.set_index("question").loc["recieve", "kind"] == "transposition"
