"""Reports: what the page and the table hold, and that nothing in them is more than text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from src import store
from src.config import load_config
from src.panel.monitor import curves
from src.panel.report import content, latex, page, svg
from src.panel.ui import charts
from src.store.tables import Status
from tests.helpers.store import HOSTILE, MISSPELLED, _update, fill_run, fill_sweep
from tests.helpers.sweeps import TINY, cli

USED = {
    "device": "a processor",
    "data_fingerprint": "fe1d0c",
    "rows": {"train": 320, "validation": 60},
    "versions": {"torch": "9.9", "peft": "8.8"},
}
ATTACK = ("<b>recieve</b>", "<script>alert(1)</script>", f"\u202e\x1b[2J{HOSTILE}")


def with_wrong(count: int) -> list[tuple[str, str, str]]:
    """The same questions for every run, of which so many are answered wrong."""
    right = [(asked, expected, expected) for asked, expected, _ in MISSPELLED[count:]]
    return MISSPELLED[:count] + right


def used(run_id: str) -> str:
    with store.writing() as session:
        _update(session, run_id, used=USED)
    return run_id


def arms() -> list[str]:
    """Three seeds of each of two configs, of which one has a third of the other's errors."""
    return [
        used(fill_run(name=f"rank {rank}", lora__r=rank, training__seed=seed,
                      words=with_wrong(wrong - seed % 2), rows=60))
        for rank, wrong in ((8, 12), (16, 4)) for seed in range(3)
    ]  # fmt: skip


