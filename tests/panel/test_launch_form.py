"""The Launch page: each setting's field, the data check, uploads, forks."""

import re

import pydantic
import pytest

from src import files, setting_labels, store
from src.config import (
    RunConfig,
    by_name,
    change_machine,
    get,
    load_config,
    loading,
    parse_override,
    presets,
    settings,
    with_overrides,
)
from src.panel.launch import cards, data_check, form, measure_button, words
from src.runs import attempts, checks, launcher, machine, preset_cards
from src.training.data_files import DataError
from tests.helpers.pages import SEEN, html, settled, show
from tests.helpers.store import fill_run, fill_usage, press_again

# --- monitor --------------------------------------------------------------------------------------


def test_the_form_of_a_fork_names_what_cannot_change(launched, monkeypatch):
    run_id = fill_run(name="parent")
    test = settled(show("launch", **{"from": run_id, "fork": "200", "lora.r": "4"}))
    text = html(test)
    assert "goes on from step 200 of parent · seed 42" in text
    assert f"a fork keeps the shape of its adapter: this must stay as in {run_id}" in text
    assert test.button[0].label == "Fork" and test.button[0].disabled
    forked = []
    monkeypatch.setattr(attempts, "fork", lambda run, config, step: forked.append(step) or run.id)
    test = settled(show("launch", **{"from": run_id, "fork": "200", "training.max_steps": "900"}))
    test.button[0].click().run()
    assert forked == [200] and not launched


# --- the form -------------------------------------------------------------------------------------


def test_every_setting_has_a_widget_with_its_help_and_bounds(launched):
    (listed,) = [
        one.proto.json
        for one in show("launch").get("bidi_component")
        if "ul class" in one.proto.json
    ]
    named = set(re.findall(r'data-choose=\\?"([a-z_0-9.]+)', listed))
    assert named | {*words.first()} == by_name().keys()
    test = show("launch", open=sorted(named))
    keys = {w.key for kind in ("number_input", "text_input", "selectbox", "toggle", "text_area")
            for w in getattr(test, kind)}  # fmt: skip
    for setting in settings():
        assert f"set {setting.name}" in keys
    rank = test.number_input(key="set lora.r")
    assert (
        rank.value == 16 and "At least 1, at most 1,024" in rank.help and "Rank of the" in rank.help
    )


def test_widgets_are_given_the_values_that_they_show(launched):
    """A browser that misses the assignment starts from what the widget is given, and sends it
    back."""
    test = show("launch", **{"lora.r": "8"}, open=[setting.name for setting in settings()])
    for widget in [*test.number_input, *test.text_input, *test.text_area, *test.toggle]:
        if widget.value is not None:
            assert widget.proto.default == widget.value, widget.key
    assert not test.warning


def test_a_change_is_marked_stands_in_the_address_and_is_undone(launched):
    test = show("launch")
    test.number_input(key="set lora.r").set_value(32).run()
    assert test.query_params["lora.r"] == "32"
    assert "was 16" in test.number_input(key="set lora.r").label
    assert '<p class="change">Rank <s>16</s> <b>32</b>' in html(test)
    test.button(key="undo lora.r").click().run()
    assert "lora.r" not in test.query_params
    assert test.number_input(key="set lora.r").value == 16


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lora.r", "0"),
        ("training.learning_rate", "fast"),
        ("training.max_steps", "10000001"),
        ("data.template", "no place for it"),
        ("data.task", "speling"),
        ("lora.dropout", ""),
        ("lora.r", "many"),
        ("optimizer.name", "adam"),
    ],
)
def test_a_refusal_stands_at_its_field_in_the_words_of_the_command_line(launched, name, text):
    test = show("launch", **{name: text})
    value = text if "data." in name or "name" in name else parse_override(f"{name}={text}")[1]
    with pytest.raises(ValueError) as refused:
        load_config(overrides={name: value})
    field, words_ = next(iter(refused.value.problems.items()))
    shown = [
        e.proto.body for e in test.get("html") if 'class="problem" role="alert"' in e.proto.body
    ]
    assert any(form.escape(words_) in body for body in shown)
    assert f'<p class="change">{setting_labels.label(field)} <s>' in html(test)
    assert test.button[0].label == "Launch" and test.button[0].disabled
    assert not launched


