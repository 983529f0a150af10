"""Misspellings: kinds, edits, what changed between two models, and the commands."""

import io
import json
import random
import re
from itertools import product

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from src import cli, paths, store
from src.analysis import exports, kinds, misspellings, paired
from src.config import load_config
from src.memo import Memo
from src.models import metrics
from src.training.rows import Row
from src.training.score_sheet import ScoreSheet
from src.workers.reporter import RunReporter, close_all
from src.workers.trackers import start_tracker
from tests.helpers.store import MISSPELLED, fill_predictions, fill_run, two_runs


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
    assert [kind for kind, *_ in DOCUMENTED] == list(kinds.KINDS)
    assert [kinds.kind_of(e, p) for _, e, p in DOCUMENTED] == list(kinds.KINDS)


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
        ("substitution", "привет", "привед"),
        *(
            ("phonetic twin", expected, answer)
            for expected, answer in [
                ("psychology", "sychology"),
                ("character", "karacter"),
                ("chemistry", "kemistry"),
                ("pneumonia", "neumonia"),
                ("rhythm", "rythm"),
                ("knowledge", "nowledge"),
                ("doubtful", "doutful"),
                ("receipt", "receit"),
                ("island", "iland"),
                ("wrestle", "restle"),
                ("muscle", "mussle"),
                ("technology", "teknology"),
                ("orchestra", "orkestra"),
                ("stomach", "stomack"),
                ("ghost", "gost"),
                ("enough", "enuff"),
                ("answered", "ansered"),
                ("architect", "arkitect"),
                ("physical", "fysical"),
                ("straße", "strasse"),
                ("Straße", "Strasse"),
                ("science", "sience"),
                ("science", "cience"),
                ("fascinate", "fasinate"),
                ("excellent", "exellent"),
                ("acquire", "aquire"),
                ("exhaust", "exaust"),
                ("spaghetti", "spagetti"),
                ("queen", "kween"),
                ("campaign", "campain"),
                ("often", "ofen"),
                ("plumber", "plumer"),
                ("handkerchief", "hankerchief"),
                ("raspberry", "rasberry"),
                ("monarch", "monark"),
                ("hierarchy", "hierarky"),
                ("bronchitis", "bronkitis"),
                ("patient", "pashent"),
                ("sugar", "shugar"),
            ]
        ),
        *(
            (kind, expected, answer)
            for kind, expected, answer in [
                ("misplaced doubling", "tomorrow", "tommorow"),
                ("misplaced doubling", "parallel", "paralell"),
                ("misplaced doubling", "necessary", "neccesary"),
                ("misplaced doubling", "Caribbean", "Carribean"),
                ("misplaced doubling", "t o m o r r o w", "t o m m o r o w"),
                ("misplaced doubling", "tomorrow", "Tommorow"),
                ("un-doubling", "committee", "comitee"),
                ("un-doubling", "Aardvark", "Ardvark"),
                ("substitution", "archery", "arkery"),
                ("doubling", "harass", "harrass"),
                ("doubling", "until", "unttill"),
                # Sounded letters, and a sharp s that only changes its case.
                ("omission", "capture", "cature"),
                ("omission", "obtain", "otain"),
                ("substitution", "cheap", "keap"),
                ("omission", "existence", "exisence"),
                ("wrong format", "STRAßE", "straße"),
                ("substitution", "maße", "mafe"),
            ]
        ),
        ("omission", "x-rays", "xrays"),
        ("transposition", "abcdef", "bacdfe"),
        ("substitution", "definitely", "definatly"),
        ("", "receive", " receive "),
    ],
)
def test_kinds(kind, expected, answer):
    assert kinds.kind_of(expected, answer) == kind


@pytest.mark.parametrize(
    ("expected", "answer", "found"),
    [
        ("separate", "seperate", "replace@4:a>e"),
        ("r e c e i v e", "r e c i e v e", "swap@4:ie"),
        ("occurred", "occured", "delete@6:r"),
        ("embarrass", "embaress", "delete@6:r replace@7:a>e"),  # rather than r>e and no a
        ("until", "untill", "insert@6:l"),
        ("a lot", "alot", "delete@2:␣"),
    ],
)
def test_edits(expected, answer, found):
    assert " ".join(map(str, kinds.edits(expected, answer))) == found