class Elements(HTMLParser):
    """The elements, attributes and visible text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.shown = self.style = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        if self.names[-1:] == ["style"]:
            self.style += data
        else:
            self.shown += data


def written(names: list[str], sweep: str | None = None) -> Elements:
    return Elements(page.page(content.read(names, sweep)))


def test_two_configs_are_told_by_verdict_settings_kinds_words_and_commands():
    ids = arms()
    told = written(ids).shown
    assert "rank 16 spells 13.3 points better than rank 8" in told
    assert "lora.r" in told and "8" in told
    assert "phonetic twin" in told and "Counts are means over the seeds of a config." in told
    # Those on which the two differ stand before those that both have wrong.
    table = told[told.index("Misspelled words") :]
    assert table.index("embarass") < table.index("recieve")
    assert "All 12 words of the validation set" in table
    assert "for seed in 0 1 2; do\n  spelltune launch --preset tiny-spell \\\n" in told
    assert "--set training.seed=$seed\ndone" in told
    assert "fe1d0c" in told and "torch 9.9, peft 8.8" in told and "a processor" in told
    assert all(run_id in told for run_id in ids)


def test_the_shown_command_gives_the_run_again():
    run_id = used(fill_run(name="it's", lora__r=4, training__learning_rate=3e-3))
    told = written([run_id]).shown
    command = re.search(r"spelltune launch .*?(?=\n?All settings)", told, re.DOTALL)
    assert command
    import shlex

    words = shlex.split(command[0].replace("\\\n", " "))
    sets = dict(w.split("=", 1) for before, w in zip(words, words[1:], strict=False)
                if before == "--set")  # fmt: skip
    again = load_config(preset=words[words.index("--preset") + 1], overrides=sets)
    with store.reading() as session:
        assert again.model_dump() == store.find(session, run_id).config


def test_a_fork_is_trained_again_from_its_parent():
    parent = fill_run(name="parent")
    child = fill_run(name="child", lora__alpha=5)
    with store.writing() as session:
        _update(session, child, parent_id=parent, parent_step=300)
    told = written([child]).shown
    assert f"spelltune fork {parent} --from 300" in told
    assert "--set lora.alpha=5" in told and "spelltune launch" not in told
    with store.writing() as session:
        _update(session, child, parent_id="gone", parent_step=300)
    assert "was deleted, so this one cannot be trained again" in written([child]).shown


def test_names_words_and_reasons_are_text_and_the_page_asks_for_nothing():
    first = fill_run(name=HOSTILE, words=[ATTACK, *MISSPELLED])
    failed = fill_run(
        name="x", status=Status.FAILED, steps=20, reason=HOSTILE, training__learning_rate=0.1
    )
    sweep = fill_sweep(TINY, trials=3, states={1: (Status.FAILED, HOSTILE)})
    for names, of in (([first], None), ([failed], None), ([first, failed], None), ([], sweep)):
        found = written(names, of)
        assert HOSTILE in found.shown
        assert not {"script", "img", "link", "iframe", "object", "a", "b>"} & set(found.names)
        assert not [name for name, _ in found.attributes if name.startswith("on")]
        assert not {"src", "href", "srcset", "data"} & {name for name, _ in found.attributes}
        style = found.style + "".join(value for name, value in found.attributes if name == "style")
        assert style and not re.search(r"url\(|@import|https?:", style)
        assert ("http-equiv", "Content-Security-Policy") in found.attributes
    shown = written([first]).shown
    assert "\u202e" not in shown and "\x1b" not in shown and "\\u202e" in shown


def test_no_path_of_this_machine_is_told(tmp_path: Path):
    data = tmp_path / "mine.csv"
    data.write_text("question,answer\na,b\n")
    run_id = fill_run(name="own", data__path=str(data), data__task="mine")
    told = written([run_id]).shown
    assert "Name your copy of mine.csv in data.path" in told
    assert str(tmp_path) not in told


def test_a_run_that_never_trained_is_told():
    run_id = fill_run(status=Status.FAILED, steps=0, curves=False, reason="no such base model")
    with store.writing() as session:
        _update(session, run_id, used={})
    told = written([run_id]).shown
    for text in ("no such base model", "No run has reported a point yet.",
                 "No words have been scored yet.", "nothing is known of its data"):  # fmt: skip
        assert text in told
    assert "No trial has a score." in written([], fill_sweep(TINY, trials=0)).shown


def test_a_sweep_is_told_by_its_winner_its_settings_and_its_file():
    sweep = fill_sweep(TINY, trials=12)
    found = written([], sweep)
    told = found.shown
    for text in ("Best: rank 8, learning rate ", "Ranked settings", "12 of 24",
                 "2 more settings scored less.",
                 "training.learning_rate", "spelltune sweep launch tiny.yaml",
                 f"spelltune sweep show {sweep}", "Importance of the settings"):  # fmt: skip
        assert text in told, text
    assert found.names.count("svg") >= 5


def test_a_figure_is_drawn_where_its_points_are():
    import pandas as pd

    frame = pd.DataFrame({"step": [0, 10, 20, 30], "value": [1.0, float("nan"), 0.0, 0.5], "at": 0})
    run_id = fill_run(steps=30, training__max_steps=30)
    with store.reading() as session:
        run = store.find(session, run_id)
    figure = curves.figure(charts.CHARTS[0], {"val/exact_match": frame}, run=run)
    drawn = svg.card("Accuracy", figure)
    (line,) = re.findall(r'<path d="([^"]+)" style="stroke:var\(--curve-2\)"', drawn)
    points = [tuple(map(float, place.split())) for place in re.split("[ML]", line)[1:]]
    assert line.count("M") == 2 and len(points) == 3  # a gap where there is no value
    (x0, y0), (x2, y2), (x3, y3) = points
    assert (x2 - x0) == pytest.approx(2 * (x3 - x2), abs=0.2)
    assert (y2 - y0) == pytest.approx(2 * (y2 - y3), abs=0.2) and y2 > y0
    assert "accuracy 50.0%" in drawn and 'role="img"' in drawn and ">100%<" in drawn


def test_ticks_are_round_and_few():
    assert svg._ticks(0, 600) == [0, 200, 400, 600]
    assert svg._ticks(0.9228, 0.9276) == [0.923, 0.924, 0.925, 0.926, 0.927]
    assert svg._ticks(0, 1e-5) == pytest.approx([0, 2e-6, 4e-6, 6e-6, 8e-6, 1e-5])


# --- the table ------------------------------------------------------------------------------------

# What LaTeX reads as more than a letter.
CONTROL = set("\\{}$&#%_~^")


def checked(table: str) -> list[list[str]]:
    """The cells of a LaTeX table whose braces, columns and escapes are in order."""
    plain = re.sub(r"(?<!\\)\\[{}$&#%_]", "x", re.sub(r"\\\\", "\n", table))
    assert plain.count("{") == plain.count("}")
    assert re.findall(r"\\begin{(\w+)}", table) == re.findall(r"\\end{(\w+)}", table)[::-1]
    for rule in ("toprule", "midrule", "bottomrule"):
        assert table.count(f"\\{rule}") == 1
    columns = len(re.search(r"\\begin{tabular}{(\w+)}", table)[1])
    body = table.partition("\\toprule")[2].partition("\\bottomrule")[0].replace("\\midrule", "")
    rows = [row for row in body.split("\\\\\n") if row.strip()]
    cells = [re.split(r"(?<!\\)&", row) for row in rows]
    assert {len(row) for row in cells} == {columns}
    for cell in (cell for row in cells for cell in row):
        own = re.sub(r"\\(text\w+|dots){}|\$\\?[\w-]+\$|\\[{}$&#%_]", "", cell)
        assert not CONTROL & set(own), cell
    return [[cell.strip() for cell in row] for row in cells]


def test_the_table_of_configs_has_a_row_for_each():
    table = latex.document(content.read(arms()))
    head, *rows = checked(table)
    assert head == ["config", "rank", "seeds", "accuracy"]
    assert rows == [
        ["rank 8", "8", "3", r"80.6 $\pm$ 1.0"], ["rank 16", "16", "3", r"93.9 $\pm$ 1.0"]
    ]  # fmt: skip
    assert "rank 16 spells 13.3 points better" in table


def test_hostile_text_stays_text_in_the_table():
    name = r"\input{/etc/passwd} $x$ 50% & #1_a^b~c {" + HOSTILE
    one, other = fill_run(name=name), fill_run(name="b & c", lora__r=4)
    assert checked(latex.document(content.read([one, other])))
    assert checked(latex.document(content.read([one])))
    assert latex.escaped("a\nb\u202e") == "a?b?"
    assert checked(latex.document(content.read([], fill_sweep(TINY, trials=4))))


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_page_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    ids = arms()
    answer = cli("report", *ids, "--out", "a.html", "--out", "deep/b.tex", "--json")
    assert answer.exit_code == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert told["runs"] == ids and told["sweep"] is None
    assert [file["path"] for file in told["files"]] == ["a.html", "deep/b.tex"]
    assert Path("a.html").stat().st_size == told["files"][0]["size_bytes"] < 200_000
    assert Path("deep/b.tex").read_text().startswith("% Written by Spelltune")
    sweep = fill_sweep(TINY, trials=2)
    assert cli("report", "--sweep", sweep).exit_code == 0
    assert Path(f"report-{sweep}.html").exists()
    assert cli("report", ids[0]).exit_code == 0 and Path(f"report-{ids[0]}.html").exists()


@pytest.mark.parametrize(("words", "said"), [
    (["nobody"], "no run 'nobody'"), (["--sweep", "nothing"], "no sweep 'nothing'"),
    ([], "name either runs or a sweep"), (["a", "--sweep", "b"], "name either runs or a sweep"),
    (["a", "--out", "report.pdf"], "ends in .html"),
])  # fmt: skip
def test_a_report_that_cannot_be_written_is_a_sentence(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = cli("report", *words)
    assert answer.exit_code == 2 and said in " ".join(answer.stderr.split())
    assert not list(tmp_path.glob("*.html"))