def test_the_check_of_the_data_stands_at_its_field_and_can_be_repeated(launched, home, monkeypatch):
    def refuse(config):
        raise form.ConfigError({"data.path": "words.csv has no column 'answer'"})

    monkeypatch.setattr(checks, "data_preview", refuse)
    file = str(files.keep(b"x", home / "data", "words.csv"))
    test = settled(show("launch", **{"data.path": file}))
    assert "words.csv has no column &#x27;answer&#x27;" in html(test) and test.button[0].disabled
    monkeypatch.setattr(checks, "data_preview", lambda config: SEEN)
    next(b for b in test.button if b.label == "Check again").click().run()
    assert not settled(test).button[0].disabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora.bias", "all"),
        ("lora.target_modules", "q_proj"),
        ("training.precision", "fp16"),
        ("model.load_in_4bit", "true"),
        ("backend", "unsloth"),
        ("early_stopping.metric", "val/bleu"),
        ("early_stopping.criteria", "luck"),
    ],
)
def test_a_setting_that_the_check_refuses_is_refused_after_a_green_check(launched, name, value):
    green = {"engine": "packed"}
    assert not settled(show("launch", **green)).button[0].disabled
    test = settled(show("launch", **green, **{name: value}))
    assert test.button[0].disabled
    assert f'<p class="change">{setting_labels.label(name)} <s>' in html(test)


def test_the_data_are_looked_at_anew_for_each_setting_that_the_look_depends_on(home):
    class Reads:
        """A config that notes which settings are read."""

        def __init__(self, section: pydantic.BaseModel, names: set[str], prefix: str = ""):
            self._section, self._names, self._prefix = section, names, prefix

        def __getattr__(self, name: str):
            value = getattr(self._section, name)
            if isinstance(value, pydantic.BaseModel):
                return Reads(value, self._names, f"{self._prefix}{name}.")
            # `data.source` stands for the settings that it holds.
            read = value if name == "source" else [name]
            self._names.update(self._prefix + one for one in read)
            return value

    names: set[str] = set()
    config = load_config(overrides={"evaluation.suites": ["general"]})
    checks.data_preview(Reads(config, names))
    assert names == checks.previewed()
    looks = {data_check.begun(config)}
    for name in sorted(names):
        numbers = {
            "model.max_length": 20,
            "data.mix": {"correct": 1.0},
            "data.right_words": 0.1,
            "data.length_spread": 0.1,
            "data.score_right_words": False,
            "data.separator": "dash",
            "data.phrasings": 2,
            "data.multi_token_words": True,
            "data.held_out_phrasings": True,
            "evaluation.suites": ["correct"],
            "evaluation.suite_rows": 7,
            "evaluation.suite_seen_rows": True,
        }
        other = numbers.get(name, "correct" if name == "data.task" else "{question}:")
        changed = {name: other}
        if name == "data.system_prompt":
            changed["data.template"] = "chat"  # which alone has one
        looks.add(data_check.begun(with_overrides(config.model_dump(), changed)))
    assert len(looks) == len(names) + 1


def test_the_form_shows_what_the_settings_come_to(launched):
    body = html(settled(show("launch", **{"training.gradient_accumulation_steps": "2"})))
    for text in ("<dd>64</dd>", "<dd>≈ 1,600</dd>", "<dd>5</dd>", "<dd>120</dd>"):
        assert text in body, text  # rows and tokens a step, steps per epoch, epochs
    assert "3 words are in both train and test" in body and "2 duplicate rows" in body
    assert "<span>:⏎</span>" in body