def test_edits_lead_from_the_expected_letters_to_the_answer():
    noise = random.Random(0)
    for _ in range(5000):
        was, now = ("".join(noise.choices("abe", k=noise.randrange(1, 7))) for _ in range(2))
        letters, before = list(was), [""] * (len(was) + 1)
        for edit in kinds.edits(was, now):
            place = slice(edit.at - 1, edit.at - 1 + len(edit.was))
            assert was[place] == edit.was
            if edit.what == "insert":
                before[edit.at - 1] += edit.now
            else:
                letters[place] = edit.now.ljust(len(edit.was), "\0")
        pairs = zip(before, [*letters, ""], strict=True)
        assert "".join(a + b for a, b in pairs).replace("\0", "") == now


def test_the_kinds_of_an_evaluation_sum_to_its_errors():
    pairs = [(e, a) for _, e, a in DOCUMENTED] + [(right, right) for _, right, _ in MISSPELLED]
    frame = misspellings.with_kinds(predicted(*pairs, *((e, a) for _, e, a in MISSPELLED)))
    assert sum(misspellings.counts(frame).values()) == (~frame["correct"]).sum() == 26
    assert set(frame.loc[frame["correct"], "kind"]) == {""}
    assert frame.loc[0, ["edits", "length"]].tolist() == ["replace@1:r>R insert@8:.", 7]


def test_no_answer_of_any_letters_is_without_a_kind():
    made = "ab", "aab", "ba", "b a", "", "A", "é", "x y", "\x00", "<b>", "🙂", "ſ"
    for expected, answer in product(made, made):
        kind = kinds.kind_of(expected, answer)
        assert (kind in kinds.KINDS) == (expected != answer), (expected, answer)


def test_scores_are_also_given_by_task_where_there_are_two():
    pairs = [("w o r d", "w o r d"), ("t h e n", "t h e m"), ("word", "wodr")]
    rows = [Row(e, e, e, [1], [2, 3]) for e, _ in pairs]
    answers = [answer for _, answer in pairs]
    values, _ = ScoreSheet.of(rows).summary([-1.0] * 3, answers, hits=3, tokens=6)
    assert values["exact_match"] == pytest.approx(1 / 3)
    assert (values["exact_match/spell_out"], values["exact_match/word"]) == (1 / 2, 0)
    assert (values["cer/spell_out"], values["cer/word"]) == (1 / 14, 2 / 4)
    assert (values["edit_distance/spell_out"], values["edit_distance/word"]) == (1 / 2, 1)
    alone, _ = ScoreSheet.of(rows[:2]).summary([-1.0] * 2, answers[:2], hits=3, tokens=4)
    assert set(alone) == {"loss", "token_accuracy", "exact_match", "cer", "edit_distance"}


def test_equal_answers_are_described_and_judged_once(monkeypatch):
    """The adapters of a sweep make the same mistakes."""
    asked, describe = [], kinds._describe

    def described(*answer):
        asked.append(answer)
        return describe(*answer)

    monkeypatch.setattr(kinds, "_describe", described)
    twice = [("unheardof", "unherdof"), ("unheardof", "unheardof"), ("unheardof", "unherdof")]
    found = kinds.describe(twice)
    assert asked == twice[:2] and kinds.describe(twice) == found and len(asked) == 2
    assert found[0] == found[2] == ("delete@5:a", "omission", 9) and found[1] == ("", "", 9)
    answers, right = ["recieve", "receive ", "recieve", ""], ["receive"] * 4
    judged = metrics.judge(answers, right)
    assert judged == [(False, 1, 2, 7), (True, 0, 0, 7), (False, 1, 2, 7), (False, 7, 7, 7)]
    assert metrics.judge([], []) == []


def test_what_is_remembered_is_bounded():
    memo: Memo[int, int] = Memo(3)
    asked = []

    def compute(new):
        asked.append(new)
        return [10 * key for key in new]

    assert memo.of([1, 2, 1], compute) == [10, 20, 10] and memo.of([3, 1], compute) == [30, 10]
    assert asked == [[1, 2], [3]]
    assert memo.of([1, 4, 5, 4], compute) == [10, 40, 50, 40]  # no room beside the three
    assert memo.of([1, 2], compute) == [10, 20] and asked[2:] == [[1, 4, 5], [1, 2]]


