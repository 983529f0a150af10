"""The Compare page through AppTest, on a store that the tests fill."""

import re
import time
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine, event
from streamlit.testing.v1 import AppTest

from src import paths, store
from src.analysis import comparison
from src.format import percent
from src.panel.compare import curves, table
from src.panel.report import content
from src.panel.report import page as report
from src.panel.ui import charts, tags
from src.runs import launcher
from src.store.tables import Status
from tests.helpers.pages import charts_of, figures_of, html, show
from tests.helpers.speed import slowness
from tests.helpers.store import HOSTILE, fill_predictions, fill_run, fill_usage

QUESTIONS = 600


@pytest.fixture(autouse=True)
def _own_home(home):
    charts._known.clear()


def seeds(name: str, count: int, *, better: float = 0.0, **settings) -> list[str]:
    """Scored runs of one config, whose answers are a matter of the question, of how good the
    config is and of luck."""
    found = []
    ease = np.random.default_rng(1).normal(0.3, 1, QUESTIONS)
    for seed in range(count):
        run_id = fill_run(name=name, training__seed=seed, steps=40, **settings)
        luck = np.random.default_rng([seed, len(name)]).normal(0, 0.5, QUESTIONS)
        right = ease + better + luck > 0
        answers = [(f"w{i}", f"word{i}", f"word{i}" if ok else "?") for i, ok in enumerate(right)]
        fill_predictions(run_id, 40, answers, rows=QUESTIONS, split="test")
        found.append(run_id)
    return found


def test_the_axis_of_tokens_is_what_was_recorded() -> None:
    seen = pd.DataFrame({"step": [1, 10, 20], "value": [30.0, 300.0, 500.0], "at": 0.0})
    steps = pd.Series([0, 1, 10, 15, 20, 24], index=[5, 4, 3, 2, 1, 0])
    found = curves.tokens_at(steps, seen)
    assert found.tolist() == [0, 30, 300, 400, 500, 600] and found.index.equals(steps.index)


def test_no_run_and_one_run_say_what_to_do():
    empty = html(show("compare", run=[]))
    assert "No runs yet" in empty and "Set up the first run" in empty
    (only,) = seeds("alone", 1)
    assert "Nothing chosen yet" in html(show("compare", run=[]))
    assert "One more run to compare it with" in html(show("compare", run=[only]))
    unknown = html(show("compare", run=[only, "nobody"]))
    assert "No run &#x27;nobody&#x27;. <a" in unknown and "spelltune runs" not in unknown


def test_a_verdict_of_two_configs_names_the_better_one_and_its_lead():
    weak, strong = seeds("weak", 3), seeds("strong", 3, better=0.6, lora__r=32)
    page = html(show("compare", run=[*weak, *strong]))
    with store.reading() as session:
        found = comparison.compare(session, store.runs_of(session, [*weak, *strong]))
    (verdict,) = found.configs
    assert verdict.winner == "strong" and verdict.ci_low > 0 and verdict.p_value < 0.05
    assert "strong spells" in page and f"{verdict.difference * 100:.1f} points" in page
    # The numbers behind it stand once, as text that needs no pointer, also of several pairs.
    third = html(show("compare", run=[*weak, *strong, *seeds("third", 3, lora__r=64)]))
    for shown, pairs in ((page, 1), (third, 3)):
        parts = re.findall(r"<small>[^<]*95% CI [^<]*\bp (?:&lt;|=) [\d.]+", shown)
        told = shown.partition("How this is judged")[0]
        assert len(parts) == pairs == len(re.findall(r"\bp (?:&lt;|=) ", told))
        assert not re.search(r'class="interval[^>]* title=', shown)


def test_one_seed_a_side_is_no_verdict_and_a_press_launches_those_that_miss(monkeypatch):
    launched = []

    def launch_all(configs):
        with store.writing() as session:
            launched.extend(store.enqueue(session, config) for config in configs)
            return [run.id for run in launched]

    monkeypatch.setattr(launcher, "launch_all", launch_all)
    runs = seeds("one", 1) + seeds("two", 1, lora__r=32)
    test = show("compare", run=runs)
    assert "cannot tell yet: one seed" in html(test).lower()
    (button,) = [b for b in test.button if b.label.startswith("Launch 4 seeds")]
    button.click().run()
    assert not test.exception
    assert sorted(run.config["training"]["seed"] for run in launched) == [1, 1, 2, 2]
    assert {run.config["lora"]["r"] for run in launched} == {16, 32}
    # They are shown now, and a second press of another tab finds them.
    assert set(test.query_params["run"]) == {*runs, *(run.id for run in launched)}
    ids = [run.id for run in launched]
    compare_again = show("compare", run=[*runs, *ids])
    assert not [b for b in compare_again.button if b.label.startswith("Launch")]


def test_the_button_that_launches_seeds_says_how_long_they_take():
    runs = [fill_run(name=f"r{rank}", lora__r=rank, training__seed=1) for rank in (4, 32)]
    buttons = [b.label for b in show("compare", run=runs).button]
    assert "Launch 4 seeds (time not known yet): r4 against r32" in buttons
    for run in runs:  # on this machine, so that their time is known
        fill_usage(run, gpu=False)
    (label,) = [b.label for b in show("compare", run=runs).button if b.label.startswith("Launch 4")]
    assert re.match(r"Launch 4 seeds \(≈ \d+ min.*\): r4 against r32", label), label