def test_launch_makes_a_row_and_goes_to_the_monitor(launched):
    test = settled(show("launch", **{"lora.r": "8", "name": "my run"}))
    test.button[0].click().run()
    assert len(launched) == 1
    assert test.session_state["go to"] == f"monitor?run={launched[0]}"
    with store.reading() as session:
        run = store.find(session, launched[0])
    assert (
        run.name == "my run" and run.config["lora"]["r"] == 8 and run.config["lora"]["alpha"] == 32
    )


def test_a_second_press_while_the_first_one_launches_makes_no_second_row(launched, monkeypatch):
    launch = launcher.launch

    def slow(config):
        run_id = launch(config)
        press_again()
        return run_id

    monkeypatch.setattr(launcher, "launch", slow)
    settled(show("launch")).button[0].click().run()
    assert len(launched) == 1


def test_launch_again_with_edits_starts_from_the_settings_of_a_run(launched):
    run_id = fill_run("tiny-correct", lora__r=48, name="first")
    test = show("launch", **{"from": run_id})
    assert test.number_input(key="set lora.r").value == 48
    assert test.text_input(key="set name").value == "first"
    assert "data.task" not in test.query_params
    assert "no run" in html(show("launch", **{"from": "nothing"}))


def test_a_preset_is_chosen_and_edits_stay(launched):
    test = show("launch", preset="tiny-correct", **{"lora.r": "8"})
    assert test.number_input(key="set lora.r").value == 8
    steps = load_config(preset="tiny-correct").training.max_steps
    assert test.number_input(key="set training.max_steps").value == steps


@pytest.mark.parametrize("preset", ["tiny-spell", "gpt2"])
def test_copy_as_command_gives_the_same_config(preset):
    import shlex

    overrides = {
        "name": "a b'c",
        "lora.target_modules": ["c_attn", "x"],
        "data.template": "{question}=\n>",
        "training.learning_rate": 3e-5,
        "tracking.tags": ["1", "true"],
    }
    given = load_config(preset="tiny-spell", overrides=overrides)
    words_ = shlex.split(form.as_command(given, preset).replace("\\\n", " "))
    assert words_[:4] == ["spelltune", "launch", "--preset", preset]
    changes = dict(parse_override(w) for w in words_[5::2])
    assert load_config(preset=preset, overrides=changes) == given


def test_every_value_survives_its_text():
    given = load_config(preset="tiny-spell", overrides={"lora.target_modules": ["a", "b"]})
    for setting in settings():
        value = get(given, setting.name)
        text = form.to_text(setting, value)
        # PyYAML reads 1e-08 as a text, and RunConfig that as a number.
        read = form.from_text(setting, text)
        number = setting.type is float and read is not None
        assert (float(read) if number else read) == value, setting.name


def test_a_new_setting_appears_without_touching_the_page(launched, monkeypatch, request):
    class Wider(RunConfig):
        novelty: int = pydantic.Field(default=3, ge=1)
        """How new it is."""

    monkeypatch.setattr(loading, "RunConfig", Wider)
    monkeypatch.setattr(settings, "__defaults__", (Wider, ""))
    monkeypatch.setattr(by_name.__wrapped__, "__defaults__", (Wider,))
    by_name.cache_clear()
    request.addfinalizer(by_name.cache_clear)
    widget = show("launch", novelty="0").number_input(key="set novelty")
    assert (widget.label, widget.value) == ("Novelty (was 3)", 0)
    assert "How new it is." in widget.help and "At least 1." in widget.help


# --- uploads --------------------------------------------------------------------------------------


def test_an_upload_is_kept_under_home_whatever_its_name(home):
    kept = [
        files.keep(b"question,answer\n", home / "data", n)
        for n in ("../../etc/x y.csv", "w.csv", "/abs/.csv")
    ]
    assert all(p.parent == home / "data" and p.is_file() for p in kept)
    assert kept[0].name == "x-y.csv"
    other = files.keep(b"question,answer\nother,one\n", home / "data", "w.csv")
    assert other.name == "w-2.csv" and kept[1].read_bytes() == b"question,answer\n"
    assert files.keep(b"question,answer\n", home / "data", "w.csv") == kept[1]


