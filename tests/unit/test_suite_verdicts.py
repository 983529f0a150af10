"""Verdicts on suites: their maths by hand and by simulation, and their sentences."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import update

from src import store
from src.analysis import comparison, suite_comparison, suite_verdicts
from src.analysis.estimates import against_fixed
from src.analysis.suite_verdicts import BASE, SuiteAnswers, SuiteVerdict
from src.store.tables import Run, Status
from tests.helpers.store import fill_run
from tests.helpers.suites import fill_study, fill_suite, frame

RANDOM = np.random.default_rng


def answers_of(right: Any, **more: Any) -> SuiteAnswers:
    return suite_verdicts.answers(frame([bool(one) for one in right], **more), is_text=False)


def asked(suite: str = "count", metric: str = "exact_match") -> SuiteVerdict:
    return SuiteVerdict(suite, BASE, "spell", "base", metric)


# --- maths ----------------------------------------------------------------------------------------


def test_a_config_against_its_base_by_hand() -> None:
    """Two seeds, two words: the means of the words change by 1 and by 1/2."""
    fixed = np.array([0.0, 0.0])
    tuned = np.array([[1.0, 1.0], [1.0, 0.0]])
    found = against_fixed(fixed, tuned, np.array([0, 1]))
    assert found.difference == pytest.approx(0.75)
    assert found.seeds == (2,) and found.seed_variances == (pytest.approx(0.125),)
    # Variance over words of (1, 1/2) is 1/8, and as much of it is brought about by the seeds.
    assert found.word_variance == 0
    sure = against_fixed(np.array([0.0, 1.0]), np.ones((2, 2)), np.array([0, 1]))
    assert sure.word_variance == pytest.approx(0.5 / 2)
    assert sure.seed_variances == (pytest.approx(1 / 48),)  # finer than one answer is not known


def test_questions_are_paired_by_what_was_asked() -> None:
    """The last run was not asked the first question, and in another order."""
    one, other = answers_of([1, 0, 0]), answers_of([1, 1], first=1)
    values, words = suite_verdicts.aligned([one, other])
    assert values.shape == (2, 2) and sorted(words) == [0, 1]
    assert values.mean(axis=1).tolist() == [0.0, 1.0]


def test_bits_of_text_are_those_of_all_characters() -> None:
    """Two texts of 4 characters with their space: 1 and 3 nats over 8 characters."""
    table = pd.concat([frame([False], nats=1.0), frame([False], first=1, nats=3.0)])
    found = suite_verdicts.answers(table, is_text=True)
    values, _ = suite_verdicts.aligned([found])
    assert values.mean() == pytest.approx(4 / np.log(2) / 8)


@pytest.mark.parametrize(("count", "known"), [(1, False), (6, False), (40, True)])
def test_few_questions_that_all_change_alike_are_no_proof(count: int, known: bool) -> None:
    base, tuned = answers_of([0] * count), [answers_of([1] * count)] * 3
    for judged in (
        suite_verdicts.judge_base(asked(), base, tuned),
        suite_verdicts.judge_pair(asked(), [base] * 3, tuned),
    ):
        (found,) = suite_verdicts.together([judged])
        assert found.change == ("rose" if known else None)
        assert found.ci_low is not None and found.ci_high == 1
        assert (found.ci_low > 0) is known


def simulated(random: np.random.Generator, seeds: int, effect: float) -> SuiteVerdict:
    """A base that knows half of 120 words, and seeds of a config that know as many plus `effect`
    on average over all words there are, each seed by a little more or less."""
    base = random.random(120) < 0.5
    likely = np.where(base, 0.7, 0.3) + random.normal(0, 0.15, 120) + effect
    tuned = [random.random(120) < likely + random.normal(0, 0.03) for _ in range(seeds)]
    numbers, ones = np.arange(120, dtype=np.uint64), np.ones(120)
    sides = [SuiteAnswers(numbers, one.astype(float), ones, numbers) for one in (base, *tuned)]
    verdict = suite_verdicts.judge_base(asked(), sides[0], sides[1:])
    return suite_verdicts.together([verdict])[0]


def test_a_base_that_is_equal_is_seldom_told_apart_and_the_interval_covers() -> None:
    random = RANDOM(1)
    told, missed = 0, 0
    for _ in range(400):
        v = simulated(random, 4, 0.0)
        assert v.ci_low is not None and v.ci_high is not None
        told += v.change is not None
        missed += not v.ci_low <= 0 <= v.ci_high
    assert told == missed  # one test, one interval
    assert told <= 400 * 0.05 + 2.6 * (400 * 0.05 * 0.95) ** 0.5


def test_a_clear_change_is_told() -> None:
    random = RANDOM(2)
    rose = [simulated(random, 5, 0.2) for _ in range(20)]
    assert sum(v.change == "rose" for v in rose) >= 18
    fell = [simulated(random, 5, -0.2) for _ in range(20)]
    assert sum(v.change == "fell" and v.is_better is False for v in fell) >= 18


def test_holm_goes_over_the_suites_beside_each_other() -> None:
    random = RANDOM(3)
    base = random.random(200) < 0.5
    tuned = [(base | (random.random(200) < 0.12)) for _ in range(5)]
    alone = suite_verdicts.judge_base(asked(), answers_of(base), [answers_of(t) for t in tuned])
    several = suite_verdicts.together([alone, *[alone] * 3])
    assert several[0].p_holm == pytest.approx(min(1.0, 4 * (alone.p_value or 0)))
    assert "after Holm over 4 suites" in several[0].claim


# --- sentences ------------------------------------------------------------------------------------


def test_the_study_is_one_sentence() -> None:
    base = np.arange(100) < 30
    better = [np.arange(100) < 60 + k for k in range(3)]
    same = [(np.arange(100) + k) % 100 < 30 for k in (-1, 0, 1)]
    found = suite_verdicts.together(
        [
            suite_verdicts.judge_base(asked(name), answers_of(base), list(map(answers_of, tuned)))
            for name, tuned in (("count", better), ("position", same), ("swap", same))
        ]
    )
    told = suite_verdicts.study("spell_out", found)
    assert told.startswith("trained on spell_out, count rose 31.0 points (95% CI ")
    assert told.endswith(", position and swap cannot be told")
    assert "from the base model to spell; 100 questions, 3 seeds" in found[0].claim
    assert found[1].claim.startswith("position cannot be told: ")


def test_a_suite_without_a_right_answer_is_not_told_as_open() -> None:
    never = np.zeros(100, dtype=bool)
    one = suite_verdicts.judge_base(
        asked("count"), answers_of(never), [answers_of(never) for _ in range(3)]
    )
    found = suite_verdicts.together([one])
    told = suite_verdicts.study("spell_out", found)
    assert told == "trained on spell_out, count had no right answer before or after"
    assert found[0].claim.startswith("count had no right answer, of the base model or of spell; ")


def test_forgetting_is_told_in_bits() -> None:
    before = suite_verdicts.answers(frame([False] * 40, nats=4.0), is_text=True)
    words = RANDOM(0).normal(0, 0.1, 40)
    after = []
    for seed in range(3):
        table = frame([False] * 40)
        table["log_probability"] = -(5.0 + words + 0.01 * seed)
        after.append(suite_verdicts.answers(table, is_text=True))
    verdict = suite_verdicts.judge_base(asked("general", "bits_per_character"), before, after)
    (v,) = suite_verdicts.together([verdict])
    assert v.change == "rose" and v.is_better is False
    assert "general rose 0.36" in v.claim and "bits per character" in v.claim
    assert "40 sentences" in v.claim


@pytest.mark.parametrize("nats", [float("nan"), float("inf")])
def test_an_answer_without_a_finite_probability_is_not_compared(nats: float) -> None:
    """And the suites beside it are judged as without it."""

    def texts(*nats: float) -> SuiteAnswers:
        rows = [frame([False], first=n, nats=one) for n, one in enumerate(nats)]
        return suite_verdicts.answers(pd.concat(rows), is_text=True)

    text = asked("general", "bits_per_character")
    whole, broken = texts(1.0, 2.0), texts(1.0, nats)
    base, tuned = answers_of([0] * 40), [answers_of([1] * 40)] * 3
    for lost in (
        suite_verdicts.judge_base(text, whole, [whole, broken, whole]),
        suite_verdicts.judge_base(text, whole, [broken]),
        suite_verdicts.judge_pair(replace(text, about="configs"), [whole] * 3, [broken] * 3),
    ):
        found = suite_verdicts.together([lost, suite_verdicts.judge_base(asked(), base, tuned)])
        assert "gives an answer no finite probability" in found[0].claim
        assert found[0].difference is found[0].p_holm is None
        assert found[1].change == "rose" and "after Holm" not in found[1].claim


def test_two_seeds_are_too_few_and_one_speaks_of_its_adapter() -> None:
    base, tuned = answers_of([0] * 30), answers_of([1] * 20 + [0] * 10)
    (two,) = suite_verdicts.together([suite_verdicts.judge_base(asked(), base, [tuned, tuned])])
    assert two.p_value is None and "2 seeds of spell; from 3 seeds on" in two.claim
    (one,) = suite_verdicts.together([suite_verdicts.judge_base(asked(), base, [tuned])])
    assert one.change == "rose" and one.claim.endswith("it speaks of this adapter only")
    assert suite_verdicts.study("x", [one]).endswith("; it speaks of this adapter only")


def test_seeds_that_are_under_way_are_waited_for_and_not_told_as_too_few() -> None:
    base, tuned = answers_of([0] * 20), [answers_of([1] * 20)] * 3
    waits = suite_verdicts.judge_base(asked(), base, tuned, look=0, under_way=2)
    pair = replace(asked(), a="null", about="configs")
    both = suite_verdicts.judge_pair(pair, tuned, tuned, look=0, under_way=1)
    told = "cannot be told yet: {} under way, and the verdict comes when all have ended; so far {}"
    assert waits.claim == f"count {told.format('2 more seeds are', '3 seeds of spell')}"
    seen = "3 seeds of null and 3 seeds of spell"
    assert both.claim == f"count {told.format('1 more seed is', seen)}"
    few = suite_verdicts.judge_base(asked(), base, tuned[:2], look=0, under_way=2)
    assert few.claim.endswith("known how much they differ by chance; 2 more are under way")


def test_suites_that_wait_for_their_first_look_count_in_holms_correction() -> None:
    base = answers_of([0] * 60)
    tuned = [answers_of([1] * n + [0] * (60 - n)) for n in (28, 30, 33)]
    tested = suite_verdicts.judge_base(asked(), base, tuned)
    waits = suite_verdicts.judge_base(asked("spelled"), base, tuned, look=0, under_way=2)
    few = suite_verdicts.judge_base(asked("parts"), base, tuned[:2], look=0, under_way=2)
    told, pending, untested = suite_verdicts.together([tested, waits, few])
    assert tested.p_value and told.p_holm == pytest.approx(2 * tested.p_value)
    assert "after Holm over 2 suites" in told.claim
    assert (pending, untested) == (waits, few)


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    v = replace(asked("general", "bits_per_character"), difference=-1e-5, ci_low=-0.1, ci_high=0.1)
    assert suite_verdicts._size(v) == "0.000 bits per character (95% CI −0.100 to 0.100)"


def test_no_common_question_is_not_compared() -> None:
    v = suite_verdicts.judge_base(asked(), answers_of([1, 0]), [answers_of([1], first=9)])
    assert v.claim == (
        "count is not compared: base model and spell have no scored question in common"
    )


# --- runs -----------------------------------------------------------------------------------------


def test_a_study_of_two_tasks(home: Any) -> None:
    ids = fill_study(RANDOM(5))
    with store.reading() as session:
        groups = comparison.grouped(store.runs_of(session, ids))
        found = suite_comparison.compare(session, groups)
    assert [(v.b, v.suite, v.change) for v in found.base] == [
        ("tiny-spell", "count", "rose"), ("tiny-correct", "count", None)
    ]  # fmt: skip
    assert found.study[0].startswith("trained on spell_out, count rose ")
    assert found.study[1] == "trained on correct, count cannot be told"
    (pair,) = found.configs
    assert pair.claim.startswith("tiny-spell is better than tiny-correct on count, by ")
    document = suite_comparison.document(found)
    assert document["suites"][0]["score_a"] == pytest.approx(document["suites"][1]["score_a"])
    assert document["study"] == found.study


def test_a_fork_is_compared_with_the_base_of_the_run_it_comes_from(home: Any) -> None:
    parent = fill_run(name="parent", rows=20)
    child = fill_run(name="child", rows=20)
    fill_suite(parent, 0, np.zeros(40))
    with store.writing() as session:
        rows = update(Run).where(Run.id == child)
        session.execute(rows.values(parent_id=parent, parent_step=10, best_step=50))
    fill_suite(child, 50, np.arange(40) < 30)
    with store.reading() as session:
        groups = comparison.grouped(store.runs_of(session, [child]))
        found = suite_comparison.compare(session, groups)
    assert [(v.score_a, v.score_b, v.change) for v in found.base] == [(0.0, 0.75, "rose")]


def test_runs_without_suites_have_no_verdicts_on_them(home: Any) -> None:
    ids = [fill_run(name="plain", training__seed=seed, rows=20) for seed in range(3)]
    with store.reading() as session:
        groups = comparison.grouped(store.runs_of(session, ids))
        assert suite_comparison.document(suite_comparison.compare(session, groups)) == {
            "suites": [], "study": []
        }  # fmt: skip
    assert all(group.runs[0].status == Status.COMPLETED for group in groups)
