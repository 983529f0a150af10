"""The Machine page through AppTest."""

from pathlib import Path

from src import paths
from src.config import change_machine, load_machine
from tests.helpers.pages import html, show


def test_without_a_price_the_page_shows_no_money_and_says_how() -> None:
    body = html(show("machine"))
    assert "up for" in body and "USD" not in body and "Say below what an hour" in body


def test_the_price_is_typed_saved_and_shown() -> None:
    page = show("machine")
    for name, text in (("price_per_hour", "2.5"), ("budget", "1000000"), ("currency", "EUR")):
        page.text_input(key=f"machine {name}").set_value(text)
    page.button[0].click().run()
    assert not page.exception
    assert load_machine().price_per_hour == 2.5 and load_machine().currency == "EUR"
    body = html(page)
    assert "EUR" in body and "left of the budget" in body and "Say below" not in body
    page.text_input(key="machine price_per_hour").set_value("cheap")
    page.button[0].click().run()
    assert "price_per_hour: input should be a valid number" in html(page)
    assert load_machine().price_per_hour == 2.5
    assert page.text_input(key="machine price_per_hour").value == "cheap"  # to be mended


def test_a_broken_file_is_a_sentence_and_other_pages_live_without_it(home: Path) -> None:
    change_machine({"price_per_hour": "1"})
    paths.machine_file().write_text("price_per_hour: much")
    body = html(show("machine"))
    assert "machine.yaml: price_per_hour" in body and "up for" in body