@pytest.fixture
def uploaded(launched, home):
    """The Launch page once a file has been uploaded there."""

    def upload(name: str, content: str):
        test = show("launch")
        test.file_uploader(key="upload").set_value((name, content.encode(), "text/plain")).run()
        assert not test.exception
        return test

    return upload


def test_an_upload_that_a_run_can_read_is_its_data(uploaded, home):
    test = uploaded("mine.csv", "question,answer\na,b\n")
    assert test.query_params["data.path"] == str(home / "data" / "mine.csv")
    assert "1 row with questions and answers." in html(test)
    assert ">a</td>" in html(test)


def test_an_upload_takes_the_place_of_a_mixture_or_a_data_set_of_the_hub(launched, home):
    older = fill_run(name="mixed", data__mix={"spell_out": 0.5, "count": 0.5})
    for address in ({"data.mix": "spell_out: 0.5, count: 0.5"}, {"data.hub_id": "some/words"},
                    {"from": older}):  # fmt: skip
        test = show("launch", **address)
        content = b"question,answer\na,b\nc,d\ne,f\n"
        test.file_uploader(key="upload").set_value(("own.csv", content, "text/csv")).run()
        assert not test.exception and "set one of them" not in html(test)
        assert test.query_params["data.path"] == str(home / "data" / "own.csv")
        texts = test.query_params
        assert texts.get("data.mix", "") == "" and "data.hub_id" not in texts
        assert test.button[0].label == "Launch" and not settled(test).button[0].disabled
        assert test.selectbox(key="set data.task").value == "spell_out"


def test_a_file_that_is_taken_back_is_no_data_any_more(uploaded):
    test = uploaded("mine.csv", "question,answer\na,b\n")
    test.file_uploader(key="upload").set_value(None).run()
    assert "data.path" not in test.query_params and "with questions" not in html(test)


def test_a_mixture_stands_in_the_place_of_the_task(launched):
    test = show("launch", **{"data.mix": "spell_out: 0.5, count: 0.5"})
    (task,) = [box for box in test.selectbox if box.label == "Task"]
    assert task.disabled and task.value == "spell_out: 0.5, count: 0.5"


def test_sizes_of_a_mixture_are_no_warnings_and_small_ones_are(launched, monkeypatch):
    parts = {"count": {"train": 20, "validation": 5, "test": 5}}
    few = {"rows": {"train": 20, "validation": 5, "test": 5}, "rows_by_task": parts}
    monkeypatch.setattr(checks, "data_preview", lambda config: SEEN | few)
    test = settled(show("launch", **{"data.mix": "count: 1", "training.learning_rate": "9"}))
    drawn = html(test)
    assert '<p class="quiet">Rows of count: 20 train, 5 validation, 5 test.</p>' in drawn
    notes = [e.proto.body for e in test.get("html") if 'class="fold note"' in e.proto.body]
    assert sum("A step takes 32 rows, and there are only 20" in note for note in notes) == 1
    assert sum("scores only 5 rows" in note for note in notes) == 1
    assert sum("it is 3,000 times" in note for note in notes) == 1
    (told,) = [e.proto.body for e in test.get("html") if 'class="at-button' in e.proto.body]
    assert "<b>3 warnings:</b>" in told and 'data-to="st-key-set-training-learning_rate"' in told
    assert "Rank" not in told
    assert not test.button[0].disabled


def test_an_upload_of_another_format_is_imported(uploaded, home):
    test = uploaded("list.txt", "recieve->receive\nhist->his, heist\n")
    path = home / "data" / "list.jsonl"
    assert test.query_params["data.path"] == str(path)
    assert "receive" in path.read_text() and "heist" not in path.read_text()
    assert "1 row, read as arrow." in html(test) and "several corrections" in html(test)