def test_seeds_that_there_are_come_before_a_launch_of_others():
    runs = seeds("one", 3) + seeds("two", 2, lora__r=32)
    fill_run(name="two", lora__r=32, training__seed=1)  # again, which is no more evidence
    few = show("compare", run=[runs[0], runs[3]])
    assert not [b for b in few.button if b.label.startswith("Launch")]
    assert "Add 3 more seeds of these configs" in html(few)
    all_ = show("compare", run=runs)
    assert [b.label for b in all_.button if b.label.startswith("Launch 1 seed (")]
    assert "of these configs</a>" not in html(all_)


def test_no_seeds_are_offered_of_a_setting_that_this_version_does_not_know():
    runs = [fill_run(name=f"r{rank}", lora__r=rank, training__seed=1) for rank in (4, 32)]
    with store.writing() as session:
        run = store.find(session, runs[0])
        run.config = run.config | {"later": {"setting": 1}}
    buttons = [b.label for b in show("compare", run=runs).button]
    assert "Launch 2 seeds (time not known yet): r4 against r32" in buttons


def test_runs_of_other_test_sets_are_not_compared():
    here = seeds("here", 3)
    other = fill_run(name="there", steps=40, lora__r=32)
    fill_predictions(other, 40, [("x", "y", "y")], rows=20, split="test")
    with store.reading() as session:
        found = comparison.compare(session, store.runs_of(session, [*here, other]))
    assert all(v.winner is None and v.p_value is None for v in found.configs)
    assert "different" in html(show("compare", run=[*here, other]))


def test_curves_lie_over_each_other_by_step_tokens_and_time_and_say_how_they_are_smoothed():
    runs = seeds("a", 3) + seeds("b", 2, lora__r=32)
    with store.reading() as session:
        rows = store.runs_of(session, runs)
        found = comparison.compare(session, rows)
        for axis in curves.AXES:
            frames = curves.read(session, rows, ["val/loss"], axis=axis)
            style = curves.Shown((), axis, 5, band=True)
            figure = curves.figure("val/loss", found.groups, frames, style)
            named = [trace.name for trace in figure.data if trace.name]
            assert named == ["a, mean of 3 seeds", "b, mean of 2 seeds"], axis
            assert "mean of 5 points" in figure.layout.meta["unit"]
            assert figure.layout.xaxis.title.text == curves.AXES[axis][0]
        lines = curves.figure(
            "val/loss", found.groups, frames, curves.Shown((), "time", 1, band=False)
        )
    assert len(lines.data) == 5
    middle = [t for t in figure.data if t.name == "a, mean of 3 seeds"][0]
    area = figure.data[0]
    assert min(area.y) <= min(middle.y) and max(area.y) >= max(middle.y)


def test_settings_show_only_what_differs():
    page = html(show("compare", run=seeds("a", 1) + seeds("b", 1, lora__r=32), view="Settings"))
    assert "Rank<small><code>lora.r</code>" in page and page.count("<code>") == 1
    assert "No setting differs" in html(show("compare", run=seeds("c", 2), view="Settings"))


@pytest.mark.parametrize("count", [2, 5])
def test_a_config_may_be_called_like_a_column_of_the_settings(count: int) -> None:
    names = ["Setting", "Config", "c", "d", "e"][:count]
    runs = [
        fill_run(name=name, lora__r=4 + n, training__learning_rate=0.001234567 * (n + 1))
        for n, name in enumerate(names)
    ]
    page = html(show("compare", run=runs, view="Settings"))
    drawn = page[page.rindex("<table") :]
    drawn = drawn[: drawn.index("</table>")]
    assert drawn.count("<code>lora.r</code>") == 1 and "0.00123457" in drawn
    assert all(f"</span>{name}</t" in drawn for name in names)
    assert drawn in report.page(content.read(runs))  # the same table


def test_settings_of_two_versions_may_have_the_same_label() -> None:
    runs = [fill_run(name=f"r{rank}", lora__r=rank) for rank in (4, 8, 16, 32, 64)]
    with store.writing() as session:
        for number, run_id in enumerate(runs):
            run = store.find(session, run_id)
            run.config = {**run.config, "old": {"learning_rate": number}}
            run.config["training"] = {**run.config["training"], "learning_rate": number / 1000}
    with store.reading() as session:
        told = table.settings_table(comparison.compare(session, store.runs_of(session, runs)))
    for name in ("training.learning_rate", "old.learning_rate"):
        assert told.count(f"<code>{name}</code>") == 1