# --- what is kept ---------------------------------------------------------------------------------


def test_a_run_keeps_every_prediction_with_its_edits_and_kind(home):
    run_id = fill_run(steps=0)
    with store.reading() as session:
        run = store.find(session, run_id)
    config = load_config(overrides={"tracking.mode": "off"})
    reporter = RunReporter(run, start_tracker(config, run_id, home))
    frame = predicted(("receive", "recieve"), ("word", "word"))
    frame = frame.assign(answer_tokens=3, log_probability=-1.5)
    reporter.evaluation(50, "validation", pa.Table.from_pandas(frame))
    close_all([reporter])
    kept = pd.read_parquet(paths.predictions_dir(run_id) / "step-50.parquet")
    wanted = {"word", "question", "expected", "predicted", "edits", "kind", "length",
              "answer_tokens", "log_probability"}  # fmt: skip
    assert wanted <= set(kept.columns)
    assert kept.loc[0, ["edits", "kind", "length"]].tolist() == ["swap@4:ie", "transposition", 7]


def test_files_without_the_columns_are_described_when_they_are_read(home):
    run_id = fill_run()
    with store.reading() as session:
        (kept,) = store.list_evaluations(session, run_id)
    assert "kind" not in pd.read_parquet(kept.path).columns
    frame = misspellings.read(kept.path)
    assert sum(misspellings.counts(frame).values()) == 12
    assert frame.set_index("question").loc["recieve", "kind"] == "transposition"


# --- where the letters go wrong -------------------------------------------------------------------


MAPPED = misspellings.with_kinds(
    predicted(
        ("r e c e i v e", "r e c i e v e"),  # ei swapped at 4
        ("w e i r d", "w a i r d"),  # e>a at 2
        ("w o r l d", "w r l d s"),  # o left out at 2, s put in at 6
        ("t h e r e", "there"),  # wrong format: no edits
        ("w a t e r", "w a t e r"),
    )
)


CHANGES = misspellings.edit_table(MAPPED)


def test_the_position_map_holds_shares_of_the_words_of_a_length():
    found = misspellings.position_map(MAPPED, CHANGES)
    assert found.loc[7].to_dict() == {2: 0, 4: 1, 6: 0}
    assert found.loc[5].to_dict() == {2: 2 / 4, 4: 0, 6: 1 / 4}


def test_confusions_count_what_became_of_letters():
    found = misspellings.confusions(CHANGES)
    assert found.loc["e", "a"] == found.loc["o", ""] == found.loc["", "s"] == 1
    assert found.to_numpy().sum() == 3


def test_accuracy_by_letter_is_of_the_words_that_have_it():
    found = misspellings.accuracy_by_letter(MAPPED)
    assert found.index[0] == "e" and found.loc["e", ["right", "words"]].tolist() == [1 / 4, 4]
    assert found.loc["a", "right"] == 1 and found["share"].sum() == pytest.approx(1)


# --- two models, and many -------------------------------------------------------------------------


def both_of(*names: str) -> pd.DataFrame:
    with store.reading() as session:
        found = [store.scored(session, name)[1] for name in names]
    return paired.pair_answers(*(misspellings.read(evaluation.path) for evaluation in found))


def test_fixed_and_broken_words_reconcile_with_the_difference_in_accuracy(home):
    both = both_of(*two_runs())
    sums = paired.balance(both)
    assert (sums["fixed"], sums["broken"], sums["still_wrong"]) == (2, 1, 10)
    assert (sums["same_mistake"], sums["another_mistake"]) == (9, 1)
    assert sums["difference"] == pytest.approx(sums["exact_match_b"] - sums["exact_match_a"])
    assert sums["difference"] == pytest.approx((2 - 1) / sums["questions"])
    assert both["outcome"].value_counts().sum() == sums["questions"]


@pytest.mark.parametrize(
    ("right", "told"),
    [([0, 0], "never"), ([0, 1], "learned"), ([1, 0, 0], "forgotten"), ([0, 1, 0], "forgotten"),
     ([1, 0, 1], "learned"), ([1, 1], "always right"), ([], "never")],
)  # fmt: skip
def test_stories(right, told):
    assert paired.history(right) == told