def test_the_columns_of_an_upload_are_asked_for(uploaded, home):
    test = uploaded("eigen.csv", "Wort;Buchstaben\nKatze;K a t z e\n")
    assert "data.path" not in test.query_params
    assert test.selectbox(key="upload question").options == ["Wort", "Buchstaben"]
    button = next(b for b in test.button if b.label == "Use these columns")
    button.click().run()
    path = home / "data" / "eigen.jsonl"
    assert test.query_params["data.path"] == str(path) and "K a t z e" in path.read_text()


def test_an_upload_that_cannot_be_read_says_where(uploaded):
    test = uploaded("bad.jsonl", '{"a": 1}\n{"a": }\n')
    assert "bad.jsonl cannot be read: line 2 is not JSON" in html(test)
    assert 'role="alert">bad.jsonl' in html(test)  # not where the server keeps it
    test = uploaded("one.csv", "word\ncat\ndog\n")
    assert "one.csv has one column only (word)" in html(test)


def test_the_columns_are_guessed_and_shown_with_their_rows(uploaded):
    test = uploaded("odd.csv", "id,Wrong form,Right form (UK),source\n1,ca&t,cat,x\n2,odg,dog,x\n")
    assert test.selectbox(key="upload question").value == "Wrong form"
    assert test.selectbox(key="upload answer").value == "Right form (UK)"
    assert "ca&amp;t" in html(test)
    test.selectbox(key="upload answer").set_value("Wrong form").run()
    assert "the same column; choose two" in html(test)
    test = uploaded("plain.csv", "nr;Wort;Laenge\n1;Katze;5\n2;Hund;4\n")
    assert test.selectbox(key="upload question").value == "Wort"
    assert test.selectbox(key="upload answer").value == "Laenge"


# --- the server -----------------------------------------------------------------------------------


def test_the_data_error_of_a_missing_column_is_what_the_form_shows(home):
    """The sentence that the page shows is the loader's own."""
    from src.training.data_loaders import load_splits

    path = files.keep(b"question,anser\na,b\n", home / "data", "words.csv")
    with pytest.raises(DataError, match="no column 'answer'.*anser"):
        load_splits(task="mine", path=str(path))


# --- the cards of the presets ---------------------------------------------------------------------


def test_each_preset_has_a_card_and_none_without_one(home):
    assert set(preset_cards.cards()) == set(presets())


def test_a_card_tells_what_runs_of_its_preset_came_to_here(home):
    cards = preset_cards.cards()

    def told(name):
        with store.reading() as session:
            return preset_cards.expected(session, cards)[name]

    shipped = told("tiny-spell")
    assert (shipped.score, shipped.score_by) == (0.96, "on two CPU cores")
    assert shipped.time == "2 min 1 s on two CPU cores"
    assert told("gpt2") == preset_cards.Expected(None, "", None)
    fill_run(name="another name", training__seed=7)
    fill_run(lora__r=4)  # of another config
    one = told("tiny-spell")
    assert one.score_by == "1 run here" and one.score != 0.96
    fill_run(training__seed=8)
    assert told("tiny-spell").score_by == "mean of 2 runs here"
    with store.writing() as session:
        for run in store.list_runs(session):
            run.host = machine.host()
    assert told("tiny-spell").time == "≈ 1 min 36 s here"


def test_a_card_says_what_its_score_is_and_names_one_place_once(home):
    def card():
        cards._read.clear()
        drawn = show("launch").get("bidi_component")[0].proto.json
        return re.search(r'data-choose=\\"tiny-spell.*?</button>', drawn)[0]

    assert "96.0%</b> <small>validation accuracy</small>" in card()
    assert card().count("on two CPU cores") == 1
    fill_run()
    assert "validation accuracy" in card() and "<small>1 run here</small>" in card()
    cards._read.clear()


