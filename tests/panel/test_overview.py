"""The Overview page through AppTest, on stores that the tests fill."""

from src.store.tables import Status
from tests.helpers.pages import html, show
from tests.helpers.store import (
    HOSTILE,
    fill_run,
)


def test_an_empty_overview_says_what_to_do_first():
    assert "Launch the first run" in html(show("overview"))


def test_the_overview_lists_every_status_and_why_a_run_failed():
    for status in Status:
        fill_run(status=status, steps=50, name=f"run {status}", reason=f"because {status}")
    body = html(show("overview"))
    for status in Status:
        assert f"run {status}" in body and f'class="badge {status.lower()}"' in body
    assert "because FAILED" in body and "because COMPLETED" not in body
    assert "1 queued, 1 starting, 1 running, 1 stopping" in body


def test_a_hostile_name_is_text_everywhere():
    run_id = fill_run(name=HOSTILE, reason=HOSTILE, words=[(HOSTILE, HOSTILE, HOSTILE + "x")])
    for page in ("overview", "monitor", "errors"):
        body = html(show(page, run=run_id))
        assert "<img" not in body
        assert "&lt;img" in body