def test_parallel_coordinates_have_an_axis_for_each_setting_that_differs_and_each_score():
    runs = seeds("a", 2) + seeds("b", 1, lora__r=32, lora__target_modules=["c_attn"])
    drawn = charts_of(show("compare", run=runs, view="Parallel coordinates"))
    assert list(drawn["figures"]) == ["Settings and scores"]
    with store.reading() as session:
        found = comparison.compare(session, store.runs_of(session, runs))
        latest = store.latest_metrics(session, runs)
    (lines,) = table.parallel_figure(found, latest, table.FIRST_COLUMNS).data
    axes = {axis.label: axis for axis in lines.dimensions}
    assert {
        "rank",
        "adapted layers",
        "validation accuracy",
        "validation loss",
    } == set(axes)
    assert list(axes["rank"].values) == [16, 16, 32] and lines.line.color[0] == lines.line.color[1]
    assert axes["rank"].tickvals == (16, 32) and axes["rank"].ticktext == ("16", "32")
    scores = axes["validation accuracy"]  # which tie
    assert 0 <= scores.range[0] < scores.values[0] < scores.range[1] <= 1
    assert scores.ticktext == (percent(scores.values[0]),)
    assert axes["adapted layers"].ticktext == ("c_attn", "none")
    assert "No setting differs" in html(show("compare", run=runs[:2], view="Parallel coordinates"))


def test_the_table_is_found_through_ordered_and_edited_in_place():
    runs = seeds("plain", 2) + seeds(HOSTILE, 1, lora__r=32)
    show("compare", run=runs, view="Runs")
    with store.reading() as session:
        rows = store.runs_of(session, runs)
        latest = store.latest_metrics(session, runs)
    options = {"columns": ["val/loss"], "order": "val/loss"}
    frame = table.run_table(rows, latest, find="plain", ascending=True, **options)
    assert list(frame["run"]) == ["plain", "plain"] and frame["val/loss"].is_monotonic_increasing
    assert table.run_table(rows, latest, find="val/loss < 0", ascending=True, **options).empty
    some = table.run_table(rows, latest, find="val/loss >= 0 onerror", ascending=True, **options)
    assert list(some.index) == runs[2:]
    frame["val/loss"] = [6.9, 0.06141]
    told = re.findall(
        r'data-label="Validation loss">([^<]*)<', table.runs_html(frame, ["val/loss"])
    )
    assert told == ["6.900", "0.061"], "one format in a column"
    edits = {"edited_rows": {0: {"tags": "best, keep,  best ,", "notes": "ship this"}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tags.st, "session_state", {"key": edits})
        tags.save_edits("key", [runs[1]])
    with store.reading() as session:
        run = store.find(session, runs[1])
    assert (run.tags, run.notes) == (["best", "keep"], "ship this")
    # A database that is lost is made again from what lies beside the run.
    assert "ship this" in (paths.output_dir(runs[1]) / "run.json").read_text()


def test_fourteen_runs_are_drawn_with_a_colour_each_and_no_markup_of_theirs():
    runs = [r for n in range(14) for r in seeds(f"run {n}", 1, lora__r=n + 1)]
    runs += seeds(HOSTILE, 1, lora__r=99)
    began = time.process_time()
    page = html(show("compare", run=runs))
    assert time.process_time() - began < 10 * slowness()
    assert "onerror" in page and "<img src=x" not in page
    assert "more pairs cannot be told apart yet" in page


def test_the_overview_carries_its_selection_to_compare():
    runs = seeds("a", 2)
    test = AppTest.from_file(str(paths.ROOT / "pages" / "overview.py"), default_timeout=300)
    test.query_params["pick"] = runs
    test.run()
    page = html(test)
    (address,) = [part.split('"')[0] for part in page.split('href="') if part.startswith("compare")]
    assert parse_qs(address.partition("?")[2].replace("&amp;", "&"))["run"] == runs
    assert "Compare 2 runs" in page
    assert Status(store_status(runs[0])) == Status.COMPLETED


def store_status(run_id: str) -> str:
    with store.reading() as session:
        return store.find(session, run_id).status


def test_the_choice_of_runs_asks_the_run_table_once():
    runs = seeds("a", 2) + seeds("b", 1, lora__r=32)
    asked: list[str] = []

    def note(_connection, _cursor, statement, *_):
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        (picker,) = show("compare", run=runs[:1]).multiselect
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    lists = [one for one in asked if "FROM run WHERE run.archived_at IS NULL ORDER BY"
             in " ".join(one.split())]  # fmt: skip
    assert len(lists) == 1, lists
    told = [option.rpartition(" · ") for option in picker.options]  # with the score
    assert {name for name, _, _ in told} == {"a · seed 0", "a · seed 1", "b · seed 0"}
    assert all(score.endswith("%") for _, _, score in told)


def test_a_curve_that_hides_another_is_dashed_and_says_whose_it_is():
    first, same = seeds("first", 1), seeds("same", 1, lora__r=32)
    other = seeds("other", 1, training__max_steps=2000)
    drawn = figures_of(show("compare", run=[*first, *same, *other]))
    lines = drawn["Validation accuracy (exact match)"]["data"]
    assert [line["line"]["dash"] for line in lines] == ["solid", "dash", "solid"]
    assert lines[1]["meta"].endswith("% (as first)")
    assert lines[0]["meta"].endswith("%") and lines[2]["meta"].endswith("%")