def test_a_preset_for_a_gpu_cannot_be_pressed_without_one(home, monkeypatch):
    def buttons():
        cards._read.clear()
        drawn = show("launch").get("bidi_component")[0].proto.json
        return set(re.findall(r'data-choose=\\"([a-z0-9.-]+)', drawn))

    monkeypatch.setattr(machine, "gpus", dict)
    assert buttons() == {"tiny-spell", "tiny-correct"}
    monkeypatch.setattr(machine, "gpus", lambda: {"0": "NVIDIA H200, 139.8 GiB"})
    assert buttons() == set(presets())
    cards._read.clear()


def test_runs_that_differ_in_their_seed_are_launched_by_one_press(launched, monkeypatch):
    seen = []

    def launch_all(configs):
        seen.extend(configs)
        return [fill_run(training__seed=config.training.seed) for config in configs]

    monkeypatch.setattr(launcher, "launch_all", launch_all)
    test = settled(show("launch", seeds="3", **{"training.seed": "7", "lora.r": "8"}))
    assert "Seeds 7 to 9." in html(test)
    (button,) = [b for b in test.button if b.label == "Launch 3 runs"]
    button.click().run()
    assert [config.training.seed for config in seen] == [7, 8, 9] and not launched
    assert {config.lora.r for config in seen} == {8}
    assert test.session_state["said"] == "3 runs, seeds 7 to 9."
    parent = fill_run(name="parent")
    test = show("launch", seeds="3", **{"from": parent, "fork": "200"})
    assert [b.label for b in test.button if b.label.startswith("Fork")] == ["Fork"]


def test_the_form_says_what_a_run_takes_without_being_asked(launched):
    first = html(show("launch"))
    assert "Estimate: ≈ 2 min 1 s (on two CPU cores).</p>" in first and 'class="claim"' not in first
    double = html(show("launch", seeds="3", **{"training.max_steps": "1200", "lora.r": "8"}))
    assert "Estimate: ≈ 4 min 2 s each (on two CPU cores).</p>" in double
    # Of a run far shorter than the preset's, or of other data, that tells nothing.
    for other in ({"training.max_steps": "20"}, {"data.task": "count_letter"}):
        assert measure_button.UNKNOWN in html(show("launch", **other)), other
    fill_usage(fill_run(name="earlier"))  # 96 s
    change_machine({"price_per_hour": "3", "currency": "EUR"})
    measure_button._seconds.clear()
    assert "≈ 1 min 36 s here, ≈ 0.08 EUR.</p>" in html(show("launch"))
    assert "tells the memory and the longest time" in html(show("launch"))
    longer = {"training.max_steps": "1200", "seeds": "3"}
    assert "≈ 3 min 12 s here, ≈ 0.16 EUR each.</p>" in html(show("launch", **longer))
    # Another batch takes another time, which nothing tells.
    other = {"training.per_device_train_batch_size": "8"}
    assert 'class="claim"' not in html(show("launch", **other))


def test_a_run_to_start_from_is_called_by_its_name_with_what_it_came_to(launched):
    run_id = fill_run(name="rank4", training__seed=3)
    text = html(show("launch", **{"from": run_id, "lora.r": "8"}))
    assert "Changed from rank4 · seed 3" in text and run_id not in text
    card = cards._of_run(run_id)
    assert "<b>rank4 · seed 3</b><span>The settings of this run.</span>" in card
    assert (
        "95.4%</b> <small>validation accuracy</small>" in card and card.count(run_id) == 1
    )  # small


def test_an_edited_copy_of_a_run_keeps_its_name_and_says_so(launched):
    run_id = fill_run(name="rank16")
    told = "Still that of the run it starts from."
    assert told not in html(show("launch", **{"from": run_id}))
    edited = {"from": run_id, "lora.r": "32"}
    assert told in html(show("launch", **edited))
    assert told not in html(show("launch", **edited, name="rank32"))
    assert told not in html(show("launch", **{"lora.r": "32"}))
    assert told not in html(show("launch", **edited, fork="200"))
