"""The settings of the machine: read, changed and refused."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from src import paths
from src.config import ConfigError, MachineSettings, change_machine, load_machine
from src.format import money
from src.runs import cost, machine
from tests.helpers.sweeps import cli


def test_settings_are_written_for_the_owner_alone_and_read_again(home: Path) -> None:
    assert load_machine() == MachineSettings()
    changed = change_machine({"price_per_hour": "2.49", "currency": " EUR ", "budget": "20"})
    assert changed == load_machine() == MachineSettings(
        price_per_hour=2.49, currency="EUR", budget=20
    )  # fmt: skip
    assert stat.S_IMODE(paths.machine_file().stat().st_mode) == 0o600
    assert change_machine({"budget": ""}) == MachineSettings(price_per_hour=2.49, currency="EUR")
    paths.machine_file().write_text("")
    assert load_machine() == MachineSettings()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("prise_per_hour", "3", "prise_per_hour: no such setting of the machine; did you mean"),
        ("xyz", "3", "there are price_per_hour, currency, budget"),
        ("price_per_hour", "cheap", "takes a number"),
        ("price_per_hour", "-1", "must be more than 0; got -1"),
        ("budget", "nan", "number; got 'nan'"),
        ("currency", "", "a code such as EUR"),
        ("currency", "US\x1bD", "a code such as EUR"),
        ("currency", "pounds sterling", "up to 8 characters; got 'pounds sterling'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence_and_nothing_is_written(
    home: Path, name: str, text: str, told: str
) -> None:
    change_machine({"price_per_hour": "1"})
    before = paths.machine_file().read_text()
    with pytest.raises(ConfigError, match="^[^\n]+$") as caught:
        change_machine({name: text})
    assert told in str(caught.value)
    assert paths.machine_file().read_text() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("price: 3", "machine.yaml: price: no such setting; did you mean 'price_per_hour'?"),
        ("price_per_hour: [1]", "machine.yaml: price_per_hour: takes a number"),
        ("- 3", "machine.yaml holds a list"),
        ("price_per_hour: {", "machine.yaml is not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence_that_names_it(
    home: Path, text: str, told: str
) -> None:
    paths.machine_file().write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_machine()
    assert told in str(caught.value)
    with pytest.raises(ConfigError):  # it is not replaced by the one setting that is changed
        change_machine({"currency": "EUR"})
    assert paths.machine_file().read_text() == text


def test_money_is_what_the_hours_since_the_start_cost(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = machine.started_at() + 5 * 3600
    monkeypatch.setattr(cost.time, "time", lambda: now)
    kept = MachineSettings(price_per_hour=2, budget=12)
    assert cost.spent(kept) == pytest.approx(10)
    assert cost.left(kept) == pytest.approx(2) and cost.seconds_left(kept) == pytest.approx(3600)
    over = kept.model_copy(update={"budget": 9.0})
    assert cost.left(over) == pytest.approx(-1) and cost.seconds_left(over) == 0
    assert cost.spent(MachineSettings(budget=12)) is None is cost.left(MachineSettings(budget=12))
    assert cost.left(MachineSettings(price_per_hour=2)) is None


def test_money_is_told_with_its_currency() -> None:
    assert money(2.491, "USD") == "2.49 USD" and money(1234, "€") == "1,234.00 €"
    assert money(0.001, "USD") == "< 0.01 USD" and money(0, "USD") == "0.00 USD"
    assert money(None, "USD") == "–"


def test_the_command_sets_shows_and_refuses(home: Path) -> None:
    def told(*words: str) -> dict[str, Any]:
        return json.loads(cli("machine", *words, "--json").stdout)

    assert told()["left"] is None
    assert told("set", "price_per_hour", "3")["settings"]["price_per_hour"] == 3
    assert told("set", "budget", "1e6")["settings"]["budget"] == 1e6
    shown = told()
    assert shown["spent"] > 0 and shown["left"] == pytest.approx(1e6 - shown["spent"], abs=1)
    assert "enough for" in cli("machine").stdout
    assert told("set", "budget", "null")["left"] is None
    for name, value in (("price_per_hour", "-1"), ("cost", "3")):
        refused = cli("machine", "set", name, value)
        assert refused.exit_code == 2 and f"error: {name}" in refused.stderr