# --- commands -------------------------------------------------------------------------------------


def command(*arguments: str, fails: bool = False) -> str:
    ran = CliRunner().invoke(cli.app, arguments)
    assert (ran.exit_code == 2) is fails, ran.output
    return ran.stderr if fails else ran.stdout


def test_errors_names_the_kind_of_each_wrong_word(home):
    before, _ = two_runs()
    found = json.loads(command("errors", before, "--json"))
    assert len(found) == 12 and {row["kind"] for row in found} <= set(kinds.KINDS)
    assert found[0] | {"edits": "swap@4:ie", "kind": "transposition", "length": 7} == found[0]
    assert "2 vowel swap" in command("errors", before)


def test_errors_vs_lists_fixed_broken_and_still_wrong_words(home):
    before, after = two_runs()
    found = json.loads(
        command("errors", before, "--vs", f"{after}@600", "--split", "val", "--json")
    )
    assert [row["expected"] for row in found["fixed"]] == ["definitely", "accommodate"]
    assert [row["expected"] for row in found["broken"]] == ["word20"]
    assert len(found["still_wrong"]) == found["counts"]["still_wrong"] == 10
    assert "+0.3 points" in command("errors", before, "--vs", after)


def test_errors_vs_says_which_questions_it_leaves_out(home):
    first, same, other = (fill_run(name=name) for name in ("first", "same", "other"))
    fill_predictions(same, 600, MISSPELLED, rows=390)
    ran = CliRunner().invoke(cli.app, ["errors", first, "--vs", same, "--json"])
    assert "10 validation questions that only one of them was asked are left out" in ran.stderr
    assert json.loads(ran.stdout)["counts"]["questions"] == 390
    fill_predictions(other, 600, [("x", "y", "z")], rows=1)
    assert "no validation question in common" in command("errors", first, "--vs", other, fails=True)


def test_a_checkpoint_that_was_not_scored_is_refused_with_those_that_were(home):
    before, _ = two_runs()
    assert "it was at 600" in command("errors", f"{before}@50", fails=True)
    assert "test split" in command("errors", before, "--split", "test", fails=True)


@pytest.mark.parametrize("kind", exports.FORMATS)
def test_an_export_holds_every_prediction_of_every_run(home, kind):
    before, after = two_runs()
    fill_predictions(after, 600, [("=1+1", "@x", "-y\x00")], rows=50, split="test")
    file = home / f"out.{kind}"
    command("export", before, after, "--format", kind, "--output", str(file))
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet,
            "xlsx": pd.read_excel}[kind]  # fmt: skip
    frame = read(file)
    assert len(frame) == 400 + 400 + 50 and set(frame["run"]) == {before, after}
    assert {"split", "step", "kind", "edits", "length"} <= set(frame.columns)
    formula = frame[frame["split"] == "test"].iloc[0]
    assert formula["question"] == ("'=1+1" if kind == "csv" else "=1+1")


def test_no_cell_of_a_workbook_is_a_formula():
    content = exports.to_xlsx(predicted(("=1+1", "-y\x00")))
    cells = list(openpyxl.load_workbook(io.BytesIO(content)).active.iter_rows())[1]
    assert cells[0].value == "=1+1" and {c.data_type for c in cells} == {"s", "b"}


def test_a_workbook_has_as_many_sheets_as_its_rows_need(monkeypatch):
    monkeypatch.setattr(exports, "SHEET_ROWS", 2)
    content = exports.to_xlsx(predicted(*[(f"word{i}", "=1") for i in range(5)]))
    sheets = pd.read_excel(io.BytesIO(content), sheet_name=None)
    assert list(sheets) == ["predictions", "predictions 2", "predictions 3"]
    assert pd.concat(sheets.values())["expected"].tolist() == [f"word{i}" for i in range(5)]


def test_no_cell_of_a_csv_is_a_formula():
    lines = exports.to_csv(predicted(("=1+1", "-y"), ("@x", "+1"))).decode().splitlines()
    assert lines[0] == "expected,predicted,word,question,correct"
    assert lines[1:] == ["'=1+1,'-y,'=1+1,'=1+1,False", "'@x,'+1,'@x,'@x,False"]
    assert json.loads(exports.to_json(predicted(("=1+1", "-y"))))[0]["predicted"] == "-y"
